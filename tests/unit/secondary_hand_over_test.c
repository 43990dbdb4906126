/* A hand-over: the VM runs here, and nobody hears of it before the primary is gone. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
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

/* Frames that one announcement has for a guest whose address is not known. */
#define ONE 1u

static void hand_over(uint64_t token)
{
	pri_hand_over(token);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	assert_state(HELD);
}

static void a_vm_that_is_handed_over_runs_held(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_pass(3 * S);
	lab_arbiter_waits();
	pri_hand_over(0xabc);
	lab_until(lab.sec.fsm.state == SEC_ACCEPT);
	lab_await_question();
	assert_word("TAKING-OVER");
	assert_string_equal(lab.ft.note, "primary: hands over");
	assert_int_equal(logged("info: primary: hands over"), 1);
	assert_int_equal(lab.arbiter.question.record.token, 0xabc);
	assert_int_equal(lab.arbiter.question.record.generation, 2);
	assert_int_equal(lab.arbiter.question.why, ARBITER_GO_ON);
	time_jump(S);
	lab_arbiter_answers(0);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	assert_state(HELD);
	assert_word("TAKING-OVER");
	assert_true(lab.vm.running);
	assert_int_equal(lab.ft.generation, 2);
	assert_int_equal(fake_vm.advance_ns, 4 * S);
	assert_int_equal(lab.ft.stats.takeover_ns, S);
	assert_int_equal(fake_vm.generations, 1);
	assert_int_equal(fake_vm.plugged, 1);
	assert_int_equal(time_left(&lab.sec.timer_op), 5 * S);
	/* Nobody hears of it yet. */
	lab_print();
	lab_pass(3 * S);
	assert_int_equal(fake_vm.printed, 0);
	assert_int_equal(fake_vm.frames, 0);
	assert_int_equal(lab.asked_guests, 0);
	assert_int_equal(lab.taken, 0);
	assert_false(lab_end_is_told());
	pri_gone();
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(lab.leaving, 'h'); /* until whoever runs it knows */
	assert_int_equal(fake_vm.printed, 1);
	assert_int_equal(fake_vm.frames, ONE);
	assert_int_equal(lab.asked_guests, 1);
	assert_word("DEGRADED");
	assert_string_equal(lab.ft.note, "took over");
	assert_true(lab_end_is_told());
	assert_true(end_is_dropped(&lab.main));
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(lab.arbiter.asked, 2);
	assert_string_equal(lab.steps, "hello-received ack-before ack-sent takeover-claim "
				       "takeover-load takeover-link takeover-run runs-said "
				       "gone-heard");
}

static void output_of_epochs_is_held_as_of_the_next(void **state)
{
	lab_reach(SEC_STANDBY);
	lab.vm.obuf.epoch = 6;
	hand_over(1);
	assert_true(lab.vm.obuf.holding);
	assert_int_equal(lab.vm.obuf.epoch, 7);
}

/* A VM that the user paused is handed over as it is. */
static void what_the_user_paused_stays_so(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		lab.paused = 1;
		lab_reach(i ? SEC_CONFIRM : SEC_HELD);
		assert_false(lab.vm.running);
		assert_int_equal(lab.ft.stands, FT_STAND_USER | (i ? FT_STAND_CLAIM : 0));
		assert_word("TAKING-OVER");
		if (i == 0)
			pri_gone();
		else
			lab_arbiter_answers(i == 1 ? 0 : -ESTALE);
		if (i == 2) {
			lab_check_gave_up("the other side goes on");
		} else {
			lab_until(lab.taken);
			assert_int_equal(lab.ft.stands, FT_STAND_USER);
			assert_word("PAUSED");
		}
		assert_int_equal(fake_vm.started, 0);
		lab_teardown(NULL);
		lab_setup(NULL);
	}
}

