/* One heart, its loop, and a peer that says and echoes what the test wants. */
#ifndef TESTS_UNIT_HEART_RIG_H
#define TESTS_UNIT_HEART_RIG_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/common/heart.h"
#include "tests/unit/stream_wire.h"

#define MS    1000000ull
#define SEC   1000000000ull
#define NEVER (10 * SEC) /* an interval that no test waits for */

struct world {
	struct loop loop;
	struct heart heart;
	struct stream peer;
	uint64_t nonce; /* the peer's last */
	int lost, trusted;
	bool stops; /* a lost() that stops the heart */
	char why[160];
};

static inline void lost(void *arg, const char *why)
{
	struct world *w = arg;

	w->lost++;
	if (w->stops)
		heart_stop(&w->heart);
	snprintf(w->why, sizeof(w->why), "%s", why);
}

static inline void trusted(void *arg)
{
	((struct world *)arg)->trusted++;
}

/* A new link: the heart's end, which is not started yet, and the peer's. */
static inline void connect_peer(struct world *w, struct stream *st)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(st, fd[0], STREAM_HEART, WIRE_SESSION);
	stream_init(&w->peer, fd[1], STREAM_HEART, WIRE_SESSION);
	w->nonce = 0;
	w->lost = w->trusted = 0;
	w->why[0] = 0;
}

static inline void start(struct world *w, struct stream *st, uint64_t interval_ns,
			 uint64_t timeout_ns)
{
	w->heart.lost = lost;
	w->heart.trusted = trusted;
	w->heart.arg = w;
	assert_int_equal(heart_start(&w->heart, &w->loop, st, interval_ns, timeout_ns), 0);
	assert_int_equal(st->fd, -1);
}

static inline void begin(struct world *w, uint64_t interval_ns, uint64_t timeout_ns)
{
	struct stream st;

	connect_peer(w, &st);
	start(w, &st, interval_ns, timeout_ns);
}

static inline void end(struct world *w)
{
	heart_stop(&w->heart);
	heart_stop(&w->heart);
	assert_true(heart_suspect(&w->heart)); /* no link */
	stream_done(&w->peer);
}

static inline int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	*state = w;
	return w ? loop_init(&w->loop, NULL) : -1;
}

static inline int teardown(void **state)
{
	struct world *w = *state;

	end(w);
	loop_done(&w->loop);
	free(w);
	return 0;
}

/* --- what the peer does ----------------------------------------------------------------------- */

static inline void say(struct world *w, uint64_t nonce, uint64_t echo, uint64_t away_ns)
{
	struct wire_heart h = {nonce, echo, away_ns};
	struct iovec iov = {&h, sizeof(h)};

	w->nonce = nonce;
	assert_int_equal(stream_send(&w->peer, FRAME_HEART, 0, &iov, 1, loop_now_ns() + SEC), 0);
}

/* The next heartbeat. False: none within ms, or the end of the link. */
static inline bool hear(struct world *w, struct wire_heart *h, int ms)
{
	struct pollfd pfd = {.fd = w->peer.fd, .events = POLLIN};
	struct frame f;
	int r;

	while ((r = stream_recv(&w->peer, &f)) == 0)
		if (poll(&pfd, 1, ms) != 1)
			return false;
	if (r < 0)
		return false;
	assert_int_equal(f.type, FRAME_HEART);
	assert_int_equal(f.length, sizeof(*h));
	memcpy(h, f.data, sizeof(*h));
	return true;
}

static inline void hear_beat(struct world *w, struct wire_heart *h)
{
	uint64_t before = h->nonce;

	do
		assert_true(hear(w, h, 5000));
	while (h->nonce == before);
}

/* A heartbeat of the peer, which is judged before it is answered. */
static inline struct wire_heart answered(struct world *w, uint64_t echo, uint64_t away_ns)
{
	struct wire_heart h;

	say(w, w->nonce + 1, echo, away_ns);
	do
		assert_true(hear(w, &h, 5000));
	while (h.echo != w->nonce);
	return h;
}

/* The heart has seen that. */
static inline struct wire_heart echo(struct world *w, uint64_t nonce)
{
	return answered(w, nonce, 0);
}

/* --- what the loop does ----------------------------------------------------------------------- */

static inline void run(struct world *w, unsigned rounds)
{
	while (rounds--)
		loop_run_once(&w->loop, MS);
}

static inline void run_until_lost(struct world *w)
{
	for (uint64_t until = loop_now_ns() + 5 * SEC; !w->lost && loop_now_ns() < until;)
		run(w, 1);
	if (w->heart.loop)
		eventfd_write(w->heart.tell_fd, 1);
	run(w, 3);
	assert_int_equal(w->lost, 1);
}

/* Now it seems to have been away for so long. */
static inline void set_away(struct world *w, uint64_t ns)
{
	__atomic_store_n(&w->loop.round_ns, loop_now_ns() - ns, __ATOMIC_RELAXED);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
