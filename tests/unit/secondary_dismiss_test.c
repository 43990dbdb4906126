/* A secondary that is dismissed: it never runs what it has, and keeps images of use. */
#define _GNU_SOURCE
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

#define NOTE "primary: goes on unprotected (ft=off); this side does not take over"

/* Who waits for its word holds a guest's output meanwhile: it does not wait for the images. */
static void done_is_said_before_the_images_have_all(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	end_send(&lab.main, FRAME_DISMISS, 0, NULL, 0);
	end_expect(&lab.main, FRAME_DONE, NULL);
	assert_true(end_is_dropped(&lab.main));
	assert_true(end_is_dropped(&lab.heart));
	assert_state(DISMISSED);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, NOTE);
}

static void nobody_takes_over(void **state)
{
	unsigned asked;

	lab.images_wait = true;
	lab_reach(SEC_DISMISSED);
	asked = lab.arbiter.asked;
	lab_pass(600 * S);
	assert_state(DISMISSED);
	lab_images_go();
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_pass(600 * S);
	lab_check_gave_up(NOTE);
	assert_int_equal(lab.arbiter.asked, asked);
	assert_int_equal(lab.taken, 0);
}

/* What was acknowledged, and the word that another image may be newer. */
static void images_are_whole_and_behind(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_DISMISSED);
	assert_int_equal(lab_image_byte(lab.image, 512), LAB_OLD);
	lab_images_go();
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_check_image(1);
	lab_until(!lab.ft.marks.job); /* on a thread of its own */
	assert_string_equal(lab.mark, "1 vm 1 behind");
}

static void an_image_that_fails_then(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_DISMISSED);
	lab_image_fails();
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_non_null(strstr(lab.ft.note, "this side's disk image failed"));
}

/* The link was lost instead: it takes over, as ever. */
static void a_word_that_did_not_come(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_hang_up();
	lab_until(lab.taken);
	assert_word("DEGRADED");
}

/* In the middle of an epoch it is none. */
static void not_within_an_epoch(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_begin(2);
	end_send(&lab.main, FRAME_DISMISS, 0, NULL, 0);
	end_expect_refusal(&lab.main, "message out of order");
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
}

static void the_next_primary_is_welcome(void **state)
{
	lab_reach(SEC_STANDBY);
	end_send(&lab.main, FRAME_DISMISS, 0, NULL, 0);
	end_expect(&lab.main, FRAME_DONE, NULL);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	end_close(&lab.main);
	end_close(&lab.heart);
	pri_join();
	assert_state(SYNCING);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(done_is_said_before_the_images_have_all),
		TEST(nobody_takes_over),
		TEST(images_are_whole_and_behind),
		TEST(an_image_that_fails_then),
		TEST(a_word_that_did_not_come),
		TEST(not_within_an_epoch),
		TEST(the_next_primary_is_welcome),
	};

	return cmocka_run_group_tests_name("secondary_dismiss", tests, NULL, NULL);
}
