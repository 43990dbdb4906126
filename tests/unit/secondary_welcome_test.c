/* The secondary's welcome: what becomes of a primary that comes in. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/common/side.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

/* --- a good one ------------------------------------------------------------------------------- */

static void a_hello_builds_the_machine(void **state)
{
	uint64_t side;

	lab.hello.generation = 7;
	lab.arbiter.record.generation = 7;
	lab.hello.heartbeat_ns = 3 * S;
	lab.hello.peer_timeout_ns = 9 * S;
	assert_word("STARTING");
	pri_hello();
	end_expect(&lab.main, FRAME_WELCOME, NULL);
	assert_state(SYNCING);
	assert_word("SYNCING");
	assert_string_equal(lab.ft.peer, "vm");
	assert_int_equal(lab.ft.generation, 7);
	assert_false(lab.sec.verify);
	assert_int_equal(fake_vm.created, 1);
	assert_int_equal(lab.vm.mem.npages, lab.machine.mem_bytes / MEM_PAGE_SIZE);
	assert_memory_equal(lab.vm.machine.devs, lab.machine.devs, sizeof(lab.machine.devs));
	assert_int_equal(lab.sec.stage.disklog_limit, 8 << 20);
	assert_int_equal(side_identity(&lab.cfg, &side, NULL), 0);
	assert_true(side);
	assert_int_equal(arbiter_side(lab.ft.arbiter), side);
	assert_int_equal(time_left(&lab.sec.timer_op), 5 * S);
	assert_false(lab.vm.running);
	assert_int_equal(logged("primary refused"), 0);
}

/* Holes are not sent: what was in the image must not show through them. */
static void a_used_image_is_kept(void **state)
{
	struct stat st;

	pri_join();
	assert_int_equal(stat(lab.image, &st), 0);
	assert_int_equal(st.st_size, LAB_IMAGE);
	assert_true(st.st_blocks * 512 >= LAB_IMAGE); /* and there is room for all of it */
	for (uint64_t off = 0; off < LAB_IMAGE; off += 511)
		assert_int_equal(lab_image_byte(lab.image, off), LAB_OLD);
	/* The primary is told which: not one that is shared or only read. */
	assert_int_equal(lab.sec.kept, 1u << LAB_MIRROR);
	assert_int_equal(lab.welcome.kept, 1u << LAB_MIRROR);
	assert_int_equal(lab.welcome.dismiss, 1);
	assert_int_equal(lab_image_byte(lab.shared, 0), LAB_OLD);
	assert_int_equal(lab_image_byte(lab.shared, LAB_IMAGE - 1), LAB_OLD);
}

static void of_an_empty_image_nothing_is_compared(void **state)
{
	assert_int_equal(truncate(lab.image, 0), 0);
	assert_int_equal(truncate(lab.image, LAB_IMAGE), 0);
	pri_join();
	assert_int_equal(lab.welcome.kept, 0);
	assert_int_equal(lab_image_byte(lab.image, LAB_IMAGE - 1), 0);
}

static void the_heartbeat_link_is_the_second(void **state)
{
	struct frame f;

	lab.hello.heartbeat_ns = 3 * S;
	lab.hello.peer_timeout_ns = 9 * S;
	pri_join();
	pri_heart();
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	assert_int_equal(lab.sec.heart.interval_ns, 3 * S);
	assert_int_equal(lab.sec.heart.timeout_ns, 9 * S);
	end_expect(&lab.heart, FRAME_HEART, &f);
	assert_int_equal(f.length, sizeof(struct wire_heart));
	assert_state(SYNCING);
	end_close(&lab.heart);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: heartbeat link closed");
	assert_true(end_is_dropped(&lab.main));
}

static void without_heartbeats_it_is_no_primary(void **state)
{
	pri_join();
	lab_pass(5 * S - 1);
	assert_state(SYNCING);
	lab_pass(1);
	end_expect_refusal(&lab.main, "no heartbeat link");
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note, "primary: no heartbeat link");
}

