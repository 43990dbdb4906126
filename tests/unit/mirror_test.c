/* The third connection: order, its bound, a reader that stops, and every way to its end. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ft/common/mirror.h"

#define SESSION 77
#define PART	(64u << 10)

struct side {
	struct mirror m;
	unsigned frames, rooms, losses;
	uint64_t next;	/* epoch that is to come */
	unsigned takes; /* so many more frames; then it stops */
	bool stops;	/* in the callback */
	char why[100];
};

struct fix {
	struct loop loop;
	struct side a;
	struct stream far; /* the other end, of the test */
};

static uint8_t data[PART];

static bool frame(void *arg, const struct frame *f)
{
	struct side *s = arg;

	assert_int_equal(f->epoch, s->next);
	s->next++;
	s->frames++;
	if (s->stops)
		mirror_stop(&s->m);
	return --s->takes > 0;
}

static void room(void *arg)
{
	((struct side *)arg)->rooms++;
}

static void lost(void *arg, const char *why)
{
	struct side *s = arg;

	assert_false(mirror_is_up(&s->m));
	s->losses++;
	strncpy(s->why, why, sizeof(s->why) - 1);
}

static void start(struct fix *f)
{
	struct stream st;
	struct err e = {0};
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	stream_init(&st, fds[0], STREAM_MIRROR, SESSION);
	stream_init(&f->far, fds[1], STREAM_MIRROR, SESSION);
	st.got_preface = f->far.got_preface = true;
	f->a.m.frame = frame;
	f->a.m.room = room;
	f->a.m.lost = lost;
	f->a.m.arg = &f->a;
	f->a.takes = UINT32_MAX;
	f->a.frames = f->a.rooms = f->a.losses = 0;
	f->a.next = 0;
	assert_int_equal(mirror_start(&f->a.m, &f->loop, &st, &e), 0);
}

static int setup(void **state)
{
	struct fix *f = test_calloc(1, sizeof(*f));
	struct err e = {0};

	assert_int_equal(loop_init(&f->loop, &e), 0);
	start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	mirror_stop(&f->a.m);
	mirror_stop(&f->a.m);
	stream_done(&f->far);
	loop_done(&f->loop);
	test_free(f);
	return 0;
}

#define turns_until(f, cond)                                                                       \
	do {                                                                                       \
		uint64_t end_ = loop_now_ns() + 20000000000ull;                                    \
		while (!(cond)) {                                                                  \
			assert_true(loop_now_ns() < end_);                                         \
			loop_run_once(&(f)->loop, 1000000);                                        \
		}                                                                                  \
	} while (0)

static int put(struct fix *f, uint64_t epoch, uint32_t len)
{
	struct iovec iov[2] = {{data, len / 2}, {data + len / 2, len - len / 2}};

	return mirror_put(&f->a.m, FRAME_INPUT, epoch, iov, 2);
}

static void says(struct fix *f, uint64_t epoch)
{
	struct iovec iov = {data, 100};

	assert_int_equal(
		stream_send(&f->far, FRAME_OUTPUT, epoch, &iov, 1, loop_now_ns() + 1000000000ull),
		0);
}

/* The next frame at the other end. */
static void hears(struct fix *f, uint64_t epoch, uint32_t len)
{
	struct frame got;
	int r;

	turns_until(f, (r = stream_recv(&f->far, &got)) != 0);
	assert_int_equal(r, 1);
	assert_int_equal(got.type, FRAME_INPUT);
	assert_int_equal(got.epoch, epoch);
	assert_int_equal(got.length, len);
	assert_memory_equal(got.data, data, len);
}

/* Until one is refused; the thread may write one more right behind that. */
static uint64_t fill(struct fix *f)
{
	uint64_t n = 0;
	int r;

	while (!(r = put(f, n, PART)))
		n++;
	assert_int_equal(r, -EAGAIN);
	return n;
}

static void frames_keep_their_order(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(put(f, i, i * 100), 0);
	for (unsigned i = 0; i < 50; i++)
		hears(f, i, i * 100);
	assert_int_equal(f->a.m.put_frames, 50);
	for (unsigned i = 0; i < 50; i++)
		says(f, i);
	turns_until(f, f->a.frames == 50);
	assert_int_equal(f->a.losses, 0);
}

