/*
 * The secondary's table as a whole: every row is taken by what really brings it about, and what has
 * no row ends the process, or the link.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

/* --- each row --------------------------------------------------------------------------------- */

/* The words that each state shows when it was reached on the shortest way. */
static const char *const words[SEC_STATE_MAX] = {
	[SEC_LISTEN] = "STARTING",
	[SEC_ASKED] = "STARTING",
	[SEC_SYNCING] = "SYNCING",
	[SEC_STANDBY] = "PROTECTED",
	[SEC_TWIN] = "PROTECTED",
	[SEC_TWIN_STAGES] = "PROTECTED",
	[SEC_TWIN_CLAIM] = "TAKING-OVER",
	[SEC_DRAIN] = "PROTECTED",
	[SEC_DRAIN_ALONE] = "PROTECTED",
	[SEC_CLAIM] = "TAKING-OVER",
	[SEC_DISMISSED] = "STARTING",
	[SEC_ACCEPT] = "TAKING-OVER",
	[SEC_ACCEPT_ALONE] = "TAKING-OVER",
	[SEC_LOCKS] = "TAKING-OVER",
	[SEC_HELD] = "TAKING-OVER",
	[SEC_CONFIRM] = "TAKING-OVER",
	[SEC_YIELD] = "TAKING-OVER",
	[SEC_TAKEN] = "DEGRADED",
	[SEC_OVER] = "STARTING",
};

static void hang_up_now(void)
{
	pri_hang_up();
	for (unsigned i = 0; i < 10; i++)
		lab_turn();
}

/* A row that takes a state which it was not in by then: before the first epoch, or while loading.
 */
static void before(const struct fsm_row *row)
{
	if (row->event == SEC_EV_UNEQUAL)
		lab.hello.verify = 1;
	if (row->state == SEC_ACCEPT_ALONE &&
	    (row->event == SEC_EV_LOADED || row->event == SEC_EV_NOT_LOADED)) {
		fake_vm.while_loading = hang_up_now;
		lab_reach(SEC_STANDBY);
		fake_vm.refuses = row->event == SEC_EV_NOT_LOADED;
		pri_hand_over(5);
	} else if (row->event == SEC_EV_TWIN_OFF) {
		lab_without_shared();
		lab_reach(SEC_STANDBY);
		pri_mirror();
	} else if (row->event == SEC_EV_BUILT || row->event == SEC_EV_READY) {
		lab_reach(row->state);
	} else if (row->event == SEC_EV_TIMER && row->state == SEC_STANDBY) {
		pri_join(); /* without a heartbeat link */
		pri_commit(1);
	} else if (row->event == SEC_EV_HEART && row->state == SEC_STANDBY) {
		pri_join();
		pri_commit(1);
	} else if (row->event == SEC_EV_UNEQUAL) {
		pri_join();
		pri_heart();
	} else {
		if (row->event == SEC_EV_TWIN_DUE)
			lab_without_shared();
		lab_reach(row->state);
	}
	if (row->event == SEC_EV_TWIN_DUE)
		pri_mirror();
}

