/* Epochs at the secondary: whole or not at all, acknowledged when nothing can fail any more. */
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

/* --- memory and state ------------------------------------------------------------------------- */

static void an_epoch_is_taken_as_a_whole(void **state)
{
	pri_join();
	pri_heart();
	pri_page(0, 1, 0x77); /* of the first sync, and again later */
	pri_commit(1);
	assert_state(STANDBY);
	assert_word("PROTECTED");
	assert_string_equal(lab.ft.note, "");
	lab_check_vm(1);
	assert_int_equal(lab.ft.stats.epochs, 1);
	for (uint64_t n = 2; n <= 5; n++) {
		pri_commit(n);
		lab_check_vm(n);
	}
	assert_int_equal(lab.ft.stats.epochs, 5);
	lab_settle();
	lab_check_image(5);
	assert_int_equal(lab.nwords, 2); /* SYNCING, PROTECTED */
	assert_false(lab.vm.running);
	assert_int_equal(lab.exits, 0);
}

/* Something else that has its turns: it sees the middle of a commit, if there is one. */
struct bystander {
	struct loop_work w;
	enum secondary_state in; /* SEC_STATE_MAX: it has seen none */
};

static bool look(struct loop_work *w)
{
	struct bystander *b = w->arg;

	if (stage_is_committing(&lab.sec.stage))
		b->in = (enum secondary_state)lab.sec.fsm.state;
	return b->in == SEC_STATE_MAX;
}

/* The epoch comes, and is seen halfway, in this state. */
static void half_committed(uint64_t epoch, enum secondary_state state)
{
	struct bystander b = {.w = {.fn = look, .arg = &b}, .in = SEC_STATE_MAX};

	lab.long_commits = true;
	pri_epoch(epoch);
	loop_work_add(&lab.loop, &b.w);
	for (unsigned left = 1000; left && b.in == SEC_STATE_MAX; left--)
		lab_turn();
	loop_work_del(&lab.loop, &b.w);
	assert_int_equal(b.in, state);
}

/* It may be as large as all of memory: the loop looks at its events between two pieces. */
static void the_first_epoch_has_turns(void **state)
{
	pri_join();
	pri_heart();
	half_committed(1, SEC_SYNCING);
	end_expect(&lab.main, FRAME_ACK, NULL);
	assert_state(STANDBY);
	lab_check_vm(1);
	half_committed(2, SEC_STANDBY);
	end_expect(&lab.main, FRAME_ACK, NULL);
	pri_commit(3);
	lab_settle();
	lab_check_vm(3);
}

/* The time that the guest will have missed counts from the arrival of what it will go on from. */
static void an_epoch_begins_when_its_first_frame_comes(void **state)
{
	uint64_t begun;

	pri_join();
	pri_heart();
	lab_pass(S);
	pri_commit(1);
	begun = lab.sec.committed_ns;
	assert_int_equal(begun, loop_now_ns());
	lab_pass(S);
	pri_begin(2);
	lab_settle();
	begun = loop_now_ns();
	lab_pass(S);
	pri_page(2, 2, 2);
	lab_settle();
	assert_int_not_equal(lab.sec.committed_ns, begun);
	pri_state(2, 2);
	lab_pass(S);
	pri_end(2);
	end_expect(&lab.main, FRAME_ACK, NULL);
	assert_int_equal(lab.sec.committed_ns, begun);
}

/* What came of an epoch that is not whole counts for nothing, wherever it breaks off. */
static void nothing_is_applied_in_part(void **state)
{
	for (unsigned parts = 1; parts <= 4; parts++) {
		if (parts > 1) {
			lab_teardown(NULL);
			lab_setup(NULL);
		}
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		pri_begin(2);
		if (parts >= 2)
			pri_page(2, 2, 2);
		if (parts >= 3)
			pri_disk(2, 1024, 512, 2);
		if (parts >= 4)
			pri_state(2, 2);
		lab_settle();
		assert_true(lab.sec.stage.open);
		pri_hang_up();
		lab_until(lab.sec.fsm.state == SEC_CLAIM);
		assert_false(lab.sec.stage.open);
		lab_check_vm(1);
		lab_arbiter_answers(0);
		lab_until(lab.taken);
		lab_settle();
		lab_check_vm(1);
		lab_check_image(1);
	}
}

static void a_malformed_part_ends_the_link(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_begin(2);
	pri_page(2, lab.machine.mem_bytes / MEM_PAGE_SIZE, 2); /* one behind the last */
	end_expect_refusal(&lab.main, "malformed page entry");
	assert_state(CLAIM);
	lab_check_vm(1);
}