static void what_waits_has_a_bound(void **state)
{
	struct fix *f = *state;
	uint64_t n = fill(f), half = 0;

	assert_true(n >= MIRROR_LIMIT / PART);
	assert_true(f->a.m.bytes <= MIRROR_LIMIT + 2 * PART);
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(f->a.rooms, 0);
	for (uint64_t i = 0; i < n; i++) {
		hears(f, i, PART);
		loop_run_once(&f->loop, 0); /* a reader that never waits hears no news */
		half += !f->a.rooms;
	}
	turns_until(f, f->a.rooms);
	assert_int_equal(f->a.rooms, 1);
	assert_true(half >= MIRROR_LIMIT / PART / 2 - 8 && half < n); /* not before half is free */
	assert_int_equal(put(f, n, 10), 0);
	hears(f, n, 10);
	assert_int_equal(f->a.rooms, 1); /* once, for one refusal */
}

static uint64_t waiting(struct fix *f)
{
	uint64_t n;

	pthread_mutex_lock(&f->a.m.lock);
	n = f->a.m.bytes;
	pthread_mutex_unlock(&f->a.m.lock);
	return n;
}

/* The news that half is free, not taken in before it is full again, is old. */
static void news_of_room_that_is_gone(void **state)
{
	struct fix *f = *state;
	uint64_t end = loop_now_ns() + 20000000000ull, n = 0;
	struct frame got;

	while (waiting(f) <= MIRROR_LIMIT / 2)
		assert_int_equal(put(f, n++, PART), 0);
	while (waiting(f) > MIRROR_LIMIT / 2) {
		assert_true(loop_now_ns() < end);
		assert_true(stream_recv(&f->far, &got) >= 0);
	}
	fill(f);
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(f->a.rooms, 0);
}

static void a_reader_stops_and_goes_on(void **state)
{
	struct fix *f = *state;

	f->a.takes = 2;
	for (unsigned i = 0; i < 5; i++)
		says(f, i);
	turns_until(f, f->a.frames == 2);
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(f->a.frames, 2);
	f->a.takes = UINT32_MAX;
	mirror_read_on(&f->a.m); /* they are in the stream's buffer */
	turns_until(f, f->a.frames == 5);
	mirror_read_on(&f->a.m);
	says(f, 5);
	turns_until(f, f->a.frames == 6);
}

static void a_hang_up_is_told_once(void **state)
{
	struct fix *f = *state;

	says(f, 0);
	stream_done(&f->far);
	turns_until(f, f->a.losses);
	assert_int_equal(f->a.frames, 1); /* what came before it */
	assert_string_equal(f->a.why, "connection closed");
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(f->a.losses, 1);
}

static void a_malformed_stream_is_lost(void **state)
{
	struct fix *f = *state;

	memset(data, 0xee, 100);
	assert_int_equal(write(f->far.fd, data, 100), 100);
	memset(data, 0, 100);
	turns_until(f, f->a.losses);
	assert_int_equal(f->a.losses, 1);
	assert_int_equal(f->a.frames, 0);
}

static void it_may_be_stopped_by_a_frame(void **state)
{
	struct fix *f = *state;

	f->a.stops = true;
	says(f, 0);
	says(f, 1);
	turns_until(f, !mirror_is_up(&f->a.m));
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(f->a.frames, 1);
	assert_int_equal(f->a.losses, 0);
	f->a.stops = false;
	stream_done(&f->far);
	start(f); /* and again */
	assert_int_equal(put(f, 9, 5), 0);
	hears(f, 9, 5);
}

/* The other end takes nothing: the thread is in a write. */
static void a_blocked_write_does_not_keep_its_end(void **state)
{
	struct fix *f = *state;
	uint64_t began;

	fill(f);
	began = loop_now_ns();
	mirror_stop(&f->a.m);
	assert_true(loop_now_ns() - began < 3000000000ull);
	assert_int_equal(f->a.losses, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(frames_keep_their_order),	 T(what_waits_has_a_bound),
		T(news_of_room_that_is_gone),	 T(a_reader_stops_and_goes_on),
		T(a_hang_up_is_told_once),	 T(a_malformed_stream_is_lost),
		T(it_may_be_stopped_by_a_frame), T(a_blocked_write_does_not_keep_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
