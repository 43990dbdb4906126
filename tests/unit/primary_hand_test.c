/* A hand-over, from the first word to the last, and what becomes of a host that fails. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* STEADY, and the guest has printed something that waits. */
static void be_steady_with_output(struct rig *r)
{
	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 100));
	assert_int_equal(fake_vm.printed, 0);
}

/* --- a hand-over ------------------------------------------------------------------------------ */

static void a_hand_over_in_order(void **state)
{
	struct rig *r = *state;
	char want[400];
	unsigned asked;

	rig_reach(r, PRI_STEADY);
	rig_print_much(r);
	rig_cause(r, PRI_EV_HAND_OVER);
	rig_cause(r, PRI_EV_ANSWERED);
	asked = r->mock.asked;
	assert_int_equal(r->ft.stands, FT_STAND_END);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 300);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HAND_OVER]));
	assert_int_not_equal(r->token, 0);
	assert_int_equal(r->token, r->pri.token);
	assert_int_not_equal(r->token, loop_now_ns() | 1); /* nobody guesses it */
	rig_cause(r, PRI_EV_RUNS);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_GONE]));
	assert_int_equal(r->pri.link->state, LINK_DOWN);
	rig_expect_left(r, "STOPPED", 3, "handed over");
	snprintf(want, sizeof(want), "info: handed over to %s", r->cfg.peers[0]);
	assert_int_equal(logged(want), 1);
	arbiter_was_asked(r, asked); /* nothing more: the record is the secondary's */
	assert_int_equal(r->ft.generation, RIG_GEN);
}

/* Then it waits for the arbiter, and cannot send heartbeats: only an end is a loss. */
static void a_secondary_has_time_to_claim(void **state)
{
	struct rig *r = *state;

	r->cfg.heartbeat_ns = 30 * MS;
	r->cfg.peer_timeout_ns = 100 * MS;
	rig_reach(r, PRI_HANDED);
	time_pass(&r->loop, 4999 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_HANDED);
	time_pass(&r->loop, 1 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_CLAIM_HANDED);
	assert_non_null(strstr(r->pri.lost_why, "failover: it did not claim"));
}

static void a_long_timeout_stays(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HANDED);
	assert_int_equal(r->pri.link->heart.timeout_ns, 60 * S);
}

/* HANDED, and lost: the arbiter answers the claim with what the other side has written. */
static void lose_after_hand_over(struct rig *r, int code, struct arbiter_record *rec)
{
	rig_reach(r, PRI_CLAIM_HANDED);
	peer_reads(r);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 1);
	rec->token ^= r->pri.token;
	arbiter_says(r, code, rec);
}

static void back_from_a_secondary_that_had_claimed(void **state)
{
	struct arbiter_record rec = {.generation = RIG_GEN + 1, .holder = "you"};
	struct rig *r = *state;
	unsigned asked;

	lose_after_hand_over(r, -ESTALE, &rec);
	asked = r->mock.answered;
	loop_until(&r->loop, r->mock.asked == asked + 1);
	rig_expect(r, PRI_CLAIM_HANDED, "PROTECTED", false, 'h');
	assert_int_equal(r->mock.question.what, ARBITER_CLAIM);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 2);
	assert_int_equal(r->ft.generation, RIG_GEN + 1);
	assert_int_equal(r->pri.token, 0);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(r->ft.generation, RIG_GEN + 2);
	assert_int_equal(r->pri.token, 0);
	assert_int_equal(r->ft.stands, 0);
	assert_int_equal(logged("warning: failover: the secondary is lost; the VM goes on here"),
			 1);
}

