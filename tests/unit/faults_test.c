/* Who was blocked by faults, for how long, by a clock that the test has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "postcopy/faults.h"

#define US	    1000ull
#define MS	    1000000ull
#define VCPUS	    3
#define TID(vcpu)   (1000u + (vcpu))
#define STRANGER(n) (5000u + (n))

static int of_tid(void *arg, uint32_t tid)
{
	return tid >= TID(0) && tid < TID(VCPUS) ? (int)(tid - TID(0)) : -1;
}

static int setup(void **state)
{
	struct faults *f = calloc(1, sizeof(*f));

	faults_init(f);
	faults_of_vcpus(f, VCPUS, of_tid, NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void each_vcpu_its_own(void **state)
{
	struct faults *f = *state;
	struct faults_stats s;

	faults_begin(f, TID(0), 5, 10 * MS);
	faults_begin(f, TID(2), 5, 11 * MS); /* one page, two who wait */
	faults_begin(f, STRANGER(0), 6, 12 * MS);
	assert_int_equal(faults_vcpus(f), 5);
	faults_end(f, 5, 14 * MS);
	assert_int_equal(faults_vcpus(f), 0);
	faults_begin(f, TID(0), 7, 20 * MS);
	faults_end(f, 7, 27 * MS);
	faults_end(f, 8, 28 * MS); /* nobody waits for it */
	faults_get(f, &s);
	assert_int_equal(s.sum[0].count, 2);
	assert_int_equal(s.sum[0].ended, 2);
	assert_int_equal(s.sum[0].blocked_ns, 11 * MS);
	assert_int_equal(s.sum[0].max_ns, 7 * MS);
	assert_int_equal(s.sum[1].count, 0);
	assert_int_equal(s.sum[2].blocked_ns, 3 * MS);
	assert_int_equal(s.sum[FAULTS_OTHERS].count, 1);
	assert_int_equal(s.sum[FAULTS_OTHERS].ended, 0);
	assert_int_equal(s.all.count, 4);
	assert_int_equal(s.all.ended, 3);
	assert_int_equal(s.all.blocked_ns, 14 * MS);
	assert_int_equal(s.most, 3);
	assert_int_equal(f->waiting, 1);
	assert_int_equal(s.all_blocked_ns, 0); /* vCPU 1 never was */
}

/* Only while no vCPU runs at all. */
static void all_at_once(void **state)
{
	struct faults *f = *state;
	struct faults_stats s;

	faults_begin(f, TID(0), 1, 10 * MS);
	faults_begin(f, STRANGER(0), 9, 11 * MS);
	faults_begin(f, TID(1), 2, 12 * MS);
	faults_begin(f, TID(2), 3, 15 * MS);
	faults_end(f, 2, 19 * MS);
	faults_begin(f, TID(1), 2, 25 * MS);
	faults_end(f, 1, 26 * MS);
	faults_end(f, 3, 40 * MS);
	faults_get(f, &s);
	assert_int_equal(s.all_blocked_ns, 5 * MS);
	assert_int_equal(s.most, 4);
}

/* The same thread again: it waits since the first time, for what it wanted last. */
static void told_twice(void **state)
{
	struct faults *f = *state;
	struct faults_stats s;

	faults_begin(f, TID(0), 1, 10 * MS);
	faults_begin(f, TID(0), 1, 12 * MS);
	faults_begin(f, TID(0), 2, 13 * MS);
	faults_end(f, 1, 14 * MS);
	assert_int_equal(f->waiting, 1);
	faults_end(f, 2, 15 * MS);
	faults_get(f, &s);
	assert_int_equal(f->waiting, 0);
	assert_int_equal(s.sum[0].count, 3);
	assert_int_equal(s.sum[0].ended, 1);
	assert_int_equal(s.sum[0].blocked_ns, 5 * MS);
}

/* More than can be remembered are counted, and those that are keep their times. */
static void a_crowd(void **state)
{
	struct faults *f = *state;
	struct faults_stats s;

	for (unsigned i = 0; i < FAULTS_WAITS + 10; i++)
		faults_begin(f, STRANGER(i), i % 2, 10 * MS);
	faults_end(f, 0, 11 * MS);
	faults_begin(f, TID(1), 7, 12 * MS);
	faults_end(f, 7, 14 * MS);
	faults_end(f, 1, 15 * MS);
	faults_get(f, &s);
	assert_int_equal(s.most, FAULTS_WAITS);
	assert_int_equal(s.all.count, FAULTS_WAITS + 11);
	assert_int_equal(s.all.ended, FAULTS_WAITS + 1);
	assert_int_equal(s.sum[1].blocked_ns, 2 * MS);
	assert_int_equal(f->waiting, 0);
}

static void one(struct faults *f, uint64_t ns)
{
	faults_begin(f, TID(0), 1, MS);
	faults_end(f, 1, MS + ns);
}

static void near(uint64_t got, uint64_t want)
{
	if (got < want || got > want + want / FAULTS_STEPS + US / FAULTS_STEPS)
		fail_msg("%llu ns, not %llu", (unsigned long long)got, (unsigned long long)want);
}

static void percentiles(void **state)
{
	struct faults *f = *state;
	struct faults_stats s;

	faults_get(f, &s);
	assert_int_equal(faults_percentile_ns(&s, 50), 0);
	for (uint64_t n = 1; n <= 3; n++)
		one(f, n * 100 * US);
	faults_get(f, &s);
	near(faults_percentile_ns(&s, 50), 200 * US);
	teardown(state);
	setup(state);
	f = *state;
	for (uint64_t n = 1; n <= 100; n++)
		one(f, n * 10 * US);
	faults_get(f, &s);
	near(faults_percentile_ns(&s, 50), 500 * US);
	near(faults_percentile_ns(&s, 99), 990 * US);
	assert_int_equal(faults_percentile_ns(&s, 100), 1000 * US);
	assert_int_equal(s.all.max_ns, 1000 * US);
}

/* Each time has a place of its own size, from nothing to hours. */
static void every_time_has_a_place(void **state)
{
	struct faults *f = *state;
	uint64_t last = 0;

	for (uint64_t ns = 1; ns < 1ull << 45; ns += 1 + ns / 7) {
		struct faults_stats s;

		teardown(state);
		setup(state);
		f = *state;
		one(f, ns);
		one(f, ns + ns / 4 + 1000); /* so that the largest is not the answer */
		faults_get(f, &s);
		if (ns < 1000 * US << FAULTS_OCTAVES >> 10)
			near(faults_percentile_ns(&s, 50), ns);
		assert_true(faults_percentile_ns(&s, 50) >= last);
		last = faults_percentile_ns(&s, 50);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_vcpu_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(all_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(told_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(a_crowd, setup, teardown),
		cmocka_unit_test_setup_teardown(percentiles, setup, teardown),
		cmocka_unit_test_setup_teardown(every_time_has_a_place, setup, teardown),
	};

	return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
