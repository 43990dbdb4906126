/* Suspicion of oneself: may the peer have taken over? */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/unit/libheart.h"
#include "tests/unit/liblocks.h"
#include "tests/unit/libwire.h"

/* The peer lives, but echoes nothing, until the lease has run out. The first and the last nonce. */
static void let_the_lease_run_out(struct world *w, struct wire_heart *first,
				  struct wire_heart *last)
{
	memset(first, 0, sizeof(*first));
	peer_hear_beat(w, first);
	while (loop_now_ns() - first->nonce < w->heart.timeout_ns)
		*last = peer_echo(w, 0);
	peer_hear_beat(w, last);
}

static void only_a_new_echo_restores_trust(void **state)
{
	struct world *w = *state;
	struct wire_heart first, last;

	world_begin(w, 10 * MS, SEC);
	assert_false(heart_suspect(&w->heart));
	let_the_lease_run_out(w, &first, &last);
	assert_true(heart_suspect(&w->heart));
	peer_echo(w, first.nonce);	   /* an old one */
	peer_echo(w, loop_now_ns() + SEC); /* none of ours */
	peer_answered(w, 0, 2 * SEC);	   /* the loop is told something else */
	world_run(w, 3);
	assert_int_equal(w->trusted, 0);
	assert_true(heart_suspect(&w->heart));
	peer_hear_beat(w, &last);
	peer_echo(w, last.nonce);
	world_run(w, 3);
	assert_int_equal(w->trusted, 1);
	assert_false(heart_suspect(&w->heart));
	for (int i = 0; i < 4; i++) {
		peer_hear_beat(w, &last);
		peer_echo(w, last.nonce);
	}
	let_the_lease_run_out(w, &first, &last); /* that the old one was late makes it no longer */
	assert_true(heart_suspect(&w->heart));
	assert_int_equal(w->lost, 0);
}

static void nobody_asked_nobody_is_told(void **state)
{
	struct world *w = *state;
	struct wire_heart first, last;

	world_begin(w, 10 * MS, SEC);
	let_the_lease_run_out(w, &first, &last);
	peer_echo(w, last.nonce);
	world_run(w, 3);
	assert_int_equal(w->trusted, 0);
}

/* What the peer echoes out of order does not shorten a lease, and one is a timeout's length. */
static void a_lease_is_as_old_as_its_heartbeat(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0}, old;
	bool suspect;

	world_begin(w, 10 * MS, 2 * SEC);
	peer_hear_beat(w, &h);
	old = h;
	peer_hear_beat(w, &h);
	peer_echo(w, h.nonce);
	peer_echo(w, old.nonce);
	assert_false(heart_suspect(&w->heart));
	while (loop_now_ns() - h.nonce < 2100 * MS) {
		suspect = heart_suspect(&w->heart);
		if (loop_now_ns() - h.nonce < 1400 * MS)
			assert_false(suspect);
		peer_echo(w, old.nonce); /* when that arrives says nothing */
		usleep(5000);
	}
	assert_true(heart_suspect(&w->heart));
}

/* A link with a long round trip: it counts on both sides. */
static void the_round_trip_is_added(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0};
	uint64_t on_its_way[256], first, last = 0;
	unsigned n = 0, arrived = 0;

	world_begin(w, 10 * MS, 800 * MS);
	for (first = loop_now_ns(); n < 256 && loop_now_ns() - first < 1500 * MS;) {
		peer_hear_beat(w, &h);
		on_its_way[n++] = h.nonce;
		while (loop_now_ns() - on_its_way[arrived] > 700 * MS)
			arrived++;
		last = loop_now_ns();
		peer_say(w, w->nonce + 1, arrived ? on_its_way[arrived - 1] : 0, 0);
		if (arrived < 2)
			heart_suspect(&w->heart);
	}
	world_run(w, 3);
	assert_false(heart_suspect(&w->heart));
	assert_int_equal(w->trusted, 1); /* it was not, before the first echoes */
	/* But the other side's may be shorter: no lease is longer than the timeout. */
	while (loop_now_ns() - on_its_way[arrived - 1] < 850 * MS)
		usleep(5000);
	assert_true(heart_suspect(&w->heart));
	world_run_until_lost(w);
	assert_true(loop_now_ns() - last > 1400 * MS);
}

