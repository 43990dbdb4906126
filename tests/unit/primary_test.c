/* What others may ask of a primary, state by state: pause, hand-over, stop, may the guest end? */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* --- each state ------------------------------------------------------------------------------- */

#define NONE	 "there is no secondary in step"
#define STOPPING "the VM is being stopped"
#define HANDING	 "the VM is being handed over"
#define MOVING	 "a secondary is just taking another one's place"

/*
 * Letters: d, output that was released before waits; s, it does when this side was away; g, this
 * side goes on; e, the guest's end may be answered; p, it can be paused. And why there is no
 * hand-over, NULL: there is.
 */
static const struct {
	uint8_t state;
	const char *letters, *no_hand_over;
} meaning[] = {
	{PRI_IDLE, "--gep", NONE},
	{PRI_OFF, "--gep", "ft=off"},
	{PRI_CONNECTING, "--gep", NONE},
	{PRI_HELLO, "--gep", NONE},
	{PRI_HEART, "--gep", NONE},
	{PRI_SYNCING, "--gep", NONE},
	{PRI_STEADY, "-sgep", NULL},
	{PRI_FLIGHT, "-sgep", NULL},
	{PRI_OFF_DUE, "-sgep", "ft=off"},
	{PRI_OFF_LAST, "-sgep", "ft=off"},
	{PRI_DISMISS, "-sgep", "ft=off"},
	{PRI_MOVE_DUE, "-sgep", MOVING},
	{PRI_MOVE, "-sgep", MOVING},
	{PRI_MOVE_OLD, "-sgep", MOVING},
	{PRI_MOVE_NEW, "-sgep", MOVING},
	{PRI_SWAP, "-sgep", MOVING},
	{PRI_KEEP_FLIGHT, "-sgep", MOVING},
	{PRI_KEEP, "-sgep", MOVING},
	{PRI_ASKED, "-sge-", HANDING},
	{PRI_ASKED_FLIGHT, "-sge-", HANDING},
	{PRI_STOP_DUE, "-s-ep", STOPPING},
	{PRI_STOP, "-s-ep", STOPPING},
	{PRI_BYE, "---ep", STOPPING},
	{PRI_DISMISS_STOP, "-s-ep", STOPPING},
	{PRI_HAND_DUE, "-s---", HANDING},
	{PRI_HAND, "-s---", HANDING},
	{PRI_HANDED, "-----", HANDING},
	{PRI_HANDED_STOP, "-----", HANDING},
	{PRI_CLAIM, "ds--p", NONE},
	{PRI_UNANSWERED, "ds--p", NONE},
	{PRI_CLAIM_STOP, "ds-ep", STOPPING},
	{PRI_CLAIM_HANDED, "ds---", HANDING},
	{PRI_HANDED_UNANSWERED, "ds---", HANDING},
	{PRI_CLAIM_HANDED_STOP, "ds---", HANDING},
	{PRI_REST, "---ep", STOPPING},
	{PRI_RECORD, "---ep", STOPPING},
	{PRI_UNSURE, "---ep", STOPPING},
	{PRI_LEFT, "---ep", STOPPING},
};

#define MEANINGS (sizeof(meaning) / sizeof(meaning[0]))

static bool doubts(struct rig *r)
{
	assert_non_null(r->vm.doubts);
	return r->vm.doubts(r->vm.doubts_arg);
}

static void look(struct rig *r, const char *letters)
{
	struct err e = {0};
	bool can_pause = letters[4] == 'p';

	assert_int_equal(primary_goes_on(&r->pri), letters[2] == 'g');
	assert_int_equal(primary_may_end(&r->pri), letters[3] == 'e');
	assert_int_equal(doubts(r), letters[0] == 'd');
	assert_int_equal(primary_pause(&r->pri, true, &e), can_pause ? 0 : -EBUSY);
	if (!can_pause)
		assert_string_equal(e.msg, "pause: the VM is being handed over");
	assert_int_equal(!!(r->ft.stands & FT_STAND_USER), can_pause);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	time_jump(50 * S);
	assert_int_equal(doubts(r), letters[1] == 's');
}

