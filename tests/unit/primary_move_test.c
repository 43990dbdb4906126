/* Another secondary takes the place of the one in step: each row of the way there, and what comes
 * of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libnomem.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* --- each row of the move's table ------------------------------------------------------------- */

static void cause(struct rig *r, unsigned state, unsigned event)
{
	struct err e = {0};

	switch (event) {
	case MOV_EV_TIMER:
		time_fire(&r->pri.move.timer_op);
		break;
	case MOV_EV_LOST:
		if (state == MOV_CONNECTING || state == MOV_HEART)
			new_listens(r, false); /* with our connection in its backlog */
		else
			new_hangs_up(r);
		break;
	case MOV_EV_CANCEL:
		assert_int_equal(primary_move_cancel(&r->pri, &e), 0);
		break;
	case MOV_EV_DROP:
		if (state == MOV_HEART) /* which is over before a loss is seen */
			move_drop(&r->pri.move);
		else
			peer_hangs_up(r);
		break;
	case MOV_EV_COMPARED:
		new_compared(r);
		break;
	case MOV_EV_NO_ANSWER:
		arbiter_says(r, -EIO, NULL);
		break;
	case MOV_EV_SWAPPED:
		rig_cause(r, PRI_EV_ACK);
		rig_cause(r, PRI_EV_WON);
		break;
	default: /* the way there */
		new_goes_on(r, state + 1);
	}
}

static bool was_taken(const struct fsm *f, const struct fsm_row *row)
{
	for (uint64_t i = 0; i < f->steps; i++)
		if (f->trace[i].state == row->state && f->trace[i].event == row->event)
			return true;
	return false;
}

static enum move_result result_of(const struct fsm_row *row)
{
	return row->event == MOV_EV_SWAPPED  ? MOVE_DONE
	       : row->event == MOV_EV_CANCEL ? MOVE_CANCELLED
					     : MOVE_FAILED;
}

/* All is as if there had been no move, but for who the secondary is. */
static void check_over(struct rig *r, const struct fsm_row *row)
{
	const struct move *m = &r->pri.move;

	assert_int_equal(m->result, result_of(row));
	assert_int_equal(strlen(m->why) > 0, m->result != MOVE_DONE);
	assert_int_equal(time_left(&m->timer_op), -1);
	assert_int_equal(r->ft.stands & FT_STAND_MOVE, 0);
	assert_null(r->pri.engine.capture.lacks);
	assert_null(r->pri.engine.disklog.lacks);
	assert_false(r->pri.engine.disklog.held);
	assert_int_equal(r->pri.engine.follow.state, FOLLOW_OFF);
	if (row->event == MOV_EV_DROP || row->state == MOV_FED)
		return; /* the old one is lost, or the arbiter is asked */
	assert_true(r->vm.running);
	assert_string_equal(ft_word(&r->ft), "PROTECTED");
}

static void take_row(void **state, const struct fsm_row *row)
{
	struct rig *r;

	print_message("%s, %s\n", move_desc.states[row->state], move_desc.events[row->event]);
	assert_int_equal(rig_setup(state), 0);
	r = *state;
	rig_reach(r, PRI_STEADY);
	if (row->state != MOV_NONE)
		new_reach(r, row->state);
	cause(r, row->state, row->event);
	loop_until(&r->loop, was_taken(&r->pri.move.fsm, row));
	loop_until(&r->loop, row->next != MOV_NONE || r->pri.move.fsm.state == MOV_NONE);
	if (row->next == MOV_NONE)
		check_over(r, row);
	assert_int_equal(rig_teardown(state), 0);
}

static void each_row(void **state)
{
	assert_int_equal(move_desc.nrows, 42); /* none is forgotten */
	for (unsigned i = 0; i < move_desc.nrows; i++)
		take_row(state, &move_desc.rows[i]);
}

static unsigned heard;
static enum move_result heard_result;

static void hear(void *arg)
{
	struct rig *r = arg;

	heard++;
	heard_result = r->pri.move.result;
}

