/* How a primary comes to its end, or not: claims, stops, hand-overs, and what the record says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libsteps.h"
#include "tests/unit/libtime.h"

/* STEADY, and the guest has printed something that waits. */
static void be_steady_with_output(struct rig *r)
{
	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 100));
	assert_int_equal(fake_vm.printed, 0);
}

/* --- claims ----------------------------------------------------------------------------------- */

static void a_claim_that_is_won(void **state)
{
	struct rig *r = *state;
	char why[480];

	be_steady_with_output(r);
	rig_cause(r, PRI_EV_LOST);
	arbiter_was_asked(r, 1);
	assert_int_equal(r->mock.question.what, ARBITER_CLAIM);
	assert_int_equal(r->mock.question.why, ARBITER_GO_ON);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 1);
	assert_int_equal(r->mock.question.record.side, RIG_SIDE);
	assert_int_equal(r->ft.stands, FT_STAND_CLAIM);
	assert_int_equal(fake_vm.printed, 0);
	snprintf(why, sizeof(why), "peer %s: connection closed", r->cfg.peers[0]);
	assert_string_equal(r->pri.lost_why, why);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 100);
	assert_int_equal(r->ft.generation, RIG_GEN + 1);
	assert_int_equal(r->ft.stands, 0);
	assert_string_equal(r->ft.note, why);
	assert_true(rig_print(r, 10));
	assert_int_equal(fake_vm.printed, 110);
	assert_int_equal(logged("failover"), 0);
	/* The next peer is told the new generation. */
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_CONNECTED);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HELLO] == 2));
	assert_int_equal(r->hello.generation, RIG_GEN + 1);
}

/* That it was lost is one trouble, that it cannot be reached since is another one. */
static void a_lost_peer_that_cannot_be_reached(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_CLAIM);
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(logged("warning: peer"), 1);
	peer_listens(r, 0, false);
	rig_cause(r, PRI_EV_TIMER);
	assert_int_equal(logged("warning: peer"), 2);
}

static void claims_that_are_lost(void **state)
{
	/* To another side, or because the VM was stopped. */
	static const int codes[] = {-ESTALE, -ECANCELED};

	for (unsigned i = 0; i < 2; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		be_steady_with_output(r);
		rig_cause(r, PRI_EV_LOST);
		arbiter_says(r, codes[i], NULL);
		rig_until(r, PRI_LEFT);
		rig_expect_left(r, "FENCED", 5, "the other side runs the VM");
		assert_int_equal(fake_vm.printed, 0);
		assert_true(r->vm.obuf.closed);
		assert_int_equal(r->vm.obuf.held, 0);
		assert_int_equal(r->ft.generation, RIG_GEN);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* Everything else is no answer: nobody goes on. */
static void claims_without_an_answer(void **state)
{
	static const int codes[] = {-EIO, -EBADMSG, -ENODATA, -ERANGE};

	for (unsigned i = 0; i < 4; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		be_steady_with_output(r);
		rig_cause(r, PRI_EV_LOST);
		arbiter_says(r, codes[i], NULL);
		rig_until(r, PRI_UNANSWERED);
		rig_expect(r, PRI_UNANSWERED, "PAUSED", false, 'h');
		assert_int_equal(r->ft.stands, FT_STAND_CLAIM | FT_STAND_SILENT);
		assert_memory_equal(r->ft.note, "mock: ", 6);
		assert_int_equal(fake_vm.printed, 0);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* It is asked every 0.5 s; what it did late counts. */
static void a_claim_that_lands_late(void **state)
{
	struct rig *r = *state;

	be_steady_with_output(r);
	rig_cause(r, PRI_EV_LOST);
	arbiter_was_asked(r, 1);
	time_pass(&r->loop, 1999 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_CLAIM);
	time_pass(&r->loop, 1 * MS);
	rig_expect(r, PRI_UNANSWERED, "PAUSED", false, 'h');
	assert_non_null(strstr(r->ft.note, "did not answer within 2000 ms"));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
		time_pass(&r->loop, 500 * MS);
		time_pass(&r->loop, 2000 * MS);
		rig_expect(r, PRI_UNANSWERED, "PAUSED", false, 'h');
	}
	arbiter_was_asked(r, 1);
	time_pass(&r->loop, 500 * MS);
	arbiter_says(r, 0, NULL);
	rig_until(r, PRI_IDLE);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 100);
	assert_int_equal(r->ft.generation, RIG_GEN + 1);
	assert_int_equal(r->ft.stands, 0);
}

/* It may be the other side's, and may be nobody's. */
static void a_stop_before_there_is_an_answer(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_UNANSWERED);
	rig_cause(r, PRI_EV_STOP);
	rig_expect_left(
		r, "FENCED", 5,
		"stopped before the arbiter said whose the VM is: the other side may run it");
}

static void other_question(void *arg, const struct arbiter_answer *answer)
{
	*(bool *)arg = true;
}

static void an_arbiter_that_is_busy(void **state)
{
	struct rig *r = *state;
	bool answered = false;

	be_steady_with_output(r);
	assert_int_equal(arbiter_ask_read(r->ft.arbiter, other_question, &answered), 0);
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_UNANSWERED, "PAUSED", false, 'h');
	assert_string_equal(r->ft.note, "arbiter: cannot be asked now");
	assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
	arbiter_says(r, 0, NULL);
	loop_until(&r->loop, answered);
	time_fire(&r->pri.timer_op);
	arbiter_was_asked(r, 2);
	arbiter_says(r, 0, NULL);
	rig_until(r, PRI_IDLE);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
}