static void each_state_means(void **state)
{
	assert_int_equal(MEANINGS, PRI_STATE_MAX);
	for (unsigned i = 0; i < MEANINGS; i++) {
		print_message("%s\n", primary_desc.states[meaning[i].state]);
		assert_int_equal(rig_setup(state), 0);
		rig_reach(*state, meaning[i].state);
		look(*state, meaning[i].letters);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void hand_over_by_state(void **state)
{
	for (unsigned i = 0; i < MEANINGS; i++) {
		const char *why = meaning[i].no_hand_over;
		struct err e = {0};
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, meaning[i].state);
		if (why) {
			assert_int_equal(primary_hand_over(&r->pri, rig_handing, r, &e), -EBUSY);
			assert_non_null(strstr(e.msg, why));
			assert_memory_equal(e.msg, "failover: ", 10);
			assert_int_equal(r->pri.fsm.state, meaning[i].state);
		}
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- hand-over -------------------------------------------------------------------------------- */

static void no_hand_over_of_what_was_never_protected(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_SYNCING);
	rig_cause(r, PRI_EV_SYNCED);
	rig_expect(r, PRI_FLIGHT, "SYNCING", true, 'h');
	assert_int_equal(primary_hand_over(&r->pri, rig_handing, r, &e), -EBUSY);
	assert_string_equal(e.msg, "failover: the VM is SYNCING: there is no secondary in step; "
				   "run one at an address of --peer, or name another: ftvmm set "
				   "vm peer=URI");
	rig_expect(r, PRI_FLIGHT, "SYNCING", true, 'h');
}

static void no_hand_over_of_a_paused_vm(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_STEADY);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	assert_int_equal(primary_hand_over(&r->pri, rig_handing, r, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "the VM is paused"));
	rig_expect(r, PRI_STEADY, "PAUSED", false, 'h');
}

static void no_hand_over_without_an_arbiter(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_ASKED);
	assert_int_equal(r->mock.question.what, ARBITER_READ);
	assert_int_equal(r->told, 0);
	rig_cause(r, PRI_EV_NO_ANSWER);
	assert_int_equal(r->told, 1);
	assert_int_equal(r->told_code, -EIO);
	assert_string_equal(r->told_why, "failover: mock: Input/output error");
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	assert_int_equal(logged("handing over"), 0);
	/* It may be asked again. */
	rig_cause(r, PRI_EV_HAND_OVER);
	rig_cause(r, PRI_EV_ANSWERED);
	rig_expect(r, PRI_HAND, "PROTECTED", false, 'h');
	assert_int_equal(r->told, 2);
	assert_int_equal(r->told_code, 0);
}

static void the_vm_goes_on_while_the_arbiter_is_asked(void **state)
{
	struct rig *r = *state;
	uint64_t epoch;

	rig_reach(r, PRI_ASKED);
	epoch = r->pri.engine.epoch;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(rig_print(r, 5));
		rig_cause(r, PRI_EV_TIMER);
		rig_cause(r, PRI_EV_ACK);
		rig_expect(r, PRI_ASKED, "PROTECTED", true, 'h');
	}
	assert_int_equal(r->pri.engine.epoch, epoch + 3);
	assert_int_equal(fake_vm.printed, 15);
	assert_int_equal(r->told + r->came[FRAME_HAND_OVER], 0);
	rig_cause(r, PRI_EV_ANSWERED);
	rig_expect(r, PRI_HAND, "PROTECTED", false, 'h');
	assert_int_equal(r->told, 1);
	assert_int_equal(r->told_code, 0);
}

static void an_arbiter_that_is_silent(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_ASKED_FLIGHT);
	time_pass(&r->loop, ARBITER_DEADLINE_MS * MS - 1);
	rig_expect(r, PRI_ASKED_FLIGHT, "PROTECTED", true, 'h');
	time_pass(&r->loop, 1);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(r->told, 1);
	assert_int_equal(r->told_code, -ETIMEDOUT);
	assert_non_null(strstr(r->told_why, "failover: arbiter 'mock' did not answer"));
}

