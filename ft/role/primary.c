#include "ft/role/primary.h"

#include <errno.h>
#include <string.h>

#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

static void stray(void *arg);

/* --- the table -------------------------------------------------------------------------------- */

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		PRI_##state, PRI_EV_##event, PRI_##next, action, does                              \
	}

/* What it does is said as docs/protocol.md says it. */
static const struct fsm_row rows[] = {
	ROW(IDLE, TIMER, IDLE, primary_look, "is there a peer to try?"),
	ROW(IDLE, TRY, CONNECTING, primary_try_peer, "connect to the next peer"),
	ROW(CONNECTING, CONNECTED, HELLO, primary_say_hello, "preface, HELLO"),
	ROW(HELLO, WELCOME, HEART, primary_welcomed, "connect the heartbeat link"),
	ROW(HEART, CONNECTED, SYNCING, primary_begin_sync, "SYNCING; first sync begins"),
	ROW(SYNCING, COMPARED, SYNCING, NULL, "mark what differs there"),
	ROW(SYNCING, SYNCED, FLIGHT, primary_first_seal, "seal the first epoch"),
	ROW(FLIGHT, ACK, STEADY, primary_acked, "release; the first one: PROTECTED"),
	ROW(STEADY, TIMER, FLIGHT, primary_seal, "seal"),
	ROW(STEADY, OUTPUT, STEADY, primary_output_held, "the policy may seal sooner"),
	ROW(STEADY, DIFFER, STEADY, primary_differs, "seal now"),

	ROW(CONNECTING, TIMER, CONNECTING, primary_too_late, "give the link up: 1 s"),
	ROW(HELLO, TIMER, HELLO, primary_too_late, "give the link up: 5 s"),
	ROW(HEART, TIMER, HEART, primary_too_late, "give the link up: 5 s"),
	ROW(CONNECTING, LOST, IDLE, primary_unreached, "the next peer in 0.5 s"),
	ROW(HELLO, LOST, IDLE, primary_missed, "the next peer in 0.5 s"),
	ROW(HEART, LOST, IDLE, primary_missed, "the next peer in 0.5 s"),
	ROW(SYNCING, LOST, IDLE, primary_unsynced, "UNPROTECTED; the VM goes on"),

	ROW(FLIGHT, TIMER, FLIGHT, primary_too_late, "give the link up: 30 s"),
	ROW(STEADY, LOST, CLAIM, primary_lost, "VM stopped; claim"),
	ROW(FLIGHT, LOST, CLAIM, primary_lost, "VM stopped; claim"),
	ROW(CLAIM, WON, IDLE, primary_go_on, "DEGRADED; output passes, the VM goes on"),
	ROW(CLAIM, CLAIM_LOST, LEFT, primary_fence, "FENCED, exit 5; output dropped"),
	ROW(CLAIM, NO_ANSWER, UNANSWERED, primary_wait_for_answer, "PAUSED; output stays held"),
	ROW(UNANSWERED, TIMER, UNANSWERED, primary_ask, "claim again, every 0.5 s"),
	ROW(UNANSWERED, NO_ANSWER, UNANSWERED, primary_wait_for_answer, ""),
	ROW(UNANSWERED, WON, IDLE, primary_go_on, "DEGRADED; output passes, the VM goes on"),
	ROW(UNANSWERED, CLAIM_LOST, LEFT, primary_fence, "FENCED, exit 5; output dropped"),

	ROW(STEADY, MOVE, MOVE, primary_move_seal, "VM stopped; seal, for both"),
	ROW(FLIGHT, MOVE, MOVE_DUE, NULL, ""),
	ROW(MOVE_DUE, ACK, MOVE, primary_move_seal_again, "release; VM stopped; seal, for both"),
	ROW(MOVE, ACK, MOVE_OLD, primary_move_acked, "release"),
	ROW(MOVE, NEW_ACK, MOVE_NEW, NULL, ""),
	ROW(MOVE_OLD, NEW_ACK, SWAP, primary_swap_ask, "claim with the token"),
	ROW(MOVE_NEW, ACK, SWAP, primary_swap_acked, "release; claim with the token"),
	ROW(SWAP, WON, STEADY, primary_swapped, "LEAVE to the old, GENERATION to the new one"),
	ROW(SWAP, CLAIM_LOST, LEFT, primary_fence, "FENCED, exit 5; output dropped"),
	ROW(SWAP, NO_ANSWER, SWAP, primary_swap_wait, "output stays held, nothing is sealed"),
	ROW(SWAP, TIMER, SWAP, primary_swap_ask, "claim again, every 0.5 s"),
	ROW(MOVE_DUE, TIMER, MOVE_DUE, primary_too_late, "give the link up: 30 s"),
	ROW(MOVE, TIMER, MOVE, primary_too_late, "give the link up: 30 s"),
	ROW(MOVE_NEW, TIMER, MOVE_NEW, primary_too_late, "give the link up: 30 s"),
	ROW(MOVE_DUE, NEW_GONE, FLIGHT, primary_move_off, "the old secondary stays"),
	ROW(MOVE, NEW_GONE, FLIGHT, primary_move_off, "the old secondary stays"),
	ROW(MOVE_OLD, NEW_GONE, STEADY, primary_move_off_steady, "the old secondary stays"),
	ROW(MOVE, NEW_LOST, KEEP_FLIGHT, primary_keep_due,
	    "it may claim, so the old one stays by a claim"),
	ROW(MOVE_NEW, NEW_LOST, KEEP_FLIGHT, primary_keep_due, "as above"),
	ROW(MOVE_OLD, NEW_LOST, KEEP, primary_keep, "claim"),
	ROW(SWAP, NEW_LOST, KEEP, primary_keep, "claim, and once more: it may have, too"),
	ROW(KEEP_FLIGHT, ACK, KEEP, primary_keep_acked, "release; claim"),
	ROW(KEEP_FLIGHT, TIMER, KEEP_FLIGHT, primary_too_late, "give the link up: 30 s"),
	ROW(KEEP_FLIGHT, LOST, CLAIM, primary_lost_moving, "VM stopped; claim"),
	ROW(KEEP_FLIGHT, STOP, KEEP_FLIGHT, primary_stand,
	    "VM stopped; the rest when it has stayed"),
	ROW(KEEP_FLIGHT, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(KEEP, WON, STEADY, primary_kept, "GENERATION to the old one, which stays"),
	ROW(KEEP, CLAIM_LOST, LEFT, primary_fence, "FENCED, exit 5; output dropped"),
	ROW(KEEP, NO_ANSWER, KEEP, primary_swap_wait, "output stays held, nothing is sealed"),
	ROW(KEEP, TIMER, KEEP, primary_ask, "claim again, every 0.5 s"),
	ROW(KEEP, LOST, CLAIM, primary_lost_keeping, "VM stopped; claim"),
	ROW(KEEP, STOP, KEEP, primary_stand, "VM stopped; the rest when it has stayed"),
	ROW(KEEP, HOST_FAILED, KEEP, NULL, "at the next seal, when the old one is told"),
	ROW(MOVE_DUE, LOST, CLAIM, primary_lost_moving, "VM stopped; claim"),
	ROW(MOVE, LOST, CLAIM, primary_lost_moving, "VM stopped; claim"),
	ROW(MOVE_OLD, LOST, CLAIM, primary_lost_moving, "VM stopped; claim"),
	ROW(MOVE_NEW, LOST, CLAIM, primary_lost_moving, "VM stopped; claim"),
	ROW(SWAP, LOST, SWAP, NULL, "it is let go anyway"),
	ROW(MOVE_DUE, STOP, STOP_DUE, primary_move_stop, "the new one is given up; VM stopped"),
	ROW(MOVE, STOP, MOVE, primary_stand, "VM stopped; the rest when the move is over"),
	ROW(MOVE_OLD, STOP, MOVE_OLD, primary_stand, "VM stopped; the rest when the move is over"),
	ROW(MOVE_NEW, STOP, MOVE_NEW, primary_stand, "VM stopped; the rest when the move is over"),
	ROW(SWAP, STOP, SWAP, primary_stand, "VM stopped; the rest when the move is over"),
	ROW(MOVE_DUE, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(MOVE, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(MOVE_OLD, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(MOVE_NEW, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(SWAP, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),

	ROW(STEADY, OFF, OFF_LAST, primary_last_epoch, "seal; the VM goes on"),
	ROW(FLIGHT, OFF, OFF_DUE, NULL, ""),
	ROW(OFF_DUE, ACK, OFF_LAST, primary_seal_again, "release; seal"),
	ROW(OFF_LAST, ACK, DISMISS, primary_dismiss, "release; DISMISS"),
	ROW(DISMISS, DONE, OFF, primary_dismissed, "UNPROTECTED; output passes"),
	ROW(IDLE, OFF, OFF, primary_off, "UNPROTECTED"),
	ROW(CONNECTING, OFF, OFF, primary_off, "UNPROTECTED; the link is given up"),
	ROW(HELLO, OFF, OFF, primary_off, "UNPROTECTED; the link is given up"),
	ROW(HEART, OFF, OFF, primary_off, "UNPROTECTED; the link is given up"),
	ROW(SYNCING, OFF, OFF, primary_off, "UNPROTECTED; the link is given up"),
	ROW(OFF, ON, IDLE, primary_on, "the next peer, at once"),
	ROW(OFF_DUE, TIMER, OFF_DUE, primary_too_late, "give the link up: 30 s"),
	ROW(OFF_LAST, TIMER, OFF_LAST, primary_too_late, "give the link up: 30 s"),
	ROW(DISMISS, TIMER, DISMISS, primary_too_late, "give the link up: 5 s"),
	ROW(OFF_DUE, LOST, CLAIM, primary_lost, "VM stopped; claim"),
	ROW(OFF_LAST, LOST, CLAIM, primary_lost, "VM stopped; claim"),
	ROW(DISMISS, LOST, CLAIM, primary_lost, "VM stopped; claim"),
	ROW(OFF, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(OFF_DUE, STOP, STOP_DUE, primary_stand, "VM stopped"),
	ROW(OFF_LAST, STOP, STOP_DUE, primary_stand, "VM stopped"),
	ROW(DISMISS, STOP, DISMISS_STOP, primary_stand, "VM stopped"),
	ROW(DISMISS_STOP, DONE, REST, primary_dismissed_to_stop, "UNPROTECTED; the output leaves"),
	ROW(DISMISS_STOP, TIMER, DISMISS_STOP, primary_too_late, "give the link up: 5 s"),
	ROW(DISMISS_STOP, LOST, CLAIM_STOP, primary_lost, "claim"),
	ROW(OFF_DUE, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(OFF_LAST, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),

	ROW(STEADY, STOP, STOP, primary_last_seal, "VM stopped; seal"),
	ROW(FLIGHT, STOP, STOP_DUE, primary_stand, "VM stopped"),
	ROW(STOP_DUE, ACK, STOP, primary_seal_again, "release; seal"),
	ROW(STOP, ACK, BYE, primary_say_bye, "release; BYE, then the rest of the output"),
	ROW(BYE, DONE, RECORD, primary_done, "record *released*"),
	ROW(RECORD, RECORDED, LEFT, primary_leave, "STOPPED, exit"),
	ROW(STOP_DUE, TIMER, STOP_DUE, primary_too_late, "give the link up: 30 s"),
	ROW(STOP, TIMER, STOP, primary_too_late, "give the link up: 30 s"),
	ROW(BYE, TIMER, BYE, primary_too_late, "give the link up: 30 s"),
	ROW(BYE, LOST, UNSURE, primary_not_done, "record *stopped*"),
	ROW(UNSURE, RECORDED, LEFT, primary_leave_unsure,
	    "STOPPED, exit, warning; or FENCED, exit 5: it runs there"),

	ROW(STOP_DUE, LOST, CLAIM_STOP, primary_lost, "claim"),
	ROW(STOP, LOST, CLAIM_STOP, primary_lost, "claim"),
	ROW(CLAIM, STOP, CLAIM_STOP, primary_stand, ""),
	ROW(UNANSWERED, STOP, LEFT, primary_fence_unanswered,
	    "FENCED, exit 5: nobody says whose the VM is"),
	ROW(CLAIM_STOP, WON, REST, primary_won_to_stop, "output passes"),
	ROW(CLAIM_STOP, CLAIM_LOST, LEFT, primary_fence, "FENCED, exit 5; output dropped"),
	ROW(CLAIM_STOP, NO_ANSWER, CLAIM_STOP, primary_wait_for_answer,
	    "PAUSED; output stays held"),
	ROW(CLAIM_STOP, TIMER, CLAIM_STOP, primary_ask, "claim again, every 0.5 s"),

	ROW(IDLE, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(CONNECTING, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(HELLO, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(HEART, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(SYNCING, STOP, REST, primary_rest, "VM stopped, the output leaves"),
	ROW(REST, TIMER, REST, primary_look_at_images, "do the images have all?"),
	ROW(REST, IMAGES, RECORD, primary_images_ready, "record *stopped*"),
	ROW(REST, IMAGES_LATE, LEFT, primary_images_late, "exit 2; the record stays *held*"),

	ROW(STEADY, HAND_OVER, ASKED, NULL, "the arbiter is asked, the VM goes on"),
	ROW(FLIGHT, HAND_OVER, ASKED_FLIGHT, NULL, "the arbiter is asked, the VM goes on"),
	ROW(ASKED, TIMER, ASKED_FLIGHT, primary_seal, "seal"),
	ROW(ASKED, OUTPUT, ASKED, primary_output_held, "the policy may seal sooner"),
	ROW(ASKED, DIFFER, ASKED, primary_differs, "seal now"),
	ROW(ASKED_FLIGHT, ACK, ASKED, primary_acked, "release"),
	ROW(ASKED_FLIGHT, TIMER, ASKED_FLIGHT, primary_too_late, "give the link up: 30 s"),
	ROW(ASKED, ANSWERED, HAND, primary_hand_over_now, "VM stopped; seal"),
	ROW(ASKED_FLIGHT, ANSWERED, HAND_DUE, primary_hand_over_due, "VM stopped"),
	ROW(ASKED, NO_ANSWER, STEADY, primary_not_handed, "no hand-over"),
	ROW(ASKED_FLIGHT, NO_ANSWER, FLIGHT, primary_not_handed, "no hand-over"),
	ROW(ASKED, LOST, CLAIM, primary_lost_asking, "no hand-over; VM stopped; claim"),
	ROW(ASKED_FLIGHT, LOST, CLAIM, primary_lost_asking, "no hand-over; VM stopped; claim"),
	ROW(ASKED, STOP, STOP, primary_stop_asking, "no hand-over; VM stopped; seal"),
	ROW(ASKED_FLIGHT, STOP, STOP_DUE, primary_stop_due_asking, "no hand-over; VM stopped"),
	ROW(HAND_DUE, ACK, HAND, primary_seal_again, "release; seal"),
	ROW(HAND, ACK, HANDED, primary_hand, "release, all of it; HAND_OVER"),
	ROW(HANDED, RUNS, LEFT, primary_gone, "GONE; STOPPED, exit 3"),
	ROW(HAND_DUE, TIMER, HAND_DUE, primary_too_late, "give the link up: 30 s"),
	ROW(HAND, TIMER, HAND, primary_too_late, "give the link up: 30 s"),
	ROW(HANDED, TIMER, HANDED, primary_too_late, "give the link up: 5 s"),
	ROW(HAND_DUE, LOST, CLAIM, primary_lost, "claim"),
	ROW(HAND, LOST, CLAIM, primary_lost, "claim"),
	ROW(HANDED, LOST, CLAIM_HANDED, primary_lost, "claim, also from the secondary's number"),
	ROW(CLAIM_HANDED, WON, IDLE, primary_go_on, "DEGRADED; output passes, the VM goes on"),
	ROW(CLAIM_HANDED, CLAIM_LOST, LEFT, primary_leave_handed, "STOPPED, exit 3"),
	ROW(CLAIM_HANDED, NO_ANSWER, HANDED_UNANSWERED, primary_wait_for_answer, "PAUSED"),
	ROW(HANDED_UNANSWERED, TIMER, HANDED_UNANSWERED, primary_ask, "claim again, every 0.5 s"),
	ROW(HANDED_UNANSWERED, NO_ANSWER, HANDED_UNANSWERED, primary_wait_for_answer, ""),
	ROW(HANDED_UNANSWERED, WON, IDLE, primary_go_on, "DEGRADED; the VM goes on"),
	ROW(HANDED_UNANSWERED, CLAIM_LOST, LEFT, primary_leave_handed, "STOPPED, exit 3"),

	ROW(HAND_DUE, STOP, STOP_DUE, primary_stop_wins, "not any more a hand-over"),
	ROW(HAND, STOP, STOP, primary_stop_wins, "not any more a hand-over"),
	ROW(HANDED, STOP, HANDED_STOP, primary_stop_after,
	    "warning: stop it at the other side, too"),
	ROW(HANDED_STOP, RUNS, LEFT, primary_gone, "GONE; STOPPED, exit 3"),
	ROW(HANDED_STOP, TIMER, HANDED_STOP, primary_too_late, "give the link up: 5 s"),
	ROW(HANDED_STOP, LOST, CLAIM_HANDED_STOP, primary_lost, "claim, as above"),
	ROW(CLAIM_HANDED, STOP, CLAIM_HANDED_STOP, NULL, ""),
	ROW(HANDED_UNANSWERED, STOP, LEFT, primary_leave_handed, "STOPPED, exit 3"),
	ROW(CLAIM_HANDED_STOP, WON, REST, primary_won_to_stop, "output passes"),
	ROW(CLAIM_HANDED_STOP, CLAIM_LOST, LEFT, primary_leave_handed, "STOPPED, exit 3"),
	ROW(CLAIM_HANDED_STOP, NO_ANSWER, CLAIM_HANDED_STOP, primary_wait_for_answer, "PAUSED"),
	ROW(CLAIM_HANDED_STOP, TIMER, CLAIM_HANDED_STOP, primary_ask, "claim again, every 0.5 s"),
	ROW(CLAIM_HANDED_STOP, STOP, LEFT, primary_leave_handed, "STOPPED, exit 3"),

	ROW(STEADY, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(FLIGHT, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(ASKED, HOST_FAILED, LEFT, primary_give_up_asking, "no hand-over; no goodbye, exit 2"),
	ROW(ASKED_FLIGHT, HOST_FAILED, LEFT, primary_give_up_asking,
	    "no hand-over; no goodbye, exit 2"),
	ROW(STOP_DUE, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(STOP, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(HAND_DUE, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),
	ROW(HAND, HOST_FAILED, LEFT, primary_give_up, "no goodbye, exit 2; output dropped"),

	/* Once is enough. */
	ROW(STOP_DUE, STOP, STOP_DUE, NULL, ""),
	ROW(STOP, STOP, STOP, NULL, ""),
	ROW(BYE, STOP, BYE, NULL, ""),
	ROW(DISMISS_STOP, STOP, DISMISS_STOP, NULL, ""),
	ROW(HANDED_STOP, STOP, HANDED_STOP, NULL, ""),
	ROW(CLAIM_STOP, STOP, CLAIM_STOP, NULL, ""),
	ROW(REST, STOP, REST, NULL, ""),
	ROW(RECORD, STOP, RECORD, NULL, ""),
	ROW(UNSURE, STOP, UNSURE, NULL, ""),
};

#define X(name, what) "PRI_" #name,
static const char *const states[] = {PRIMARY_STATES(X)};
#undef X
#define X(name, what) what,
static const char *const events[] = {PRIMARY_EVENTS(X)};
#undef X

const struct fsm_desc primary_desc = {
	.name = "primary",
	.rows = rows,
	.nrows = sizeof(rows) / sizeof(rows[0]),
	.nstates = PRI_STATE_MAX,
	.nevents = PRI_EV_MAX,
	.states = states,
	.events = events,
	.first_message = PRI_EV_WELCOME,
	.end = PRI_LEFT,
	.stray = stray,
};

/* --- where events come from ------------------------------------------------------------------- */

static void stray(void *arg)
{
	struct primary *p = arg;

	link_break(p->link, "message out of order");
}

static void link_news(void *arg, enum link_news what)
{
	static const enum primary_event event[] = {
		[LINK_CONNECTED] = PRI_EV_CONNECTED, [LINK_LOST] = PRI_EV_LOST,
		[LINK_WELCOME] = PRI_EV_WELCOME,     [LINK_ACK] = PRI_EV_ACK,
		[LINK_DONE] = PRI_EV_DONE,	     [LINK_RUNS] = PRI_EV_RUNS,
		[LINK_COMPARED] = PRI_EV_COMPARED,
	};
	struct primary *p = arg;
	struct err e = {0};

	if (what == LINK_ACK && !engine_awaits(&p->engine, p->link->acked))
		stray(p);
	else if (what == LINK_COMPARED && fsm_expects(&p->fsm, PRI_EV_COMPARED) &&
		 sync_answered(p->engine.sync, p->link->frame, &e))
		link_break(p->link, e.msg);
	else
		primary_post(p, event[what]);
}

static void engine_news(void *arg, enum engine_news what)
{
	struct primary *p = arg;

	if (what == ENGINE_SYNCED) {
		p->unsynced[p->link->at] = 0;
		primary_post(p, PRI_EV_SYNCED);
	} else if (what == ENGINE_HOLDS && fsm_expects(&p->fsm, PRI_EV_OUTPUT)) {
		primary_post(p, PRI_EV_OUTPUT);
	} else if (what == ENGINE_BROKEN) {
		link_break(p->link, p->engine.why);
	} else if (what != ENGINE_HOLDS) {
		move_engine_news(&p->move, what);
	}
}

static void timer(struct loop_op *op, int res)
{
	primary_post(op->arg, PRI_EV_TIMER);
}

/* --- what each state means for others --------------------------------------------------------- */

/* Output that was released before waits, too, while it is open whose the VM is. */
static bool doubts(void *arg)
{
	struct primary *p = arg;

	switch (p->fsm.state) {
	case PRI_STEADY:
	case PRI_FLIGHT:
	case PRI_OFF_DUE:
	case PRI_OFF_LAST:
	case PRI_DISMISS:
	case PRI_DISMISS_STOP:
	case PRI_MOVE_DUE:
	case PRI_MOVE:
	case PRI_MOVE_OLD:
	case PRI_MOVE_NEW:
	case PRI_SWAP:
	case PRI_KEEP_FLIGHT:
	case PRI_KEEP:
	case PRI_ASKED:
	case PRI_ASKED_FLIGHT:
	case PRI_STOP_DUE:
	case PRI_STOP:
	case PRI_HAND_DUE:
	case PRI_HAND:
		return heart_suspect(&p->link->heart);
	case PRI_CLAIM:
	case PRI_UNANSWERED:
	case PRI_CLAIM_STOP:
	case PRI_CLAIM_HANDED:
	case PRI_HANDED_UNANSWERED:
	case PRI_CLAIM_HANDED_STOP:
		return true;
	default:
		return false;
	}
}

bool primary_goes_on(const struct primary *p)
{
	return p->fsm.state <= PRI_ASKED_FLIGHT;
}

static bool is_stopping(const struct primary *p)
{
	switch (p->fsm.state) {
	case PRI_STOP_DUE:
	case PRI_STOP:
	case PRI_BYE:
	case PRI_DISMISS_STOP:
	case PRI_CLAIM_STOP:
	case PRI_REST:
	case PRI_RECORD:
	case PRI_UNSURE:
	case PRI_LEFT:
		return true;
	default:
		return false;
	}
}

/* Or is that asked for? */
static bool is_handing(const struct primary *p)
{
	switch (p->fsm.state) {
	case PRI_ASKED:
	case PRI_ASKED_FLIGHT:
	case PRI_HAND_DUE:
	case PRI_HAND:
	case PRI_HANDED:
	case PRI_HANDED_STOP:
	case PRI_CLAIM_HANDED:
	case PRI_HANDED_UNANSWERED:
	case PRI_CLAIM_HANDED_STOP:
		return true;
	default:
		return false;
	}
}

/* And cannot go back? */
static bool is_moving(const struct primary *p)
{
	return move_is_active(&p->move) || p->fsm.state == PRI_KEEP_FLIGHT ||
	       p->fsm.state == PRI_KEEP;
}

static bool is_dismissing(const struct primary *p)
{
	return p->fsm.state == PRI_OFF_DUE || p->fsm.state == PRI_OFF_LAST ||
	       p->fsm.state == PRI_DISMISS;
}

bool primary_may_end(const struct primary *p)
{
	return primary_goes_on(p) || is_stopping(p);
}

/* --- interface -------------------------------------------------------------------------------- */

int primary_start(struct primary *p, struct ft *ft, struct vm *vm, struct err *e)
{
	int r;

	memset(p, 0, sizeof(*p));
	p->ft = ft;
	p->vm = vm;
	p->policy = policy_of(ft->cfg->ft);
	p->epoch_ns = ft->cfg->epoch_ns;
	p->timer_op = (struct loop_op){.fn = timer, .arg = p};
	fsm_init(&p->fsm, &primary_desc, p, PRI_IDLE);
	p->link = &p->links[0];
	link_init(p->link, ft, link_news, p);
	move_init(&p->move, p);
	mirroring_init(&p->mirroring, p);
	r = engine_init(&p->engine, ft, vm, engine_news, p, e);
	if (r)
		return r;
	vm->doubts = doubts;
	vm->doubts_arg = p;
	primary_post(p, PRI_EV_TIMER);
	return 0;
}

void primary_stop(struct primary *p)
{
	if (!p->ft)
		return;
	primary_close(p);
	arbiter_forget(p->ft->arbiter);
	engine_done(&p->engine);
	p->vm->doubts = NULL;
	memset(p, 0, sizeof(*p));
}

void primary_end(struct primary *p, int code)
{
	if (!is_stopping(p))
		p->end_code = code;
	move_cancel(&p->move, "the VM is being stopped");
	primary_post(p, PRI_EV_STOP);
}

bool primary_is_asked(const struct primary *p)
{
	return p->handing != NULL;
}

int primary_hand_over(struct primary *p, primary_handing *done, void *arg, struct err *e)
{
	if (is_stopping(p) || is_handing(p))
		return err_set(e, -EBUSY, "failover: the VM is being %s",
			       is_stopping(p) ? "stopped" : "handed over");
	if (p->ft->stands & FT_STAND_USER)
		return err_set(e, -EBUSY,
			       "failover: the VM is paused, and would run at the "
			       "secondary; resume it first");
	if (p->ft->cfg->ft == FT_MODE_OFF)
		return err_set(e, -EBUSY,
			       "failover: ft=off: nobody is in step; first ftvmm set %s ft=mc",
			       p->ft->cfg->name);
	move_cancel(&p->move, "the VM is to be handed over");
	if (is_moving(p))
		return err_set(e, -EBUSY,
			       "failover: a secondary is just taking another one's place; again in "
			       "a moment");
	if (p->ft->cover != FT_PROTECTED || !fsm_expects(&p->fsm, PRI_EV_HAND_OVER))
		return err_set(e, -EBUSY,
			       "failover: the VM is %s: there is no secondary in step; "
			       "run one at an address of --peer, or name another: ftvmm set %s "
			       "peer=URI",
			       ft_word(p->ft), p->ft->cfg->name);
	return primary_ask_for_hand_over(p, done, arg, e);
}

int primary_pause(struct primary *p, bool pause, struct err *e)
{
	/* Nobody would resume it, wherever it goes on. */
	if (pause && is_handing(p))
		return err_set(e, -EBUSY, "pause: the VM is being handed over");
	if (pause)
		return ft_stand(p->ft, p->vm, FT_STAND_USER, NULL, e);
	ft_go(p->ft, p->vm, FT_STAND_USER);
	primary_resumed(p);
	return 0;
}

int primary_may_have_mode(const struct primary *p, enum ft_mode mode, struct err *e)
{
	if (mode != FT_MODE_OFF)
		return is_dismissing(p) ? err_set(e, -EBUSY,
						  "set: ft: the secondary is being dismissed; "
						  "again in a moment")
					: 0;
	if (is_stopping(p) || is_handing(p))
		return err_set(e, -EBUSY, "set: ft=off: the VM is being %s",
			       is_stopping(p) ? "stopped" : "handed over");
	if ((p->fsm.state == PRI_STEADY || p->fsm.state == PRI_FLIGHT) && !p->link->may_dismiss)
		return err_set(e, -ENOTSUP,
			       "set: ft=off: the secondary is of an older version, and would take "
			       "over; end it first, or start a newer one there");
	if (is_moving(p))
		return err_set(
			e, -EBUSY,
			"set: ft=off: another secondary is on its way; again in a moment, or "
			"end that: ftvmm migrate %s --cancel",
			p->ft->cfg->name);
	return 0;
}

int primary_may_snapshot(const struct primary *p, struct err *e)
{
	if (p->fsm.state != PRI_HELLO && p->fsm.state != PRI_HEART)
		return 0;
	return err_set(e, -EBUSY,
		       "snapshot: not while a secondary is joining: it has marked its images for a "
		       "first sync, in which the changes of the VM are followed; again in a "
		       "moment, or first ftvmm set %s ft=off",
		       p->ft->cfg->name);
}

void primary_new_peers(struct primary *p)
{
	link_forget_peers(&p->links[0]);
	link_forget_peers(&p->links[1]);
	memset(p->unsynced, 0, sizeof(p->unsynced));
	if (p->fsm.state == PRI_IDLE)
		primary_post(p, PRI_EV_TIMER);
}

void primary_set_epoch(struct primary *p, uint64_t epoch_ns)
{
	p->epoch_ns = epoch_ns;
}
