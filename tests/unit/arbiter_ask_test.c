/* Questions to the arbiter: they never block, and are answered by the loop, once, in time. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/libarbiter.h"
#include "tests/unit/libmockarbiter.h"
#include "vmm/base/loop.h"

#define SOON_MS 40     /* the deadline of storage that is to miss it */
#define LONG_MS 60000u /* of one that is not */

static struct loop loop;
static struct mock_arbiter mock;

/* What was heard. */
static struct {
	unsigned n;
	struct arbiter_answer last;
} heard;

static void hear(void *arg, const struct arbiter_answer *answer)
{
	assert_ptr_equal(arg, &heard);
	heard.n++;
	heard.last = *answer;
}

static struct arbiter *begin(unsigned deadline_ms)
{
	memset(&heard, 0, sizeof(heard));
	assert_int_equal(loop_init(&loop, NULL), 0);
	return mock_arbiter_open(&mock, &loop, deadline_ms);
}

static void end(struct arbiter *a)
{
	arbiter_close(a);
	mock_arbiter_hold(&mock, false);
	mock_arbiter_wait(&mock, &mock.closed, 1);
	/* What is still on its way in the loop finds nobody. */
	for (unsigned i = 0; i < 3; i++)
		loop_run_once(&loop, 0);
	assert_int_equal(mock.closed, 1);
	loop_done(&loop);
}

/* From the next question on. */
static void set_deadline(unsigned ms)
{
	mock.ops.deadline_ms = ms;
}

static void wait_for_threads(unsigned n)
{
	while (count_threads() > n)
		poll(NULL, 0, 1);
}

static void run_until_heard(unsigned n)
{
	uint64_t until = loop_now_ns() + 20000000000ull;

	while (heard.n < n && loop_now_ns() < until)
		assert_int_equal(loop_run_once(&loop, 100000000), 0);
	assert_int_equal(heard.n, n);
}

static void run_for_ms(unsigned ms)
{
	uint64_t until = loop_now_ns() + ms * 1000000ull;

	while (loop_now_ns() < until)
		loop_run_once(&loop, 5000000);
}

static void each_question_is_answered(unsigned deadline_ms)
{
	struct arbiter *a = begin(deadline_ms);
	struct arbiter_record before = {.generation = 3, .holder = "you", .end = ARBITER_STOPPED};

	mock_arbiter_set(&mock, 0, &before);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	assert_int_equal(heard.n, 0); /* never from within */
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.generation, 3);
	assert_string_equal(heard.last.last.holder, "you");

	arbiter_set_side(a, 5);
	arbiter_set_token(a, 7);
	assert_int_equal(arbiter_ask_claim(a, 3, ARBITER_START, hear, &heard), 0);
	run_until_heard(2);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.generation, 4);
	assert_int_equal(mock.question.what, ARBITER_CLAIM);
	assert_int_equal(mock.question.why, ARBITER_START);
	assert_string_equal(mock.record.holder, "me");
	assert_int_equal(mock.record.side, 5);
	assert_int_equal(mock.record.token, 7);
	assert_true(mock.record.claim);

	assert_int_equal(arbiter_ask_put_back(a, 4, &before, hear, &heard), 0);
	run_until_heard(3);
	assert_int_equal(mock.question.what, ARBITER_PUT_BACK);
	assert_int_equal(mock.record.generation, 4);
	assert_int_equal(mock.record.end, ARBITER_STOPPED);
	assert_string_equal(mock.record.holder, "you");

	assert_int_equal(arbiter_ask_end(a, 4, ARBITER_RELEASED, hear, &heard), 0);
	run_until_heard(4);
	assert_int_equal(mock.question.what, ARBITER_END);
	assert_int_equal(mock.record.end, ARBITER_RELEASED);
	assert_int_equal(mock.record.side, 5);
	assert_int_equal(mock.record.token, 0);
	assert_string_equal(mock.record.holder, "me");
	assert_int_equal(mock.asked, 4);
	end(a);
}

static void each_question_is_answered_by_a_thread(void **state)
{
	each_question_is_answered(LONG_MS);
}

static void each_question_is_answered_at_once(void **state)
{
	each_question_is_answered(0);
}

static void none_is_asked_through_the_loop(void **state)
{
	struct arbiter *a;

	memset(&heard, 0, sizeof(heard));
	assert_int_equal(loop_init(&loop, NULL), 0);
	assert_int_equal(arbiter_open(&a, &loop, "none", "web1", "me", NULL), 0);
	assert_false(arbiter_is_shared(a));
	assert_int_equal(arbiter_ask_claim(a, 7, ARBITER_GO_ON, hear, &heard), 0);
	assert_int_equal(heard.n, 0);
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.generation, 8);
	assert_int_equal(arbiter_ask_end(a, 7, ARBITER_RELEASED, hear, &heard), 0);
	run_until_heard(2);
	assert_int_equal(heard.last.code, -ESTALE);
	assert_string_equal(heard.last.err.msg, "generation 7 is not the current one");
	arbiter_close(a);
	loop_done(&loop);
}

