/* An image that both hosts have: whose it is, and that nobody writes to it without its lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

#define LOCKED                                                                                     \
	"disk 'd5': the other side has the image locked, so it may still write; stop it there, "   \
	"or see to it that its host is off"
#define TRY	(20 * MS)
#define LAB_OLD 0xee /* what was in the images before */

static void check_image(uint8_t byte)
{
	assert_int_equal(lab_image_byte(lab.shared, 4096), byte);
}

/* Whoever started it gave another file: it would start from the wrong disk. */
static void one_that_nobody_has_is_another(void **state)
{
	lab.lock = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pri_hello();
	end_expect_refusal(&lab.main,
			   "disk 'd5': nobody has the image here locked, so it is not the one that "
			   "the primary has; ft=shared is for one image that both hosts see");
	assert_state(LISTEN);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
}

static void lose_a_primary_that_lives(void)
{
	lab.keeps_lock = true;
	lab_reach(SEC_STANDBY);
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	lab_settle();
}

/* Frozen, or cut off: what it had let go may still reach the image. */
static void nobody_claims_without_the_lock(void **state)
{
	unsigned asked;

	lose_a_primary_that_lives();
	asked = lab.arbiter.asked;
	assert_string_equal(lab.ft.note, "primary: connection closed");
	for (unsigned i = 0; i < 24; i++)
		lab_pass(TRY);
	assert_string_equal(lab.ft.note, LOCKED);
	for (unsigned i = 0; i < 100; i++)
		lab_pass(TRY);
	assert_state(CLAIM);
	assert_word("TAKING-OVER");
	assert_int_equal(lab.arbiter.record.generation, 1);
	assert_in_range(lab.arbiter.asked - asked, 2, 6); /* who goes on, every half a second */
	assert_int_equal(fake_vm.loaded, 0);
	pri_unlock();
	lab_pass(TRY);
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(lab.ft.generation, 2);
}

/* A process that was killed has its lock a moment longer: nothing is said of that. */
static void a_moment_is_no_trouble(void **state)
{
	lose_a_primary_that_lives();
	lab_pass(TRY);
	assert_string_equal(lab.ft.note, "primary: connection closed");
	pri_unlock();
	lab_pass(TRY);
	lab_until(lab.taken);
	assert_int_equal(logged("locked"), 0);
}

static void the_other_side_went_on(void **state)
{
	struct arbiter_record theirs = {.generation = 2, .side = 5};

	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, 0, &theirs);
	for (unsigned i = 0; i < 30 && lab.sec.fsm.state == SEC_CLAIM; i++)
		lab_pass(TRY);
	lab_check_gave_up("the other side goes on");
}

/* The record with the token of a move is this side's own. */
static void a_move_to_this_side_is_no_other_side(void **state)
{
	struct arbiter_record moved = {.generation = 2, .token = 77};

	lab.hello.token = 77;
	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, 0, &moved);
	for (unsigned i = 0; i < 60; i++)
		lab_pass(TRY);
	assert_state(CLAIM);
}

static void an_arbiter_that_is_silent_meanwhile(void **state)
{
	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, -EIO, NULL);
	for (unsigned i = 0; i < 60; i++)
		lab_pass(TRY);
	assert_state(CLAIM);
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	pri_unlock();
	for (unsigned i = 0; i < 30 && !lab.taken; i++)
		lab_pass(TRY);
	assert_int_equal(lab.taken, 1);
}

/* What the guest writes meanwhile leaves when the old side has let the image go. */
static void a_hand_over_waits_for_the_lock(void **state)
{
	static struct lab_write w;

	lab.keeps_lock = true;
	lab_reach(SEC_HELD);
	lab_guest_writes(&w, LAB_SHARED, 4096, 0x55);
	lab_print();
	lab_settle();
	pri_gone();
	lab_until(lab.sec.fsm.state == SEC_LOCKS);
	lab_settle();
	pri_hang_up(); /* its process is about to end */
	for (unsigned i = 0; i < 50; i++)
		lab_pass(TRY);
	assert_state(LOCKS);
	assert_string_equal(lab.ft.note, LOCKED);
	assert_true(lab.vm.running);
	assert_false(w.done);
	check_image(LAB_OLD);
	assert_int_equal(fake_vm.printed, 0);
	pri_unlock();
	lab_pass(TRY);
	lab_until(lab.taken && w.done);
	assert_state(TAKEN);
	assert_int_equal(w.res, 0);
	check_image(0x55);
	assert_int_equal(fake_vm.printed, 1);
}

/* Not said to be gone: it is asked for once more, with the lock. */
static void nor_is_it_confirmed_without(void **state)
{
	static struct lab_write w;

	lab.keeps_lock = true;
	lab_reach(SEC_HELD);
	lab_guest_writes(&w, LAB_SHARED, 4096, 0x55);
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CONFIRM);
	for (unsigned i = 0; i < 10; i++)
		lab_pass(TRY);
	assert_state(CONFIRM);
	assert_false(lab.vm.running);
	check_image(LAB_OLD);
	pri_unlock();
	lab_pass(TRY);
	lab_until(lab.taken && w.done);
	check_image(0x55);
}

static void a_stop_while_it_waits(void **state)
{
	static struct lab_write w;

	lab.keeps_lock = true;
	lab_reach(SEC_LOCKS);
	lab_guest_writes(&w, LAB_SHARED, 4096, 0x55);
	lab_settle();
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_false(lab.vm.running);
	check_image(LAB_OLD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)
		TEST(one_that_nobody_has_is_another),
		TEST(nobody_claims_without_the_lock),
		TEST(a_moment_is_no_trouble),
		TEST(the_other_side_went_on),
		TEST(a_move_to_this_side_is_no_other_side),
		TEST(an_arbiter_that_is_silent_meanwhile),
		TEST(a_hand_over_waits_for_the_lock),
		TEST(nor_is_it_confirmed_without),
		TEST(a_stop_while_it_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
