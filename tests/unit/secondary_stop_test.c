/* The end of the process: what was acknowledged is in the images, or it is said that it is not. */
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

/* In which this side may be the only one that has what it acknowledged. */
static const unsigned owing[] = {SEC_STANDBY,	   SEC_DRAIN, SEC_DRAIN_ALONE,
				 SEC_DISMISSED,	   SEC_CLAIM, SEC_ACCEPT,
				 SEC_ACCEPT_ALONE, SEC_HELD,  SEC_CONFIRM};
#define N(list) (sizeof(list) / sizeof((list)[0]))

static void begin(unsigned state)
{
	lab_setup(NULL);
	lab.images_wait = true;
	lab.arbiter.record.side = 99;
	lab_reach((enum secondary_state)state);
	lab.arbiter.ops.deadline_ms = 20; /* if it is silent still: the test's own time */
}

static void check_over(void)
{
	struct end c = {.in.fd = -1};

	assert_int_equal(lab.sec.fsm.state, SEC_OVER);
	assert_null(lab.sec.ft);
	assert_true(end_is_dropped(&lab.main));
	assert_true(end_is_dropped(&lab.heart));
	assert_false(end_try_connect(&c));
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	assert_false(lab.sec.read_work.waits);
	assert_null(lab.sec.stage.vm); /* nothing is left of staging */
	assert_int_equal(time_left(&lab.sec.announce.op), -1);
	/* An answer that comes now is nobody's. */
	mock_arbiter_hold(&lab.arbiter, false);
	lab_settle();
	assert_int_equal(lab.sec.fsm.state, SEC_OVER);
	assert_int_equal(lab.taken, 0);
	assert_false(lab.vm.running);
	assert_int_equal(fake_vm.printed + fake_vm.frames, 0);
}

/* The image takes its time: it answers when somebody waits. */
static void what_was_acknowledged_goes_to_the_image(void **state)
{
	for (unsigned i = 0; i < N(owing); i++) {
		begin(owing[i]);
		assert_int_equal(lab_image_byte(lab.image, 512), LAB_OLD);
		assert_int_equal(secondary_stop(&lab.sec), 0);
		assert_true(logged("bytes of acknowledged disk writes go to the image first"));
		assert_int_equal(logged("error:"), 0);
		check_over();
		lab_check_image(1);
		lab_teardown(NULL);
	}
}

/* Nothing is said of what is there already. */
static void nothing_waits_for_an_image_that_has_all(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_settle();
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(logged("acknowledged disk writes"), 0);
	check_over();
	lab_check_image(1);
}

static void fail_next(void)
{
	struct disk_req *r = lab.write;

	lab.write = NULL;
	r->done(r, -EIO);
}

static void an_image_that_fails_then_is_an_error(void **state)
{
	for (unsigned i = 0; i < N(owing); i++) {
		begin(owing[i]);
		lab.instead_of_answer = fail_next;
		assert_int_equal(secondary_stop(&lab.sec), -EIO);
		assert_int_equal(
			logged("error: the image does not take them: it lacks acknowledged disk "
			       "writes"),
			1);
		assert_int_equal(logged("start the other side"), 1);
		check_over();
		lab_teardown(NULL);
	}
}

static void an_image_that_answers_too_late_is_one(void **state)
{
	for (unsigned i = 0; i < N(owing); i++) {
		begin(owing[i]);
		lab.answers_after_ns = 40 * S;
		assert_int_equal(secondary_stop(&lab.sec), -EIO);
		assert_true(lab.waited_ns >= 30 * S);
		assert_int_equal(logged("error: the image does not take them"), 1);
		/* The end waits for the kernel, 10 s more, and says so once. */
		assert_int_equal(lab.waited_ns, 40 * S);
		assert_int_equal(logged("waiting for the image"), 1);
		check_over();
		lab_teardown(NULL);
	}
}

