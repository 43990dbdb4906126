#include "ft/epoch/engine.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xxhash.h>

#include "ft/common/steps.h"
#include "ft/epoch/follow.h"
#include "net/seqmap.h"

#define TICK_NS 1000000000ull

/* --- what the sender says --------------------------------------------------------------------- */

static void broken(struct engine *g, const char *why)
{
	snprintf(g->why, sizeof(g->why), "%.150s", why);
	g->news(g->arg, ENGINE_BROKEN);
}

static void output_held(void *arg)
{
	struct engine *g = arg;

	g->news(g->arg, ENGINE_HOLDS);
}

/* --- seal ------------------------------------------------------------------------------------- */

/* With --verify: what the peer must have after it applied this epoch. */
static void add_hashes(struct engine *g, struct send_job *j)
{
	j->has_places = g->ft->cfg->verify;
	if (!j->has_places)
		return;
	j->end.ram_hash = mem_hash_places(&g->vm->mem, &j->places);
	j->end.state_hash = XXH3_64bits(j->state, j->state_len);
}

/*
 * Of all that save the state only a seal forgets connections: what this side has then, the other
 * one has too.
 */
static void forget_connections(struct engine *g, uint64_t now_ns)
{
	struct seqmap *seqs = g->vm->devices.env.seqs;

	if (!seqs || !seqs->count || now_ns - g->ticked_ns < TICK_NS)
		return;
	g->ticked_ns = now_ns;
	seqmap_tick(seqs, now_ns);
}

/* All pages are in jobs: what else belongs to the epoch goes into the last one. */
static int finish_job(struct engine *g)
{
	struct send_job *j = g->job;
	uint64_t begun = loop_now_ns();
	int64_t state_len, r = disklog_cut(&g->disklog, &g->sent_log);

	if (r)
		return r;
	forget_connections(g, begun);
	state_len = vm_save(g->vm, j->state, g->send->state_cap);
	if (state_len < 0)
		return state_len;
	j->state_len = state_len;
	j->disklog = g->sent_log;
	j->last = true;
	j->end = (struct wire_end){.pages = g->capture.count,
				   .disk_ops = j->disklog.count,
				   .paused = (g->ft->stands & FT_STAND_USER) != 0,
				   .runs = g->runs,
				   .apart = g->apart};
	g->at.state = loop_now_ns() - begun;
	add_hashes(g, j);
	return 0;
}

static bool next_job(struct engine *g)
{
	if (!g->job)
		g->job = send_get_job(g->send);
	if (!g->job)
		return false;
	g->job->epoch = g->in_flight;
	g->job->first = !g->parts;
	return true;
}

static void push(struct engine *g)
{
	g->parts++;
	send_push(g->send, g->job);
	g->job = NULL;
}

/*
 * VM stopped. 1: the epoch is whole. 0: this turn is over, or staging is used up, and the sender
 * will say when to go on.
 */
static int capture_on(struct engine *g)
{
	bool asked = false;

	for (;;) {
		int r = next_job(g) ? capture_fill(&g->capture, &g->job->batch) : CAPTURE_FULL;

		if (r < 0)
			return r;
		if (r == CAPTURE_ALL) {
			r = finish_job(g);
			return r ? r : 1;
		}
		if (r == CAPTURE_MORE && loop_should_yield(g->ft->loop)) {
			loop_work_add(g->ft->loop, &g->seal_work);
			return 0;
		}
		if (r == CAPTURE_MORE)
			continue;
		if (g->job && g->job->batch.n) {
			g->ft->stats.throttled++;
			push(g);
			asked = false;
		} else if (asked) {
			return 0;
		} else {
			send_want_room(g->send); /* and look once more, as it may have come */
			asked = true;
		}
	}
}

/* What the guest puts out from here on belongs to the next one. */
static void open_next(struct engine *g)
{
	g->in_flight = g->epoch++;
	g->parts = 0;
	if (g->vm->obuf.holding)
		obuf_seal(&g->vm->obuf, g->epoch);
	else
		obuf_hold(&g->vm->obuf, g->epoch);
}

static void note_parts(struct engine *g, uint64_t pause_ns)
{
	struct ft_parts *all = &g->ft->stats.parts;

	all->stop += g->at.stop;
	all->bitmap += g->at.bitmap;
	all->state += g->at.state;
	all->copy += pause_ns - g->at.stop - g->at.bitmap - g->at.state;
}

/* --- what is told of it ----------------------------------------------------------------------- */

