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

/* --- what for --------------------------------------------------------------------------------- */

/* The last epoch is acknowledged; so many were for this, of all so far. */
static void expect_seals(struct rig *r, enum ft_seal why, unsigned n)
{
	loop_until(&r->loop, r->pri.fsm.state != PRI_STEADY);
	assert_int_equal(r->ft.stats.seals[why], n);
	arrive(r);
	rig_cause(r, PRI_EV_ACK);
}

static bool swallow(void *arg, const void *data, uint32_t len)
{
	return true;
}

static void what_waits_first_is_the_reason(void **state)
{
	static const enum ft_seal why[OBUF_KINDS] = {
		[OBUF_NET] = FT_SEAL_NET,	  [OBUF_DISK] = FT_SEAL_DISK,
		[OBUF_CONSOLE] = FT_SEAL_CONSOLE, [OBUF_VSOCK] = FT_SEAL_VSOCK,
		[OBUF_EVENT] = FT_SEAL_EVENT,
	};
	static const enum ft_mode modes[] = {FT_MODE_KEMARI, FT_MODE_AUTO};
	struct rig *r = *state;
	struct iovec iov = {(char[]){"x"}, 1};
	int sinks[OBUF_KINDS];

	rig_reach(r, PRI_STEADY);
	for (enum obuf_kind k = 0; k < OBUF_KINDS; k++)
		sinks[k] = obuf_add_sink(&r->vm.obuf, k, swallow, NULL, NULL);
	for (unsigned i = 0; i < 2; i++) {
		mode(r, modes[i]);
		for (enum obuf_kind k = 0; k < OBUF_KINDS; k++) {
			assert_int_equal(obuf_put(&r->vm.obuf, sinks[k], &iov, 1), 0);
			assert_int_equal(
				obuf_put(&r->vm.obuf, sinks[(k + 1) % OBUF_KINDS], &iov, 1), 0);
			expect_seals(r, why[k], i + 1);
		}
	}
	assert_int_equal(r->ft.stats.seals[FT_SEAL_FIRST], 1);
	assert_int_equal(r->ft.stats.epochs, 1 + 2 * OBUF_KINDS);
}

/* With mc nobody's output has an epoch sealed, and a stop or a user's word is told from that. */
static void what_else_is_the_reason(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 1));
	time_pass(&r->loop, EPOCH_NS);
	expect_seals(r, FT_SEAL_INTERVAL, 1);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	expect_seals(r, FT_SEAL_USER, 1);
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_STOP); /* the one in flight, and one more */
	arrive(r);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_INTERVAL], 2);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_LAST], 1);
	assert_int_equal(r->ft.stats.epochs, 5);
}

/* --- what else may have the dirty log ----------------------------------------------------------
 */

/* The peer has its images marked as half by then, and would keep that word for nothing. */
static void no_snapshot_while_a_peer_joins(void **state)
{
	for (unsigned s = 0; s < PRI_LEFT; s++) {
		bool joining = s == PRI_HELLO || s == PRI_HEART;
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, s);
		print_message("%s\n", primary_desc.states[s]);
		assert_int_equal(primary_may_snapshot(&r->pri, NULL), joining ? -EBUSY : 0);
		assert_int_equal(rig_teardown(state), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(kemari_seals_when_output_waits),
		RIG_TEST(the_mode_is_set_while_it_runs),
		RIG_TEST(what_waits_first_is_the_reason),
		RIG_TEST(what_else_is_the_reason),
		cmocka_unit_test(no_snapshot_while_a_peer_joins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
