/* Tokens come in at their rate, whoever looks how often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/base/bucket.h"

#define MS 1000000ull
#define S  1000000000ull

static struct bucket full(uint64_t rate, uint64_t burst, uint64_t now)
{
	struct bucket b = {0};

	bucket_set(&b, rate, burst, now);
	return b;
}

/* Take one by one as soon as it lets: how many by then. Looks each step_ns, or when it says. */
static uint64_t taken(struct bucket *b, uint64_t from, uint64_t to, uint64_t step_ns, uint64_t cost)
{
	uint64_t n = 0, wait;

	for (uint64_t now = from; now <= to; now += step_ns ? step_ns : wait) {
		while (!(wait = bucket_wait_ns(b, now))) {
			bucket_take(b, cost);
			n++;
		}
	}
	return n;
}

static void one_without_a_rate_is_no_limit(void **state)
{
	struct bucket b = {0};

	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(bucket_wait_ns(&b, 7), 0);
		bucket_take(&b, UINT64_MAX);
	}
	bucket_set(&b, 10, 3, 9);
	assert_int_equal(b.level, 3); /* and leaves no debt */
}

static void a_burst_and_then_the_rate(void **state)
{
	struct bucket b = full(1000, 50, 5 * S);

	assert_int_equal(taken(&b, 5 * S, 5 * S, 1, 1), 50);
	assert_int_equal(bucket_wait_ns(&b, 5 * S), MS);
	assert_int_equal(bucket_wait_ns(&b, 5 * S + MS - 1), 1);
	assert_int_equal(bucket_wait_ns(&b, 5 * S + MS), 0);
	bucket_take(&b, 1);
	assert_int_equal(bucket_wait_ns(&b, 5 * S + MS), MS);
	/* No more than a burst is kept. */
	assert_int_equal(taken(&b, 900 * S, 900 * S, 1, 1), 50);
}

/* One that is larger than a burst passes, and is paid for. */
static void a_cost_above_the_burst_is_owed(void **state)
{
	struct bucket b = full(1000, 10, S);

	assert_int_equal(bucket_wait_ns(&b, S), 0);
	bucket_take(&b, 5010);
	assert_int_equal(b.level, -5000);
	assert_int_equal(bucket_wait_ns(&b, S), 5001 * MS);
	assert_int_equal(bucket_wait_ns(&b, 3 * S), 3001 * MS);
	assert_int_equal(bucket_wait_ns(&b, 6 * S + MS), 0);
	assert_int_equal(b.level, 1);
}

/* Whatever the rate, and however often it is looked at: not one more, not one less. */
static void no_drift(void **state)
{
	static const uint64_t rates[] = {1, 3, 7, 999, 1000003, 20u << 20};
	static const uint64_t steps[] = {0, 1009, 333333, 12345677};

	for (unsigned r = 0; r < sizeof(rates) / sizeof(rates[0]); r++)
		for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
			uint64_t cost = rates[r] / 1000 + 1, span = steps[i] == 1009 ? S : 30 * S;
			struct bucket b = full(rates[r], rates[r] + 2, 77);
			uint64_t in = rates[r] * (span / S) + rates[r] + 2, out;

			out = taken(&b, 77, 77 + span, steps[i], cost) * cost;
			bucket_wait_ns(&b, 77 + span);
			assert_int_equal((int64_t)(in - out), b.level);
			assert_in_range(b.level + (int64_t)cost, 0, rates[r] + cost + 1);
		}
}

/* Parts of a token are kept: a million looks, each in between. */
static void looks_cost_nothing(void **state)
{
	struct bucket b = full(3, 5, 0);

	bucket_take(&b, 5);
	for (uint64_t ns = 1; ns < S; ns += 997)
		bucket_wait_ns(&b, ns);
	bucket_wait_ns(&b, S);
	assert_int_equal(b.level, 3);
	assert_int_equal(b.part, 0);
}

static void a_wait_is_over_when_it_says(void **state)
{
	for (uint64_t rate = 1; rate < 3000; rate += 7) {
		struct bucket b = full(rate, 1, 0);
		uint64_t ns;

		bucket_take(&b, 1 + rate / 3);
		ns = bucket_wait_ns(&b, 0);
		assert_true(ns > 0);
		assert_int_equal(bucket_wait_ns(&b, ns - 1), 1);
		assert_int_equal(bucket_wait_ns(&b, ns), 0);
		assert_true(b.level > 0);
	}
}

/* Times, rates, bursts and costs up to 2^64 - 1, and a clock that stands or goes back. */
static void nothing_overflows(void **state)
{
	struct bucket b = full(UINT64_MAX, UINT64_MAX, 0);

	assert_int_equal(b.burst, INT64_MAX);
	for (unsigned i = 0; i < 5; i++)
		bucket_take(&b, UINT64_MAX);
	assert_int_equal(b.level, INT64_MIN);
	assert_true(bucket_wait_ns(&b, 0) > 0);
	assert_int_equal(bucket_wait_ns(&b, UINT64_MAX), 0);
	assert_int_equal(b.level, INT64_MAX);

	b = full(1, 1, UINT64_MAX - 5);
	for (unsigned i = 0; i < 5; i++)
		bucket_take(&b, UINT64_MAX);
	assert_int_equal(bucket_wait_ns(&b, UINT64_MAX), UINT64_MAX); /* some 300 G years */
	assert_int_equal(bucket_wait_ns(&b, 3), UINT64_MAX);
	assert_int_equal(b.at_ns, UINT64_MAX);

	b = full(10, 10, 5 * S);
	bucket_take(&b, 10);
	assert_int_equal(bucket_wait_ns(&b, 4 * S), S / 10); /* no token for that, */
	assert_int_equal(bucket_wait_ns(&b, 5 * S), S / 10);
	assert_int_equal(bucket_wait_ns(&b, 5 * S + S / 10), 0); /* nor one too few */
}

static void set_while_it_runs(void **state)
{
	struct bucket b = full(1000, 100, 0);

	bucket_take(&b, 1100);
	bucket_set(&b, 100, 10, S / 2); /* 500 had come */
	assert_int_equal(b.level, -500);
	assert_int_equal(bucket_wait_ns(&b, S / 2), 5010 * MS);
	bucket_set(&b, 1000000, 100000, S / 2);
	assert_int_equal(bucket_wait_ns(&b, S / 2), 501000);
	/* Less than is there: no more than its burst. */
	assert_int_equal(bucket_wait_ns(&b, 9 * S), 0);
	assert_int_equal(b.level, 100000);
	bucket_set(&b, 10, 1, 9 * S);
	assert_int_equal(b.level, 1);
	bucket_take(&b, 50);
	bucket_set(&b, 0, 0, 9 * S);
	assert_int_equal(bucket_wait_ns(&b, 9 * S), 0);
	bucket_set(&b, 10, 4, 10 * S); /* a new one */
	assert_int_equal(b.level, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_without_a_rate_is_no_limit),
		cmocka_unit_test(a_burst_and_then_the_rate),
		cmocka_unit_test(a_cost_above_the_burst_is_owed),
		cmocka_unit_test(no_drift),
		cmocka_unit_test(looks_cost_nothing),
		cmocka_unit_test(a_wait_is_over_when_it_says),
		cmocka_unit_test(nothing_overflows),
		cmocka_unit_test(set_while_it_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