static void provoke(const struct fsm_row *row)
{
	switch (row->event) {
	case SEC_EV_HELLO:
		pri_hello();
		break;
	case SEC_EV_FITS:
	case SEC_EV_BUILT:
		lab_arbiter_answers(0);
		break;
	case SEC_EV_END:
		if (row->state == SEC_DRAIN) /* the images do not come round */
			lab.answers_after_ns = 31 * S;
		mock_arbiter_hold(&lab.arbiter, false);
		secondary_stop(&lab.sec);
		break;
	case SEC_EV_HEART:
		pri_heart_as(&lab.heart, lab.session);
		break;
	case SEC_EV_TWIN_DUE:
	case SEC_EV_TWIN_OFF:
		fake_vm.refuses = row->event == SEC_EV_TWIN_OFF;
		lab.runs = 1;
		pri_epoch(2);
		break;
	case SEC_EV_WHOLE:
		if (row->state == SEC_TWIN_STAGES) {
			pri_state(3, 3);
			pri_end(3);
			break;
		}
		pri_epoch(row->state == SEC_SYNCING ? 1 : 2);
		break;
	case SEC_EV_READY:
	case SEC_EV_UNEQUAL:
		pri_epoch(row->state == SEC_SYNCING || row->event == SEC_EV_UNEQUAL ? 1 : 2);
		break;
	case SEC_EV_PART:
		if (row->state == SEC_TWIN_STAGES)
			pri_page(3, 3, 3);
		else
			pri_begin(row->state == SEC_TWIN ? 3 : 2);
		break;
	case SEC_EV_TIMER:
		if (lab.arbiter.hold) /* it is not answering: no timer yet */
			lab_pass(ARBITER_DEADLINE_MS * MS);
		lab_until(time_left(&lab.sec.timer_op) >= 0);
		lab_pass((uint64_t)time_left(&lab.sec.timer_op));
		break;
	case SEC_EV_WON:
	case SEC_EV_GIVEN_BACK:
		lab_arbiter_answers(0);
		break;
	case SEC_EV_LOADED:
	case SEC_EV_NOT_LOADED:
		fake_vm.refuses = row->event == SEC_EV_NOT_LOADED;
		lab_arbiter_answers(0);
		break;
	case SEC_EV_CLAIM_LOST:
		lab_arbiter_answers(-ESTALE);
		break;
	case SEC_EV_WAS_STOPPED:
		lab_arbiter_answers(-ECANCELED);
		break;
	case SEC_EV_UNFIT:
	case SEC_EV_NO_ANSWER:
		if (row->state != SEC_LOCKS) /* there it is the storage */
			lab_arbiter_answers(-EIO);
		break;
	case SEC_EV_IMAGES:
		lab_images_go();
		break;
	case SEC_EV_IMAGE_FAILED:
		lab_image_fails();
		break;
	case SEC_EV_LOST:
		pri_hang_up();
		break;
	case SEC_EV_BYE:
		end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
		break;
	case SEC_EV_HAND_OVER:
		pri_hand_over(5);
		break;
	case SEC_EV_GONE:
		pri_gone();
		break;
	case SEC_EV_LOCKED: /* on the way to the other states it was */
		if (row->state != SEC_LOCKS)
			break;
		lab_until(time_left(&lab.sec.timer_op) > 0);
		pri_unlock();
		lab_pass((uint64_t)time_left(&lab.sec.timer_op));
		break;
	case SEC_EV_GENERATION:
		pri_generation(lab.ft.generation + 1);
		break;
	case SEC_EV_DISMISS:
		end_send(&lab.main, FRAME_DISMISS, 0, NULL, 0);
		break;
	case SEC_EV_LEAVE:
		end_send(&lab.main, FRAME_LEAVE, 0, NULL, 0);
		break;
	default:
		fail();
	}
}

/* The state that the step led to. */
static unsigned state_after(const struct fsm_row *row)
{
	const struct fsm *f = &lab.sec.fsm;

	for (uint64_t i = f->steps; i-- && f->steps - i <= FSM_TRACE;) {
		if (f->trace[i % FSM_TRACE].state != row->state ||
		    f->trace[i % FSM_TRACE].event != row->event)
			continue;
		return i + 1 < f->steps ? f->trace[(i + 1) % FSM_TRACE].state : f->state;
	}
	return SEC_STATE_MAX;
}

static void take_row(const struct fsm_row *row)
{
	lab_setup(NULL);
	lab.images_wait = true;
	before(row);
	if (row->event != SEC_EV_UNEQUAL && !fake_vm.while_loading &&
	    strcmp(ft_word(&lab.ft), words[row->state]))
		fail_msg("%s shows %s", secondary_desc.states[row->state], ft_word(&lab.ft));
	if (!fake_vm.while_loading) {
		assert_int_equal(lab.sec.fsm.state, row->event == SEC_EV_UNEQUAL    ? SEC_SYNCING
						    : row->event == SEC_EV_TWIN_OFF ? SEC_STANDBY
										    : row->state);
		provoke(row);
	}
	lab_until(lab_stepped(row->state, row->event));
	assert_int_equal(state_after(row), row->next);
	if (row->event == SEC_EV_IMAGE_FAILED &&
	    row->next == SEC_LISTEN) /* whoever looks knows why */
		assert_non_null(strstr(lab.ft.note, "this side's disk image failed"));
	lab_settle();
	lab_teardown(NULL);
}

