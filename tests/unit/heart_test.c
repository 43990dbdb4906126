/* Heartbeats: who is dead, who hangs, and how a heart starts and stops. */
#define _GNU_SOURCE /* memfd_create */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/libheart.h"
#include "tests/unit/liblocks.h"
#include "tests/unit/libwire.h"

/* --- life and death --------------------------------------------------------------------------- */

static void beats_without_the_loop(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0}, before;

	world_begin(w, 2 * MS, 20 * SEC);
	peer_hear_beat(w, &h);
	world_set_away(w, 300 * MS);
	for (int i = 0; i < 1000 && h.away_ns <= 300 * MS; i++)
		peer_hear_beat(w, &h); /* those of before are on their way */
	for (int i = 0; i < 5; i++) {
		before = h;
		peer_hear_beat(w, &h);
		assert_true(h.nonce > before.nonce);
		assert_true(h.away_ns > before.away_ns && h.away_ns > 300 * MS);
	}
	world_run(w, 1);
	before = h;
	for (int i = 0; i < 1000 && h.away_ns >= 300 * MS; i++)
		peer_hear_beat(w, &h);
	assert_true(h.away_ns < 300 * MS);
}

static void a_new_nonce_is_answered_at_once(void **state)
{
	struct world *w = *state;
	struct wire_heart first = {0}, h;

	world_begin(w, NEVER, 4 * NEVER);
	peer_hear_beat(w, &first);
	assert_int_equal(first.echo, 0);
	for (uint64_t n = 7; n < 10; n++) {
		peer_say(w, n, 0, 0);
		assert_true(peer_hear(w, &h, 5000));
		assert_int_equal(h.echo, n);
		assert_int_equal(h.nonce, first.nonce); /* so that it is not answered in turn */
		assert_int_equal(h.away_ns, first.away_ns);
	}
	peer_say(w, 9, 0, 0);
	assert_false(peer_hear(w, &h, 20));
}

static void silence_is_loss(void **state)
{
	struct world *w = *state;
	uint64_t start = loop_now_ns();

	world_begin(w, 5 * MS, 40 * MS);
	world_run_until_lost(w);
	assert_true(loop_now_ns() - start >= 40 * MS);
	assert_memory_equal(w->why, "silent for ", 11);
	assert_true(heart_suspect(&w->heart));
}

static void heartbeats_are_life(void **state)
{
	struct world *w = *state;

	world_begin(w, 5 * MS, 800 * MS);
	for (uint64_t until = loop_now_ns() + SEC; loop_now_ns() < until; usleep(5000)) {
		peer_echo(w, 0);
		world_run(w, 1);
	}
	assert_int_equal(w->lost, 0);
}

static void the_other_link_is_life(void **state)
{
	struct world *w = *state;

	world_begin(w, 5 * MS, 800 * MS);
	for (uint64_t until = loop_now_ns() + SEC; loop_now_ns() < until; usleep(5000)) {
		heart_heard(&w->heart);
		world_run(w, 1);
	}
	assert_int_equal(w->lost, 0);
	world_run_until_lost(w);
}

static void a_raised_timeout_is_used(void **state)
{
	struct world *w = *state;

	world_begin(w, 5 * MS, 500 * MS);
	w->heart.timeout_ns = 60 * SEC;
	world_run(w, 2);
	usleep(600000);
	world_run(w, 2);
	peer_answered(w, 0, 59 * SEC);
	assert_int_equal(w->lost, 0);
	peer_say(w, w->nonce + 1, 0, 61 * SEC);
	world_run_until_lost(w);
}

static unsigned heart_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	char path[300], name[16];
	unsigned n = 0;

	assert_non_null(tasks);
	for (struct dirent *d; (d = readdir(tasks));) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", d->d_name);
		f = fopen(path, "r");
		n += f && fgets(name, sizeof(name), f) && !strcmp(name, "heart\n");
		if (f)
			fclose(f);
	}
	closedir(tasks);
	return n;
}

/* Once it has lost the peer there is nothing left to do for it. */
static void a_heart_that_lost_its_peer_ends(void **state)
{
	struct world *w = *state;

	world_begin(w, NEVER, 4 * NEVER);
	peer_echo(w, 0);
	assert_int_equal(heart_threads(), 1);
	stream_done(&w->peer);
	for (int left = 10000; heart_threads(); left--) {
		assert_true(left > 0);
		usleep(1000);
	}
	world_run_until_lost(w);
}

static void end_of_the_stream_is_loss(void **state)
{
	struct world *w = *state;

	world_begin(w, NEVER, 4 * NEVER);
	peer_echo(w, 0);
	stream_done(&w->peer);
	world_run_until_lost(w);
	assert_string_equal(w->why, "heartbeat link closed");
}

static int lowest_free_fd(void)
{
	int fd = dup(0);

	assert_true(fd >= 0);
	close(fd);
	return fd;
}

