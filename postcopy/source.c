#define _GNU_SOURCE
#include "postcopy/source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "devices/device.h"
#include "postcopy/source_do.h"
#include "vmm/base/log.h"

#define SAY_NS 1000000000ull

/* --- shared ----------------------------------------------------------------------------------- */

void source_post(struct source *s, enum source_event ev)
{
	fsm_post(&s->fsm, ev);
}

void source_timer(struct source *s, uint64_t delay_ns)
{
	loop_timer_set(s->ft->loop, &s->timer_op, delay_ns);
}

void source_no_timers(struct source *s)
{
	loop_timer_del(s->ft->loop, &s->timer_op);
	loop_timer_del(s->ft->loop, &s->late_op);
}

void source_set_result(struct source *s, enum source_result result)
{
	s->result = result;
	if (result > SOURCE_CANCELLING)
		s->at.ended = loop_now_ns();
	s->news(s->arg);
}

void source_close_link(struct source *s)
{
	struct loop *l = s->ft->loop;

	dial_stop(&s->dial);
	loop_poll_del(l, &s->read_op);
	source_end_serving(s);
	stream_done(&s->link);
	fsm_forget(&s->fsm, SRC_EV_LOST, SRC_EV_MAX - 1);
}

void source_lose(struct source *s, const char *why)
{
	dial_stop(&s->dial);
	loop_poll_del(s->ft->loop, &s->read_op);
	/* A sender that failed at the same link says less. */
	snprintf(s->why, sizeof(s->why), "%s", why);
	source_post(s, SRC_EV_LOST);
}

void source_stray(void *arg)
{
	source_lose(arg, "destination: message out of order");
}

void source_say(struct source *s, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	if (stream_send(&s->link, type, 0, &iov, len ? 1 : 0, loop_now_ns() + SAY_NS))
		source_lose(s, "link broken");
}

/* --- frames from the destination -------------------------------------------------------------- */

static void refused(struct source *s, const struct frame *f)
{
	char text[400];

	stream_text(f, "destination refuses: ", text, sizeof(text));
	source_lose(s, text);
}

static bool take_payload(const struct frame *f, void *to, size_t size)
{
	if (f->length != size)
		return false;
	memcpy(to, f->data, size);
	return true;
}

static void take_frame(struct source *s, const struct frame *f)
{
	bool good = true;
	int have;

	switch (f->type) {
	case FRAME_REFUSE:
		refused(s, f);
		return;
	case FRAME_WELCOME:
		/* To a second link that does not exist yet? */
		if ((s->fsm.state != SRC_OFFERED && s->pair.fd < 0) ||
		    (s->fsm.state == SRC_OFFERED && !source_take_welcome(s, f)))
			source_stray(s);
		else
			source_post(s, SRC_EV_WELCOME);
		return;
	case FRAME_READY:
		good = take_payload(f, &s->ready, sizeof(s->ready));
		break;
	case FRAME_RUNS:
		good = take_payload(f, &s->runs, sizeof(s->runs));
		break;
	case FRAME_HAVE:
		have = source_take_have(s, f);
		good = have >= 0;
		if (good)
			source_post(s, SRC_EV_SOME);
		if (have == 1)
			source_post(s, SRC_EV_HAVE);
		if (good)
			return;
		break;
	case FRAME_DONE:
		if (!passes_written(&s->passes))
			source_stray(s);
		return;
	case FRAME_EOC:
		source_post(s, SRC_EV_EOC);
		return;
	case FRAME_BYE:
		source_post(s, SRC_EV_NEVER);
		return;
	default:
		good = false;
	}
	if (!good)
		source_stray(s);
	else
		source_post(s, f->type == FRAME_READY			  ? SRC_EV_READY
			       : s->passes.lazy && s->fsm.state == SRC_GO ? SRC_EV_LACKS
									  : SRC_EV_RUNS);
}

static bool is_lost(const struct source *s)
{
	return s->link.fd < 0 || !s->read_op.slot;
}

