/* What a primary counts of its epochs, and what really came of them. */
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

static void what_is_counted(void **state)
{
	struct rig *r = *state;
	struct ft_stats *s = &r->ft.stats;

	rig_reach(r, PRI_STEADY);
	assert_int_equal(s->epochs, 1);
	assert_int_equal(s->nsamples, 1);
	for (unsigned i = 0; i < 4; i++) {
		rig_scribble(r, 20, 4);
		rig_cause(r, PRI_EV_TIMER);
		arrive(r);
		assert_int_equal(r->end.pages, 4);
		assert_int_equal(s->last_pages, 4);
		time_jump((i + 1) * MS);
		rig_cause(r, PRI_EV_ACK);
		assert_int_equal(s->ack_us[i + 1], (i + 1) * 1000);
		assert_int_equal(s->npages[i + 1], 4);
		assert_int_equal(s->pause_us[i + 1], 0);
	}
	assert_int_equal(s->epochs, 5);
	assert_int_equal(s->hot_pages, 8); /* the third and the fourth time */
	assert_true(s->page_bytes >= 4 * 4 * 4096);
	assert_int_equal(s->throttled, 0);
}

/* What is told of all epochs is what has come of them, by whatever link. */
static void sums_are_those_of_the_wire(void **state)
{
	struct rig *r = *state;
	struct ft_stats *s = &r->ft.stats;
	uint64_t lag_ns = 0;

	rig_reach(r, PRI_IDLE);
	for (unsigned link = 0; link < 3; link++) {
		rig_sync_again(r);
		for (unsigned i = 0; i < 5; i++) {
			arrive(r);
			time_jump((i + 1) * MS);
			lag_ns += (i + 1) * MS;
			rig_cause(r, PRI_EV_ACK);
			rig_scribble(r, 20 + i / 2, 3 + link);
			rig_cause(r, PRI_EV_TIMER);
		}
		arrive(r);
		rig_cause(r, PRI_EV_LOST);
		rig_cause(r, PRI_EV_WON);
		assert_int_equal(s->epochs, r->came[FRAME_EPOCH_END]);
		assert_int_equal(s->pages, r->pages);
		assert_int_equal(s->page_bytes, r->page_bytes);
		assert_int_equal(s->ack_ns, lag_ns);
	}
	assert_true(s->hot_pages > 0 && s->hot_pages < s->pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(what_is_counted),
		RIG_TEST(sums_are_those_of_the_wire),
	};

	return cmocka_run_group_tests_name("primary_stats", tests, NULL, NULL);
}
