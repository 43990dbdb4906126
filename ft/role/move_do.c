/* The way to a new secondary: connect, HELLO, passes, the epoch that it has in common with the old
 * one. */
#include "ft/role/move_do.h"

#include <stdio.h>
#include <sys/random.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

#define HOLD_NS 5000000000ull /* what is in flight to the disks comes back */
#define LAST_NS 2000000000ull /* the VM stands no longer for the rest */
#define ACK_NS	5000000000ull

static void timer_for(struct move *m, uint64_t ns)
{
	loop_timer_set(m->primary->ft->loop, &m->timer_op, ns);
}

static void no_timer(struct move *m)
{
	loop_timer_del(m->primary->ft->loop, &m->timer_op);
}

/* --- how it ends ------------------------------------------------------------------------------ */

/* The links end first: nothing comes from there any more. */
static void finish(struct move *m, enum move_result result)
{
	no_timer(m);
	m->result = result;
	m->ended_ns = loop_now_ns();
	fsm_forget(&m->fsm, MOV_EV_DROP, MOV_EV_MAX - 1);
	if (result == MOVE_DONE)
		log_info("migrate: %s is the secondary now", m->uri);
	else
		log_warn("migrate: %s does not become the secondary: %s", m->uri, m->why);
	if (m->news)
		m->news(m->arg);
}

/* What it said instead of its ACK: it had nothing yet that it could take over with. */
static bool has_refused(struct move *m)
{
	const struct link *l = move_link(m);

	return l->refused && l->acked != m->primary->engine.follow.epoch;
}

/* True: it may have the common epoch whole, and so claim. */
static bool give_up(struct move *m, enum move_result result)
{
	struct primary *p = m->primary;
	bool refused = has_refused(m), is_whole;

	m->bytes = engine_follow_bytes(&p->engine);
	is_whole = engine_unfollow(&p->engine) && !refused;
	link_close(move_link(m));
	p->ft->stands &= ~(unsigned)FT_STAND_MOVE;
	finish(m, result);
	return is_whole;
}

static void note_loss(struct move *m)
{
	link_note_trouble(move_link(m), false, m->why, sizeof(m->why));
}

static void forget_question(struct move *m)
{
	arbiter_forget(m->primary->ft->arbiter);
}

void move_lost(void *arg)
{
	note_loss(arg);
	give_up(arg, MOVE_FAILED);
}

void move_lost_asking(void *arg)
{
	forget_question(arg);
	move_lost(arg);
}

void move_lost_late(void *arg)
{
	struct move *m = arg;

	note_loss(m);
	primary_post(m->primary, give_up(m, MOVE_FAILED) ? PRI_EV_NEW_LOST : PRI_EV_NEW_GONE);
}

void move_cancelled(void *arg)
{
	give_up(arg, MOVE_CANCELLED);
}

void move_cancelled_asking(void *arg)
{
	forget_question(arg);
	move_cancelled(arg);
}

void move_dropped(void *arg)
{
	struct move *m = arg;

	snprintf(m->why, sizeof(m->why),
		 "the secondary in step was lost meanwhile, or the VM ended; `ftvmm status` says "
		 "what this side does");
	give_up(m, MOVE_FAILED);
}

void move_dropped_asking(void *arg)
{
	forget_question(arg);
	move_dropped(arg);
}

void move_done(void *arg)
{
	finish(arg, MOVE_DONE);
}

void move_too_late(void *arg)
{
	static const char *const why[MOV_STATE_MAX] = {
		[MOV_CONNECTING] = "no answer in time",
		[MOV_HELLO] = "connected, but no answer in time; is that a --secondary?",
		[MOV_HEART] = "no answer in time",
		[MOV_HOLD] = "a request to a disk here does not come back",
		[MOV_LAST] = "the guest writes faster than the link takes: what was left did not "
			     "go out within 2 s",
		[MOV_FED] = "no acknowledgement in time",
	};
	struct move *m = arg;

	link_break_after_reading(move_link(m), why[m->fsm.state]);
}

/* --- the way there ---------------------------------------------------------------------------- */

void move_connect(void *arg)
{
	struct move *m = arg;

	log_info("migrate: %s is to become the secondary", m->uri);
	timer_for(m, PRIMARY_CONNECT_NS);
	link_try(move_link(m), m->uri);
}

void move_say_hello(void *arg)
{
	struct move *m = arg;

	if (getrandom(&m->token, sizeof(m->token), 0) != sizeof(m->token))
		m->token = loop_now_ns();
	m->token |= 1; /* not 0 */
	timer_for(m, PRIMARY_HANDSHAKE_NS);
	primary_hello_on(m->primary, move_link(m), m->token);
}

void move_welcomed(void *arg)
{
	link_try_heart(move_link(arg));
}

void move_begin_sync(void *arg)
{
	struct move *m = arg;
	struct link *l = move_link(m);
	struct err e = {0};

	no_timer(m);
	link_begin_heart(l);
	if (l->state == LINK_UP && engine_follow(&m->primary->engine, &l->main, l->kept, &e))
		link_break(l, e.msg);
}

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct move *m = arg;

	if (a->code)
		snprintf(m->why, sizeof(m->why), "%s", a->err.msg);
	fsm_post(&m->fsm, a->code ? MOV_EV_NO_ANSWER : MOV_EV_ANSWERED);
}

/* Once the new one may claim, only the arbiter can say that the old one may not. */
void move_ask(void *arg)
{
	struct move *m = arg;

	if (!arbiter_ask_read(m->primary->ft->arbiter, answered, m))
		return;
	snprintf(m->why, sizeof(m->why), "the arbiter cannot be asked now");
	fsm_post(&m->fsm, MOV_EV_NO_ANSWER);
}

void move_unanswered(void *arg)
{
	give_up(arg, MOVE_FAILED);
}

static void still(void *arg)
{
	struct move *m = arg;

	fsm_post(&m->fsm, MOV_EV_STILL);
}

void move_hold_disks(void *arg)
{
	struct move *m = arg;

	timer_for(m, HOLD_NS);
	disklog_hold(&m->primary->engine.disklog, still, m);
}

void move_last(void *arg)
{
	struct move *m = arg;

	timer_for(m, LAST_NS);
	primary_post(m->primary, PRI_EV_MOVE);
}

void move_fed(void *arg)
{
	struct move *m = arg;

	step_reached(STEP_MOVE_FED);
	timer_for(m, ACK_NS);
	ft_go(m->primary->ft, m->primary->vm, FT_STAND_MOVE);
}

void move_same(void *arg)
{
	struct move *m = arg;

	step_reached(STEP_MOVE_IN_STEP);
	no_timer(m);
	primary_post(m->primary, PRI_EV_NEW_ACK);
}
