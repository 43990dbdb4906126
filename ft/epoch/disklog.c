#include "ft/epoch/disklog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"

#define SWITCH_POLL_NS 500000ull

static unsigned index_of(const struct disklog *dl, const struct disk *d)
{
	unsigned i = 0;

	while (dl->disks[i] != d)
		i++;
	return i;
}

static void hold_all(struct disklog *dl, bool hold)
{
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (dl->disks[i])
			disk_hold(dl->disks[i], hold);
}

static void mark(struct disklog *dl, const struct disk *d, const struct disk_req *r)
{
	unsigned i = index_of(dl, d);

	if (r->kind == DISK_FLUSH)
		return;
	if (dl->mode == DISKLOG_BITMAP)
		block_map_mark(&dl->maps[i], r->off, r->len);
	if (dl->lacks)
		block_map_mark(&dl->lacks[i], r->off, r->len);
}

/* Until free_turn(), as disks wait for that. */
static void look_whether_full(struct disklog *dl)
{
	if (dl->full || dl->bytes <= dl->limit_bytes)
		return;
	dl->full = true;
	if (dl->filled)
		dl->filled(dl->wrote_arg);
}

static void put(void *arg, const struct disk *d, const struct wire_disk *w, const void *data)
{
	struct disklog *dl = arg;
	struct wire_disk wire = *w;
	uint64_t had = dl->open.bytes;

	wire.disk = index_of(dl, d);
#ifdef BUG_DISK_ORDER /* planted: later writes are applied first */
	struct disk_writes before = dl->open;

	memset(&dl->open, 0, sizeof(dl->open));
#endif
	if (disk_writes_add(&dl->open, &wire, data))
		dl->failed = true;
#ifdef BUG_DISK_ORDER
	disk_writes_move(&dl->open, &before);
#endif
	dl->bytes += dl->open.bytes - had;
	look_whether_full(dl);
}

static bool has_room(void *arg)
{
	return !((struct disklog *)arg)->full;
}

/* Until the next sync. */
static void unknown(void *arg, const struct disk *d, const struct disk_req *r)
{
	struct disklog *dl = arg;
	uint32_t bit = 1u << index_of(dl, d);

	if (!(dl->differs & bit))
		log_error("disk %s: what its image has after a failed %s is not known: until the "
			  "next sync the other side's may differ from it",
			  d->id, disk_op_name(r->kind));
	dl->differs |= bit;
}

/* Above the limit no change goes to an image, and the guest waits, until an ack comes. */
static enum disk_verdict on_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	struct disklog *dl = arg;

	if (dl->mode == DISKLOG_LOG && dl->full)
		return DISK_HOLD;
	mark(dl, d, r);
	if (dl->mode == DISKLOG_BITMAP)
		return DISK_GO;
	put(dl, d,
	    &(struct wire_disk){.kind = r->kind,
				.off = r->off,
				.len = r->kind == DISK_FLUSH ? 0 : r->len,
				.data = r->kind == DISK_WRITE ? r->len : 0},
	    r->buf);
	if (dl->wrote)
		dl->wrote(dl->wrote_arg, index_of(dl, d), r);
	return DISK_GO;
}

static bool busy(const struct disklog *dl)
{
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (dl->disks[i] && dl->disks[i]->inflight)
			return true;
	return false;
}

/* Requests that were in flight when the hook was set are known to the disk only: look again. */
static void try_still(struct loop_op *op, int res)
{
	struct disklog *dl = op->arg;

	if (busy(dl)) {
		loop_timer_set(dl->loop, &dl->poll, SWITCH_POLL_NS);
		return;
	}
	dl->still(dl->still_arg);
}

static void on_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	/* Again: the sender may have taken the mark and read the block before the data was there.
	 */
	mark(arg, d, r);
}

/* While syncing the mark does it: the block is read again. Of a flush nobody knows which ones. */
static bool on_failed(void *arg, struct disk *d, struct disk_req *r, int res)
{
	struct disklog *dl = arg;

	return (dl->mode == DISKLOG_LOG || r->kind == DISK_FLUSH) &&
	       amend_begin(&dl->amends, d, r, res);
}

