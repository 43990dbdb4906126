#include "postcopy/dest.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "postcopy/dest_do.h"
#include "vmm/base/log.h"
#include "vmm/wire/chan.h"

#define SAY_NS 1000000000ull

/* --- shared ----------------------------------------------------------------------------------- */

void dest_post(struct dest *d, enum dest_event ev)
{
	fsm_post(&d->fsm, ev);
}

void dest_timer(struct dest *d, uint64_t delay_ns)
{
	loop_timer_set(d->ft->loop, &d->timer_op, delay_ns);
}

bool dest_has_link(const struct dest *d)
{
	return d->link.fd >= 0;
}

int dest_say(struct dest *d, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	return stream_send(&d->link, type, 0, &iov, len ? 1 : 0, loop_now_ns() + SAY_NS);
}

void dest_close_link(struct dest *d)
{
	loop_poll_del(d->ft->loop, &d->read_op);
	loop_poll_del(d->ft->loop, &d->have_op);
	loop_work_del(d->ft->loop, &d->read_work);
	stream_done(&d->link);
	if (d->pager.mem)
		pager_cut(&d->pager);
	stream_done(&d->urgent);
	fsm_forget(&d->fsm, DST_EV_LOST, DST_EV_MAX - 1);
}

void dest_lose(struct dest *d, const char *why)
{
	if (!dest_has_link(d))
		return;
	snprintf(d->why, sizeof(d->why), "%s", why);
	dest_close_link(d);
	dest_post(d, DST_EV_LOST);
}

void dest_reject(struct dest *d, const char *why)
{
	if (dest_has_link(d))
		dest_say(d, FRAME_REFUSE, why, strlen(why));
	dest_lose(d, why);
}

void dest_stray(void *arg)
{
	dest_reject(arg, "message out of order");
}

void dest_listen_again(struct dest *d, const char *why)
{
	dest_close_link(d);
	loop_timer_del(d->ft->loop, &d->timer_op);
	pager_drop(&d->pager);
	dest_disks_drop(d);
	if (d->has_vm) {
		vm_destroy(d->vm);
		d->has_vm = false;
	}
	d->dropped = d->session;
	d->has_state = false;
	fsm_forget(&d->fsm, DST_EV_BUILT, DST_EV_MAX - 1);
	d->ft->peer[0] = 0;
	log_warn("migration: %s; nothing of it is left here", why);
	ft_set(d->ft, FT_ELSEWHERE, FT_NONE, why);
}

/* --- frames from the source ------------------------------------------------------------------- */

/* Why it ended, in its own words. */
static void source_ends(struct dest *d, const struct frame *f)
{
	char text[400];

	stream_text(f, d->fsm.state == DST_CUT ? "file: " : "source: ", text, sizeof(text));
	dest_lose(d, text);
}

static void take_frame(struct dest *d, const struct frame *f)
{
	d->frame = f;
	d->heard_ns = loop_now_ns();
	switch (f->type) {
	case FRAME_PAGES:
	case FRAME_STATE:
	case FRAME_MAP:
	case FRAME_EOS:
	case FRAME_DISK:
		dest_post(d, DST_EV_PART);
		return;
	case FRAME_SWITCH:
		dest_post(d, DST_EV_SWITCH);
		return;
	case FRAME_GO:
		dest_post(d, DST_EV_GO);
		return;
	case FRAME_GONE:
		dest_post(d, DST_EV_GONE);
		return;
	case FRAME_BYE:
		source_ends(d, f);
		return;
	default:
		dest_stray(d);
	}
}

/* What has come, as long as the loop's budget lets it. */
static bool read_turn(struct loop_work *w)
{
	struct dest *d = w->arg;
	struct frame f;
	int r = 1;

	while (r == 1 && dest_has_link(d) && !d->read_stopped) {
		r = stream_recv(&d->link, &f);
		if (r == 1)
			take_frame(d, &f);
		if (dest_has_link(d) && dest_disks_full(d)) {
			d->read_stopped = true;
			loop_poll_del(d->ft->loop, &d->read_op);
		}
		if (loop_should_yield(d->ft->loop))
			break;
	}
	if (r < 0 && dest_has_link(d))
		dest_lose(d, r == -EBADMSG ? d->link.why
			     : r == -EPIPE ? "source: connection closed"
					   : strerror(-r));
	return r == 1 && dest_has_link(d) && !d->read_stopped;
}

void dest_hear_go(struct dest *d)
{
	struct frame f;

	if (fsm_expects(&d->fsm, DST_EV_GO) && dest_has_link(d) && stream_recv(&d->link, &f) == 1)
		take_frame(d, &f);
}

static void readable(struct loop_op *op, int res)
{
	struct dest *d = op->arg;

	loop_work_add(d->ft->loop, &d->read_work);
}

void dest_listen_to_link(struct dest *d)
{
	d->read_op = (struct loop_op){.fn = readable, .arg = d};
	d->read_work = (struct loop_work){.fn = read_turn, .arg = d};
	loop_poll_add(d->ft->loop, &d->read_op, d->link.fd, POLLIN);
	loop_work_add(d->ft->loop, &d->read_work); /* it may be in the stream's buffer already */
}