static void who_asked_for_it_hears_how_it_ended(void **state)
{
	static const struct fsm_row ends[] = {
		{MOV_SAME, MOV_EV_SWAPPED, MOV_NONE, NULL, ""},
		{MOV_PASSES, MOV_EV_LOST, MOV_NONE, NULL, ""},
		{MOV_PASSES, MOV_EV_CANCEL, MOV_NONE, NULL, ""},
	};

	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		struct rig *r = *state;

		rig_reach(r, PRI_STEADY);
		heard = 0;
		r->pri.move.news = hear;
		r->pri.move.arg = r;
		new_reach(r, ends[i].state);
		assert_int_equal(heard, 0);
		cause(r, ends[i].state, ends[i].event);
		loop_until(&r->loop, r->pri.move.fsm.state == MOV_NONE);
		assert_int_equal(heard, 1);
		assert_int_equal(heard_result, result_of(&ends[i]));
		assert_int_equal(rig_teardown(state), 0);
		assert_int_equal(rig_setup(state), 0);
	}
}

/* --- the common epoch ------------------------------------------------------------------------- */

static void both_have_the_same(void **state)
{
	struct rig *r = *state;
	uint64_t epoch;

	rig_reach(r, PRI_MOVE_OLD);
	epoch = r->pri.engine.follow.epoch;
	assert_int_equal(r->ended, epoch);
	assert_false(r->vm.running); /* until all of the rest is out */
	new_acks(r);
	rig_until(r, PRI_SWAP);
	assert_true(r->vm.running);
	assert_int_equal(r->new_ended, epoch);
	assert_int_equal(r->new_state_hash, r->state_hash);
	assert_int_equal(r->new_hello.generation, RIG_GEN);
}

/* By it the new one knows whose the next generation is. */
static void the_claim_has_the_token_of_hello(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SWAP);
	assert_int_not_equal(r->new_hello.token, 0);
	assert_int_equal(r->mock.question.record.token, r->new_hello.token);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_MOVE], 1);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 1);
	assert_int_equal(r->hello.token, 0);
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(r->ft.generation, RIG_GEN + 1);
	assert_string_equal(r->ft.peer, new_address(r));
	loop_until(&r->loop, (new_reads(r), r->new_generation == RIG_GEN + 1));
	loop_until(&r->loop, (peer_reads(r), r->last == FRAME_LEAVE));
}

/* What the guest says after the common epoch waits for the next one's ack, by the new one. */
static void output_after_it_waits(void **state)
{
	struct rig *r = *state;
	unsigned released;

	rig_reach(r, PRI_MOVE);
	new_acks(r);
	rig_until(r, PRI_MOVE_NEW);
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_ACK);
	rig_until(r, PRI_SWAP);
	released = r->vm.obuf.released;
	assert_int_equal(r->vm.obuf.held, 1);
	rig_cause(r, PRI_EV_WON);
	assert_int_equal(r->vm.obuf.held, 1);
	time_fire(&r->pri.timer_op);
	rig_until(r, PRI_FLIGHT);
	loop_until(&r->loop, (new_reads(r), r->new_ended == r->pri.engine.in_flight));
	assert_int_equal(r->vm.obuf.held, 1);
	new_says(r, FRAME_ACK, r->new_ended);
	rig_until(r, PRI_STEADY);
	assert_int_equal(r->vm.obuf.held, 0);
	assert_int_equal(r->vm.obuf.released, released + 1);
}

static void output_of_it_waits_for_the_old_one(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 1));
	new_reach(r, MOV_SAME);
	rig_until(r, PRI_MOVE_NEW);
	assert_int_equal(r->vm.obuf.held, 1);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(r->vm.obuf.held, 0);
}

/* Its turns are not over when the disks stand still: the VM goes on after them. */
static void a_capture_that_is_under_way_is_not_the_common_one(void **state)
{
	struct rig *r = *state;
	uint64_t under_way;

	r->cfg.staging_bytes = 4 << 20;
	rig_reach(r, PRI_STEADY);
	new_reach(r, MOV_HOLD);
	rig_scribble(r, 100, 400);
	time_jump(LOOP_BUDGET_NS);
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.engine.state, ENGINE_SEALING);
	under_way = r->pri.engine.in_flight;
	r->vm.devices.disks[0].inflight = 0;
	time_fire(&r->pri.engine.disklog.poll);
	assert_int_equal(r->pri.move.fsm.state, MOV_LAST);
	loop_turns(&r->loop);
	rig_expect(r, PRI_MOVE_DUE, "PROTECTED", true, 'h');
	assert_int_equal(r->pri.engine.follow.epoch, 0);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_MOVE, "PROTECTED", false, 'h');
	loop_until(&r->loop, r->pri.engine.follow.epoch);
	assert_int_equal(r->pri.engine.follow.epoch, under_way + 1);
	new_acks(r);
	rig_until(r, PRI_MOVE_NEW);
	rig_cause(r, PRI_EV_ACK);
	rig_until(r, PRI_SWAP);
	assert_int_equal(r->new_state_hash, r->state_hash);
}