/* Everything that has come, and its end: a word that came before the end counts. */
static void readable(struct loop_op *op, int res)
{
	struct source *s = op->arg;
	struct frame f;
	int r = 0;

	for (int nothing = 0; !is_lost(s) && r >= 0 && nothing < 2; nothing += r == 0) {
		r = stream_recv(&s->link, &f);
		if (r == 1)
			take_frame(s, &f);
	}
	if (r < 0 && !is_lost(s))
		source_lose(s, r == -EBADMSG ? s->link.why
			       : r == -EPIPE ? "destination: connection closed"
					     : strerror(-r));
}

/* --- the way there ---------------------------------------------------------------------------- */

/* Whoever asked is told where, and what is to be there. */
static void unreached(struct source *s, const char *why)
{
	size_t n = strlen(s->conf.uri);
	char text[480];

	/* Most reasons begin with the address, too: it is said once. */
	if (!strncmp(why, s->conf.uri, n) && !strncmp(why + n, ": ", 2))
		why += n + 2;
	snprintf(text, sizeof(text), "%.200s: %.200s; does an ftvmm run --incoming wait there?",
		 s->conf.uri, why);
	source_lose(s, text);
}

static void dialled(void *arg, const struct err *e)
{
	struct source *s = arg;

	if (e)
		unreached(s, e->msg);
	else
		source_post(s, SRC_EV_CONNECTED);
}

void source_dial(struct source *s)
{
	struct err e = {0};

	if (dial_start(&s->dial, s->conf.uri, &e))
		unreached(s, e.msg);
}

void source_open_link(struct source *s, enum frame_type type, const struct iovec *iov, int niov)
{
	uint64_t deadline = loop_now_ns() + SAY_NS;
	struct chan c = dial_take(&s->dial);

	stream_init_on(&s->link, &c, STREAM_MIGRATE, s->session);
	s->read_op = (struct loop_op){.fn = readable, .arg = s};
	if (stream_send_preface(&s->link, deadline) ||
	    stream_send(&s->link, type, 0, iov, niov, deadline) ||
	    loop_poll_add(s->ft->loop, &s->read_op, s->link.fd, POLLIN))
		source_lose(s, "handshake failed");
}

/* --- the sender ------------------------------------------------------------------------------- */

static void sender_ended(struct loop_op *op, int res)
{
	struct source *s = op->arg;
	bool last = s->passes.part == PASSES_LAST;
	uint64_t n;
	int r;

	if (read(s->passes.notify_fd, &n, sizeof(n)) != sizeof(n) || !passes_running(&s->passes))
		return;
	r = passes_join(&s->passes);
	if (s->fsm.state == SRC_QUIT || s->fsm.state == SRC_HALT) {
		source_post(s, SRC_EV_ENDED);
		return;
	}
	if (r)
		snprintf(s->why, sizeof(s->why), "%s", s->passes.err.msg);
	source_post(s, r ? SRC_EV_FAILED : last ? SRC_EV_SENT : SRC_EV_CONVERGED);
}

void source_end_sender(struct source *s)
{
	if (!passes_running(&s->passes))
		return;
	passes_stop(&s->passes);
	chan_shut(&s->link.chan);
	passes_join(&s->passes);
	device_drain(s->passes.notify_fd); /* its end is known */
}

/* --- interface -------------------------------------------------------------------------------- */

static void timer(struct loop_op *op, int res)
{
	source_post(op->arg, SRC_EV_TIMER);
}

static void late(struct loop_op *op, int res)
{
	source_post(op->arg, SRC_EV_LATE);
}

void source_init(struct source *s, struct ft *ft, struct vm *vm, void (*news)(void *arg), void *arg)
{
	memset(s, 0, sizeof(*s));
	s->ft = ft;
	s->vm = vm;
	s->news = news;
	s->arg = arg;
	s->dial = (struct dial){.loop = ft->loop,
				.tls = ft->tls,
				.us = TLS_SOURCE,
				.done = dialled,
				.arg = s,
				.fd = -1};
	s->link.fd = s->pair.fd = s->passes.notify_fd = s->serve_fd = -1;
	s->timer_op = (struct loop_op){.fn = timer, .arg = s};
	s->late_op = (struct loop_op){.fn = late, .arg = s};
	fsm_init(&s->fsm, &source_desc, s, SRC_IDLE);
}

