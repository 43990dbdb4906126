/* Bytes and operations a second: who is held hears when to go on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/base/limit.h"

#define MS 1000000ull
#define S  1000000000ull

static uint64_t now_ns;

static uint64_t the_clock(void)
{
	return now_ns;
}

struct fix {
	struct loop loop;
	struct limit limit;
	unsigned gone_on;
};

static void go(void *arg)
{
	((struct fix *)arg)->gone_on++;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(loop_init(&f->loop, NULL), 0);
	f->loop.clock = the_clock;
	now_ns = 10 * S;
	limit_init(&f->limit, &f->loop, go, f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	limit_done(&f->limit);
	limit_done(&f->limit);
	loop_done(&f->loop);
	free(f);
	return 0;
}

static void pass(struct fix *f, uint64_t ns)
{
	now_ns += ns;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(loop_run_once(&f->loop, 0), 0);
}

/* As many as may go on now. */
static unsigned through(struct fix *f, uint64_t bytes)
{
	unsigned n = 0;

	for (; n < 1000 && !limit_holds(&f->limit); n++)
		limit_take(&f->limit, bytes);
	return n;
}

static void set(struct fix *f, uint64_t bytes, uint32_t ops)
{
	limit_set(&f->limit, &(struct limit_rates){.bytes = bytes, .ops = ops});
}

static void none_costs_nothing(void **state)
{
	struct fix *f = *state;

	assert_false(limit_is_set(&f->limit));
	assert_int_equal(through(f, UINT64_MAX), 1000);
	assert_int_equal(limit_held_ns(&f->limit), 0);
	set(f, 0, 0);
	assert_int_equal(through(f, UINT64_MAX), 1000);
	assert_int_equal(f->loop.first_timer, 0);
}

static void operations(void **state)
{
	struct fix *f = *state;

	set(f, 0, 100);
	assert_int_equal(through(f, 1 << 30), 12); /* a tenth of a second, and two */
	assert_true(limit_holds(&f->limit));
	pass(f, 10 * MS - 1);
	assert_int_equal(f->gone_on, 0);
	assert_true(limit_holds(&f->limit));
	pass(f, 1);
	assert_int_equal(f->gone_on, 1);
	assert_int_equal(through(f, 1 << 30), 1);
	pass(f, 10 * S);
	assert_int_equal(f->gone_on, 2);
	assert_int_equal(through(f, 1 << 30), 12);
}

static void bytes(void **state)
{
	struct fix *f = *state;

	set(f, 1 << 20, 0);
	assert_int_equal(through(f, 4096), 26); /* the last one is owed in part */
	assert_false(f->gone_on);
	pass(f, 2 * MS);
	assert_int_equal(f->gone_on, 1);
	/* One above a burst is not held for ever: what it owes is. */
	pass(f, S);
	assert_int_equal(through(f, 8 << 20), 1);
	for (unsigned i = 0; i < 7; i++) {
		pass(f, S);
		assert_int_equal(through(f, 1), 0);
	}
	pass(f, S);
	assert_true(through(f, 1) > 0);
}

static void both_hold(void **state)
{
	struct fix *f = *state;

	set(f, 1 << 20, 10);
	assert_int_equal(through(f, 1), 3);
	pass(f, S);
	assert_int_equal(through(f, 1 << 20), 1);
	pass(f, 890 * MS); /* of operations there are enough */
	assert_int_equal(through(f, 1), 0);
	pass(f, 20 * MS);
	assert_int_equal(through(f, 1), 3);
}

/* Tokens that come fast do not make the loop run for each. */
static void a_wait_is_worth_it(void **state)
{
	struct fix *f = *state;

	set(f, 0, 1000000);
	for (unsigned n = 0; n < 100002; n++) {
		assert_false(limit_holds(&f->limit));
		limit_take(&f->limit, 0);
	}
	for (unsigned i = 0; i < 50; i++) {
		assert_true(limit_holds(&f->limit));
		pass(f, 2 * MS - 1);
		assert_int_equal(f->gone_on, i);
		pass(f, 1);
		assert_int_equal(f->gone_on, i + 1);
		for (unsigned k = 0; k < 2000; k++) {
			assert_false(limit_holds(&f->limit));
			limit_take(&f->limit, 0);
		}
	}
}

static void set_while_it_holds(void **state)
{
	struct fix *f = *state;

	set(f, 64 << 10, 0);
	assert_int_equal(through(f, 64 << 20), 1); /* 1024 s */
	assert_true(limit_holds(&f->limit));
	pass(f, S);
	assert_int_equal(f->gone_on, 1); /* looks again now and then */
	assert_int_equal(through(f, 1), 0);
	set(f, 0, 0);
	assert_int_equal(f->gone_on, 1); /* not from inside */
	pass(f, 0);
	assert_int_equal(f->gone_on, 2);
	assert_int_equal(through(f, 1), 1000);
}

static void how_long_it_held(void **state)
{
	struct fix *f = *state;

	set(f, 0, 100);
	through(f, 0);
	pass(f, 4 * MS);
	assert_int_equal(limit_held_ns(&f->limit), 4 * MS);
	pass(f, 26 * MS); /* the loop was away for a while */
	assert_int_equal(limit_held_ns(&f->limit), 30 * MS);
	pass(f, S);
	assert_int_equal(limit_held_ns(&f->limit), 30 * MS);
}

/* Nobody would say when to go on. */
static void without_a_timer_it_does_not_hold(void **state)
{
	struct loop_op *ops = calloc(LOOP_MAX_OPS, sizeof(*ops));
	struct fix *f = *state;
	unsigned n = 0;

	set(f, 0, 100);
	for (; n < LOOP_MAX_OPS; n++)
		if (loop_timer_set(&f->loop, &ops[n], 100 * S))
			break;
	assert_int_equal(through(f, 0), 1000);
	while (n--)
		loop_timer_del(&f->loop, &ops[n]);
	free(ops);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(none_costs_nothing),
		T(operations),
		T(bytes),
		T(both_hold),
		T(a_wait_is_worth_it),
		T(set_while_it_holds),
		T(how_long_it_held),
		T(without_a_timer_it_does_not_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
