#define _GNU_SOURCE
#include "ft/epoch/sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/copy/ram_pass.h"
#include "ft/common/steps.h"
#include "ft/common/wire.h"
#include "vmm/base/loop.h"

#define DEADLINE	30000000000ull
#define MAX_PASSES	8
#define RAM_SMALL_PAGES 512 /* few enough to be left to the first epoch */
#define DISK_SMALL	16  /* blocks, likewise to the pass with requests logged */

void sync_init(struct sync *s)
{
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
}

void sync_done(struct sync *s)
{
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->cond);
}

void sync_log_is_on(struct sync *s)
{
	pthread_mutex_lock(&s->lock);
	s->log_on = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

void sync_cancel(struct sync *s)
{
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->stop, true, __ATOMIC_RELEASE);
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static bool cancelled(const struct sync *s)
{
	return __atomic_load_n(&s->stop, __ATOMIC_ACQUIRE);
}

/* --- disks ----------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

/* first: nothing was sent for this block before, and the peer has zeros there. */
static int send_block(struct sync *s, struct stream *st, unsigned i, uint64_t off, bool first,
		      uint8_t *buf)
{
	const struct disk *d = &s->disks[i];
	uint32_t len = d->bytes - off < DISKLOG_BLOCK ? d->bytes - off : DISKLOG_BLOCK;
	struct wire_disk w = {.disk = i, .kind = DISK_WRITE, .off = off, .len = len, .data = len};
	struct iovec iov[2] = {{&w, sizeof(w)}, {buf, len}};
	uint32_t have = 0;

	while (have < len) {
		ssize_t n = pread(d->fd, buf + have, len - have, off + have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		have += n;
	}
	step_reached(STEP_SYNC_DISK);
	if (cancelled(s))
		return -ECANCELED;
	if (first && is_zero(buf, len))
		return 0;
	__atomic_fetch_add(&s->bytes, sizeof(w) + len, __ATOMIC_RELAXED);
	return stream_send(st, FRAME_DISK, 0, iov, 2, loop_now_ns() + DEADLINE);
}

/*
 * Everything that is neither a hole nor zeros; the peer starts from an image of zeros. Blocks that
 * are reserved but were never written, as in a mirror, are holes only as long as no one reads them.
 */
static int send_whole_disk(struct sync *s, struct stream *st, unsigned i, uint8_t *buf)
{
	const struct disk *d = &s->disks[i];
	uint64_t off = 0;

	while (off < d->bytes) {
		off_t data = lseek(d->fd, off, SEEK_DATA);
		int r;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data > 0)
			off = (uint64_t)data & ~(uint64_t)(DISKLOG_BLOCK - 1);
		/* Clear the mark first: a write that comes later marks again. */
		disklog_take_block(s->disklog, i, off / DISKLOG_BLOCK);
		r = send_block(s, st, i, off, true, buf);
		if (r)
			return r;
		off += DISKLOG_BLOCK;
	}
	return 0;
}

static int send_marked_blocks(struct sync *s, struct stream *st, unsigned i, uint8_t *buf,
			      uint64_t *count)
{
	uint64_t blocks = (s->disks[i].bytes + DISKLOG_BLOCK - 1) / DISKLOG_BLOCK;

	for (uint64_t b = 0; b < blocks; b++) {
		int r;

		if (!disklog_take_block(s->disklog, i, b))
			continue;
		(*count)++;
		r = send_block(s, st, i, b * DISKLOG_BLOCK, false, buf);
		if (r)
			return r;
	}
	return 0;
}

static int disk_pass(struct sync *s, struct stream *st, bool whole, uint8_t *buf, uint64_t *count)
{
	*count = 0;
	for (unsigned i = 0; i < s->machine->ndevs; i++) {
		int r;

		if (!s->disklog->disks[i])
			continue;
		r = whole ? send_whole_disk(s, st, i, buf)
			  : send_marked_blocks(s, st, i, buf, count);
		if (r)
			return r;
	}
	return 0;
}

/* From now on every change is in the log of the first epoch; what was marked before goes out last.
 */
static int wait_for_log(struct sync *s)
{
	s->ask_log(s->arg);
	pthread_mutex_lock(&s->lock);
	while (!s->log_on && !s->stop)
		pthread_cond_wait(&s->cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return cancelled(s) ? -ECANCELED : 0;
}

static int sync_disks(struct sync *s, struct stream *st)
{
	uint8_t *buf = aligned_alloc(4096, DISKLOG_BLOCK);
	uint64_t left = UINT64_MAX;
	int r;

	if (!buf)
		return -ENOMEM;
	r = disk_pass(s, st, true, buf, &left);
	left = UINT64_MAX;
	for (int pass = 0; pass < MAX_PASSES && left > DISK_SMALL && !r; pass++)
		r = disk_pass(s, st, false, buf, &left);
	if (!r)
		r = wait_for_log(s);
	if (!r)
		r = disk_pass(s, st, false, buf, &left);
	free(buf);
	return r;
}

/* --- memory ---------------------------------------------------------------------------------- */

static int between(void *arg)
{
	step_reached(STEP_SYNC_RAM);
	return cancelled(arg) ? -ECANCELED : 0;
}

static int sync_ram(struct sync *s, struct page_out *out)
{
	const struct ram_pass pass = {s->mem, out, &s->pages, between, s};
	uint64_t count = UINT64_MAX;
	int r;

	out->sent = &s->bytes;
	/* What was discarded until now is zero at the peer, too, or was written again. */
	dirty_forget_host(s->dirty);
	r = ram_pass_all(&pass);
	for (int i = 0; i < MAX_PASSES && count > RAM_SMALL_PAGES && !r; i++)
		r = ram_pass_dirty(&pass, s->dirty, &count);
	return r;
}

int sync_run(struct sync *s, struct page_out *out)
{
	int r;

	step_reached(STEP_SYNC_BEGIN);
	r = sync_disks(s, out->stream);
	if (!r)
		r = sync_ram(s, out);
	step_reached(STEP_SYNC_END);
	return r;
}
