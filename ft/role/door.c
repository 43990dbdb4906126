/* Connections that have not said yet what they are. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"
#include "vmm/wire/chan.h"

#define IDENTIFY_NS 2000000000ull /* a connection says what it is within this time */

static void drop_pending(struct pending_conn *pc)
{
	struct loop *l = pc->owner->ft->loop;

	loop_poll_del(l, &pc->read_op);
	loop_timer_del(l, &pc->timer_op);
	stream_done(&pc->stream);
	pc->used = false;
}

static bool is_primary(struct secondary *s, struct pending_conn *pc, const struct frame *f)
{
	return pc->stream.link == STREAM_MAIN && f->type == FRAME_HELLO && !s->fsm.depth &&
	       fsm_expects(&s->fsm, SEC_EV_HELLO);
}

static bool is_heart(struct secondary *s, struct pending_conn *pc, const struct frame *f)
{
	return pc->stream.link == STREAM_HEART && f->type == FRAME_HEART && !s->fsm.depth &&
	       fsm_expects(&s->fsm, SEC_EV_HEART) && secondary_has_link(s) && !s->heart.loop &&
	       pc->stream.session == s->main.session;
}

static void identify(struct loop_op *op, int res)
{
	struct pending_conn *pc = op->arg;
	struct secondary *s = pc->owner;
	struct frame f;
	int r = stream_recv(&pc->stream, &f);

	if (r == 0)
		return;
	pc->since_ns = UINT64_MAX; /* events may be served below: not the one to make room */
	loop_poll_del(s->ft->loop, &pc->read_op);
	loop_timer_del(s->ft->loop, &pc->timer_op);
	s->caller = pc;
	s->frame = &f;
	if (r == 1 && is_primary(s, pc, &f))
		secondary_post(s, SEC_EV_HELLO);
	else if (r == 1 && is_heart(s, pc, &f))
		secondary_post(s, SEC_EV_HEART);
	else
		log_warn("connection dropped: %s",
			 r == -EBADMSG ? pc->stream.why
				       : "not a primary, or this side is busy with another one");
	drop_pending(pc);
}

static void identify_late(struct loop_op *op, int res)
{
	log_warn("connection dropped: it did not say what it is");
	drop_pending(op->arg);
}

/*
 * Whoever is a primary says so at once: when all places are taken, the connection that has been
 * silent for longest makes room, so that silent ones cannot keep the primary out.
 */
static struct pending_conn *free_pending(struct secondary *s)
{
	struct pending_conn *oldest = &s->pending[0];

	for (unsigned i = 0; i < SECONDARY_MAX_PENDING; i++) {
		if (!s->pending[i].used)
			return &s->pending[i];
		if (s->pending[i].since_ns < oldest->since_ns)
			oldest = &s->pending[i];
	}
	drop_pending(oldest);
	return oldest;
}

static void accept_one(struct loop_op *op, int res)
{
	struct secondary *s = op->arg;
	struct err e = {0};
	int fd = chan_accept(s->listen_fd, &e);
	struct pending_conn *pc;

	if (fd < 0)
		return;
	if (s->fsm.state == SEC_TAKEN) {
		close(fd);
		return;
	}
	pc = free_pending(s);
	*pc = (struct pending_conn){.owner = s, .used = true, .since_ns = loop_now_ns()};
	pc->read_op = (struct loop_op){.fn = identify, .arg = pc};
	pc->timer_op = (struct loop_op){.fn = identify_late, .arg = pc};
	stream_init(&pc->stream, fd, STREAM_ANY, 0);
	loop_poll_add(s->ft->loop, &pc->read_op, fd, POLLIN);
	loop_timer_set(s->ft->loop, &pc->timer_op, IDENTIFY_NS);
}

int secondary_open_door(struct secondary *s, struct err *e)
{
	struct chan_uri uri;
	int r = chan_parse(s->ft->cfg->listen, &uri, e);

	if (r)
		return r;
	s->listen_fd = chan_listen(&uri, e);
	if (s->listen_fd < 0)
		return s->listen_fd;
	s->listen_op = (struct loop_op){.fn = accept_one, .arg = s};
	return loop_poll_add(s->ft->loop, &s->listen_op, s->listen_fd, POLLIN);
}

void secondary_close_door(struct secondary *s)
{
	for (unsigned i = 0; i < SECONDARY_MAX_PENDING; i++)
		if (s->pending[i].used)
			drop_pending(&s->pending[i]);
	loop_poll_del(s->ft->loop, &s->listen_op);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	s->listen_fd = -1;
}