/* The first epoch may be there by then; nobody can know whether the primary goes on. */
static void nor_is_it_one_with_an_epoch(void **state)
{
	pri_join();
	pri_commit(1);
	lab_arbiter_waits();
	lab_pass((uint64_t)time_left(&lab.sec.timer_op));
	end_expect_refusal(&lab.main, "no heartbeat link");
	assert_state(CLAIM);
	assert_string_equal(lab.ft.note, "primary: no heartbeat link");
}

/* The first epoch may be faster than it. */
static void the_heartbeat_link_may_come_late(void **state)
{
	pri_join();
	pri_commit(1);
	pri_heart();
	end_expect(&lab.heart, FRAME_HEART, NULL);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	assert_state(STANDBY);
}

static void a_heartbeat_link_that_fails(void **state)
{
	lab.heart_start = -ENOSPC;
	pri_join();
	pri_heart_as(&lab.heart, lab.session);
	assert_true(end_is_dropped(&lab.main));
	assert_true(end_is_dropped(&lab.heart));
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note, "primary: heartbeat link failed");
}

/* --- a bad one -------------------------------------------------------------------------------- */

static void check_refused(const char *why)
{
	pri_hello();
	end_expect_refusal(&lab.main, why);
	assert_true(end_is_dropped(&lab.main));
	assert_state(LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, why);
	assert_string_equal(lab.ft.peer, "");
	assert_false(lab.sec.has_vm);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
}

static void check_welcome(void)
{
	pri_join();
	assert_state(SYNCING);
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: connection closed");
}

static void values_have_limits(void **state)
{
	static const struct {
		size_t at, size;
		uint64_t good, bad;
	} edges[] = {
#define FIELD(f) offsetof(struct wire_hello, f), sizeof(((struct wire_hello *)0)->f)
		{FIELD(heartbeat_ns), 1000000, 999999},
		{FIELD(heartbeat_ns), 10 * S, 10 * S + 1},
		{FIELD(peer_timeout_ns), 10 * S, 10 * S - 1}, /* the heartbeat */
		{FIELD(peer_timeout_ns), 60 * S, 60 * S + 1},
		{FIELD(verify), 0, 2},
		{FIELD(verify), 1, UINT32_MAX},
		{FIELD(shared_arbiter), 1, 2},
		{FIELD(sums), 1, 2},
		{FIELD(generation), 1, 0},
		{FIELD(generation), INT64_MAX - 2, INT64_MAX - 1},
		{FIELD(generation), 1, UINT64_MAX},
		{FIELD(fdt_bytes), 0, 1}, /* more than they are */
		{FIELD(fdt_bytes), 0, UINT32_MAX},
#undef FIELD
	};
	const struct wire_hello usual = lab.hello;

	lab.arbiter.record.generation = INT64_MAX; /* has seen them all */
	for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		lab.hello = usual;
		memcpy((uint8_t *)&lab.hello + edges[i].at, &edges[i].bad, edges[i].size);
		check_refused("hello with values out of range");
		memcpy((uint8_t *)&lab.hello + edges[i].at, &edges[i].good, edges[i].size);
		check_welcome();
	}
}

/* It leaves blocks of zeros out. */
static void for_a_primary_that_does_not_compare_images_are_emptied(void **state)
{
	struct stat st;

	lab.hello.sums = 0;
	pri_join();
	assert_int_equal(stat(lab.image, &st), 0);
	assert_int_equal(st.st_size, LAB_IMAGE);
	assert_true(st.st_blocks * 512 >= LAB_IMAGE);
	for (uint64_t off = 0; off < LAB_IMAGE; off += 511)
		assert_int_equal(lab_image_byte(lab.image, off), 0);
	assert_int_equal(lab_image_byte(lab.shared, 0), LAB_OLD);
	assert_int_equal(lab.welcome.kept, 0);
}

