/*
 * An overlay becomes part of the image, in one sweep. A run is what a leaf of the map has, or
 * zeros; some are under way at once, each with its range of the disk to itself, and they retire in
 * order. What the guest changes behind the sweep goes to the image, what lies ahead of it to the
 * overlay, so it comes to an end whatever the guest does.
 *
 * A failure turns the sweep back to the run that failed. What later ones have written stays in the
 * overlay, too.
 */
#include "devices/overlay_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"

#define LEAF_BYTES (OVERLAY_FAN * OVERLAY_BLOCK)

static struct merge_run *run_at(struct overlay_merge *m, unsigned i)
{
	return &m->runs[(m->first + i) % MERGE_RUNS];
}

/* --- one run ---------------------------------------------------------------------------------- */

static uint64_t run_off(const struct merge_run *run)
{
	return run->part.first * OVERLAY_BLOCK;
}

static uint32_t run_bytes(const struct merge_run *run)
{
	uint64_t end = (run->part.first + run->part.count) * OVERLAY_BLOCK,
		 disk = run->ov->disk->bytes;

	return (uint32_t)((end < disk ? end : disk) - run_off(run));
}

static void run_over(struct merge_run *run, int res)
{
	run->res = res;
	run->state = RUN_DONE;
	merge_go_on(run->ov);
}

static bool has(const uint8_t *masks, uint32_t pos)
{
	return masks[pos / OVERLAY_BLOCK] >> pos % OVERLAY_BLOCK / OVERLAY_SECTOR & 1;
}

static void write_next(struct merge_run *run);

static void on_written(struct disk_req *r, int res)
{
	struct merge_run *run = r->arg;

	run->pos += r->len;
	if (res < 0)
		run_over(run, res);
	else
		write_next(run);
}

/* The next sectors that go there in one request: data, or zeros. */
static void write_next(struct merge_run *run)
{
	uint32_t len = run_bytes(run), end, pos = run->pos;
	const uint8_t *masks;

	while (pos < len && !has(run->data, pos) && !has(run->zero, pos))
		pos += OVERLAY_SECTOR;
	if (pos == len) {
		run_over(run, 0);
		return;
	}
	masks = has(run->data, pos) ? run->data : run->zero;
	for (end = pos; end < len && has(masks, end);)
		end += OVERLAY_SECTOR;
	run->pos = pos;
	run->io = (struct disk_req){.kind = masks == run->data ? DISK_WRITE : DISK_ZERO,
				    .off = run_off(run) + pos,
				    .len = end - pos,
				    .buf = run->buf + pos,
				    .sparse = true,
				    .done = on_written,
				    .arg = run};
	disk_submit(&run->ov->merge.under, &run->io);
}

static void on_zeroed(struct disk_req *r, int res)
{
	run_over(r->arg, res);
}

static void write_zeros(struct merge_run *run)
{
	/* Not a discard, which a file need not heed: the guest has seen zeros. */
	run->io = (struct disk_req){.kind = DISK_ZERO,
				    .off = run_off(run),
				    .len = run_bytes(run),
				    .sparse = true,
				    .done = on_zeroed,
				    .arg = run};
	disk_submit(&run->ov->merge.under, &run->io);
}

static void on_fetched(struct loop_op *op, int res);

static void fetch(struct merge_run *run)
{
	int r;

	run->op = (struct loop_op){.fn = on_fetched, .arg = run};
	r = overlay_fetch(run->ov, run_off(run), run_bytes(run), run->buf, &run->pos, &run->op);
	if (r > 0)
		return;
	if (r < 0) {
		run_over(run, r);
		return;
	}
	run->pos = 0;
	run->state = RUN_WRITE;
	write_next(run);
}

static void on_fetched(struct loop_op *op, int res)
{
	struct merge_run *run = op->arg;

	res = overlay_fetched(&run->pos, res);
	if (res)
		run_over(run, res);
	else
		fetch(run);
}