/* Where what happened leads, told once more: a row that is changed is to be meant so. */
static unsigned next_of(unsigned state, unsigned event)
{
	static const uint8_t ways[][3] = {
		{SEC_LISTEN, SEC_EV_HELLO, SEC_ASKED},
		{SEC_ASKED, SEC_EV_UNFIT, SEC_LISTEN},
		{SEC_ASKED, SEC_EV_LOST, SEC_LISTEN},
		{SEC_ASKED, SEC_EV_BUILT, SEC_SYNCING},
		{SEC_SYNCING, SEC_EV_READY, SEC_STANDBY},
		{SEC_SYNCING, SEC_EV_LOST, SEC_LISTEN},
		{SEC_STANDBY, SEC_EV_UNEQUAL, SEC_LISTEN},
		{SEC_STANDBY, SEC_EV_TWIN_DUE, SEC_TWIN},
		{SEC_TWIN, SEC_EV_TWIN_OFF, SEC_STANDBY},
		{SEC_TWIN, SEC_EV_PART, SEC_TWIN_STAGES},
		{SEC_TWIN, SEC_EV_LOST, SEC_TWIN_CLAIM},
		{SEC_TWIN_STAGES, SEC_EV_WHOLE, SEC_STANDBY},
		{SEC_TWIN_STAGES, SEC_EV_LOST, SEC_TWIN_CLAIM},
		{SEC_TWIN_CLAIM, SEC_EV_WON, SEC_TAKEN},
		{SEC_TWIN_CLAIM, SEC_EV_IMAGE_FAILED, SEC_YIELD},
		{SEC_STANDBY, SEC_EV_BYE, SEC_DRAIN},
		{SEC_STANDBY, SEC_EV_HAND_OVER, SEC_ACCEPT},
		{SEC_STANDBY, SEC_EV_LEAVE, SEC_LISTEN},
		{SEC_STANDBY, SEC_EV_DISMISS, SEC_DISMISSED},
		{SEC_DISMISSED, SEC_EV_IMAGES, SEC_LISTEN},
		{SEC_STANDBY, SEC_EV_LOST, SEC_CLAIM},
		{SEC_DRAIN, SEC_EV_IMAGES, SEC_LISTEN},
		{SEC_DRAIN, SEC_EV_LOST, SEC_DRAIN_ALONE},
		{SEC_DRAIN_ALONE, SEC_EV_IMAGES, SEC_LISTEN},
		{SEC_CLAIM, SEC_EV_LOADED, SEC_TAKEN},
		{SEC_ACCEPT, SEC_EV_LOADED, SEC_HELD},
		{SEC_ACCEPT, SEC_EV_NOT_LOADED, SEC_LISTEN},
		{SEC_ACCEPT, SEC_EV_WAS_STOPPED, SEC_DRAIN},
		{SEC_ACCEPT, SEC_EV_LOST, SEC_ACCEPT_ALONE},
		{SEC_ACCEPT_ALONE, SEC_EV_WON, SEC_CLAIM},
		{SEC_ACCEPT_ALONE, SEC_EV_LOADED, SEC_CLAIM},
		{SEC_ACCEPT_ALONE, SEC_EV_NOT_LOADED, SEC_LISTEN},
		{SEC_CLAIM, SEC_EV_IMAGE_FAILED, SEC_YIELD},
		{SEC_CONFIRM, SEC_EV_IMAGE_FAILED, SEC_YIELD},
		{SEC_YIELD, SEC_EV_IMAGE_FAILED, SEC_YIELD},
		{SEC_YIELD, SEC_EV_GIVEN_BACK, SEC_LISTEN},
		{SEC_HELD, SEC_EV_GONE, SEC_LOCKS},
		{SEC_LOCKS, SEC_EV_LOCKED, SEC_TAKEN},
		{SEC_LOCKS, SEC_EV_IMAGE_FAILED, SEC_LOCKS},
		{SEC_HELD, SEC_EV_LOST, SEC_CONFIRM},
		{SEC_CONFIRM, SEC_EV_WON, SEC_TAKEN},
		{SEC_TAKEN, SEC_EV_IMAGE_FAILED, SEC_TAKEN},
	};

	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (ways[i][0] == state && ways[i][1] == event)
			return ways[i][2];
	switch (event) {
	case SEC_EV_END:
		return SEC_OVER;
	case SEC_EV_CLAIM_LOST:
	case SEC_EV_IMAGE_FAILED:
		return SEC_LISTEN;
	case SEC_EV_WAS_STOPPED:
		return SEC_DRAIN_ALONE;
	default:
		return state;
	}
}

static void every_row_is_taken(void **state)
{
	assert_int_equal(secondary_desc.nrows, 123); /* none is forgotten */
	for (unsigned i = 0; i < secondary_desc.nrows; i++) {
		const struct fsm_row *row = &secondary_desc.rows[i];

		if (getenv("VERBOSE"))
			print_message("%s, %s\n", secondary_desc.states[row->state],
				      secondary_desc.events[row->event]);
		assert_int_equal(row->next, next_of(row->state, row->event));
		take_row(row);
	}
}

/* --- what has no row -------------------------------------------------------------------------- */