static void a_hello_may_be_short(void **state)
{
	uint8_t part[sizeof(struct wire_hello)] = {0};
	const struct wire_hello usual = lab.hello;

	end_connect(&lab.main);
	end_preface(&lab.main, STREAM_MAIN, 5);
	end_send(&lab.main, FRAME_HELLO, 0, part, sizeof(part) - 1);
	end_expect_refusal(&lab.main, "short hello");
	/* Not even a machine. */
	end_connect(&lab.main);
	end_preface(&lab.main, STREAM_MAIN, 5);
	memcpy(part, &usual, sizeof(part));
	end_send(&lab.main, FRAME_HELLO, 0, part, sizeof(part));
	end_expect_refusal(&lab.main, "machine description: not a valid device tree");
	assert_state(LISTEN);
}

static void a_disk_log_has_the_bound_of_this_side(void **state)
{
	lab.hello.disklog_bytes = (8 << 20) + 1;
	check_refused("the primary's disk log of up to 8M is above the limit here, 8M; give both "
		      "sides the same --disklog-limit");
	lab.hello.disklog_bytes = 9 << 20;
	check_refused("the primary's disk log of up to 9M is above the limit here, 8M; give both "
		      "sides the same --disklog-limit");
	lab.cfg.disklog_bytes = 9 << 20;
	check_welcome();
}

static void memory_has_the_bound_of_this_side(void **state)
{
	lab.machine.mem_bytes = 4 << 20;
	lab.cfg.max_mem_bytes = 2 << 20;
	check_refused("the peer's VM has 4M of memory, this side takes 2M at most; give this side "
		      "a larger --max-memory, or the VM less with -m");
	assert_int_equal(fake_vm.created, 0); /* nothing was asked of the host */
	lab.cfg.max_mem_bytes = 4 << 20;
	check_welcome();
	lab.cfg.max_mem_bytes = 0;
	check_welcome();
}

/* Of those that are made here: one that both hosts have is as large as it is. */
static void an_image_has_the_bound_of_this_side(void **state)
{
	struct stat st;

	lab.cfg.max_disk_bytes = LAB_IMAGE;
	lab.machine.devs[LAB_MIRROR].bytes = LAB_IMAGE + 512;
	check_refused(
		"disk 'd0' has 1049088 at the peer, this side makes images of 1M at most; give "
		"this side a larger --max-disk");
	assert_int_equal(stat(lab.image, &st), 0);
	assert_int_equal(st.st_size, LAB_IMAGE);
	lab.machine.devs[LAB_MIRROR].bytes = LAB_IMAGE;
	assert_int_equal(truncate(lab.shared, 2 * LAB_IMAGE), 0);
	lab.machine.devs[LAB_SHARED].bytes = 2 * LAB_IMAGE;
	check_welcome();
}

static void both_sides_have_one_arbiter_or_none(void **state)
{
	lab.hello.shared_arbiter = 0;
	check_refused("the primary runs without an arbiter, this side with one: both could run the "
		      "VM; give both sides the same --arbiter");
	lab.arbiter.ops.shared = false;
	check_welcome();
	assert_int_equal(lab.arbiter.asked, 0); /* it has nothing to say */
	lab.hello.shared_arbiter = 1;
	check_refused("the primary runs with an arbiter, this side without one: both could run the "
		      "VM; give both sides the same --arbiter");
}

static void it_is_the_same_arbiter(void **state)
{
	lab.hello.generation = 5;
	lab.arbiter.record.generation = 4;
	check_refused("the arbiter has generation 4 here, 5 at the primary; give both sides the "
		      "same --arbiter");
	lab.arbiter.record.generation = 5;
	check_welcome();
	/* What came after is for the claim to judge. */
	lab.arbiter.record.generation = 6;
	check_welcome();
	mock_arbiter_set(&lab.arbiter, -EIO, NULL);
	check_refused("mock: Input/output error");
}