/* Nobody else is in its range any more, and nobody comes. */
static void begin(struct merge_run *run)
{
	struct overlay *ov = run->ov;

	if (run->part.zeros) {
		run->state = RUN_WRITE;
		write_zeros(run);
		return;
	}
	for (uint32_t i = 0; i < run->part.count; i++) {
		const struct overlay_block *b = overlay_map_find(&ov->map, run->part.first + i);

		run->data[i] = b->mem | b->spill;
		run->zero[i] = b->zero;
	}
	run->state = RUN_FETCH;
	run->pos = 0;
	fetch(run);
}

/* --- the sweep -------------------------------------------------------------------------------- */

/* Let the sweep come to the next part. False: there is none, or no room for it. */
static bool add_run(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;
	struct merge_run *run = run_at(m, m->count);
	struct overlay_part part;

	if (m->count == MERGE_RUNS || m->error || !overlay_map_next(&ov->map, m->cursor, &part))
		return false;
	if (part.zeros && part.count > MERGE_ZERO_MAX / OVERLAY_BLOCK)
		part.count = MERGE_ZERO_MAX / OVERLAY_BLOCK;
	run->ov = ov;
	run->part = part;
	run->state = RUN_ENTER;
	run->res = 0;
	run->range = (struct disk_req){
		.kind = DISK_WRITE, .off = part.first * OVERLAY_BLOCK, .len = run_bytes(run)};
	disk_enter(ov->disk, &run->range);
	m->cursor = part.first + part.count;
	m->count++;
	return true;
}

static void retire(struct overlay *ov, struct merge_run *run)
{
	struct overlay_merge *m = &ov->merge;

	for (uint32_t i = 0; !run->part.zeros && i < run->part.count; i++)
		store_forget(ov, overlay_map_make(&ov->map, run->part.first + i), 0xff);
	m->at = run->part.first + run->part.count;
	run->state = RUN_FREE;
	disk_leave(ov->disk, &run->range);
	m->first = (m->first + 1) % MERGE_RUNS;
	m->count--;
	ov->waits = true; /* it may be over for whoever waits */
}

static void end_flushes(struct overlay *ov, int res)
{
	struct overlay_merge *m = &ov->merge;
	struct disk_req *r = m->waiting;

	m->waiting = NULL;
	m->waiting_tail = &m->waiting;
	while (r) {
		struct disk_req *next = r->next;

		if (res)
			disk_end_later(r, res);
		else
			disk_below(r);
		r = next;
	}
}

/* Requests that come now fail as the image did, or find what is left here. */
static void fail(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;

	if (m->count)
		m->cursor = run_at(m, 0)->part.first;
	for (; m->count; m->count--) {
		struct merge_run *run = run_at(m, 0);

		run->state = RUN_FREE;
		disk_leave(ov->disk, &run->range);
		m->first = (m->first + 1) % MERGE_RUNS;
	}
	ov->state = OVERLAY_FAILED;
	end_flushes(ov, m->error);
	disk_go_on(ov->disk);
	m->done(m->arg, m->error);
}

static void on_flushed(struct disk_req *r, int res)
{
	struct overlay *ov = r->arg;

	ov->merge.error = res;
	ov->merge.flushed = true;
	merge_go_on(ov);
}

/* All of it is in the image. */
static void flush(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;

	m->at = m->cursor = UINT64_MAX;
	ov->state = OVERLAY_FLUSH;
	m->flushed = false;
	m->flush = (struct disk_req){.kind = DISK_FLUSH, .done = on_flushed, .arg = ov};
	disk_submit(&m->under, &m->flush);
	end_flushes(ov, 0);
	disk_go_on(ov->disk);
}

static void end(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;

	if (!m->flushed)
		return;
	if (m->error) {
		fail(ov);
		return;
	}
	if (store_is_writing(&ov->store))
		return;
	ov->state = OVERLAY_END;
	ov->disk->layer = NULL;
	disk_go_on(ov->disk);
	m->done(m->arg, 0);
}