/* 30 s for all of it. */
static void an_image_has_thirty_seconds(void **state)
{
	begin(SEC_STANDBY);
	lab.answers_after_ns = 29900 * MS;
	assert_int_equal(secondary_stop(&lab.sec), 0);
	check_over();
	lab_check_image(1);
	lab_teardown(NULL);
	begin(SEC_STANDBY);
	lab.answers_after_ns = 30 * S;
	assert_int_equal(secondary_stop(&lab.sec), -EIO);
	assert_int_equal(lab.waited_ns, 30 * S);
	check_over();
	lab_teardown(NULL);
}

/* The primary waits for that: it hears of it. */
static void a_primary_that_stops_hears_how_it_went(void **state)
{
	begin(SEC_DRAIN);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	end_expect(&lab.main, FRAME_DONE, NULL);
	check_over();
	lab_teardown(NULL);
	begin(SEC_DRAIN);
	lab.instead_of_answer = fail_next;
	assert_int_equal(secondary_stop(&lab.sec), -EIO);
	end_expect_refusal(&lab.main, "the secondary's disk image failed");
	check_over();
	lab_teardown(NULL);
	/* Not so another one: it is not to believe that this side goes on. */
	begin(SEC_STANDBY);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	end_expect_no(&lab.main, FRAME_DONE);
	lab_teardown(NULL);
}

/* That of an earlier primary was told to it. */
static void an_image_that_failed_before_is_none_of_this_end(void **state)
{
	begin(SEC_DRAIN);
	lab_image_fails();
	assert_state(LISTEN);
	pri_hang_up();
	lab_reach(SEC_DRAIN);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	end_expect(&lab.main, FRAME_DONE, NULL);
	check_over();
	lab_teardown(NULL);
}

/* The link is closed before the images are waited for, so that the primary is not held up. */
static void see_that_main_is_closed(void)
{
	struct frame f;

	if (stream_recv(&lab.main.in, &f) == 0)
		assert_true(stream_recv(&lab.main.in, &f) < 0);
	lab.instead_of_answer = NULL;
}

static void the_primary_is_let_go_first(void **state)
{
	static const unsigned linked[] = {SEC_STANDBY, SEC_ACCEPT, SEC_HELD};

	for (unsigned i = 0; i < N(linked); i++) {
		begin(linked[i]);
		lab.instead_of_answer = see_that_main_is_closed;
		assert_int_equal(secondary_stop(&lab.sec), 0);
		assert_null(lab.instead_of_answer);
		lab_teardown(NULL);
	}
}

/* Nor is anybody let in who would be dropped then. */
static void see_that_the_door_is_shut(void)
{
	struct end c = {.in.fd = -1};

	assert_false(end_try_connect(&c));
	lab.instead_of_answer = NULL;
}

static void nobody_comes_in_meanwhile(void **state)
{
	for (unsigned i = 0; i < N(owing); i++) {
		begin(owing[i]);
		lab.instead_of_answer = see_that_the_door_is_shut;
		assert_int_equal(secondary_stop(&lab.sec), 0);
		assert_null(lab.instead_of_answer);
		lab_teardown(NULL);
	}
}

/* A VM that ran here with its output held stands before its images are waited for. */
static void see_that_it_stands(void)
{
	assert_false(lab.vm.running);
	lab.instead_of_answer = NULL;
}

static void a_vm_that_was_handed_over_is_stopped_first(void **state)
{
	begin(SEC_HELD);
	lab_print();
	assert_true(lab.vm.running);
	lab.instead_of_answer = see_that_it_stands;
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_null(lab.instead_of_answer);
	check_over();
	lab_teardown(NULL);
	begin(SEC_HELD);
	fake_vm.pause_error = -ETIMEDOUT;
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(logged("error: vCPUs: only 0 of 1 stopped within 5 s"), 1);
	lab.vm.running = false;
	check_over();
	lab_teardown(NULL);
	begin(SEC_CONFIRM);
	lab.vm.running = true; /* its CPUs did not stand */
	assert_int_equal(secondary_stop(&lab.sec), 0);
	check_over();
	lab_teardown(NULL);
}

