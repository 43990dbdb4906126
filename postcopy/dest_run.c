/* All has come: lock, load, and run it when the source says so. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "postcopy/dest_do.h"
#include "postcopy/images.h"
#include "vmm/base/log.h"

#define GO_NS	       10000000000ull
#define STOPPED_MAX_NS (365ull * 86400 * 1000000000)

static int check_switch(struct dest *d, struct err *e)
{
	const struct frame *f = d->frame;

	if (f->length != sizeof(d->last))
		return err_set(e, -EBADMSG, "switch of a wrong length");
	memcpy(&d->last, f->data, sizeof(d->last));
	if ((d->last.mode != MIGRATE_PRECOPY &&
	     (d->last.mode != MIGRATE_POSTCOPY || d->urgent.fd < 0)) ||
	    d->last.paused > 1 || d->last.stopped_ns > STOPPED_MAX_NS)
		return err_set(e, -EBADMSG, "switch with values out of range");
	if (!d->has_state)
		return err_set(e, -EBADMSG, "switch without a state");
	return 0;
}

/* What is missing is waited for from here on, or nothing is. */
static int begin(struct dest *d, struct err *e)
{
	uint64_t at = loop_now_ns();
	int r = images_lock(d->vm, d->copied, e);

	d->stats.lock_ns = loop_now_ns() - at;
	if (r)
		return r;
	step_reached(STEP_MIG_LOCKED);
	r = dest_disks_end(d, e);
	if (r)
		return r;
	vm_commit(d->vm);
	if (d->last.mode == MIGRATE_POSTCOPY) {
		stream_shallow(&d->link);
		return pager_start(&d->pager, &d->urgent, e);
	}
	pager_drop(&d->pager);
	return 0;
}

/* The guest's time goes on: by the source's clock up to SWITCH, by this side's from there. */
void dest_load_now(struct dest *d)
{
	struct err e = {0};
	int r = vm_load(d->vm, d->last.stopped_ns + loop_now_ns() - d->switch_ns, &e);

	d->stats.load_ns = loop_now_ns() - d->switch_ns - d->stats.lock_ns;
	step_reached(STEP_MIG_LOADED);
	if (r)
		snprintf(d->why, sizeof(d->why), "%s", e.msg);
	dest_post(d, r ? DST_EV_NOT_LOADED : DST_EV_LOADED);
}

void dest_load(void *arg)
{
	struct dest *d = arg;
	struct err e = {0};
	int r;

	d->switch_ns = loop_now_ns();
	dest_timer(d, GO_NS);
	r = check_switch(d, &e);
	if (!r)
		r = begin(d, &e);
	if (!r) {
		dest_try_load(d);
		return;
	}
	snprintf(d->why, sizeof(d->why), "%s", e.msg);
	dest_post(d, DST_EV_NOT_LOADED);
}

void dest_say_ready(void *arg)
{
	struct dest *d = arg;
	struct wire_ready ready = {d->stats.lock_ns, d->stats.load_ns};

	dest_timer(d, GO_NS);
	if (dest_say(d, FRAME_READY, &ready, sizeof(ready)))
		dest_lose(d, "source: connection broken");
	step_reached(STEP_MIG_READY);
}

void dest_refuse(void *arg)
{
	struct dest *d = arg;

	dest_say(d, FRAME_REFUSE, d->why, strlen(d->why));
	dest_drop(d);
}

static int say_runs(struct dest *d, struct stream *st)
{
	struct wire_runs runs = {d->stats.run_ns};
	struct iovec iov = {&runs, sizeof(runs)};

	return stream_send(st, FRAME_RUNS, 0, &iov, 1, loop_now_ns() + 1000000000ull);
}

/* What the user had paused stays so, until somebody resumes it here. */
void dest_run(void *arg)
{
	struct dest *d = arg;
	uint64_t at = loop_now_ns();

	step_reached(STEP_MIG_TOLD);
	loop_timer_del(d->ft->loop, &d->timer_op);
	d->has_vm = false; /* it is the caller's */
	dest_disks_keep(d);
	d->runs(d->arg);
	vm_plug(d->vm);
	if (d->last.paused)
		d->ft->stands |= FT_STAND_USER;
	else
		vm_resume(d->vm);
	d->stats.ended_ns = d->ft->stats.first_run_mono_ns = loop_now_ns();
	d->stats.run_ns = d->stats.ended_ns - at;
	trace_span(&d->ft->trace, &(struct trace_span){d->stats.begun_ns, d->stats.ended_ns,
						       .n = d->stats.bytes, .what = TRACE_COMES});
	vm_announce(&d->announce, d->vm);
	step_reached(STEP_MIG_RAN);
	if (d->pager.mem)
		dest_post(d, DST_EV_LACKS); /* before a LOST */
	if (say_runs(d, &d->link))
		dest_lose(d, "source: connection broken");
	step_reached(STEP_MIG_SAID);
	d->ft->peer[0] = 0;
	ft_set(d->ft, FT_HERE, FT_NONE, NULL);
	if (!d->pager.mem)
		vm_tell_end(d->vm); /* an end of the guest that nobody was told of */
	log_info("migration: the VM runs here: images %.2f ms, load %.2f ms, run %.2f ms",
		 (double)d->stats.lock_ns / 1e6, (double)d->stats.load_ns / 1e6,
		 (double)d->stats.run_ns / 1e6);
}

void dest_alone(void *arg)
{
	struct dest *d = arg;

	dest_close_link(d);
	dest_close_doors(d);
}

/* --- a source that has lost the link asks ----------------------------------------------------- */

void dest_answer_never(void *arg)
{
	static const char strange[] = "that migration is not known here: this side was started "
				      "after it, or it was not to here";
	struct dest *d = arg;
	struct stream *st = &d->caller->stream;
	struct iovec iov = {(void *)strange, strlen(strange)};

	if (d->dropped && st->session == d->dropped)
		stream_send(st, FRAME_BYE, 0, NULL, 0, loop_now_ns() + 1000000000ull);
	else
		stream_send(st, FRAME_REFUSE, 0, &iov, 1, loop_now_ns() + 1000000000ull);
}

/* It has lost the link before this side has. */
void dest_drop_and_answer(void *arg)
{
	struct dest *d = arg;

	dest_listen_again(d, "source: lost the link before GO");
	dest_answer_never(d);
}

/* Its new link takes the place of the old one: GONE comes on it. */
void dest_answer_runs(void *arg)
{
	struct dest *d = arg;

	dest_close_link(d);
	door_take(d->caller, &d->link);
	if (say_runs(d, &d->link))
		dest_lose(d, "source: connection broken");
	else
		dest_listen_to_link(d);
}
