/*
 * The source's table: each row is taken through the real actions, each message is tried in each
 * state. The list here is the table once more, with what is seen from outside.
 */
#define _GNU_SOURCE /* OFD locks */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/source_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libsource.h"
#include "tests/unit/libtime.h"

/* then: the state when all is done that follows. code: of the process. */
static const struct expected {
	uint8_t state, event, next, then;
	const char *word;
	bool runs;
	enum source_result result;
	int code;
} list[] = {
#define ROW(state, event, next, then, ...)                                                         \
	{                                                                                          \
		SRC_##state, SRC_EV_##event, SRC_##next, SRC_##then, __VA_ARGS__                   \
	}
#define LIVE	"MIGRATING", true, SOURCE_ACTIVE, -1
#define STANDS	"MIGRATING", false, SOURCE_ACTIVE, -1
#define FAILS	"RUNNING", true, SOURCE_FAILED, -1
#define CANCELS "RUNNING", true, SOURCE_CANCELLED, -1
#define UNSURE_ "PAUSED", false, SOURCE_UNSURE, -1
#define KEEPS	"PAUSED", false, SOURCE_ACTIVE, -1 /* the VM runs there */
#define LETS_GO "MIGRATED", false, SOURCE_CANCELLED, 3
#define DONE	"MIGRATED", false, SOURCE_DONE, 3
	/* clang-format off */
	ROW(IDLE, START, CONNECTING, CONNECTING, LIVE),
	ROW(CONNECTING, CONNECTED, OFFERED, OFFERED, LIVE),
	ROW(OFFERED, WELCOME, PAIRING, PASSES, LIVE),
	ROW(PAIRING, CONNECTED, PAIRING, PAIRING, LIVE),
	ROW(PAIRING, WELCOME, PASSES, PASSES, LIVE),
	ROW(PAIRING, TIMER, IDLE, IDLE, FAILS),
	ROW(PAIRING, LATE, IDLE, IDLE, FAILS),
	ROW(PAIRING, CANCEL, IDLE, IDLE, CANCELS),
	ROW(PAIRING, LOST, IDLE, IDLE, FAILS),
	ROW(PASSES, CONVERGED, DRAIN, DRAIN, STANDS),
	ROW(DRAIN, DRAINED, LAST, LAST, STANDS),
	ROW(LAST, SENT, SWITCH, SWITCH, STANDS),
	ROW(LAST, READY, EARLY, EARLY, STANDS),
	ROW(EARLY, SENT, GO, GO, STANDS),
	ROW(SWITCH, READY, GO, GO, STANDS),
	ROW(GO, RUNS, LEFT, LEFT, DONE),

	ROW(CONNECTING, TIMER, IDLE, IDLE, FAILS),
	ROW(CONNECTING, LATE, IDLE, IDLE, FAILS),
	ROW(CONNECTING, CANCEL, IDLE, IDLE, CANCELS),
	ROW(CONNECTING, LOST, IDLE, IDLE, FAILS),
	ROW(OFFERED, TIMER, IDLE, IDLE, FAILS),
	ROW(OFFERED, LATE, IDLE, IDLE, FAILS),
	ROW(OFFERED, CANCEL, IDLE, IDLE, CANCELS),
	ROW(OFFERED, LOST, IDLE, IDLE, FAILS),

	ROW(PASSES, LATE, QUIT, IDLE, FAILS),
	ROW(PASSES, CANCEL, QUIT, IDLE, CANCELS),
	ROW(PASSES, FAILED, QUIT, IDLE, FAILS),
	ROW(PASSES, LOST, QUIT, IDLE, FAILS),
	ROW(QUIT, ENDED, IDLE, IDLE, CANCELS),
	ROW(QUIT, TIMER, QUIT, IDLE, CANCELS),
	ROW(QUIT, LOST, QUIT, IDLE, CANCELS),
	ROW(QUIT, CANCEL, QUIT, IDLE, CANCELS),

	ROW(DRAIN, TIMER, IDLE, IDLE, FAILS),
	ROW(DRAIN, LATE, IDLE, IDLE, FAILS),
	ROW(DRAIN, CANCEL, IDLE, IDLE, CANCELS),
	ROW(DRAIN, FAILED, IDLE, IDLE, FAILS),
	ROW(DRAIN, LOST, IDLE, IDLE, FAILS),

	ROW(LAST, TIMER, HALT, IDLE, FAILS),
	ROW(LAST, LATE, HALT, IDLE, FAILS),
	ROW(LAST, CANCEL, HALT, IDLE, CANCELS),
	ROW(LAST, FAILED, HALT, IDLE, FAILS),
	ROW(LAST, LOST, HALT, IDLE, FAILS),
	ROW(EARLY, TIMER, HALT, IDLE, FAILS),
	ROW(EARLY, LATE, HALT, IDLE, FAILS),
	ROW(EARLY, CANCEL, HALT, IDLE, CANCELS),
	ROW(EARLY, FAILED, HALT, IDLE, FAILS),
	ROW(EARLY, LOST, HALT, IDLE, FAILS),
	ROW(HALT, ENDED, BACK, IDLE, CANCELS),
	ROW(HALT, LOST, HALT, IDLE, CANCELS),
	ROW(HALT, CANCEL, HALT, IDLE, CANCELS),
	ROW(SWITCH, TIMER, BACK, IDLE, FAILS),
	ROW(SWITCH, LATE, BACK, IDLE, FAILS),
	ROW(SWITCH, CANCEL, BACK, IDLE, CANCELS),
	ROW(SWITCH, LOST, BACK, IDLE, FAILS),
	ROW(BACK, TIMER, BACK, BACK, "PAUSED", false, SOURCE_CANCELLING, -1),
	ROW(BACK, LOCKED, IDLE, IDLE, CANCELS),
	ROW(BACK, CANCEL, BACK, BACK, "PAUSED", false, SOURCE_CANCELLING, -1),

	ROW(GO, TIMER, UNSURE, UNSURE, UNSURE_),
	ROW(GO, LOST, UNSURE, UNSURE, UNSURE_),
	ROW(GO, CANCEL, GO, GO, STANDS),
	ROW(GO, END, GO, GO, STANDS),
	ROW(UNSURE, TIMER, RECONNECT, RECONNECT, UNSURE_),
	ROW(UNSURE, CANCEL, UNSURE, UNSURE, UNSURE_),
	ROW(UNSURE, FORCE, BACK, IDLE, CANCELS),
	ROW(UNSURE, END, LEFT, LEFT, "FENCED", false, SOURCE_UNSURE, 5),
	ROW(UNSURE, RECOVER, RECONNECT, RECONNECT, UNSURE_),
	ROW(RECONNECT, CONNECTED, ASKED, ASKED, UNSURE_),
	ROW(RECONNECT, TIMER, UNSURE, UNSURE, UNSURE_),
	ROW(RECONNECT, LOST, UNSURE, UNSURE, UNSURE_),
	ROW(RECONNECT, CANCEL, RECONNECT, RECONNECT, UNSURE_),
	ROW(RECONNECT, FORCE, BACK, IDLE, CANCELS),
	ROW(RECONNECT, END, LEFT, LEFT, "FENCED", false, SOURCE_UNSURE, 5),
	ROW(RECONNECT, RECOVER, RECONNECT, RECONNECT, UNSURE_),
	ROW(ASKED, RUNS, LEFT, LEFT, DONE),
	ROW(ASKED, NEVER, BACK, IDLE, FAILS),
	ROW(ASKED, TIMER, UNSURE, UNSURE, UNSURE_),
	ROW(ASKED, LOST, UNSURE, UNSURE, UNSURE_),
	ROW(ASKED, CANCEL, ASKED, ASKED, UNSURE_),
	ROW(ASKED, FORCE, BACK, IDLE, CANCELS),
	ROW(ASKED, END, LEFT, LEFT, "FENCED", false, SOURCE_UNSURE, 5),
	ROW(ASKED, RECOVER, RECONNECT, RECONNECT, UNSURE_),

	ROW(PAIRING, PAIRED, PASSES, PASSES, LIVE),
	ROW(GO, LACKS, SERVE, SERVE, STANDS),
	ROW(SERVE, SENT, ENDING, ENDING, STANDS),
	ROW(SERVE, EOC, LEFT, LEFT, DONE),
	ROW(ENDING, EOC, LEFT, LEFT, DONE),
	ROW(ASKED, SOME, CUT_ASKED, CUT_ASKED, KEEPS),
	ROW(SERVE, TIMER, SERVE, CUT, KEEPS),
	ROW(ENDING, TIMER, ENDING, ENDING, STANDS),
	ROW(SERVE, LOST, CUT, CUT, KEEPS),
	ROW(SERVE, CANCEL, SERVE, SERVE, STANDS),
	ROW(SERVE, END, SERVE, SERVE, STANDS),
	ROW(ENDING, LOST, CUT, CUT, KEEPS),
	ROW(ENDING, CANCEL, ENDING, ENDING, STANDS),
	ROW(ENDING, END, ENDING, ENDING, STANDS),
	ROW(CUT, TIMER, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT, CANCEL, CUT, CUT, KEEPS),
	ROW(CUT, END, CUT, CUT, KEEPS),
	ROW(CUT_CONNECT, CONNECTED, CUT_ASKED, CUT_ASKED, KEEPS),
	ROW(CUT_CONNECT, TIMER, CUT, CUT, KEEPS),
	ROW(CUT_CONNECT, LOST, CUT, CUT, KEEPS),
	ROW(CUT_CONNECT, CANCEL, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT_CONNECT, END, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT_ASKED, SOME, CUT_ASKED, CUT_ASKED, KEEPS),
	ROW(CUT_ASKED, HAVE, CUT_PAIRING, CUT_PAIRING, KEEPS),
	ROW(CUT_ASKED, RUNS, LEFT, LEFT, DONE),
	ROW(CUT_ASKED, TIMER, CUT, CUT, KEEPS),
	ROW(CUT_ASKED, LOST, CUT, CUT, KEEPS),
	ROW(CUT_ASKED, CANCEL, CUT_ASKED, CUT_ASKED, KEEPS),
	ROW(CUT_ASKED, END, CUT_ASKED, CUT_ASKED, KEEPS),
	ROW(CUT_PAIRING, CONNECTED, CUT_PAIRING, CUT_PAIRING, KEEPS),
	ROW(CUT_PAIRING, WELCOME, SERVE, SERVE, STANDS),
	ROW(CUT_PAIRING, TIMER, CUT, CUT, KEEPS),
	ROW(CUT_PAIRING, LOST, CUT, CUT, KEEPS),
	ROW(CUT_PAIRING, CANCEL, CUT_PAIRING, CUT_PAIRING, KEEPS),
	ROW(CUT_PAIRING, END, CUT_PAIRING, CUT_PAIRING, KEEPS),
	ROW(CUT, FORCE, LEFT, LEFT, LETS_GO),
	ROW(CUT, RECOVER, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT_CONNECT, FORCE, LEFT, LEFT, LETS_GO),
	ROW(CUT_CONNECT, RECOVER, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT_ASKED, FORCE, LEFT, LEFT, LETS_GO),
	ROW(CUT_ASKED, RECOVER, CUT_CONNECT, CUT_CONNECT, KEEPS),
	ROW(CUT_PAIRING, FORCE, LEFT, LEFT, LETS_GO),
	ROW(CUT_PAIRING, RECOVER, CUT_CONNECT, CUT_CONNECT, KEEPS),
	/* clang-format on */
};