/* A first sync is worth nothing: what it brought does not hold anybody up. */
static void a_first_sync_is_given_up(void **state)
{
	lab_setup(NULL);
	lab.images_wait = true;
	pri_join();
	pri_heart();
	pri_disk(0, 512, 512, 1);
	pri_disk(0, 1024, 512, 2);
	lab_settle();
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(logged("acknowledged disk writes"), 0);
	check_over();
	assert_int_equal(lab_image_byte(lab.image, 512), 1); /* was at the kernel */
	assert_int_equal(lab_image_byte(lab.image, 1024), LAB_OLD);
	lab_teardown(NULL);
}

static void nobody_there_is_nothing_to_do(void **state)
{
	lab_setup(NULL);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(fake_vm.created, 0);
	check_over();
	lab_teardown(NULL);
}

static struct lab_write late;

static void the_guest_goes_on(void)
{
	lab.instead_of_answer = NULL;
	lab_print();
	lab_guest_writes(&late, LAB_MIRROR, 4096, 0xaa);
}

/* Its CPUs do not stop, and what was acknowledged has to go to the image all the same. */
static void a_twin_that_cannot_be_stopped_is_not_heard(void **state)
{
	begin(SEC_TWIN);
	fake_vm.pause_error = -ETIMEDOUT;
	lab.instead_of_answer = the_guest_goes_on;
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_true(lab.vm.running);
	assert_null(lab.instead_of_answer);
	assert_true(lab.vm.obuf.closed);
	assert_int_equal(fake_vm.printed, 0);
	for (unsigned i = 0; i < lab.vm.machine.ndevs; i++)
		assert_true(lab.vm.devices.disks[i].fd < 0 || lab.vm.devices.disks[i].held);
	assert_false(late.done);
	lab_check_image(2);
	lab_teardown(NULL);
	assert_int_equal(late.res, -ECANCELED);
}

/* --- while the VM is being claimed ------------------------------------------------------------ */

/* What it was asked for is done, or refused, and the answer is still on its way. */
static void carry_out(int code)
{
	unsigned n = lab.arbiter.asked;

	lab.arbiter.ops.deadline_ms = ARBITER_DEADLINE_MS;
	lab_arbiter_answers(code);
	mock_arbiter_wait(&lab.arbiter, &lab.arbiter.answered, n);
	assert_int_equal(lab.arbiter.record.end, ARBITER_HELD);
}

static const unsigned claiming[] = {SEC_CLAIM, SEC_TWIN_CLAIM, SEC_CONFIRM, SEC_YIELD};

/*
 * Nobody would run the VM, nor start it without force. This side's images have all that anybody
 * has seen, if they did not fail; but what a twin did since the checkpoint was seen, too.
 */
static void a_claim_is_given_back(void **state)
{
	for (unsigned i = 0; i < N(claiming); i++) {
		bool fails = claiming[i] == SEC_YIELD;
		bool theirs = fails || claiming[i] == SEC_TWIN_CLAIM;

		begin(claiming[i]);
		carry_out(0);
		assert_int_equal(secondary_stop(&lab.sec), fails ? -EIO : 0);
		assert_int_equal(lab.arbiter.record.generation, claiming[i] == SEC_CONFIRM ? 3 : 2);
		assert_int_equal(lab.arbiter.record.end, ARBITER_STOPPED);
		assert_int_equal(lab.arbiter.record.side,
				 theirs ? 99 : arbiter_side(lab.ft.arbiter));
		assert_int_equal(logged(theirs ? "Start the other side with --primary: its images"
					       : "Start this side with --primary: its images"),
				 1);
		check_over();
		lab_teardown(NULL);
	}
}

