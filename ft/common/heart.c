#include "ft/common/heart.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/wire.h"

#define FRAMES_PER_TURN 256 /* then other events have their turn */

static void lose(struct heart *h, const char *why)
{
	if (!h->running)
		return;
	h->running = false;
	h->lost(h->arg, why);
}

/* Was the loop away? Called at the start of everything, so that a gap is seen before data is used.
 */
static void look_at_clock(struct heart *h)
{
	uint64_t now = loop_now_ns();

	if (now - h->last_tick_ns > h->interval_ns + h->timeout_ns / 2) {
		h->trusted_from = h->nonce + 1;
		h->last_heard_ns = now;
	}
	h->last_tick_ns = now;
}

static int beat(struct heart *h)
{
	struct wire_heart w = {.nonce = ++h->nonce, .echo = h->peer_nonce};
	struct iovec iov = {&w, sizeof(w)};

	/* A full socket means that the peer does not read: its silence will be judged, not this. */
	return stream_send(&h->stream, FRAME_HEART, 0, &iov, 1, loop_now_ns() + 2000000);
}

static void tick(struct loop_op *op, int res)
{
	struct heart *h = op->arg;
	uint64_t silent;
	char why[80];

	look_at_clock(h);
	silent = loop_now_ns() - h->last_heard_ns;
	if (silent > h->timeout_ns) {
		snprintf(why, sizeof(why), "silent for %llu ms",
			 (unsigned long long)(silent / 1000000));
		lose(h, why);
		return;
	}
	if (beat(h) < 0 && h->running) {
		lose(h, "heartbeat link closed");
		return;
	}
	if (h->running)
		loop_timer_set(h->loop, &h->tick_op, h->interval_ns);
}

/* False: no heartbeat. */
static bool heard_frame(struct heart *h, const struct frame *f)
{
	struct wire_heart w;
	bool was_suspect = h->trusted_from;

	if (f->type != FRAME_HEART || f->length != sizeof(w))
		return false;
	memcpy(&w, f->data, sizeof(w));
	h->peer_nonce = w.nonce;
	h->last_heard_ns = loop_now_ns();
	if (was_suspect && w.echo >= h->trusted_from && w.echo <= h->nonce) {
		h->trusted_from = 0;
		if (h->trusted)
			h->trusted(h->arg);
	}
	return true;
}

static void readable(struct loop_op *op, int res)
{
	struct heart *h = op->arg;
	struct frame f;
	int r = 1;

	look_at_clock(h);
	for (int n = 0; n < FRAMES_PER_TURN && h->running; n++) {
		r = stream_recv(&h->stream, &f);
		if (r == 0)
			return;
		if (r < 0) {
			lose(h, r == -EBADMSG ? h->stream.why : "heartbeat link closed");
			return;
		}
		if (!heard_frame(h, &f)) {
			lose(h, "something else than a heartbeat on its link");
			return;
		}
	}
	/* The rest may be in the stream's buffer, where poll does not see it. */
	if (h->running)
		loop_timer_set(h->loop, &h->again_op, 0);
}

int heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		uint64_t timeout_ns)
{
	int r;

	h->loop = l;
	h->stream = *st;
	memset(st, 0, sizeof(*st));
	st->fd = -1;
	h->interval_ns = interval_ns;
	h->timeout_ns = timeout_ns;
	h->last_heard_ns = h->last_tick_ns = loop_now_ns();
	h->nonce = h->peer_nonce = h->trusted_from = 0;
	h->running = true;
	h->tick_op = (struct loop_op){.fn = tick, .arg = h};
	h->poll_op = (struct loop_op){.fn = readable, .arg = h};
	h->again_op = (struct loop_op){.fn = readable, .arg = h};
	r = loop_poll_add(l, &h->poll_op, h->stream.fd, POLLIN);
	return r ? r : loop_timer_set(l, &h->tick_op, 0);
}

void heart_stop(struct heart *h)
{
	if (!h->loop)
		return;
	h->running = false;
	loop_timer_del(h->loop, &h->tick_op);
	loop_timer_del(h->loop, &h->again_op);
	loop_poll_del(h->loop, &h->poll_op);
	stream_done(&h->stream);
	h->loop = NULL;
}

void heart_heard(struct heart *h)
{
	if (h->loop)
		h->last_heard_ns = loop_now_ns();
}

bool heart_suspect(struct heart *h)
{
	if (!h->loop)
		return true;
	look_at_clock(h);
	return h->trusted_from != 0;
}