static void an_epoch_that_lacks_something_is_not_acknowledged(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_begin(2);
	pri_page(2, 2, 2);
	pri_state(2, 2);
	lab.pages++;
	pri_end(2);
	end_expect_refusal(&lab.main, "epoch 2 is not whole: 1 of 2 pages, 0 of 0 disk changes");
	assert_state(CLAIM);
	lab_check_vm(1);
	assert_int_equal(lab.ft.stats.epochs, 1);
}

static void a_stream_that_breaks_its_rules_ends_the_link(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	lab.main.out.seq++; /* a frame is missing */
	pri_begin(2);
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	assert_string_equal(lab.ft.note, "primary: frame 7 (epoch-begin): says it is frame 8");
}

/* Before the first ack, as all that comes later depends on it. */
static void the_first_state_is_tried(void **state)
{
	pri_join();
	pri_heart();
	fake_vm.refuses = true;
	pri_epoch(1);
	end_expect_refusal(&lab.main, "vCPU state: this host refuses MSRs");
	end_expect_no(&lab.main, FRAME_ACK);
	assert_state(LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, "primary: vCPU state: this host refuses MSRs");
	assert_int_equal(lab.ft.stats.epochs, 0);
	assert_int_equal(fake_vm.destroyed, 1);
	assert_int_equal(lab.arbiter.asked, 1); /* at HELLO */
}

/* Later ones have the same parts; no load is tried while the primary waits. */
static void later_states_are_only_copied(void **state)
{
	lab_reach(SEC_STANDBY);
	fake_vm.refuses = true;
	pri_commit(2);
	assert_state(STANDBY);
	lab_check_vm(2);
}

/* The primary is gone before it can be told; the epoch counts all the same. */
static void an_ack_that_is_not_sent_is_a_loss(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	end_close(&lab.heart); /* its end comes behind all that is on main */
	pri_epoch(2);
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	assert_string_equal(lab.ft.note, "primary: ack not sent");
	lab_check_vm(2);
	assert_int_equal(lab.ft.stats.epochs, 2);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	lab_check_vm(2);
}

static void a_loss_in_the_first_sync_is_the_end_of_it(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_SYNCING);
	pri_disk(0, 8192, 512, 1);
	lab_settle();
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_int_equal(lab_image_byte(lab.image, 0), 0xdd);	    /* was at the kernel */
	assert_int_equal(lab_image_byte(lab.image, 8192), LAB_OLD); /* is of no use any more */
	lab.images_wait = false;
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, "primary: connection closed");
	assert_string_equal(lab.ft.peer, "");
	assert_int_equal(fake_vm.destroyed, 1);
	assert_int_equal(logged("warning: primary: connection closed"), 1);
	assert_int_equal(lab.arbiter.asked, 1);
	/* And another one may begin. */
	lab_reach(SEC_STANDBY);
	lab_check_vm(1);
}

/* --- --verify --------------------------------------------------------------------------------- */

/* The hashes as the primary would have them, or another one. */
static void end_with_hashes(uint64_t n, uint64_t ram_change, uint64_t state_change)
{
	struct wire_end w = {.pages = lab.pages, .disk_ops = lab.disk_ops};

	w.ram_hash = pri_ram_hash(n) + ram_change;
	w.state_hash = pri_state_hash(n) + state_change;
	end_send(&lab.main, FRAME_EPOCH_END, n, &w, sizeof(w));
}

static void verified_epoch(uint64_t n, uint64_t ram_change, uint64_t state_change)
{
	pri_begin(n);
	pri_page(n, n, (uint8_t)n);
	pri_state(n, (unsigned)n);
	end_with_hashes(n, ram_change, state_change);
	end_expect(&lab.main, FRAME_ACK, NULL);
}

static void join_verified(void)
{
	lab.hello.verify = 1;
	pri_join();
	pri_heart();
}

static void equal_sides_go_on(void **state)
{
	join_verified();
	for (uint64_t n = 1; n <= 3; n++)
		verified_epoch(n, 0, 0);
	lab_settle();
	assert_state(STANDBY);
	assert_word("PROTECTED");
}

static void check_unequal(const char *why)
{
	end_expect_refusal(&lab.main, why);
	assert_true(end_is_dropped(&lab.main));
	assert_state(LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, why);
	assert_true(logged(why));
	assert_int_equal(lab.ft.stats.unequal, 1); /* still, for whoever looks later */
	assert_int_equal(fake_vm.destroyed, 1);
	assert_int_equal(lab.arbiter.asked, 1);
}

