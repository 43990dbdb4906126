/*
 * What the guest did that others hear of as events: it is output like any other, and leaves when
 * the epoch of it is held by the other side. Else a survivor's guest would not have done it.
 */
#include "vmm/cli/run.h"

#include <string.h>

#include "vmm/base/log.h"

static const char *const names[RUN_EVENTS] = {
	[RUN_EVENT_RESET] = "guest-reset", [RUN_EVENT_PANIC] = "guest-panic"};

static bool deliver(void *arg, const void *data, uint32_t len)
{
	struct run *r = arg;

	ctl_event(r->ctl, json_pack("{s:s%}", "event", (const char *)data, (size_t)len));
	return true;
}

static int sink_of(const struct run *r)
{
	const struct obuf *ob = &r->vm.obuf;

	for (unsigned i = 0; i < ob->nsinks; i++)
		if (ob->sinks[i].deliver == deliver)
			return (int)i;
	return -1;
}

void run_events_init(struct run *r)
{
	int sink = sink_of(r);

	if (sink >= 0)
		return;
	sink = obuf_add_sink(&r->vm.obuf, OBUF_EVENT, deliver, NULL, r);
	VMM_BUG_ON(sink < 0); /* OBUF_MAX_SINKS is more than MACHINE_MAX_DEVS needs */
}

void run_event(struct run *r, enum run_event what)
{
	struct iovec iov = {(void *)names[what], strlen(names[what])};

	if (obuf_put(&r->vm.obuf, sink_of(r), &iov, 1))
		log_error("event %s: no memory", names[what]);
}
