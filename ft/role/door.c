/* Who is at the door (ft/common/door.h): a primary, its heartbeat link, or its mirror. */
#include <errno.h>

#include "ft/role/secondary_do.h"

static bool is_primary(struct secondary *s, struct door_conn *c, const struct frame *f)
{
	return c->stream.link == STREAM_MAIN && f->type == FRAME_HELLO && !s->fsm.depth &&
	       fsm_expects(&s->fsm, SEC_EV_HELLO);
}

static bool is_heart(struct secondary *s, struct door_conn *c, const struct frame *f)
{
	return c->stream.link == STREAM_HEART && f->type == FRAME_HEART && !s->fsm.depth &&
	       fsm_expects(&s->fsm, SEC_EV_HEART) && secondary_has_link(s) && !s->heart.loop &&
	       c->stream.session == s->main.session;
}

/*
 * Not while there is one: the primary has made another only when it has lost that. Nor beside a
 * shared image, which two guests would write to.
 */
static bool is_mirror(struct secondary *s, struct door_conn *c, const struct frame *f)
{
	return c->stream.link == STREAM_MIRROR && f->type == FRAME_MIRROR && !s->fsm.depth &&
	       s->fsm.state == SEC_STANDBY && !s->twin.unfit && secondary_has_link(s) &&
	       s->heart.loop && c->stream.session == s->main.session &&
	       !machine_has_shared(&s->vm->machine);
}

static bool said(void *arg, struct door_conn *c, const struct frame *f)
{
	struct secondary *s = arg;
	bool primary = is_primary(s, c, f);

	if (is_mirror(s, c, f)) {
		struct stream st;

		door_take(c, &st);
		twin_connect(&s->twin, s->vm, s->ft->cfg, &st, s->stage.committed + 1);
		return true;
	}
	if (!primary && !is_heart(s, c, f))
		return false;
	s->caller = c;
	s->frame = f;
	secondary_post(s, primary ? SEC_EV_HELLO : SEC_EV_HEART);
	return true;
}

static bool is_open(void *arg)
{
	const struct secondary *s = arg;

	return s->fsm.state != SEC_TAKEN;
}

int secondary_open_door(struct secondary *s, struct err *e)
{
	s->door.open = is_open;
	s->door.said = said;
	s->door.strange = "not a primary, or this side is busy with another one";
	s->door.tls = s->ft->tls;
	s->door.us = TLS_SECONDARY;
	s->door.arg = s;
	return door_open(&s->door, s->ft->loop, s->ft->cfg->listen, e);
}
