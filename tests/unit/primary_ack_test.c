/* Which ack, and which last word of a peer, a primary acts on. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <sys/socket.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* --- acks ------------------------------------------------------------------------------------- */

/* FLIGHT, with output that waits for the ack of an epoch that the peer has. */
static uint64_t fly(struct rig *r)
{
	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 100));
	rig_cause(r, PRI_EV_TIMER);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	loop_turns(&r->loop); /* it sees what comes from here on in the order in which it comes */
	return r->ended;
}

/* The heartbeat link ends, and the loop is about to hear of it before anything else. */
static void end_heartbeats(struct rig *r)
{
	struct pollfd p = {.fd = r->pri.link->heart.tell_fd, .events = POLLIN};

	loop_turns(&r->loop);
	stream_done(&r->heart);
	assert_int_equal(poll(&p, 1, 20000), 1);
}

static void expect_dropped(struct rig *r, const char *why)
{
	rig_until(r, PRI_CLAIM);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_string_equal(r->pri.lost_why, rig_peer(r, 0, why));
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_CLAIM_LOST);
	assert_int_equal(fake_vm.printed, 0);
}

static void acks_of_other_epochs(void **state)
{
	for (int n = 0; n < 4; n++) {
		struct rig *r;
		uint64_t epoch;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		epoch = fly(r);
		peer_says(r, FRAME_ACK,
			  n == 0   ? 0
			  : n == 1 ? epoch - 1
			  : n == 2 ? epoch + 1
				   : ~0ull);
		expect_dropped(r, "message out of order");
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* Before the end of the epoch has gone out nobody can hold it. */
static void an_early_ack(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 100));
	rig_scribble(r, 100, 200);
	rig_cause(r, PRI_EV_TIMER); /* more than a socket takes */
	peer_says(r, FRAME_ACK, r->pri.engine.in_flight);
	expect_dropped(r, "message out of order");
}

static void an_end_behind_an_ack(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly(r);

	peer_says(r, FRAME_ACK, epoch);
	stream_done(&r->main);
	expect_dropped(r, "connection closed");
}

static void a_message_behind_an_ack(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly(r);

	peer_says(r, FRAME_ACK, epoch);
	peer_says(r, FRAME_ACK, epoch);
	expect_dropped(r, "message out of order");
}

static void a_refusal_behind_an_ack(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly(r);

	peer_says(r, FRAME_ACK, epoch);
	peer_says_text(r, FRAME_REFUSE, "image failed", 12);
	expect_dropped(r, "refuses: image failed");
}

/* The end of the other link is seen first: the ack does not count, and is no fault. */
static void an_ack_behind_the_end_of_heartbeats(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly(r);

	end_heartbeats(r);
	peer_says(r, FRAME_ACK, epoch);
	expect_dropped(r, "heartbeat link closed");
}

static void an_ack_that_comes_too_late(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly(r);

	peer_says(r, FRAME_ACK, epoch);
	time_fire(&r->pri.timer_op);
	expect_dropped(r, "no acknowledgement in time");
}

static void a_frame_that_no_secondary_says(void **state)
{
	struct rig *r = *state;

	fly(r);
	peer_says(r, FRAME_BYE, 0);
	expect_dropped(r, "message out of order");
}

/* --- the last words --------------------------------------------------------------------------- */

static void an_end_behind_runs(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HANDED);
	peer_says(r, FRAME_RUNS, 0);
	stream_done(&r->main);
	rig_until(r, PRI_CLAIM_HANDED);
	rig_expect(r, PRI_CLAIM_HANDED, "PROTECTED", false, 'h');
	assert_int_equal(r->exits, 0);
}

static void a_message_behind_runs(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HANDED);
	peer_says(r, FRAME_RUNS, 0);
	peer_says(r, FRAME_RUNS, 0);
	rig_until(r, PRI_CLAIM_HANDED);
	assert_string_equal(r->pri.link->why, "message out of order");
}

/* Whoever is done may hang up. */
static void an_end_behind_done(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_BYE);
	peer_says(r, FRAME_DONE, 0);
	peer_hangs_up(r);
	rig_until(r, PRI_RECORD);
}

static void done_behind_the_end_of_heartbeats(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_BYE);
	end_heartbeats(r);
	peer_says(r, FRAME_DONE, 0);
	rig_until(r, PRI_RECORD);
}

static void done_at_the_last_moment(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_BYE);
	peer_says(r, FRAME_DONE, 0);
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_RECORD);
}

static void a_welcome_at_the_last_moment(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HELLO);
	peer_reads(r);
	peer_says(r, FRAME_WELCOME, 0);
	time_fire(&r->pri.timer_op);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(r->pri.link->dial.fd, -1);
	assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
}

/* --- this side was away ----------------------------------------------------------------------- */

#define LEASE (9 * S / 4 * 3)

/*
 * FLIGHT; this side comes back so long after the last heartbeat that was echoed that the peer may
 * have given it up. Since the link began one epoch has passed.
 */