/* What a process that takes the event writes, in which it dies. */
static void check_death(unsigned event)
{
	char said[8192] = "", want[200];
	int fds[2], status;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(fds[1], STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		logged_to_stderr();
		fsm_post(&lab.sec.fsm, event);
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], said + have, sizeof(said) - 1 - have)) > 0)
		have += (size_t)n;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	snprintf(want, sizeof(want), "secondary: in %s came '%s', which has no row", lab_state(),
		 secondary_desc.events[event]);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(said, want))
		fail_msg("%s: status %x\n%s", want, (unsigned)status, said);
	/* The way there. */
	if (lab.sec.fsm.steps)
		assert_non_null(strstr(said, "secondary: step 0: SEC_LISTEN, HELLO"));
}

static void an_event_without_a_row_is_a_bug(void **state)
{
	unsigned n = 0;

	for (unsigned s = SEC_LISTEN; s < SEC_OVER; s++) {
		lab_setup(NULL);
		lab.images_wait = true;
		lab_reach((enum secondary_state)s);
		for (unsigned ev = 0; ev < secondary_desc.first_message; ev++)
			if (!fsm_expects(&lab.sec.fsm, ev)) {
				check_death(ev);
				n++;
			}
		lab_teardown(NULL);
	}
	assert_true(n > 100);
}

/* At the end nothing is one. */
static void nothing_matters_at_the_end(void **state)
{
	lab_reach(SEC_OVER);
	for (unsigned ev = 0; ev < SEC_EV_MAX; ev++)
		fsm_post(&lab.sec.fsm, ev);
	assert_state(OVER);
	assert_int_equal(lab.sec.fsm.steps, 1);
}

static void send_message(unsigned event)
{
	static const enum frame_type type[] = {[SEC_EV_BYE] = FRAME_BYE,
					       [SEC_EV_GONE] = FRAME_GONE,
					       [SEC_EV_GENERATION] = FRAME_GENERATION,
					       [SEC_EV_LEAVE] = FRAME_LEAVE,
					       [SEC_EV_DISMISS] = FRAME_DISMISS};

	if (event == SEC_EV_PART)
		pri_begin(2);
	else if (event == SEC_EV_HAND_OVER)
		pri_hand_over(5);
	else
		end_send(&lab.main, type[event], 0, NULL, 0);
}

/* Refused, and the link is lost as any other is. */
static void check_stray(unsigned s, unsigned event)
{
	lab_setup(NULL);
	lab.images_wait = true;
	lab_reach((enum secondary_state)s);
	if (!fsm_expects(&lab.sec.fsm, event)) {
		unsigned next = fsm_find(&secondary_desc, s, SEC_EV_LOST)->next;

		lab_arbiter_waits();
		send_message(event);
		end_expect_refusal(&lab.main, "message out of order");
		assert_true(end_is_dropped(&lab.main));
		assert_true(end_is_dropped(&lab.heart));
		assert_int_equal(lab.sec.fsm.state, next);
		assert_string_equal(lab.sec.why, "message out of order");
	}
	lab_teardown(NULL);
}

static void a_message_out_of_order_ends_the_link(void **state)
{
	static const unsigned linked[] = {SEC_SYNCING, SEC_STANDBY, SEC_TWIN,
					  SEC_DRAIN,   SEC_ACCEPT,  SEC_HELD};

	for (unsigned i = 0; i < sizeof(linked) / sizeof(linked[0]); i++)
		for (unsigned ev = SEC_EV_PART; ev < SEC_EV_MAX; ev++)
			check_stray(linked[i], ev);
}

/* Without a link there is nobody to refuse, and nothing to lose. */
static void without_a_link_no_message_counts(void **state)
{
	static const unsigned alone[] = {SEC_LISTEN,	SEC_TWIN_CLAIM, SEC_DRAIN_ALONE,
					 SEC_DISMISSED, SEC_CLAIM,	SEC_ACCEPT_ALONE,
					 SEC_CONFIRM,	SEC_TAKEN};

	for (unsigned i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
		lab_setup(NULL);
		lab.images_wait = true;
		lab_reach((enum secondary_state)alone[i]);
		for (unsigned ev = SEC_EV_PART; ev < SEC_EV_MAX; ev++)
			fsm_post(&lab.sec.fsm, ev);
		assert_int_equal(lab.sec.fsm.state, alone[i]);
		lab_teardown(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_is_taken),
		cmocka_unit_test(an_event_without_a_row_is_a_bug),
		cmocka_unit_test_setup_teardown(nothing_matters_at_the_end, lab_setup,
						lab_teardown),
		cmocka_unit_test(a_message_out_of_order_ends_the_link),
		cmocka_unit_test(without_a_link_no_message_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
