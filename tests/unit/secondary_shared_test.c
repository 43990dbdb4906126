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

/* So often. A job is in no hurry, whatever time it is here. */
static void keep_trying(unsigned n)
{
	while (n--) {
		lab_until(!lab.sec.locking.job && time_left(&lab.sec.timer_op) > 0);
		lab_pass((uint64_t)time_left(&lab.sec.timer_op));
	}
}

static void lab_turn_or_pass(void)
{
	lab_turn();
	if (time_left(&lab.sec.timer_op) > 0)
		lab_pass((uint64_t)time_left(&lab.sec.timer_op));
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
	keep_trying(26);
	assert_string_equal(lab.ft.note, LOCKED);
	keep_trying(100);
	assert_state(CLAIM);
	assert_word("TAKING-OVER");
	assert_int_equal(lab.arbiter.record.generation, 1);
	assert_in_range(lab.arbiter.asked - asked, 2, 6); /* who goes on, every half a second */
	assert_int_equal(fake_vm.loaded, 0);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(lab.ft.generation, 2);
}

/* A process that was killed has its lock a moment longer: nothing is said of that. */
static void a_moment_is_no_trouble(void **state)
{
	lose_a_primary_that_lives();
	keep_trying(1);
	assert_string_equal(lab.ft.note, "primary: connection closed");
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
	lab_until(lab.taken);
	assert_int_equal(logged("locked"), 0);
}

static void the_other_side_went_on(void **state)
{
	struct arbiter_record theirs = {.generation = 2, .side = 5};

	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, 0, &theirs);
	while (lab.sec.fsm.state == SEC_CLAIM)
		lab_turn_or_pass();
	lab_check_gave_up("the other side goes on");
}

/* The record with the token of a move is this side's own. */
static void a_move_to_this_side_is_no_other_side(void **state)
{
	struct arbiter_record moved = {.generation = 2, .token = 77};

	lab.hello.token = 77;
	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, 0, &moved);
	keep_trying(60);
	assert_state(CLAIM);
}

static void an_arbiter_that_is_silent_meanwhile(void **state)
{
	lose_a_primary_that_lives();
	mock_arbiter_set(&lab.arbiter, -EIO, NULL);
	keep_trying(60);
	assert_state(CLAIM);
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
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
	keep_trying(50);
	assert_state(LOCKS);
	assert_string_equal(lab.ft.note, LOCKED);
	assert_true(lab.vm.running);
	assert_false(w.done);
	check_image(LAB_OLD);
	assert_int_equal(fake_vm.printed, 0);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
	lab_until(lab.taken && w.done);
	assert_state(TAKEN);
	assert_int_equal(w.res, 0);
	check_image(0x55);
	assert_int_equal(fake_vm.printed, 1);
}

static void on_read(struct disk_req *r, int res)
{
	*(bool *)r->arg = true;
}

/* What the old side let go may reach the image still, and this host's cache be of another time. */
static void nor_does_the_guest_read_before(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	static bool done;
	static struct disk_req r = {
		.kind = DISK_READ, .off = 4096, .len = 512, .done = on_read, .arg = &done};

	done = false;
	r.buf = buf;
	lab.keeps_lock = true;
	lab_reach(SEC_HELD);
	disk_submit(&lab.vm.devices.disks[LAB_SHARED], &r);
	lab_settle();
	pri_gone();
	keep_trying(3);
	assert_false(done);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
	lab_until(done);
	assert_int_equal(buf[0], LAB_OLD);
}

/* What it fences is off then, and has no lock: claimed once without, and again with it. */
static void a_program_that_fences_is_asked_first(void **state)
{
	strcpy(lab.cfg.arbiter, "exec:/fence");
	lose_a_primary_that_lives();
	keep_trying(20);
	assert_int_equal(lab.arbiter.record.generation, 1);
	while (lab.ft.generation == 1)
		lab_turn_or_pass();
	keep_trying(40);
	assert_state(CLAIM);
	assert_int_equal(lab.ft.generation, 2); /* not again and again */
	assert_int_equal(fake_vm.loaded, 0);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
	assert_int_equal(lab.ft.generation, 3);
	assert_int_equal(fake_vm.loaded, 1);
}

/* A claim that finds the VM stopped gives the lock back: the other side is to start. */
static void a_vm_that_was_stopped_is_not_locked_here(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	mock_arbiter_set(&lab.arbiter, -ECANCELED, NULL);
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_DRAIN_ALONE);
	assert_true(!disk_is_elsewhere(&lab.vm.devices.disks[LAB_SHARED]));
	assert_false(lab.sec.locking.has);
	lab_images_go();
}

static void tries_are_of_one_takeover(void **state)
{
	struct arbiter_record theirs = {.generation = 2, .side = 5};

	lose_a_primary_that_lives();
	keep_trying(30);
	mock_arbiter_set(&lab.arbiter, 0, &theirs);
	while (lab.sec.fsm.state == SEC_CLAIM)
		lab_turn_or_pass();
	assert_int_equal(lab.sec.locking.tries, 0);
}

/* Two guests would write to it. */
static void there_is_no_twin_beside_it(void **state)
{
	lab_reach(SEC_STANDBY);
	end_connect(&lab.mirror);
	end_preface(&lab.mirror, STREAM_MIRROR, lab.session);
	end_send(&lab.mirror, FRAME_MIRROR, 0, NULL, 0);
	lab_until(end_is_dropped(&lab.mirror));
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
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
	keep_trying(10);
	assert_state(CONFIRM);
	assert_false(lab.vm.running);
	check_image(LAB_OLD);
	pri_unlock();
	while (!lab.taken)
		lab_turn_or_pass();
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
		TEST(nor_does_the_guest_read_before),
		TEST(a_program_that_fences_is_asked_first),
		TEST(a_vm_that_was_stopped_is_not_locked_here),
		TEST(tries_are_of_one_takeover),
		TEST(there_is_no_twin_beside_it),
		TEST(nor_is_it_confirmed_without),
		TEST(a_stop_while_it_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