/* What the token is is not said by any other frame. */
static void a_hand_over_has_a_token(void **state)
{
	static const uint8_t longer[9] = {1};

	for (unsigned i = 0; i < 3; i++) {
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		if (i == 0)
			pri_hand_over(0);
		else
			end_send(&lab.main, FRAME_HAND_OVER, 0, longer, i == 1 ? 7 : 9);
		end_expect_refusal(&lab.main, "hand-over without a token");
		assert_true(end_is_dropped(&lab.main));
		/* As after any other loss. */
		assert_state(CLAIM);
		assert_word("TAKING-OVER");
		assert_string_equal(lab.ft.note, "primary: hand-over without a token");
		lab_arbiter_answers(0);
		lab_until(lab.taken);
		assert_int_equal(lab.arbiter.record.token, 0);
		lab_teardown(NULL);
		lab_setup(NULL);
	}
}

static void the_heartbeat_links_timer_is_not_gones(void **state)
{
	pri_join();
	pri_commit(1);
	lab_arbiter_waits();
	pri_hand_over(3);
	lab_until(lab.sec.fsm.state == SEC_ACCEPT);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
}

/* The same claim, with its token, until it is answered. */
static void a_hand_over_waits_for_the_arbiter(void **state)
{
	lab_reach(SEC_STANDBY);
	mock_arbiter_set(&lab.arbiter, -EIO, NULL);
	pri_hand_over(9);
	lab_until(time_left(&lab.sec.timer_op) >= 0);
	assert_state(ACCEPT);
	assert_string_equal(lab.ft.note, "mock: Input/output error");
	assert_int_equal(time_left(&lab.sec.timer_op), 500 * MS);
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	lab_pass(500 * MS);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	assert_int_equal(lab.arbiter.record.token, 9);
	assert_int_equal(lab.ft.generation, 2);
	assert_int_equal(lab.ft.stats.takeover_ns, 500 * MS);
}

static void a_hand_over_that_is_not_won(void **state)
{
	lab_reach(SEC_ACCEPT);
	lab_arbiter_answers(-ESTALE);
	lab_check_gave_up("the other side goes on");
	assert_true(end_is_dropped(&lab.main));
	/* No token is left for the next claim. */
	lab_arbiter_answers(0);
	lab_reach(SEC_TAKEN);
	assert_int_equal(lab.arbiter.record.token, 0);
}

static void a_hand_over_of_a_stopped_vm(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_ACCEPT);
	lab_arbiter_answers(-ECANCELED);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	lab_images_go();
	end_expect(&lab.main, FRAME_DONE, NULL);
	lab_check_gave_up("primary: stopped in order");
}

static void a_hand_over_that_cannot_be_loaded(void **state)
{
	lab_reach(SEC_ACCEPT);
	fake_vm.refuses = true;
	lab_arbiter_answers(0);
	end_expect_refusal(&lab.main, "vCPU state: this host refuses MSRs");
	lab_check_gave_up("vCPU state: this host refuses MSRs");
	assert_int_equal(logged("error: takeover: vCPU state: this host refuses MSRs"), 1);
	assert_int_equal(lab.exits, 0);
	assert_int_equal(fake_vm.started, 0);
}

/* Lost before the claim is answered: the primary may have claimed the same number. */
static void a_hand_over_that_is_lost_is_claimed_again(void **state)
{
	lab_reach(SEC_ACCEPT_ALONE);
	assert_int_equal(lab.arbiter.question.record.generation, 2);
	assert_int_equal(lab.arbiter.question.record.token, 5);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_int_equal(lab.arbiter.asked, 3);
	assert_int_equal(lab.arbiter.record.generation, 3);
	assert_int_equal(lab.arbiter.record.token, 0);
	assert_int_equal(lab.ft.generation, 3);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(fake_vm.loaded, 1);
	lab_print();
	assert_int_equal(fake_vm.printed, 1);
}

/* The same claim, until it is answered; then the next. */
static void a_lost_hand_over_waits_for_the_arbiter(void **state)
{
	lab_reach(SEC_ACCEPT_ALONE);
	lab_arbiter_answers(-EIO);
	lab_until(time_left(&lab.sec.timer_op) >= 0);
	assert_state(ACCEPT_ALONE);
	assert_int_equal(time_left(&lab.sec.timer_op), 500 * MS);
	assert_string_equal(lab.ft.note, "mock: Input/output error");
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	lab_pass(500 * MS);
	lab_until(lab.taken);
	assert_int_equal(lab.ft.generation, 3);
	assert_int_equal(lab.arbiter.record.token, 0);
}