/* It needs two more than the link: whichever it does not get, nothing is left, the link closed. */
static void a_process_without_descriptors(void **state)
{
	struct world *w = *state;
	struct rlimit was, few;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	for (unsigned left = 0; left < 2; left++) {
		int before = lowest_free_fd(), r;
		struct stream st;

		world_connect(w, &st);
		few = was;
		few.rlim_cur = (rlim_t)lowest_free_fd() + left;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		r = heart_start(&w->heart, &w->loop, &st, 5 * MS, SEC);
		setrlimit(RLIMIT_NOFILE, &was);
		assert_int_equal(r, -EMFILE);
		assert_int_equal(st.fd, -1);
		assert_true(heart_suspect(&w->heart));
		world_end(w);
		assert_int_equal(lowest_free_fd(), before);
	}
	world_begin(w, 5 * MS, SEC);
	peer_echo(w, 0);
}

/* Before the loop is told. */
static void who_lost_the_peer_is_suspect(void **state)
{
	struct world *w = *state;

	world_begin(w, NEVER, 4 * NEVER);
	peer_echo(w, 0);
	assert_false(heart_suspect(&w->heart));
	stream_done(&w->peer);
	for (int i = 0; i < 5000 && !heart_suspect(&w->heart); i++)
		usleep(1000);
	assert_true(heart_suspect(&w->heart));
	assert_int_equal(w->lost, 0);
}

/* It sends as much as it likes, and takes no answer. */
static void a_peer_that_does_not_read_is_lost(void **state)
{
	struct world *w = *state;
	int small = 4096;

	world_begin(w, NEVER, 4 * NEVER);
	setsockopt(w->heart.stream.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (int i = 0; i < 1000 && !w->lost; i++) {
		peer_say(w, w->nonce + 1, 0, 0);
		world_run(w, 1);
	}
	world_run_until_lost(w);
}

static void an_idle_loop_is_not_away(void **state)
{
	struct world *w = *state;
	uint64_t start;

	world_begin(w, 10 * MS, 20 * SEC);
	world_run(w, 2);
	start = loop_now_ns();
	for (int i = 0; i < 4; i++)
		loop_run_once(&w->loop, 2 * SEC);
	assert_true(loop_now_ns() - start < 4 * SEC);
}

static void bad_frames_are_loss(void **state)
{
	struct world *w = *state;
	uint8_t data[64];
	struct iovec iov = {data, sizeof(data)};
	static const struct {
		enum frame_type type;
		size_t len;
		const char *why;
	} bad[] = {
		{FRAME_ACK, 0, "something else than a heartbeat on its link"},
		{FRAME_ACK, sizeof(struct wire_heart),
		 "something else than a heartbeat on its link"},
		{FRAME_HEART, 0, "something else than a heartbeat on its link"},
		{FRAME_HEART, 16, "something else than a heartbeat on its link"},
		{FRAME_HEART, 64, "something else than a heartbeat on its link"},
		{FRAME_TYPE_MAX, 64, "frame 0: type"}, /* no frame at all */
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		world_begin(w, NEVER, 4 * NEVER);
		iov.iov_len = bad[i].len;
		memset(data, FRAME_HEART, sizeof(data));
		if (bad[i].type == FRAME_TYPE_MAX)
			assert_int_equal(write(w->peer.fd, data, sizeof(data)), sizeof(data));
		else
			assert_int_equal(stream_send(&w->peer, bad[i].type, 0, &iov,
						     iov.iov_len ? 1 : 0, loop_now_ns() + SEC),
					 0);
		world_run_until_lost(w);
		assert_memory_equal(w->why, bad[i].why, strlen(bad[i].why));
		world_end(w);
	}
}

/* What the heart waits for: its loop, its peer. */
static atomic_uint waits_for, waited_for_one;

int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask);

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	waits_for = (unsigned)n;
	waited_for_one += n == 1;
	return __real_ppoll(fds, n, ts, mask);
}

/* Where poll does not see them: in the stream, of whoever read the first; and after a full turn. */
static void what_is_buffered_is_heard(void **state)
{
	struct world *w = *state;
	struct wire_heart h = {0};
	struct wire many = {0};
	struct stream st;
	struct frame f;

	world_connect(w, &st);
	peer_say(w, 1, 0, 0);
	peer_say(w, 2, 0, 0);
	assert_int_equal(stream_recv(&st, &f), 1);
	world_start(w, &st, NEVER, 4 * NEVER);
	while (h.echo != 2)
		assert_true(peer_hear(w, &h, 5000));
	for (many.seq = 2; many.seq < 600;) {
		h.nonce = many.seq + 1;
		wire_frame(&many, FRAME_HEART, &h, sizeof(h));
	}
	waited_for_one = 0;
	assert_int_equal(write(w->peer.fd, many.p, many.len), many.len);
	while (h.echo != 600)
		assert_true(peer_hear(w, &h, 5000));
	wire_free(&many);
	/* It did not look at the peer after a full turn, but does so now. */
	assert_true(waited_for_one > 0);
	for (int left = 5000; waits_for != 2; left--) {
		assert_true(left > 0);
		usleep(1000);
	}
}

