/* One session with a secondary: all bytes out, all answers in. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/hostile/hostile.h"
#include "vmm/wire/chan.h"
#include "vmm/base/loop.h"

int call_connect(const char *uri)
{
	struct chan_uri u;
	struct err e = {0};
	int fd = chan_parse(uri, &u, &e);

	if (!fd)
		fd = chan_connect(&u, 5000, &e);
	if (fd < 0) {
		printf("cannot connect: %s\n", e.msg);
		return -1;
	}
	return fd;
}

static void take_answer(struct call *c, const struct frame *f, uint64_t first)
{
	if (f->type == FRAME_WELCOME) {
		c->welcomed = true;
	} else if (f->type == FRAME_REFUSE) {
		snprintf(c->refusal, sizeof(c->refusal), "%.*s", (int)f->length,
			 (const char *)f->data);
	} else if (f->type == FRAME_ACK) {
		c->acks_in_order = c->acks_in_order && f->epoch == first + c->acks;
		c->acks++;
	}
}

/* False when there is no more. */
static bool take_answers(struct call *c, struct stream *st, uint64_t first)
{
	struct frame f;
	int r;

	while ((r = stream_recv(st, &f)) == 1)
		take_answer(c, &f, first);
	return r == 0;
}

/*
 * Where the next epoch ends, at or after byte `from`: frames are followed from the start for as
 * long as they are right.
 */
static size_t epoch_end(const struct bytes *b, size_t from)
{
	size_t at = sizeof(struct stream_preface);
	struct frame_hdr h;

	while (at + sizeof(h) <= b->len) {
		memcpy(&h, b->p + at, sizeof(h));
		if (h.length > b->len - at - sizeof(h))
			break;
		at += sizeof(h) + h.length;
		if (h.type == FRAME_EPOCH_END && at > from)
			return at;
	}
	return b->len;
}

static size_t send_some(int fd, const struct bytes *b, size_t sent, size_t end)
{
	ssize_t n = send(fd, b->p + sent, end - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

	/* Closed already: what it said before can still be read. */
	return n >= 0 ? sent + (size_t)n : errno == EAGAIN ? sent : b->len;
}

bool call_play(const char *uri, const struct bytes *b, uint64_t session, uint64_t first,
	       bool in_turns, struct call *ret)
{
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS, turn_until = until;
	size_t sent = 0, end = in_turns ? epoch_end(b, 0) : b->len;
	int fd = call_connect(uri);
	unsigned ends = 0;
	struct stream st;

	*ret = (struct call){.acks_in_order = true};
	if (fd < 0)
		return false;
	stream_init(&st, fd, STREAM_MAIN, session ? session : 1);
	while (!ret->ended && loop_now_ns() < until) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (sent == end && end < b->len &&
		    (ret->acks >= ends || loop_now_ns() > turn_until))
			end = epoch_end(b, end);
		p.events |= sent < end ? POLLOUT : 0;
		poll(&p, 1, 20);
		if (p.revents & POLLOUT && sent < end) {
			sent = send_some(fd, b, sent, end);
			if (sent == end) {
				ends++;
				turn_until = loop_now_ns() + HOSTILE_TURN_NS;
			}
			if (sent == b->len)
				shutdown(fd, SHUT_WR);
		} else if (!b->len) {
			shutdown(fd, SHUT_WR);
		}
		if (p.revents & ~POLLOUT)
			ret->ended = !take_answers(ret, &st, first);
	}
	stream_done(&st);
	return ret->ended;
}