/* The CPUs do not stop: that is said, and the output is what counts. */
static void a_vm_that_does_not_stop(void **state)
{
	struct rig *r = *state;

	be_steady_with_output(r);
	fake_vm.pause_error = -ETIMEDOUT;
	rig_cause(r, PRI_EV_LOST);
	assert_int_equal(logged("error: vCPUs: only 0 of 1"), 1);
	rig_expect(r, PRI_CLAIM, "PROTECTED", true, 'h');
	rig_cause(r, PRI_EV_CLAIM_LOST);
	assert_int_equal(logged("error: vCPUs: only 0 of 1"), 2);
	assert_true(r->vm.obuf.closed);
	assert_int_equal(r->code, 5);
}

static void a_vm_that_does_not_stop_and_goes_on(void **state)
{
	struct rig *r = *state;

	be_steady_with_output(r);
	fake_vm.pause_error = -ETIMEDOUT;
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	fake_vm.pause_error = 0;
}

/* --- a stop ----------------------------------------------------------------------------------- */

static void a_stop_in_order(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	rig_print_much(r);
	primary_end(&r->pri, 4);
	assert_int_equal(r->ft.stands, FT_STAND_END);
	assert_int_equal(fake_vm.printed, 0);
	time_jump(1 * S);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(time_left(&r->pri.timer_op), 30 * S); /* of its own */
	assert_int_equal(fake_vm.printed, 300);
	assert_string_equal(r->ft.note, "stopped; waiting until the secondary's images have all "
					"disk writes");
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_BYE]));
	rig_cause(r, PRI_EV_DONE);
	assert_int_equal(r->pri.link->state, LINK_DOWN);
	arbiter_was_asked(r, 1);
	assert_int_equal(r->mock.question.what, ARBITER_END);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN);
	assert_int_equal(r->mock.question.record.end, ARBITER_RELEASED);
	assert_int_equal(r->mock.question.record.side, RIG_SIDE);
	assert_int_equal(r->mock.question.record.peer, RIG_PEER);
	rig_cause(r, PRI_EV_RECORDED);
	rig_expect_left(r, "STOPPED", 4, "");
	assert_int_equal(logged("warning"), 0);
	assert_int_equal(logged("error"), 0);
}

static void a_stop_without_done(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	rig_print_much(r);
	primary_end(&r->pri, 0);
	rig_cause(r, PRI_EV_ACK);
	rig_cause(r, PRI_EV_LOST);
	arbiter_was_asked(r, 1);
	assert_int_equal(r->mock.question.record.end, ARBITER_STOPPED);
	assert_int_equal(r->pri.link->state, LINK_DOWN);
	assert_int_equal(logged("warning: peer"), 1);
	rig_cause(r, PRI_EV_RECORDED);
	rig_expect_left(r, "STOPPED", 0, "");
	assert_int_equal(logged("warning: stop: not confirmed"), 1);
	assert_int_equal(logged("warning: stop: the other side has taken"), 0);
}

/* BYE could not be said: what was acknowledged leaves all the same. */
static void output_that_leaves_without_bye(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	rig_print_much(r);
	primary_end(&r->pri, 0);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	r->pri.engine.send->stream->send_error = -EPIPE; /* as after a write that failed */
	peer_says(r, FRAME_ACK, r->ended);
	rig_until(r, PRI_UNSURE);
	assert_int_equal(fake_vm.printed, 300);
	assert_int_equal(r->came[FRAME_BYE], 0);
}

static void a_stop_of_a_vm_that_does_not_stop(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_FLIGHT);
	fake_vm.pause_error = -ETIMEDOUT;
	rig_cause(r, PRI_EV_STOP);
	assert_int_equal(logged("error: "), 1);
	assert_int_equal(logged("error: vCPUs: only 0 of 1"), 1);
	rig_expect(r, PRI_STOP_DUE, "PROTECTED", true, 'h');
	/* The seal of the last epoch does stop it: from there it does not go on. */
	fake_vm.pause_error = 0;
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(r->pri.fsm.state, PRI_STOP);
	assert_false(r->vm.running);
}