static uint64_t trace_part(struct engine *g, enum trace_what what, uint64_t from, uint64_t to)
{
	trace_span(&g->ft->trace, &(struct trace_span){from, to, g->in_flight, g->capture.count,
						       what, g->seal_for});
	return to;
}

static void trace_pause(struct engine *g)
{
	uint64_t at = g->sealed_ns, last = g->resumed_ns - g->at.state;

	trace_part(g, TRACE_PAUSE, at, g->resumed_ns);
	at = trace_part(g, TRACE_STOP, at, at + g->at.stop);
	at = trace_part(g, TRACE_BITMAP, at, at + g->at.bitmap);
	trace_part(g, TRACE_COPY, at, last);
	trace_part(g, TRACE_STATE, last, g->resumed_ns);
}

static void trace_acked(struct engine *g)
{
	uint64_t now = loop_now_ns(), sent = g->send->ending_ns;

	sent = sent < g->resumed_ns ? g->resumed_ns : sent > now ? now : sent;
	trace_part(g, TRACE_EPOCH, g->sealed_ns, now);
	trace_part(g, TRACE_SEND, g->resumed_ns, sent);
	trace_part(g, TRACE_ACK, sent, now);
}

/* The VM goes on, unless somebody else wants it to stand. */
static void sealed(struct engine *g)
{
	uint64_t pause_ns;

	g->state = ENGINE_READY;
	ft_go(g->ft, g->vm, FT_STAND_SEAL);
	g->resumed_ns = loop_now_ns();
	pause_ns = g->resumed_ns - g->sealed_ns;
	ft_note_epoch(g->ft, g->seal_for, pause_ns, g->capture.count);
	note_parts(g, pause_ns);
	trace_pause(g);
	step_reached(STEP_SEAL_RESUMED);
	if (g->follow.state == FOLLOW_LAST)
		follow_feed(g, g->job);
	push(g);
#ifdef BUG_RELEASE_EARLY /* planted: the tests must notice */
	obuf_release(&g->vm->obuf, g->in_flight);
#endif
}

static int go_on(struct engine *g, struct err *e)
{
	int r = capture_on(g);

	if (r)
		step_reached(STEP_SEAL_CAPTURED);
	if (r < 0)
		return err_set(e, r, "epoch %llu: %s", (unsigned long long)g->in_flight,
			       strerror(-r));
	if (r == 1)
		sealed(g);
	return 0;
}

/* That of a follower's first epoch is not over when its state is taken. */
static unsigned reasons(const struct engine *g)
{
	return FT_STAND_SEAL | (g->follow.state == FOLLOW_LAST ? FT_STAND_MOVE : 0);
}

int engine_seal(struct engine *g, struct err *e)
{
	uint64_t now = loop_now_ns();
	int r;

	step_reached(STEP_SEAL_BEGIN);
	g->sealed_ns = now;
	r = ft_stand(g->ft, g->vm, reasons(g), NULL, e);
	if (r)
		return r;
	g->at = (struct ft_parts){.stop = loop_now_ns() - g->sealed_ns};
	step_reached(STEP_SEAL_PAUSED);
	g->state = ENGINE_SEALING;
	open_next(g);
	r = capture_begin(&g->capture);
	g->at.bitmap = loop_now_ns() - g->sealed_ns - g->at.stop;
	return r ? err_set(e, r, "dirty pages: %s", strerror(-r)) : go_on(g, e);
}

static bool seal_turn(struct loop_work *w)
{
	struct engine *g = w->arg;
	struct err e = {0};

	if (g->state == ENGINE_SEALING && go_on(g, &e))
		broken(g, e.msg);
	return false;
}

static void notified(struct loop_op *op, int res)
{
	struct engine *g = op->arg;
	struct err e = {0};
	uint64_t n;

	if (read(g->notify_fd, &n, sizeof(n)) < 0 || g->state == ENGINE_DOWN)
		return;
	follow_notified(g);
	if (g->state == ENGINE_DOWN)
		return;
	if (send_is_broken(g->send)) {
		broken(g, "link broken");
	} else if (g->state == ENGINE_SYNCING &&
		   __atomic_load_n(&g->send->synced, __ATOMIC_ACQUIRE)) {
		g->state = ENGINE_READY;
		g->news(g->arg, ENGINE_SYNCED);
	} else if (g->state == ENGINE_SEALING && go_on(g, &e)) {
		broken(g, e.msg);
	}
}