/* It was won, and this host does not take the state: the images have everything all the same. */
static void a_vm_that_cannot_be_loaded_is_given_back(void **state)
{
	begin(SEC_CLAIM);
	fake_vm.refuses = true;
	lab_arbiter_answers(0);
	lab_until(lab.exits);
	assert_int_equal(lab.exit_code, 2);
	assert_int_equal(lab.arbiter.record.end, ARBITER_HELD);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(lab.arbiter.record.generation, 2);
	assert_int_equal(lab.arbiter.record.end, ARBITER_STOPPED);
	assert_int_equal(lab.arbiter.record.side, arbiter_side(lab.ft.arbiter));
	assert_int_equal(logged("Start this side with --primary: its images"), 1);
	lab_check_image(1);
	lab_teardown(NULL);
}

static void an_image_that_fails_at_the_end_is_not_named(void **state)
{
	begin(SEC_CLAIM);
	carry_out(0);
	lab.instead_of_answer = fail_next;
	assert_int_equal(secondary_stop(&lab.sec), -EIO);
	assert_int_equal(lab.arbiter.record.end, ARBITER_STOPPED);
	assert_int_equal(lab.arbiter.record.side, 99);
	check_over();
	lab_teardown(NULL);
}

static void without_disks_either_side_may_start(void **state)
{
	lab_setup(NULL);
	lab_reach(SEC_CLAIM);
	carry_out(0);
	arbiter_set_side(lab.ft.arbiter, 0);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(lab.arbiter.record.end, ARBITER_RELEASED);
	lab_teardown(NULL);
}

static void what_another_side_has_is_not_given_back(void **state)
{
	for (unsigned i = 0; i < N(claiming); i++) {
		begin(claiming[i]);
		carry_out(-ESTALE);
		secondary_stop(&lab.sec);
		assert_int_equal(logged("--claim") + logged("--primary"), 0);
		check_over();
		lab_teardown(NULL);
	}
}

static void a_silent_arbiter_does_not_hold_the_end_up(void **state)
{
	for (unsigned i = 0; i < N(claiming); i++) {
		begin(claiming[i]);
		secondary_stop(&lab.sec);
		assert_int_equal(logged("warning: takeover: stopped, and the claim may still be "
					"carried out: arbiter 'mock' did not answer within 20 ms"),
				 1);
		check_over();
		lab_teardown(NULL);
	}
}

/* The primary knows it by its token, and claims the next. */
static void a_claim_of_a_hand_over_stays(void **state)
{
	static const unsigned handed[] = {SEC_ACCEPT, SEC_ACCEPT_ALONE};

	for (unsigned i = 0; i < N(handed); i++) {
		begin(handed[i]);
		carry_out(0);
		assert_int_equal(secondary_stop(&lab.sec), 0);
		assert_int_equal(lab.arbiter.record.generation, 2);
		assert_int_equal(lab.arbiter.record.end, ARBITER_HELD);
		assert_int_equal(lab.arbiter.record.token, 5);
		assert_int_equal(lab.arbiter.asked, 2);
		check_over();
		lab_teardown(NULL);
	}
}

/* The next one waits for the lock of a shared image: it was not made, and the first one stays. */
static void nor_is_it_given_back_before_the_next(void **state)
{
	static const unsigned handed[] = {SEC_ACCEPT_ALONE, SEC_HELD};

	for (unsigned i = 0; i < N(handed); i++) {
		lab_setup(NULL);
		lab.keeps_lock = true;
		lab_reach((enum secondary_state)handed[i]);
		lab_arbiter_answers(0);
		pri_hang_up();
		lab_until(lab.sec.fsm.state == (i ? SEC_CONFIRM : SEC_CLAIM));
		assert_int_equal(secondary_stop(&lab.sec), 0);
		assert_int_equal(lab.arbiter.record.generation, 2);
		assert_int_equal(lab.arbiter.record.end, ARBITER_HELD);
		assert_int_equal(lab.arbiter.record.token, 5);
		assert_int_equal(lab.arbiter.asked, 2);
		check_over();
		lab_teardown(NULL);
	}
}