/* The peer hears that the loop hangs, and takes over or echoes it. */
static void a_confessed_hang_is_suspicion(void **state)
{
	struct world *w = *state;
	struct wire_heart before = {0}, h = {0};
	bool suspect;

	world_begin(w, 100 * MS, 4 * SEC);
	peer_hear_beat(w, &before);
	world_set_away(w, 4 * SEC * HEART_HANG_TIMEOUTS - SEC / 2); /* not yet */
	peer_hear_beat(w, &h);
	peer_hear_beat(w, &h);
	assert_false(heart_suspect(&w->heart));
	world_set_away(w, 4 * SEC * HEART_HANG_TIMEOUTS + SEC / 2);
	before = h;
	while (h.away_ns < 4 * SEC * HEART_HANG_TIMEOUTS) {
		before = h;
		peer_hear_beat(w, &h);
	}
	assert_true(heart_suspect(&w->heart));
	peer_echo(w, before.nonce); /* fresh, but older than the confession */
	assert_true(heart_suspect(&w->heart));
	peer_echo(w, h.nonce);
	suspect = heart_suspect(&w->heart);
	if (loop_now_ns() - h.nonce < 100 * MS) /* else there is another one */
		assert_false(suspect);
	peer_hear_beat(w, &h);
	world_run(w, 3);
	assert_true(heart_suspect(&w->heart));
	while (h.away_ns > 4 * SEC)
		peer_hear_beat(w, &h);
	assert_true(heart_suspect(&w->heart)); /* the loop is back, and does not know */
	assert_int_equal(w->trusted, 0);
	peer_echo(w, h.nonce);
	world_run(w, 3);
	assert_int_equal(w->trusted, 1);
	assert_false(heart_suspect(&w->heart));
}

/* Away for longer than the timeout is no reason for it: the thread's echoes say who missed us. */
static void a_busy_loop_is_not_suspect(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0};

	world_begin(w, 10 * MS, 4 * SEC);
	world_set_away(w, 6 * SEC);
	while (h.away_ns < 6 * SEC)
		peer_hear_beat(w, &h);
	peer_echo(w, h.nonce);
	assert_false(heart_suspect(&w->heart));
	world_run(w, 3);
	assert_int_equal(w->lost, 0);
}

/* --- the whole process is stopped ------------------------------------------------------------- */

#define TIMEOUT_NS SEC

struct child {
	struct world w;
	struct loop_op op;
	int fd;
};

/* Asked: what it thinks. */
static void question(struct loop_op *op, int res)
{
	struct child *c = op->arg;
	char q, a;

	if (read(c->fd, &q, 1) != 1) {
		heart_stop(&c->w.heart);
		_exit(0);
	}
	a = (char)('0' + heart_suspect(&c->w.heart) + 2 * c->w.trusted + 4 * c->w.lost);
	if (write(c->fd, &a, 1) != 1)
		_exit(1);
}

static void child(int fd, struct stream *st)
{
	struct child *c = calloc(1, sizeof(*c));

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!c || loop_init(&c->w.loop, NULL))
		_exit(1);
	c->fd = fd;
	c->op = (struct loop_op){.fn = question, .arg = c};
	c->w.heart.lost = world_lost;
	c->w.heart.trusted = world_trusted;
	c->w.heart.arg = &c->w;
	if (loop_poll_add(&c->w.loop, &c->op, fd, POLLIN) ||
	    heart_start(&c->w.heart, &c->w.loop, st, 10 * MS, TIMEOUT_NS))
		_exit(1);
	loop_run(&c->w.loop);
	_exit(1);
}

static char ask(int fd)
{
	char c = '?';

	assert_int_equal(write(fd, &c, 1), 1);
	assert_int_equal(read(fd, &c, 1), 1);
	return c;
}

static void echo_for(struct world *w, struct wire_heart *h, uint64_t ns)
{
	for (uint64_t until = loop_now_ns() + ns; loop_now_ns() < until;) {
		peer_hear_beat(w, h);
		peer_echo(w, h->nonce);
	}
}

static void who_was_stopped_is_silent_and_suspect(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0};
	struct stream st;
	int q[2], status;
	pid_t pid;
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, q), 0);
	world_connect(w, &st);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(q[0]);
		child(q[1], &st);
	}
	stream_done(&st);
	close(q[1]);
	echo_for(w, &h, 100 * MS);
	assert_int_equal(ask(q[0]), '0');
	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	while (peer_hear(w, &h, 0))
		;
	assert_false(peer_hear(w, &h, (int)(TIMEOUT_NS / MS) + 100)); /* dead, for the peer */
	assert_int_equal(write(q[0], "?", 1), 1);
	kill(pid, SIGCONT);
	assert_int_equal(read(q[0], &c, 1), 1);
	assert_int_equal(c, '1'); /* suspect, and does not take the peer for dead */
	echo_for(w, &h, 100 * MS);
	assert_int_equal(ask(q[0]), '2');
	close(q[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(who_was_stopped_is_silent_and_suspect),
		T(only_a_new_echo_restores_trust),
		T(nobody_asked_nobody_is_told),
		T(a_lease_is_as_old_as_its_heartbeat),
		T(the_round_trip_is_added),
		T(a_confessed_hang_is_suspicion),
		T(a_busy_loop_is_not_suspect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