static void it_may_lose_that_claim(void **state)
{
	lab_reach(SEC_ACCEPT_ALONE);
	lab_arbiter_answers(-ESTALE);
	lab_check_gave_up("the other side goes on");
	assert_int_equal(fake_vm.loaded, 0);
}

static void hang_up_now(void)
{
	pri_hang_up();
	for (unsigned i = 0; i < 10; i++)
		lab_turn();
	fake_vm.while_loading = NULL;
}

/* While it loads: what was held is not let out, but by the second claim. */
static void a_loss_while_it_is_loaded(void **state)
{
	lab_reach(SEC_ACCEPT);
	fake_vm.while_loading = hang_up_now;
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_int_equal(fake_vm.loaded, 2);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(lab.ft.generation, 3);
	assert_int_equal(lab.leaving, 'h');
	assert_false(lab.vm.obuf.holding);
}

static void a_loss_while_it_cannot_be_loaded(void **state)
{
	lab_reach(SEC_ACCEPT);
	fake_vm.while_loading = hang_up_now;
	fake_vm.refuses = true;
	lab_arbiter_answers(0);
	lab_check_gave_up("vCPU state: this host refuses MSRs");
	assert_int_equal(lab.arbiter.asked, 2);
}

/* --- GONE does not come ----------------------------------------------------------------------- */

static void check_stands(const char *why)
{
	char line[200];

	lab_until(lab.sec.fsm.state == SEC_CONFIRM);
	assert_false(lab.vm.running);
	assert_int_equal(lab.ft.stands, FT_STAND_CLAIM);
	assert_word("TAKING-OVER");
	snprintf(line, sizeof(line), "warning: primary: %s; it did not say that it is gone", why);
	assert_int_equal(logged(line), 1);
	assert_int_equal(fake_vm.printed + fake_vm.frames, 0);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
}

static void without_gone_it_claims_again(void **state)
{
	lab_reach(SEC_STANDBY);
	hand_over(5);
	lab_print();
	lab_pass(5 * S - 1);
	assert_state(HELD);
	lab_arbiter_waits();
	lab_pass(1);
	check_stands("no answer in time");
	assert_true(end_is_dropped(&lab.main));
	lab_await_question();
	assert_int_equal(lab.arbiter.question.record.generation, 3);
	assert_int_equal(lab.arbiter.question.record.token, 0);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(lab.ft.generation, 3);
	assert_int_equal(lab.ft.stands, 0);
	assert_true(lab.vm.running);
	assert_word("DEGRADED");
	assert_int_equal(lab.leaving, 'h');
	assert_int_equal(fake_vm.printed, 1);
	assert_int_equal(fake_vm.frames, ONE);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(fake_vm.loaded, 1);
	assert_true(lab_end_is_told());
}

/* The other side took it back: nobody ever hears what was said here. */
static void what_was_held_is_dropped_when_that_is_lost(void **state)
{
	lab_reach(SEC_HELD);
	lab_print();
	lab_arbiter_waits();
	pri_hang_up();
	check_stands("connection closed");
	lab_arbiter_answers(-ESTALE);
	lab_check_gave_up("the other side goes on");
	assert_int_equal(lab.asked_guests, 0);
}

static void a_vm_that_was_stopped_is_not_confirmed(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_CONFIRM);
	lab_print();
	lab_arbiter_answers(-ECANCELED);
	lab_until(lab.sec.fsm.state == SEC_DRAIN_ALONE);
	lab_images_go();
	lab_check_gave_up("primary: stopped in order");
	lab_check_image(1);
}

static void a_confirmation_waits_for_the_arbiter(void **state)
{
	lab_reach(SEC_CONFIRM);
	lab_arbiter_answers(-EIO);
	lab_until(time_left(&lab.sec.timer_op) >= 0);
	assert_int_equal(time_left(&lab.sec.timer_op), 500 * MS);
	assert_false(lab.vm.running);
	assert_word("TAKING-OVER");
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	lab_pass(500 * MS);
	lab_until(lab.taken);
	assert_true(lab.vm.running);
}

