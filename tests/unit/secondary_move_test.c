/* A secondary that takes another one's place, and one whose place is taken. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

#define TOKEN 7

/* The question that it has, this one alone. */
static void answer(int code, uint64_t generation, uint64_t token)
{
	const struct arbiter_record r = {.generation = generation, .holder = "you", .token = token};

	lab_await_question();
	mock_arbiter_set(&lab.arbiter, code, &r);
	mock_arbiter_hold(&lab.arbiter, false);
	mock_arbiter_wait(&lab.arbiter, &lab.arbiter.answered, lab.arbiter.asked);
	mock_arbiter_hold(&lab.arbiter, true);
}

static void lose(uint64_t token)
{
	lab.hello.token = token;
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	lab_await_question();
	assert_int_equal(lab.arbiter.question.record.generation, 2);
	assert_int_equal(lab.arbiter.question.record.token, 0);
}

static void the_primarys_claim_is_followed_by_ours(void **state)
{
	unsigned asked;

	lose(TOKEN);
	asked = lab.arbiter.asked;
	answer(-ESTALE, 2, TOKEN);
	lab_until(lab.arbiter.asked == asked + 1);
	assert_state(CLAIM);
	assert_int_equal(lab.arbiter.question.record.generation, 3);
	assert_int_equal(lab.arbiter.question.record.token, 0);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_int_equal(lab.ft.generation, 3);
}

/* Nor with a claim of that name twice. */
static void no_more_than_one_is(void **state)
{
	unsigned asked;

	lose(TOKEN);
	asked = lab.arbiter.asked;
	answer(-ESTALE, 2, TOKEN);
	lab_until(lab.arbiter.asked == asked + 1);
	answer(-ESTALE, 3, TOKEN);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_check_gave_up("the other side goes on");
}

static void nobody_elses_claim_is(void **state)
{
	static const uint64_t cases[][3] = {
		{TOKEN, 2, TOKEN + 1}, {TOKEN, 2, 0}, {0, 2, 0}, {0, 2, TOKEN}, {TOKEN, 3, TOKEN}};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		lose(cases[i][0]);
		answer(-ESTALE, cases[i][1], cases[i][2]);
		lab_until(lab.sec.fsm.state == SEC_LISTEN);
		lab_check_gave_up("the other side goes on");
		lab_teardown(NULL);
		lab_setup(NULL);
	}
}

static void the_generation_is_told(void **state)
{
	lab.hello.token = TOKEN;
	lab_reach(SEC_STANDBY);
	pri_generation(2);
	lab_until(lab.ft.generation == 2);
	assert_state(STANDBY);
	assert_word("PROTECTED");
	pri_commit(2);
	lab_arbiter_waits();
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	lab_await_question();
	assert_int_equal(lab.arbiter.question.record.generation, 3);
	/* The token has had its day. */
	answer(-ESTALE, 3, TOKEN);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_check_gave_up("the other side goes on");
}

/* Also to one that stays, as its place was not taken after all: the primary claimed twice. */
static void a_later_one_is_told(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_generation(3);
	lab_until(lab.ft.generation == 3);
	assert_state(STANDBY);
}

static void refused(const char *why)
{
	end_expect_refusal(&lab.main, why);
	assert_true(end_is_dropped(&lab.main));
	assert_int_equal(lab.ft.generation, 1);
	lab_teardown(NULL);
	lab_setup(NULL);
}

static void what_is_no_generation_is_refused(void **state)
{
	static const uint64_t bad[] = {0, 1, INT64_MAX - 1, UINT64_MAX};
	static const uint8_t longer[9] = {2};

	for (unsigned i = 0; i < 4; i++) {
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		pri_generation(bad[i]);
		refused("generation out of order");
	}
	for (unsigned n = 0; n <= 9; n += n ? 2 : 7) {
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		end_send(&lab.main, FRAME_GENERATION, 0, longer, n);
		refused("generation out of order");
	}
}

static void not_within_an_epoch(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		pri_begin(2);
		if (i)
			pri_generation(2);
		else
			end_send(&lab.main, FRAME_LEAVE, 0, NULL, 0);
		refused("message out of order");
	}
}

/* It waits for a primary, and claims nothing. */
static void who_is_let_go_leaves(void **state)
{
	unsigned asked;

	lab_reach(SEC_STANDBY);
	asked = lab.arbiter.asked;
	end_send(&lab.main, FRAME_LEAVE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_check_gave_up("primary: has another secondary now");
	assert_int_equal(logged("info: primary: has another secondary now"), 1);
	assert_int_equal(lab.arbiter.asked, asked);
	lab_teardown(NULL);
	lab_setup(NULL);
	lab_reach(SEC_STANDBY); /* and may be one again */
}

#define T(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_primarys_claim_is_followed_by_ours),
		T(no_more_than_one_is),
		T(nobody_elses_claim_is),
		T(the_generation_is_told),
		T(a_later_one_is_told),
		T(what_is_no_generation_is_refused),
		T(not_within_an_epoch),
		T(who_is_let_go_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
