/*
 * An image failed while the VM was being claimed: this side cannot run it, but may have won it, as
 * the storage carries out what it was asked for. Forgotten, that claim would be nobody's, and keep
 * the other side, whose images have everything, from starting.
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

/*
 * As a run of the primary's side, that is over. A claim that hangs still is waited for by this
 * question; when there is none, or another side's, there is nothing to give back.
 */
void yield_ask(void *arg)
{
	struct secondary *s = arg;
	struct arbiter_record as = s->theirs;
	int r;

	as.end = ARBITER_STOPPED;
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