/* Its CPUs do not stop: that is said, and the claim decides all the same. */
static void a_vm_that_does_not_stand_is_confirmed_too(void **state)
{
	lab_reach(SEC_HELD);
	fake_vm.pause_error = -ETIMEDOUT;
	lab_arbiter_waits();
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CONFIRM);
	assert_int_equal(logged("error: vCPUs: only 0 of 1 stopped within 5 s"), 1);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_true(lab.vm.running);
	fake_vm.pause_error = 0;
}

/* The primary is gone when it is to hear that the VM runs. */
static void runs_that_cannot_be_said(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_hand_over(5);
	lab_until(lab.sec.fsm.state == SEC_ACCEPT);
	/* Not seen before RUNS is written. */
	loop_poll_del(&lab.loop, &lab.sec.main_op);
	loop_poll_del(&lab.loop, &lab.sec.heart.told_op);
	pri_hang_up();
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_int_equal(
		logged("warning: primary: connection broken; it did not say that it is gone"), 1);
	assert_int_equal(lab.ft.generation, 3);
}

/* The end of heart is the first that is seen, and GONE lies behind it. */
static void gone_counts_though_heart_ended(void **state)
{
	lab_reach(SEC_HELD);
	pri_gone();
	lab.sec.heart.lost(lab.sec.heart.arg, "heartbeat link closed");
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(lab.ft.generation, 2);
	assert_int_equal(lab.arbiter.asked, 2);
}

/* --- images in a hand-over -------------------------------------------------------------------- */

static void check_disks_are_let_go(void)
{
	struct lab_write w;

	assert_true(lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 512, 0xaa); /* where epoch 1 wrote */
	lab_settle();
	assert_false(w.done);
	lab_images_go();
	lab_until(w.done);
	assert_int_equal(w.res, 0);
	assert_false(lab.ft.images_behind);
	assert_int_equal(lab_image_byte(lab.image, 512), 0xaa);
}

static void disks_are_let_go_before_gone(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_HELD);
	check_disks_are_let_go();
	assert_state(HELD);
}

static void disks_are_let_go_while_it_stands(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_CONFIRM);
	check_disks_are_let_go();
	assert_state(CONFIRM);
}

static void an_image_that_fails_in_a_hand_over(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_HELD);
	lab_print();
	lab_image_fails();
	end_expect_refusal(&lab.main, "the secondary's disk image failed");
	lab_check_gave_up("this side's disk image failed");
	assert_false(lab.ft.images_behind);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_vm_that_is_handed_over_runs_held),
		TEST(output_of_epochs_is_held_as_of_the_next),
		TEST(what_the_user_paused_stays_so),
		TEST(a_hand_over_has_a_token),
		TEST(the_heartbeat_links_timer_is_not_gones),
		TEST(a_hand_over_waits_for_the_arbiter),
		TEST(a_hand_over_that_is_not_won),
		TEST(a_hand_over_of_a_stopped_vm),
		TEST(a_hand_over_that_cannot_be_loaded),
		TEST(a_hand_over_that_is_lost_is_claimed_again),
		TEST(a_lost_hand_over_waits_for_the_arbiter),
		TEST(it_may_lose_that_claim),
		TEST(a_loss_while_it_is_loaded),
		TEST(a_loss_while_it_cannot_be_loaded),
		TEST(without_gone_it_claims_again),
		TEST(what_was_held_is_dropped_when_that_is_lost),
		TEST(a_vm_that_was_stopped_is_not_confirmed),
		TEST(a_confirmation_waits_for_the_arbiter),
		TEST(a_vm_that_does_not_stand_is_confirmed_too),
		TEST(runs_that_cannot_be_said),
		TEST(gone_counts_though_heart_ended),
		TEST(disks_are_let_go_before_gone),
		TEST(disks_are_let_go_while_it_stands),
		TEST(an_image_that_fails_in_a_hand_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