/* --- ack -------------------------------------------------------------------------------------- */

bool engine_awaits(const struct engine *g, uint64_t epoch)
{
	return g->in_flight && epoch == g->in_flight &&
	       epoch == __atomic_load_n(&g->send->ending, __ATOMIC_ACQUIRE);
}

static uint64_t take(uint64_t *count)
{
	return __atomic_exchange_n(count, 0, __ATOMIC_RELAXED);
}

/* Of this link; those of the next one come on top. */
static void note_sent(struct engine *g)
{
	struct ft_stats *s = &g->ft->stats;

	s->page_bytes += take(&g->send->page_bytes);
	s->send_ns += take(&g->send->busy_ns);
	s->hot_pages += g->capture.sent_hot;
	g->capture.sent_hot = 0;
}

static void note_ack(struct engine *g)
{
	struct ft_stats *s = &g->ft->stats;
	uint64_t ns = loop_now_ns() - g->sealed_ns;

	s->ack_us[(s->nsamples - 1) % FT_SAMPLES] = ns / 1000;
	s->ack_ns += ns;
	note_sent(g);
}

void engine_acked(struct engine *g)
{
	step_reached(STEP_ACK_RECEIVED);
	obuf_release(&g->vm->obuf, g->in_flight);
	step_reached(STEP_RELEASED);
	trace_acked(g);
	g->in_flight = 0;
	disklog_free(&g->disklog, &g->sent_log);
	note_ack(g);
}

/* --- begin and end ---------------------------------------------------------------------------- */

int engine_start(struct engine *g, struct stream *main, uint32_t kept, struct err *e)
{
	struct vm *vm = g->vm;
	const struct config *cfg = g->ft->cfg;
	int r;

	g->state = ENGINE_SYNCING;
	g->epoch = vm->obuf.epoch + 1; /* numbers never repeat in the life of a VM */
	r = capture_init(&g->capture, &vm->kvm, &vm->mem, cfg->staging_bytes, e);
	if (!r)
		r = disklog_start(&g->disklog, g->ft->loop, &vm->machine, vm->devices.disks,
				  cfg->disklog_bytes, e);
	if (!r)
		r = sync_init(g->sync, g->ft->loop, &g->capture.dirty, &g->disklog, e);
	if (r)
		return r;
	g->sync->kept = kept;
	*g->send = (struct send){.stream = main,
				 .capture = &g->capture,
				 .sync = g->sync,
				 .state_cap = vm_state_bound(vm),
				 .notify_fd = g->notify_fd};
	return send_start(g->send, e);
}

void engine_stop(struct engine *g)
{
	if (g->state == ENGINE_DOWN)
		return;
	engine_unfollow(g);
	loop_work_del(g->ft->loop, &g->seal_work);
	/* Order: nothing may keep the sender waiting when it is joined. */
	if (g->send->stream)
		chan_shut(&g->send->stream->chan);
	sync_cancel(g->sync);
	note_sent(g);
	send_stop(g->send);
	sync_done(g->sync);
	capture_done(&g->capture);
	disklog_free(&g->disklog, &g->sent_log);
	disklog_stop(&g->disklog);
	g->state = ENGINE_DOWN;
	g->job = NULL;
	g->in_flight = 0;
	g->ft->stands &= ~(unsigned)FT_STAND_SEAL;
}

int engine_init(struct engine *g, struct ft *ft, struct vm *vm,
		void (*news)(void *arg, enum engine_news what), void *arg, struct err *e)
{
	*g = (struct engine){.ft = ft, .vm = vm, .news = news, .arg = arg};
	g->send = &g->sends[0];
	g->sync = &g->syncs[0];
	g->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->notify_fd < 0)
		return err_sys(e, "eventfd");
	g->notify_op = (struct loop_op){.fn = notified, .arg = g};
	g->seal_work = (struct loop_work){.fn = seal_turn, .arg = g};
	if (loop_poll_add(ft->loop, &g->notify_op, g->notify_fd, POLLIN) < 0)
		return err_set(e, -ENOSPC, "event loop is full");
	obuf_on_held(&vm->obuf, output_held, g);
	return 0;
}

void engine_done(struct engine *g)
{
	if (!g->ft)
		return;
	engine_stop(g);
	obuf_on_held(&g->vm->obuf, NULL, NULL);
	loop_poll_del(g->ft->loop, &g->notify_op);
	if (g->notify_fd >= 0)
		close(g->notify_fd);
	g->ft = NULL;
}
