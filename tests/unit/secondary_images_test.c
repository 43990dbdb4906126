/* Images that are slow, or fail; and the end of a primary, which waits for them. */
#define _GNU_SOURCE
#include <errno.h>
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
#include "vmm/copy/disk_sums.h"

#define MANY (64u << 10) /* bytes of a disk write, when there are to be many */

/* --- slow ones -------------------------------------------------------------------------------- */

static void check_stopped(bool stopped)
{
	assert_int_equal(lab.sec.reading_stopped, stopped);
}

/* Bytes that wait for the image, by writes of the first sync. */
static void fill_queue(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pri_disk(0, 0, MANY, (uint8_t)i);
		lab_settle();
	}
}

/* So many writes are above 32 MB, one less is not: each costs what it brings, and a little. */
static const unsigned too_many = (32u << 20) / MANY;

static void go_down_to(uint64_t bytes)
{
	while (*lab_queue() > bytes) {
		struct disk_req *r = lab.write;

		lab.write = NULL;
		r->done(r, 0);
	}
}

static void a_slow_image_stops_the_first_sync(void **state)
{
	uint64_t one;

	lab.images_wait = true;
	pri_join();
	pri_heart();
	fill_queue(1);
	one = *lab_queue();
	fill_queue(too_many - 2);
	check_stopped(false);
	assert_true(*lab_queue() <= 32u << 20);
	fill_queue(1);
	assert_int_equal(*lab_queue(), too_many * one);
	check_stopped(true);
	/* What comes now stays in the socket. */
	pri_disk(0, 512, 512, 0x99);
	lab_settle();
	assert_int_equal(*lab_queue(), too_many * one);
	/* It is not forgotten that the primary lives, nor does anything go wrong. */
	go_down_to(8u << 20);
	lab_settle();
	go_down_to((8u << 20) + one);
	check_stopped(*lab_queue() >= 8u << 20);
	go_down_to((8u << 20) - 1);
	check_stopped(false);
	lab_settle();
	lab_images_go();
	assert_int_equal(lab_image_byte(lab.image, 512), 0x99);
	pri_commit(1);
	assert_state(STANDBY);
}

/* The bounds themselves; the queue is only said to be that long. */
static void the_bounds_of_a_slow_image(void **state)
{
	uint64_t have;

	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	have = *lab_queue();
	*lab_queue() = 32u << 20;
	pri_begin(2);
	lab_settle();
	check_stopped(false);
	(*lab_queue())++;
	pri_page(2, 2, 2);
	lab_settle();
	check_stopped(true);
	pri_state(2, 2);
	pri_end(2);
	end_expect_no(&lab.main, FRAME_ACK);
	*lab_queue() = 8u << 20;
	lab.sec.disks.moved(lab.sec.disks.arg);
	check_stopped(true);
	(*lab_queue())--;
	lab.sec.disks.moved(lab.sec.disks.arg);
	check_stopped(false);
	end_expect(&lab.main, FRAME_ACK, NULL);
	*lab_queue() = have;
}

/* What comes instead of the next epoch is seen however long the queue is. */
static void a_goodbye_is_seen_with_a_full_queue(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	*lab_queue() += 100u << 20;
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	*lab_queue() -= 100u << 20;
}

static void a_hand_over_is_seen_with_a_full_queue(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	*lab_queue() += 100u << 20;
	pri_hand_over(9);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	*lab_queue() -= 100u << 20;
}

/* Nor does it matter that the last epoch filled it. */
static void an_epoch_that_fills_the_queue(void **state)
{
	uint64_t more;

	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	more = (32u << 20) - 100 - *lab_queue();
	*lab_queue() += more;
	pri_commit(2);
	assert_true(*lab_queue() > 32u << 20);
	check_stopped(false);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	*lab_queue() -= more;
}

