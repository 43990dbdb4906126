#define _GNU_SOURCE
#include "ft/epoch/sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/copy/pages.h"
#include "ft/common/steps.h"
#include "ft/common/wire.h"
#include "vmm/base/loop.h"

#define DEADLINE	30000000000ull
#define FRAME_FILL	(256u << 10)
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

static int put(struct sync *s, struct stream *st, enum frame_type type, const struct iovec *iov,
	       int n)
{
	size_t len = 0;

	if (cancelled(s))
		return -ECANCELED;
	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	__atomic_fetch_add(&s->bytes, len, __ATOMIC_RELAXED);
	return stream_send(st, type, 0, iov, n, loop_now_ns() + DEADLINE);
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
	if (first && is_zero(buf, len))
		return cancelled(s) ? -ECANCELED : 0;
	return put(s, st, FRAME_DISK, iov, 2);
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

struct ram_out {
	struct sync *s;
	struct stream *st;
	struct squeeze *z;
	uint8_t *enc;
	size_t fill;
	struct mem_hole hole; /* of this pass */
};

static int flush_pages(struct ram_out *o)
{
	struct iovec iov = {o->enc, o->fill};
	int r = o->fill ? put(o->s, o->st, FRAME_PAGES, &iov, 1) : 0;

	o->fill = 0;
	squeeze_look(o->z);
	step_reached(STEP_SYNC_RAM);
	return r;
}

/*
 * The guest and its devices go on writing while this reads: a torn page is fine, its dirty mark
 * brings it again. Word by word, because a racing memcpy() is nothing that C gives a meaning to.
 */
__attribute__((no_sanitize_thread)) static void copy_live_page(uint64_t *to, const uint8_t *page)
{
	const uint64_t *from = (const uint64_t *)page;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static int send_page(struct ram_out *o, uint64_t page, bool skip_zero)
{
	uint64_t copy[MEM_PAGE_SIZE / 8];
	const uint8_t *bytes = (const uint8_t *)copy;

	/* The encoding is chosen from what is sent, not from what changes meanwhile. */
	if (mem_absent(o->s->mem, page, &o->hole))
		memset(copy, 0, sizeof(copy));
	else
		copy_live_page(copy, mem_page(o->s->mem, page));
	if (skip_zero && mem_is_zero_page(bytes))
		return 0;
	__atomic_fetch_add(&o->s->pages, 1, __ATOMIC_RELAXED);
	o->fill += squeeze_encode(o->z, page, bytes, NULL, o->enc + o->fill);
	return o->fill >= FRAME_FILL ? flush_pages(o) : 0;
}

/* Every page that is not zero: the peer's memory is. */
static int first_ram_pass(struct ram_out *o)
{
	struct mem *m = o->s->mem;
	uint64_t off = 0, end;
	int r = 0;

	/* What was discarded until now is zero at the peer, too, or was written again: seen below.
	 */
	for (uint64_t w = 0; w < o->s->dirty->nwords; w++)
		mem_take_discarded(m, w);
	for (; mem_next_data(m, &off, &end) && !r; off = end)
		for (uint64_t at = off; at < end && !r; at += MEM_PAGE_SIZE)
			r = send_page(o, at >> MEM_PAGE_SHIFT, true);
	return r ? r : flush_pages(o);
}

static int dirty_ram_pass(struct ram_out *o, uint64_t *count)
{
	struct dirty *d = o->s->dirty;
	/* Pages that the host wrote stay marked: the first epoch brings them. */
	int r = dirty_get(d, false);

	*count = 0;
	o->hole = (struct mem_hole){0};
	/* Protect first, read after: what the guest writes in between is seen by the next pass. */
	if (!r) {
		memcpy(d->clear, d->bits, d->nwords * sizeof(uint64_t));
		r = dirty_clear(d);
	}
	for (uint64_t w = 0; w < d->nwords && !r; w++)
		for (uint64_t bits = d->bits[w]; bits && !r; bits &= bits - 1) {
			(*count)++;
			r = send_page(o, w * 64 + __builtin_ctzll(bits), false);
		}
	return r ? r : flush_pages(o);
}

static int sync_ram(struct sync *s, struct stream *st, struct squeeze *z)
{
	struct ram_out o = {s, st, z, malloc(FRAME_FILL + PAGE_ENTRY_MAX), 0, {0}};
	uint64_t count = UINT64_MAX;
	int r = o.enc ? first_ram_pass(&o) : -ENOMEM;

	for (int pass = 0; pass < MAX_PASSES && count > RAM_SMALL_PAGES && !r; pass++)
		r = dirty_ram_pass(&o, &count);
	free(o.enc);
	return r;
}

int sync_run(struct sync *s, struct stream *st, struct squeeze *z)
{
	int r;

	step_reached(STEP_SYNC_BEGIN);
	r = sync_disks(s, st);
	if (!r)
		r = sync_ram(s, st, z);
	step_reached(STEP_SYNC_END);
	return r;
}
