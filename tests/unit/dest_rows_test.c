/*
 * The destination's table: each row is taken through the real actions, each message is tried in
 * each state. The list here is the table once more, with what is seen from outside.
 */
#define _GNU_SOURCE /* OFD locks */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libdest.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"

/* --- each row ----------------------------------------------------------------------------------
 */

/* from, by: where it is brought about, when it follows by itself. then: when all is done. */
static const struct expected {
	uint8_t state, event, next, then;
	bool lazy;
	uint8_t from, by;
	const char *word;
	bool run;
} list[] = {
#define FOLLOWS(state, event, next, then, lazy, from, by, ...)                                     \
	{                                                                                          \
		DST_##state, DST_EV_##event, DST_##next, DST_##then, lazy, DST_##from,             \
			DST_EV_##by, __VA_ARGS__                                                   \
	}
#define ROW(state, event, next, then, lazy, ...)                                                   \
	FOLLOWS(state, event, next, then, lazy, state, event, __VA_ARGS__)
#define WAITS "STARTING", false
#define COMES "MIGRATING", false
#define RUNS_ "RUNNING", true
#define LACKS "INCOMPLETE", true
#define ENDS  NULL, false
	/* clang-format off */
	ROW(LISTEN, OFFER, LISTEN, RECEIVING, false, COMES),
	FOLLOWS(LISTEN, BUILT, RECEIVING, RECEIVING, true, LISTEN, OFFER, COMES),
	ROW(RECEIVING, PART, RECEIVING, RECEIVING, true, COMES),
	ROW(RECEIVING, SWITCH, LOADING, READY, false, COMES),
	ROW(RECEIVING, PAIR, RECEIVING, RECEIVING, true, COMES),
	ROW(LOADING, ARRIVED, LOADING, READY, true, COMES),
	FOLLOWS(LOADING, WRITTEN, LOADING, READY, false, RECEIVING, SWITCH, COMES),
	FOLLOWS(LOADING, LOADED, READY, READY, false, RECEIVING, SWITCH, COMES),
	ROW(READY, GO, RUNS, RUNS, false, RUNS_),
	FOLLOWS(RUNS, LACKS, FILL, FILL, true, READY, GO, RUNS_),
	ROW(FILL, PART, FILL, FILL, true, RUNS_),
	ROW(FILL, ARRIVED, FILL, FILL, true, RUNS_),
	ROW(FILL, COMPLETE, RUNS, RUNS, true, RUNS_),
	ROW(FILL, TIMER, FILL, FILL, true, RUNS_),
	ROW(RUNS, GONE, HERE, HERE, false, RUNS_),

	ROW(RECEIVING, TIMER, LISTEN, LISTEN, true, WAITS),
	ROW(RECEIVING, LOST, LISTEN, LISTEN, true, WAITS),
	FOLLOWS(LOADING, NOT_LOADED, LISTEN, LISTEN, true, RECEIVING, SWITCH, WAITS),
	ROW(LOADING, TIMER, LISTEN, LISTEN, true, WAITS),
	ROW(LOADING, LOST, LISTEN, LISTEN, true, WAITS),
	ROW(READY, ARRIVED, READY, READY, true, COMES),
	ROW(READY, TIMER, LISTEN, LISTEN, true, WAITS),
	ROW(READY, LOST, LISTEN, LISTEN, true, WAITS),
	ROW(RUNS, LOST, RUNS, RUNS, false, RUNS_),

	ROW(LISTEN, ASK, LISTEN, LISTEN, false, WAITS),
	ROW(RECEIVING, ASK, RECEIVING, RECEIVING, true, COMES),
	ROW(READY, ASK, LISTEN, LISTEN, true, WAITS),
	ROW(RUNS, ASK, RUNS, RUNS, false, RUNS_),

	ROW(FILL, LOST, CUT, CUT, true, RUNS_),
	ROW(FILL, ASK, MENDING, MENDING, true, RUNS_),
	ROW(CUT, ASK, MENDING, MENDING, true, RUNS_),
	ROW(CUT, TIMER, ORPHAN, ORPHAN, true, LACKS),
	ROW(CUT, ARRIVED, CUT, CUT, true, RUNS_),
	ROW(CUT, COMPLETE, RUNS, RUNS, true, RUNS_),
	ROW(ORPHAN, ASK, MENDING, MENDING, true, RUNS_),
	ROW(ORPHAN, ARRIVED, ORPHAN, ORPHAN, true, LACKS),
	ROW(ORPHAN, COMPLETE, RUNS, RUNS, true, RUNS_),
	ROW(MENDING, PAIR, FILL, FILL, true, RUNS_),
	ROW(MENDING, ASK, MENDING, MENDING, true, RUNS_),
	ROW(MENDING, LOST, CUT, CUT, true, RUNS_),
	ROW(MENDING, TIMER, CUT, CUT, true, RUNS_),
	ROW(MENDING, ARRIVED, MENDING, MENDING, true, RUNS_),

	ROW(LISTEN, END, OVER, OVER, false, ENDS),
	ROW(RECEIVING, END, OVER, OVER, true, ENDS),
	ROW(LOADING, END, OVER, OVER, true, ENDS),
	ROW(READY, END, OVER, OVER, true, ENDS),
	ROW(RUNS, END, OVER, OVER, false, ENDS),
	ROW(FILL, END, OVER, OVER, true, ENDS),
	ROW(CUT, END, OVER, OVER, true, ENDS),
	ROW(ORPHAN, END, OVER, OVER, true, ENDS),
	ROW(MENDING, END, OVER, OVER, true, ENDS),
	ROW(HERE, END, OVER, OVER, false, ENDS),
	/* clang-format on */
};

