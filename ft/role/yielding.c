/*
 * An image failed, or this side was stopped, while the VM was being claimed: this side will not run
 * it, but may have won it, as the storage carries out what it was asked for. Forgotten, that claim
 * would be nobody's, and keep a side whose images have everything from starting.
 */
#include <errno.h>

#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct secondary *s = arg;

	s->answer = *a;
	if (!a->code)
		log_error(
			"takeover: this side's disk image failed when the VM was claimed already. "
			"Start the other side with --primary: its images have everything");
	if (!a->code || a->code == -ESTALE)
		secondary_post(s, SEC_EV_GIVEN_BACK);
	else
		secondary_post(s, SEC_EV_NO_ANSWER);
}

/* As a run of the primary's side, that is over; without disks no side is older than the other. */
static struct arbiter_record given_back(const struct secondary *s)
{
	struct arbiter_record as = s->theirs;

	as.end = as.side ? ARBITER_STOPPED : ARBITER_RELEASED;
	return as;
}

/*
 * A claim that hangs still is waited for by this question; when there is none, or another side's,
 * there is nothing to give back.
 */
void yield_ask(void *arg)
{
	struct secondary *s = arg;
	struct arbiter_record as = given_back(s);
	int r;

	r = arbiter_ask_put_back(s->ft->arbiter, s->claimed, &as, answered, s);
	if (!r)
		return;
	s->answer = (struct arbiter_answer){.code = r};
	err_set(&s->answer.err, r, "arbiter: cannot be asked now");
	secondary_post(s, SEC_EV_NO_ANSWER);
}

void yield_begin(void *arg)
{
	struct secondary *s = arg;

	loop_timer_del(s->ft->loop, &s->timer_op);
	arbiter_forget(s->ft->arbiter);
	locking_forget(&s->locking, s->vm);
	fsm_forget(&s->fsm, SEC_EV_WON, SEC_EV_NOT_LOADED);
	if (s->claimed)
		yield_ask(s);
	else
		secondary_post(s, SEC_EV_GIVEN_BACK);
}

static int give_back_at_end(const struct secondary *s, bool whole, struct err *e)
{
	struct arbiter *a = s->ft->arbiter;
	struct arbiter_record as = given_back(s);

	if (!whole)
		return arbiter_put_back(a, s->claimed, &as, e);
	return arbiter_end(a, s->claimed, arbiter_side(a) ? ARBITER_STOPPED : ARBITER_RELEASED, e);
}

/*
 * What ran here ran with its output held, and stands: nobody has seen any of it, and images that
 * took all that was acknowledged are as good as any, so this side may start again. Not where a twin
 * ran: what both said has left, and what it wrote then is in the other side's image alone. A second
 * claim that was not made leaves the first one, of a hand-over, as it is: the primary knows it.
 */
void yield_at_end(struct secondary *s, bool whole)
{
	struct err e = {0};
	int r;

	if (!arbiter_is_shared(s->ft->arbiter))
		return;
	r = give_back_at_end(s, whole, &e);
	if (!r)
		log_warn(
			"takeover: stopped when the VM was claimed already: it runs nowhere. Start "
			"%s side with --primary: its images have everything",
			whole ? "this" : "the other");
	else if (r != -ESTALE)
		log_warn("takeover: stopped, and the claim may still be carried out: %s. Then the "
			 "next start, %s, needs --claim",
			 e.msg, whole ? "of either side" : "of the other side alone");
}
