/*
 * The sender's images: all of each, then what the guest has changed since, until that is little.
 * The first block of an image goes when the VM stands: until then there is something at its place
 * that nobody boots (devices/disk.h).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>

#include "ft/common/steps.h"
#include "postcopy/passes.h"
#include "vmm/base/loop.h"
#include "vmm/copy/disk_pass.h"
#include "vmm/copy/disk_wire.h"

#define NS_PER_S   1000000000ull
#define RATE_BYTES (512u << 10) /* less says nothing about how fast it goes, */
#define RATE_GUESS (100u << 20) /* and this, bytes a second, is assumed */
#define ALIVE_NS   5000000000ull
#define FRAME_NS   120000000000ull /* the destination reads no faster than its medium writes */

static void set(uint64_t *stat, uint64_t value)
{
	__atomic_store_n(stat, value, __ATOMIC_RELAXED);
}

static int between_blocks(void *arg)
{
	int r = passes_between(arg);

	step_reached(STEP_MIG_DISK);
	return r;
}

/*
 * The first blocks, once they are marked, are so up to the end: no pass makes them fewer. That is
 * looked at first, as the guest marks meanwhile.
 */
static uint64_t count_marked(const struct passes *p)
{
	uint64_t blocks = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++) {
		const struct block_map *map = &p->copies->maps[i];
		bool waits = p->part == PASSES_LIVE && block_map_next(map, 0) == 0;

		if (copies_has(p->copies->which, i))
			blocks += block_map_count(map) - waits;
	}
	return blocks * BLOCK_MAP_BYTES;
}

/* *sent: bytes of images that this was about. */
static int each(struct passes *p, bool all, uint64_t *sent)
{
	int r = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DEVS && !r; i++) {
		const struct disk_pass dp = {.disk = &p->copies->vm->devices.disks[i],
					     .index = i,
					     .map = &p->copies->maps[i],
					     .stream = p->stream,
					     .frame_ns = FRAME_NS,
					     .buf = p->block,
					     .between = between_blocks,
					     .arg = p,
					     .bytes = &p->stats.disk_bytes,
					     .left = &p->stats.disk_left,
					     .from = p->part == PASSES_LIVE};
		uint64_t count = 0;

		if (copies_has(p->copies->which, i))
			r = all ? disk_pass_all(&dp) : disk_pass_marked(&dp, &count);
		*sent += count * BLOCK_MAP_BYTES;
	}
	return r;
}

/* all: each image whole, of which what is no zeros counts for the rate. */
static int pass(struct passes *p, bool all)
{
	uint64_t begun = loop_now_ns(), waited = p->waited_ns, bytes = p->stats.disk_bytes;
	uint64_t sent = 0, busy;
	int r;

	set(&p->stats.disk_left, all ? p->stats.disk_total : count_marked(p));
	r = each(p, all, &sent);
	busy = loop_now_ns() - begun - (p->waited_ns - waited);
	if (all)
		sent = p->stats.disk_bytes - bytes;
	if (sent >= RATE_BYTES && busy)
		set(&p->stats.disk_rate, (uint64_t)((unsigned __int128)sent * NS_PER_S / busy));
	set(&p->stats.disk_left, count_marked(p));
	return r;
}

int passes_disks_begin(struct passes *p)
{
	uint64_t before = UINT64_MAX;
	int r;

	if (!p->copies->which)
		return 0;
	r = pass(p, true);
	while (!r && p->stats.disk_left < before / 2 && passes_disks_ns(p) > p->conf->downtime_ns) {
		before = p->stats.disk_left;
		r = pass(p, false);
	}
	return r;
}

int passes_disks_go_on(struct passes *p)
{
	return p->copies->which ? pass(p, false) : 0;
}

uint64_t passes_disks_ns(struct passes *p)
{
	uint64_t rate = p->stats.disk_rate ? p->stats.disk_rate : RATE_GUESS;

	if (!p->copies->which)
		return 0;
	set(&p->stats.disk_left, count_marked(p));
	return (uint64_t)((unsigned __int128)p->stats.disk_left * NS_PER_S / rate);
}

/* --- on the medium there ---------------------------------------------------------------------- */

bool passes_written(struct passes *p)
{
	bool asked;

	if (!p->started)
		return false;
	pthread_mutex_lock(&p->lock);
	asked = p->asked;
	p->asked = false;
	p->written |= asked;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	return asked;
}

/* 1: it is; 0: not yet. */
static int wait_written(struct passes *p)
{
	uint64_t until = loop_now_ns() + ALIVE_NS;
	struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S),
			      .tv_nsec = (long)(until % NS_PER_S)};
	int r = 0;

	pthread_mutex_lock(&p->lock);
	while (!p->stop && !p->written && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&p->cond, &p->lock, &ts);
	r = p->stop ? -ECANCELED : p->written;
	pthread_mutex_unlock(&p->lock);
	return r;
}

/* A medium may take minutes: the destination is not to take that for a death. */
int passes_disks_bring(struct passes *p)
{
	struct wire_disk w = {.kind = DISK_FLUSH};
	struct iovec iov = {&w, sizeof(w)};
	int r;

	if (!p->copies->which)
		return 0;
	w.disk = (uint32_t)__builtin_ctz(p->copies->which);
	pthread_mutex_lock(&p->lock);
	p->asked = true;
	p->written = false;
	pthread_mutex_unlock(&p->lock);
	r = stream_send(p->stream, FRAME_DISK, 0, &iov, 1, loop_now_ns() + PASSES_FRAME_NS);
	while (!r) {
		r = wait_written(p);
		if (!r)
			r = stream_send(p->stream, FRAME_PAGES, 0, NULL, 0,
					loop_now_ns() + PASSES_FRAME_NS);
	}
	return r < 0 ? r : 0;
}