/* Slow storage: the loop goes on, and the primary is not told anything yet. */
static void the_arbiter_is_not_waited_for(void **state)
{
	lab_arbiter_waits();
	pri_hello();
	lab_await_question();
	assert_state(ASKED);
	assert_word("STARTING");
	assert_int_equal(lab.arbiter.question.what, ARBITER_READ);
	/* Who comes meanwhile is heard, and told no at once. */
	end_connect(&lab.heart);
	pri_say_hello(&lab.heart, 4);
	assert_true(end_is_dropped(&lab.heart));
	assert_false(end_is_dropped(&lab.main));
	assert_int_equal(fake_vm.created, 0);
	assert_int_equal(lab_image_byte(lab.image, 0), 0xee);
	lab_arbiter_answers(0);
	end_expect(&lab.main, FRAME_WELCOME, NULL);
	assert_state(SYNCING);
}

static void an_arbiter_that_does_not_answer(void **state)
{
	lab_arbiter_waits();
	pri_hello();
	lab_await_question();
	lab_pass(ARBITER_DEADLINE_MS * MS - 1);
	assert_state(ASKED);
	lab_pass(1);
	end_expect_refusal(&lab.main, "arbiter 'mock' did not answer within 2000 ms; nobody goes "
				      "on without it (is it reachable?)");
	assert_state(LISTEN);
	assert_int_equal(fake_vm.created, 0);
	lab_arbiter_answers(0);
	check_welcome();
}

/* Its answer is about nobody then. */
static void a_primary_may_go_away_while_the_arbiter_is_asked(void **state)
{
	lab_arbiter_waits();
	pri_hello();
	lab_await_question();
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: went away in the handshake");
	assert_int_equal(fake_vm.created, 0);
	assert_int_equal(lab.nwords, 0);
	lab_arbiter_answers(0);
	lab_settle();
	assert_state(LISTEN);
	check_welcome();
}

static void the_end_may_come_while_the_arbiter_is_asked(void **state)
{
	lab_arbiter_waits();
	pri_hello();
	lab_await_question();
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_true(end_is_dropped(&lab.main));
	lab_arbiter_answers(0);
	lab_settle();
	assert_int_equal(fake_vm.created, 0);
}

static void it_is_the_vm_that_is_waited_for(void **state)
{
	snprintf(lab.machine.name, sizeof(lab.machine.name), "other");
	check_refused("the primary's VM is 'other', this side waits for 'vm' (--name)");
}

static void disks_are_what_they_are_here(void **state)
{
	struct config_disk *mirror = &lab.cfg.disks[0], *shared = &lab.cfg.disks[1];
	struct mdev *md = &lab.machine.devs[LAB_MIRROR];

	/* Others than those that are meant do not matter. */
	shared->readonly = true;
	lab.machine.devs[LAB_SHARED].readonly = true;
	check_welcome();
	lab.machine.devs[LAB_SHARED].readonly = false;
	check_refused("disk 'd5' is read-only here, not at the peer");
	shared->readonly = false;
	mirror->readonly = true;
	check_refused("disk 'd0' is read-only here, not at the peer");
	mirror->readonly = false;
	mirror->ft = DISK_FT_SHARED;
	check_refused("disk 'd0' is ft=mirror at the primary, not here");
	mirror->ft = DISK_FT_NONE;
	check_refused("disk 'd0' is ft=mirror at the primary, not here");
	assert_int_equal(fake_vm.created, 1); /* nothing was tried */
	mirror->ft = DISK_FT_MIRROR;
	md->ft = DISK_FT_SHARED;
	check_refused("disk 'd0' is ft=shared at the primary, not here");
	md->ft = DISK_FT_MIRROR;
	/* A device of the same name that is no disk. */
	snprintf(shared->id, sizeof(shared->id), "d4");
	lab.machine.ndevs = LAB_SHARED;
	shared->readonly = true;
	check_welcome();
}

static void a_machine_that_cannot_be_built(void **state)
{
	lab.machine.mem_bytes = 2 * FAKE_MEM_MAX;
	check_refused("more memory than this host has");
	assert_int_equal(fake_vm.created, 0);
	lab.machine.mem_bytes = 2 << 20;
	fake_vm.has_network = false;
	check_refused("device 'd4': not given here");
	fake_vm.has_network = true;
	assert_int_equal(lab_image_byte(lab.image, 0), 0xee); /* not emptied for nothing */
	check_welcome();
}