/* --- a loss in the middle --------------------------------------------------------------------- */

/* The new one may go on from the first claim: so it is followed by one that it cannot. */
static void a_new_one_that_is_lost_late_costs_two(void **state)
{
	struct rig *r = *state;
	unsigned asked;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_NEW_LOST);
	rig_until(r, PRI_KEEP);
	asked = r->mock.asked;
	arbiter_says(r, 0, NULL);
	loop_until(&r->loop, r->mock.asked == asked + 1);
	arbiter_was_asked(r, asked + 1);
	assert_int_equal(r->pri.fsm.state, PRI_KEEP);
	assert_int_equal(r->mock.question.record.generation, RIG_GEN + 2);
	assert_int_equal(r->mock.question.record.token, 0);
	arbiter_says(r, 0, NULL);
	rig_until(r, PRI_STEADY);
	assert_int_equal(r->ft.generation, RIG_GEN + 2);
	loop_until(&r->loop, (peer_reads(r), r->generation == RIG_GEN + 2));
	assert_string_equal(r->ft.peer, r->cfg.peers[0]);
}

static void both_are_lost(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_SWAP);
		rig_cause(r, i ? PRI_EV_LOST : PRI_EV_NEW_LOST);
		rig_cause(r, i ? PRI_EV_NEW_LOST : PRI_EV_LOST);
		rig_until(r, PRI_CLAIM);
		assert_false(r->vm.running);
		arbiter_says(r, 0, NULL);
		loop_until(&r->loop, r->mock.asked == r->mock.answered + 1);
		arbiter_says(r, 0, NULL);
		rig_until(r, PRI_IDLE);
		rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
		assert_int_equal(r->ft.generation, RIG_GEN + 2);
		assert_int_equal(r->mock.question.record.token, 0);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void an_old_one_that_is_lost_late_is_not_missed(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_SWAP, "PROTECTED", true, 'h');
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	loop_until(&r->loop, (new_reads(r), r->new_generation == RIG_GEN + 1));
}

/* Until the claim is answered the link is broken, not closed: its end is not news for ever. */
static void an_old_one_that_is_lost_late_keeps_nobody_awake(void **state)
{
	struct rig *r = *state;
	struct pollfd ready;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_LOST);
	loop_turns(&r->loop);
	ready = (struct pollfd){.fd = r->loop.epoll_fd, .events = POLLIN};
	assert_int_equal(poll(&ready, 1, 0), 0);
}

/* The list has not got it, but it is looked for with those that are there. */
static void who_was_moved_to_is_found_again(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_WON);
	peer_listens(r, 0, false);
	new_hangs_up(r);
	rig_until(r, PRI_CLAIM);
	rig_cause(r, PRI_EV_WON);
	rig_until(r, PRI_IDLE);
	rig_cause(r, PRI_EV_TRY);
	rig_until(r, PRI_IDLE);
	rig_cause(r, PRI_EV_TRY);
	rig_until(r, PRI_HELLO);
	assert_string_equal(r->ft.peer, new_address(r));
}

/* What the new one lacked is not all that whoever is synced after it lacks. */
static void who_comes_after_a_move_is_synced_whole(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_WON);
	new_hangs_up(r);
	rig_until(r, PRI_CLAIM);
	rig_cause(r, PRI_EV_WON);
	rig_until(r, PRI_IDLE);
	memset(r->came, 0, sizeof(r->came));
	rig_sync_again(r);
	assert_int_equal(r->pri.engine.disklog.mode, DISKLOG_LOG);
	assert_true(r->came[FRAME_PAGES] > 0);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
}

