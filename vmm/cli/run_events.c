/*
 * What the guest did that others hear of as events: it is output like any other, and leaves when
 * the epoch of it is held by the other side. Else a survivor's guest would not have done it.
 */
#include "vmm/cli/run.h"

#include <errno.h>
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

/* False: there is no room for it now. */
static bool put(struct run *r, enum run_event what)
{
	struct iovec iov = {(void *)names[what], strlen(names[what])};

	return obuf_put(&r->vm.obuf, sink_of(r), &iov, 1) != -EAGAIN;
}

static void room(void *arg)
{
	struct run *r = arg;

	for (unsigned i = 0; i < RUN_EVENTS; i++)
		while (r->events_wait[i] && put(r, i))
			r->events_wait[i]--;
}

void run_events_init(struct run *r)
{
	memset(r->events_wait, 0, sizeof(r->events_wait));
	if (sink_of(r) < 0)
		VMM_BUG_ON(obuf_add_sink(&r->vm.obuf, deliver, room, r) <
			   0); /* machine.h: room for all */
}

void run_event(struct run *r, enum run_event what)
{
	if (!put(r, what))
		r->events_wait[what]++;
}