/* It did not read for a good reason; the next link is read again. */
static void a_link_that_is_lost_unread(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	pri_begin(2);
	*lab_queue() += 100u << 20;
	pri_page(2, 2, 2);
	lab_until(lab.sec.reading_stopped);
	lab_arbiter_waits();
	end_close(&lab.heart);
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	check_stopped(false);
	assert_string_equal(lab.ft.note, "primary: heartbeat link closed");
	*lab_queue() -= 100u << 20;
	lab_images_go();
	lab_arbiter_answers(-ESTALE);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	lab_arbiter_answers(0);
	lab_reach(SEC_STANDBY);
}

/* --- images that fail ------------------------------------------------------------------------- */

static void check_image_failed(void)
{
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_state(LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, "this side's disk image failed");
	assert_int_equal(fake_vm.destroyed, 1);
	assert_int_equal(lab.exits, 0);
}

static void an_image_that_fails_ends_the_link(void **state)
{
	static const unsigned states[] = {SEC_SYNCING, SEC_STANDBY, SEC_ACCEPT};

	for (unsigned i = 0; i < 3; i++) {
		if (i) {
			lab_teardown(NULL);
			lab_setup(NULL);
		}
		lab.images_wait = true;
		lab_reach((enum secondary_state)states[i]);
		lab_image_fails();
		end_expect_refusal(&lab.main, "the secondary's disk image failed");
		assert_true(end_is_dropped(&lab.main));
		check_image_failed();
		assert_int_equal(logged("error: disk 'd0': write at byte 0: Input/output error"),
				 1);
		/* The claim that was asked for is nobody's any more. */
		mock_arbiter_hold(&lab.arbiter, false);
		lab_pass(10 * S);
		assert_int_equal(lab.ft.generation, 1);
		assert_state(LISTEN);
	}
}

static void an_image_that_fails_alone(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_ACCEPT_ALONE);
	lab_image_fails();
	check_image_failed();
}

/* It is won when nobody wants it any more: the other side is to be able to start. */
static void a_claim_is_given_back(void **state)
{
	static const unsigned states[] = {SEC_CLAIM, SEC_CONFIRM};

	for (unsigned i = 0; i < 2; i++) {
		const struct arbiter_question *q = &lab.arbiter.question;

		if (i) {
			lab_teardown(NULL);
			lab_setup(NULL);
		}
		lab.images_wait = true;
		lab.arbiter.record.side = 99;
		lab_reach((enum secondary_state)states[i]);
		lab_print();
		lab_image_fails();
		lab_pass(S);
		assert_state(YIELD);
		assert_int_equal(q->what, ARBITER_CLAIM); /* the storage has that still */
		lab_arbiter_answers(0);
		check_image_failed();
		assert_int_equal(q->what, ARBITER_PUT_BACK);
		assert_int_equal(lab.arbiter.record.generation, 2 + i);
		assert_int_equal(lab.arbiter.record.end, ARBITER_STOPPED);
		assert_int_equal(lab.arbiter.record.side, 99);
		assert_int_equal(logged("error: takeover: this side's disk image failed when the "
					"VM was claimed already. Start the other side with "
					"--primary: its images have everything"),
				 1);
		assert_int_equal(lab.taken, 0);
	}
}

static void a_claim_that_was_not_won_is_not_given_back(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_CLAIM);
	lab_image_fails();
	lab_arbiter_answers(-ESTALE);
	check_image_failed();
	assert_int_equal(logged("the VM was claimed already"), 0);
}

static void a_claim_is_given_back_when_the_arbiter_answers(void **state)
{
	lab.images_wait = true;
	lab.arbiter.record.side = 99;
	lab_reach(SEC_YIELD);
	lab_arbiter_answers(-EIO);
	lab_until(time_left(&lab.sec.timer_op) >= 0);
	assert_state(YIELD);
	assert_word("TAKING-OVER");
	assert_string_equal(lab.ft.note, "mock: Input/output error");
	lab_arbiter_answers(0);
	lab_pass(500 * MS);
	check_image_failed();
	assert_int_equal(lab.arbiter.record.end, ARBITER_STOPPED);
}