/* Before there is a sender that could be ended. */
static void no_memory_for_what_it_lacks(void **state)
{
	for (unsigned i = 1; i <= 2; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_STEADY);
		new_reach(r, MOV_HEART);
		nomem_at(i, 1);
		loop_until(&r->loop, r->pri.move.fsm.state == MOV_NONE);
		assert_true(nomem_happened());
		assert_int_equal(r->pri.move.result, MOVE_FAILED);
		assert_non_null(strstr(r->pri.move.why, "lacks: out of memory"));
		assert_int_equal(r->pri.engine.follow.state, FOLLOW_OFF);
		rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* What is written at once, and more than a socket takes for whoever reads nothing. */
static void seal_what_is_not_read(struct rig *r)
{
	struct engine *g = &r->pri.engine;
	int least = 1;

	assert_int_equal(
		setsockopt(r->pri.link->main.fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
	rig_scribble(r, 500, 8);
	r->vm.devices.disks[0].inflight = 0;
	time_fire(&g->disklog.poll);
	rig_until(r, PRI_MOVE);
	loop_until(&r->loop, engine_awaits(g, g->in_flight));
}

/* The old one says that it has all before it was out, and breaks the rules, but not its link. */
static void an_old_one_that_reads_no_more_is_not_waited_for(void **state)
{
	struct rig *r = *state;
	struct send *s;

	rig_reach(r, PRI_STEADY);
	new_reach(r, MOV_HOLD);
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_ACK);
	s = r->pri.engine.send;
	seal_what_is_not_read(r);
	peer_says(r, FRAME_ACK, r->pri.engine.in_flight);
	rig_until(r, PRI_MOVE_OLD);
	new_acks(r);
	rig_until(r, PRI_SWAP);
	arbiter_was_asked(r, r->mock.answered + 1);
	peer_says(r, FRAME_WELCOME, 0);
	loop_until(&r->loop, r->pri.link->state == LINK_BROKEN);
	pthread_mutex_lock(&s->lock);
	assert_true(s->nfree < SEND_JOBS); /* it writes */
	pthread_mutex_unlock(&s->lock);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	assert_null(s->stream);
}

/* It has the common epoch, but cannot run it, and says so instead of its ACK: it never claims. */
static void a_new_one_that_refuses_costs_none(void **state)
{
	struct rig *r = *state;
	unsigned asked;

	rig_reach(r, PRI_MOVE_OLD);
	loop_until(&r->loop, (new_reads(r), r->pri.move.fsm.state == MOV_FED));
	loop_until(&r->loop, (new_reads(r), r->new_ended == r->pri.engine.follow.epoch));
	asked = r->mock.asked;
	new_says(r, FRAME_REFUSE, 0);
	rig_until(r, PRI_STEADY);
	assert_int_equal(r->mock.asked, asked);
	assert_int_equal(r->ft.generation, RIG_GEN);
	assert_true(r->vm.running);
	assert_non_null(strstr(r->pri.move.why, "refuses: "));
}

/* After its ACK it may claim all the same. */
static void a_new_one_that_refuses_after_its_ack_may_claim(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_MOVE_OLD);
	loop_until(&r->loop, (new_reads(r), r->pri.move.fsm.state == MOV_FED));
	loop_until(&r->loop, (new_reads(r), r->new_ended == r->pri.engine.follow.epoch));
	new_says(r, FRAME_ACK, r->new_ended);
	new_says(r, FRAME_REFUSE, 0);
	rig_until(r, PRI_KEEP);
}

/* It could not take over from a generation that is over. */
static void a_host_that_fails_tells_the_old_one_first(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_KEEP);
	r->vm.ending.end = VM_END_HOST;
	fake_vm.pause_error = -EIO;
	assert_true(primary_host_failed(&r->pri));
	assert_int_equal(r->exits, 0);
	rig_cause(r, PRI_EV_WON);
	rig_until(r, PRI_STEADY);
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_LEFT);
	assert_int_equal(r->code, 2);
	loop_until(&r->loop, (peer_reads(r), r->main.eof));
	assert_int_equal(r->generation, RIG_GEN + 1);
	assert_int_equal(r->came[FRAME_BYE], 0);
}

/* --- the end in the middle -------------------------------------------------------------------- */