/* An ack may overtake the sender's last lines: no word is said between them. */
static void a_last_word_waits_for_the_sender(void **state)
{
	static const uint8_t in[] = {PRI_STOP, PRI_HAND};

	for (unsigned i = 0; i < sizeof(in); i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_STEADY);
		steps_linger(STEP_SEND_END);
		rig_cause(r, i ? PRI_EV_HAND_OVER : PRI_EV_STOP);
		if (i)
			rig_cause(r, PRI_EV_ANSWERED);
		assert_int_equal(r->pri.fsm.state, in[i]);
		rig_cause(r, PRI_EV_ACK);
		assert_int_equal(r->pri.engine.send->nfree, SEND_JOBS);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void an_unsure_stop(struct rig *r, int code, const struct arbiter_record *last,
			   const char *first, const char *second)
{
	rig_reach(r, PRI_UNSURE);
	logged_reset();
	arbiter_says(r, code, last);
	rig_until(r, PRI_LEFT);
	if (last && last->end == ARBITER_HELD && last->generation > RIG_GEN)
		rig_expect_left(r, "FENCED", 5, "the other side has taken the VM over");
	else
		rig_expect_left(r, "STOPPED", 0, "");
	assert_int_equal(logged("warning: "), !!first + !!second);
	if (first)
		assert_int_equal(logged(first), 1);
	if (second)
		assert_int_equal(logged(second), 1);
}

static void what_an_unsure_stop_says(void **state)
{
	static const char confirmed[] = "warning: stop: not confirmed";

	for (unsigned i = 0; i < 4; i++) {
		struct arbiter_record theirs = {.generation = RIG_GEN + 1, .holder = "you"};
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		if (i == 3)
			arbiter_set_side(r->ft.arbiter, 0); /* no disks that the guest writes */
		if (i == 0)
			an_unsure_stop(r, -ESTALE, &theirs, "warning: mock: Stale file handle",
				       "warning: stop: the other side has taken the VM over");
		else if (i == 1)
			an_unsure_stop(r, -EIO, NULL,
				       "warning: mock: Input/output error; the next start needs "
				       "--claim",
				       confirmed);
		else if (i == 2)
			an_unsure_stop(r, 0, NULL, confirmed, NULL);
		else
			an_unsure_stop(r, 0, NULL, NULL, NULL);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* A claim that saw this end, or was given back; a folder that is not mounted; the record itself. */
static void who_does_not_have_it_has_not_taken_it_over(void **state)
{
	static const struct arbiter_record others[] = {
		{.generation = RIG_GEN + 1, .end = ARBITER_STOPPED, .side = RIG_SIDE},
		{.generation = RIG_GEN + 1, .end = ARBITER_RELEASED, .side = 99},
		{.generation = 0},
		{.generation = RIG_GEN, .holder = "me"},
	};

	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(rig_setup(state), 0);
		an_unsure_stop(*state, -ESTALE, &others[i], "warning: mock: Stale file handle",
			       "warning: stop: not confirmed");
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* It is fenced all the same, but who reads that must start the right side. */
static void a_claim_that_was_given_back_is_nobody_s(void **state)
{
	static const char given_back[] =
		"the other side had claimed the VM, and gave it back: nobody runs it. Start this "
		"side with --primary: its images have everything";
	static const char stopped[] = "the other side had claimed the VM, and was stopped: nobody "
				      "runs it. Start that side with --primary";

	for (unsigned i = 0; i < 4; i++) {
		struct arbiter_record rec = {.end = i == 1   ? ARBITER_HELD
						    : i == 2 ? ARBITER_RELEASED
							     : ARBITER_STOPPED,
					     .side = i == 3 ? 99 : RIG_SIDE};
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_CLAIM);
		rec.generation = r->ft.generation + 1;
		arbiter_says(r, -ESTALE, &rec);
		rig_until(r, PRI_LEFT);
		rig_expect_left(r, "FENCED", 5,
				i == 1 ? "the other side runs the VM"
				: i    ? stopped
				       : given_back);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void a_record_that_cannot_be_written(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_RECORD);
	arbiter_says(r, -EIO, NULL);
	rig_until(r, PRI_LEFT);
	rig_expect_left(r, "STOPPED", 0, "");
	assert_int_equal(logged("warning: mock: Input/output error; the next start needs --claim"),
			 1);
	assert_int_equal(logged("warning: "), 1);
}

static void a_record_that_cannot_be_asked_for(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		bool answered = false;
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_BYE);
		assert_int_equal(arbiter_ask_read(r->ft.arbiter, other_question, &answered), 0);
		r->pri.answer.code = -ESTALE; /* of another question */
		rig_cause(r, i ? PRI_EV_LOST : PRI_EV_DONE);
		rig_expect_left(r, "STOPPED", 0, "");
		assert_int_equal(
			logged("warning: arbiter: cannot be asked now; the next start needs "
			       "--claim"),
			1);
		assert_int_equal(logged("warning: stop: not confirmed"), i);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* No side can be older than the other where the guest writes no disk. */
static void a_stop_of_a_vm_without_disks(void **state)
{
	static const uint8_t from[] = {PRI_UNSURE, PRI_SYNCING};

	for (unsigned i = 0; i < 2; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		arbiter_set_side(r->ft.arbiter, 0);
		rig_reach(r, from[i]);
		if (i)
			rig_cause(r, PRI_EV_STOP);
		arbiter_was_asked(r, 1);
		assert_int_equal(r->mock.question.what, ARBITER_END);
		assert_int_equal(r->mock.question.record.end, ARBITER_RELEASED);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- a stop without a peer in step ------------------------------------------------------------ */

static void a_stop_alone_lets_out_what_is_left(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	rig_print_much(r);
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(fake_vm.printed, 1);
	primary_end(&r->pri, 6);
	assert_int_equal(fake_vm.printed, 300);
	arbiter_was_asked(r, 2);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 1);
	assert_int_equal(r->mock.question.record.end, ARBITER_STOPPED);
	rig_cause(r, PRI_EV_RECORDED);
	rig_expect_left(r, "STOPPED", 6, "");
	assert_int_equal(logged("wait for the image"), 0);
}

static void a_stop_waits_for_the_images(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_REST);
	assert_string_equal(r->ft.note, "stopped; acknowledged disk writes wait for the image");
	assert_int_equal(logged("info: stop: acknowledged disk writes wait for the image"), 1);
	for (unsigned i = 0; i < 599; i++) {
		assert_int_equal(time_left(&r->pri.timer_op), 50 * MS);
		time_pass(&r->loop, 50 * MS);
		assert_int_equal(r->pri.fsm.state, PRI_REST);
	}
	r->ft.images_behind = false;
	time_pass(&r->loop, 50 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_RECORD);
	arbiter_was_asked(r, 1);
	assert_int_equal(r->mock.question.record.end, ARBITER_STOPPED);
	rig_cause(r, PRI_EV_RECORDED);
	rig_expect_left(r, "STOPPED", 0, "");
}

static void images_that_are_too_late(void **state)
{
	for (int code = 0; code < 8; code += 7) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_IDLE);
		primary_end(&r->pri, code);
		time_pass(&r->loop, 30 * S - 1);
		assert_int_equal(r->pri.fsm.state, PRI_REST);
		time_pass(&r->loop, 1);
		rig_expect_left(r, "STOPPED", code ? code : 2, "the image lacks disk writes");
		assert_int_equal(logged("error: stop: the image lacks acknowledged disk writes"),
				 1);
		assert_int_equal(r->mock.asked, 0); /* the record stays held */
		assert_int_equal(rig_teardown(state), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(a_claim_that_is_won),
		RIG_TEST(a_lost_peer_that_cannot_be_reached),
		cmocka_unit_test(claims_that_are_lost),
		cmocka_unit_test(claims_without_an_answer),
		RIG_TEST(a_claim_that_lands_late),
		RIG_TEST(a_stop_before_there_is_an_answer),
		RIG_TEST(an_arbiter_that_is_busy),
		RIG_TEST(a_vm_that_does_not_stop),
		RIG_TEST(a_vm_that_does_not_stop_and_goes_on),
		RIG_TEST(a_stop_in_order),
		RIG_TEST(a_stop_without_done),
		RIG_TEST(output_that_leaves_without_bye),
		RIG_TEST(a_stop_of_a_vm_that_does_not_stop),
		cmocka_unit_test(a_last_word_waits_for_the_sender),
		cmocka_unit_test(what_an_unsure_stop_says),
		cmocka_unit_test(who_does_not_have_it_has_not_taken_it_over),
		cmocka_unit_test(a_claim_that_was_given_back_is_nobody_s),
		RIG_TEST(a_record_that_cannot_be_written),
		cmocka_unit_test(a_record_that_cannot_be_asked_for),
		cmocka_unit_test(a_stop_of_a_vm_without_disks),
		RIG_TEST(a_stop_alone_lets_out_what_is_left),
		RIG_TEST(a_stop_waits_for_the_images),
		cmocka_unit_test(images_that_are_too_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
