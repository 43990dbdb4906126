/* A primary whose guest runs at the secondary, too: what leaves by comparison, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

static char text[64];

/* Both guests print so many bytes, this one now and the twin when it says so. */
static void prints(struct rig *r, unsigned n)
{
	struct iovec iov = {text, n};

	assert_int_equal(obuf_put(&r->vm.obuf, fake_vm.sink, &iov, 1), 0);
}

static void twin_prints(struct rig *r, uint64_t epoch, unsigned n)
{
	struct {
		struct wire_output w;
		char text[sizeof(text)];
	} out = {.w.sink = (uint32_t)fake_vm.sink};

	memcpy(out.text, text, n);
	peer_mirrors(r, FRAME_OUTPUT, epoch, &out, sizeof(out.w) + n);
}

static void settle(struct rig *r)
{
	for (unsigned i = 0; i < 20; i++) {
		loop_run_once(&r->loop, 1000000);
		time_due();
	}
}

/* STEADY, a mirror, and nothing sealed since. */
static void meet(struct rig *r)
{
	r->cfg.ft = FT_MODE_COLO;
	rig_reach(r, PRI_STEADY);
	loop_until(&r->loop, lockstep_is_up(&r->pri.mirroring.lockstep));
	peer_takes_mirror(r, 0);
}

/* An epoch with a twin behind it is in flight. */
static uint64_t seal(struct rig *r)
{
	rig_cause(r, PRI_EV_TIMER);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	assert_int_equal(r->end.runs, 1);
	return r->ended;
}

static void what_both_say_leaves(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	n = seal(r);
	prints(r, 3);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	twin_prints(r, n, 3); /* of the epoch before */
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	twin_prints(r, n + 1, 3);
	settle(r);
	assert_int_equal(fake_vm.printed, 3);
}

/* On another connection its word may come first: what is held of the epoch before leaves before. */
static void not_before_what_the_ack_lets_go(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	prints(r, 10);
	n = seal(r);
	prints(r, 3);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	twin_prints(r, n + 1, 3);
	settle(r);
	assert_int_equal(lockstep_compares(&r->pri.mirroring.lockstep), 1);
	assert_int_equal(fake_vm.printed, 0);
	prints(r, 4); /* nor is this ahead of it */
	twin_prints(r, n + 1, 4);
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 17);
	assert_int_equal(r->vm.obuf.held, 0);
}

/* While a hand-over is asked for, too: who waits outside does not wait for the arbiter. */
static void a_difference_asks_for_a_seal(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	n = seal(r);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	rig_cause(r, PRI_EV_HAND_OVER);
	assert_int_equal(r->pri.fsm.state, PRI_ASKED);
	assert_true(time_left(&r->pri.timer_op) > 0);
	prints(r, 3);
	text[0] ^= 1;
	twin_prints(r, n + 1, 3);
	text[0] ^= 1;
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(time_left(&r->pri.timer_op), 0);
	assert_int_equal(fake_vm.printed, 0);
}

/* A secondary that cannot run one hangs up, whenever it is asked. */
static void the_same_trouble_is_told_once(void **state)
{
	struct rig *r = *state;

	meet(r);
	for (unsigned i = 0; i < 3; i++) {
		stream_done(&r->mirror);
		loop_until(&r->loop, !lockstep_is_up(&r->pri.mirroring.lockstep));
		time_pass(&r->loop, time_left(&r->pri.mirroring.timer_op));
		loop_until(&r->loop, lockstep_is_up(&r->pri.mirroring.lockstep));
		peer_takes_mirror(r, 0);
	}
	assert_int_equal(logged("warning: twin: connection closed"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(what_both_say_leaves),
		RIG_TEST(not_before_what_the_ack_lets_go),
		RIG_TEST(a_difference_asks_for_a_seal),
		RIG_TEST(the_same_trouble_is_told_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
