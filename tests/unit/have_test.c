/* What a destination has of a page, and who may change it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "postcopy/have.h"
#include "postcopy/unsent.h"
#include "vmm/base/loop.h"

#define PAGES 200

static struct have h;

static int setup(void **state)
{
	return have_init(&h, PAGES);
}

static int teardown(void **state)
{
	have_done(&h);
	return 0;
}

static unsigned settle(uint64_t page, enum have_state to)
{
	unsigned waiters = 99;

	assert_true(have_settle(&h, page, to, &waiters));
	return waiters;
}

static void once_asked_once_filled(void **state)
{
	assert_int_equal(have_ask(&h, 7, HAVE_FAULT), HAVE_ABSENT);
	assert_int_equal(have_ask(&h, 7, HAVE_FAULT), HAVE_ASKED);
	assert_int_equal(have_ask(&h, 7, HAVE_LOOP), HAVE_ASKED);
	assert_int_equal(h.asked, 1);
	assert_int_equal(have_claim(&h, 7), HAVE_ASKED);
	assert_int_equal(h.asked, 0);
	assert_int_equal(have_claim(&h, 7), HAVE_CLAIMED);
	assert_int_equal(have_ask(&h, 7, HAVE_LOOP), HAVE_CLAIMED);
	assert_int_equal(settle(7, HAVE_PAGE), HAVE_FAULT | HAVE_LOOP);
	assert_int_equal(have_claim(&h, 7), HAVE_PAGE);
	assert_int_equal(have_ask(&h, 7, HAVE_FAULT), HAVE_PAGE);
	assert_int_equal(h.left, PAGES - 1);
}

/* Zeros without memory would be no help to a thread that waits in a fault. */
static void zero_of_a_page_that_is_waited_for(void **state)
{
	unsigned waiters;

	assert_int_equal(have_claim(&h, 1), HAVE_ABSENT);
	assert_int_equal(have_ask(&h, 1, HAVE_FAULT), HAVE_CLAIMED); /* comes in between */
	assert_false(have_settle(&h, 1, HAVE_ZERO, &waiters));
	assert_int_equal(settle(1, HAVE_PAGE), HAVE_FAULT);

	assert_int_equal(have_claim(&h, 2), HAVE_ABSENT);
	assert_int_equal(settle(2, HAVE_ZERO), 0);
	assert_int_equal(h.left, PAGES - 2);
	assert_true(have_claim_zero(&h, 2));
	assert_false(have_claim_zero(&h, 2));
	assert_int_equal(settle(2, HAVE_PAGE), 0);
	assert_int_equal(h.left, PAGES - 2); /* it was here already */
	assert_false(have_claim_zero(&h, 2));
}

static void what_could_not_be_filled(void **state)
{
	have_claim(&h, 1);
	have_unclaim(&h, 1);
	assert_int_equal(have_state(&h, 1), HAVE_ABSENT); /* nobody waits: not asked for */
	have_ask(&h, 2, HAVE_LOOP);
	have_claim(&h, 2);
	have_unclaim(&h, 2);
	assert_int_equal(have_state(&h, 2), HAVE_ASKED);
	assert_int_equal(h.asked, 1);
	have_claim(&h, 3);
	settle(3, HAVE_ZERO);
	have_claim_zero(&h, 3);
	have_unclaim(&h, 3);
	assert_int_equal(have_state(&h, 3), HAVE_ZERO);
	assert_int_equal(h.left, PAGES - 1);
}

struct runs {
	unsigned n;
	uint64_t page[8], count[8];
};

static void add_run(void *arg, uint64_t page, uint64_t count)
{
	struct runs *r = arg;

	r->page[r->n] = page;
	r->count[r->n++] = count;
}

