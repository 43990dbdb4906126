/* The VM stands: what is left, and the destination runs it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "postcopy/source_do.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_net.h"

#define DRAIN_NS 5000000000ull
#define LAST_NS	 30000000000ull
#define READY_NS 10000000000ull
#define RUNS_NS	 5000000000ull

static void failed(struct source *s, const char *why)
{
	snprintf(s->why, sizeof(s->why), "%s", why);
	source_post(s, SRC_EV_FAILED);
}

static void drained(void *arg, int r)
{
	struct source *s = arg;
	char why[80];

	s->at.drained = loop_now_ns();
	if (!r) {
		source_post(s, SRC_EV_DRAINED);
		return;
	}
	snprintf(why, sizeof(why), "an image was not brought to its medium: %s", strerror(-r));
	failed(s, why);
}

void source_stand(void *arg)
{
	struct source *s = arg;
	struct err e = {0};
	int64_t len;

	s->at.stop = loop_now_ns();
	if (ft_stand(s->ft, s->vm, FT_STAND_SWITCH, NULL, &e)) {
		failed(s, e.msg);
		return;
	}
	len = vm_save(s->vm, s->state, s->state_cap);
	s->at.stopped = loop_now_ns();
	step_reached(STEP_MIG_STOOD);
	if (len < 0) {
		failed(s, "the VM's state is too large: a bug in ftvmm");
		return;
	}
	s->passes.state = s->state;
	s->passes.state_len = (size_t)len;
	source_timer(s, DRAIN_NS);
	images_drain(&s->images, s->vm, s->copies.which, drained, s);
}

void source_send_last(void *arg)
{
	struct source *s = arg;
	struct passes *p = &s->passes;
	struct err e = {0};

	p->last = (struct wire_switch){.mode = p->lazy ? MIGRATE_POSTCOPY : MIGRATE_PRECOPY,
				       .paused = (s->ft->stands & FT_STAND_USER) != 0};
	/* The guest's time goes on over a pause by the user, too. */
	p->stopped_at_ns = s->vm->run.paused_ns ? s->vm->run.paused_ns : s->at.stop;
	source_timer(s, LAST_NS);
	images_unlock(s->vm, s->copies.which);
	step_reached(STEP_MIG_UNLOCKED);
	if ((p->lazy && source_prepare_serving(s, &e)) || passes_start(p, PASSES_LAST, &e)) {
		failed(s, e.msg);
		return;
	}
	/* Meanwhile; nothing of the guest is on its way any more. */
	if (vm_link(s->vm, false, &e))
		log_warn("%s", e.msg);
}

void source_wait_ready(void *arg)
{
	struct source *s = arg;

	s->at.sent = loop_now_ns();
	step_reached(STEP_MIG_SENT);
	source_timer(s, READY_NS);
}

void source_go(void *arg)
{
	struct source *s = arg;

	s->at.ready = loop_now_ns();
	source_no_timers(s);
	source_timer(s, RUNS_NS);
	step_reached(STEP_MIG_GO);
	source_say(s, FRAME_GO, NULL, 0);
	step_reached(STEP_MIG_WENT);
	s->at.go = loop_now_ns();
}

void source_go_early(void *arg)
{
	struct source *s = arg;

	s->at.sent = loop_now_ns();
	step_reached(STEP_MIG_SENT);
	source_go(s);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static void trace(const struct source *s, enum trace_what what, uint64_t from, uint64_t to)
{
	const struct passes_stats *st = &s->passes.stats;

	trace_span(&s->ft->trace,
		   &(struct trace_span){from, to,
					.n = what == TRACE_LAST ? st->last_pages : st->pages,
					.what = what});
}

/* At its end: what has not been reached is left out. */
static void trace_all(const struct source *s)
{
	const struct source_times *at = &s->at;

	trace(s, TRACE_MIGRATION, at->begun, at->ended);
	trace(s, TRACE_CONNECT, at->begun, at->passes);
	trace(s, TRACE_PASSES, at->passes, at->stop);
	trace(s, TRACE_DOWNTIME, at->stop, at->runs);
	trace(s, TRACE_HALT, at->stop, at->stopped);
	trace(s, TRACE_DRAIN, at->stopped, at->drained);
	trace(s, TRACE_LAST, at->drained, at->sent);
	trace(s, TRACE_THERE, at->sent, at->ready);
	trace(s, TRACE_RUN, at->go, at->runs);
	trace(s, TRACE_REST, at->runs, at->ended);
}

void source_log_downtime(const struct source *s)
{
	const struct source_times *at = &s->at;
	const struct passes_stats *st = &s->passes.stats;
	uint64_t there = at->ready - at->sent, known = s->ready.lock_ns + s->ready.load_ns;

	log_info("migrate: downtime %.2f ms: stop %.2f, disks %.2f, last %llu pages %.2f, state "
		 "%.2f, there: images %.2f, load %.2f, link %.2f; run %.2f",
		 ms(at->runs - at->stop), ms(at->stopped - at->stop), ms(at->drained - at->stopped),
		 (unsigned long long)st->last_pages, ms(st->last_ns), ms(st->state_ns),
		 ms(s->ready.lock_ns), ms(s->ready.load_ns), ms(there > known ? there - known : 0),
		 ms(at->runs - at->ready));
}

/* What the guest writes from here on is in the copy only. */
static void log_stale(const struct source *s)
{
	for (unsigned i = 0; i < s->vm->machine.ndevs; i++)
		if (copies_has(s->copies.which, i))
			log_warn("migrate: disk '%s': the image here is of the past from now on: "
				 "the VM goes on with its copy at %s",
				 s->vm->machine.devs[i].id, s->conf.uri);
}

void source_leave(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	s->at.ended = loop_now_ns();
	s->why[0] = 0;
	step_reached(STEP_MIG_KNOWN);
	source_end_serving(s);
	/* Only so that it need not listen any more: it has the VM anyway. */
	stream_send(&s->link, FRAME_GONE, 0, NULL, 0, loop_now_ns() + 100000000ull);
	source_close_link(s);
	if (!s->at.runs) {
		s->at.runs = s->at.ended;
		source_log_downtime(s);
	}
	log_info("migrate: %llu passes, %llu pages in %llu bytes, %llu bytes of disks; then %llu "
		 "pages asked for, %llu pushed, %llu of zeros; %.0f ms in all",
		 (unsigned long long)s->passes.stats.pass,
		 (unsigned long long)s->passes.stats.pages,
		 (unsigned long long)s->passes.stats.bytes,
		 (unsigned long long)s->passes.stats.disk_bytes,
		 (unsigned long long)s->urgent.pages, (unsigned long long)s->push.pages,
		 (unsigned long long)s->push.zero, ms(s->at.ended - s->at.begun));
	trace_all(s);
	log_stale(s);
	ft_set(s->ft, FT_OVER, FT_MIGRATED, s->conf.uri);
	source_set_result(s, SOURCE_DONE);
	s->ft->on_exit(s->ft->arg, 3);
}
