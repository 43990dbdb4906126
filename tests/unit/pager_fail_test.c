/*
 * The pager on a host that cannot: pages that are not filled at once, or not at all, threads that
 * are not made. Nothing of it may lose a page, or leave somebody in a fault for ever.
 */
#include "tests/unit/libpager.h"

#include "tests/unit/libhostfail.h"
#include "tests/unit/libnomem.h"
#include "postcopy/uffd.h"

static struct rig r;

static int setup(void **state)
{
	rig_open(&r);
	rig_start(&r);
	return 0;
}

static int setup_early(void **state)
{
	rig_open(&r);
	return 0;
}

static int teardown(void **state)
{
	hostfail_fill(0, 0, 0);
	hostfail_thread(0);
	rig_done(&r);
	return 0;
}

/* While mappings change the kernel says "again", and how much it has done, in one way or another.
 */
static void again_is_no_progress(void **state)
{
	static const long done[] = {0, -EAGAIN, MEM_PAGE_SIZE};
	uint64_t data[MEM_PAGE_SIZE / 8];
	struct toucher t;

	for (unsigned i = 0; i < sizeof(done) / sizeof(done[0]); i++) {
		uint64_t page = 100 + 10 * i;

		touch(&r, &t, page + 2);
		RIG_WANT(&r, page + 2);
		hostfail_fill(3, EAGAIN, done[i]);
		assert_int_equal(rig_take_pages(&r, page, 5, RIG_SEED), 0);
		assert_int_equal(hostfail_left(), 0);
		assert_int_equal(touch_end(&t), rig_word(page + 2, RIG_SEED));
		for (uint64_t p = page; p < page + 5; p++) {
			rig_page(p, RIG_SEED, data);
			assert_memory_equal(mem_page(&r.mem, p), data, MEM_PAGE_SIZE);
		}
	}
	assert_int_equal(pager_left(&r.p), RIG_PAGES - 15);
}

static void again_of_zeros(void **state)
{
	struct toucher t;

	assert_int_equal(rig_take_map(&r, 40, 2, WIRE_MAP_ZERO), 0);
	for (unsigned i = 0; i < 2; i++) {
		hostfail_fill(3, EAGAIN, i ? -EAGAIN : 0);
		touch(&r, &t, 40 + i);
		assert_int_equal(touch_end(&t), 0);
		assert_int_equal(hostfail_left(), 0);
	}
}

/* What the host cannot fill now is not here, is asked for again by the next link, and comes. */
static void a_page_that_cannot_be_had(void **state)
{
	static const int errors[] = {ENOMEM, EAGAIN};
	struct toucher t;
	char why[200];

	for (unsigned i = 0; i < 2; i++) {
		uint64_t page = 200 + i, left = pager_left(&r.p);

		touch(&r, &t, page);
		RIG_WANT(&r, page);
		/* "Again" has an end, too. */
		hostfail_fill(errors[i] == EAGAIN ? UINT32_MAX : 1, errors[i], 0);
		rig_send_pages(&r, page, 1, RIG_SEED);
		rig_event(&r, PAGER_FAILED);
		hostfail_fill(0, 0, 0);
		pager_why(&r.p, why, sizeof(why));
		assert_non_null(strstr(why, strerror(errors[i])));
		assert_int_equal(pager_left(&r.p), left);
		assert_false(touched(&t));
		rig_cut(&r);
		rig_again(&r);
		RIG_WANT(&r, page);
		rig_send_pages(&r, page, 1, RIG_SEED + 1);
		assert_int_equal(touch_end(&t), rig_word(page, RIG_SEED + 1));
		RIG_UNTIL(pager_left(&r.p) == left - 1); /* counted after it is there */
	}
}

/* The same by the main link, in the middle of a run: who waits for any of it gets it later. */
static void a_run_that_cannot_be_had(void **state)
{
	struct toucher t;

	touch(&r, &t, 303);
	RIG_WANT(&r, 303);
	hostfail_fill(1, ENOMEM, 0);
	assert_int_equal(rig_take_pages(&r, 300, 5, RIG_SEED), -ENOMEM);
	assert_int_equal(pager_left(&r.p), RIG_PAGES);
	assert_false(touched(&t));
	assert_int_equal(rig_take_pages(&r, 300, 5, RIG_SEED), 0);
	assert_int_equal(touch_end(&t), rig_word(303, RIG_SEED));
	assert_int_equal(pager_left(&r.p), RIG_PAGES - 5);
}

/* Zeros need nobody, but memory: who waits for them is not forgotten. */
static void zeros_that_cannot_be_had(void **state)
{
	struct toucher t;

	assert_int_equal(rig_take_map(&r, 60, 1, WIRE_MAP_ZERO), 0);
	hostfail_fill(1, ENOMEM, 0);
	touch(&r, &t, 60);
	rig_event(&r, PAGER_FAILED);
	assert_false(touched(&t));
	rig_cut(&r);
	rig_again(&r);
	assert_int_equal(touch_end(&t), 0);
}

/* The loop's own look at zeros, likewise: it hears of it, and looks again. */
static void zeros_that_the_loop_cannot_have(void **state)
{
	assert_int_equal(rig_take_map(&r, 60, 2, WIRE_MAP_ZERO), 0);
	hostfail_fill(1, ENOMEM, 0);
	assert_false(mem_ready(&r.mem, 60 * MEM_PAGE_SIZE, 8));
	rig_event(&r, PAGER_FAILED);
	assert_true(mem_ready(&r.mem, 60 * MEM_PAGE_SIZE, 8));
}

/* No thread: nothing waits for faults that nobody serves, and the next try does. */
static void no_thread(void **state)
{
	struct err e = {0};
	struct toucher t;

	hostfail_thread(1);
	assert_int_equal(pager_start(&r.p, &r.urgent, &e), -EAGAIN);
	assert_non_null(strstr(e.msg, "thread pager"));
	assert_null(r.mem.late);
	touch(&r, &t, 5);
	assert_int_equal(touch_end(&t), 0);
	pager_drop(&r.p);
	assert_int_equal(pager_open(&r.p, &r.mem, r.notify, NULL), 0);
	assert_int_equal(pager_start(&r.p, &r.urgent, NULL), 0);
	touch(&r, &t, 5);
	RIG_WANT(&r, 5);
	rig_send_pages(&r, 5, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(5, RIG_SEED));
}

/* Each allocation fails once: refused with the reason, and nothing is left of it. */
static void no_memory_for_the_state(void **state)
{
	unsigned refused = 0, n = 0;
	bool happened;

	pager_drop(&r.p);
	do {
		struct err e = {0};
		int result;

		nomem_at(++n, 1);
		result = pager_open(&r.p, &r.mem, r.notify, &e);
		happened = nomem_happened();
		nomem_at(0, 0);
		refused += result == -ENOMEM;
		assert_int_equal(result, happened ? -ENOMEM : 0);
		assert_int_equal(happened, strstr(e.msg, "out of memory") != NULL);
		assert_int_equal(!r.p.mem, happened);
	} while (happened);
	assert_true(refused > 3);
	rig_start(&r);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(again_is_no_progress),
		T(again_of_zeros),
		T(a_page_that_cannot_be_had),
		T(a_run_that_cannot_be_had),
		T(zeros_that_cannot_be_had),
		T(zeros_that_the_loop_cannot_have),
		cmocka_unit_test_setup_teardown(no_thread, setup_early, teardown),
		cmocka_unit_test_setup_teardown(no_memory_for_the_state, setup_early, teardown),
	};

	return cmocka_run_group_tests(tests, rig_skip, NULL);
}