/* --- who connects ----------------------------------------------------------------------------- */

/* The urgent link of the migration that is under way; its first frame has no pages. */
static bool is_pair(struct dest *d, struct door_conn *c, const struct frame *f)
{
	if (f->type != FRAME_PAGES || f->length || c->stream.session != d->session ||
	    !d->pager.mem || !dest_has_link(d) || d->urgent.fd >= 0 || d->fsm.depth ||
	    !fsm_expects(&d->fsm, DST_EV_PAIR) ||
	    (d->fsm.state == DST_MENDING && !dest_has_said_have(d)))
		return false;
	d->caller = c;
	dest_post(d, DST_EV_PAIR);
	return true;
}

static bool said(void *arg, struct door_conn *c, const struct frame *f)
{
	static const char busy[] = "another migration comes in here, or has";
	struct iovec iov = {(void *)busy, strlen(busy)};
	struct dest *d = arg;
	unsigned ev = f->type == FRAME_OFFER ? DST_EV_OFFER : DST_EV_ASK;

	if (c->stream.link == STREAM_URGENT)
		return is_pair(d, c, f);
	if (c->stream.link != STREAM_MIGRATE || (f->type != FRAME_OFFER && f->type != FRAME_ASK))
		return false;
	if (d->fsm.depth || !fsm_expects(&d->fsm, ev)) {
		stream_send(&c->stream, FRAME_REFUSE, 0, &iov, 1, loop_now_ns() + SAY_NS);
		return false;
	}
	d->caller = c;
	d->frame = f;
	/* Somebody else's question is no reason to drop anything. */
	if (ev == DST_EV_ASK && c->stream.session != d->session)
		dest_answer_never(d);
	else
		dest_post(d, ev);
	return true;
}

/* --- interface -------------------------------------------------------------------------------- */

static void timer(struct loop_op *op, int res)
{
	struct dest *d = op->arg;
	uint64_t idle = loop_now_ns() - d->heard_ns, bound = dest_disks_patience(d);

	/* Set once for a state in which frames come, not with each of them. */
	if (d->fsm.state == DST_RECEIVING && idle < bound)
		dest_timer(d, bound - idle < DEST_SILENT_NS ? bound - idle : DEST_SILENT_NS);
	else
		dest_post(d, DST_EV_TIMER);
}

static int open_door(struct dest *d, struct door *door, const char *uri, struct err *e)
{
	*door = (struct door){.said = said,
			      .tls = d->ft->tls,
			      .us = TLS_DESTINATION,
			      .strange = "not the source of a migration, or this side is busy",
			      .arg = d};
	return door_open(door, d->ft->loop, uri, e);
}

void dest_close_doors(struct dest *d)
{
	door_close(&d->door);
	door_close(&d->further);
}

int dest_start(struct dest *d, struct ft *ft, struct vm *vm, void (*runs)(void *arg), void *arg,
	       struct err *e)
{
	*d = (struct dest){.news = d->news};
	d->ft = ft;
	d->vm = vm;
	d->runs = runs;
	d->arg = arg;
	d->link.fd = d->urgent.fd = d->pager_fd = -1;
	d->timer_op = (struct loop_op){.fn = timer, .arg = d};
	fsm_init(&d->fsm, &dest_desc, d, DST_LISTEN);
	return open_door(d, &d->door, ft->cfg->incoming, e);
}

int dest_recover(struct dest *d, const char *uri, struct err *e)
{
	int r;

	if (d->fsm.state == DST_HERE)
		return err_set(
			e, -EBUSY,
			"migrate: --recover: all of the VM is here, and the source knows it");
	if (chan_check_address(uri, e))
		return err_wrap(e, "migrate: --recover");
	door_close(&d->further);
	r = open_door(d, &d->further, uri, e);
	if (r) {
		door_close(&d->further);
		return err_wrap(e, "migrate: --recover");
	}
	log_info("migration: listening at %s, too", uri);
	return 0;
}

bool dest_fills(const struct dest *d)
{
	return d->ft && (d->fsm.state == DST_FILL || d->fsm.state == DST_CUT ||
			 d->fsm.state == DST_ORPHAN || d->fsm.state == DST_MENDING);
}

void dest_stop(struct dest *d)
{
	if (!d->ft)
		return;
	dest_close_doors(d);
	loop_timer_del(d->ft->loop, &d->timer_op);
	dest_post(d, DST_EV_END);
	dest_close_link(d);
	carry_in_stop(&d->carry);
	carry_out_stop(&d->arrived);
	vm_announce_stop(&d->announce);
	loop_poll_del(d->ft->loop, &d->pager_op);
	/* Nobody sees the zeros that come in place of what has not. */
	if (d->pager.mem && d->vm->loop)
		vm_halt(d->vm);
	pager_drop(&d->pager);
	dest_disks_drop(d);
	if (d->pager_fd >= 0)
		close(d->pager_fd);
	if (d->has_vm)
		vm_destroy(d->vm);
	d->has_vm = false;
	d->ft = NULL;
}
