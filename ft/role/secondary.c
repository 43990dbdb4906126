#include "ft/role/secondary.h"

#include <errno.h>
#include <string.h>

#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"

/* --- the table -------------------------------------------------------------------------------- */

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		SEC_##state, SEC_EV_##event, SEC_##next, action, does                              \
	}

/* What it does is said as docs/protocol.md says it. */
static const struct fsm_row rows[] = {
	ROW(LISTEN, HELLO, ASKED, secondary_hello, "check it; ask the arbiter"),
	ROW(ASKED, FITS, ASKED, secondary_build, "build the VM; mark its images"),
	ROW(ASKED, BUILT, SYNCING, secondary_welcome, "WELCOME; SYNCING"),
	ROW(SYNCING, HEART, SYNCING, secondary_begin_heart, "heartbeats"),
	ROW(SYNCING, PART, SYNCING, secondary_take_part, "stage it"),
	ROW(SYNCING, WHOLE, SYNCING, secondary_try_first, "commit; try the vCPU state"),
	ROW(SYNCING, READY, STANDBY, secondary_take_first, "ACK; PROTECTED"),
	ROW(STANDBY, HEART, STANDBY, secondary_begin_heart, "heartbeats"),
	ROW(STANDBY, PART, STANDBY, secondary_take_part, "stage it"),
	ROW(STANDBY, WHOLE, STANDBY, secondary_take_epoch, "ACK, commit"),

	ROW(ASKED, UNFIT, LISTEN, secondary_refuse, "REFUSE; VM destroyed"),
	ROW(ASKED, LOST, LISTEN, secondary_early, ""),
	ROW(SYNCING, TIMER, SYNCING, secondary_no_heart, "REFUSE: no heartbeat link in 5 s"),
	ROW(SYNCING, LOST, LISTEN, secondary_early, "VM destroyed; STARTING"),
	ROW(SYNCING, IMAGES, SYNCING, NULL, ""),
	ROW(SYNCING, IMAGE_FAILED, LISTEN, secondary_image_failed, "REFUSE; VM destroyed"),
	ROW(STANDBY, TIMER, STANDBY, secondary_no_heart, "REFUSE: no heartbeat link in 5 s"),
	ROW(STANDBY, UNEQUAL, LISTEN, secondary_unequal, "REFUSE; VM destroyed, or exit 2"),
	ROW(STANDBY, IMAGES, STANDBY, NULL, ""),
	ROW(STANDBY, IMAGE_FAILED, LISTEN, secondary_image_failed, "REFUSE; VM destroyed"),

	ROW(STANDBY, TWIN_DUE, TWIN, twinning_run, "load, run; LOADED"),
	ROW(TWIN, TWIN_OFF, STANDBY, NULL, "the mirror is dropped, and refused from here on"),
	ROW(TWIN, PART, TWIN_STAGES, twinning_suspend, "the guest stands; stage it"),
	ROW(TWIN_STAGES, PART, TWIN_STAGES, secondary_take_part, "stage it"),
	ROW(TWIN_STAGES, WHOLE, STANDBY, secondary_take_epoch, "ACK, commit, roll back"),
	ROW(TWIN, IMAGES, TWIN, takeover_let_disks_go, "the guest's requests to the disks go on"),
	ROW(TWIN_STAGES, IMAGES, TWIN_STAGES, takeover_let_disks_go, ""),
	ROW(TWIN, IMAGE_FAILED, LISTEN, secondary_image_failed, "REFUSE; VM destroyed"),
	ROW(TWIN_STAGES, IMAGE_FAILED, LISTEN, secondary_image_failed, "REFUSE; VM destroyed"),
	ROW(TWIN, LOST, TWIN_CLAIM, twinning_lost, "the guest stands; TAKING-OVER; claim"),
	ROW(TWIN_STAGES, LOST, TWIN_CLAIM, twinning_lost, "the open epoch is dropped; likewise"),
	ROW(TWIN_CLAIM, WON, TAKEN, twinning_take_over,
	    "network up, go on, announce; DEGRADED; a primary from here"),
	ROW(TWIN_CLAIM, CLAIM_LOST, LISTEN, takeover_other_side, "VM destroyed; STARTING"),
	ROW(TWIN_CLAIM, WAS_STOPPED, DRAIN_ALONE, secondary_drain,
	    "the disk log goes to the images"),
	ROW(TWIN_CLAIM, NO_ANSWER, TWIN_CLAIM, takeover_wait, ""),
	ROW(TWIN_CLAIM, TIMER, TWIN_CLAIM, takeover_ask, "claim again, every 0.5 s"),
	ROW(TWIN_CLAIM, IMAGES, TWIN_CLAIM, NULL, ""),
	ROW(TWIN_CLAIM, IMAGE_FAILED, YIELD, yield_begin, "give back what is being claimed"),

	ROW(STANDBY, BYE, DRAIN, secondary_drain, "the disk log goes to the images"),
	ROW(DRAIN, IMAGES, LISTEN, secondary_drained, "DONE; VM destroyed; STARTING"),
	ROW(DRAIN, IMAGE_FAILED, LISTEN, secondary_not_drained, "REFUSE; VM destroyed; STARTING"),
	ROW(DRAIN, LOST, DRAIN_ALONE, NULL, ""),
	ROW(DRAIN_ALONE, IMAGES, LISTEN, secondary_drained, "VM destroyed; STARTING"),
	ROW(DRAIN_ALONE, IMAGE_FAILED, LISTEN, secondary_not_drained, "VM destroyed; STARTING"),

	ROW(STANDBY, DISMISS, DISMISSED, secondary_dismissed,
	    "DONE, the link ends; the disk log goes to the images"),
	ROW(DISMISSED, IMAGES, LISTEN, secondary_rests, "VM destroyed; STARTING"),
	ROW(DISMISSED, IMAGE_FAILED, LISTEN, secondary_image_failed, "VM destroyed; STARTING"),

	ROW(STANDBY, GENERATION, STANDBY, secondary_new_generation, "the primary runs under it"),
	ROW(STANDBY, LEAVE, LISTEN, secondary_let_go, "VM destroyed; STARTING"),

	ROW(STANDBY, LOST, CLAIM, takeover_lost, "the open epoch is dropped; TAKING-OVER; claim"),
	ROW(CLAIM, LOCKED, CLAIM, takeover_locked, "claim: the images are locked here"),
	ROW(CLAIM, WON, CLAIM, takeover_load, "load; network up"),
	ROW(CLAIM, LOADED, TAKEN, takeover_start, "run, announce; DEGRADED; a primary from here"),
	ROW(CLAIM, NOT_LOADED, CLAIM, takeover_cannot, "exit 2"),
	ROW(CLAIM, CLAIM_LOST, LISTEN, takeover_other_side, "VM destroyed; STARTING"),
	ROW(CLAIM, WAS_STOPPED, DRAIN_ALONE, secondary_drain, "the disk log goes to the images"),
	ROW(CLAIM, NO_ANSWER, CLAIM, takeover_wait, ""),
	ROW(CLAIM, TIMER, CLAIM, takeover_ask, "claim again, every 0.5 s"),
	ROW(CLAIM, IMAGES, CLAIM, NULL, ""),
	ROW(CLAIM, IMAGE_FAILED, YIELD, yield_begin, "give back what is being claimed"),

	ROW(STANDBY, HAND_OVER, ACCEPT, takeover_accept, "TAKING-OVER; claim with its token"),
	ROW(ACCEPT, WON, ACCEPT, takeover_load_held, "load, output held; network up"),
	ROW(ACCEPT, LOADED, HELD, takeover_start_held, "run; RUNS"),
	ROW(ACCEPT, NOT_LOADED, LISTEN, takeover_cannot_accept, "REFUSE; VM destroyed; STARTING"),
	ROW(ACCEPT, CLAIM_LOST, LISTEN, takeover_other_side, "VM destroyed; STARTING"),
	ROW(ACCEPT, WAS_STOPPED, DRAIN, secondary_drain, "the disk log goes to the images"),
	ROW(ACCEPT, NO_ANSWER, ACCEPT, takeover_wait, ""),
	ROW(ACCEPT, TIMER, ACCEPT, takeover_claim, "claim again, every 0.5 s"),
	ROW(ACCEPT, IMAGES, ACCEPT, NULL, ""),
	ROW(ACCEPT, IMAGE_FAILED, LISTEN, secondary_image_failed, "REFUSE; VM destroyed"),
	ROW(ACCEPT, LOST, ACCEPT_ALONE, NULL, ""),
	ROW(ACCEPT_ALONE, WON, CLAIM, takeover_ask, "claim again: the primary may have, too"),
	ROW(ACCEPT_ALONE, LOADED, CLAIM, takeover_ask, "claim again: the primary may have, too"),
	ROW(ACCEPT_ALONE, NOT_LOADED, LISTEN, takeover_cannot_accept, "VM destroyed; STARTING"),
	ROW(ACCEPT_ALONE, CLAIM_LOST, LISTEN, takeover_other_side, "VM destroyed; STARTING"),
	ROW(ACCEPT_ALONE, WAS_STOPPED, DRAIN_ALONE, secondary_drain, "as above"),
	ROW(ACCEPT_ALONE, NO_ANSWER, ACCEPT_ALONE, takeover_wait, ""),
	ROW(ACCEPT_ALONE, TIMER, ACCEPT_ALONE, takeover_claim, "claim again, every 0.5 s"),
	ROW(ACCEPT_ALONE, IMAGES, ACCEPT_ALONE, NULL, ""),
	ROW(ACCEPT_ALONE, IMAGE_FAILED, LISTEN, secondary_image_failed, "VM destroyed; STARTING"),

	ROW(HELD, GONE, LOCKS, takeover_gone, "lock shared images, every 20 ms"),
	ROW(HELD, TIMER, HELD, takeover_silent, "give the link up: no GONE in 5 s"),
	ROW(HELD, LOST, CONFIRM, takeover_alone, "VM stopped; claim again"),
	ROW(HELD, IMAGES, HELD, takeover_let_disks_go, "the guest's requests to the disks go on"),
	ROW(HELD, IMAGE_FAILED, LISTEN, secondary_image_failed, "output dropped, VM destroyed"),
	ROW(LOCKS, NO_ANSWER, LOCKS, takeover_wait, ""),
	ROW(LOCKS, TIMER, LOCKS, takeover_lock, "lock them, every 20 ms"),
	ROW(LOCKS, LOCKED, TAKEN, takeover_own, "output passes, announcements; DEGRADED"),
	ROW(LOCKS, LOST, LOCKS, NULL, ""),
	ROW(LOCKS, IMAGES, LOCKS, takeover_let_disks_go, "the guest's requests go on"),
	ROW(LOCKS, IMAGE_FAILED, LOCKS, takeover_lacks, "VM stopped, exit 2"),
	ROW(CONFIRM, LOCKED, CONFIRM, takeover_locked, "claim: the images are locked here"),
	ROW(CONFIRM, WON, TAKEN, takeover_confirmed, "the VM goes on, output passes; DEGRADED"),
	ROW(CONFIRM, CLAIM_LOST, LISTEN, takeover_other_side, "output dropped, VM destroyed"),
	ROW(CONFIRM, WAS_STOPPED, DRAIN_ALONE, secondary_drain, "as above"),
	ROW(CONFIRM, NO_ANSWER, CONFIRM, takeover_wait, ""),
	ROW(CONFIRM, TIMER, CONFIRM, takeover_ask, "claim again, every 0.5 s"),
	ROW(CONFIRM, IMAGES, CONFIRM, takeover_let_disks_go, "the guest's requests go on"),
	ROW(CONFIRM, IMAGE_FAILED, YIELD, yield_begin, "give back what is being claimed"),
	ROW(YIELD, GIVEN_BACK, LISTEN, secondary_image_failed, "output dropped, VM destroyed"),
	ROW(YIELD, NO_ANSWER, YIELD, takeover_wait, ""),
	ROW(YIELD, TIMER, YIELD, yield_ask, "give back again, every 0.5 s"),
	ROW(YIELD, IMAGE_FAILED, YIELD, NULL, ""),
	ROW(TAKEN, IMAGES, TAKEN, takeover_let_disks_go, "the guest's requests to the disks go on"),
	ROW(TAKEN, IMAGE_FAILED, TAKEN, takeover_lacks, "VM stopped, exit 2"),

	ROW(LISTEN, END, OVER, NULL, ""),
	ROW(ASKED, END, OVER, NULL, ""),
	ROW(SYNCING, END, OVER, NULL, ""),
	ROW(STANDBY, END, OVER, NULL, ""),
	ROW(TWIN, END, OVER, NULL, ""),
	ROW(TWIN_STAGES, END, OVER, NULL, ""),
	ROW(TWIN_CLAIM, END, OVER, NULL, ""),
	ROW(DRAIN, END, OVER, NULL, ""),
	ROW(DRAIN_ALONE, END, OVER, NULL, ""),
	ROW(DISMISSED, END, OVER, NULL, ""),
	ROW(CLAIM, END, OVER, NULL, ""),
	ROW(ACCEPT, END, OVER, NULL, ""),
	ROW(ACCEPT_ALONE, END, OVER, NULL, ""),
	ROW(HELD, END, OVER, NULL, ""),
	ROW(LOCKS, END, OVER, NULL, ""),
	ROW(CONFIRM, END, OVER, NULL, ""),
	ROW(YIELD, END, OVER, NULL, ""),
	ROW(TAKEN, END, OVER, NULL, ""),
};

