/*
 * How a primary comes to its end: the VM is over, or the secondary is to run it. Both begin with a
 * last epoch, so that the secondary has all that the guest did and its output may leave. Both are
 * over when the secondary has said so: until then the links stay, and the record is kept.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

#define EXIT_HANDED_OVER 3
#define EXIT_LACKS	 2
#define EXIT_HOST_FAILED 2
#define BYE_NS		 30000000000ull /* the secondary's images take what waits for them */
#define REST_NS		 50000000ull	/* between two looks at them here */
#define HANDED_NS	 5000000000ull	/* the secondary runs the VM by then, or never will */

/* --- the last epoch --------------------------------------------------------------------------- */

void primary_stand(void *arg)
{
	struct primary *p = arg;
	struct err e = {0};

	if (ft_stand(p->ft, p->vm, FT_STAND_END, NULL, &e))
		log_error("%s", e.msg);
}

void primary_last_seal(void *arg)
{
	primary_stand(arg);
	primary_seal_for(arg, FT_SEAL_LAST);
}

void primary_seal_again(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	primary_in_step(p);
	primary_seal_for(p, FT_SEAL_LAST);
}

void primary_stop_wins(void *arg)
{
	log_warn("failover: not any more, the VM is being stopped");
}

/* --- a stop ----------------------------------------------------------------------------------- */

void primary_say_bye(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	step_reached(STEP_GOODBYE);
	primary_timer(p, BYE_NS);
	send_drain(p->engine.send);
	/* First, as a full buffer takes longer than the peer waits for a heartbeat. */
	if (!link_say(p->link, FRAME_BYE, NULL, 0))
		return;
	step_reached(STEP_BYE_SAID);
	obuf_flush(&p->vm->obuf);
	snprintf(p->ft->note, sizeof(p->ft->note),
		 "stopped; waiting until the secondary's images have all disk writes");
}

static void recorded(void *arg, const struct arbiter_answer *a)
{
	struct primary *p = arg;

	p->answer = *a;
	if (a->code == -ESTALE)
		log_warn("%s", a->err.msg);
	else if (a->code)
		log_warn("%s; the next start needs --claim", a->err.msg);
	primary_post(p, PRI_EV_RECORDED);
}

/* Without disks that the guest writes no side can be older than the other. */
static void record(struct primary *p, enum arbiter_end end)
{
	struct arbiter *a = p->ft->arbiter;
	int r;

	if (!arbiter_side(a))
		end = ARBITER_RELEASED;
	else if (end == ARBITER_RELEASED)
		arbiter_set_peer(a, p->link->side);
	r = arbiter_ask_end(a, p->ft->generation, end, recorded, p);
	arbiter_set_peer(a, 0);
	if (!r)
		return;
	p->answer.code = r;
	log_warn("arbiter: cannot be asked now; the next start needs --claim");
	primary_post(p, PRI_EV_RECORDED);
}

void primary_done(void *arg)
{
	struct primary *p = arg;

	step_reached(STEP_DONE_HEARD);
	primary_mark(p, MARK_WHOLE);
	primary_close(p);
	record(p, ARBITER_RELEASED);
}

void primary_not_done(void *arg)
{
	struct primary *p = arg;
	char note[480];

	link_note_trouble(p->link, false, note, sizeof(note));
	step_reached(STEP_PEER_LOST);
	primary_close(p);
	obuf_flush(&p->vm->obuf);
	record(p, ARBITER_STOPPED);
}

void primary_leave(void *arg)
{
	struct primary *p = arg;

	primary_exit(p, p->end_code, p->ft->cover, NULL);
}

/* Not by a record that is lost, nor by one that says that this end was seen and let be. */
static bool is_taken_over(const struct primary *p)
{
	const struct arbiter_record *last = &p->answer.last;

	return p->answer.code == -ESTALE && last->generation > p->ft->generation &&
	       last->end == ARBITER_HELD;
}

void primary_leave_unsure(void *arg)
{
	struct primary *p = arg;

	if (is_taken_over(p)) {
		log_warn("stop: the other side has taken the VM over; stop it there");
		primary_mark(p, MARK_BEHIND);
		primary_exit(p, PRIMARY_EXIT_FENCED, FT_FENCED,
			     "the other side has taken the VM over");
		return;
	}
	if (arbiter_side(p->ft->arbiter))
		log_warn("stop: not confirmed, so the other side's images may be older than these: "
			 "start this side with --primary, the other one with --secondary");
	primary_leave(p);
}

