/* A secondary whose guest runs, too: what it can go on with, and what it is rid of. */
#define _GNU_SOURCE
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

/* --- it cannot run ---------------------------------------------------------------------------- */

/* The checkpoint is acknowledged, and nothing behind it has left: it is what a takeover loads. */
static void without_a_twin_it_is_as_without_the_mode(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	lab.runs = 1;
	fake_vm.refuses = true;
	pri_commit(2);
	lab_until(logged("error: twin: "));
	lab_settle();
	assert_state(STANDBY);
	assert_word("PROTECTED");
	assert_true(end_is_dropped(&lab.mirror));
	assert_false(lab.vm.running);
	assert_int_equal(lab.joins, lab.splits);
	assert_false(lab.ft.images_behind);
	fake_vm.refuses = false;
	pri_commit(3);
	lab_settle();
	assert_state(STANDBY);
	lab_check_vm(3);
	fake_vm.loaded = 0;
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(fake_vm.loaded, 1);
	lab_check_vm(3);
}

/* Nor is it tried again and again. */
static void it_is_not_tried_again_with_this_primary(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	lab.runs = 1;
	fake_vm.refuses = true;
	pri_commit(2);
	lab_until(logged("error: twin: "));
	end_close(&lab.mirror);
	end_connect(&lab.mirror);
	end_preface(&lab.mirror, STREAM_MIRROR, lab.session);
	end_send(&lab.mirror, FRAME_MIRROR, 0, NULL, 0);
	lab_until(end_is_dropped(&lab.mirror));
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
	pri_commit(3);
	assert_int_equal(logged("error: twin: "), 1);
}

/* --- slow images ------------------------------------------------------------------------------ */

static void check_disk_goes(void)
{
	static struct lab_write w;

	lab_until(lab.taken && !lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0x77);
	lab_until(w.done);
	assert_int_equal(w.res, 0);
	assert_int_equal(lab_image_byte(lab.image, 4096), 0x77);
}

/* The twin's requests waited for the image; there is none any more when that has all. */
static void disks_do_not_wait_for_what_has_come(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_TWIN);
	lab.runs = 0;
	pri_commit(3);
	lab_until(lab.joins);
	assert_false(lab.ft.images_behind);
	lab_images_go();
	pri_hang_up();
	check_disk_goes();
}

static void disks_go_that_came_while_it_claims(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_TWIN_CLAIM);
	lab_images_go();
	lab_until(!lab.sec.disks.busy);
	lab_arbiter_answers(0);
	check_disk_goes();
}

static void disks_wait_for_what_comes_after_it_has_claimed(void **state)
{
	static struct lab_write w;

	lab.images_wait = true;
	lab_reach(SEC_TWIN_CLAIM);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_true(lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 0, 0x66);
	lab_settle();
	assert_false(w.done);
	lab_images_go();
	lab_until(w.done);
	lab_until(!lab.ft.images_behind);
	assert_int_equal(lab_image_byte(lab.image, 0), 0x66);
}

/* --- taken over ------------------------------------------------------------------------------- */

/* Whoever syncs a new secondary reads the images: not before they have all. */
static void images_are_behind_from_the_first_moment_on(void **state)
{
	static struct lab_write w;

	lab_reach(SEC_TWIN);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0x55);
	lab_until(w.done);
	assert_int_not_equal(lab_image_byte(lab.image, 4096), 0x55);
	pri_hang_up();
	lab_until(lab.taken);
	assert_true(lab.behind);
	lab_until(!lab.ft.images_behind);
	assert_int_equal(lab_image_byte(lab.image, 4096), 0x55);
}

/* --- the mirror ------------------------------------------------------------------------------- */

/* However much of the epoch before is on its way: without that word the primary compares nothing.
 */
static void it_says_that_it_runs(void **state)
{
	static char much[32 << 10];
	struct iovec iov = {much, sizeof(much)};
	struct frame f;

	lab_reach(SEC_TWIN);
	for (unsigned n = 0; n < 1000; n++)
		if (obuf_put(&lab.vm.obuf, fake_vm.sink, &iov, 1))
			break;
	lab_until(mirror_is_full(&lab.sec.twin.mirror));
	pri_commit(3);
	lab_until(lab.sec.fsm.state == SEC_TWIN);
	for (unsigned loaded = 0; loaded < 2;) {
		lab_until(end_take(&lab.mirror, &f) == 1);
		if (f.type != FRAME_LOADED)
			continue;
		assert_int_equal(f.epoch, loaded + 2);
		loaded++;
	}
}

static void it_is_gone_after_a_hand_over(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	pri_hand_over(5);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	end_send(&lab.main, FRAME_GONE, 0, NULL, 0);
	lab_until(lab.taken);
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
}

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(without_a_twin_it_is_as_without_the_mode),
		LAB_TEST(it_is_not_tried_again_with_this_primary),
		LAB_TEST(disks_do_not_wait_for_what_has_come),
		LAB_TEST(disks_go_that_came_while_it_claims),
		LAB_TEST(disks_wait_for_what_comes_after_it_has_claimed),
		LAB_TEST(images_are_behind_from_the_first_moment_on),
		LAB_TEST(it_says_that_it_runs),
		LAB_TEST(it_is_gone_after_a_hand_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