static void removed(void **state)
{
	struct runs r = {0};

	have_claim(&h, 12);
	settle(12, HAVE_PAGE);
	have_ask(&h, 14, HAVE_FAULT);
	assert_int_equal(have_remove(&h, 10, 6, add_run, &r), HAVE_FAULT);
	assert_int_equal(r.n, 2);
	assert_int_equal(r.page[0], 10);
	assert_int_equal(r.count[0], 2);
	assert_int_equal(r.page[1], 13);
	assert_int_equal(r.count[1], 3);
	assert_int_equal(h.left, PAGES - 6);
	assert_int_equal(h.asked, 0);
	assert_int_equal(have_state(&h, 12), HAVE_PAGE); /* until its memory is gone */
	have_emptied(&h, 10, 6);
	assert_int_equal(have_state(&h, 12), HAVE_ZERO);
	assert_int_equal(have_claim(&h, 11), HAVE_ZERO); /* what comes late is dropped */
}

static void *settler(void *arg)
{
	/* When somebody waits for it to be settled, and no sooner. */
	while (!(__atomic_load_n(&h.state[5], __ATOMIC_ACQUIRE) & 0x80))
		sched_yield();
	assert_int_equal(settle(5, HAVE_PAGE), 0);
	return NULL;
}

static void removing_waits_for_a_claim(void **state)
{
	pthread_t t;
	struct runs r = {0};

	have_claim(&h, 5);
	assert_int_equal(pthread_create(&t, NULL, settler, NULL), 0);
	assert_int_equal(have_remove(&h, 5, 1, add_run, &r), 0);
	assert_int_equal(have_state(&h, 5), HAVE_PAGE);
	assert_int_equal(r.n, 0); /* it came: nothing to be spared */
	pthread_join(t, NULL);
}

static void looking_for_a_state(void **state)
{
	for (uint64_t p = 0; p < PAGES; p++)
		have_came(&h, p, p % 3 == 0);
	assert_int_equal(h.left, 0);
	assert_int_equal(have_next(&h, 0, HAVE_ABSENT), PAGES);
	for (uint64_t p = 0; p < PAGES; p++) {
		have_drop(&h, p, 1);
		have_drop(&h, PAGES - 1, 1);
		assert_int_equal(have_next(&h, 0, HAVE_ABSENT), p);
		assert_int_equal(have_next(&h, p + 1, HAVE_ABSENT),
				 p == PAGES - 1 ? PAGES : PAGES - 1);
		have_came(&h, p, false);
		have_came(&h, PAGES - 1, false);
	}
	have_ask(&h, 0, HAVE_LOOP);
	assert_int_equal(have_next(&h, 0, HAVE_ASKED), PAGES);
	have_drop(&h, 77, 1);
	have_ask(&h, 77, HAVE_LOOP); /* with a waiter's bit */
	for (uint64_t p = 0; p < PAGES; p++)
		assert_int_equal(have_next(&h, p, HAVE_ASKED), p <= 77 ? 77 : PAGES);
}

static void bitmap(void **state)
{
	uint64_t bits[4] = {1, 1, 1, 1};

	have_came(&h, 0, false);
	have_came(&h, 63, true);
	have_came(&h, 64, false);
	have_came(&h, PAGES - 1, false);
	have_claim(&h, 100);
	have_ask(&h, 101, HAVE_FAULT);
	have_claim_zero(&h, 63); /* gets its memory: is here */
	have_bitmap(&h, 0, 4, bits);
	assert_int_equal(bits[0], 1 | 1ull << 63);
	assert_int_equal(bits[1], 1);
	assert_int_equal(bits[2], 0);
	assert_int_equal(bits[3], 1ull << (PAGES - 1) % 64);
}

/* --- by many at once ---------------------------------------------------------------------------
 */

#define THREADS 4
#define ROUNDS	20

static struct have many;
static uint64_t filled;
static pthread_barrier_t begin;

static void *filler(void *arg)
{
	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&begin);
		for (uint64_t p = 0; p < many.npages; p++) {
			unsigned waiters;

			have_ask(&many, p, HAVE_LOOP);
			if (have_claim(&many, p) > HAVE_ASKED)
				continue;
			__atomic_fetch_add(&filled, 1, __ATOMIC_RELAXED);
			have_settle(&many, p, HAVE_PAGE, &waiters);
		}
		pthread_barrier_wait(&begin);
	}
	return NULL;
}

