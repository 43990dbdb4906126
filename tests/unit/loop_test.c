#define _GNU_SOURCE /* gettid */
/* The event loop: turns of work, timers, and how long it was away, by a clock that the test steps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define MS 1000000ull

/* A clock is a function without an argument. */
static uint64_t now_ns, tick_ns;

/* Every look at it takes tick_ns. */
static uint64_t stepped(void)
{
	now_ns += tick_ns;
	return now_ns;
}

/* What happened, in order: one letter each. */
struct story {
	struct loop loop;
	char text[256];
	unsigned n;
};

static void note(struct story *s, char c)
{
	assert_true(s->n + 1 < sizeof(s->text));
	s->text[s->n++] = c;
	s->text[s->n] = 0;
}

#define assert_story(s, want)                                                                      \
	do {                                                                                       \
		assert_string_equal((s)->text, want);                                              \
		(s)->n = 0;                                                                        \
		(s)->text[0] = 0;                                                                  \
	} while (0)

static int setup(void **state)
{
	struct story *s = calloc(1, sizeof(*s));

	now_ns = 1000 * MS;
	tick_ns = 0;
	assert_int_equal(loop_init(&s->loop, NULL), 0);
	s->loop.clock = stepped;
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct story *s = *state;

	loop_done(&s->loop);
	free(s);
	return 0;
}

static void round_of(struct story *s)
{
	assert_int_equal(loop_run_once(&s->loop, 0), 0);
}

/* Who asks how long it has been away counts by the same clock. */
static void rounds_are_by_its_clock(void **state)
{
	struct story *s = *state;

	for (now_ns = 5 * MS; now_ns < 8 * MS; now_ns += MS) {
		round_of(s);
		assert_int_equal(loop_round_ns(&s->loop), now_ns);
	}
}

/* --- timers ----------------------------------------------------------------------------------- */

struct timer {
	struct loop_op op;
	struct story *s;
	char letter;
	struct timer *kill; /* deleted when this one fires */
	bool again;
};

static void fires(struct loop_op *op, int res)
{
	struct timer *t = op->arg;

	assert_true(res < 0);
	note(t->s, t->letter);
	if (t->kill)
		loop_timer_del(&t->s->loop, &t->kill->op);
	if (t->again)
		loop_timer_set(&t->s->loop, &t->op, 0);
}

static void timer(struct timer *t, struct story *s, char letter)
{
	*t = (struct timer){.op = {.fn = fires, .arg = t}, .s = s, .letter = letter};
}

static void timers_by_time(void **state)
{
	struct story *s = *state;
	struct timer t[5];

	for (unsigned i = 0; i < 5; i++)
		timer(&t[i], s, (char)('a' + i));
	loop_timer_set(&s->loop, &t[0].op, 30 * MS);
	loop_timer_set(&s->loop, &t[1].op, 10 * MS);
	loop_timer_set(&s->loop, &t[2].op, 20 * MS);
	loop_timer_set(&s->loop, &t[3].op, 10 * MS);
	loop_timer_set(&s->loop, &t[4].op, 5 * MS);
	loop_timer_del(&s->loop, &t[4].op);
	loop_timer_del(&s->loop, &t[4].op);
	round_of(s);
	assert_story(s, "");
	now_ns += 10 * MS - 1;
	round_of(s);
	assert_story(s, "");
	now_ns += 1;
	round_of(s);
	assert_story(s, "bd"); /* of the same time: as they were set */
	loop_timer_set(&s->loop, &t[0].op, 40 * MS);
	now_ns += 20 * MS;
	round_of(s);
	assert_story(s, "c"); /* set again: the old time does not count */
	now_ns += 1000 * MS;
	round_of(s);
	round_of(s);
	assert_story(s, "a");
}

static void timers_that_end_others(void **state)
{
	struct story *s = *state;
	struct timer t[4];

	for (unsigned i = 0; i < 4; i++) {
		timer(&t[i], s, (char)('a' + i));
		loop_timer_set(&s->loop, &t[i].op, (i + 1) * MS);
	}
	t[0].kill = &t[2];
	t[1].kill = &t[1]; /* itself: it is not set any more */
	now_ns += 10 * MS;
	round_of(s);
	assert_story(s, "abd");
	round_of(s);
	assert_story(s, "");
}

