/*
 * With a twin at this side (ft/role/twin.h): it runs between checkpoints, stands while one comes
 * in, and goes on when the primary is lost.
 */
#include <errno.h>
#include <stdio.h>

#include "ft/common/steps.h"
#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_net.h"

static int load(struct secondary *s, struct err *e)
{
	int r = twin_begin(&s->twin, s->stage.committed + 1, e);

	if (r)
		return r;
	if (diskapply_idle(&s->disks))
		takeover_let_disks_go(s);
	else
		takeover_hold_disks(s);
	return vm_load(s->vm, loop_now_ns() - s->committed_ns, e);
}

/*
 * The primary sees the mirror end, and goes on as with kemari. What was loaded in part is no state
 * to go on with: a takeover loads the checkpoint, behind which nothing has left.
 */
static void cannot_run(struct secondary *s, const char *why)
{
	log_error("twin: %s; as with kemari until there is another primary", why);
	twin_abandon(&s->twin);
	s->twin.unfit = true;
	secondary_post(s, SEC_EV_TWIN_OFF);
}

/* The primary's guest may have done so, too, and be said to have: then that one counts. */
static void ended(void *arg)
{
	struct secondary *s = arg;

	twin_apart(&s->twin, s->vm->ending.end == VM_END_HOST ? APART_HOST : APART_ENDED);
}

/* One that has ended in the checkpoint waits for what the primary does about it. */
static void watch(struct secondary *s)
{
	s->vm->watch.on_end = s->vm->ending.end == VM_END_NONE ? ended : NULL;
	s->vm->watch.arg = s;
}

void twinning_run(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};

	if (load(s, &e)) {
		cannot_run(s, e.msg);
		return;
	}
	step_reached(STEP_TWIN_LOADED);
	watch(s);
	if (!s->stage.paused)
		vm_resume(s->vm);
	twin_go(&s->twin);
	step_reached(STEP_TWIN_RUNS);
}

void twinning_suspend(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};

	s->vm->watch.on_end = NULL;
	if (twin_stand(&s->twin, &e)) {
		secondary_reject(s, e.msg);
		return;
	}
	step_reached(STEP_TWIN_SUSPENDED);
	secondary_take_part(s);
}

/* --- the primary is lost ---------------------------------------------------------------------- */

void twinning_lost(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};
	char note[160];
	int r;

	snprintf(note, sizeof(note), "primary: %.120s", s->why);
	log_warn("%s", note);
	s->lost_ns = loop_now_ns();
	stage_abort(&s->stage);
	ft_set(s->ft, FT_ELSEWHERE, FT_TAKING_OVER, note);
	s->vm->watch.on_end = NULL;
	r = vm_pause(s->vm, &e);
	/* Without the twin, what has left since the checkpoint is known to nobody. */
	if (!r && s->vm->ending.end == VM_END_HOST)
		r = err_set(&e, -EIO, "%s", vm_end_why(s->vm));
	if (r) {
		log_error("takeover: %s", e.msg);
		s->ft->on_exit(s->ft->arg, 2);
		return;
	}
	takeover_ask(s);
}

void twinning_take_over(void *arg)
{
	struct secondary *s = arg;
	bool merges;

	step_reached(STEP_TAKEOVER_LOAD);
	merges = twin_keep(&s->twin);
	step_reached(STEP_TAKEOVER_LINK);
	vm_plug(s->vm);
	/* What it was told is written is in no image yet, and is said by nobody until it is. */
	if (merges)
		obuf_hold(&s->vm->obuf, s->vm->obuf.epoch + 1);
	/* Before this side, as a primary, looks for a secondary: a sync would read the images. */
	s->ft->images_behind = merges || !diskapply_idle(&s->disks);
	takeover_start(s);
	if (diskapply_idle(&s->disks)) /* else when it is */
		takeover_let_disks_go(s);
}
