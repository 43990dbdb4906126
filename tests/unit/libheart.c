#include "tests/unit/libheart.h"

void world_lost(void *arg, const char *why)
{
	struct world *w = arg;

	w->lost++;
	if (w->stops)
		heart_stop(&w->heart);
	snprintf(w->why, sizeof(w->why), "%s", why);
}

void world_trusted(void *arg)
{
	((struct world *)arg)->trusted++;
}

void world_connect(struct world *w, struct stream *st)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(st, fd[0], STREAM_HEART, WIRE_SESSION);
	stream_init(&w->peer, fd[1], STREAM_HEART, WIRE_SESSION);
	w->nonce = 0;
	w->lost = w->trusted = 0;
	w->why[0] = 0;
}

void world_start(struct world *w, struct stream *st, uint64_t interval_ns, uint64_t timeout_ns)
{
	w->heart.lost = world_lost;
	w->heart.trusted = world_trusted;
	w->heart.arg = w;
	assert_int_equal(heart_start(&w->heart, &w->loop, st, interval_ns, timeout_ns), 0);
	assert_int_equal(st->fd, -1);
}

void world_begin(struct world *w, uint64_t interval_ns, uint64_t timeout_ns)
{
	struct stream st;

	world_connect(w, &st);
	world_start(w, &st, interval_ns, timeout_ns);
}

void world_end(struct world *w)
{
	heart_stop(&w->heart);
	heart_stop(&w->heart);
	assert_true(heart_suspect(&w->heart)); /* no link */
	stream_done(&w->peer);
}

int world_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	*state = w;
	return w ? loop_init(&w->loop, NULL) : -1;
}

int world_teardown(void **state)
{
	struct world *w = *state;

	world_end(w);
	loop_done(&w->loop);
	free(w);
	return 0;
}

/* --- what the peer does ----------------------------------------------------------------------- */

void peer_say(struct world *w, uint64_t nonce, uint64_t echo, uint64_t away_ns)
{
	struct wire_heart h = {nonce, echo, away_ns};
	struct iovec iov = {&h, sizeof(h)};

	w->nonce = nonce;
	assert_int_equal(stream_send(&w->peer, FRAME_HEART, 0, &iov, 1, loop_now_ns() + SEC), 0);
}

bool peer_hear(struct world *w, struct wire_heart *h, int ms)
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

void peer_hear_beat(struct world *w, struct wire_heart *h)
{
	uint64_t before = h->nonce;

	do
		assert_true(peer_hear(w, h, 5000));
	while (h->nonce == before);
}

struct wire_heart peer_answered(struct world *w, uint64_t echo, uint64_t away_ns)
{
	struct wire_heart h;

	peer_say(w, w->nonce + 1, echo, away_ns);
	do
		assert_true(peer_hear(w, &h, 5000));
	while (h.echo != w->nonce);
	return h;
}

struct wire_heart peer_echo(struct world *w, uint64_t nonce)
{
	return peer_answered(w, nonce, 0);
}

/* --- what the loop does ----------------------------------------------------------------------- */

void world_run(struct world *w, unsigned rounds)
{
	while (rounds--)
		loop_run_once(&w->loop, MS);
}

void world_run_until_lost(struct world *w)
{
	for (uint64_t until = loop_now_ns() + 5 * SEC; !w->lost && loop_now_ns() < until;)
		world_run(w, 1);
	if (w->heart.loop)
		eventfd_write(w->heart.tell_fd, 1);
	world_run(w, 3);
	assert_int_equal(w->lost, 1);
}

void world_set_away(struct world *w, uint64_t ns)
{
	__atomic_store_n(&w->loop.round_ns, loop_now_ns() - ns, __ATOMIC_RELAXED);
}