#define ROWS  (sizeof(list) / sizeof(list[0]))
#define ZEROS 300 /* more than one look at memory makes room for */

/* Somebody other than a vCPU waits for a page; or, without a link, looks at very many zeros. */
static void arrive(struct dest_rig *r)
{
	enum dest_state s = r->dest.fsm.state;

	if (s == DST_CUT || s == DST_ORPHAN || s == DST_MENDING) {
		assert_int_equal(mem_discard(&r->vm.mem, 0, ZEROS * MEM_PAGE_SIZE), 0);
		assert_false(mem_ready(&r->vm.mem, 0, ZEROS * MEM_PAGE_SIZE));
		return;
	}
	if (s != DST_LOADING)
		assert_false(mem_ready(&r->vm.mem, DEST_RIG_CLOCK * MEM_PAGE_SIZE, 1));
	assert_int_equal(here_hears(r, &r->pair), FRAME_WANT);
	here_sends(&r->pair, DEST_RIG_CLOCK, 1);
}

/* The rest of memory comes; or the guest gives all of it back. */
static void complete(struct dest_rig *r)
{
	if (r->dest.fsm.state == DST_CUT || r->dest.fsm.state == DST_ORPHAN) {
		assert_int_equal(mem_discard(&r->vm.mem, 0, r->vm.mem.bytes), 0);
		return;
	}
	here_sends(&r->link, 0, 1);
	here_maps(r, 0, DEST_RIG_PAGES);
	here_ends(r, 0, 1, DEST_RIG_PAGES);
}

static void cause(struct dest_rig *r, unsigned event)
{
	switch (event) {
	case DST_EV_OFFER:
		here_offers(r);
		break;
	case DST_EV_ASK:
		here_asks(r, DEST_RIG_SESSION);
		break;
	case DST_EV_END:
		dest_stop(&r->dest);
		break;
	case DST_EV_PAIR:
		here_pairs(r);
		break;
	case DST_EV_ARRIVED:
		arrive(r);
		break;
	case DST_EV_COMPLETE:
		complete(r);
		break;
	case DST_EV_TIMER:
		time_fire(&r->dest.timer_op);
		break;
	case DST_EV_LOST:
		here_hangs_up(r);
		break;
	case DST_EV_PART:
		here_sends(&r->link, 3, 2);
		break;
	case DST_EV_SWITCH:
		here_states(r, false);
		here_switches(r);
		break;
	default:
		here_says(&r->link, event == DST_EV_GO ? FRAME_GO : FRAME_GONE, NULL, 0);
	}
}

static unsigned looked; /* devices, when pages have arrived */

static void look_again(struct device *d)
{
	looked++;
}

/* Until the VM is destroyed. */
static void count_looks(struct dest_rig *r)
{
	static struct device_ops ops;

	looked = 0;
	if (!r->vm.loop)
		return;
	ops = *r->vm.devices.devs[1]->ops;
	ops.arrived = look_again;
	r->vm.devices.devs[1]->ops = &ops;
}

static bool was_taken(const struct dest_rig *r, uint64_t since, const struct expected *x)
{
	for (uint64_t i = since; i < r->dest.fsm.steps; i++)
		if (r->dest.fsm.trace[i % FSM_TRACE].state == x->state &&
		    r->dest.fsm.trace[i % FSM_TRACE].event == x->event)
			return true;
	return false;
}

