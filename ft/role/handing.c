/*
 * A hand-over that has been asked for: without the arbiter the secondary could not go on, and this
 * side would be gone. Until it answers the VM runs, and epochs go on. Whatever else comes first
 * wins, and whoever asked is told.
 */
#include <errno.h>

#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

static void tell(struct primary *p, int code, const struct err *e)
{
	primary_handing *handing = p->handing;

	p->handing = NULL;
	arbiter_forget(p->ft->arbiter);
	handing(p->handing_arg, code, e);
}

static void tell_busy(struct primary *p, const char *why)
{
	struct err e = {0};

	tell(p, err_set(&e, -EBUSY, "failover: %s", why), &e);
}

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct primary *p = arg;

	p->answer = *a;
	primary_post(p, a->code ? PRI_EV_NO_ANSWER : PRI_EV_ANSWERED);
}

int primary_ask_for_hand_over(struct primary *p, primary_handing *done, void *arg, struct err *e)
{
	int r = arbiter_ask_read(p->ft->arbiter, answered, p);

	if (r)
		return err_set(e, r, "failover: the arbiter cannot be asked now");
	p->handing = done;
	p->handing_arg = arg;
	primary_post(p, PRI_EV_HAND_OVER);
	return 0;
}

static void begin(struct primary *p)
{
	static const struct err none;

	log_info("failover: handing over to %s", p->ft->peer);
	tell(p, 0, &none);
}

void primary_hand_over_due(void *arg)
{
	begin(arg);
	primary_stand(arg);
}

void primary_hand_over_now(void *arg)
{
	begin(arg);
	primary_last_seal(arg);
}

void primary_not_handed(void *arg)
{
	struct primary *p = arg;
	struct err e = p->answer.err;

	err_wrap(&e, "failover");
	tell(p, p->answer.code, &e);
}

void primary_lost_asking(void *arg)
{
	tell_busy(arg, "the secondary was lost meanwhile; `ftvmm status` says what this side does");
	primary_lost(arg);
}

void primary_stop_due_asking(void *arg)
{
	tell_busy(arg, "the VM is being stopped");
	primary_stand(arg);
}

void primary_stop_asking(void *arg)
{
	tell_busy(arg, "the VM is being stopped");
	primary_last_seal(arg);
}

void primary_give_up_asking(void *arg)
{
	tell_busy(arg, "this host cannot run the guest any more");
	primary_give_up(arg);
}