/* --- a stop without a peer in step ------------------------------------------------------------ */

/* The record would let an image start unasked that is older than what was acknowledged. */
void primary_rest(void *arg)
{
	struct primary *p = arg;

	primary_stand(p);
	primary_close(p);
	obuf_flush(&p->vm->obuf);
	p->rest_until_ns = loop_now_ns() + BYE_NS;
	if (p->ft->images_behind) {
		snprintf(p->ft->note, sizeof(p->ft->note),
			 "stopped; acknowledged disk writes wait for the image");
		log_info("stop: acknowledged disk writes wait for the image");
	}
	primary_look_at_images(p);
}

void primary_look_at_images(void *arg)
{
	struct primary *p = arg;

	if (!p->ft->images_behind)
		primary_post(p, PRI_EV_IMAGES);
	else if (loop_now_ns() >= p->rest_until_ns)
		primary_post(p, PRI_EV_IMAGES_LATE);
	else
		primary_timer(p, REST_NS);
}

void primary_images_ready(void *arg)
{
	struct primary *p = arg;

	obuf_flush(&p->vm->obuf); /* what waited for them */
	record(p, ARBITER_STOPPED);
}

void primary_images_late(void *arg)
{
	struct primary *p = arg;

	log_error("stop: the image lacks acknowledged disk writes, which it did not take in time; "
		  "the record is not given back. Start the other side with --primary --claim: its "
		  "images have them");
	primary_exit(p, p->end_code ? p->end_code : EXIT_LACKS, p->ft->cover,
		     "the image lacks disk writes");
}

/* --- a hand-over ------------------------------------------------------------------------------ */

void primary_hand(void *arg)
{
	struct primary *p = arg;
	struct wire_hand_over w;

	engine_acked(&p->engine);
	obuf_flush(&p->vm->obuf); /* not once the secondary speaks for the guest */
	step_reached(STEP_GOODBYE);
	if (getrandom(&p->token, sizeof(p->token), 0) != sizeof(p->token))
		p->token = loop_now_ns();
	p->token |= 1; /* not 0 */
	w.token = p->token;
	/* Its loop waits for the arbiter and loads the VM: only the end of a link is a death. */
	if (p->link->heart.timeout_ns < HANDED_NS)
		p->link->heart.timeout_ns = HANDED_NS;
	primary_timer(p, HANDED_NS);
	send_drain(p->engine.send);
	if (link_say(p->link, FRAME_HAND_OVER, &w, sizeof(w)))
		step_reached(STEP_HANDED);
}

/* From here on this side never claims. When the word is lost, the secondary does. */
void primary_gone(void *arg)
{
	struct primary *p = arg;

	step_reached(STEP_RUNS_HEARD);
	stream_send(&p->link->main, FRAME_GONE, 0, NULL, 0, loop_now_ns() + LINK_SEND_NS);
	step_reached(STEP_GONE_SAID);
	log_info("handed over to %s", p->ft->peer);
	primary_mark(p, MARK_BEHIND);
	primary_close(p);
	primary_exit(p, EXIT_HANDED_OVER, p->ft->cover, FT_HANDED_OVER);
}

void primary_stop_after(void *arg)
{
	log_warn("failover: the secondary is about to run the VM; stop it there, too: this side "
		 "will stop it if it comes back");
}

/* --- no end ----------------------------------------------------------------------------------- */

/* A goodbye, or a claim, would keep the secondary from taking over. */
void primary_give_up(void *arg)
{
	struct primary *p = arg;

	log_error("this host cannot run the guest any more: %s; stopping here, so that the "
		  "secondary takes over",
		  vm_end_why(p->vm));
	/* The secondary speaks for the guest as soon as the links end. */
	obuf_drop(&p->vm->obuf);
	primary_mark(p, MARK_BEHIND);
	primary_close(p);
	primary_exit(p, EXIT_HOST_FAILED, p->ft->cover, "this host cannot run the guest any more");
}