/* A timer for "soon" has one turn a round, although the time stands still. */
static void soon_is_the_next_round(void **state)
{
	struct story *s = *state;
	struct timer a, b;

	timer(&a, s, 'a');
	timer(&b, s, 'b');
	a.again = b.again = true;
	loop_timer_set(&s->loop, &a.op, 0);
	loop_timer_set(&s->loop, &b.op, 0);
	round_of(s);
	assert_story(s, "ab");
	round_of(s);
	round_of(s);
	assert_story(s, "abab");
}

static void many_timers(void **state)
{
	struct story *s = *state;
	struct timer *t = calloc(LOOP_MAX_OPS + 1, sizeof(*t));
	unsigned n = 0;

	for (; n <= LOOP_MAX_OPS; n++) {
		timer(&t[n], s, 't');
		if (loop_timer_set(&s->loop, &t[n].op, (n * 7919u) % 1000 * MS + 1))
			break;
	}
	assert_in_range(n, LOOP_MAX_OPS - 2, LOOP_MAX_OPS); /* and no more */
	for (unsigned i = 0; i < n; i++)
		if (i % 64)
			loop_timer_del(&s->loop, &t[i].op);
	now_ns += 1000 * MS;
	round_of(s);
	assert_int_equal(s->n, (n + 63) / 64);
	free(t);
}

static void ready(struct loop_op *op, int res)
{
	struct timer *t = op->arg;
	uint64_t n;

	assert_int_equal(res, POLLIN);
	assert_int_equal(read(op->fd, &n, sizeof(n)), sizeof(n));
	note(t->s, t->letter);
}

/* What came before a deadline counts, though the loop looks at both late. */
static void events_before_timers(void **state)
{
	struct story *s = *state;
	struct timer t, e;
	int fd = eventfd(1, EFD_NONBLOCK);

	timer(&t, s, 't');
	timer(&e, s, 'e');
	e.op.fn = ready;
	loop_timer_set(&s->loop, &t.op, MS);
	assert_int_equal(loop_poll_add(&s->loop, &e.op, fd, POLLIN), 0);
	now_ns += 50 * MS;
	round_of(s);
	assert_story(s, "et");
	loop_poll_del(&s->loop, &e.op);
	close(fd);
}

/* By the real clock. */
static void timers_wake_the_loop(void **state)
{
	struct story *s = *state;
	struct timer t;
	uint64_t start = loop_now_ns();

	s->loop.clock = loop_now_ns;
	timer(&t, s, 't');
	loop_timer_set(&s->loop, &t.op, 20 * MS);
	for (unsigned i = 0; i < 100 && !s->n; i++)
		assert_int_equal(loop_run_once(&s->loop, 10000 * MS), 0);
	assert_story(s, "t");
	assert_in_range(loop_now_ns() - start, 20 * MS, 9000 * MS);
}

/* --- work in turn ----------------------------------------------------------------------------- */

struct job {
	struct loop_work w;
	struct story *s;
	char letter;
	unsigned pieces;	/* left */
	uint64_t piece_ns;	/* that one takes */
	struct loop_work *kill; /* taken off the list */
};

static bool turn(struct loop_work *w)
{
	struct job *j = w->arg;

	while (j->pieces) {
		j->pieces--;
		note(j->s, j->letter);
		now_ns += j->piece_ns;
		if (j->kill)
			loop_work_del(&j->s->loop, j->kill);
		if (loop_should_yield(&j->s->loop))
			break;
	}
	return j->pieces;
}

static void job(struct job *j, struct story *s, char letter, unsigned pieces, uint64_t piece_ns)
{
	*j = (struct job){.w = {.fn = turn, .arg = j},
			  .s = s,
			  .letter = letter,
			  .pieces = pieces,
			  .piece_ns = piece_ns};
	loop_work_add(&s->loop, &j->w);
}

/* A round takes the budget and a piece at most, and begins with whoever waited longest. */
static void turns_go_round(void **state)
{
	struct story *s = *state;
	struct job a, b, c;

	job(&a, s, 'a', 9, LOOP_BUDGET_NS / 3 + 1);
	job(&b, s, 'b', 2, LOOP_BUDGET_NS * 10); /* one piece is too much already */
	job(&c, s, 'c', 2, 1000);
	loop_work_add(&s->loop, &c.w); /* it waits already */
	round_of(s);
	assert_story(s, "aaa");
	round_of(s);
	assert_story(s, "b");
	round_of(s);
	assert_story(s, "ccaaa");
	round_of(s);
	assert_story(s, "b");
	round_of(s);
	assert_story(s, "aaa");
	round_of(s);
	assert_story(s, "");
}

