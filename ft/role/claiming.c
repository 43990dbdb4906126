/*
 * The peer is lost and may have taken over: only the arbiter's word lets this side go on. Until it
 * gives one the VM is stopped and its output stays held.
 */
#include <errno.h>
#include <stdio.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

static void answered(void *arg, const struct arbiter_answer *a);

void primary_ask(void *arg)
{
	struct primary *p = arg;
	int r;

	arbiter_set_token(p->ft->arbiter, p->move_token);
	r = arbiter_ask_claim(p->ft->arbiter, p->ft->generation, ARBITER_GO_ON, answered, p);
	arbiter_set_token(p->ft->arbiter, 0);
	if (!r)
		return;
	p->answer = (struct arbiter_answer){.code = r};
	err_set(&p->answer.err, r, "arbiter: cannot be asked now");
	primary_post(p, PRI_EV_NO_ANSWER);
}

/*
 * After a hand-over the secondary's claim of the next number does not decide alone: without our
 * word it claims once more before it lets anything out, and so may we.
 */
static bool is_handed(const struct primary *p, const struct arbiter_answer *a)
{
	return a->code == -ESTALE && p->token && a->last.generation == p->ft->generation + 1 &&
	       a->last.token == p->token && a->last.end == ARBITER_HELD;
}

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct primary *p = arg;

	p->answer = *a;
	if (is_handed(p, a)) {
		p->token = 0;
		p->ft->generation++;
		primary_ask(p);
	} else if (!a->code && p->move_token) {
		/* By its token the new secondary may have claimed after that. */
		p->move_token = 0;
		p->ft->generation++;
		primary_ask(p);
	} else if (!a->code) {
		primary_post(p, PRI_EV_WON);
	} else if (a->code == -ESTALE || a->code == -ECANCELED) {
		primary_post(p, PRI_EV_CLAIM_LOST);
	} else {
		primary_post(p, PRI_EV_NO_ANSWER);
	}
}

void primary_lost(void *arg)
{
	struct primary *p = arg;
	struct err e = {0};

	link_note_trouble(p->link, false, p->lost_why, sizeof(p->lost_why));
	step_reached(STEP_PEER_LOST);
	primary_close(p);
	if (ft_stand(p->ft, p->vm, FT_STAND_CLAIM, NULL, &e))
		log_error("%s", e.msg);
	primary_ask(p);
}

void primary_wait_for_answer(void *arg)
{
	struct primary *p = arg;
	struct err e = {0};

	ft_stand(p->ft, p->vm, FT_STAND_SILENT, p->answer.err.msg, &e);
	primary_timer(p, PRIMARY_RETRY_NS);
}

/* Won: output may leave, as nobody else can run the VM. */
static void own(struct primary *p)
{
	p->token = 0;
	p->ft->generation++;
	obuf_pass(&p->vm->obuf);
	p->ft->stands &= ~(unsigned)FT_STAND_SILENT;
	ft_set(p->ft, FT_HERE, FT_DEGRADED, p->lost_why);
}

void primary_go_on(void *arg)
{
	struct primary *p = arg;

	own(p);
	if (p->ft->stands & FT_STAND_END)
		log_warn("failover: the secondary is lost; the VM goes on here");
	ft_go(p->ft, p->vm, FT_STAND_CLAIM | FT_STAND_END);
	vm_tell_end(p->vm); /* one that could not be answered before */
	primary_timer(p, PRIMARY_RETRY_NS);
}

void primary_won_to_stop(void *arg)
{
	own(arg);
	primary_rest(arg);
}

static void stand_for_ever(struct primary *p)
{
	struct err e = {0};

	if (vm_pause(p->vm, &e))
		log_error("%s", e.msg);
	obuf_drop(&p->vm->obuf);
}

static void fence(struct primary *p, const char *why)
{
	stand_for_ever(p);
	primary_mark(p, MARK_BEHIND);
	primary_exit(p, PRIMARY_EXIT_FENCED, FT_FENCED, why);
}

/* The other side had it, and gave it back: ft/role/yielding.c. */
static bool is_given_back(const struct primary *p)
{
	const struct arbiter_record *last = &p->answer.last;

	return last->generation == p->ft->generation + 1 && last->end == ARBITER_STOPPED &&
	       last->side && last->side == arbiter_side(p->ft->arbiter);
}

static const char *whose_it_is(const struct primary *p)
{
	const struct arbiter_record *last = &p->answer.last;

	if (last->generation > p->ft->generation && last->end != ARBITER_HELD)
		return "the other side had claimed the VM, and was stopped: nobody runs it. Start "
		       "that side with --primary";
	return "the other side runs the VM";
}

void primary_fence(void *arg)
{
	struct primary *p = arg;

	if (!is_given_back(p)) {
		fence(p, whose_it_is(p));
		return;
	}
	stand_for_ever(p);
	primary_exit(p, PRIMARY_EXIT_FENCED, FT_FENCED,
		     "the other side had claimed the VM, and gave it back: nobody runs it. Start "
		     "this side with --primary: its images have everything");
}

void primary_fence_unanswered(void *arg)
{
	fence(arg, "stopped before the arbiter said whose the VM is: the other side may run it");
}

void primary_leave_handed(void *arg)
{
	struct primary *p = arg;

	stand_for_ever(p);
	primary_mark(p, MARK_BEHIND);
	primary_exit(p, 3, p->ft->cover, FT_HANDED_OVER);
}