/* --- an orderly end --------------------------------------------------------------------------- */

static void a_stop_is_over_when_the_images_have_all(void **state)
{
	/* Of the sync, which is flushed then, and of an epoch. */
	static const enum disk_op in_order[] = {DISK_WRITE, DISK_WRITE, DISK_FLUSH, DISK_WRITE};
	struct frame f;

	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	pri_commit(2);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	/* These, and a flush, which are some hundred bytes, and an image's. */
	assert_string_equal(lab.ft.note,
			    "primary: stopped in order; 1K of its disk writes wait for the image");
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(lab_image_step(), in_order[i]);
	end_expect_no(&lab.main, FRAME_DONE);
	lab_check_image(2); /* but may not be on the medium */
	assert_int_equal(lab.write->kind, DISK_FLUSH);
	/* The primary waits; it judges the time. */
	lab_pass(50 * S);
	assert_state(DRAIN);
	lab_images_go();
	end_expect(&lab.main, FRAME_DONE, &f);
	assert_int_equal(f.length, 0);
	assert_state(LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, "primary: stopped in order");
	lab_check_image(2);
	assert_true(end_is_dropped(&lab.main));
	assert_int_equal(lab.arbiter.asked, 1);
	assert_int_equal(fake_vm.started, 0);
	assert_string_equal(lab.steps, "hello-received ack-before ack-sent ack-before ack-sent "
				       "drained done-said");
}

/* There is nothing that could be on its way, and so nobody to say that it has arrived. */
static void a_stop_without_mirrored_images_is_over_at_once(void **state)
{
	lab.machine.devs[LAB_MIRROR].ft = DISK_FT_NONE;
	lab.machine.devs[LAB_MIRROR].readonly = lab.cfg.disks[0].readonly = true;
	pri_join();
	pri_heart();
	pri_begin(1);
	pri_page(1, 1, 1);
	pri_state(1, 1);
	pri_end(1);
	end_expect(&lab.main, FRAME_ACK, NULL);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	end_expect(&lab.main, FRAME_DONE, NULL);
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note, "primary: stopped in order");
}

/* The primary has other things to do than to beat: its output leaves first. */
static void a_primary_that_stops_has_time(void **state)
{
	lab.images_wait = true;
	lab.hello.heartbeat_ns = S;
	lab.hello.peer_timeout_ns = 2 * S;
	lab_reach(SEC_STANDBY);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	assert_int_equal(lab.sec.heart.timeout_ns, 30 * S);
	lab_pass(29 * S);
	assert_state(DRAIN);
	/* A longer one stays as it is. */
	lab_teardown(NULL);
	lab_setup(NULL);
	lab.images_wait = true;
	lab_reach(SEC_DRAIN);
	assert_int_equal(lab.sec.heart.timeout_ns, 60 * S);
}

static void a_stop_with_an_image_that_fails(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_DRAIN);
	lab_image_fails();
	end_expect_refusal(&lab.main, "the secondary's disk image failed");
	assert_true(end_is_dropped(&lab.main));
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note,
			    "primary: stopped in order, but this side's disk image failed");
}

static void a_stop_that_nobody_waits_for(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_DRAIN_ALONE);
	assert_word("PROTECTED");
	lab_images_go();
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: stopped in order");
	lab_check_image(1);
	lab_teardown(NULL);
	lab_setup(NULL);
	lab.images_wait = true;
	lab_reach(SEC_DRAIN_ALONE);
	lab_image_fails();
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note,
			    "primary: stopped in order, but this side's disk image failed");
}

static void a_stop_without_memory_for_the_flush(void **state)
{
	lab_reach(SEC_STANDBY);
	lab.diskapply_flush = -ENOMEM;
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	end_expect_refusal(&lab.main, "the secondary's disk image failed");
	end_expect_no(&lab.main, FRAME_DONE);
	assert_state(LISTEN);
}