/* With budget to spare there is one turn each, then events are looked at. */
static void one_turn_a_round(void **state)
{
	struct story *s = *state;
	struct job a, b;

	job(&a, s, 'a', 1, 0);
	job(&b, s, 'b', 1, 0);
	loop_work_del(&s->loop, &b.w);
	loop_work_del(&s->loop, &b.w);
	round_of(s);
	assert_story(s, "a");
	a.pieces = b.pieces = 1;
	loop_work_add(&s->loop, &a.w);
	loop_work_add(&s->loop, &b.w);
	a.kill = &b.w;
	round_of(s);
	assert_story(s, "a");
	loop_work_add(&s->loop, &b.w); /* the end of the list is where it should be */
	round_of(s);
	assert_story(s, "b");
}

static bool never_done(struct loop_work *w)
{
	note(w->arg, 'x');
	return true;
}

/* Nor does work that costs nothing keep the loop from its events. */
static void endless_work(void **state)
{
	struct story *s = *state;
	struct loop_work x = {.fn = never_done, .arg = s};

	loop_work_add(&s->loop, &x);
	for (unsigned i = 0; i < 3; i++) {
		round_of(s);
		assert_story(s, "x");
	}
	loop_work_del(&s->loop, &x);
}

/* However much work there is, a timer and an event have their turn each round. */
static void work_keeps_nobody_waiting(void **state)
{
	struct story *s = *state;
	struct timer t, e;
	struct job a, b;
	uint64_t start;
	int fd = eventfd(0, EFD_NONBLOCK), one = 1;

	timer(&t, s, 't');
	timer(&e, s, 'e');
	t.again = true;
	e.op.fn = ready;
	assert_int_equal(loop_poll_add(&s->loop, &e.op, fd, POLLIN), 0);
	round_of(s);
	job(&a, s, 'a', 1000000, LOOP_BUDGET_NS / 2);
	job(&b, s, 'b', 1000000, LOOP_BUDGET_NS / 2);
	loop_timer_set(&s->loop, &t.op, 0);
	start = now_ns;
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(eventfd_write(fd, (eventfd_t)one), 0);
		round_of(s);
		assert_story(s, i % 2 ? "etbb" : "etaa");
	}
	assert_int_equal(now_ns - start, 10 * LOOP_BUDGET_NS);
	loop_work_del(&s->loop, &a.w);
	loop_work_del(&s->loop, &b.w);
	loop_poll_del(&s->loop, &e.op);
	close(fd);
}

static bool stops(struct loop_work *w)
{
	loop_stop(w->arg);
	return false;
}

/* A loop with work does not wait for an event, and one that was stopped keeps what is left. */
static void work_is_done_without_an_event(void **state)
{
	struct story *s = *state;
	struct loop_work end = {.fn = stops, .arg = &s->loop};
	struct job a, b;

	job(&a, s, 'a', 3, LOOP_BUDGET_NS);
	loop_work_add(&s->loop, &end);
	job(&b, s, 'b', 1, 0);
	assert_int_equal(loop_run(&s->loop), 0);
	assert_story(s, "a");
	round_of(s);
	assert_story(s, "ba");
	round_of(s);
	assert_story(s, "a");
}

/* --- file I/O --------------------------------------------------------------------------------- */

static void written(struct loop_op *op, int res)
{
	*(unsigned *)op->arg += (unsigned)res;
}

/* Much of it is handed over at once, in the time of who asks; the rest before the loop sleeps. */
static void hands_over_much_at_once(void **state)
{
	struct story *s = *state;
	unsigned n = 0;
	struct loop_op big = {.fn = written, .arg = &n}, small = big;
	uint8_t *buf = calloc(1, 1 << 20);
	FILE *file = tmpfile();

	assert_int_equal(loop_write(&s->loop, &small, fileno(file), buf, 512, 0), 0);
	assert_true(io_uring_sq_ready(&s->loop.ring) > 0);
	assert_int_equal(loop_write(&s->loop, &big, fileno(file), buf, 1 << 20, 512), 0);
	assert_int_equal(io_uring_sq_ready(&s->loop.ring), 0);
	for (unsigned i = 0; i < 1000 && n < (1 << 20) + 512; i++)
		loop_run_once(&s->loop, 10 * MS);
	assert_int_equal(n, (1 << 20) + 512);
	fclose(file);
	free(buf);
}