/*
 * Giving so much memory back takes its time. What waited for it goes to the image then, after the
 * last epoch of a stop, too, and the peer's image lacks it. That does no harm: the guest was never
 * told that it is written. To a boot from either image it is what was under way when the power
 * went, and whoever starts makes the other image anew.
 */
static bool free_turn(struct loop_work *w)
{
	struct disklog *dl = w->arg;

	do {
		struct disk_write *one = disk_writes_pop(&dl->spent);

		dl->bytes -= disk_write_bytes(one);
		free(one);
	} while (dl->spent.head && !loop_should_yield(dl->loop));
	if (dl->full && dl->bytes <= dl->limit_bytes / 2) {
		dl->full = false;
		amend_go_on(&dl->amends);
		if (!dl->held)
			hold_all(dl, false);
	}
	return dl->spent.head != NULL;
}

int disklog_start(struct disklog *dl, struct loop *l, const struct machine *m, struct disk *disks,
		  uint64_t limit_bytes, struct err *e)
{
	memset(dl, 0, sizeof(*dl));
	dl->loop = l;
	dl->free_work = (struct loop_work){.fn = free_turn, .arg = dl};
	dl->amends =
		(struct amends){.put = put, .has_room = has_room, .unknown = unknown, .log = dl};
	dl->mode = DISKLOG_BITMAP;
	dl->limit_bytes = limit_bytes;
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (m->devs[i].kind != MDEV_BLK || m->devs[i].ft != DISK_FT_MIRROR)
			continue;
		if (block_map_init(&dl->maps[i], disks[i].bytes)) {
			disklog_stop(dl);
			return err_set(e, -ENOMEM, "disk log: out of memory");
		}
		dl->disks[i] = &disks[i];
		disks[i].hook = (struct disk_hook){on_submit, on_done, dl, on_failed};
	}
	return 0;
}

bool disklog_has_disks(const struct disklog *dl)
{
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (dl->disks[i])
			return true;
	return false;
}

void disklog_stop(struct disklog *dl)
{
	if (!dl->loop)
		return;
	loop_timer_del(dl->loop, &dl->poll);
	dl->full = dl->held = false;
	amend_stop(&dl->amends);
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++) {
		if (dl->disks[i])
			dl->disks[i]->hook = (struct disk_hook){0};
		block_map_done(&dl->maps[i]);
	}
	dl->mode = DISKLOG_OFF;
	loop_work_del(dl->loop, &dl->free_work);
	disk_writes_free(&dl->spent);
	disk_writes_free(&dl->open);
	hold_all(dl, false);
	memset(dl, 0, sizeof(*dl));
}

void disklog_hold(struct disklog *dl, void (*still)(void *arg), void *arg)
{
	dl->still = still;
	dl->still_arg = arg;
	dl->held = true;
	hold_all(dl, true);
	dl->poll = (struct loop_op){.fn = try_still, .arg = dl};
	loop_timer_set(dl->loop, &dl->poll, 0);
}

void disklog_go_on(struct disklog *dl)
{
	if (!dl->held)
		return;
	loop_timer_del(dl->loop, &dl->poll);
	dl->held = false;
	if (!dl->full)
		hold_all(dl, false);
}

static void now_log(void *arg)
{
	struct disklog *dl = arg;

	dl->mode = DISKLOG_LOG;
	dl->switched(dl->arg);
	disklog_go_on(dl);
}

void disklog_switch(struct disklog *dl, void (*switched)(void *arg), void *arg)
{
	dl->switched = switched;
	dl->arg = arg;
	disklog_hold(dl, now_log, dl);
}

int disklog_cut(struct disklog *dl, struct disk_writes *ret)
{
	if (dl->failed)
		return -ENOMEM;
	*ret = dl->open;
	memset(&dl->open, 0, sizeof(dl->open));
	return 0;
}

void disklog_free(struct disklog *dl, struct disk_writes *list)
{
	disk_writes_move(&dl->spent, list);
	if (dl->spent.head)
		loop_work_add(dl->loop, &dl->free_work);
}