/* --- the loop hangs --------------------------------------------------------------------------- */

static void a_hung_loop_is_lost_at_its_own_bound(void **state)
{
	static const struct {
		uint64_t timeout_ns, hang_ns;
	} cases[] = {
		{100 * MS, HEART_HANG_MIN_NS},
		{30 * SEC, 30 * SEC * HEART_HANG_TIMEOUTS},
	};
	struct world *w = *state;

	for (unsigned i = 0; i < 2; i++) {
		/* The first timeout is for the peer's interval, which is the test's pace. */
		world_begin(w, NEVER, cases[i].timeout_ns);
		w->heart.timeout_ns = cases[i].timeout_ns;
		for (unsigned n = 1; n <= 4; n++)
			peer_answered(w, 0, cases[i].hang_ns / 4 * n);
		world_run(w, 3);
		assert_int_equal(w->lost, 0);
		peer_say(w, w->nonce + 1, 0, cases[i].hang_ns + MS);
		world_run_until_lost(w);
		assert_memory_equal(w->why, "its loop hangs, away for ", 25);
		world_end(w);
	}
}

/* Back again, before anybody had judged it. */
static void a_loop_that_came_back_does_not_hang(void **state)
{
	struct world *w = *state;
	struct wire_heart h[2] = {{1, 0, 2 * HEART_HANG_MIN_NS}, {2, 0, 0}};
	struct stream st;

	world_connect(w, &st);
	peer_say(w, h[0].nonce, 0, h[0].away_ns);
	peer_say(w, h[1].nonce, 0, 0);
	world_start(w, &st, NEVER, 100 * MS);
	while (h[0].echo != 2)
		assert_true(peer_hear(w, &h[0], 5000));
	world_run(w, 3);
	assert_int_equal(w->lost, 0);
}

static unsigned lines(int fd, const char *what)
{
	char text[4096];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	unsigned found = 0;

	assert_true(n >= 0);
	text[n] = 0;
	for (const char *at = text; (at = strstr(at, what)); at++)
		found++;
	return found;
}

/* One line for each time that it is away for longer than the timeout. */
static void a_loop_that_is_away_is_named_once(void **state)
{
	static const uint64_t away[] = {50 * MS, 99 * MS, 101 * MS, 150 * MS, 3000 * MS,
					0,	 99 * MS, 0,	    700 * MS, 900 * MS};
	struct world *w = *state;
	int log = memfd_create("log", 0), keep = dup(2);

	assert_true(log >= 0 && dup2(log, 2) == 2);
	world_begin(w, NEVER, 100 * MS);
	for (unsigned i = 0; i < sizeof(away) / sizeof(away[0]); i++) {
		peer_answered(w, 0, away[i]);
		world_run(w, 2);
	}
	assert_int_equal(w->lost, 0);
	assert_int_equal(w->trusted, 0);
	stream_done(&w->peer);
	world_run_until_lost(w);
	dup2(keep, 2);
	close(keep);
	assert_int_equal(lines(log, "the peer's loop has been away for"), 2);
	assert_int_equal(lines(log, "away for 101 ms"), 1);
	assert_int_equal(lines(log, "away for 700 ms"), 1);
	close(log);
}

/* --- start and stop --------------------------------------------------------------------------- */

static void stopped_in_its_own_callback(void **state)
{
	struct world *w = *state;

	w->stops = true;
	for (int i = 0; i < 20; i++) {
		world_begin(w, MS, 4 * NEVER);
		stream_done(&w->peer);
		world_run_until_lost(w);
		assert_null(w->heart.loop);
	}
}

static void no_callback_after_the_stop(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 20; i++) {
		world_begin(w, MS, 4 * NEVER);
		stream_done(&w->peer);
		usleep(i * 100);
		heart_stop(&w->heart);
		world_run(w, 2);
		assert_int_equal(w->lost, 0);
	}
}

static void stopped_between_two_beats(void **state)
{
	struct world *w = *state;
	uint64_t start;

	world_begin(w, NEVER, 4 * NEVER);
	peer_echo(w, 0);
	start = loop_now_ns();
	heart_stop(&w->heart);
	assert_true(loop_now_ns() - start < NEVER / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(beats_without_the_loop),
		T(a_new_nonce_is_answered_at_once),
		T(silence_is_loss),
		T(heartbeats_are_life),
		T(the_other_link_is_life),
		T(a_raised_timeout_is_used),
		T(end_of_the_stream_is_loss),
		T(a_heart_that_lost_its_peer_ends),
		T(a_process_without_descriptors),
		T(who_lost_the_peer_is_suspect),
		T(a_peer_that_does_not_read_is_lost),
		T(an_idle_loop_is_not_away),
		T(bad_frames_are_loss),
		T(what_is_buffered_is_heard),
		T(a_hung_loop_is_lost_at_its_own_bound),
		T(a_loop_that_came_back_does_not_hang),
		T(a_loop_that_is_away_is_named_once),
		T(stopped_in_its_own_callback),
		T(no_callback_after_the_stop),
		T(stopped_between_two_beats),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