/* --- how long it was away --------------------------------------------------------------------- */

static void start_up_does_not_count(void **state)
{
	struct story *s = *state;
	struct loop_work end = {.fn = stops, .arg = &s->loop};
	struct job j;

	round_of(s);
	now_ns += 5000 * MS;
	job(&j, s, 'x', 1, 80 * MS);
	loop_work_add(&s->loop, &end);
	assert_int_equal(loop_run(&s->loop), 0);
	round_of(s);
	assert_int_equal(loop_away_max_ns(&s->loop), 80 * MS);
	assert_int_equal(loop_away_ns(&s->loop, 99), 80 * MS);
}

static void percentile_of_rounds(void **state)
{
	struct story *s = *state;
	struct job j;

	round_of(s);
	for (unsigned i = 0; i < 1000; i++) {
		job(&j, s, 'x', 1, i % 125 == 7 ? 80 * MS : (i % 100 + 1) * 10000);
		round_of(s);
		s->n = 0;
	}
	round_of(s);
	assert_int_equal(loop_away_max_ns(&s->loop), 80 * MS);
	assert_in_range(loop_away_ns(&s->loop, 99), MS,
			MS * 9 / 8); /* 8 rounds of 1001 took more */
	assert_in_range(loop_away_ns(&s->loop, 50), MS * 48 / 100, MS * 58 / 100);
	job(&j, s, 'x', 3, 90 * MS);
	for (unsigned i = 0; i < 4; i++)
		round_of(s);
	assert_in_range(loop_away_ns(&s->loop, 99), 80 * MS, 90 * MS);
	now_ns += UINT64_MAX / 2; /* and no bucket is too far */
	round_of(s);
	assert_true(loop_away_max_ns(&s->loop) >= UINT64_MAX / 2);
}

struct sleeper {
	int fd;
	pid_t loop; /* thread */
};

/* Does that thread wait for something? */
static bool waits(pid_t tid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		abort();
	fclose(f);
	return state == 'S';
}

static void *long_sleep(void *arg)
{
	const struct sleeper *s = arg;

	while (!waits(s->loop))
		sched_yield();
	now_ns += 10050 * MS;
	if (eventfd_write(s->fd, 1))
		abort();
	return NULL;
}

static void nothing(struct loop_op *op, int res)
{
}

/* Nobody ran when the timer was due. Before that there was nothing to do. */
static void a_wait_that_ends_late(void **state)
{
	struct story *s = *state;
	struct loop_op op = {.fn = nothing};
	int fd = eventfd(0, EFD_CLOEXEC);
	struct sleeper sl = {fd, gettid()};
	struct timer t;
	pthread_t sleeper;

	assert_int_equal(loop_poll_add(&s->loop, &op, fd, POLLIN), 0);
	round_of(s);
	timer(&t, s, 't');
	loop_timer_set(&s->loop, &t.op, 10000 * MS);
	assert_int_equal(pthread_create(&sleeper, NULL, long_sleep, &sl), 0);
	assert_int_equal(loop_run_once(&s->loop, UINT64_MAX), 0);
	pthread_join(sleeper, NULL);
	assert_story(s, "t");
	now_ns += 5 * MS;
	loop_poll_del(&s->loop, &op);
	round_of(s);
	assert_int_equal(loop_away_max_ns(&s->loop), 55 * MS);
	close(fd);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(rounds_are_by_its_clock),
		T(timers_by_time),
		T(timers_that_end_others),
		T(soon_is_the_next_round),
		T(many_timers),
		T(events_before_timers),
		T(timers_wake_the_loop),
		T(turns_go_round),
		T(one_turn_a_round),
		T(endless_work),
		T(work_keeps_nobody_waiting),
		T(work_is_done_without_an_event),
		T(hands_over_much_at_once),
		T(start_up_does_not_count),
		T(percentile_of_rounds),
		T(a_wait_that_ends_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