static void one_fills_a_page(void **state)
{
	pthread_t t[THREADS];

	pthread_barrier_init(&begin, NULL, THREADS + 1);
	assert_int_equal(have_init(&many, 4096), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, filler, NULL), 0);
	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&begin);
		pthread_barrier_wait(&begin);
		assert_int_equal(filled, many.npages);
		assert_int_equal(many.left, 0);
		assert_int_equal(many.asked, 0);
		filled = 0;
		have_drop(&many, 0, many.npages);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	have_done(&many);
	pthread_barrier_destroy(&begin);
}

/* --- what a source still owes ------------------------------------------------------------------
 */

static void unsent_bits(void **state)
{
	struct unsent u;

	assert_int_equal(unsent_init(&u, 70, true), 0);
	assert_int_equal(u.left, 70);
	assert_int_equal(u.bits[1], 0x3f);
	assert_true(unsent_claim(&u, 69));
	assert_false(unsent_claim(&u, 69));
	assert_int_equal(unsent_take(&u, 1, UINT64_MAX), 0x1f);
	assert_int_equal(u.left, 64);
	assert_int_equal(u.flying, 6);
	assert_int_equal(unsent_next(&u, 64), 70);
	assert_int_equal(unsent_next(&u, 3), 3);
	assert_int_equal(unsent_take(&u, 0, ~(1ull << 3)), ~(1ull << 3));
	assert_int_equal(unsent_next(&u, 0), 3);
	assert_int_equal(unsent_next(&u, 4), 70);
	unsent_written(&u, 69);
	assert_false(unsent_over(&u));
	assert_true(unsent_claim(&u, 3));
	assert_false(unsent_over(&u)); /* not left, but flying */
	unsent_written(&u, 1);
	assert_true(unsent_over(&u));
	/* The peer has lost some of it. */
	unsent_peer_has(&u, 0, UINT64_MAX);
	unsent_peer_has(&u, 1, 1);
	assert_int_equal(u.left, 5);
	assert_int_equal(unsent_next(&u, 0), 65);
	unsent_set(&u, 64);
	unsent_set(&u, 64);
	assert_int_equal(u.left, 6);
	unsent_done(&u);
	assert_int_equal(unsent_init(&u, 70, false), 0);
	assert_true(unsent_over(&u));
	unsent_done(&u);
}

static struct unsent shared;
static uint64_t taken;

static void *taker(void *arg)
{
	uint64_t page = 0, mine = 0;

	pthread_barrier_wait(&begin);
	while ((page = unsent_next(&shared, page)) < shared.npages) {
		uint64_t got = unsent_take(&shared, page / 64, 0xffull << (page % 64));

		mine += (uint64_t)__builtin_popcountll(got);
		unsent_written(&shared, (uint64_t)__builtin_popcountll(got));
	}
	__atomic_fetch_add(&taken, mine, __ATOMIC_RELAXED);
	return NULL;
}

static void each_page_is_taken_once(void **state)
{
	pthread_t t[THREADS];
	bool stop = false;

	pthread_barrier_init(&begin, NULL, THREADS);
	assert_int_equal(unsent_init(&shared, 100001, true), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, taker, NULL), 0);
	unsent_wait(&shared, &stop, loop_now_ns() + 10000000000ull);
	assert_true(unsent_over(&shared));
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(taken, shared.npages);
	unsent_done(&shared);
	pthread_barrier_destroy(&begin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(once_asked_once_filled, setup, teardown),
		cmocka_unit_test_setup_teardown(zero_of_a_page_that_is_waited_for, setup, teardown),
		cmocka_unit_test_setup_teardown(what_could_not_be_filled, setup, teardown),
		cmocka_unit_test_setup_teardown(removed, setup, teardown),
		cmocka_unit_test_setup_teardown(removing_waits_for_a_claim, setup, teardown),
		cmocka_unit_test_setup_teardown(looking_for_a_state, setup, teardown),
		cmocka_unit_test_setup_teardown(bitmap, setup, teardown),
		cmocka_unit_test(one_fills_a_page),
		cmocka_unit_test(unsent_bits),
		cmocka_unit_test(each_page_is_taken_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