#define X(name, what) "SEC_" #name,
static const char *const states[] = {SECONDARY_STATES(X)};
#undef X
#define X(name, what) what,
static const char *const events[] = {SECONDARY_EVENTS(X)};
#undef X

static void stray(void *arg)
{
	secondary_reject(arg, "message out of order");
}

const struct fsm_desc secondary_desc = {
	.name = "secondary",
	.rows = rows,
	.nrows = sizeof(rows) / sizeof(rows[0]),
	.nstates = SEC_STATE_MAX,
	.nevents = SEC_EV_MAX,
	.states = states,
	.events = events,
	.first_message = SEC_EV_PART,
	.end = SEC_OVER,
	.stray = stray,
};

/* --- interface -------------------------------------------------------------------------------- */

static void timer(struct loop_op *op, int res)
{
	secondary_post(op->arg, SEC_EV_TIMER);
}

int secondary_start(struct secondary *s, struct ft *ft, struct vm *vm,
		    void (*taken_over)(void *arg), void *arg, struct err *e)
{
	memset(s, 0, sizeof(*s));
	s->ft = ft;
	s->vm = vm;
	s->taken_over = taken_over;
	s->arg = arg;
	s->main.fd = -1;
	s->timer_op = (struct loop_op){.fn = timer, .arg = s};
	fsm_init(&s->fsm, &secondary_desc, s, SEC_LISTEN);
	return secondary_open_door(s, e);
}