/* Of a machine without userfaults the rows of precopy are left. */
static bool is_possible(const struct expected *x)
{
	return !x->lazy || !pager_probe(NULL);
}

static void go_there(struct dest_rig *r, const struct expected *x)
{
	r->lazy = x->lazy;
	if (x->event == DST_EV_WRITTEN) {
		/* An image that is copied to here. */
		here_locks(r, false);
		here_offers_images(r, 1, 0);
		assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
	} else if (x->state == DST_LISTEN && x->event == DST_EV_ASK) {
		/* About one that was dropped here: of another nothing is known. */
		dest_rig_reach(r, DST_RECEIVING);
		here_hangs_up(r);
		dest_rig_until(r, DST_LISTEN);
	} else if (x->state == DST_RECEIVING && x->event == DST_EV_PAIR) {
		here_offers(r);
		assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
	} else {
		dest_rig_reach(r, x->from);
	}
	fake_vm.refuses = x->event == DST_EV_NOT_LOADED;
}

static void take_row(const struct expected *x)
{
	struct dest_rig *r;
	void *state;
	uint64_t at;

	assert_int_equal(dest_rig_setup(&state), 0);
	r = state;
	go_there(r, x);
	count_looks(r);
	at = r->dest.fsm.steps;
	cause(r, x->by);
	loop_until(&r->loop, was_taken(r, at, x));
	if (x->then != x->next)
		dest_rig_until(r, x->then);
	if (x->word)
		dest_rig_expect(r, x->then, x->word, x->run);
	else
		assert_int_equal(r->dest.fsm.state, x->then);
	if (x->event == DST_EV_ARRIVED && x->run)
		assert_true(looked > 0);
	if (x->then == DST_RUNS || x->then == DST_LISTEN)
		assert_null(r->dest.pager.mem);
	if (x->next == DST_CUT && x->event == DST_EV_LOST)
		assert_non_null(strstr(r->ft.note, "link lost"));
	fake_vm.refuses = false;
	assert_int_equal(dest_rig_teardown(&state), 0);
}

static void each_row(void **state)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (is_possible(&list[i]))
			take_row(&list[i]);
}

/* tests/e2e/test_migrate.py: postcopy_file. */
static bool is_of_a_file(const struct fsm_row *row)
{
	return row->event == DST_EV_FILE ||
	       (row->state == DST_CUT && (row->event == DST_EV_PART || row->event == DST_EV_LOST));
}

static void the_list_is_the_table(void **state)
{
	unsigned others = 0;

	for (unsigned i = 0; i < dest_desc.nrows; i++)
		others += is_of_a_file(&dest_desc.rows[i]);
	assert_int_equal(ROWS + others, dest_desc.nrows);
	for (unsigned i = 0; i < ROWS; i++) {
		const struct fsm_row *row = fsm_find(&dest_desc, list[i].state, list[i].event);

		assert_non_null(row);
		assert_int_equal(row->next, list[i].next);
	}
}

/* --- what else is seen --------------------------------------------------------------------------
 */

static void all_the_way(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_HERE);
	dest_rig_expect(r, DST_HERE, "RUNNING", true);
	assert_int_equal(fake_vm.loaded, 1);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(fake_vm.generations, 0); /* it has no twin */
	assert_true(fake_vm.advance_ns >= 5 * MS);
	assert_int_equal(r->dest.door.listen_fd, -1);
}

/* However it ends before GO, nothing is left, and the next one may come. */
static void dropped(struct dest_rig *r, const char *why)
{
	dest_rig_until(r, DST_LISTEN);
	dest_rig_expect(r, DST_LISTEN, "STARTING", false);
	if (!strstr(r->ft.note, why))
		fail_msg("'%s' is not in '%s'", why, r->ft.note);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	/* It says so when it is asked; of another it knows nothing. */
	here_asks(r, DEST_RIG_SESSION);
	assert_int_equal(here_hears(r, &r->ask), FRAME_BYE);
	here_asks(r, DEST_RIG_SESSION + 1);
	assert_int_equal(here_hears(r, &r->ask), FRAME_REFUSE);
	here_locks(r, true);
	dest_rig_reach(r, DST_RUNS);
	dest_rig_expect(r, DST_RUNS, "RUNNING", true);
}

#define DROPPED(name, state_, doing, why)                                                          \
	static void name(void **state)                                                             \
	{                                                                                          \
		struct dest_rig *r = *state;                                                       \
                                                                                                   \
		dest_rig_reach(r, state_);                                                         \
		doing;                                                                             \
		dropped(r, why);                                                                   \
	}