static void a_stop_waits_for_the_swap(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SWAP);
	rig_cause(r, PRI_EV_STOP);
	rig_expect(r, PRI_SWAP, "PROTECTED", false, 'h');
	rig_cause(r, PRI_EV_WON);
	rig_until(r, PRI_STOP);
	loop_until(&r->loop, (new_reads(r), r->new_ended == r->pri.engine.in_flight));
	new_says(r, FRAME_ACK, r->new_ended);
	rig_until(r, PRI_BYE);
	loop_until(&r->loop, (new_reads(r), r->new_came[FRAME_BYE]));
}

static void a_stop_goes_on_without_the_new_one(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_MOVE);
	rig_cause(r, PRI_EV_STOP);
	rig_cause(r, PRI_EV_NEW_GONE);
	rig_until(r, PRI_STOP_DUE);
	assert_false(r->vm.running);
}

static void a_stop_is_not_forgotten_in_a_loss(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_MOVE);
	rig_cause(r, PRI_EV_STOP);
	rig_cause(r, PRI_EV_LOST);
	rig_until(r, PRI_CLAIM_STOP);
}

static void a_hand_over_ends_what_can_be_ended(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	new_reach(r, MOV_PASSES);
	rig_cause(r, PRI_EV_HAND_OVER);
	assert_int_equal(r->pri.fsm.state, PRI_ASKED);
	assert_int_equal(r->pri.move.result, MOVE_CANCELLED);
	assert_string_equal(r->pri.move.why, "the VM is to be handed over");
}

/* --- what is refused -------------------------------------------------------------------------- */

static void refused(struct rig *r, const char *uri, int code, const char *why)
{
	struct err e = {0};

	assert_int_equal(primary_move(&r->pri, uri, &e), code);
	if (!strstr(e.msg, why))
		fail_msg("%s", e.msg);
}

static void no_move_without(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_SYNCING);
	refused(r, new_address(r), -EBUSY, "the VM is SYNCING: no secondary is in step");
	rig_cause(r, PRI_EV_SYNCED);
	rig_cause(r, PRI_EV_ACK);
	refused(r, r->cfg.peers[0], -EINVAL, "is the secondary");
	assert_int_equal(primary_move_cancel(&r->pri, &e), -EBUSY);
	assert_string_equal(e.msg, "migrate: --cancel: there is none under way");
	new_reach(r, MOV_HELLO);
	refused(r, new_address(r), -EBUSY, "is already on its way");
	r->mock.ops.shared = false;
	refused(r, new_address(r), -EOPNOTSUPP, "needs an arbiter");
	r->mock.ops.shared = true;
}

static void no_cancel_of_what_has_gone_too_far(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_SWAP);
	assert_int_equal(primary_move_cancel(&r->pri, &e), -EBUSY);
	assert_string_equal(e.msg, "migrate: --cancel: too late, it is about to be the secondary");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_row),
		RIG_TEST(who_asked_for_it_hears_how_it_ended),
		RIG_TEST(both_have_the_same),
		RIG_TEST(the_claim_has_the_token_of_hello),
		RIG_TEST(output_after_it_waits),
		RIG_TEST(output_of_it_waits_for_the_old_one),
		RIG_TEST(a_capture_that_is_under_way_is_not_the_common_one),
		RIG_TEST(a_new_one_that_is_lost_late_costs_two),
		cmocka_unit_test(both_are_lost),
		RIG_TEST(an_old_one_that_is_lost_late_is_not_missed),
		RIG_TEST(an_old_one_that_is_lost_late_keeps_nobody_awake),
		RIG_TEST(who_was_moved_to_is_found_again),
		RIG_TEST(who_comes_after_a_move_is_synced_whole),
		cmocka_unit_test(no_memory_for_what_it_lacks),
		RIG_TEST(an_old_one_that_reads_no_more_is_not_waited_for),
		RIG_TEST(a_new_one_that_refuses_costs_none),
		RIG_TEST(a_new_one_that_refuses_after_its_ack_may_claim),
		RIG_TEST(a_host_that_fails_tells_the_old_one_first),
		RIG_TEST(a_stop_waits_for_the_swap),
		RIG_TEST(a_stop_goes_on_without_the_new_one),
		RIG_TEST(a_stop_is_not_forgotten_in_a_loss),
		RIG_TEST(a_hand_over_ends_what_can_be_ended),
		RIG_TEST(no_move_without),
		RIG_TEST(no_cancel_of_what_has_gone_too_far),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