static void records_of_files_are_asked_for(void **state)
{
	const struct world *w = *state;
	struct arbiter *b = open_as(w, "hostB"), *a;
	uint64_t gen;

	memset(&heard, 0, sizeof(heard));
	assert_int_equal(loop_init(&loop, NULL), 0);
	assert_int_equal(arbiter_open(&a, &loop, w->uri, "web1", "hostA", NULL), 0);
	assert_true(arbiter_is_shared(a));
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_START, hear, &heard), 0);
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.generation, 1);
	assert_string_equal(heard.last.last.holder, "hostA");
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, NULL), 0);
	assert_int_equal(arbiter_ask_claim(a, 1, ARBITER_GO_ON, hear, &heard), 0);
	run_until_heard(2);
	assert_int_equal(heard.last.code, -ESTALE);
	assert_string_equal(heard.last.last.holder, "hostB");
	assert_string_equal(arbiter_last(a)->holder, "hostB");
	assert_string_equal(heard.last.err.msg, "generation 2 of VM 'web1' is held by 'hostB'");
	arbiter_close(a);
	arbiter_close(b);
	loop_done(&loop);
}

/* Lost, stopped, broken: each with the record that was seen, or the one before. */
static void other_answers(unsigned deadline_ms)
{
	static const struct {
		int code;
		bool is_answer;
	} cases[] = {{-ESTALE, true}, {-ECANCELED, true}, {-EIO, false}, {-EBADMSG, false}};
	struct arbiter *a = begin(deadline_ms);

	for (unsigned i = 0; i < 4; i++) {
		struct arbiter_record rec = {.generation = 10 + i, .end = ARBITER_STOPPED};

		mock_arbiter_set(&mock, cases[i].code, &rec);
		assert_int_equal(arbiter_ask_claim(a, 9, ARBITER_GO_ON, hear, &heard), 0);
		run_until_heard(i + 1);
		assert_int_equal(heard.last.code, cases[i].code);
		assert_int_equal(heard.last.last.generation, cases[i].is_answer ? 10 + i : 11);
		assert_non_null(strstr(heard.last.err.msg, "mock: "));
	}
	/* A storage's own timeout is not ours: there is no answer to come. */
	mock_arbiter_set(&mock, -ETIMEDOUT, NULL);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	run_until_heard(5);
	assert_int_equal(heard.last.code, -EIO);
	assert_int_equal(mock.asked, 5);
	assert_int_equal(arbiter_ask_claim(a, UINT64_MAX, ARBITER_START, hear, &heard), 0);
	run_until_heard(6);
	assert_int_equal(heard.last.code, -ERANGE);
	assert_int_equal(arbiter_ask_claim(a, INT64_MAX - 1, ARBITER_START, hear, &heard), 0);
	run_until_heard(7);
	assert_int_equal(heard.last.code, -ERANGE);
	assert_int_equal(mock.asked, 5);
	end(a);
}

static void answers_that_are_not_won(void **state)
{
	other_answers(LONG_MS);
	other_answers(0);
}

static void slow_storage_does_not_hold_up_the_loop(void **state)
{
	struct arbiter *a = begin(LONG_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_START, hear, &heard), 0);
	/* One at a time, of either kind. */
	assert_int_equal(arbiter_ask_read(a, hear, &heard), -EBUSY);
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, NULL), -EBUSY);
	run_for_ms(30);
	assert_int_equal(heard.n, 0);
	mock_arbiter_hold(&mock, false);
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.generation, 1);
	assert_int_equal(mock.asked, 1);
	end(a);
}

/* However often it is asked: one thread. And what landed late is won when it is asked for again. */
static void silent_storage_is_given_up(void **state)
{
	struct arbiter *a = begin(SOON_MS);
	unsigned others = count_threads();

	mock_arbiter_hold(&mock, true);
	for (unsigned i = 1; i <= 3; i++) {
		uint64_t start = loop_now_ns();

		assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
		run_until_heard(i);
		assert_int_equal(heard.last.code, -ETIMEDOUT);
		assert_non_null(strstr(heard.last.err.msg,
				       "arbiter 'mock' did not answer within 40 ms; nobody goes "
				       "on without it"));
		assert_true(loop_now_ns() - start >= (SOON_MS - 1) * 1000000ull);
		assert_int_equal(count_threads(), others + 1);
	}
	/* Another question waits for the same thread. */
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	run_until_heard(4);
	assert_int_equal(heard.last.code, -ETIMEDOUT);
	assert_int_equal(mock.asked, 1);
	set_deadline(LONG_MS);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
	mock_arbiter_hold(&mock, false);
	run_until_heard(5);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(mock.asked, 1);
	end(a);
}