/* How many are at the kernel, or will be as soon as they are alone. */
static unsigned look_after_runs(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;
	unsigned busy = 0;

	for (unsigned i = 0; i < m->count; i++) {
		struct merge_run *run = run_at(m, i);

		if (run->state == RUN_DONE && run->res && !m->error)
			m->error = run->res;
		if (run->state == RUN_ENTER && m->error)
			run->state = RUN_DONE;
		if (run->state == RUN_ENTER && disk_is_alone(ov->disk, &run->range))
			begin(run);
		busy += run->state != RUN_DONE;
	}
	return busy;
}

static void sweep(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;
	unsigned busy;

	while (m->count && run_at(m, 0)->state == RUN_DONE && !run_at(m, 0)->res && !m->error)
		retire(ov, run_at(m, 0));
	while (add_run(ov))
		ov->waits = true;
	busy = look_after_runs(ov);
	if (ov->waits)
		disk_go_on(ov->disk);
	ov->waits = false;
	if (m->error && !busy)
		fail(ov);
	else if (!m->count && !m->error)
		flush(ov);
}

/* done() may free the overlay. */
static bool turn(struct loop_work *w)
{
	struct overlay *ov = w->arg;

	if (ov->state == OVERLAY_MERGE)
		sweep(ov);
	else if (ov->state == OVERLAY_FLUSH)
		end(ov);
	return false;
}

/* --- from outside ----------------------------------------------------------------------------- */

void merge_go_on(struct overlay *ov)
{
	loop_work_add(ov->disk->loop, &ov->merge.work);
}

void merge_wait(struct overlay *ov, struct disk_req *r)
{
	r->next = NULL;
	*ov->merge.waiting_tail = r;
	ov->merge.waiting_tail = &r->next;
}

void merge_init(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;

	m->waiting_tail = &m->waiting;
	m->work = (struct loop_work){.fn = turn, .arg = ov};
}

static bool no_memory(struct loop_work *w)
{
	struct overlay *ov = w->arg;

	ov->merge.work.fn = turn;
	ov->merge.done(ov->merge.arg, -ENOMEM);
	return false;
}

static int get_buffers(struct overlay_merge *m)
{
	for (unsigned i = 0; i < MERGE_RUNS; i++) {
		if (!m->runs[i].buf)
			m->runs[i].buf = aligned_alloc(4096, LEAF_BYTES);
		if (!m->runs[i].buf)
			return -ENOMEM;
	}
	return 0;
}

void overlay_merge(struct overlay *ov, void (*done)(void *arg, int err), void *arg)
{
	struct overlay_merge *m = &ov->merge;

	VMM_BUG_ON(ov->state != OVERLAY_COLLECT && ov->state != OVERLAY_FAILED);
	m->done = done;
	m->arg = arg;
	m->error = 0;
	if (get_buffers(m)) {
		m->work.fn = no_memory;
		merge_go_on(ov);
		return;
	}
	if (m->under.loop)
		loop_work_del(ov->disk->loop, &m->under.work);
	disk_alias(&m->under, ov->disk);
	loop_work_del(ov->disk->loop, &ov->full);
	ov->state = OVERLAY_MERGE;
	merge_go_on(ov);
}

bool merge_done(struct overlay *ov)
{
	struct overlay_merge *m = &ov->merge;
	bool busy = m->under.inflight;

	loop_work_del(ov->disk->loop, &m->work);
	for (unsigned i = 0; i < m->count; i++) {
		struct merge_run *run = run_at(m, i);

		disk_leave(ov->disk, &run->range);
		busy |= run->state == RUN_FETCH;
		loop_io_abandon(ov->disk->loop, &run->op);
		loop_io_abandon(ov->disk->loop, &run->io.io);
	}
	if (busy)
		loop_io_abandon(ov->disk->loop, &m->flush.io);
	for (unsigned i = 0; i < MERGE_RUNS && !busy; i++)
		free(m->runs[i].buf);
	if (m->under.loop)
		loop_work_del(ov->disk->loop, &m->under.work);
	return busy;
}
