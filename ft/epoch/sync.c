#define _GNU_SOURCE
#include "ft/epoch/sync.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "ft/common/wire.h"
#include "vmm/base/lock.h"
#include "vmm/copy/ram_pass.h"

#define MAX_PASSES  8
#define PAGES_SMALL 512 /* few enough to be left to the first epoch */
#define DISK_SMALL  16	/* blocks, likewise to the pass with requests logged */

static bool cancelled(const struct sync *s)
{
	return __atomic_load_n(&s->stop, __ATOMIC_ACQUIRE);
}

/* --- disks ----------------------------------------------------------------------------------- */

struct blocks {
	struct sync *s;
	struct page_out *out;
	uint8_t *buf;
	uint64_t count; /* of the last pass */
};

static bool is_zero(const uint8_t *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

static int read_block(const struct disk *d, uint64_t off, uint8_t *buf, uint32_t len)
{
	uint32_t have = 0;

	while (have < len) {
		ssize_t n = pread(d->fd, buf + have, len - have, off + have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		have += n;
	}
	return 0;
}

/* first: nothing was sent for this block before, and the peer has zeros there. */
static int send_block(struct blocks *b, unsigned i, uint64_t off, bool first)
{
	const struct disk *d = b->s->disklog->disks[i];
	uint32_t len = d->bytes - off < DISKLOG_BLOCK ? d->bytes - off : DISKLOG_BLOCK;
	struct wire_disk w = {.disk = i, .kind = DISK_WRITE, .off = off, .len = len, .data = len};
	struct iovec iov[2] = {{&w, sizeof(w)}, {b->buf, len}};
	int r = read_block(d, off, b->buf, len);

	if (r)
		return r;
	step_reached(STEP_SYNC_DISK);
	if (cancelled(b->s))
		return -ECANCELED;
	if (first && is_zero(b->buf, len))
		return 0;
	__atomic_fetch_add(&b->s->bytes, sizeof(w) + len, __ATOMIC_RELAXED);
	return stream_send(b->out->stream, FRAME_DISK, 0, iov, 2, loop_now_ns() + b->out->frame_ns);
}

/*
 * Everything that is neither a hole nor zeros; the peer starts from an image of zeros. Blocks that
 * are reserved but were never written, as in a mirror, are holes only as long as no one reads them.
 */
static int send_whole_disk(struct blocks *b, unsigned i)
{
	const struct disk *d = b->s->disklog->disks[i];
	uint64_t off = 0;

	while (off < d->bytes) {
		off_t data = lseek(d->fd, off, SEEK_DATA);
		int r;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data > 0)
			off = (uint64_t)data & ~(uint64_t)(DISKLOG_BLOCK - 1);
		/* Clear the mark first: a write that comes later marks again. */
		disklog_take_block(b->s->disklog, i, off / DISKLOG_BLOCK);
		r = send_block(b, i, off, true);
		if (r)
			return r;
		off += DISKLOG_BLOCK;
	}
	return 0;
}

static int send_marked_blocks(struct blocks *b, unsigned i)
{
	const struct disk *d = b->s->disklog->disks[i];
	uint64_t n = (d->bytes + DISKLOG_BLOCK - 1) / DISKLOG_BLOCK;

	for (uint64_t block = 0; block < n; block++) {
		int r;

		if (!disklog_take_block(b->s->disklog, i, block))
			continue;
		b->count++;
		r = send_block(b, i, block * DISKLOG_BLOCK, false);
		if (r)
			return r;
	}
	return 0;
}

static int each_disk(struct blocks *b, int (*pass)(struct blocks *b, unsigned i))
{
	int r = 0;

	b->count = 0;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS && !r; i++)
		if (b->s->disklog->disks[i])
			r = pass(b, i);
	return r;
}

/* --- the switch of the disk log ----------------------------------------------------------------
 */

static void log_is_on(void *arg)
{
	struct sync *s = arg;

	pthread_mutex_lock(&s->lock);
	s->log_on = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

/* On the loop. */
static void asked(struct loop_op *op, int res)
{
	struct sync *s = op->arg;

	loop_poll_del(s->loop, &s->switch_op);
	disklog_switch(s->disklog, log_is_on, s);
}

/* From now on every change is in the log of the first epoch. */
static int switch_log(struct sync *s)
{
	uint64_t one = 1;

	if (!disklog_has_disks(s->disklog))
		return 0;
	if (write(s->switch_fd, &one, sizeof(one)) < 0)
		return -errno;
	pthread_mutex_lock(&s->lock);
	while (!s->log_on && !s->stop)
		pthread_cond_wait(&s->cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return cancelled(s) ? -ECANCELED : 0;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int between(void *arg)
{
	step_reached(STEP_SYNC_RAM);
	return cancelled(arg) ? -ECANCELED : 0;
}

/*
 * Disks and memory in turns, as each changes while the other is on its way. The log of the disks
 * grows until the first ack: it is on only for what is left then.
 */
static int run(struct blocks *b, const struct ram_pass *ram)
{
	struct sync *s = b->s;
	uint64_t pages = UINT64_MAX;
	int r = each_disk(b, send_whole_disk);

	/* What was marked until now is read below, or is as zero as the peer's. */
	dirty_forget_host(s->dirty);
	if (!r)
		r = ram_pass_all(ram);
	for (int i = 0; i < MAX_PASSES && !r; i++) {
		r = each_disk(b, send_marked_blocks);
		if (!r)
			r = ram_pass_dirty(ram, s->dirty, &pages);
		if (b->count <= DISK_SMALL && pages <= PAGES_SMALL)
			break;
	}
	if (!r)
		r = switch_log(s);
	return r ? r : each_disk(b, send_marked_blocks);
}

int sync_run(struct sync *s, struct page_out *out)
{
	const struct ram_pass ram = {
		.mem = s->dirty->mem, .out = out, .pages = &s->pages, .between = between, .arg = s};
	struct blocks b = {s, out, aligned_alloc(4096, DISKLOG_BLOCK), 0};
	int r;

	step_reached(STEP_SYNC_BEGIN);
	out->sent = &s->bytes;
	r = b.buf ? run(&b, &ram) : -ENOMEM;
	free(b.buf);
	step_reached(STEP_SYNC_END);
	return r;
}

int sync_init(struct sync *s, struct loop *l, struct dirty *d, struct disklog *dl, struct err *e)
{
	int r;

	s->dirty = d;
	s->disklog = dl;
	s->stop = s->log_on = false;
	s->switch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->switch_fd < 0)
		return err_sys(e, "eventfd");
	s->loop = l;
	lock_init(&s->lock);
	pthread_cond_init(&s->cond, NULL);
	s->switch_op = (struct loop_op){.fn = asked, .arg = s};
	r = loop_poll_add(l, &s->switch_op, s->switch_fd, POLLIN);
	return r ? err_set(e, r, "event loop is full") : 0;
}

void sync_done(struct sync *s)
{
	if (!s->loop)
		return;
	loop_poll_del(s->loop, &s->switch_op);
	close(s->switch_fd);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->cond);
	s->loop = NULL;
}

void sync_cancel(struct sync *s)
{
	if (!s->loop)
		return;
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->stop, true, __ATOMIC_RELEASE);
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}