static void a_secondary_that_confirmed_first(void **state)
{
	struct arbiter_record rec = {.generation = RIG_GEN + 1, .holder = "you"};
	struct rig *r = *state;
	unsigned asked;

	lose_after_hand_over(r, -ESTALE, &rec);
	asked = r->mock.answered;
	loop_until(&r->loop, r->mock.asked == asked + 1);
	/* Once is enough: the same again is no claim of the hand-over's any more. */
	rec.generation++;
	arbiter_says(r, -ESTALE, &rec);
	rig_until(r, PRI_LEFT);
	rig_expect_left(r, "STOPPED", 3, "handed over");
	assert_true(r->vm.obuf.closed);
}

/* No claim of that hand-over's, or not to be claimed against. */
static void claims_that_are_not_the_secondarys(void **state)
{
	static const struct {
		int code;
		struct arbiter_record rec;
	} list[] = {
		{-ESTALE, {.generation = RIG_GEN + 1, .token = 2}},
		{-ESTALE, {.generation = RIG_GEN + 2}},
		{-ESTALE, {.generation = RIG_GEN}},
		{-ESTALE, {.generation = RIG_GEN + 1, .end = ARBITER_STOPPED}},
		{-ESTALE, {.generation = RIG_GEN + 1, .end = ARBITER_RELEASED}},
		{-ECANCELED, {.generation = RIG_GEN + 1}},
	};

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		struct arbiter_record rec = list[i].rec;
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		lose_after_hand_over(r, list[i].code, &rec);
		rig_until(r, PRI_LEFT);
		rig_expect_left(r, "STOPPED", 3, "handed over");
		assert_int_equal(r->ft.generation, RIG_GEN);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* A record without a token is not that of a hand-over that was never said. */
static void no_hand_over_no_token(void **state)
{
	struct arbiter_record rec = {.generation = RIG_GEN + 1, .holder = "you"};
	struct rig *r = *state;

	rig_reach(r, PRI_CLAIM);
	arbiter_says(r, -ESTALE, &rec);
	rig_until(r, PRI_LEFT);
	rig_expect_left(r, "FENCED", 5, "the other side runs the VM");
}

/* It was for that hand-over, and is another one the next time. */
static void a_token_is_used_once(void **state)
{
	struct rig *r = *state;
	uint64_t token;

	rig_reach(r, PRI_CLAIM_HANDED);
	token = r->pri.token;
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(r->pri.token, 0);
	rig_sync_again(r);
	rig_cause(r, PRI_EV_ACK);
	rig_cause(r, PRI_EV_HAND_OVER);
	rig_cause(r, PRI_EV_ANSWERED);
	rig_cause(r, PRI_EV_ACK);
	assert_int_not_equal(r->pri.token, 0);
	assert_int_not_equal(r->pri.token, token);
}

static void the_vm_goes_on_when_a_hand_over_fails(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HAND);
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(r->ft.stands, 0);
	assert_int_equal(logged("warning: failover: the secondary is lost; the VM goes on here"),
			 1);
}

static void a_stop_in_a_hand_over(void **state)
{
	static const struct {
		uint8_t in;
		const char *says;
	} list[] = {
		{PRI_HAND_DUE, "warning: failover: not any more, the VM is being stopped"},
		{PRI_HAND, "warning: failover: not any more, the VM is being stopped"},
		{PRI_HANDED, "warning: failover: the secondary is about to run the VM"},
	};

	for (unsigned i = 0; i < 3; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, list[i].in);
		rig_cause(r, PRI_EV_STOP);
		assert_int_equal(logged(list[i].says), 1);
		assert_int_equal(logged("warning: "), 1);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* The VM came back, and is stopped with the code of the stop. */
static void a_stop_after_hand_over_counts_here(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HANDED);
	primary_end(&r->pri, 8);
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_RECORD, "DEGRADED", false, 'f');
	rig_cause(r, PRI_EV_RECORDED);
	rig_expect_left(r, "STOPPED", 8, "");
}

/* --- a host that fails ------------------------------------------------------------------------ */

