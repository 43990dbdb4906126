#include "ft/role/primary_do.h"

void primary_post(struct primary *p, enum primary_event ev)
{
	fsm_post(&p->fsm, ev);
}

void primary_timer(struct primary *p, uint64_t delay_ns)
{
	loop_timer_set(p->ft->loop, &p->timer_op, delay_ns);
}

void primary_close(struct primary *p)
{
	loop_timer_del(p->ft->loop, &p->timer_op);
	move_drop(&p->move);
	mirroring_stop(&p->mirroring);
	engine_stop(&p->engine); /* before its stream is gone */
	link_close(p->link);
	p->ft->peer[0] = 0;
	fsm_forget(&p->fsm, PRI_EV_OUTPUT, PRI_EV_MAX - 1);
}

void primary_exit(struct primary *p, int code, enum ft_cover cover, const char *why)
{
	ft_set(p->ft, FT_OVER, cover, why);
	p->ft->on_exit(p->ft->arg, code);
}

void primary_mark(struct primary *p, enum mark_word word)
{
	marks_ask(&p->ft->marks, p->vm, word, p->ft->generation);
}

bool primary_host_failed(struct primary *p)
{
	if (!p->ft || p->ft->cover != FT_PROTECTED || !fsm_expects(&p->fsm, PRI_EV_HOST_FAILED))
		return false;
	primary_post(p, PRI_EV_HOST_FAILED);
	return true;
}
