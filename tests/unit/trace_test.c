/* The ring of spans: kept while somebody asks, in order, with a limit that is told of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "ft/common/trace.h"

static void span(struct trace *t, uint64_t begin, uint64_t end)
{
	trace_span(t, &(struct trace_span){begin, end, begin, end, TRACE_PAUSE, 3});
}

static void off_keeps_nothing(void **state)
{
	struct trace t = {0};
	struct trace_span s;

	span(&t, 1, 2);
	assert_false(trace_take(&t, &s));
	assert_int_equal(t.lost, 0);
	trace_stop(&t);
	assert_int_equal(trace_start(&t, NULL), 0);
	span(&t, 1, 2);
	trace_stop(&t);
	assert_false(trace_take(&t, &s));
}

static void in_order(void **state)
{
	struct trace t;
	struct trace_span s;

	assert_int_equal(trace_start(&t, NULL), 0);
	/* Round the ring more than once. */
	for (uint64_t at = 1; at < 3 * TRACE_RING; at += 100) {
		for (uint64_t i = at; i < at + 100; i++)
			span(&t, i, i + 7);
		for (uint64_t i = at; i < at + 100; i++) {
			assert_true(trace_take(&t, &s));
			assert_int_equal(s.begin_ns, i);
			assert_int_equal(s.end_ns, i + 7);
			assert_int_equal(s.epoch, i);
			assert_int_equal(s.n, i + 7);
			assert_int_equal(s.what, TRACE_PAUSE);
			assert_int_equal(s.why, 3);
		}
		assert_false(trace_take(&t, &s));
	}
	assert_int_equal(t.lost, 0);
	trace_stop(&t);
}

static void has_a_limit(void **state)
{
	struct trace t;
	struct trace_span s;
	uint64_t n = 0;

	assert_int_equal(trace_start(&t, NULL), 0);
	for (uint64_t i = 1; i <= TRACE_RING + 9; i++)
		span(&t, i, i);
	assert_int_equal(t.lost, 9);
	while (trace_take(&t, &s))
		assert_int_equal(s.begin_ns, ++n);
	assert_int_equal(n, TRACE_RING);
	trace_stop(&t);
}

/* What has not begun, or has ended before it did. */
static void what_never_was(void **state)
{
	struct trace t;
	struct trace_span s;

	assert_int_equal(trace_start(&t, NULL), 0);
	span(&t, 0, 5);
	span(&t, 5, 4);
	span(&t, 5, 0);
	assert_false(trace_take(&t, &s));
	assert_int_equal(t.lost, 0);
	trace_stop(&t);
}

static void names_are_all_different(void **state)
{
	for (unsigned i = 0; i < TRACE_WHATS; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(trace_row_at(i)->name, trace_row_at(k)->name);
	assert_null(trace_row_at(TRACE_WHATS));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(off_keeps_nothing),
		cmocka_unit_test(in_order),
		cmocka_unit_test(has_a_limit),
		cmocka_unit_test(what_never_was),
		cmocka_unit_test(names_are_all_different),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