/* Nor by a side whose image fails then. */
static void nor_where_an_image_fails(void **state)
{
	lab_setup(NULL);
	lab.images_wait = lab.keeps_lock = true;
	lab_reach(SEC_HELD);
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CONFIRM);
	lab_image_fails();
	lab_check_gave_up("this side's disk image failed");
	assert_int_equal(lab.arbiter.record.end, ARBITER_HELD);
	assert_int_equal(lab.arbiter.record.token, 5);
	assert_int_equal(lab.arbiter.asked, 2);
	lab_teardown(NULL);
}

/* --- after a takeover ------------------------------------------------------------------------- */

/* Whoever runs the VM has waited for the images, or not: what the guest wrote since stays behind.
 */
static void a_vm_that_was_taken_over_is_its_callers(void **state)
{
	struct lab_write w;

	begin(SEC_TAKEN);
	pri_hang_up();
	lab_guest_writes(&w, LAB_MIRROR, 1024, 0xaa);
	assert_true(lab.ft.images_behind);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(lab.sec.fsm.state, SEC_OVER);
	assert_int_equal(fake_vm.destroyed, 0);
	assert_true(lab.vm.running);
	assert_int_equal(time_left(&lab.sec.announce.op), -1);
	assert_true(lab.ft.images_behind);
	assert_false(w.done);
	assert_int_equal(logged("acknowledged disk writes"), 0);
	lab_teardown(NULL);
	assert_int_equal(w.res, -ECANCELED);
}

/* Only the entry that is at the kernel is waited for. */
static void what_is_behind_is_dropped(void **state)
{
	begin(SEC_STANDBY);
	pri_commit(2);
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(lab_image_byte(lab.image, 0), 0xdd); /* of the sync: was at the kernel */
	assert_int_equal(lab_image_byte(lab.image, 512), LAB_OLD);
	assert_int_equal(lab_image_byte(lab.image, 1024), LAB_OLD);
	lab_teardown(NULL);
}

static void announcements_end_with_it(void **state)
{
	lab_setup(NULL);
	lab_reach(SEC_TAKEN);
	assert_true(time_left(&lab.sec.announce.op) > 0);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	lab_pass(5 * S);
	assert_int_equal(fake_vm.frames, 1);
	lab_teardown(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_acknowledged_goes_to_the_image),
		cmocka_unit_test_setup_teardown(nothing_waits_for_an_image_that_has_all, lab_setup,
						lab_teardown),
		cmocka_unit_test(an_image_that_fails_then_is_an_error),
		cmocka_unit_test(an_image_that_answers_too_late_is_one),
		cmocka_unit_test(an_image_has_thirty_seconds),
		cmocka_unit_test(a_primary_that_stops_hears_how_it_went),
		cmocka_unit_test(an_image_that_failed_before_is_none_of_this_end),
		cmocka_unit_test(the_primary_is_let_go_first),
		cmocka_unit_test(nobody_comes_in_meanwhile),
		cmocka_unit_test(a_vm_that_was_handed_over_is_stopped_first),
		cmocka_unit_test(a_first_sync_is_given_up),
		cmocka_unit_test(nobody_there_is_nothing_to_do),
		cmocka_unit_test(a_twin_that_cannot_be_stopped_is_not_heard),
		cmocka_unit_test(a_claim_is_given_back),
		cmocka_unit_test(a_vm_that_cannot_be_loaded_is_given_back),
		cmocka_unit_test(an_image_that_fails_at_the_end_is_not_named),
		cmocka_unit_test(without_disks_either_side_may_start),
		cmocka_unit_test(what_another_side_has_is_not_given_back),
		cmocka_unit_test(a_silent_arbiter_does_not_hold_the_end_up),
		cmocka_unit_test(a_claim_of_a_hand_over_stays),
		cmocka_unit_test(nor_is_it_given_back_before_the_next),
		cmocka_unit_test(nor_where_an_image_fails),
		cmocka_unit_test(a_vm_that_was_taken_over_is_its_callers),
		cmocka_unit_test(what_is_behind_is_dropped),
		cmocka_unit_test(announcements_end_with_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