#define ROWS (sizeof(list) / sizeof(list[0]))

/* The images are this side's exactly when the VM may go on here. */
static void check_lock(struct source_rig *r)
{
	bool locked = disk_is_elsewhere(&(struct disk){.fd = r->locker});

	assert_false(locked);
	if (r->vm.running) {
		int fd = open(r->image, O_RDONLY | O_CLOEXEC);

		assert_true(disk_is_elsewhere(&(struct disk){.fd = fd}));
		close(fd);
	}
}

/* With the VM at the destination. */
static bool is_of_postcopy(unsigned state, unsigned event)
{
	return state == SRC_SERVE || state == SRC_ENDING ||
	       (state >= SRC_CUT && state <= SRC_CUT_PAIRING) || event == SRC_EV_LACKS ||
	       event == SRC_EV_SOME || event == SRC_EV_HAVE;
}

/* The urgent link ends; ENDING: and all of it was on its way. */
static void lose_urgent(struct source_rig *r, enum source_state s)
{
	source_rig_reach(r, SRC_SERVE);
	there_reads(r);
	stream_done(&r->pair);
	loop_until(&r->loop, time_left(&r->src.timer_op) >= 0);
	if (s == SRC_ENDING)
		source_rig_cause(r, SRC_EV_SENT);
}

