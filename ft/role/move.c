/* What others ask of a move, whatever it is doing. */
#include <stdio.h>

#include "ft/role/primary.h"

struct link *move_link(struct move *m)
{
	struct primary *p = m->primary;

	return &p->links[p->link == &p->links[0]];
}

void move_start(struct move *m, const char *uri)
{
	snprintf(m->uri, sizeof(m->uri), "%s", uri);
	m->why[0] = 0;
	m->result = MOVE_ACTIVE;
	m->begun_ns = loop_now_ns();
	m->ended_ns = m->bytes = 0;
	fsm_post(&m->fsm, MOV_EV_START);
}

bool move_is_active(const struct move *m)
{
	return m->fsm.state != MOV_NONE;
}

bool move_cancel(struct move *m, const char *why)
{
	if (!fsm_expects(&m->fsm, MOV_EV_CANCEL))
		return false;
	snprintf(m->why, sizeof(m->why), "%s", why);
	fsm_post(&m->fsm, MOV_EV_CANCEL);
	return true;
}

void move_drop(struct move *m)
{
	if (move_is_active(m))
		fsm_post(&m->fsm, MOV_EV_DROP);
}

void move_swapped(struct move *m)
{
	fsm_post(&m->fsm, MOV_EV_SWAPPED);
}
