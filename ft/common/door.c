#include "ft/common/door.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/wire/chan.h"

#define IDENTIFY_NS 2000000000ull /* a connection says what it is within this time */
/* Lines of the log: some at once, then one each so often. */
#define LINES	8
#define LINE_NS 1000000000ull

static void drop(struct door_conn *c)
{
	struct loop *l = c->door->loop;

	loop_poll_del(l, &c->read_op);
	loop_timer_del(l, &c->timer_op);
	stream_done(&c->stream);
	c->used = false;
}

void door_take(struct door_conn *c, struct stream *ret)
{
	*ret = c->stream;
	memset(&c->stream, 0, sizeof(c->stream));
	c->stream.fd = -1;
}

static bool may_log(struct door *d)
{
	uint64_t now = loop_now_ns(), since = now > LINES * LINE_NS ? now - LINES * LINE_NS : 0;

	if (d->lines_ns < since)
		d->lines_ns = since;
	if (d->lines_ns + LINE_NS > now)
		return false;
	d->lines_ns += LINE_NS;
	return true;
}

/* False: not now. */
static bool log_dropped(struct door *d, const char *why)
{
	if (!may_log(d)) {
		d->kept++;
		return false;
	}
	if (d->kept)
		log_warn("%llu more connections dropped", d->kept);
	d->kept = 0;
	log_warn("connection dropped: %s", why);
	return true;
}

static void log_wrong(struct door *d, const char *why)
{
	if (!strcmp(why, d->wrong))
		log_debug("connection dropped: %s", why);
	else if (log_dropped(d, why)) /* else it is said when it comes again */
		snprintf(d->wrong, sizeof(d->wrong), "%s", why);
}

static void identify(struct loop_op *op, int res)
{
	struct door_conn *c = op->arg;
	struct door *d = c->door;
	struct frame f;
	int r = stream_recv(&c->stream, &f);

	if (r == 0)
		return;
	c->since_ns = UINT64_MAX; /* events may be served below: not the one to make room */
	loop_poll_del(d->loop, &c->read_op);
	loop_timer_del(d->loop, &c->timer_op);
	if (r == -EBADMSG)
		log_wrong(d, c->stream.why);
	else if (r != 1 || !d->said(d->arg, c, &f))
		log_dropped(d, d->strange);
	else
		d->wrong[0] = 0;
	drop(c);
}

static void identify_late(struct loop_op *op, int res)
{
	struct door_conn *c = op->arg;

	log_dropped(c->door, "it did not say what it is");
	drop(c);
}

/*
 * Whoever has something to say does so at once: when all places are taken, the connection that has
 * been silent for longest makes room. NULL: none has been so for long.
 */
static struct door_conn *free_conn(struct door *d)
{
	struct door_conn *oldest = &d->conns[0];

	for (unsigned i = 0; i < DOOR_MAX_PENDING; i++) {
		if (!d->conns[i].used)
			return &d->conns[i];
		if (d->conns[i].since_ns < oldest->since_ns)
			oldest = &d->conns[i];
	}
	if (loop_now_ns() < oldest->since_ns || loop_now_ns() - oldest->since_ns < DOOR_AGE_NS)
		return NULL;
	drop(oldest);
	return oldest;
}

static int make_chan(const struct door *d, int fd, struct chan *ret, struct err *e)
{
	if (d->over_tls)
		return tls_chan(d->tls, d->us, fd, ret, e);
	*ret = chan_of(fd);
	return 0;
}

static void accept_one(struct loop_op *op, int res)
{
	struct door *d = op->arg;
	struct err e = {0};
	int fd = chan_accept(d->listen_fd, &e);
	struct door_conn *c;
	struct chan chan;

	if (fd < 0)
		return;
	if (d->open && !d->open(d->arg)) {
		close(fd);
		return;
	}
	c = free_conn(d);
	if (!c) {
		log_dropped(d, "too many connections at once");
		close(fd);
		return;
	}
	if (make_chan(d, fd, &chan, &e)) {
		log_dropped(d, e.msg);
		return;
	}
	*c = (struct door_conn){.door = d, .used = true, .since_ns = loop_now_ns()};
	c->read_op = (struct loop_op){.fn = identify, .arg = c};
	c->timer_op = (struct loop_op){.fn = identify_late, .arg = c};
	stream_init_on(&c->stream, &chan, STREAM_ANY, 0);
	loop_poll_add(d->loop, &c->read_op, fd, POLLIN);
	loop_timer_set(d->loop, &c->timer_op, IDENTIFY_NS);
}

int door_open(struct door *d, struct loop *l, const char *text, struct err *e)
{
	struct chan_uri uri;
	int r;

	d->loop = l;
	d->listen_fd = -1;
	r = chan_parse(text, &uri, e);
	if (!r)
		r = tls_check(d->tls, &uri, e);
	if (r)
		return r;
	d->listen_fd = chan_listen(&uri, e);
	if (d->listen_fd < 0)
		return d->listen_fd;
	d->over_tls = uri.kind == CHAN_TLS;
	d->listen_op = (struct loop_op){.fn = accept_one, .arg = d};
	return loop_poll_add(l, &d->listen_op, d->listen_fd, POLLIN);
}

void door_close(struct door *d)
{
	if (!d->loop)
		return;
	for (unsigned i = 0; i < DOOR_MAX_PENDING; i++)
		if (d->conns[i].used)
			drop(&d->conns[i]);
	loop_poll_del(d->loop, &d->listen_op);
	if (d->listen_fd >= 0)
		close(d->listen_fd);
	d->listen_fd = -1;
	d->loop = NULL;
}
