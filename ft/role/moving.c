#include "ft/role/moving.h"

#include "ft/role/move_do.h"
#include "ft/role/primary_do.h"

static void stray(void *arg);

/* --- the table -------------------------------------------------------------------------------- */

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		MOV_##state, MOV_EV_##event, MOV_##next, action, does                              \
	}

/* What it does is said as docs/protocol.md says it. */
static const struct fsm_row rows[] = {
	ROW(NONE, START, CONNECTING, move_connect, "connect"),
	ROW(CONNECTING, CONNECTED, HELLO, move_say_hello, "preface, HELLO with a token"),
	ROW(HELLO, WELCOME, HEART, move_welcomed, "connect the heartbeat link"),
	ROW(HEART, CONNECTED, PASSES, move_begin_sync, "what captures and writes mark goes there"),
	ROW(PASSES, COMPARED, PASSES, NULL, "mark what differs there"),
	ROW(PASSES, NEAR, ASKED, move_ask, "ask the arbiter"),
	ROW(ASKED, ANSWERED, HOLD, move_hold_disks, "hold requests to the disks"),
	ROW(HOLD, STILL, LAST, move_last, "the primary is to seal"),
	ROW(LAST, FED, FED, move_fed, "VM and disks go on"),
	ROW(FED, ACK, SAME, move_same, "the primary is to claim"),
	ROW(SAME, SWAPPED, NONE, move_done, "it is the secondary now"),

	ROW(CONNECTING, TIMER, CONNECTING, move_too_late, "give the link up: 1 s"),
	ROW(HELLO, TIMER, HELLO, move_too_late, "give the link up: 5 s"),
	ROW(HEART, TIMER, HEART, move_too_late, "give the link up: 5 s"),
	ROW(HOLD, TIMER, HOLD, move_too_late, "give the link up: 5 s"),
	ROW(LAST, TIMER, LAST, move_too_late, "give the link up: 2 s"),
	ROW(FED, TIMER, FED, move_too_late, "give the link up: 5 s"),
	ROW(CONNECTING, LOST, NONE, move_lost, "the old secondary stays"),
	ROW(HELLO, LOST, NONE, move_lost, "the old secondary stays"),
	ROW(HEART, LOST, NONE, move_lost, "the old secondary stays"),
	ROW(PASSES, LOST, NONE, move_lost, "the old secondary stays"),
	ROW(ASKED, LOST, NONE, move_lost_asking, "the old secondary stays"),
	ROW(ASKED, NO_ANSWER, NONE, move_unanswered, "the old secondary stays"),
	ROW(HOLD, LOST, NONE, move_lost, "the old secondary stays"),
	ROW(LAST, LOST, NONE, move_lost_late, "tell the primary"),
	ROW(FED, LOST, NONE, move_lost_late, "tell the primary"),
	ROW(SAME, LOST, NONE, move_lost_late, "tell the primary"),

	ROW(CONNECTING, CANCEL, NONE, move_cancelled, "the old secondary stays"),
	ROW(HELLO, CANCEL, NONE, move_cancelled, "the old secondary stays"),
	ROW(HEART, CANCEL, NONE, move_cancelled, "the old secondary stays"),
	ROW(PASSES, CANCEL, NONE, move_cancelled, "the old secondary stays"),
	ROW(ASKED, CANCEL, NONE, move_cancelled_asking, "the old secondary stays"),
	ROW(HOLD, CANCEL, NONE, move_cancelled, "the old secondary stays"),
	ROW(CONNECTING, DROP, NONE, move_dropped, ""),
	ROW(HELLO, DROP, NONE, move_dropped, ""),
	ROW(HEART, DROP, NONE, move_dropped, ""),
	ROW(PASSES, DROP, NONE, move_dropped, ""),
	ROW(ASKED, DROP, NONE, move_dropped_asking, ""),
	ROW(HOLD, DROP, NONE, move_dropped, ""),
	ROW(LAST, DROP, NONE, move_dropped, ""),
	ROW(FED, DROP, NONE, move_dropped, ""),
	ROW(SAME, DROP, NONE, move_dropped, ""),
};

#define X(name, what) "MOV_" #name,
static const char *const states[] = {MOVE_STATES(X)};
#undef X
#define X(name, what) what,
static const char *const events[] = {MOVE_EVENTS(X)};
#undef X

const struct fsm_desc move_desc = {
	.name = "move",
	.rows = rows,
	.nrows = sizeof(rows) / sizeof(rows[0]),
	.nstates = MOV_STATE_MAX,
	.nevents = MOV_EV_MAX,
	.states = states,
	.events = events,
	.first_message = MOV_EV_WELCOME,
	.end = MOV_STATE_MAX, /* there may be another one */
	.stray = stray,
};

/* --- where events come from ------------------------------------------------------------------- */

static void stray(void *arg)
{
	link_break(move_link(arg), "message out of order");
}

static void link_news(void *arg, enum link_news what)
{
	static const enum move_event event[] = {
		[LINK_CONNECTED] = MOV_EV_CONNECTED, [LINK_LOST] = MOV_EV_LOST,
		[LINK_WELCOME] = MOV_EV_WELCOME,     [LINK_ACK] = MOV_EV_ACK,
		[LINK_COMPARED] = MOV_EV_COMPARED,
	};
	struct move *m = arg;
	struct err e = {0};
	bool is_ours =
		what != LINK_ACK || engine_follow_awaits(&m->primary->engine, move_link(m)->acked);

	if (what == LINK_DONE || what == LINK_RUNS || !is_ours)
		stray(m);
	else if (what == LINK_COMPARED && fsm_expects(&m->fsm, MOV_EV_COMPARED) &&
		 engine_follow_answered(&m->primary->engine, move_link(m)->frame, &e))
		link_break(move_link(m), e.msg);
	else
		fsm_post(&m->fsm, event[what]);
}

void move_engine_news(struct move *m, enum engine_news what)
{
	if (what == ENGINE_ASTRAY)
		link_break(move_link(m), "link broken");
	else
		fsm_post(&m->fsm, what == ENGINE_NEAR ? MOV_EV_NEAR : MOV_EV_FED);
}

static void timer(struct loop_op *op, int res)
{
	struct move *m = op->arg;

	fsm_post(&m->fsm, MOV_EV_TIMER);
}

/* --- interface -------------------------------------------------------------------------------- */

void move_init(struct move *m, struct primary *p)
{
	*m = (struct move){.primary = p, .timer_op = {.fn = timer, .arg = m}};
	fsm_init(&m->fsm, &move_desc, m, MOV_NONE);
	link_init(move_link(m), p->ft, link_news, m);
}