/* What comes first wins, is asked of the arbiter next, and whoever waits is told. */
static void what_comes_before_the_arbiters_answer(void **state)
{
	static const struct {
		uint8_t from, by, to;
		const char *why;
	} list[] = {
		{PRI_ASKED, PRI_EV_LOST, PRI_CLAIM, "failover: the secondary was lost"},
		{PRI_ASKED_FLIGHT, PRI_EV_LOST, PRI_CLAIM, "failover: the secondary was lost"},
		{PRI_ASKED, PRI_EV_STOP, PRI_STOP, STOPPING},
		{PRI_ASKED_FLIGHT, PRI_EV_STOP, PRI_STOP_DUE, STOPPING},
		{PRI_ASKED, PRI_EV_HOST_FAILED, PRI_LEFT, "this host cannot run the guest"},
		{PRI_ASKED_FLIGHT, PRI_EV_HOST_FAILED, PRI_LEFT, "this host cannot run the guest"},
	};

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, list[i].from);
		rig_cause(r, list[i].by);
		rig_until(r, list[i].to);
		assert_int_equal(r->told, 1);
		assert_int_equal(r->told_code, -EBUSY);
		assert_non_null(strstr(r->told_why, list[i].why));
		/* The late answer is nobody's. */
		arbiter_says(r, 0, NULL);
		loop_turns(&r->loop);
		if (list[i].to == PRI_CLAIM) {
			arbiter_was_asked(r, r->mock.answered + 1);
			assert_int_equal(r->mock.question.what, ARBITER_CLAIM);
			rig_cause(r, PRI_EV_WON);
			rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
		}
		assert_int_equal(r->told, 1);
		assert_int_equal(r->came[FRAME_HAND_OVER], 0);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void nobody_is_told_after_the_end(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_ASKED);
	primary_stop(&r->pri);
	arbiter_says(r, 0, NULL);
	loop_turns(&r->loop);
	assert_int_equal(r->told, 0);
}

static void a_hand_over_is_logged(void **state)
{
	struct rig *r = *state;
	char want[400];

	rig_reach(r, PRI_HAND);
	snprintf(want, sizeof(want), "info: failover: handing over to %s", r->cfg.peers[0]);
	assert_int_equal(logged(want), 1);
	assert_int_equal(r->mock.question.what, ARBITER_READ);
}

/* --- pause ------------------------------------------------------------------------------------ */

static void a_paused_vm_is_sealed_and_stays_paused(void **state)
{
	struct rig *r = *state;
	uint64_t epoch;

	rig_reach(r, PRI_STEADY);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	rig_expect(r, PRI_STEADY, "PAUSED", false, 'h');
	epoch = r->pri.engine.epoch;
	rig_cause(r, PRI_EV_TIMER);
	rig_expect(r, PRI_FLIGHT, "PAUSED", false, 'h');
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_STEADY, "PAUSED", false, 'h');
	assert_int_equal(r->pri.engine.epoch, epoch + 1);
}

static void what_a_resume_lets_out_is_sealed_at_once(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	assert_int_equal(time_left(&r->pri.timer_op), EPOCH_NS);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	assert_int_equal(time_left(&r->pri.timer_op), 0);
	rig_cause(r, PRI_EV_TIMER);
	/* In flight the timer is another one. */
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(time_left(&r->pri.timer_op), 30 * S);
}

/* Each reason ends by itself. */
static void paused_by_a_user_and_for_a_claim(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_CLAIM);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	rig_expect(r, PRI_CLAIM, "PAUSED", false, 'h');
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "PAUSED", false, 'f');
	assert_int_equal(r->ft.stands, FT_STAND_USER);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
}

static void a_pause_that_fails(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_STEADY);
	fake_vm.pause_error = -ETIMEDOUT;
	assert_int_equal(primary_pause(&r->pri, true, &e), -ETIMEDOUT);
	assert_true(e.msg[0]);
	fake_vm.pause_error = 0;
	assert_int_equal(r->ft.stands, 0);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
}

