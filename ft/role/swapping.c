/*
 * Another secondary takes the place of the one in step (ft/role/moving.h brings it there).
 *
 * Both get epoch n, and both, as the primary, may claim the next generation g + 1 then: whoever
 * wins has all output that has left, as nothing after n is sealed before that is decided. The
 * primary claims it, in order that the old one cannot any more. The new one was told the token of
 * that claim: if it loses the primary it claims from g, or, if the claim was made, from g + 1. So
 * exactly one can go on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"

/* --- the common epoch ------------------------------------------------------------------------- */

/* Only here: an epoch that is being captured when the new one lacks little is not the common one.
 */
void primary_move_seal(void *arg)
{
	struct primary *p = arg;

	engine_follow_last(&p->engine);
	primary_seal_for(p, FT_SEAL_MOVE);
}

void primary_move_seal_again(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	primary_move_seal(p);
}

/* The old one has it, and nothing is sealed until the new one has: no timer of ours. */
void primary_move_acked(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	loop_timer_del(p->ft->loop, &p->timer_op);
}

/* --- it does not come to it ------------------------------------------------------------------- */

/* A stop that came meanwhile has its turn. */
static void over(struct primary *p)
{
	if (p->ft->stands & FT_STAND_END)
		primary_post(p, PRI_EV_STOP);
}

void primary_move_off(void *arg)
{
	struct primary *p = arg;

	ft_go(p->ft, p->vm, FT_STAND_MOVE);
	over(p);
}

void primary_move_off_steady(void *arg)
{
	struct primary *p = arg;

	primary_next_seal(p);
	primary_move_off(p);
}

void primary_move_stop(void *arg)
{
	struct primary *p = arg;

	primary_stand(p);
	move_drop(&p->move);
}

void primary_lost_moving(void *arg)
{
	struct primary *p = arg;

	primary_lost(p);
	over(p);
}

void primary_lost_keeping(void *arg)
{
	struct primary *p = arg;

	arbiter_forget(p->ft->arbiter); /* a claim that is under way: it is asked for again */
	primary_lost_moving(p);
}

/* --- the old one stays ------------------------------------------------------------------------ */

/* The new one may run the VM with the common epoch; what the old one acknowledges is in that. */
void primary_keep_due(void *arg)
{
	struct primary *p = arg;

	ft_go(p->ft, p->vm, FT_STAND_MOVE);
}

void primary_keep(void *arg)
{
	struct primary *p = arg;

	primary_keep_due(p);
	loop_timer_del(p->ft->loop, &p->timer_op);
	arbiter_forget(p->ft->arbiter); /* as above */
	if (p->link->state == LINK_UP)
		primary_ask(p);
	else
		primary_post(p, PRI_EV_LOST); /* which was of no consequence when it came */
}

void primary_keep_acked(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	primary_keep(p);
}

/* Until it knows, it would claim from a generation that is over; nobody else can. */
void primary_kept(void *arg)
{
	struct primary *p = arg;
	struct wire_generation w = {.generation = ++p->ft->generation};

	p->ft->note[0] = 0;
	primary_next_seal(p);
	send_drain(p->engine.send);
	if (link_say(p->link, FRAME_GENERATION, &w, sizeof(w)))
		step_reached(STEP_MOVE_KEPT);
	over(p);
}

/* --- the claim -------------------------------------------------------------------------------- */

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct primary *p = arg;

	p->answer = *a;
	if (!a->code)
		primary_post(p, PRI_EV_WON);
	else if (a->code == -ESTALE || a->code == -ECANCELED)
		primary_post(p, PRI_EV_CLAIM_LOST);
	else
		primary_post(p, PRI_EV_NO_ANSWER);
}

void primary_swap_ask(void *arg)
{
	struct primary *p = arg;
	struct arbiter *a = p->ft->arbiter;
	int r;

	loop_timer_del(p->ft->loop, &p->timer_op);
	p->move_token = p->move.token;
	arbiter_set_token(a, p->move_token);
	r = arbiter_ask_claim(a, p->ft->generation, ARBITER_GO_ON, answered, p);
	arbiter_set_token(a, 0);
	step_reached(STEP_MOVE_CLAIM);
	if (!r)
		return;
	p->answer = (struct arbiter_answer){.code = r};
	err_set(&p->answer.err, r, "arbiter: cannot be asked now");
	primary_post(p, PRI_EV_NO_ANSWER);
}

void primary_swap_acked(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	primary_swap_ask(p);
}

void primary_swap_wait(void *arg)
{
	struct primary *p = arg;

	snprintf(p->ft->note, sizeof(p->ft->note), "the guest's output waits: %.400s",
		 p->answer.err.msg);
	primary_timer(p, PRIMARY_RETRY_NS);
}

/* --- and then --------------------------------------------------------------------------------- */

/* What is lost of it, and what it does then, is of no consequence: it cannot win any more. */
static void let_old_go(struct primary *p)
{
	struct link *l = p->link;

	if (l->state == LINK_UP) {
		send_drain(p->engine.send);
		stream_send(&l->main, FRAME_LEAVE, 0, NULL, 0, loop_now_ns() + LINK_SEND_NS);
	}
	engine_follow_swap(&p->engine);
	link_close(l);
}

static void take_new(struct primary *p, struct link *is)
{
	struct link *was = p->link;
	const struct link old = *was;

	p->link = is;
	was->news = is->news;
	was->arg = is->arg;
	is->news = old.news;
	is->arg = old.arg;
	memcpy(p->ft->peer, is->peer, sizeof(p->ft->peer));
	p->ft->note[0] = 0;
}

void primary_swapped(void *arg)
{
	struct primary *p = arg;
	struct link *is = move_link(&p->move);
	struct wire_generation w = {.generation = ++p->ft->generation};

	step_reached(STEP_MOVE_WON);
	p->move_token = 0;
	p->move.bytes = engine_follow_bytes(&p->engine);
	mirroring_stop(&p->mirroring);
	let_old_go(p);
	take_new(p, is);
	send_drain(p->engine.send);
	if (link_say(is, FRAME_GENERATION, &w, sizeof(w)))
		step_reached(STEP_MOVE_TOLD);
	move_swapped(&p->move);
	primary_next_seal(p);
	step_reached(STEP_MOVE_DONE);
	over(p);
}

/* --- interface -------------------------------------------------------------------------------- */

int primary_move(struct primary *p, const char *uri, struct err *e)
{
	if (!arbiter_is_shared(p->ft->arbiter))
		return err_set(e, -EOPNOTSUPP,
			       "migrate: --secondary needs an arbiter: without one nobody can tell "
			       "the old secondary that it is not any more (--arbiter file:PATH)");
	if (move_is_active(&p->move))
		return err_set(e, -EBUSY, "migrate: %s is already on its way; --cancel ends that",
			       p->move.uri);
	if (p->ft->cover != FT_PROTECTED || !fsm_expects(&p->fsm, PRI_EV_MOVE))
		return err_set(e, -EBUSY,
			       "migrate: --secondary: the VM is %s: no secondary is in step whose "
			       "place it could take",
			       ft_word(p->ft));
	if (!strcmp(uri, p->link->peer))
		return err_set(e, -EINVAL, "migrate: '%s' is the secondary", uri);
	move_start(&p->move, uri);
	return 0;
}

int primary_move_cancel(struct primary *p, struct err *e)
{
	if (move_cancel(&p->move, "cancelled by the user"))
		return 0;
	return err_set(e, -EBUSY, "migrate: --cancel: %s",
		       move_is_active(&p->move) ? "too late, it is about to be the secondary"
						: "there is none under way");
}