static void unequal_sides_do_not(void **state)
{
	join_verified();
	verified_epoch(1, 1, 0);
	check_unequal("verify: memory differs from the primary's after epoch 1");
	assert_int_equal(lab.exits, 0);
}

/* This side was asked to look, too: it is to be noticed. */
static void unequal_sides_end_the_process_that_verifies(void **state)
{
	lab.cfg.verify = true;
	join_verified();
	verified_epoch(1, 0, 0);
	verified_epoch(2, 0, 1);
	check_unequal("verify: state differs from the primary's after epoch 2: as it is encoded "
		      "here: are both sides of one version?");
	assert_int_equal(lab.exits, 1);
	assert_int_equal(lab.exit_code, 2);
}

static void unequal_sides_with_a_lost_link(void **state)
{
	join_verified();
	end_close(&lab.heart);
	pri_begin(1);
	pri_state(1, 1);
	end_with_hashes(1, 1, 0);
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "verify: memory differs from the primary's after epoch 1");
}

/* --- reading ---------------------------------------------------------------------------------- */

/* More frames than are taken in one turn, and no byte behind them that would wake anybody. */
static void all_that_has_come_is_read(void **state)
{
	pri_join();
	pri_heart();
	pri_begin(1);
	for (unsigned i = 0; i < 200; i++)
		end_send(&lab.main, FRAME_PAGES, 1, NULL, 0);
	pri_state(1, 1);
	pri_end(1);
	end_expect(&lab.main, FRAME_ACK, NULL);
}

/* A clock by which each look takes longer than a turn may. */
static uint64_t hurried(void)
{
	static uint64_t ahead;

	return loop_now_ns() + (ahead += 2 * LOOP_BUDGET_NS);
}

/* But others have their turns. */
static void frames_are_taken_in_turns(void **state)
{
	uint64_t had;

	lab_reach(SEC_STANDBY);
	had = lab.sec.main.recv_seq;
	pri_begin(2);
	for (unsigned i = 0; i < 10; i++)
		end_send(&lab.main, FRAME_PAGES, 2, NULL, 0);
	lab.loop.clock = hurried;
	for (unsigned i = 1; i <= 11; i++) {
		loop_run_once(&lab.loop, 200000);
		assert_int_equal(lab.sec.main.recv_seq - had, i);
		assert_true(lab.sec.read_work.waits);
	}
	lab_settle();
	assert_false(lab.sec.read_work.waits);
	lab.loop.clock = loop_now_ns;
}

/* So is an epoch brought into memory: no frame is taken before it is there. */
static void a_commit_goes_in_turns(void **state)
{
	uint64_t zeros[1024];
	struct frame f;

	lab.machine.mem_bytes = 4 << 20;
	lab_reach(SEC_STANDBY);
	lab.loop.clock = hurried;
	for (uint64_t page = 0; page < 1024; page++)
		zeros[page] = page << 24 | 1 << 16;
	pri_begin(2);
	end_send(&lab.main, FRAME_PAGES, 2, zeros, sizeof(zeros));
	lab.pages = 1024;
	pri_state(2, 2);
	pri_end(2);
	pri_begin(3);
	lab_until(stage_is_committing(&lab.sec.stage));
	end_expect(&lab.main, FRAME_ACK, &f);
	assert_int_equal(f.epoch, 2);
	lab_until(lab.sec.stage.epoch == 3);
	assert_int_equal(lab.sec.stage.committed, 2);
	assert_int_equal(*(uint8_t *)mem_page(&lab.vm.mem, 1), 0);
	lab.loop.clock = loop_now_ns;
}

static void halfway(void)
{
	lab_reach(SEC_STANDBY);
	lab.loop.clock = hurried;
	pri_begin(2);
	pri_page(2, 2, 2);
	pri_page(2, 3, 2);
	pri_disk(2, 1024, 512, 2);
	pri_state(2, 2);
	pri_end(2);
	lab_until(stage_is_committing(&lab.sec.stage));
}

static void check_all_of_it(void)
{
	lab.loop.clock = loop_now_ns;
	assert_int_equal(lab.sec.stage.committed, 2);
	assert_int_equal(*(uint8_t *)mem_page(&lab.vm.mem, 2), 2);
	assert_int_equal(*(uint8_t *)mem_page(&lab.vm.mem, 3), 2);
	assert_int_equal(lab.vm.vcpus[0].state.regs.rax, 2);
}

