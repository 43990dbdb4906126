/* What a secondary's images say before the first byte of another one comes. */
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

static void an_image_says_that_it_is_half_before_it_is(void **state)
{
	struct frame f;

	lab.marks_wait = true;
	pri_hello();
	lab_until(__atomic_load_n(&lab.marks, __ATOMIC_SEQ_CST));
	lab_settle();
	assert_state(ASKED);
	lab_marks_go();
	end_expect(&lab.main, FRAME_WELCOME, &f);
	assert_string_equal(lab.mark, "1 vm 1 half");
	assert_state(SYNCING);
}

static void an_image_that_cannot_say_it(void **state)
{
	lab.mark_errno = ENOSPC;
	pri_hello();
	end_expect_refusal(&lab.main,
			   "disk 'd0': attribute user.ftvmm of its image, 'half': No space "
			   "left on device");
	assert_true(end_is_dropped(&lab.main));
	assert_state(LISTEN);
	lab.mark_errno = EOPNOTSUPP; /* as a block device, or an older file system */
	pri_join();
	assert_state(SYNCING);
}

/* Nothing that hangs is waited for, nor its word believed for the next primary. */
static void storage_that_does_not_say_that_it_did(void **state)
{
	struct frame f;

	lab.marks_wait = true;
	pri_hello();
	lab_until(__atomic_load_n(&lab.marks, __ATOMIC_SEQ_CST));
	lab_pass(5 * S);
	end_expect_refusal(&lab.main,
			   "disk 'd0': attribute user.ftvmm of its image, 'half': the storage "
			   "does not answer");
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	end_close(&lab.main);
	pri_hello();
	lab_until(lab.sec.fsm.state == SEC_ASKED);
	lab_settle();
	assert_state(ASKED);
	lab_marks_go();
	end_expect(&lab.main, FRAME_WELCOME, &f);
	assert_int_equal(lab.marks, 2);
}

static void a_primary_may_go_away_while_images_are_marked(void **state)
{
	lab.marks_wait = true;
	pri_hello();
	lab_until(__atomic_load_n(&lab.marks, __ATOMIC_SEQ_CST));
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: went away in the handshake");
	lab_marks_go();
	lab_settle();
	assert_state(LISTEN);
	pri_join();
	assert_state(SYNCING);
}

static void the_end_may_come_while_images_are_marked(void **state)
{
	lab.marks_wait = true;
	pri_hello();
	lab_until(__atomic_load_n(&lab.marks, __ATOMIC_SEQ_CST));
	assert_int_equal(secondary_stop(&lab.sec), 0);
	lab_marks_go();
	lab_settle(); /* nobody is told: there is no row for it any more */
	assert_state(OVER);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(an_image_says_that_it_is_half_before_it_is),
		TEST(an_image_that_cannot_say_it),
		TEST(storage_that_does_not_say_that_it_did),
		TEST(a_primary_may_go_away_while_images_are_marked),
		TEST(the_end_may_come_while_images_are_marked),
	};

	return cmocka_run_group_tests_name("secondary_marks", tests, NULL, NULL);
}
