/*
 * Takeover: the primary is lost and this side holds a committed epoch. Claim, load registers and
 * devices, plug the network in, let the vCPUs go, announce. Disk requests wait until the log of the
 * committed epochs is in the images.
 *
 * A hand-over is the same, but the primary lives, and takes the VM back when it hears nothing: all
 * output, announcements too, is held until it has said that it is gone, or a second claim is won.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/role/secondary_do.h"
#include "ft/common/steps.h"
#include "vmm/base/log.h"

#define RETRY_NS 500000000ull
#define LOCK_NS	 20000000ull
#define LOCKS	 (RETRY_NS / LOCK_NS) /* tries until the arbiter is asked who goes on */
#define GONE_NS	 5000000000ull	      /* the old side has answered by then, or never will */

void takeover_hold_disks(struct secondary *s)
{
	for (unsigned i = 0; i < s->vm->machine.ndevs && !diskapply_idle(&s->disks); i++)
		if (s->vm->machine.devs[i].kind == MDEV_BLK &&
		    s->vm->machine.devs[i].ft == DISK_FT_MIRROR)
			disk_hold(&s->vm->devices.disks[i], true);
}

static void trace(struct secondary *s, enum trace_what what, uint64_t from, uint64_t to)
{
	trace_span(&s->ft->trace, &(struct trace_span){from, to, s->stage.committed, .what = what});
}

/* --- shared images ---------------------------------------------------------------------------- */

/* Its guest neither reads nor writes them before they are locked here: until then they may change.
 */
static void hold_shared(struct secondary *s, bool hold)
{
	for (unsigned i = 0; i < s->vm->machine.ndevs; i++)
		if (machine_is_shared(&s->vm->machine.devs[i]))
			disk_hold(&s->vm->devices.disks[i], hold);
}

/* Is it locked because the other side has claimed, and goes on? */
static void looked(void *arg, const struct arbiter_answer *a)
{
	struct secondary *s = arg;

	if (a->code)
		s->answer = *a;
	if (!a->code && a->last.generation > s->ft->generation &&
	    !(s->hello.token && a->last.token == s->hello.token))
		secondary_post(s, SEC_EV_CLAIM_LOST);
	else
		secondary_post(s, SEC_EV_NO_ANSWER);
}

/*
 * A program that fences takes the locks away, too, by switching that host off: so it is asked once,
 * before they are had. What is won by that is claimed again, with them.
 */
static bool may_fence(const struct secondary *s)
{
	return !strncmp(s->ft->cfg->arbiter, "exec:", 5) && s->locking.tries == LOCKS &&
	       s->fsm.state == SEC_CLAIM;
}

static void lock_answered(void *arg, const struct err *e)
{
	struct secondary *s = arg;
	bool fences = e->code && may_fence(s);

	if (!e->code || fences) {
		secondary_post(s, SEC_EV_LOCKED);
		return;
	}
	s->answer = (struct arbiter_answer){.code = e->code, .err = *e};
	/* Every half a second, and when it is nobody's yet that goes on. */
	if (s->fsm.state == SEC_LOCKS || s->locking.tries % LOCKS ||
	    arbiter_ask_read(s->ft->arbiter, looked, s))
		secondary_post(s, SEC_EV_NO_ANSWER);
}

static void ask_for_locks(struct secondary *s)
{
	struct err e = {0};

	s->locking.answered = lock_answered;
	s->locking.arg = s;
	if (!locking_ask(&s->locking, s->vm, &e))
		return;
	s->answer = (struct arbiter_answer){.code = e.code, .err = e};
	secondary_post(s, SEC_EV_NO_ANSWER);
}

/* Claimed without them: fenced by that, and not to be run yet. */
static bool lacks_locks(struct secondary *s)
{
	if (!locking_is_needed(s->vm) || s->locking.has)
		return false;
	s->answer = (struct arbiter_answer){.code = -EBUSY};
	err_set(&s->answer.err, -EBUSY, "the images are locked still");
	secondary_post(s, SEC_EV_NO_ANSWER);
	return true;
}

static void mark_images(struct secondary *s)
{
	if (s->ft->life == FT_HERE && !s->ft->images_behind)
		marks_ask(&s->ft->marks, s->vm, MARK_RUN, s->ft->generation);
}

/* The VM is this side's: it speaks for the guest from here on. */
static void own(struct secondary *s)
{
	struct ft *ft = s->ft;

	secondary_close_link(s);
	loop_timer_del(ft->loop, &s->timer_op);
	s->claimed = 0;
	ft->peer[0] = 0;
	ft_set(ft, FT_HERE, FT_DEGRADED, "took over");
	log_info("takeover: the vCPUs were let go %.2f ms after the loss, from epoch %llu; %llu "
		 "bytes of disk writes go to the images behind it",
		 (double)ft->stats.takeover_ns / 1e6, (unsigned long long)s->stage.committed,
		 (unsigned long long)s->disks.queue.bytes);
	stage_done(&s->stage);
	s->taken_over(s->arg);
	hold_shared(s, false);
	if (!twin_merges(&s->twin)) /* else when it has */
		obuf_pass(&s->vm->obuf);
	vm_announce(&s->announce, s->vm);
	vm_tell_end(s->vm); /* an end of the guest that nobody was told of */
	mark_images(s);
}