/* What was promised is done, whatever comes between. */
static void an_acknowledged_epoch_is_not_left_halfway(void **state)
{
	halfway();
	lab_arbiter_waits();
	lab.sec.heart.lost(lab.sec.heart.arg, "heartbeat link closed");
	assert_state(CLAIM);
	check_all_of_it();
	lab_teardown(NULL);
	lab_setup(NULL);
	halfway();
	lab.sec.main_op.fn(&lab.sec.main_op, 0);
	secondary_stop(&lab.sec);
	lab.loop.clock = loop_now_ns;
	assert_int_equal(lab_image_byte(lab.image, 1024), 2);
	assert_int_equal(*(uint8_t *)mem_page(&lab.vm.mem, 3), 2);
}

/* --verify looks at all of it. */
static void a_verified_commit_is_one(void **state)
{
	lab.hello.verify = 1;
	pri_join();
	pri_heart();
	verified_epoch(1, 0, 0);
	lab_settle();
	lab.loop.clock = hurried;
	pri_begin(2);
	pri_page(2, 2, 2);
	pri_state(2, 2);
	end_with_hashes(2, 0, 0);
	lab_until(lab.sec.stage.committed == 2);
	assert_state(STANDBY);
	lab.loop.clock = loop_now_ns;
}

/* Whatever comes on the main link is life. */
static void frames_are_heard_as_heartbeats(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_pass(3 * S);
	assert_int_not_equal(lab.sec.heart.link_heard_ns, loop_now_ns());
	pri_begin(2);
	lab_settle();
	assert_int_equal(lab.sec.heart.link_heard_ns, loop_now_ns());
}

/* --- the heartbeat link ends first ------------------------------------------------------------ */

static void the_last_word_is_read_before_the_end_is_judged(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	end_close(&lab.heart);
	lab_settle();
	assert_state(DRAIN);
	assert_false(end_is_dropped(&lab.main));
	lab_images_go();
	end_expect(&lab.main, FRAME_DONE, NULL);
}

/* The same, seen by the heartbeats' end first. */
static void it_is_read_from_the_end_of_heart(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
	lab.sec.heart.lost(lab.sec.heart.arg, "heartbeat link closed");
	assert_state(DRAIN);
	assert_false(end_is_dropped(&lab.main));
	/* Not in another state. */
	lab_teardown(NULL);
	lab_setup(NULL);
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	pri_epoch(2);
	lab.sec.heart.lost(lab.sec.heart.arg, "heartbeat link closed");
	assert_state(CLAIM);
	assert_string_equal(lab.ft.note, "primary: heartbeat link closed");
	lab_check_vm(2);
}

/* An end is an end between two epochs. */
static void no_end_comes_inside_an_epoch(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		lab_reach(SEC_STANDBY);
		lab_arbiter_waits();
		pri_begin(2);
		if (i)
			pri_hand_over(7);
		else
			end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
		end_expect_refusal(&lab.main, "message out of order");
		assert_state(CLAIM);
		assert_string_equal(lab.ft.note, "primary: message out of order");
		lab_await_question();
		assert_int_equal(lab.arbiter.question.record.token, 0);
		lab_teardown(NULL);
		lab_setup(NULL);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(an_epoch_is_taken_as_a_whole),
		TEST(the_first_epoch_has_turns),
		TEST(an_epoch_begins_when_its_first_frame_comes),
		TEST(nothing_is_applied_in_part),
		TEST(a_malformed_part_ends_the_link),
		TEST(an_epoch_that_lacks_something_is_not_acknowledged),
		TEST(a_stream_that_breaks_its_rules_ends_the_link),
		TEST(the_first_state_is_tried),
		TEST(later_states_are_only_copied),
		TEST(an_ack_that_is_not_sent_is_a_loss),
		TEST(a_loss_in_the_first_sync_is_the_end_of_it),
		TEST(equal_sides_go_on),
		TEST(unequal_sides_do_not),
		TEST(unequal_sides_end_the_process_that_verifies),
		TEST(unequal_sides_with_a_lost_link),
		TEST(all_that_has_come_is_read),
		TEST(frames_are_taken_in_turns),
		TEST(a_commit_goes_in_turns),
		TEST(an_acknowledged_epoch_is_not_left_halfway),
		TEST(a_verified_commit_is_one),
		TEST(frames_are_heard_as_heartbeats),
		TEST(the_last_word_is_read_before_the_end_is_judged),
		TEST(it_is_read_from_the_end_of_heart),
		TEST(no_end_comes_inside_an_epoch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