/* Are there acknowledged writes that only this side may have? */
static bool owes_disks(const struct secondary *s)
{
	return s->has_vm && s->stage.committed && s->fsm.state >= SEC_STANDBY &&
	       s->fsm.state < SEC_TAKEN;
}

/*
 * What was acknowledged is not thrown away with the process: it may be all that is left of it. The
 * links stay only for a primary that waits to hear that its stop is done.
 */
static int drain_at_end(struct secondary *s)
{
	uint64_t until = loop_now_ns() + DRAIN_NS;
	int r;

	s->drain_error = 0;
	if (s->fsm.state != SEC_DRAIN) {
		secondary_close_link(s);
		secondary_post(s, SEC_EV_END);
	}
	if (!diskapply_idle(&s->disks))
		log_info("%llu bytes of acknowledged disk writes go to the image first",
			 (unsigned long long)s->disks.queue.bytes);
	while (s->has_vm && !diskapply_idle(&s->disks) && loop_now_ns() < until)
		loop_run_once(s->ft->loop, 100000000ull);
	r = s->has_vm ? s->disks.error : s->drain_error;
	if (!r && (!s->has_vm || diskapply_idle(&s->disks)))
		return 0;
	log_error("the image does not take them: it lacks acknowledged disk writes (%llu bytes "
		  "still wait); start the other side",
		  (unsigned long long)s->disks.queue.bytes);
	return -EIO;
}