/* A claim has missed its deadline, and is held back. */
static struct arbiter *begin_late(void)
{
	struct arbiter *a = begin(SOON_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
	run_until_heard(1);
	assert_int_equal(heard.last.code, -ETIMEDOUT);
	set_deadline(LONG_MS);
	return a;
}

static void an_answer_between_two_questions_counts(void **state)
{
	struct arbiter *a = begin_late();

	mock_arbiter_hold(&mock, false);
	mock_arbiter_wait(&mock, &mock.answered, 1);
	run_for_ms(5);
	assert_int_equal(heard.n, 1);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
	run_until_heard(2);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(mock.asked, 1);
	end(a);
}

/* But not for long: others act meanwhile. */
static void an_old_answer_is_asked_for_again(void **state)
{
	struct arbiter *a = begin_late();

	mock_arbiter_hold(&mock, false);
	mock_arbiter_wait(&mock, &mock.answered, 1);
	set_deadline(100);
	run_for_ms(150);
	mock_arbiter_set(&mock, -ESTALE, NULL);
	for (unsigned i = 2; i < 100 && heard.last.code == -ETIMEDOUT; i++) {
		assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
		run_until_heard(i);
	}
	assert_int_equal(heard.last.code, -ESTALE);
	assert_int_equal(mock.asked, 2);
	end(a);
}

/* An answer is one to its question only. */
static void another_question_gets_no_late_answer(void **state)
{
	static const struct arbiter_record stopped = {.generation = 1, .end = ARBITER_STOPPED};
	static const struct arbiter_record held = {.generation = 1, .end = ARBITER_HELD};

	for (unsigned i = 0; i < 7; i++) {
		struct arbiter *a = begin_late();
		int r = -1;

		if (i == 0)
			r = arbiter_ask_claim(a, 1, ARBITER_GO_ON, hear, &heard);
		if (i == 1)
			r = arbiter_ask_claim(a, 0, ARBITER_START, hear, &heard);
		if (i == 2) {
			arbiter_set_token(a, 9);
			r = arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard);
		}
		if (i == 3)
			r = arbiter_ask_end(a, 1, ARBITER_STOPPED, hear, &heard);
		if (i == 4)
			r = arbiter_ask_read(a, hear, &heard);
		if (i == 5)
			r = arbiter_ask_put_back(a, 1, &stopped, hear, &heard);
		if (i == 6)
			r = arbiter_ask_put_back(a, 1, &held, hear, &heard);
		assert_int_equal(r, 0);
		mock_arbiter_hold(&mock, false);
		run_until_heard(2);
		assert_int_equal(heard.last.code, 0);
		assert_int_equal(mock.asked, 2);
		end(a);
	}
}

/* What was read is old when it is asked for again, and ends differ by what they say. */
static void reads_and_ends_are_asked_anew(void **state)
{
	struct arbiter *a = begin(SOON_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	run_until_heard(1);
	set_deadline(LONG_MS);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	mock_arbiter_hold(&mock, false);
	run_until_heard(2);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(mock.asked, 2);
	set_deadline(SOON_MS);
	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_end(a, 1, ARBITER_STOPPED, hear, &heard), 0);
	run_until_heard(3);
	set_deadline(LONG_MS);
	assert_int_equal(arbiter_ask_end(a, 1, ARBITER_RELEASED, hear, &heard), 0);
	mock_arbiter_hold(&mock, false);
	run_until_heard(4);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(heard.last.last.end, ARBITER_RELEASED);
	assert_int_equal(mock.asked, 4);
	end(a);
}

static void what_is_forgotten_is_not_told(void **state)
{
	struct arbiter *a = begin(LONG_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
	arbiter_forget(a);
	arbiter_forget(a);
	mock_arbiter_hold(&mock, false);
	mock_arbiter_wait(&mock, &mock.answered, 1);
	run_for_ms(10);
	assert_int_equal(heard.n, 0);
	/* It may have landed, and is known when it is asked for again. */
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_GO_ON, hear, &heard), 0);
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(mock.asked, 1);
	end(a);
	/* Nor after its deadline. */
	a = begin(SOON_MS);
	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	arbiter_forget(a);
	run_for_ms(2 * SOON_MS);
	assert_int_equal(heard.n, 0);
	end(a);
}

/* The loop was away for longer than the deadline: the answer is there, and counts. */
static void an_answer_that_waited_for_the_loop_counts(void **state)
{
	struct arbiter *a = begin(SOON_MS);
	unsigned others = count_threads();

	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	poll(NULL, 0, 2 * SOON_MS);
	wait_for_threads(others);
	run_until_heard(1);
	assert_int_equal(heard.last.code, 0);
	assert_int_equal(mock.asked, 1);
	end(a);
}

