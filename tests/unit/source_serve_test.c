/*
 * The source while its VM runs at the destination: what of memory comes there, over links that are
 * lost at any moment, and what a destination may say of what it has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "postcopy/source_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libhostfail.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libsource.h"
#include "tests/unit/libtime.h"

#define PAGES (64 * SOURCE_RIG_WORDS)

static unsigned had(const struct source_rig *r)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SOURCE_RIG_WORDS; i++)
		n += (unsigned)__builtin_popcountll(r->had[i]);
	return n;
}

static void serve(struct source_rig *r)
{
	source_rig_lazy(r);
	source_rig_reach(r, SRC_SERVE);
}

/* From CUT until it is served again. */
static void mend(struct source_rig *r)
{
	source_rig_cause(r, SRC_EV_TIMER);
	source_rig_cause(r, SRC_EV_CONNECTED);
	source_rig_cause(r, SRC_EV_HAVE);
	source_rig_cause(r, SRC_EV_CONNECTED);
	source_rig_cause(r, SRC_EV_WELCOME);
	assert_int_equal(r->src.fsm.state, SRC_SERVE);
}

static void finish(struct source_rig *r)
{
	source_rig_cause(r, SRC_EV_SENT);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_EOS]));
	assert_int_equal(had(r), PAGES);
	assert_int_equal(r->twice, 0);
	there_says(r, FRAME_EOC);
	source_rig_until(r, SRC_LEFT);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_GONE]));
	assert_int_equal(r->code, 3);
}

static void each_page_comes_once(void **state)
{
	struct source_rig *r = *state;

	serve(r);
	finish(r);
}

/* Some more of it has come, and some is on its way and is lost. */
static void some_then_cut(struct source_rig *r)
{
	unsigned before = had(r);

	loop_until(&r->loop, (there_reads(r), had(r) > before + 20 || had(r) == PAGES));
	source_rig_cause(r, SRC_EV_LOST);
}

static void cut_again_and_again(void **state)
{
	struct source_rig *r = *state;
	unsigned last = 0;
	bool came = true; /* more over the link before, unless nothing was left to come */

	serve(r);
	for (int n = 0; n < 5; n++) {
		some_then_cut(r);
		assert_string_equal(ft_word(&r->ft), "PAUSED");
		assert_non_null(strstr(r->ft.note, "the VM runs at the destination and lacks"));
		if (came)
			assert_int_equal(time_left(&r->src.timer_op), S / 2);
		came = had(r) > last;
		last = had(r);
		mend(r);
		assert_string_equal(ft_word(&r->ft), "MIGRATING");
	}
	finish(r);
}

/* Cut once more while it is mended: at each step of that. */
static void cut_while_it_is_mended(void **state)
{
	static const enum source_event steps[] = {SRC_EV_TIMER, SRC_EV_CONNECTED, SRC_EV_HAVE,
						  SRC_EV_CONNECTED};
	struct source_rig *r = *state;

	serve(r);
	some_then_cut(r);
	for (unsigned n = 1; n <= 4; n++) {
		for (unsigned i = 0; i < n; i++)
			source_rig_cause(r, steps[i]);
		source_rig_cause(r, SRC_EV_LOST);
		assert_int_equal(r->src.fsm.state, SRC_CUT);
		there_listens(r, true);
	}
	mend(r);
	finish(r);
}

/* All has come, and EOC is lost: HAVE says so, or RUNS, when it needs nothing any more. */
static void cut_at_the_end(void **state)
{
	struct source_rig *r = *state;

	serve(r);
	source_rig_cause(r, SRC_EV_SENT);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_EOS]));
	source_rig_cause(r, SRC_EV_LOST);
	mend(r);
	finish(r);
}

/* GO was said and RUNS was lost: it is asked, and has some. */
static void unsure_then_served(void **state)
{
	struct source_rig *r = *state;
	uint64_t session;

	source_rig_lazy(r);
	source_rig_reach(r, SRC_GO);
	there_reads(r);
	session = r->session;
	source_rig_cause(r, SRC_EV_LOST);
	mend(r);
	assert_int_equal(r->session, session);
	assert_int_equal(r->src.result, SOURCE_ACTIVE);
	finish(r);
}