/* --- stop ------------------------------------------------------------------------------------- */

static void the_first_stop_names_the_code(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	primary_end(&r->pri, 4);
	primary_end(&r->pri, 9);
	rig_cause(r, PRI_EV_ACK);
	rig_cause(r, PRI_EV_DONE);
	rig_cause(r, PRI_EV_RECORDED);
	assert_int_equal(r->exits, 1);
	assert_int_equal(r->code, 4);
}

/* The links are closed, nothing is called any more, and nobody doubts. */
static void stopped_in(struct rig *r, enum primary_state s)
{
	struct ft before;

	rig_reach(r, s);
	before = r->ft;
	primary_stop(&r->pri);
	assert_null(r->vm.doubts);
	assert_null(r->pri.ft);
	if (r->mock.asked > r->mock.answered)
		arbiter_says(r, 0, NULL);
	time_pass(&r->loop, 60 * S);
	assert_string_equal(ft_word(&r->ft), ft_word(&before));
	assert_int_equal(r->exits, s == PRI_LEFT);
	primary_stop(&r->pri);
	/* The secondary sees the end of the links. */
	while (r->main.fd >= 0 && !r->main.eof) {
		peer_reads(r);
		poll(NULL, 0, 0);
	}
}

static void primary_stop_in_each_state(void **state)
{
	for (unsigned s = 0; s < PRI_STATE_MAX; s++) {
		print_message("%s\n", primary_desc.states[s]);
		assert_int_equal(rig_setup(state), 0);
		stopped_in(*state, s);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- start ------------------------------------------------------------------------------------ */

static void no_peer_to_look_for(void **state)
{
	struct rig *r = *state;

	r->cfg.npeers = 0;
	rig_start(r);
	time_pass(&r->loop, 10 * S);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(time_left(&r->pri.timer_op), -1);
}

static void a_start_without_descriptors(void **state)
{
	struct rig *r = *state;
	struct rlimit old, none;
	struct err e = {0};

	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = (struct rlimit){0, old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(primary_start(&r->pri, &r->ft, &r->vm, &e), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(strncmp(e.msg, "eventfd", 7), 0);
	assert_null(r->vm.doubts);
}

static void a_start_in_a_full_loop(void **state)
{
	static struct loop_op ops[LOOP_MAX_OPS];
	struct rig *r = *state;
	struct err e = {0};
	unsigned n = 0;
	int fds[2];

	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	assert_int_equal(pipe(fds), 0);
	while (n < LOOP_MAX_OPS && !loop_poll_add(&r->loop, &ops[n], fds[0], POLLIN))
		n++;
	assert_int_equal(primary_start(&r->pri, &r->ft, &r->vm, &e), -ENOSPC);
	assert_string_equal(e.msg, "event loop is full");
	while (n)
		loop_poll_del(&r->loop, &ops[--n]);
	loop_turns(&r->loop);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_state_means),
		cmocka_unit_test(hand_over_by_state),
		RIG_TEST(no_hand_over_of_what_was_never_protected),
		RIG_TEST(no_hand_over_of_a_paused_vm),
		RIG_TEST(no_hand_over_without_an_arbiter),
		RIG_TEST(the_vm_goes_on_while_the_arbiter_is_asked),
		RIG_TEST(an_arbiter_that_is_silent),
		cmocka_unit_test(what_comes_before_the_arbiters_answer),
		RIG_TEST(nobody_is_told_after_the_end),
		RIG_TEST(a_hand_over_is_logged),
		RIG_TEST(a_paused_vm_is_sealed_and_stays_paused),
		RIG_TEST(what_a_resume_lets_out_is_sealed_at_once),
		RIG_TEST(paused_by_a_user_and_for_a_claim),
		RIG_TEST(a_pause_that_fails),
		RIG_TEST(the_first_stop_names_the_code),
		cmocka_unit_test(primary_stop_in_each_state),
		RIG_TEST(no_peer_to_look_for),
		RIG_TEST(a_start_without_descriptors),
		RIG_TEST(a_start_in_a_full_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