static struct arbiter *asker;

static void ask_again(void *arg, const struct arbiter_answer *answer)
{
	hear(arg, answer);
	assert_int_equal(arbiter_ask_claim(asker, 5, ARBITER_START, hear, &heard), 0);
}

static void close_it(void *arg, const struct arbiter_answer *answer)
{
	hear(arg, answer);
	arbiter_close(asker);
}

static void an_answer_may_ask_or_close(void **state)
{
	static const unsigned deadlines[] = {LONG_MS, 0, SOON_MS};

	for (unsigned i = 0; i < 3; i++) {
		bool late = deadlines[i] == SOON_MS;

		asker = begin(deadlines[i]);
		mock_arbiter_hold(&mock, late);
		assert_int_equal(arbiter_ask_read(asker, ask_again, &heard), 0);
		if (late)
			set_deadline(LONG_MS);
		run_until_heard(1);
		assert_int_equal(heard.last.code, late ? -ETIMEDOUT : 0);
		mock_arbiter_hold(&mock, false);
		run_until_heard(2);
		assert_int_equal(heard.last.last.generation, 6);
		set_deadline(deadlines[i]);
		mock_arbiter_hold(&mock, late);
		assert_int_equal(arbiter_ask_read(asker, close_it, &heard), 0);
		run_until_heard(3);
		end(NULL);
	}
}

/* Nothing of it stays in the loop, however often. */
static void a_closed_one_leaves_the_loop(void **state)
{
	struct arbiter *a = begin(SOON_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	arbiter_close(a);
	run_for_ms(2 * SOON_MS);
	assert_int_equal(heard.n, 0);
	for (unsigned i = 0; i < LOOP_MAX_OPS + 10; i++) {
		assert_int_equal(arbiter_open(&a, &loop, "none", "web1", "me", NULL), 0);
		assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
		arbiter_close(a);
	}
	end(NULL);
}

/* The thread ends after the handle: the back end is closed then, and what waited is given up. */
static void closing_does_not_wait(void **state)
{
	struct arbiter *a = begin(LONG_MS);

	mock_arbiter_hold(&mock, true);
	assert_int_equal(arbiter_ask_claim(a, 0, ARBITER_START, hear, &heard), 0);
	mock_arbiter_wait(&mock, &mock.asked, 1);
	assert_false(*mock.question.abandoned);
	arbiter_close(a);
	assert_true(*mock.question.abandoned);
	assert_int_equal(mock.closed, 0);
	end(NULL);
	assert_int_equal(heard.n, 0);
}

static void no_thread_is_an_answer(void **state)
{
	struct arbiter *a = begin(LONG_MS);
	pthread_attr_t huge, old;

	assert_int_equal(pthread_getattr_default_np(&old), 0);
	assert_int_equal(pthread_attr_init(&huge), 0);
	assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 46), 0);
	assert_int_equal(pthread_setattr_default_np(&huge), 0);
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	run_until_heard(1);
	assert_int_equal(pthread_setattr_default_np(&old), 0);
	assert_int_equal(heard.last.code, -EAGAIN);
	assert_non_null(strstr(heard.last.err.msg, "arbiter: thread: "));
	assert_int_equal(arbiter_ask_read(a, hear, &heard), 0);
	run_until_heard(2);
	assert_int_equal(heard.last.code, 0);
	end(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_question_is_answered_by_a_thread),
		cmocka_unit_test(each_question_is_answered_at_once),
		cmocka_unit_test(none_is_asked_through_the_loop),
		cmocka_unit_test_setup_teardown(records_of_files_are_asked_for, world_setup,
						world_teardown),
		cmocka_unit_test(answers_that_are_not_won),
		cmocka_unit_test(slow_storage_does_not_hold_up_the_loop),
		cmocka_unit_test(silent_storage_is_given_up),
		cmocka_unit_test(an_answer_between_two_questions_counts),
		cmocka_unit_test(an_old_answer_is_asked_for_again),
		cmocka_unit_test(another_question_gets_no_late_answer),
		cmocka_unit_test(reads_and_ends_are_asked_anew),
		cmocka_unit_test(what_is_forgotten_is_not_told),
		cmocka_unit_test(an_answer_that_waited_for_the_loop_counts),
		cmocka_unit_test(an_answer_may_ask_or_close),
		cmocka_unit_test(closing_does_not_wait),
		cmocka_unit_test(a_closed_one_leaves_the_loop),
		cmocka_unit_test(no_thread_is_an_answer),
	};

	return cmocka_run_group_tests_name("arbiter_ask", tests, NULL, NULL);
}