static void what_is_wanted_comes_first(void **state)
{
	struct source_rig *r = *state;

	serve(r);
	/* The main link is full, and nobody reads it. */
	loop_turns(&r->loop);
	there_wants(r, 399);
	loop_until(&r->loop, (there_reads(r), r->had[399 / 64] & 1ull << 399 % 64));
	finish(r);
	assert_int_equal(r->src.urgent.pages + r->src.urgent.late, 1);
}

/* A last word by the main link is waited for. */
static void urgent_ends(struct source_rig *r)
{
	loop_until(&r->loop, time_left(&r->src.timer_op) >= 0);
	assert_int_equal(r->src.fsm.state, SRC_SERVE);
	time_fire(&r->src.timer_op);
	source_rig_until(r, SRC_CUT);
}

static void urgent_link_alone_is_lost(void **state)
{
	struct source_rig *r = *state;

	serve(r);
	there_reads(r);
	stream_done(&r->pair);
	urgent_ends(r);
	assert_non_null(strstr(r->src.why, "urgent link"));
	mend(r);
	there_wants(r, PAGES);
	urgent_ends(r);
	assert_non_null(strstr(r->src.why, "want: page 512 of 512"));
	mend(r);
	finish(r);
}

/* --- a false HAVE ----------------------------------------------------------------------------- */

static void say_have(struct source_rig *r, uint64_t word, uint32_t nwords, uint32_t last,
		     size_t extra)
{
	struct wire_have w = {word, nwords, last};
	uint8_t buf[sizeof(w) + 8 * (SOURCE_RIG_WORDS + 2)];

	memset(buf, 0xff, sizeof(buf));
	memcpy(buf, &w, sizeof(w));
	there_sends(r, FRAME_HAVE, buf, sizeof(w) + extra);
}

static void have_that_cannot_be(void **state)
{
	static const struct {
		uint64_t word;
		uint32_t nwords, last;
		size_t extra;
	} bad[] = {
		{0, 8, 1, 0},	       /* nothing behind it */
		{0, 8, 1, 63},	       /* not whole */
		{0, 8, 1, 72},	       /* more than it says */
		{0, 9, 1, 72},	       /* more than there is */
		{8, 1, 1, 8},	       /* behind the end */
		{UINT64_MAX, 1, 1, 8}, /* far behind it */
		{0, 8, 2, 64},	       /* neither the last nor not */
		{0, 8, 0, 64},	       /* all, and more to come */
		{0, 7, 1, 56},	       /* the last, and not all */
		{8, 0, 1, 0},	       /* the last, and nothing before */
		{4, 4, 1, 32},	       /* the first are missing */
		{0, UINT32_MAX, 1, 8}, /* 32 GiB */
	};
	struct source_rig *r = *state;

	serve(r);
	some_then_cut(r);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		source_rig_cause(r, SRC_EV_TIMER);
		source_rig_cause(r, SRC_EV_CONNECTED);
		say_have(r, bad[i].word, bad[i].nwords, bad[i].last, bad[i].extra);
		source_rig_until(r, SRC_CUT);
		if (!strstr(r->src.why, "out of order"))
			fail_msg("%u: '%s'", i, r->src.why);
	}
	mend(r); /* what the last ones said is void */
	finish(r);
}

/* Shorter than its head; in two parts of which the second comes again. */
static void have_in_parts(void **state)
{
	struct source_rig *r = *state;

	serve(r);
	some_then_cut(r);
	source_rig_cause(r, SRC_EV_TIMER);
	source_rig_cause(r, SRC_EV_CONNECTED);
	there_sends(r, FRAME_HAVE, "short", 5);
	source_rig_until(r, SRC_CUT);
	source_rig_cause(r, SRC_EV_TIMER);
	source_rig_cause(r, SRC_EV_CONNECTED);
	say_have(r, 0, 4, 0, 32);
	say_have(r, 0, 4, 0, 32);
	source_rig_until(r, SRC_CUT);
	source_rig_cause(r, SRC_EV_TIMER);
	source_rig_cause(r, SRC_EV_CONNECTED);
	say_have(r, 0, 4, 0, 32);
	say_have(r, 4, 4, 1, 32);
	source_rig_until(r, SRC_CUT_PAIRING);
}