/* Without a heartbeat link there is a timer for it, which is of no interest any more. */
static void a_stop_takes_longer_than_the_heartbeat_link_may(void **state)
{
	lab.images_wait = true;
	pri_join();
	pri_commit(1);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab_until(lab.sec.fsm.state == SEC_DRAIN);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	lab_pass(20 * S);
	assert_state(DRAIN);
	lab_images_go();
	end_expect(&lab.main, FRAME_DONE, NULL);
}

/* --- what is compared in the first sync --------------------------------------------------------
 */

#define BLOCKS (LAB_IMAGE / BLOCK_MAP_BYTES)

/* Of blocks full of these bytes; NULL: they are zeros. */
static void pri_sums(uint64_t block, uint32_t count, const uint8_t *bytes)
{
	struct {
		struct wire_sums w;
		uint64_t sums[BLOCKS];
	} m = {.w = {.disk = LAB_MIRROR, .count = bytes ? count : 0, .where = {block, count}}};
	static uint8_t full[BLOCK_MAP_BYTES];
	struct disk_sum_key key;

	disk_sum_key_make(&key, lab.session);
	for (uint32_t i = 0; bytes && i < count; i++) {
		memset(full, bytes[i], sizeof(full));
		m.sums[i] = disk_sum(&key, full, sizeof(full));
	}
	end_send(&lab.main, FRAME_SUMS, 0, &m, sizeof(m.w) + m.w.count * sizeof(m.sums[0]));
}

static void differ(uint64_t block, uint32_t count, uint32_t pieces, const struct wire_blocks *want)
{
	struct wire_differ w;
	struct frame f;

	end_expect(&lab.main, FRAME_DIFFER, &f);
	memcpy(&w, f.data, sizeof(w));
	assert_int_equal(w.disk, LAB_MIRROR);
	assert_true(w.where.block == block && w.where.blocks == count);
	assert_int_equal(w.count, pieces);
	assert_int_equal(f.length, sizeof(w) + pieces * sizeof(*want));
	assert_memory_equal(f.data + sizeof(w), want, pieces * sizeof(*want));
}

static void what_differs_is_told(void **state)
{
	static const uint8_t is[4] = {LAB_OLD, 1, LAB_OLD, LAB_OLD};
	static const uint8_t none[2] = {2, 3};

	pri_join();
	pri_heart();
	pri_sums(4, 4, is);
	differ(4, 4, 1, &(struct wire_blocks){5, 1});
	pri_sums(0, 2, none);
	pri_sums(6, BLOCKS - 6, NULL);
	differ(0, 2, 1, &(struct wire_blocks){0, 2});
	differ(6, BLOCKS - 6, 1, &(struct wire_blocks){6, BLOCKS - 6});
	pri_sums(2, 1, is);
	differ(2, 1, 0, NULL);
	/* Nothing was changed. */
	lab_check_image(0);
	assert_state(SYNCING);
}

static void sums_have_limits(void **state)
{
	static const struct wire_sums bad[] = {
		{.disk = LAB_MIRROR, .where = {0, 0}},
		{.disk = LAB_MIRROR, .where = {BLOCKS, 1}},
		{.disk = LAB_MIRROR, .where = {1, BLOCKS}},
		{.disk = LAB_MIRROR, .where = {1, UINT64_MAX}},
		{.disk = LAB_MIRROR, .count = 1, .where = {0, 1}},
		{.disk = LAB_SHARED, .where = {0, 1}},
		{.disk = LAB_NIC, .where = {0, 1}},
		{.disk = 32, .where = {0, 1}},
		{.disk = UINT32_MAX, .where = {0, 1}},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		pri_join();
		pri_heart();
		end_send(&lab.main, FRAME_SUMS, 0, &bad[i], sizeof(bad[i]));
		lab_until(lab.sec.fsm.state == SEC_LISTEN);
		assert_non_null(strstr(lab.ft.note, "disk sums: "));
		end_close(&lab.main);
		end_close(&lab.heart);
	}
	pri_join();
	pri_heart();
	end_send(&lab.main, FRAME_SUMS, 0, &bad[0], sizeof(bad[0]) - 1);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: disk sums: short message");
}