/* The number of the step that takes the row. */
static uint64_t cause_row(struct source_rig *r, const struct expected *x)
{
	bool follows = x->event == SRC_EV_PAIRED; /* of the one before, by itself */
	uint64_t at;

	if (is_of_postcopy(x->state, x->event))
		source_rig_lazy(r);
	if (x->event == SRC_EV_TIMER && (x->state == SRC_SERVE || x->state == SRC_ENDING))
		lose_urgent(r, x->state);
	else
		source_rig_reach(r, follows ? SRC_OFFERED : x->state);
	if ((x->state == SRC_PAIRING || x->state == SRC_CUT_PAIRING) && x->event == SRC_EV_WELCOME)
		source_rig_cause(r, SRC_EV_CONNECTED);
	/* LOCKED: by a timer; HAVE: it is SOME first. */
	at = r->src.fsm.steps + (follows || x->event == SRC_EV_LOCKED || x->event == SRC_EV_HAVE);
	source_rig_cause(r, follows ? SRC_EV_WELCOME : x->event);
	return at;
}

static void take_row(const struct expected *x)
{
	struct source_rig *r;
	void *state;
	uint64_t at;

	assert_int_equal(source_rig_setup(&state), 0);
	r = state;
	at = cause_row(r, x);
	assert_int_equal(r->src.fsm.trace[at % FSM_TRACE].state, x->state);
	assert_int_equal(r->src.fsm.trace[at % FSM_TRACE].event, x->event);
	if (x->next != x->then)
		source_rig_until(r, x->then);
	if (strcmp(source_desc.states[r->src.fsm.state], source_desc.states[x->then]) ||
	    strcmp(ft_word(&r->ft), x->word) || r->vm.running != x->runs ||
	    r->src.result != x->result || r->code != x->code)
		fail_msg("%s, %s: %s, %s, runs %d, result %d, code %d: %s",
			 source_desc.states[x->state], source_desc.events[x->event],
			 source_desc.states[r->src.fsm.state], ft_word(&r->ft), r->vm.running,
			 r->src.result, r->code, r->src.why);
	check_lock(r);
	if (x->then == SRC_CUT || x->then == SRC_UNSURE) {
		assert_int_equal(r->src.link.fd, -1);
		assert_int_equal(r->src.pair.fd, -1);
		assert_true(time_left(&r->src.timer_op) > 0); /* it connects again */
	}
	assert_int_equal(source_rig_teardown(&state), 0);
}