bool source_busy(const struct source *s)
{
	return s->ft && s->fsm.state != SRC_IDLE && s->fsm.state != SRC_LEFT;
}

bool source_stands(const struct source *s)
{
	return s->ft && (s->ft->stands & FT_STAND_SWITCH || s->fsm.state == SRC_LEFT);
}

/* Not one for which this process was given no key. */
static int check_key(const struct source *s, const char *text, struct err *e)
{
	struct chan_uri uri;
	int r = chan_parse(text, &uri, e);

	return r ? r : tls_check(s->ft->tls, &uri, e);
}

static int prepare(struct source *s, struct err *e)
{
	if (s->passes.notify_fd < 0) {
		s->passes.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (s->passes.notify_fd < 0)
			return err_sys(e, "eventfd");
		s->sender_op = (struct loop_op){.fn = sender_ended, .arg = s};
		if (loop_poll_add(s->ft->loop, &s->sender_op, s->passes.notify_fd, POLLIN))
			return err_set(e, -ENOSPC, "event loop is full");
	}
	free(s->state);
	s->state_cap = vm_state_bound(s->vm);
	s->state = malloc(s->state_cap);
	return s->state ? 0 : err_set(e, -ENOMEM, "migrate: out of memory");
}

int source_start(struct source *s, const struct migrate_conf *conf, struct err *e)
{
	int r;

	if (source_busy(s))
		return err_set(e, -EBUSY,
			       "migrate: one to %s is under way; see ftvmm status, or "
			       "give it up: --cancel",
			       s->conf.uri);
	/* One that boots again does so wherever it is. */
	if (s->vm->ending.end != VM_END_NONE && !vm_end_is_reset(s->vm))
		return err_set(e, -EBUSY, "migrate: the guest has ended");
	if (s->vm->kvm.tracked)
		return err_set(e, -EBUSY,
			       "migrate: not while a live snapshot is under way; again when "
			       "that has ended");
	r = check_key(s, conf->uri, e);
	if (r)
		return err_wrap(e, "migrate");
	r = prepare(s, e);
	if (r)
		return r;
	s->conf = *conf;
	s->why[0] = 0;
	s->at = (struct source_times){.begun = loop_now_ns()};
	s->ready = (struct wire_ready){0};
	s->runs = (struct wire_runs){0};
	s->passes.stats = (struct passes_stats){0};
	s->passes.lazy = false;
	s->copies.which = 0;
	s->urgent = (struct urgent){0};
	s->push = (struct push){0};
	if (getrandom(&s->session, sizeof(s->session), 0) != sizeof(s->session))
		s->session = loop_now_ns();
	s->session |= 1;
	loop_timer_set(s->ft->loop, &s->late_op, conf->timeout_ns);
	source_post(s, SRC_EV_START);
	return 0;
}

bool source_is_cut(const struct source *s)
{
	return s->ft && s->fsm.state >= SRC_CUT && s->fsm.state <= SRC_CUT_PAIRING;
}

static int too_late(const struct source *s, struct err *e)
{
	const char *why = "the destination was told to run the VM";

	if (s->fsm.state >= SRC_UNSURE && s->fsm.state <= SRC_ASKED)
		why = "the VM may run at the destination. If you are sure that it does not, and "
		      "will not: --cancel --force";
	else if (source_is_cut(s))
		why = "the VM runs at the destination, and needs what is here. If it does not any "
		      "more, this process ends with --cancel --force";
	else if (s->fsm.state == SRC_SERVE || s->fsm.state == SRC_ENDING)
		why = "the VM runs at the destination";
	else if (s->fsm.state != SRC_GO)
		return 0;
	return err_set(e, -EBUSY, "migrate: too late: %s", why);
}

static bool is_given_up(const struct source *s)
{
	return s->fsm.state >= SRC_QUIT && s->fsm.state <= SRC_BACK;
}