/* --- claim ------------------------------------------------------------------------------------ */

/* The primary made this side its secondary by a claim of its own, and was lost before it said so.
 */
static bool is_moved(const struct secondary *s, const struct arbiter_answer *a)
{
	return a->code == -ESTALE && s->hello.token &&
	       a->last.generation == s->ft->generation + 1 && a->last.token == s->hello.token;
}

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct secondary *s = arg;

	s->answer = *a;
	if (is_moved(s, a)) {
		s->hello.token = 0;
		s->ft->generation++;
		takeover_claim(s);
		return;
	}
	/* What is won after a loss may still have to be given back: without locks, or not loaded.
	 */
	if (a->code == -ESTALE || a->code == -ECANCELED || (!a->code && s->fsm.state != SEC_CLAIM))
		s->claimed = 0;
	if (!a->code) {
		s->ft->generation++;
		arbiter_set_token(s->ft->arbiter, 0); /* the next claim is for good */
		secondary_post(s, SEC_EV_WON);
	} else if (a->code == -ESTALE) {
		secondary_post(s, SEC_EV_CLAIM_LOST);
	} else if (a->code == -ECANCELED) {
		secondary_post(s, SEC_EV_WAS_STOPPED);
	} else {
		secondary_post(s, SEC_EV_NO_ANSWER);
	}
}

void takeover_ask(void *arg)
{
	struct secondary *s = arg;

	if (locking_is_needed(s->vm) && !s->locking.has)
		ask_for_locks(s);
	else
		takeover_claim(s);
}

void takeover_locked(void *arg)
{
	struct secondary *s = arg;

	loop_timer_del(s->ft->loop, &s->timer_op);
	takeover_claim(s);
}

void takeover_claim(void *arg)
{
	struct secondary *s = arg;
	int r;

	step_reached(STEP_TAKEOVER_CLAIM);
	if (s->disks.error) {
		secondary_post(s, SEC_EV_IMAGE_FAILED);
		return;
	}
	s->claimed = s->ft->generation + 1;
	r = arbiter_ask_claim(s->ft->arbiter, s->ft->generation, ARBITER_GO_ON, answered, s);
	if (!r)
		return;
	s->answer = (struct arbiter_answer){.code = r};
	err_set(&s->answer.err, r, "arbiter: cannot be asked now");
	secondary_post(s, SEC_EV_NO_ANSWER);
}

void takeover_wait(void *arg)
{
	struct secondary *s = arg;
	unsigned tries = s->locking.tries;

	/* A process that was killed may need a moment to give its locks back. */
	if (!tries || tries >= LOCKS)
		ft_set(s->ft, s->ft->life, FT_TAKING_OVER, s->answer.err.msg);
	secondary_timer(s, tries ? LOCK_NS : RETRY_NS);
}

void takeover_other_side(void *arg)
{
	secondary_listen_again(arg, "the other side goes on");
}

/* --- after a loss ----------------------------------------------------------------------------- */

void takeover_lost(void *arg)
{
	struct secondary *s = arg;
	char note[160];

	snprintf(note, sizeof(note), "primary: %.120s", s->why);
	log_warn("%s", note);
	s->lost_ns = loop_now_ns();
	loop_timer_del(s->ft->loop, &s->timer_op);
	stage_abort(&s->stage);
	twin_abandon(&s->twin);
	ft_set(s->ft, FT_ELSEWHERE, FT_TAKING_OVER, note);
	takeover_ask(s);
}

/* Time does not stand still for the guest: it goes on by this side's clock. */
void takeover_load(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};
	uint64_t now = loop_now_ns();

	if (s->fsm.state == SEC_CLAIM && lacks_locks(s))
		return;
	trace(s, TRACE_CLAIM, s->lost_ns, now);
	step_reached(STEP_TAKEOVER_LOAD);
	s->ft->images_behind = !diskapply_idle(&s->disks);
	takeover_hold_disks(s);
	if (vm_load(s->vm, loop_now_ns() - s->committed_ns, &e)) {
		snprintf(s->why, sizeof(s->why), "%s", e.msg);
		secondary_post(s, SEC_EV_NOT_LOADED);
		return;
	}
	vm_new_generation(s->vm);
	step_reached(STEP_TAKEOVER_LINK);
	vm_plug(s->vm);
	trace(s, TRACE_LOAD, now, loop_now_ns());
	secondary_post(s, SEC_EV_LOADED);
}

