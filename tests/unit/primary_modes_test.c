/* What seals an epoch, by mode, at the primary as a whole; the figures: policy_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* The peer has all of the epoch in flight. */
static void arrive(struct rig *r)
{
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
}

static void mode(struct rig *r, enum ft_mode m)
{
	primary_set_mode(&r->pri, m);
}

/* A round trip and a pause after it was put out, not at the end of the interval. */
static void kemari_seals_when_output_waits(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	mode(r, FT_MODE_KEMARI);
	assert_int_equal(time_left(&r->pri.timer_op), EPOCH_NS);
	time_jump(MS);
	assert_true(rig_print(r, 1));
	loop_until(&r->loop, r->pri.fsm.state == PRI_FLIGHT);
	assert_true(rig_print(r, 10)); /* these two share the next epoch */
	assert_true(rig_print(r, 100));
	arrive(r);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 1);
	loop_until(&r->loop, r->pri.fsm.state == PRI_FLIGHT);
	arrive(r);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 111);
	assert_int_equal(r->pri.fsm.state, PRI_STEADY);
	assert_int_equal(time_left(&r->pri.timer_op), EPOCH_NS); /* the bound of an epoch */
}

/* Back to mc: what waits does so until the interval is over. */
static void the_mode_is_set_while_it_runs(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	mode(r, FT_MODE_AUTO);
	mode(r, FT_MODE_MC);
	assert_true(rig_print(r, 1));
	loop_turns(&r->loop);
	assert_int_equal(r->pri.fsm.state, PRI_STEADY);
	assert_int_equal(time_left(&r->pri.timer_op), EPOCH_NS);
	mode(r, FT_MODE_KEMARI);
	loop_until(&r->loop, r->pri.fsm.state == PRI_FLIGHT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(kemari_seals_when_output_waits),
		RIG_TEST(the_mode_is_set_while_it_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