/* What the secondary is to take over ends without a goodbye, and without a claim. */
static void a_host_that_fails(void **state)
{
	struct rig *r = *state;

	be_steady_with_output(r);
	r->vm.ending.end = VM_END_HOST;
	assert_true(primary_host_failed(&r->pri));
	assert_int_equal(r->pri.fsm.state, PRI_LEFT);
	assert_int_equal(r->exits, 1);
	assert_int_equal(r->code, 2);
	assert_string_equal(r->ft.note, "this host cannot run the guest any more");
	assert_int_equal(logged("error: this host cannot run the guest any more: "), 1);
	assert_int_equal(r->pri.link->state, LINK_DOWN);
	assert_int_equal(r->mock.asked, 0);
	peer_reads(r);
	assert_true(r->main.eof);
	assert_int_equal(r->came[FRAME_BYE] + r->came[FRAME_HAND_OVER], 0);
	assert_int_equal(fake_vm.printed, 0);
	assert_false(primary_host_failed(&r->pri)); /* once is enough */
}

static void a_host_that_fails_without_a_secondary_in_step(void **state)
{
	static const uint8_t in[] = {PRI_IDLE,	PRI_SYNCING, PRI_BYE, PRI_HANDED,
				     PRI_CLAIM, PRI_REST,    PRI_LEFT};
	struct primary none = {0};

	assert_false(primary_host_failed(&none));
	for (unsigned i = 0; i < sizeof(in); i++) {
		struct rig *r;
		unsigned exits;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, in[i]);
		exits = r->exits;
		assert_false(primary_host_failed(&r->pri));
		assert_int_equal(r->pri.fsm.state, in[i]);
		assert_int_equal(r->exits, exits);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* The CPUs do not stop, as they have failed: no claim, the secondary has all that left. */
static void a_seal_on_a_host_that_fails(void **state)
{
	struct rig *r = *state;

	be_steady_with_output(r);
	r->vm.ending.end = VM_END_HOST;
	fake_vm.pause_error = -EIO;
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_LEFT);
	assert_int_equal(r->code, 2);
	assert_int_equal(r->mock.asked, 0);
	assert_int_equal(fake_vm.printed, 0);
}

/* Never acknowledged: there is nobody who could take over. */
static void a_first_seal_on_a_host_that_fails(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SYNCING);
	r->vm.ending.end = VM_END_HOST;
	fake_vm.save_error = -EIO;
	rig_cause(r, PRI_EV_SYNCED);
	rig_until(r, PRI_CLAIM);
	assert_int_equal(r->exits, 0);
}

static bool end_is_told(const struct rig *r)
{
	uint64_t n;

	return read(r->vm.watch.fd, &n, sizeof(n)) == sizeof(n);
}

/* What the guest's end could not be answered with before: it is told again. */
static void an_end_is_told_when_the_vm_goes_on(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_CLAIM);
	assert_false(end_is_told(r));
	rig_cause(r, PRI_EV_WON);
	assert_true(end_is_told(r));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(a_hand_over_in_order),
		RIG_TEST(a_secondary_has_time_to_claim),
		RIG_TEST(a_long_timeout_stays),
		RIG_TEST(back_from_a_secondary_that_had_claimed),
		RIG_TEST(a_secondary_that_confirmed_first),
		cmocka_unit_test(claims_that_are_not_the_secondarys),
		RIG_TEST(no_hand_over_no_token),
		RIG_TEST(a_token_is_used_once),
		RIG_TEST(the_vm_goes_on_when_a_hand_over_fails),
		cmocka_unit_test(a_stop_in_a_hand_over),
		RIG_TEST(a_stop_after_hand_over_counts_here),
		RIG_TEST(a_host_that_fails),
		cmocka_unit_test(a_host_that_fails_without_a_secondary_in_step),
		RIG_TEST(a_seal_on_a_host_that_fails),
		RIG_TEST(a_first_seal_on_a_host_that_fails),
		RIG_TEST(an_end_is_told_when_the_vm_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
