/*
 * ft=off: the VM goes on without protection. Whoever is in step could take over as soon as it hears
 * nothing, with what is old by then: so it is told, after a last epoch, and output is held until it
 * has said that it will not. When its word does not come the VM is claimed, as after any loss.
 */
#include <string.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

#define DISMISS_NS 5000000000ull

void primary_last_epoch(void *arg)
{
	primary_seal_for(arg, FT_SEAL_LAST);
}

void primary_dismiss(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	primary_timer(p, DISMISS_NS);
	send_drain(p->engine.send);
	if (link_say(p->link, FRAME_DISMISS, NULL, 0))
		step_reached(STEP_DISMISS_SAID);
}

/* Nobody else can run the VM. */
static void alone(struct primary *p)
{
	primary_close(p);
	/* A peer is looked for before this side has claimed the VM. */
	ft_set(p->ft, p->ft->life, FT_UNPROTECTED,
	       "ft=off: no peer is tried, nobody would take over; ft=mc, kemari, auto or colo "
	       "protects the VM again");
}

/* Output that is held is so for another reason: what a twin wrote is in no image yet. */
void primary_off(void *arg)
{
	alone(arg);
}

void primary_dismissed(void *arg)
{
	struct primary *p = arg;

	alone(p);
	obuf_pass(&p->vm->obuf);
}

void primary_dismissed_to_stop(void *arg)
{
	primary_dismissed(arg);
	primary_rest(arg);
}

void primary_on(void *arg)
{
	struct primary *p = arg;

	memset(p->unsynced, 0, sizeof(p->unsynced));
	ft_set(p->ft, p->ft->life, FT_UNPROTECTED, "no peer yet");
	primary_timer(p, 0);
}