DROPPED(receiving_lost, DST_RECEIVING, stream_done(&r->link), "connection closed")
DROPPED(receiving_bye, DST_RECEIVING, here_says(&r->link, FRAME_BYE, "tired", 5), "source: tired")
DROPPED(ready_lost, DST_READY, stream_done(&r->link), "connection closed")
DROPPED(ready_bye, DST_READY, here_says(&r->link, FRAME_BYE, "tired", 5), "source: tired")
DROPPED(ready_late, DST_READY, time_fire(&r->dest.timer_op), "nothing came in time")
DROPPED(ready_asked, DST_READY, (here_asks(r, DEST_RIG_SESSION), (void)here_hears(r, &r->ask)),
	"lost the link")
DROPPED(switch_without_state, DST_RECEIVING, here_switches(r), "without a state")
DROPPED(pages_that_are_none, DST_RECEIVING, here_says(&r->link, FRAME_PAGES, "x", 1), "malformed")
DROPPED(state_that_is_none, DST_RECEIVING, here_says(&r->link, FRAME_STATE, "x", 1), "")

static void silence_is_measured_from_the_last_frame(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RECEIVING);
	time_pass(&r->loop, 20 * S);
	here_says(&r->link, FRAME_PAGES, NULL, 0);
	loop_until(&r->loop, r->dest.stats.frames == 1);
	time_pass(&r->loop, 20 * S);
	dest_rig_expect(r, DST_RECEIVING, "MIGRATING", false);
	time_pass(&r->loop, 11 * S);
	dropped(r, "nothing came in time");
}

/* This host does not take the state; then it does. */
static void not_loaded(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RECEIVING);
	fake_vm.refuses = true;
	here_states(r, false);
	here_switches(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	fake_vm.refuses = false;
	dropped(r, "this host refuses");
}

/* Somebody else has taken the image that the source gave up. */
static void image_in_use(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RECEIVING);
	here_states(r, false);
	here_says(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dropped(r, "in use by another process");
}

static void images_that_are_not_the_same(void **state)
{
	struct dest_rig *r = *state;

	here_locks(r, false);
	here_offers(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dropped(r, "not the one that the source has open");
}

static void second_offer(void **state)
{
	struct dest_rig *r = *state;
	struct stream first;

	dest_rig_reach(r, DST_RECEIVING);
	first = r->link;
	memset(&r->link, 0, sizeof(r->link));
	r->link.fd = -1;
	here_offers(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_expect(r, DST_RECEIVING, "MIGRATING", false);
	stream_done(&first);
}

/* RUNS got lost: it is said again, as often as it is asked for, and GONE comes on the new link. */
static void asked_when_it_runs(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RUNS);
	for (int i = 0; i < 3; i++) {
		if (i == 1) {
			stream_done(&r->link);
			loop_turns(&r->loop);
		}
		here_asks(r, DEST_RIG_SESSION);
		assert_int_equal(here_hears(r, &r->ask), FRAME_RUNS);
		dest_rig_expect(r, DST_RUNS, "RUNNING", true);
	}
	here_asks(r, DEST_RIG_SESSION + 1);
	assert_int_equal(here_hears(r, &r->ask), FRAME_REFUSE);
	here_dials(r, &r->link, STREAM_MIGRATE, DEST_RIG_SESSION);
	here_says(&r->link, FRAME_ASK, NULL, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_RUNS);
	here_says(&r->link, FRAME_GONE, NULL, 0);
	dest_rig_until(r, DST_HERE);
}

/* A source that cannot come in where it did. The first door stays open. */
static void asked_at_another_door(void **state)
{
	char was[sizeof(((struct dest_rig *)0)->folder)], uri[128];
	struct dest_rig *r = *state;
	struct err e = {0};

	memcpy(was, r->folder, sizeof(was));
	dest_rig_reach(r, DST_RUNS);
	stream_done(&r->link);
	snprintf(uri, sizeof(uri), "unix:%.60s/none/in", was);
	assert_true(dest_recover(&r->dest, uri, &e) < 0);
	assert_non_null(strstr(e.msg, "--recover"));
	e = (struct err){0};
	assert_int_equal(dest_recover(&r->dest, "tcp:localhost:0", &e), -EHOSTUNREACH);
	assert_non_null(strstr(e.msg, "use an address")); /* the loop asks no name server */
	for (int i = 0; i < 2; i++) {			  /* once more is fine, too */
		snprintf(uri, sizeof(uri), "unix:%.60s/out", was);
		assert_int_equal(dest_recover(&r->dest, uri, &e), 0);
		here_asks(r, DEST_RIG_SESSION);
		assert_int_equal(here_hears(r, &r->ask), FRAME_RUNS);
	}
	here_dials_at(&r->link, uri + 5, STREAM_MIGRATE, DEST_RIG_SESSION);
	here_says(&r->link, FRAME_ASK, NULL, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_RUNS);
	here_says(&r->link, FRAME_GONE, NULL, 0);
	dest_rig_until(r, DST_HERE);
	assert_int_equal(r->dest.further.listen_fd, -1);
	e = (struct err){0};
	assert_int_equal(dest_recover(&r->dest, uri, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "all of the VM is here"));
}

static void asked_by_a_stranger(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_READY);
	here_asks(r, DEST_RIG_SESSION + 1);
	assert_int_equal(here_hears(r, &r->ask), FRAME_REFUSE);
	dest_rig_expect(r, DST_READY, "MIGRATING", false);
}