/* What this side runs, or just ran, has its acknowledged writes in the image, or said that not. */
static void drop_disks(struct secondary *s, bool runs_here)
{
	/* If not, the requests of the guest that wait do not go out. */
	if (!runs_here || s->ft->images_behind)
		diskapply_drop(&s->disks);
	diskapply_done(&s->disks);
	stage_done(&s->stage);
}

/* By no token: one that has it is known by it to the primary, which claims the next. */
static bool is_claiming(const struct secondary *s)
{
	return s->claimed && (s->fsm.state == SEC_CLAIM || s->fsm.state == SEC_TWIN_CLAIM ||
			      s->fsm.state == SEC_CONFIRM || s->fsm.state == SEC_YIELD);
}

int secondary_stop(struct secondary *s)
{
	bool runs_here = s->fsm.state == SEC_TAKEN, claiming = is_claiming(s);
	bool has_twin = s->fsm.state == SEC_TWIN_CLAIM;
	struct err e = {0};
	int r = 0;

	if (!s->ft)
		return 0;
	door_close(&s->door); /* events are served below: nobody new */
	marks_forget(&s->ft->marks);
	arbiter_forget(s->ft->arbiter);
	loop_timer_del(s->ft->loop, &s->timer_op);
	if ((s->fsm.state == SEC_HELD || s->fsm.state == SEC_LOCKS ||
	     s->fsm.state == SEC_CONFIRM) &&
	    vm_pause(s->vm, &e))
		log_error("%s", e.msg);
	if (runs_here)
		twin_leave(&s->twin);
	else
		twin_abandon(&s->twin);
	if (owes_disks(s)) {
		stage_abort(&s->stage); /* a commit that has begun is brought to its end */
		r = drain_at_end(s);
	}
	if (s->fsm.state != SEC_OVER)
		secondary_post(s, SEC_EV_END);
	secondary_close_link(s);
	vm_announce_stop(&s->announce);
	if (s->has_vm && !runs_here)
		locking_forget(&s->locking, s->vm);
	if (claiming)
		yield_at_end(s, !r && !s->disks.error && !has_twin);
	if (s->has_vm)
		drop_disks(s, runs_here);
	disk_compare_free(&s->compare);
	s->ft = NULL;
	return r;
}
