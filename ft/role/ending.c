/*
 * How a primary comes to its end: the VM is over, or the secondary is to run it. Both begin with a
 * last epoch, so that the secondary has all that the guest did and its output may leave. Both are
 * over when the secondary has said so: until then the links stay, and the record is kept.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "ft/role/primary.h"
#include "ft/common/steps.h"
#include "vmm/base/log.h"

#define EXIT_HANDED_OVER 3
#define EXIT_LACKS	 2
#define BYE_NS		 30000000000ull /* the secondary's images take what waits for them */
#define REST_NS		 50000000ull	/* between two looks at them here */
#define HANDED_NS	 5000000000ull	/* the secondary runs the VM by then, or never will */

/* --- the last word ---------------------------------------------------------------------------- */

static void leave(struct primary *p, int code, const char *why)
{
	ft_set_state(p->ft, FT_STOPPED, why);
	p->ft->on_exit(p->ft->arg, code);
}

/* Without disks that the guest writes no side can be older than the other. */
static int end_record(struct primary *p, enum arbiter_end end)
{
	struct ft *ft = p->ft;
	struct err e = {0};
	int r;

	if (!arbiter_side(ft->arbiter))
		end = ARBITER_RELEASED;
	r = arbiter_end(ft->arbiter, ft->generation, end, &e);
	if (r == -ESTALE)
		log_warn("%s", e.msg);
	else if (r)
		log_warn("%s; the next start needs --claim", e.msg);
	return r;
}

/* False: the link broke, and what that means has been done. */
static bool say(struct primary *p, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	send_drain(&p->send);
	if (!stream_send(&p->main, type, 0, &iov, len ? 1 : 0, loop_now_ns() + PRIMARY_CONNECT_NS))
		return true;
	primary_lost(p, "link broken");
	return false;
}

static void say_bye(struct primary *p)
{
	step_reached(STEP_GOODBYE);
	p->phase = PRI_BYE;
	loop_timer_set(p->ft->loop, &p->timer_op, BYE_NS);
	/* First, as a full buffer takes longer than the peer waits for a heartbeat. */
	if (!say(p, FRAME_BYE, NULL, 0))
		return;
	step_reached(STEP_BYE_SAID);
	obuf_flush(&p->vm->obuf);
	snprintf(p->ft->note, sizeof(p->ft->note),
		 "stopped; waiting until the secondary's images have all disk writes");
}

void primary_done(struct primary *p)
{
	step_reached(STEP_DONE_HEARD);
	primary_close_link(p);
	end_record(p, ARBITER_RELEASED);
	leave(p, p->end_code, NULL);
}

void primary_not_done(struct primary *p)
{
	obuf_flush(&p->vm->obuf);
	if (end_record(p, ARBITER_STOPPED) == -ESTALE)
		log_warn("stop: the other side has taken the VM over; stop it there");
	else if (arbiter_side(p->ft->arbiter))
		log_warn("stop: not confirmed, so the other side's images may be older than these: "
			 "start this side with --primary, the other one with --secondary");
	leave(p, p->end_code, NULL);
}

static void hand_over(struct primary *p)
{
	struct wire_hand_over w;

	obuf_flush(&p->vm->obuf); /* not once the secondary speaks for the guest */
	step_reached(STEP_GOODBYE);
	if (getrandom(&p->token, sizeof(p->token), 0) != sizeof(p->token))
		p->token = loop_now_ns();
	p->token |= 1; /* not 0 */
	w.token = p->token;
	p->ending = END_HANDED;
	p->phase = PRI_HANDED;
	/* Its loop waits for the arbiter and loads the VM: only the end of a link is a death. */
	if (p->heart.timeout_ns < HANDED_NS)
		p->heart.timeout_ns = HANDED_NS;
	loop_timer_set(p->ft->loop, &p->timer_op, HANDED_NS);
	if (say(p, FRAME_HAND_OVER, &w, sizeof(w)))
		step_reached(STEP_HANDED);
}

/* From here on this side never claims. When the word is lost, the secondary does. */
void primary_gone(struct primary *p)
{
	step_reached(STEP_RUNS_HEARD);
	stream_send(&p->main, FRAME_GONE, 0, NULL, 0, loop_now_ns() + PRIMARY_CONNECT_NS);
	step_reached(STEP_GONE_SAID);
	log_info("handed over to %s", p->ft->peer);
	primary_close_link(p);
	leave(p, EXIT_HANDED_OVER, "handed over");
}

/* The record would let an image start unasked that is older than what was acknowledged. */
static void wait_for_images(struct primary *p)
{
	struct ft *ft = p->ft;

	if (p->phase != PRI_REST) {
		p->phase = PRI_REST;
		p->rest_until_ns = loop_now_ns() + BYE_NS;
		snprintf(ft->note, sizeof(ft->note),
			 "stopped; acknowledged disk writes wait for the image");
		log_info("stop: acknowledged disk writes wait for the image");
	}
	if (loop_now_ns() < p->rest_until_ns) {
		loop_timer_set(ft->loop, &p->timer_op, REST_NS);
		return;
	}
	log_error("stop: the image lacks acknowledged disk writes, which it did not take in time; "
		  "the record is not given back. Start the other side with --primary --claim: its "
		  "images have them");
	leave(p, p->end_code ? p->end_code : EXIT_LACKS, "the image lacks disk writes");
}

static void finish_alone(struct primary *p)
{
	obuf_flush(&p->vm->obuf);
	if (p->ft->images_behind) {
		wait_for_images(p);
		return;
	}
	end_record(p, ARBITER_STOPPED);
	leave(p, p->end_code, NULL);
}

/* Everything the guest did is acknowledged, or this side alone owns the VM. */
void primary_finish(struct primary *p)
{
	if (p->ending == END_HAND_OVER && p->phase == PRI_EPOCHS)
		hand_over(p);
	else if (p->phase == PRI_EPOCHS)
		say_bye(p);
	else
		finish_alone(p);
}

/* --- the last epoch --------------------------------------------------------------------------- */

static void last_epoch(struct primary *p, enum primary_end end, int code)
{
	struct err e = {0};

	p->ending = end;
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
	if (p->ending == END_STOP)
		return;
	if (p->ending == END_HANDED && !p->owe_claim) {
		log_warn("failover: the secondary is about to run the VM; stop it there, too: "
			 "this side will stop it if it comes back");
		p->stop_after = true;
		p->stop_code = code;
		return;
	}
	if (p->ending == END_HAND_OVER)
		log_warn("failover: not any more, the VM is being stopped");
	if (p->ending == END_HANDED) /* and the arbiter does not say to whom the VM belongs */
		last_epoch(p, END_HANDED, p->end_code);
	else
		last_epoch(p, END_STOP, code);
}

int primary_hand_over(struct primary *p, struct err *e)
{
	struct arbiter_record rec;
	int r;

	if (p->ending)
		return err_set(e, -EBUSY, "failover: the VM is being %s",
			       p->ending == END_STOP ? "stopped" : "handed over");
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
	last_epoch(p, END_HAND_OVER, EXIT_HANDED_OVER);
	return 0;
}

void primary_keep(struct primary *p)
{
	if (p->ending != END_HAND_OVER && p->ending != END_HANDED)
		return;
	if (p->stop_after) {
		log_warn("failover: the secondary is lost; the VM is stopped here");
		p->ending = END_STOP;
		p->end_code = p->stop_code;
		return;
	}
	log_warn("failover: the secondary is lost; the VM goes on here");
	p->ending = END_NOT;
}
