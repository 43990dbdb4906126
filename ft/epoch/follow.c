/*
 * Another peer is brought into step while epochs go on with the one that is: a sender of its own
 * walks what it lacks, which the captures and the disks' hook mark. The rest goes at a seal, with
 * the VM and its disks standing: then it has what the other one has with that epoch, so that bases
 * of deltas and hot pages stay good when it takes the other one's place.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/steps.h"
#include "ft/epoch/follow.h"

static unsigned other(const struct engine *g)
{
	return g->send == &g->sends[0];
}

static void near(void *arg)
{
	struct engine *g = arg;

	g->follow.state = FOLLOW_NEAR;
	step_reached(STEP_MOVE_NEAR);
	g->news(g->arg, ENGINE_NEAR);
}

static int init_blocks(struct engine *g)
{
	int r = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DEVS && !r; i++)
		if (g->disklog.disks[i])
			r = block_map_init(&g->follow.other.blocks[i], g->disklog.disks[i]->bytes);
	return r;
}

int engine_follow_answered(struct engine *g, const struct frame *f, struct err *e)
{
	return sync_answered(&g->syncs[other(g)], f, e);
}

int engine_follow(struct engine *g, struct stream *main, uint32_t kept, struct err *e)
{
	struct follow *f = &g->follow;
	struct send *s = &g->sends[other(g)];
	struct sync *sync = &g->syncs[other(g)];
	int r;

	*f = (struct follow){.state = FOLLOW_PASSES, .other = {.near = near, .arg = g}};
	f->other.lacks = calloc(g->capture.dirty.nwords, sizeof(uint64_t));
	if (!f->other.lacks || init_blocks(g))
		return err_set(e, -ENOMEM, "what the new secondary lacks: out of memory");
	f->begun_bytes = sync->bytes;
	r = sync_init(sync, g->ft->loop, &g->capture.dirty, &g->disklog, e);
	if (r)
		return r;
	sync->other = &f->other;
	sync->kept = kept;
	g->capture.lacks = f->other.lacks;
	g->disklog.lacks = f->other.blocks;
	*s = (struct send){.stream = main,
			   .capture = &g->capture,
			   .sync = sync,
			   .state_cap = g->send->state_cap,
			   .notify_fd = g->notify_fd};
	return send_start(s, e);
}

void engine_follow_last(struct engine *g)
{
	g->follow.state = FOLLOW_LAST;
}

void follow_feed(struct engine *g, const struct send_job *j)
{
	struct send *s = &g->sends[other(g)];
	struct send_job *mine = send_get_job(s);

	if (!mine)
		return; /* broken, and about to be told */
	g->follow.state = FOLLOW_SENDING;
	g->follow.epoch = mine->epoch = j->epoch;
	mine->first = mine->last = true;
	memcpy(mine->state, j->state, j->state_len);
	mine->state_len = j->state_len;
	mine->end = j->end;
	mine->end.pages = mine->end.disk_ops = 0; /* the rest goes before it, as of a first sync */
	send_push(s, mine);
	step_reached(STEP_MOVE_SEALED);
	sync_go_on(&g->syncs[other(g)]);
}

void follow_notified(struct engine *g)
{
	struct send *s = &g->sends[other(g)];

	if (g->follow.state == FOLLOW_OFF)
		return;
	if (send_is_broken(s)) {
		g->news(g->arg, ENGINE_ASTRAY);
	} else if (g->follow.state == FOLLOW_SENDING &&
		   __atomic_load_n(&s->synced, __ATOMIC_ACQUIRE)) {
		g->follow.state = FOLLOW_SENT;
		disklog_go_on(&g->disklog);
		g->news(g->arg, ENGINE_FED);
	}
}

bool engine_follow_awaits(const struct engine *g, uint64_t epoch)
{
	const struct send *s = &g->sends[other(g)];

	return g->follow.state == FOLLOW_SENT && epoch == g->follow.epoch &&
	       epoch == __atomic_load_n(&s->ending, __ATOMIC_ACQUIRE);
}

static void forget(struct engine *g)
{
	g->capture.lacks = NULL;
	g->disklog.lacks = NULL;
	free(g->follow.other.lacks);
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		block_map_done(&g->follow.other.blocks[i]);
	g->follow = (struct follow){0};
}

static void end_sender(struct send *s, struct sync *sync)
{
	if (s->stream)
		chan_shut(&s->stream->chan);
	sync_cancel(sync);
	send_stop(s);
	sync_done(sync);
}

void engine_follow_swap(struct engine *g)
{
	unsigned was = !other(g), is = other(g);

	g->send = &g->sends[is];
	g->sync = &g->syncs[is];
	end_sender(&g->sends[was], &g->syncs[was]);
	forget(g);
}

bool engine_unfollow(struct engine *g)
{
	struct send *s = &g->sends[other(g)];
	bool is_whole;

	if (g->follow.state == FOLLOW_OFF)
		return false;
	/* Shut first: what says later that it is about to send the end of it does not. */
	if (s->stream)
		chan_shut(&s->stream->chan);
	is_whole = __atomic_load_n(&s->ending, __ATOMIC_ACQUIRE) != 0;
	end_sender(s, &g->syncs[other(g)]);
	disklog_go_on(&g->disklog);
	forget(g);
	return is_whole;
}

uint64_t engine_follow_bytes(const struct engine *g)
{
	uint64_t all = __atomic_load_n(&g->syncs[other(g)].bytes, __ATOMIC_RELAXED);

	return g->follow.state == FOLLOW_OFF ? 0 : all - g->follow.begun_bytes;
}