static void each_row(void **state)
{
	for (unsigned i = 0; i < ROWS; i++)
		take_row(&list[i]);
}

static void the_list_is_the_table(void **state)
{
	assert_int_equal(ROWS, source_desc.nrows);
	for (unsigned i = 0; i < ROWS; i++) {
		const struct fsm_row *row = fsm_find(&source_desc, list[i].state, list[i].event);

		assert_non_null(row);
		assert_int_equal(row->next, list[i].next);
	}
}

/* HAVE, of a precopy; WELCOME, to an urgent link that is not connected yet. */
static bool is_out_of_place(enum source_state s, unsigned ev)
{
	return (ev == SRC_EV_HAVE && s == SRC_ASKED) ||
	       (ev == SRC_EV_WELCOME && s == SRC_CUT_PAIRING);
}

/* A message that has no row is the destination's fault: as if the link had broken. */
static void each_message_in_each_state(void **state)
{
	static const enum source_state with_link[] = {
		SRC_OFFERED, SRC_PASSES, SRC_DRAIN, SRC_LAST,	SRC_EARLY,     SRC_SWITCH,
		SRC_GO,	     SRC_ASKED,	 SRC_SERVE, SRC_ENDING, SRC_CUT_ASKED, SRC_CUT_PAIRING};

	for (unsigned i = 0; i < sizeof(with_link) / sizeof(with_link[0]); i++)
		for (unsigned ev = SRC_EV_WELCOME; ev < SRC_EV_MAX; ev++) {
			enum source_state s = with_link[i];
			struct source_rig *r;
			void *rig;
			uint64_t steps;

			/* A word that only a state makes of RUNS. */
			if ((fsm_find(&source_desc, s, ev) && !is_out_of_place(s, ev)) ||
			    ev == SRC_EV_LACKS)
				continue;
			assert_int_equal(source_rig_setup(&rig), 0);
			r = rig;
			if (is_of_postcopy(s, SRC_EV_LOST))
				source_rig_lazy(r);
			source_rig_reach(r, s);
			steps = r->src.fsm.steps;
			source_rig_cause(r, ev);
			assert_int_equal(r->src.fsm.trace[steps % FSM_TRACE].event, SRC_EV_LOST);
			if (s < SRC_GO)
				source_rig_until(r, SRC_IDLE);
			else
				source_rig_until(r, is_of_postcopy(s, SRC_EV_LOST) ? SRC_CUT
										   : SRC_UNSURE);
			assert_non_null(strstr(r->src.why, "out of order"));
			assert_int_equal(r->vm.running, s < SRC_GO);
			assert_int_equal(source_rig_teardown(&rig), 0);
		}
}