/* What the user had paused stays so, until somebody resumes it here. */
static void start_here(struct secondary *s)
{
	/* As this side's own; a twin may have run before. */
	__atomic_store_n(&s->vm->run.first_entry_ns, 0, __ATOMIC_RELAXED);
	if (s->stage.paused)
		s->ft->stands |= FT_STAND_USER;
	else
		vm_resume(s->vm);
	s->ft->stats.first_run_mono_ns = loop_now_ns();
	s->ft->stats.takeover_ns = s->ft->stats.first_run_mono_ns - s->lost_ns;
	trace(s, TRACE_TAKEOVER, s->lost_ns, s->ft->stats.first_run_mono_ns);
	step_reached(STEP_TAKEOVER_RUN);
}

void takeover_start(void *arg)
{
	start_here(arg);
	own(arg);
}

/* Tried with the first epoch; a host that changes its mind leaves nothing to run. */
void takeover_cannot(void *arg)
{
	struct secondary *s = arg;

	log_error("takeover: %s", s->why);
	s->ft->on_exit(s->ft->arg, 2);
}

/* --- a hand-over ------------------------------------------------------------------------------ */

uint64_t takeover_token(const struct frame *f)
{
	struct wire_hand_over w = {0};

	if (f->length == sizeof(w))
		memcpy(&w, f->data, sizeof(w));
	return w.token;
}

void takeover_accept(void *arg)
{
	struct secondary *s = arg;

	log_info("primary: hands over");
	twin_abandon(&s->twin);
	s->lost_ns = loop_now_ns();
	loop_timer_del(s->ft->loop, &s->timer_op);
	arbiter_set_token(s->ft->arbiter, takeover_token(s->frame));
	ft_set(s->ft, FT_ELSEWHERE, FT_TAKING_OVER, "primary: hands over");
	takeover_claim(s);
}

void takeover_load_held(void *arg)
{
	struct secondary *s = arg;

	obuf_hold(&s->vm->obuf, s->vm->obuf.epoch + 1);
	hold_shared(s, true);
	takeover_load(s);
}

void takeover_start_held(void *arg)
{
	struct secondary *s = arg;

	start_here(s);
	secondary_timer(s, GONE_NS);
	if (secondary_reply(s, FRAME_RUNS, 0, NULL) < 0)
		secondary_lose(s, "connection broken");
	else
		step_reached(STEP_RUNS_SAID);
}

void takeover_cannot_accept(void *arg)
{
	struct secondary *s = arg;
	char why[sizeof(s->why)];

	memcpy(why, s->why, sizeof(why));
	log_error("takeover: %s", why);
	if (secondary_has_link(s))
		secondary_reply(s, FRAME_REFUSE, 0, why);
	secondary_listen_again(s, why);
}

/* Its process is about to end, with what it still has at the kernel. */
void takeover_lock(void *arg)
{
	struct secondary *s = arg;

	loop_timer_del(s->ft->loop, &s->timer_op);
	if (locking_is_needed(s->vm))
		ask_for_locks(s);
	else
		secondary_post(s, SEC_EV_LOCKED);
}

void takeover_gone(void *arg)
{
	step_reached(STEP_GONE_HEARD);
	takeover_lock(arg);
}

void takeover_own(void *arg)
{
	own(arg);
}

void takeover_silent(void *arg)
{
	secondary_lose(arg, "no answer in time");
}

void takeover_alone(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};

	log_warn("primary: %s; it did not say that it is gone", s->why);
	loop_timer_del(s->ft->loop, &s->timer_op);
	if (ft_stand(s->ft, s->vm, FT_STAND_CLAIM, NULL, &e))
		log_error("%s", e.msg);
	takeover_ask(s);
}

/* Claimed again, as the old side did not say that it is gone. */
void takeover_confirmed(void *arg)
{
	struct secondary *s = arg;

	ft_go(s->ft, s->vm, FT_STAND_CLAIM);
	own(s);
}

/* --- the images, behind the VM that runs here ------------------------------------------------- */

/* What a twin had written, too. */
static void merged(void *arg, int error)
{
	struct secondary *s = arg;

	s->ft->images_behind = error != 0;
	if (error) {
		takeover_lacks(s);
		return;
	}
	obuf_pass(&s->vm->obuf);
	mark_images(s);
}

/* Its requests waited until the log is in the images. */
void takeover_let_disks_go(void *arg)
{
	struct secondary *s = arg;

	/* Broken off, it leaves a mixture of two moments; a log does not, it goes in order. */
	if (twin_merges(&s->twin))
		marks_ask(&s->ft->marks, s->vm, MARK_HALF, s->ft->generation);
	s->ft->images_behind = twin_merge(&s->twin, merged, s);
	mark_images(s);
	for (unsigned i = 0; i < s->vm->machine.ndevs; i++)
		if (s->vm->devices.disks[i].fd >= 0 && !machine_is_shared(&s->vm->machine.devs[i]))
			disk_hold(&s->vm->devices.disks[i], false);
}

/* The guest must not read what is older than what it was told is written. */
void takeover_lacks(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};

	log_error("takeover: the images here lack acknowledged writes; stopping. Start the other "
		  "side with --primary --claim: its images have them");
	vm_pause(s->vm, &e);
	s->ft->on_exit(s->ft->arg, 2);
}