static uint64_t fly_and_be_away(struct rig *r, uint64_t ns)
{
	uint64_t epoch;

	r->cfg.peer_timeout_ns = 9 * S;
	epoch = fly(r);
	time_jump(ns - EPOCH_NS);
	return epoch;
}

/* The heart wakes, beats, and hears an answer to that. */
static void trust_again(struct rig *r)
{
	unsigned n;

	peer_reads(r);
	n = r->came[FRAME_HEART];
	peer_beats(r, 0);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HEART] > n));
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, ft_word(&r->ft), true, 'h');
	peer_beats(r, r->beat.nonce);
}

static void an_ack_waits_for_trust(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly_and_be_away(r, LEASE + 1);

	peer_says(r, FRAME_ACK, epoch);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(fake_vm.printed, 0);
	trust_again(r);
	rig_until(r, PRI_STEADY);
	assert_int_equal(fake_vm.printed, 100);
}

static void an_ack_after_a_short_absence(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly_and_be_away(r, LEASE);

	peer_says(r, FRAME_ACK, epoch);
	loop_turns(&r->loop);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	assert_int_equal(fake_vm.printed, 100);
}

static void no_second_ack_while_one_waits(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly_and_be_away(r, LEASE + 1);

	peer_says(r, FRAME_ACK, epoch);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	peer_says(r, FRAME_ACK, epoch);
	expect_dropped(r, "message out of order");
}

static void an_ack_of_nothing_waits_and_is_no_ack(void **state)
{
	struct rig *r = *state;

	fly_and_be_away(r, LEASE + 1);
	peer_says(r, FRAME_ACK, 0);
	loop_turns(&r->loop);
	trust_again(r);
	expect_dropped(r, "message out of order");
}

/* It was for that link: on the next one trust brings nothing back. */
static void an_ack_that_waits_goes_with_its_link(void **state)
{
	struct rig *r = *state;
	uint64_t epoch = fly_and_be_away(r, LEASE + 1);

	peer_says(r, FRAME_ACK, epoch);
	loop_turns(&r->loop);
	peer_hangs_up(r);
	rig_until(r, PRI_CLAIM);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(fake_vm.printed, 100);
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_WELCOME);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_SYNCED);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	time_jump(LEASE + 1);
	assert_true(heart_suspect(&r->pri.link->heart));
	trust_again(r);
	loop_until(&r->loop, !r->pri.link->heart.doubted);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "SYNCING", true, 'h');
}

/* The end of main is in its socket when trust comes back: the peer may have taken over since. */
static void an_end_behind_an_ack_that_waits(struct rig *r, bool half_a_frame)
{
	uint64_t epoch = fly_and_be_away(r, LEASE + 1);

	peer_says(r, FRAME_ACK, epoch);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	if (half_a_frame)
		assert_int_equal(send(r->main.fd, "half", 4, MSG_NOSIGNAL), 4);
	stream_done(&r->main);
	r->pri.link->heart.trusted(r->pri.link->heart.arg);
	assert_int_equal(r->pri.fsm.state, PRI_CLAIM);
	assert_int_equal(fake_vm.printed, 0);
}

static void an_end_while_an_ack_waits(void **state)
{
	an_end_behind_an_ack_that_waits(*state, false);
}

static void half_a_frame_and_an_end_while_an_ack_waits(void **state)
{
	an_end_behind_an_ack_that_waits(*state, true);
}

/* Trust alone is no ack either. */
static void trust_without_an_ack(void **state)
{
	struct rig *r = *state;

	fly_and_be_away(r, LEASE + 1);
	assert_true(heart_suspect(&r->pri.link->heart));
	trust_again(r);
	loop_until(&r->loop, !r->pri.link->heart.doubted);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(fake_vm.printed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(acks_of_other_epochs),
		RIG_TEST(an_early_ack),
		RIG_TEST(an_end_behind_an_ack),
		RIG_TEST(a_message_behind_an_ack),
		RIG_TEST(a_refusal_behind_an_ack),
		RIG_TEST(an_ack_behind_the_end_of_heartbeats),
		RIG_TEST(an_ack_that_comes_too_late),
		RIG_TEST(a_frame_that_no_secondary_says),
		RIG_TEST(an_end_behind_runs),
		RIG_TEST(a_message_behind_runs),
		RIG_TEST(an_end_behind_done),
		RIG_TEST(done_behind_the_end_of_heartbeats),
		RIG_TEST(done_at_the_last_moment),
		RIG_TEST(a_welcome_at_the_last_moment),
		RIG_TEST(an_ack_waits_for_trust),
		RIG_TEST(an_ack_after_a_short_absence),
		RIG_TEST(no_second_ack_while_one_waits),
		RIG_TEST(an_ack_of_nothing_waits_and_is_no_ack),
		RIG_TEST(an_ack_that_waits_goes_with_its_link),
		RIG_TEST(an_end_while_an_ack_waits),
		RIG_TEST(half_a_frame_and_an_end_while_an_ack_waits),
		RIG_TEST(trust_without_an_ack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