/* An answer to what was not said. */
static void welcome_without_a_second_link(void **state)
{
	struct source_rig *r = *state;

	source_rig_reach(r, SRC_PAIRING);
	there_says(r, FRAME_WELCOME);
	source_rig_until(r, SRC_IDLE);
	assert_non_null(strstr(r->src.why, "out of order"));
	assert_true(r->vm.running);
}

/* --- an image that goes along --- */

static void welcome(struct source_rig *r, const void *w, size_t len)
{
	struct iovec iov = {(void *)w, len};

	r->conf.copy_disks = true;
	source_rig_reach(r, SRC_OFFERED);
	there_reads(r);
	assert_int_equal(stream_send(&r->link, FRAME_WELCOME, 0, &iov, 1, UINT64_MAX), 0);
}

static bool is_locked(struct source_rig *r)
{
	struct disk d = {.fd = open(r->image, O_RDONLY | O_CLOEXEC)};
	bool locked = disk_is_elsewhere(&d);

	close(d.fd);
	return locked;
}

/* It is asked for what is there before the VM stands, and its first block comes then. */
static void an_image_goes_along(void **state)
{
	struct source_rig *r = *state;
	struct wire_welcome w = {.copied = 1};

	welcome(r, &w, sizeof(w));
	r->conf.downtime_ns = 3600 * S;
	r->src.conf.downtime_ns = 3600 * S;
	loop_until(&r->loop, (there_reads(r), r->flushes));
	assert_int_equal(r->src.fsm.state, SRC_PASSES);
	assert_int_equal(r->first_blocks, 0);
	there_says(r, FRAME_DONE);
	source_rig_until(r, SRC_SWITCH);
	assert_int_equal(r->first_blocks, 1);
	assert_int_equal(r->flushes, 1);
	assert_int_equal(r->came[FRAME_SWITCH], 1);
	assert_true(is_locked(r));
	source_rig_cause(r, SRC_EV_READY);
	source_rig_cause(r, SRC_EV_RUNS);
	assert_int_equal(r->src.fsm.state, SRC_LEFT);
	assert_true(logged("of the past"));
}

