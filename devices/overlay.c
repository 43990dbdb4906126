/* An overlay's requests: where each goes, what waits for room, and the drop. */
#include "devices/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/overlay_int.h"
#include "vmm/base/log.h"

static uint64_t first_block(const struct disk_req *r)
{
	return r->off / OVERLAY_BLOCK;
}

static uint64_t end_block(const struct disk_req *r)
{
	return (r->off + r->len + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK;
}

/* --- waiting ---------------------------------------------------------------------------------- */

void overlay_go_on(struct overlay *ov)
{
	if (ov->waits)
		disk_go_on(ov->disk);
	ov->waits = false;
	if (ov->state != OVERLAY_COLLECT)
		merge_go_on(ov);
}

static bool tell_full(struct loop_work *w)
{
	struct overlay *ov = w->arg;

	log_debug("disk %s: its overlay is full", ov->disk->id);
	if (ov->limits.full)
		ov->limits.full(ov->limits.arg);
	return false;
}

/* Only the merge's progress, or a drop, makes room now. */
static void no_room(struct overlay *ov)
{
	if (ov->state != OVERLAY_COLLECT || ov->full_told || store_is_writing(&ov->store))
		return;
	ov->full_told = true;
	loop_work_add(ov->disk->loop, &ov->full);
}

static bool has_room(struct overlay *ov, const struct disk_req *r)
{
	uint64_t blocks = end_block(r) - first_block(r);
	bool zeros = r->kind != DISK_WRITE;
	uint64_t pages = zeros ? 0 : blocks, nodes = overlay_map_need(&ov->map, blocks, zeros);

	if (store_has_room(ov, pages, nodes))
		return true;
	store_spill(ov);
	no_room(ov);
	return false;
}

/* All of it is in the part of the image that is the guest's already. */
static bool is_merged(const struct overlay *ov, const struct disk_req *r)
{
	return end_block(r) <= ov->merge.cursor;
}

/* A change that the merge comes across would be half in the image. */
static bool can_begin(struct overlay *ov, const struct disk_req *r)
{
	return is_merged(ov, r) || (first_block(r) >= ov->merge.cursor && has_room(ov, r));
}

static bool is_refused(const struct disk_req *r)
{
	return r->kind == DISK_WRITE && r->len > OVERLAY_REQ_MAX;
}

static bool may_begin(void *arg, const struct disk_req *r)
{
	struct overlay *ov = arg;

	if (r->kind == DISK_READ || r->kind == DISK_FLUSH || is_refused(r) ||
	    ov->state == OVERLAY_FAILED || can_begin(ov, r))
		return true;
	ov->waits = true;
	return false;
}

/* --- requests --------------------------------------------------------------------------------- */

static void put(struct overlay *ov, const struct disk_req *r)
{
	const uint8_t *from = r->buf;
	uint64_t at = r->off, end = r->off + r->len;

	while (at < end) {
		uint64_t block = at / OVERLAY_BLOCK, stop = (block + 1) * OVERLAY_BLOCK;
		unsigned bit = at % OVERLAY_BLOCK / OVERLAY_SECTOR, n;

		n = (unsigned)((stop < end ? stop : end) - at) / OVERLAY_SECTOR;
		store_put(ov, block, overlay_map_make(&ov->map, block),
			  (uint8_t)(((1u << n) - 1) << bit), from);
		at += n * OVERLAY_SECTOR;
		from += n * OVERLAY_SECTOR;
	}
	store_spill(ov);
}

/* Sectors of one block. */
static void zero_part(struct overlay *ov, uint64_t off, uint64_t end)
{
	struct overlay_block *b = overlay_map_make(&ov->map, off / OVERLAY_BLOCK);
	unsigned first = off % OVERLAY_BLOCK / OVERLAY_SECTOR,
		 n = (unsigned)(end - off) / OVERLAY_SECTOR;
	uint8_t mask = (uint8_t)(((1u << n) - 1) << first);

	store_forget(ov, b, mask);
	b->zero |= mask;
}

static void release(void *arg, struct overlay_block *b)
{
	store_forget(arg, b, 0xff);
}

static void zero(struct overlay *ov, const struct disk_req *r)
{
	uint64_t off = r->off, end = r->off + r->len, stop;

	stop = (off + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK * OVERLAY_BLOCK;
	if (off < stop)
		zero_part(ov, off, stop < end ? stop : end);
	if (stop >= end)
		return;
	off = stop;
	stop = end / OVERLAY_BLOCK * OVERLAY_BLOCK;
	overlay_map_zero(&ov->map, off / OVERLAY_BLOCK, (stop - off) / OVERLAY_BLOCK, release, ov);
	if (stop < end)
		zero_part(ov, stop, end);
}

/* True: r is the image's. */
static bool change(struct overlay *ov, struct disk_req *r)
{
	if (is_refused(r)) {
		disk_end_later(r, -EINVAL);
		return false;
	}
	if (is_merged(ov, r))
		return true;
	if (ov->state == OVERLAY_FAILED && !can_begin(ov, r)) {
		disk_end_later(r, ov->merge.error);
		return false;
	}
	ov->writes += r->kind == DISK_WRITE;
	if (r->kind == DISK_WRITE)
		put(ov, r);
	else
		zero(ov, r);
	disk_end_later(r, 0);
	return false;
}

bool overlay_has(struct overlay *ov, uint64_t off)
{
	const struct overlay_block *b = overlay_find(ov, off / OVERLAY_BLOCK);

	return b && (b->mem | b->spill) >> off % OVERLAY_BLOCK / OVERLAY_SECTOR & 1;
}

static void on_fetched(struct loop_op *op, int res);

/* As overlay_fetch(): 1 when it is not over. */
static int read_on(struct overlay *ov, struct disk_req *r)
{
	int res;

	r->io = (struct loop_op){.fn = on_fetched, .arg = r};
	res = overlay_fetch(ov, r->off, r->len, r->buf, &r->pos, &r->io);
	if (!res && ov->state == OVERLAY_COLLECT && ov->limits.own &&
	    overlay_count(ov, r->off, r->len))
		ov->limits.own(ov->limits.arg, ov, r);
	return res;
}

static void on_fetched(struct loop_op *op, int res)
{
	struct disk_req *r = op->arg;

	res = overlay_fetched(&r->pos, res);
	if (!res && !r->canceled)
		res = read_on(r->disk->layer->arg, r);
	if (res <= 0)
		disk_end(r, res);
}

/* True: the image is to give what is not here. */
static bool read_here(struct overlay *ov, struct disk_req *r)
{
	uint32_t n = overlay_count(ov, r->off, r->len);
	int res;

	ov->reads += n > 0;
	ov->sectors += n;
	if (n < r->len / OVERLAY_SECTOR)
		return true;
	res = read_on(ov, r);
	if (res <= 0)
		disk_end_later(r, res);
	return false;
}

static bool flush(struct overlay *ov, struct disk_req *r)
{
	switch (ov->state) {
	case OVERLAY_COLLECT:
		disk_end_later(r, 0);
		return false;
	case OVERLAY_MERGE:
		merge_wait(ov, r);
		return false;
	case OVERLAY_FAILED:
		disk_end_later(r, ov->merge.error);
		return false;
	default:
		return true;
	}
}

static bool begin(void *arg, struct disk_req *r)
{
	if (r->kind == DISK_READ)
		return !read_here(arg, r);
	if (r->kind == DISK_FLUSH)
		return !flush(arg, r);
	return !change(arg, r);
}

/* The image gave its part of a read: what is here goes on top. */
static bool more(void *arg, struct disk_req *r, int res)
{
	if (r->kind != DISK_READ || res < 0)
		return false;
	r->pos = 0;
	res = read_on(arg, r);
	if (res <= 0)
		disk_end(r, res);
	return true;
}

static void ended(void *arg)
{
	struct overlay *ov = arg;

	if (ov->state == OVERLAY_MERGE)
		merge_go_on(ov);
}

/* --- all of it -------------------------------------------------------------------------------- */

static int check(const struct disk *d, const struct overlay_limits *l, struct err *e)
{
	if (d->inflight || d->layer)
		return err_set(e, -EBUSY, "disk %s: in use, or it has an overlay", d->id);
	if (l->mem_bytes < OVERLAY_MEM_MIN || l->mem_bytes > OVERLAY_MEM_MAX)
		return err_set(
			e, -EINVAL, "disk %s: an overlay of %llu bytes of memory; %llu to %llu",
			d->id, (unsigned long long)l->mem_bytes,
			(unsigned long long)OVERLAY_MEM_MIN, (unsigned long long)OVERLAY_MEM_MAX);
	if (l->spill_bytes && !l->dir)
		return err_set(e, -EINVAL, "disk %s: no directory for its overlay's file", d->id);
	return 0;
}

static int init(struct overlay *ov, struct err *e)
{
	uint64_t blocks = (ov->disk->bytes + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK,
		 nodes = ov->limits.mem_bytes / sizeof(struct overlay_node);
	int r = store_init(ov, e);

	if (r)
		return r;
	if (overlay_map_init(&ov->map, blocks, (uint32_t)nodes))
		return err_set(e, -ENOMEM, "disk %s: out of memory for its overlay", ov->disk->id);
	ov->limits.dir = NULL;
	ov->full = (struct loop_work){.fn = tell_full, .arg = ov};
	merge_init(ov);
	ov->layer = (struct disk_layer){may_begin, begin, more, ended, ov};
	ov->disk->layer = &ov->layer;
	return 0;
}

struct overlay *overlay_attach(struct disk *d, const struct overlay_limits *limits, struct err *e)
{
	struct overlay *ov;

	if (check(d, limits, e))
		return NULL;
	ov = calloc(1, sizeof(*ov));
	if (!ov) {
		err_set(e, -ENOMEM, "disk %s: out of memory for its overlay", d->id);
		return NULL;
	}
	ov->disk = d;
	ov->limits = *limits;
	if (init(ov, e)) {
		overlay_free(ov);
		return NULL;
	}
	return ov;
}

void overlay_drop(struct overlay *ov)
{
	VMM_BUG_ON(ov->state != OVERLAY_COLLECT);
	overlay_map_reset(&ov->map,
			  (uint32_t)(ov->limits.keep_bytes / 8 / sizeof(struct overlay_node)));
	store_reset(ov);
	ov->waits = ov->full_told = false;
	loop_work_del(ov->disk->loop, &ov->full);
	ov->drops++;
	ov->writes = 0;
	disk_cancel(ov->disk);
}

void overlay_get_stats(const struct overlay *ov, struct overlay_stats *ret)
{
	const struct overlay_store *st = &ov->store;

	*ret = (struct overlay_stats){
		.bytes = store_bytes(ov),
		.blocks = st->pages.used + st->slots.used,
		.spilled = st->slots.used,
		.reads = ov->reads,
		.sectors = ov->sectors,
		.writes = ov->writes,
		.drops = ov->drops,
	};
}

void overlay_free(struct overlay *ov)
{
	bool busy;

	if (!ov)
		return;
	if (ov->disk->layer == &ov->layer)
		ov->disk->layer = NULL;
	loop_work_del(ov->disk->loop, &ov->full);
	busy = store_done(ov);
	busy |= merge_done(ov);
	overlay_map_done(&ov->map);
	/* Stuck media: the kernel has addresses in here. */
	if (!busy)
		free(ov);
}
