/*
 * How a primary comes to its end: the VM is over, or the secondary is to run it. Both begin with a
 * last epoch, so that the secondary has all that the guest did and its output may leave.
 */
#include <errno.h>
#include <stdio.h>

#include "ft/primary.h"
#include "ft/steps.h"
#include "vmm/log.h"

#define EXIT_HANDED_OVER 3
#define LOOK_NS		 20000000ull   /* between looks for the secondary's claim */
#define CLAIMED_NS	 5000000000ull /* the secondary has claimed the VM by then, or never will */

/* --- the last word ---------------------------------------------------------------------------- */

static void say(struct primary *p, enum frame_type type)
{
	if (p->phase != PRI_EPOCHS)
		return;
	step_reached(STEP_GOODBYE);
	send_drain(&p->send);
	stream_send(&p->main, type, 0, NULL, 0, loop_now_ns() + PRIMARY_CONNECT_NS);
}

static void give_back(struct primary *p)
{
	struct err e = {0};

	/* Not given back, or the other side could be started from an image that lacks what was
	 * acknowledged. */
	if (p->peer_behind)
		log_warn(
			"the other side's image is older than this one: to run the VM again, start "
			"this side, with --claim");
	else if (arbiter_release(p->ft->arbiter, p->ft->generation, &e))
		log_warn("%s", e.msg);
}

static void leave(struct primary *p, const char *why)
{
	ft_set_state(p->ft, FT_STOPPED, why);
	p->ft->on_exit(p->ft->arg, p->end_code);
}

/* The secondary's claim is the proof that the VM goes on there. Without one, this side claims it.
 */
static void look_for_claim(struct loop_op *op, int res)
{
	struct primary *p = op->arg;
	struct arbiter_record rec;

	if (!arbiter_read(p->ft->arbiter, &rec, NULL) && rec.generation > p->ft->generation) {
		leave(p, "handed over");
	} else if (loop_now_ns() - p->handed_ns < CLAIMED_NS) {
		loop_timer_set(p->ft->loop, op, LOOK_NS);
	} else {
		p->handed_ns = 0;
		snprintf(p->lost_why, sizeof(p->lost_why),
			 "failover: the secondary did not claim the VM");
		primary_claim(p);
	}
}

static void hand_over(struct primary *p)
{
	obuf_flush(&p->vm->obuf); /* not once the secondary speaks for the guest */
	/* The generation stays as it is: the secondary claims the next one. */
	say(p, FRAME_HAND_OVER);
	log_info("handed over to %s", p->ft->peer);
	if (!arbiter_is_shared(p->ft->arbiter)) {
		leave(p, "handed over");
		return;
	}
	primary_close_link(p);
	p->handed_ns = loop_now_ns();
	p->handed_op = (struct loop_op){.fn = look_for_claim, .arg = p};
	loop_timer_set(p->ft->loop, &p->handed_op, LOOK_NS);
}

/* Everything the guest did is acknowledged, or this side alone owns the VM. */
void primary_finish(struct primary *p)
{
	if (p->handing_over) {
		hand_over(p);
		return;
	}
	/* First, as a full buffer takes longer than the peer waits for a heartbeat. */
	say(p, FRAME_BYE);
	obuf_flush(&p->vm->obuf);
	give_back(p);
	leave(p, NULL);
}

/* --- the last epoch --------------------------------------------------------------------------- */

static void last_epoch(struct primary *p, int code)
{
	struct err e = {0};

	p->ending = true;
	p->end_code = code;
	vm_pause(p->vm, &e);
	if (p->owe_claim) {
		primary_fence(p); /* nobody may say that this side owns the VM: its output stays */
	} else if (p->phase != PRI_EPOCHS) {
		primary_finish(p);
	} else if (p->in_flight) {
		p->due = true; /* one more after it: it has what the guest did since */
		loop_timer_set(p->ft->loop, &p->epoch_op, 0);
	} else {
		epoch_seal(p);
	}
}

void primary_end(struct primary *p, int code)
{
	if ((p->ending && !p->handing_over) || p->handed_ns)
		return;
	if (p->handing_over)
		log_warn("failover: not any more, the VM is being stopped");
	p->handing_over = false;
	last_epoch(p, code);
}

int primary_hand_over(struct primary *p, struct err *e)
{
	struct arbiter_record rec;
	int r;

	if (p->ending)
		return err_set(e, -EBUSY, "failover: the VM is being %s",
			       p->handing_over ? "handed over" : "stopped");
	if (p->ft->state != FT_PROTECTED)
		return err_set(e, -EBUSY, "failover: the VM is %s: there is no secondary in step",
			       ft_state_name(p->ft->state));
	if (p->user_paused)
		return err_set(e, -EBUSY,
			       "failover: the VM is paused, and would run at the "
			       "secondary; resume it first");
	/* Without it the secondary could not go on, and this side would be gone. */
	r = arbiter_read(p->ft->arbiter, &rec, e);
	if (r) {
		err_wrap(e, "failover");
		return r;
	}
	log_info("failover: handing over to %s", p->ft->peer);
	p->handing_over = true;
	last_epoch(p, EXIT_HANDED_OVER);
	return 0;
}

void primary_keep(struct primary *p)
{
	if (!p->handing_over)
		return;
	log_warn("failover: the secondary is lost; the VM goes on here");
	p->handing_over = p->ending = false;
}