static pthread_mutex_t storage = PTHREAD_MUTEX_INITIALIZER; /* held: it hangs */
static atomic_uint reads;

ssize_t __real_pread(int fd, void *buf, size_t n, off_t off);
ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t off);

ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t off)
{
	atomic_fetch_add(&reads, 1);
	pthread_mutex_lock(&storage);
	pthread_mutex_unlock(&storage);
	return __real_pread(fd, buf, n, off);
}

/* The last blocks cannot be read, and it is given up: the loop goes on, and the VM after them. */
static void an_image_that_hangs(void **state)
{
	struct source_rig *r = *state;
	struct wire_welcome w = {.copied = 1};

	welcome(r, &w, sizeof(w));
	r->src.conf.downtime_ns = 3600 * S;
	r->vm.devices.disks[0].inflight = 1;
	loop_until(&r->loop, (there_reads(r), r->flushes));
	there_says(r, FRAME_DONE);
	source_rig_until(r, SRC_DRAIN);
	pthread_mutex_lock(&storage);
	atomic_store(&reads, 0);
	source_rig_cause(r, SRC_EV_DRAINED);
	loop_until(&r->loop, (there_reads(r), atomic_load(&reads)));
	assert_int_equal(r->src.fsm.state, SRC_LAST);
	source_rig_cause(r, SRC_EV_CANCEL);
	loop_turns(&r->loop);
	assert_int_equal(r->src.fsm.state, SRC_HALT);
	assert_false(r->vm.running);
	assert_non_null(strstr(r->ft.note, "the VM stands until what reads an image"));
	pthread_mutex_unlock(&storage);
	source_rig_until(r, SRC_IDLE);
	assert_int_equal(r->first_blocks, 0);
	assert_int_equal(r->src.result, SOURCE_CANCELLED);
	assert_true(is_locked(r));
	assert_true(r->vm.running);
}

/* The guest goes on with it, and nobody follows what it writes there. */
static void an_image_that_stays(void **state)
{
	struct source_rig *r = *state;
	struct wire_welcome w = {.copied = 1};

	welcome(r, &w, sizeof(w));
	loop_until(&r->loop, (there_reads(r), r->flushes));
	assert_non_null(r->vm.devices.disks[0].hook.done);
	source_rig_cause(r, SRC_EV_CANCEL);
	source_rig_until(r, SRC_IDLE);
	assert_true(is_locked(r));
	assert_null(r->vm.devices.disks[0].hook.done);
	assert_true(r->vm.running);
}

static void answers_that_make_no_sense(void **state)
{
	static const struct {
		struct wire_welcome w;
		size_t len;
	} rows[] = {{{.copied = 2}, 8},
		    {{.copied = 3}, 8},
		    {{.copied = 1ull << 40}, 8},
		    {{.copied = 1}, 7}};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct source_rig *r;
		void *one;

		assert_int_equal(source_rig_setup(&one), 0);
		r = one;
		welcome(r, &rows[i].w, rows[i].len);
		source_rig_until(r, SRC_IDLE);
		assert_non_null(strstr(r->src.why, "out of order"));
		assert_int_equal(source_rig_teardown(&one), 0);
	}
	(void)state;
}

/* Nobody asked whether it is written. */
static void done_without_a_question(void **state)
{
	struct source_rig *r = *state;

	source_rig_reach(r, SRC_PASSES);
	there_says(r, FRAME_DONE);
	source_rig_until(r, SRC_IDLE);
	assert_non_null(strstr(r->src.why, "out of order"));
	assert_true(r->vm.running);
}