static void what_fails_behind_the_vm_takes_it_down(void **state)
{
	lab.side_identity = -EIO;
	check_refused("disk 'd0': gone");
	assert_int_equal(fake_vm.created, 1);
	assert_int_equal(lab_image_byte(lab.image, 0), 0xee);
	lab.side_identity = 0;
	lab.stage_init = -ENOMEM;
	check_refused("staging: out of memory");
	assert_int_equal(fake_vm.created, 2);
	lab.stage_init = 0;
	check_welcome();
}

/* Every try again says the same. */
/* What is acknowledged must not fail for want of space. */
static void an_image_without_room(void **state)
{
	lab.fallocate_errno = ENOSPC;
	check_refused("disk 'd0': reserving 1M for the image: No space left on device");
	lab.fallocate_errno = EOPNOTSUPP; /* there is nothing to be done about it */
	check_welcome();
}

/* A dead link is noticed in time, by its heartbeats; main may stand as long as an epoch may take.
 */
static void sockets_have_timeouts(void **state)
{
	pri_join();
	assert_int_equal(lab.reply_ns, S);
	assert_int_equal(lab.options_set_on, lab.sec.main.fd);
	assert_int_equal(lab.options_ms, FT_MAIN_TIMEOUT_MS);
	lab.options_ms = 0;
	pri_heart();
	assert_int_equal(lab.options_set_on, lab.sec.heart.stream.fd);
	assert_int_equal(lab.options_ms, FT_HEART_TIMEOUT_MS);
}

static void the_same_refusal_is_logged_once(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		lab.hello.generation = 0;
		check_refused("hello with values out of range");
	}
	assert_int_equal(logged("warning: primary refused: hello with values out of range"), 1);
	lab.hello.generation = 1;
	lab.machine.mem_bytes = 2 * FAKE_MEM_MAX;
	check_refused("more memory than this host has");
	assert_int_equal(logged("warning: primary refused: more memory than this host has"), 1);
	lab.hello.generation = 0;
	check_refused("hello with values out of range");
	assert_int_equal(logged("warning: primary refused: hello with values out of range"), 2);
}

static void hang_up(void)
{
	end_close(&lab.main);
}

static void a_primary_may_go_away_while_it_is_welcomed(void **state)
{
	lab.while_building = hang_up;
	pri_hello();
	lab_until(fake_vm.destroyed);
	assert_state(LISTEN);
	assert_string_equal(lab.ft.note, "primary: went away in the handshake");
	assert_int_equal(lab.nwords, 0);
	lab.while_building = NULL;
	check_welcome();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_hello_builds_the_machine),
		TEST(a_used_image_is_kept),
		TEST(of_an_empty_image_nothing_is_compared),
		TEST(the_heartbeat_link_is_the_second),
		TEST(without_heartbeats_it_is_no_primary),
		TEST(nor_is_it_one_with_an_epoch),
		TEST(the_heartbeat_link_may_come_late),
		TEST(a_heartbeat_link_that_fails),
		TEST(values_have_limits),
		TEST(for_a_primary_that_does_not_compare_images_are_emptied),
		TEST(a_hello_may_be_short),
		TEST(a_disk_log_has_the_bound_of_this_side),
		TEST(memory_has_the_bound_of_this_side),
		TEST(an_image_has_the_bound_of_this_side),
		TEST(both_sides_have_one_arbiter_or_none),
		TEST(it_is_the_same_arbiter),
		TEST(the_arbiter_is_not_waited_for),
		TEST(an_arbiter_that_does_not_answer),
		TEST(a_primary_may_go_away_while_the_arbiter_is_asked),
		TEST(the_end_may_come_while_the_arbiter_is_asked),
		TEST(it_is_the_vm_that_is_waited_for),
		TEST(disks_are_what_they_are_here),
		TEST(a_machine_that_cannot_be_built),
		TEST(what_fails_behind_the_vm_takes_it_down),
		TEST(an_image_without_room),
		TEST(sockets_have_timeouts),
		TEST(the_same_refusal_is_logged_once),
		TEST(a_primary_may_go_away_while_it_is_welcomed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