int source_cancel(struct source *s, bool force, const char *why, struct err *e)
{
	int r = 0;

	if (!source_busy(s))
		return err_set(e, -ENOENT, "migrate: none is under way");
	if (force && !fsm_expects(&s->fsm, SRC_EV_FORCE))
		return err_set(e, -EINVAL,
			       "migrate: --force is only for a VM of which nobody knows "
			       "where it runs, or whose link is lost");
	if (!force)
		r = too_late(s, e);
	else if (!source_is_cut(s)) /* whoever has an image locked is likely to run it */
		r = images_lock(s->vm, s->copies.which, e);
	if (r)
		return r;
	if (!is_given_up(s))
		snprintf(s->why, sizeof(s->why), "%s", why);
	source_set_result(s, SOURCE_CANCELLING);
	source_post(s, force ? SRC_EV_FORCE : SRC_EV_CANCEL);
	return 0;
}

/* Has a link been lost from GO on? */
static int check_lost(const struct source *s, struct err *e)
{
	const char *why = "no link is lost yet: until the destination is told to run the VM, it "
			  "is this side's. Give it up (--cancel), and migrate anew";

	if (!source_busy(s))
		return err_set(e, -ENOENT, "migrate: --recover: none is under way");
	if (s->fsm.state == SRC_SERVE || s->fsm.state == SRC_ENDING)
		why = "the link is not lost; when it is, ftvmm status says so";
	else if (s->fsm.state == SRC_GO)
		why = "the destination is being waited for; again when ftvmm status says that the "
		      "link is lost";
	return fsm_expects(&s->fsm, SRC_EV_RECOVER)
		       ? 0
		       : err_set(e, -EBUSY, "migrate: --recover: %s", why);
}

int source_recover(struct source *s, const char *uri, struct err *e)
{
	int r = check_lost(s, e);

	if (!r && (check_key(s, uri, e) || chan_check_address(uri, e)))
		r = err_wrap(e, "migrate: --recover");
	if (r)
		return r;
	snprintf(s->conf.uri, sizeof(s->conf.uri), "%s", uri);
	source_post(s, SRC_EV_RECOVER);
	return 0;
}

int source_write_file(struct source *s, const char *path,
		      void (*told)(void *arg, const struct err *e), void *arg, struct err *e)
{
	struct carry_out_plan plan = {.path = path, .told = told, .arg = arg};
	int r = check_lost(s, e);

	if (r)
		return r;
	plan.loop = s->ft->loop;
	plan.mem = &s->vm->mem;
	plan.session = s->session;
	if (!s->passes.lazy)
		return err_set(e, -EBUSY,
			       "migrate: --recover: all of the VM's memory is at the destination; "
			       "what is missing is its answer");
	plan.pages = unsent_owed(&s->unsent);
	if (carry_out_start(&s->carry, &plan, e))
		r = err_wrap(e, "migrate: --recover");
	return r;
}

bool source_may_end(struct source *s, const char *why)
{
	struct err e = {0};

	if (!source_busy(s))
		return !s->ft || s->fsm.state != SRC_LEFT;
	if (s->fsm.state < SRC_GO || is_given_up(s)) {
		source_cancel(s, false, why, &e);
		return true;
	}
	source_post(s, SRC_EV_END);
	return false;
}

void source_done(struct source *s)
{
	if (!s->ft)
		return;
	source_end_sender(s);
	source_no_timers(s);
	source_close_link(s);
	carry_out_stop(&s->carry);
	unsent_done(&s->unsent);
	free(s->maps);
	images_forget(&s->images);
	copies_forget(&s->copies);
	dirty_stop(&s->dirty);
	passes_done(&s->passes);
	loop_poll_del(s->ft->loop, &s->sender_op);
	if (s->passes.notify_fd >= 0)
		close(s->passes.notify_fd);
	if (s->serve_fd >= 0)
		close(s->serve_fd);
	loop_poll_del(s->ft->loop, &s->serve_op);
	free(s->state);
	s->state = NULL;
	s->ft = NULL;
}
