#define _GNU_SOURCE /* SEEK_DATA */
#include "vmm/copy/disk_pass.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/loop.h"
#include "vmm/copy/disk_wire.h"

/* Of zeros, in a frame: while more are looked for the receiver hears nothing. */
#define RUN_MAX (64ull << 20)

/* Zeros that are to be told of are gathered. */
struct walk {
	const struct disk_pass *p;
	uint64_t zero_off, zero_len;
};

bool disk_pass_is_zero(const uint8_t *buf, size_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

int disk_pass_read(int fd, uint8_t *buf, uint64_t off, uint32_t len)
{
	uint32_t have = 0;

	while (have < len) {
		ssize_t n = pread(fd, buf + have, len - have, (off_t)(off + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		have += (uint32_t)n;
	}
	return 0;
}

static int put(const struct disk_pass *p, enum disk_op kind, uint64_t off, uint32_t len)
{
	uint32_t data = kind == DISK_WRITE ? len : 0;
	struct wire_disk w = {.disk = p->index, .kind = kind, .off = off, .len = len, .data = data};
	struct iovec iov[2] = {{&w, sizeof(w)}, {p->buf, data}};

	__atomic_fetch_add(p->bytes, sizeof(w) + data, __ATOMIC_RELAXED);
	return stream_send(p->stream, FRAME_DISK, 0, iov, data ? 2 : 1,
			   loop_now_ns() + p->frame_ns);
}

static void done_with(const struct disk_pass *p, uint64_t bytes)
{
	uint64_t left = p->left ? __atomic_load_n(p->left, __ATOMIC_RELAXED) : 0;

	/* More may be marked meanwhile than was to go. */
	if (left)
		__atomic_store_n(p->left, left > bytes ? left - bytes : 0, __ATOMIC_RELAXED);
}

static int end_zeros(struct walk *w)
{
	uint32_t len = (uint32_t)w->zero_len;

	w->zero_len = 0;
	return len ? put(w->p, DISK_ZERO, w->zero_off, len) : 0;
}

static int add_zeros(struct walk *w, uint64_t off, uint64_t len)
{
	int r = 0;

	while (len && !r) {
		uint64_t n = len < RUN_MAX ? len : RUN_MAX;

		if (w->zero_len && (w->zero_off + w->zero_len != off || w->zero_len + n > RUN_MAX))
			r = end_zeros(w);
		if (!w->zero_len)
			w->zero_off = off;
		w->zero_len += n;
		off += n;
		len -= n;
		if (!r)
			r = w->p->between(w->p->arg);
	}
	return r;
}

/* skip: zeros are not told of. */
static int send_block(struct walk *w, uint64_t off, bool skip)
{
	const struct disk_pass *p = w->p;
	uint64_t left = p->disk->bytes - off;
	uint32_t len = left < BLOCK_MAP_BYTES ? (uint32_t)left : BLOCK_MAP_BYTES;
	int r = disk_pass_read(p->disk->fd, p->buf, off, len);

	if (!r)
		r = p->between(p->arg);
	if (r)
		return r;
	done_with(p, len);
	if (disk_pass_is_zero(p->buf, len))
		return skip ? 0 : add_zeros(w, off, len);
	r = end_zeros(w);
	return r ? r : put(p, DISK_WRITE, off, len);
}

uint64_t disk_pass_data(int fd, uint64_t off, uint64_t bytes)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? bytes : off;
	return (uint64_t)data / BLOCK_MAP_BYTES * BLOCK_MAP_BYTES;
}

int disk_pass_all(const struct disk_pass *p)
{
	uint64_t off = p->from * BLOCK_MAP_BYTES;
	struct walk w = {.p = p};
	int r = 0;

	if (off)
		block_map_mark(p->map, 0, off < p->disk->bytes ? off : p->disk->bytes);
	while (off < p->disk->bytes && !r) {
		uint64_t data = disk_pass_data(p->disk->fd, off, p->disk->bytes);

		/* Marks in a hole stay: what was written after the look at it is not seen here. */
		if (data > off && !p->fresh)
			r = add_zeros(&w, off, data - off);
		done_with(p, data > off ? data - off : 0);
		off = data > off ? data : off;
		if (r || off >= p->disk->bytes)
			break;
		/* Take the mark first: a write that comes later marks again. */
		block_map_take(p->map, off / BLOCK_MAP_BYTES);
		r = send_block(&w, off, p->fresh);
		off += BLOCK_MAP_BYTES;
	}
	return r ? r : end_zeros(&w);
}

int disk_pass_marked(const struct disk_pass *p, uint64_t *ret_count)
{
	struct walk w = {.p = p};
	uint64_t b = p->from;
	int r = 0;

	*ret_count = 0;
	while ((b = block_map_next(p->map, b)) < p->map->nblocks && !r) {
		block_map_take(p->map, b);
		(*ret_count)++;
		r = send_block(&w, b++ * BLOCK_MAP_BYTES, false);
	}
	return r ? r : end_zeros(&w);
}