/* What has no row is the source's fault. Before GO all is dropped; after it the VM runs on. */
static void check_stray(enum dest_state s, bool lazy, enum frame_type type)
{
	enum dest_state then = s < DST_FILL ? DST_LISTEN : s == DST_RUNS ? DST_RUNS : DST_CUT;
	struct dest_rig *r;
	void *one;

	assert_int_equal(dest_rig_setup(&one), 0);
	r = one;
	r->lazy = lazy;
	dest_rig_reach(r, s);
	here_says(&r->link, type, NULL, 0);
	loop_until(&r->loop, !dest_has_link(&r->dest));
	dest_rig_until(r, then);
	dest_rig_expect(r, then, then == DST_LISTEN ? "STARTING" : "RUNNING", then != DST_LISTEN);
	assert_int_equal(dest_rig_teardown(&one), 0);
}

static void each_message_in_each_state(void **state)
{
	static const enum frame_type types[] = {FRAME_PAGES,  FRAME_MAP, FRAME_EOS,  FRAME_STATE,
						FRAME_SWITCH, FRAME_GO,	 FRAME_GONE, FRAME_READY,
						FRAME_HELLO,  FRAME_HAVE};
	static const struct {
		enum dest_state state;
		bool lazy;
		enum frame_type good;
	} at[] = {{DST_RECEIVING, false, FRAME_PAGES},
		  {DST_READY, false, FRAME_GO},
		  {DST_RUNS, false, FRAME_GONE},
		  {DST_RECEIVING, true, FRAME_PAGES},
		  {DST_LOADING, true, 0},
		  {DST_READY, true, FRAME_GO},
		  {DST_FILL, true, FRAME_PAGES},
		  {DST_MENDING, true, 0}};

	for (unsigned s = 0; s < sizeof(at) / sizeof(at[0]); s++)
		for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
			if (types[i] != at[s].good && (!at[s].lazy || !pager_probe(NULL)))
				check_stray(at[s].state, at[s].lazy, types[i]);
}

static void the_process_ends_in_each_state(void **state)
{
	static const enum dest_state states[] = {DST_LISTEN, DST_RECEIVING, DST_READY, DST_RUNS,
						 DST_HERE};

	for (unsigned s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
		void *one;

		assert_int_equal(dest_rig_setup(&one), 0);
		dest_rig_reach(one, states[s]);
		assert_int_equal(dest_rig_teardown(&one), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_list_is_the_table),
		cmocka_unit_test(each_row),
		DEST_TEST(all_the_way),
		DEST_TEST(receiving_lost),
		DEST_TEST(receiving_bye),
		DEST_TEST(ready_lost),
		DEST_TEST(ready_bye),
		DEST_TEST(ready_late),
		DEST_TEST(ready_asked),
		DEST_TEST(switch_without_state),
		DEST_TEST(pages_that_are_none),
		DEST_TEST(state_that_is_none),
		DEST_TEST(silence_is_measured_from_the_last_frame),
		DEST_TEST(not_loaded),
		DEST_TEST(image_in_use),
		DEST_TEST(images_that_are_not_the_same),
		DEST_TEST(second_offer),
		DEST_TEST(asked_when_it_runs),
		DEST_TEST(asked_at_another_door),
		DEST_TEST(asked_by_a_stranger),
		cmocka_unit_test(each_message_in_each_state),
		cmocka_unit_test(the_process_ends_in_each_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