static void sums_are_for_the_first_sync(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_sums(0, 1, NULL);
	lab_until(lab.sec.fsm.state != SEC_STANDBY);
	assert_true(end_is_dropped(&lab.main));
}

/* More than it can compare: the rest stays in the socket, and all of it has its answer. */
static void many_sums_wait(void **state)
{
	enum { N = 40 };

	pri_join();
	pri_heart();
	for (unsigned i = 0; i < N; i++)
		pri_sums(0, BLOCKS, NULL);
	lab_until(lab.sec.reading_stopped);
	assert_true(lab.sec.compare.count <= 8);
	for (unsigned i = 0; i < N; i++)
		differ(0, BLOCKS, 1, &(struct wire_blocks){0, BLOCKS});
	check_stopped(false);
	assert_int_equal(lab.sec.compare.count, 0);
	assert_state(SYNCING);
}

static void a_loss_while_it_is_compared(void **state)
{
	for (unsigned i = 0; i < 20; i++) {
		pri_join();
		pri_heart();
		for (unsigned n = 0; n < i % 5; n++)
			pri_sums(0, BLOCKS, NULL);
		lab_settle();
		pri_hang_up();
		lab_until(lab.sec.fsm.state == SEC_LISTEN);
		assert_int_equal(lab.sec.compare.count, 0);
	}
}

static void an_image_that_cannot_be_compared(void **state)
{
	pri_join();
	pri_heart();
	assert_int_equal(truncate(lab.image, LAB_IMAGE / 2), 0);
	pri_sums(BLOCKS - 1, 1, (const uint8_t *)"x");
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "this side's disk image failed");
	assert_int_equal(logged("reading it to compare it: Input/output error"), 1);
}

/* Of a primary that has not waited for the answer, and is lost. */
static void an_image_that_is_found_unreadable_late(void **state)
{
	static const unsigned states[] = {SEC_CLAIM, SEC_TWIN_CLAIM, SEC_CONFIRM};
	const struct wire_differ w = {.disk = LAB_MIRROR, .where = {0, 1}};

	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		if (i) {
			lab_teardown(NULL);
			lab_setup(NULL);
		}
		lab.images_wait = true;
		lab_reach((enum secondary_state)states[i]);
		lab.sec.compare.told(lab.sec.compare.arg, &w, NULL, -EIO);
		assert_state(YIELD);
		/* What waited goes there all the same. */
		lab_images_go();
		assert_state(YIELD);
		lab_arbiter_answers(0);
		check_image_failed();
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_slow_image_stops_the_first_sync),
		TEST(the_bounds_of_a_slow_image),
		TEST(a_goodbye_is_seen_with_a_full_queue),
		TEST(a_hand_over_is_seen_with_a_full_queue),
		TEST(an_epoch_that_fills_the_queue),
		TEST(a_link_that_is_lost_unread),
		TEST(an_image_that_fails_ends_the_link),
		TEST(an_image_that_fails_alone),
		TEST(a_claim_is_given_back),
		TEST(a_claim_that_was_not_won_is_not_given_back),
		TEST(a_claim_is_given_back_when_the_arbiter_answers),
		TEST(a_stop_is_over_when_the_images_have_all),
		TEST(a_stop_without_mirrored_images_is_over_at_once),
		TEST(a_primary_that_stops_has_time),
		TEST(a_stop_with_an_image_that_fails),
		TEST(a_stop_that_nobody_waits_for),
		TEST(a_stop_without_memory_for_the_flush),
		TEST(a_stop_takes_longer_than_the_heartbeat_link_may),
		TEST(what_differs_is_told),
		TEST(sums_have_limits),
		TEST(sums_are_for_the_first_sync),
		TEST(many_sums_wait),
		TEST(a_loss_while_it_is_compared),
		TEST(an_image_that_cannot_be_compared),
		TEST(an_image_that_is_found_unreadable_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