static void what_is_asked_for_too_late_is_refused(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};

	assert_int_equal(source_cancel(&r->src, false, "x", &e), -ENOENT);
	e = (struct err){0};
	source_rig_reach(r, SRC_PASSES);
	assert_int_equal(source_start(&r->src, &r->conf, &e), -EBUSY);
	e = (struct err){0};
	assert_int_equal(source_cancel(&r->src, true, "x", &e), -EINVAL);
	source_rig_cause(r, SRC_EV_CONVERGED);
	source_rig_cause(r, SRC_EV_DRAINED);
	source_rig_cause(r, SRC_EV_SENT);
	source_rig_cause(r, SRC_EV_READY);
	e = (struct err){0};
	assert_int_equal(source_cancel(&r->src, false, "x", &e), -EBUSY);
	assert_true(source_stands(&r->src));
	source_rig_cause(r, SRC_EV_LOST);
	e = (struct err){0};
	assert_int_equal(source_cancel(&r->src, false, "x", &e), -EBUSY);
	assert_non_null(strstr(e.msg, "--force"));
	assert_int_equal(source_cancel(&r->src, false, "x", NULL), -EBUSY); /* nobody to tell */
}

/* The same session is said when it asks; a second migration has another. */
static void session_names_it(void **state)
{
	struct source_rig *r = *state;
	uint64_t session;

	source_rig_reach(r, SRC_GO);
	there_reads(r);
	session = r->session;
	assert_int_equal(r->came[FRAME_OFFER], 1);
	assert_int_equal(r->came[FRAME_STATE], 1);
	assert_int_equal(r->came[FRAME_SWITCH], 1);
	assert_int_equal(r->came[FRAME_GO], 1);
	assert_true(session != 0);
	source_rig_cause(r, SRC_EV_LOST);
	source_rig_cause(r, SRC_EV_TIMER);
	source_rig_cause(r, SRC_EV_CONNECTED);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_ASK]));
	assert_int_equal(r->session, session);
	source_rig_cause(r, SRC_EV_NEVER);
	source_rig_until(r, SRC_IDLE);
	kvm_model.busy = 0;
	source_rig_cause(r, SRC_EV_START);
	source_rig_cause(r, SRC_EV_CONNECTED);
	there_reads(r);
	assert_true(r->session != session);
}

/* The end of a guest is not moved; one that boots again does so at the destination. */
static void a_guest_that_has_ended(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};

	r->vm.ending.end = VM_END_OFF;
	assert_int_equal(source_start(&r->src, &r->conf, &e), -EBUSY);
	r->vm.ending.end = VM_END_RESET;
	source_rig_reach(r, SRC_PASSES);
}

/* While somebody else follows what the guest writes, it is not begun. */
static void one_follows_the_writes(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};
	struct dirty d;

	assert_int_equal(dirty_start(&d, &r->vm.kvm, &r->vm.mem, &e), 0);
	assert_int_equal(source_start(&r->src, &r->conf, &e), -EBUSY);
	dirty_stop(&d);
	source_rig_reach(r, SRC_PASSES);
	e = (struct err){0};
	assert_int_equal(dirty_start(&d, &r->vm.kvm, &r->vm.mem, &e), -EBUSY);
	source_rig_cause(r, SRC_EV_CANCEL);
	source_rig_until(r, SRC_IDLE);
	assert_int_equal(dirty_start(&d, &r->vm.kvm, &r->vm.mem, NULL), 0);
	dirty_stop(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_list_is_the_table),
		cmocka_unit_test(each_row),
		cmocka_unit_test(each_message_in_each_state),
		SOURCE_TEST(welcome_without_a_second_link),
		SOURCE_TEST(an_image_goes_along),
		SOURCE_TEST(an_image_that_hangs),
		SOURCE_TEST(an_image_that_stays),
		cmocka_unit_test(answers_that_make_no_sense),
		SOURCE_TEST(done_without_a_question),
		SOURCE_TEST(what_is_asked_for_too_late_is_refused),
		SOURCE_TEST(session_names_it),
		SOURCE_TEST(a_guest_that_has_ended),
		SOURCE_TEST(one_follows_the_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