/*
 * One that says it has all: EOS at once, and the destination's to find out. It keeps the pages: the
 * next one is believed, too.
 */
static void have_that_is_a_lie(void **state)
{
	struct source_rig *r = *state;
	uint64_t truth[SOURCE_RIG_WORDS];

	serve(r);
	some_then_cut(r);
	memcpy(truth, r->had, sizeof(truth));
	memset(r->had, 0xff, sizeof(r->had));
	mend(r);
	source_rig_cause(r, SRC_EV_SENT);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_EOS]));
	memcpy(r->had, truth, sizeof(truth));
	source_rig_cause(r, SRC_EV_LOST);
	mend(r);
	finish(r);
}

/* --- a host that makes no more threads ---------------------------------------------------------
 */

/* Before GO, whichever it is, the migration is given up, and the VM goes on here. */
static void no_thread_before_the_switch(void **state)
{
	static const struct {
		enum source_state s;
		unsigned n;
	} at[] = {{SRC_PAIRING, 1}, {SRC_DRAIN, 1}, {SRC_DRAIN, 2}};

	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct source_rig *r;

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		source_rig_lazy(r);
		if (at[i].s == SRC_DRAIN) {
			source_rig_reach(r, SRC_DRAIN);
			hostfail_thread(at[i].n);
			source_rig_cause(r, SRC_EV_DRAINED);
		} else {
			source_rig_reach(r, SRC_OFFERED);
			source_rig_cause(r, SRC_EV_WELCOME);
			source_rig_cause(r, SRC_EV_CONNECTED);
			hostfail_thread(at[i].n);
			there_says(r, FRAME_WELCOME);
		}
		source_rig_until(r, SRC_IDLE);
		assert_true(hostfail_happened());
		assert_int_equal(r->src.result, SOURCE_FAILED);
		assert_non_null(strstr(r->src.why, "thread"));
		assert_true(r->vm.running);
		assert_int_equal(r->exits, 0);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* From GO on it keeps all, says why, and tries again: no page is lost. */
static void no_thread_behind_the_switch(void **state)
{
	for (unsigned n = 0; n < 3; n++) {
		struct source_rig *r;

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		source_rig_lazy(r);
		source_rig_reach(r, n ? SRC_CUT_PAIRING : SRC_GO);
		if (n)
			source_rig_cause(r, SRC_EV_CONNECTED);
		hostfail_thread(n ? n : 1); /* of a new pair of links: urgent, push */
		there_says(r, n ? FRAME_WELCOME : FRAME_RUNS);
		source_rig_until(r, SRC_CUT);
		assert_true(hostfail_happened());
		assert_non_null(strstr(r->ft.note, n == 1 ? "thread urgent" : "thread push"));
		assert_false(source_may_end(&r->src, "stop"));
		assert_false(r->vm.running);
		mend(r);
		finish(r);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SOURCE_TEST(each_page_comes_once),
		SOURCE_TEST(cut_again_and_again),
		SOURCE_TEST(cut_while_it_is_mended),
		SOURCE_TEST(cut_at_the_end),
		SOURCE_TEST(unsure_then_served),
		SOURCE_TEST(what_is_wanted_comes_first),
		SOURCE_TEST(urgent_link_alone_is_lost),
		SOURCE_TEST(have_that_cannot_be),
		SOURCE_TEST(have_in_parts),
		SOURCE_TEST(have_that_is_a_lie),
		cmocka_unit_test(no_thread_before_the_switch),
		cmocka_unit_test(no_thread_behind_the_switch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
