#define _GNU_SOURCE
/* The pager against a source that the test plays: faults, duplicates, zeros, what is given back. */
#include "tests/unit/libpager.h"

#include <sys/stat.h>

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
	rig_done(&r);
	return 0;
}

static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(fstat(r.mem.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

/* What was sent before it has been taken: an urgent frame behind it has. */
static void settle_urgent(uint64_t page)
{
	struct toucher t;

	touch(&r, &t, page);
	RIG_WANT(&r, page);
	rig_send_pages(&r, page, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(page, RIG_SEED));
}

static void a_fault_is_asked_for(void **state)
{
	struct pager_stats s;
	struct toucher t;

	touch(&r, &t, 5);
	RIG_WANT(&r, 5);
	assert_false(touched(&t));
	rig_send_pages(&r, 5, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(5, RIG_SEED));
	RIG_UNTIL(__atomic_load_n(&r.p.counts.urgent, __ATOMIC_ACQUIRE) == 1);
	assert_int_equal(__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE), 0);
	pager_get_stats(&r.p, &s);
	assert_int_equal(s.faults.all.count, 1);
	assert_int_equal(s.faults.sum[FAULTS_OTHERS].ended, 1);
	assert_true(s.faults.all.blocked_ns > 0);
	assert_int_equal(faults_percentile_ns(&s.faults, 50), s.faults.all.max_ns);
	assert_int_equal(s.counts.urgent, 1);
	assert_int_equal(s.asked, 0);
	assert_int_equal(s.left, RIG_PAGES - 1);
	assert_int_equal(pager_left(&r.p), RIG_PAGES - 1);
	assert_int_equal(rig_counts(&r).wants, 1);
	assert_int_equal(rig_counts(&r).unasked, 0);
}

#define CROWD 8

static void one_request_however_many_wait(void **state)
{
	struct toucher t[CROWD];

	for (unsigned i = 0; i < CROWD; i++)
		touch(&r, &t[i], 9);
	RIG_WANT(&r, 9);
	RIG_UNTIL(__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE) == CROWD);
	settle_urgent(10); /* the next request: no second one for 9 */
	rig_send_pages(&r, 9, 1, RIG_SEED);
	for (unsigned i = 0; i < CROWD; i++)
		assert_int_equal(touch_end(&t[i]), rig_word(9, RIG_SEED));
	assert_int_equal(rig_counts(&r).wants, 2);
	assert_int_equal(r.p.faults.stats.most, CROWD + 1);
	RIG_UNTIL(!__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE));
	assert_int_equal(r.p.faults.stats.all.ended, CROWD + 1);
}

/* Pushed meanwhile: whoever waits goes on, and the answer that comes late changes nothing. */
static void the_other_link_may_be_faster(void **state)
{
	struct toucher t;

	touch(&r, &t, 3);
	RIG_WANT(&r, 3);
	assert_int_equal(rig_take_pages(&r, 2, 3, RIG_SEED), 0);
	assert_int_equal(touch_end(&t), rig_word(3, RIG_SEED));
	*(uint64_t *)mem_page(&r.mem, 3) = 1234;
	rig_send_pages(&r, 3, 1, RIG_SEED + 1);
	settle_urgent(100);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 3), 1234);
	assert_int_equal(rig_counts(&r).twice, 1);
	assert_int_equal(rig_counts(&r).pushed, 3);
}

static void a_duplicate_never_overwrites(void **state)
{
	uint64_t *word = (uint64_t *)mem_page(&r.mem, 20);

	settle_urgent(20);
	*word = 1234;
	rig_send_pages(&r, 20, 1, RIG_SEED);
	rig_send_pages(&r, 19, 3, 0); /* as zeros, too, and among others */
	settle_urgent(21 + 1);
	assert_int_equal(rig_take_pages(&r, 20, 2, RIG_SEED), 0);
	assert_int_equal(rig_take_map(&r, 18, 5, WIRE_MAP_ZERO), 0);
	assert_int_equal(*word, 1234);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 22), rig_word(22, RIG_SEED));
	assert_int_equal(rig_counts(&r).twice, 4);
	assert_int_equal(rig_counts(&r).unasked, 2);
}

/* Twice in one frame, and the second is not what is kept. */
static void twice_in_a_frame(void **state)
{
	uint32_t a_len, b_len;
	uint8_t *a = rig_pages(40, 2, RIG_SEED, &a_len),
		*b = rig_pages(40, 2, RIG_SEED + 5, &b_len);
	uint8_t *both = malloc(a_len + b_len);

	memcpy(both, a, a_len);
	memcpy(both + a_len, b, b_len);
	assert_int_equal(rig_take(&r, FRAME_PAGES, both, a_len + b_len), 0);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 41), rig_word(41, RIG_SEED));
	assert_int_equal(rig_counts(&r).twice, 2);
	free(a);
	free(b);
	free(both);
}

static void zeros_take_no_memory(void **state)
{
	struct toucher t, wait;

	assert_int_equal(allocated(), 0);
	touch(&r, &wait, 130);
	RIG_WANT(&r, 130);
	assert_int_equal(rig_take_map(&r, 100, 100, WIRE_MAP_ZERO), 0);
	assert_int_equal(touch_end(&wait), 0); /* waits for one of them */
	assert_int_equal(allocated(), 1);
	assert_int_equal(pager_left(&r.p), RIG_PAGES - 100);
	touch(&r, &t, 150);
	assert_int_equal(touch_end(&t), 0);
	assert_int_equal(rig_counts(&r).wants, 1); /* the peer was not asked */
	assert_int_equal(allocated(), 2);
	RIG_UNTIL(!__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE));
	assert_int_equal(rig_counts(&r).zero, 100);
	/* An answer that is a page of zeros. */
	touch(&r, &t, 300);
	RIG_WANT(&r, 300);
	rig_send_pages(&r, 300, 1, 0);
	assert_int_equal(touch_end(&t), 0);
	assert_int_equal(rig_take_pages(&r, 301, 2, 0), 0);
	assert_int_equal(allocated(), 3);
}

static void given_back_reads_as_zero(void **state)
{
	struct toucher t;
	struct frame f;
	struct wire_run run;

	settle_urgent(51);
	assert_int_equal(mem_discard(&r.mem, 50 * MEM_PAGE_SIZE, 3 * MEM_PAGE_SIZE), 0);
	rig_next(&r, &f); /* the source is told, of what had not come, as runs that touch */
	assert_int_equal(f.type, FRAME_REMOVED);
	assert_int_equal(f.length, 2 * sizeof(run));
	memcpy(&run, f.data, sizeof(run));
	assert_int_equal(run.page, 50);
	assert_int_equal(run.count, 1);
	memcpy(&run, f.data + sizeof(run), sizeof(run));
	assert_int_equal(run.page, 52);
	assert_int_equal(run.count, 1);
	for (uint64_t page = 50; page < 53; page++) {
		touch(&r, &t, page);
		assert_int_equal(touch_end(&t), 0);
	}
	/* It was on its way: late, and dropped. */
	assert_int_equal(rig_take_pages(&r, 50, 3, RIG_SEED), 0);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 50), 0);
	assert_int_equal(rig_counts(&r).removed, 2);
	assert_int_equal(rig_counts(&r).twice, 3);
	assert_int_equal(rig_counts(&r).wants, 1);
	assert_int_equal(pager_left(&r.p), RIG_PAGES - 3);
	/* And again, what has memory now. */
	*(uint64_t *)mem_page(&r.mem, 52) = 9;
	assert_int_equal(mem_discard(&r.mem, 52 * MEM_PAGE_SIZE, MEM_PAGE_SIZE), 0);
	touch(&r, &t, 52);
	assert_int_equal(touch_end(&t), 0);
	assert_int_equal(rig_counts(&r).wants, 1);
}

static void given_back_while_it_is_waited_for(void **state)
{
	struct toucher t;

	touch(&r, &t, 60);
	RIG_WANT(&r, 60);
	assert_int_equal(mem_discard(&r.mem, 60 * MEM_PAGE_SIZE, MEM_PAGE_SIZE), 0);
	assert_int_equal(touch_end(&t), 0);
}

/*
 * The page has memory by another way, of which the kernel tells nobody: a fill that finds it there
 * is to wake whoever waits.
 */
static void a_page_that_is_there_wakes(void **state)
{
	struct toucher t;
	uint64_t data[MEM_PAGE_SIZE / 8];

	touch(&r, &t, 70);
	RIG_WANT(&r, 70);
	rig_page(70, 3, data);
	assert_int_equal(pwrite(r.mem.fd, data, sizeof(data), 70 * MEM_PAGE_SIZE), sizeof(data));
	rig_send_pages(&r, 70, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(70, 3));
	RIG_UNTIL(__atomic_load_n(&r.p.counts.exist, __ATOMIC_ACQUIRE) == 1);
}

/* The same of pages of zeros, and of one that is in the middle of a run. */
static void uffd_wakes_what_exists(void **state)
{
	struct uffd_fault fault;
	struct toucher t;
	uint64_t data[3 * MEM_PAGE_SIZE / 8], exist = 0;
	int fd = uffd_open(NULL);

	assert_true(fd >= 0);
	assert_int_equal(uffd_register(fd, &r.mem), 0);
	for (uint64_t page = 80; page < 100; page += 10) {
		memset(data, 1, sizeof(data));
		touch(&r, &t, page + 1);
		RIG_UNTIL(uffd_read(fd, &r.mem, &fault, 1) == 1);
		assert_int_equal(fault.page, page + 1);
		assert_int_equal(pwrite(r.mem.fd, data, MEM_PAGE_SIZE, (page + 1) * MEM_PAGE_SIZE),
				 MEM_PAGE_SIZE);
		memset(data, 2, sizeof(data));
		if (page == 80)
			assert_int_equal(uffd_copy(fd, &r.mem, page, data, 3, &exist), 0);
		else
			assert_int_equal(uffd_zero(fd, &r.mem, page + 1, &exist), 0);
		assert_int_equal(touch_end(&t), 0x0101010101010101ull);
	}
	assert_int_equal(exist, 2);
	assert_int_equal(*mem_page(&r.mem, 80), 2);
	assert_int_equal(*mem_page(&r.mem, 82), 2);
	uffd_unregister(fd, &r.mem);
	close(fd);
}

/* --- the loop's own accesses --------------------------------------------------------------------
 */

static void the_loop_asks_first(void **state)
{
	const gpa_t gpa = 200 * MEM_PAGE_SIZE - 1; /* the last byte of 199, and all of 200 */

	assert_false(mem_ready(&r.mem, gpa, MEM_PAGE_SIZE + 1));
	assert_false(mem_ready(&r.mem, gpa, MEM_PAGE_SIZE + 1)); /* asked for once */
	RIG_UNTIL(__atomic_load_n(&r.p.counts.wants, __ATOMIC_ACQUIRE) == 2);
	rig_send_pages(&r, 199, 1, RIG_SEED);
	rig_event(&r, PAGER_ARRIVED);
	assert_false(mem_ready(&r.mem, gpa, 2));
	assert_true(mem_ready(&r.mem, gpa, 1));
	rig_send_pages(&r, 200, 1, RIG_SEED);
	rig_event(&r, PAGER_ARRIVED);
	assert_true(mem_ready(&r.mem, gpa, MEM_PAGE_SIZE + 1));
	assert_true(mem_ready(&r.mem, gpa, 0));
	assert_true(mem_ready(&r.mem, RIG_BYTES, 8)); /* no RAM: whoever touches it is told */
	assert_int_equal(r.p.faults.stats.all.count, 0);
	/* What is pushed is waited for, too. */
	assert_false(mem_ready(&r.mem, 210 * MEM_PAGE_SIZE, 8));
	assert_int_equal(rig_take_pages(&r, 205, 10, RIG_SEED), 0);
	rig_event(&r, PAGER_ARRIVED);
	assert_true(mem_ready(&r.mem, 210 * MEM_PAGE_SIZE, 8));
}

/* Zeros get their memory here, not in a fault of the loop's. */
static void the_loop_never_faults_on_zeros(void **state)
{
	assert_int_equal(rig_take_map(&r, 0, 64, WIRE_MAP_ZERO), 0);
	assert_true(mem_ready(&r.mem, 0, 64 * MEM_PAGE_SIZE));
	assert_int_equal(allocated(), 64);
	for (uint64_t page = 0; page < 64; page++)
		assert_int_equal(*mem_page(&r.mem, page), 0);
	assert_int_equal(mem_discard(&r.mem, 10 * MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE), 0);
	assert_true(mem_ready(&r.mem, 10 * MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE));
	assert_int_equal(*mem_page(&r.mem, 11), 0);
	assert_int_equal(r.p.faults.stats.all.count, 0);
}

/* --- before the switch ---------------------------------------------------------------------------
 */

static void pages_may_come_again_before(void **state)
{
	struct toucher t;

	assert_int_equal(rig_take_map(&r, 0, RIG_PAGES, WIRE_MAP_ZERO), 0);
	assert_int_equal(pager_left(&r.p), 0);
	assert_int_equal(rig_take_pages(&r, 10, 40, RIG_SEED), 0);
	assert_int_equal(rig_take_pages(&r, 20, 5, RIG_SEED + 1), 0);
	assert_int_equal(rig_take_pages(&r, 30, 5, 0), 0);
	assert_int_equal(rig_take_map(&r, 11, 2, WIRE_MAP_DROP), 0);
	assert_int_equal(pager_left(&r.p), 2);
	rig_start(&r);
	assert_int_equal(rig_counts(&r).twice, 0);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 10), rig_word(10, RIG_SEED));
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 24), rig_word(24, RIG_SEED + 1));
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 25), rig_word(25, RIG_SEED));
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 31), 0);
	touch(&r, &t, 500); /* never sent, and not dropped: zero, without a question */
	assert_int_equal(touch_end(&t), 0);
	touch(&r, &t, 12);
	RIG_WANT(&r, 12);
	rig_send_pages(&r, 12, 1, RIG_SEED + 2);
	assert_int_equal(touch_end(&t), rig_word(12, RIG_SEED + 2));
	assert_int_equal(pager_left(&r.p), 1);
}

/* What a firmware put there is not the guest's. */
static void what_was_there_is_forgotten(void **state)
{
	struct toucher t;

	memset(mem_page(&r.mem, 7), 5, MEM_PAGE_SIZE);
	rig_start(&r);
	touch(&r, &t, 7);
	RIG_WANT(&r, 7);
	rig_send_pages(&r, 7, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(7, RIG_SEED));
}

/* --- the end -------------------------------------------------------------------------------------
 */

static void all_pages(void **state)
{
	struct wire_eos eos = {.urgent = 1, .pushed = 100};
	struct toucher t;

	settle_urgent(5);
	assert_int_equal(rig_take_map(&r, 100, RIG_PAGES - 100, WIRE_MAP_ZERO), 0);
	assert_int_equal(rig_take_pages(&r, 0, 99, RIG_SEED), 0);
	assert_false(pager_complete(&r.p));
	assert_int_equal(rig_take_pages(&r, 99, 1, RIG_SEED), 0);
	rig_event(&r, PAGER_COMPLETE);
	assert_false(pager_complete(&r.p));
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos)), 0);
	assert_true(pager_complete(&r.p));
	pager_finish(&r.p);
	assert_null(r.mem.late);
	touch(&r, &t, 1000); /* ordinary memory */
	assert_int_equal(touch_end(&t), 0);
	for (uint64_t page = 0; page < 100; page++)
		assert_int_equal(*(uint64_t *)mem_page(&r.mem, page), rig_word(page, RIG_SEED));
}

static void dropping_lets_go(void **state)
{
	struct toucher t;

	touch(&r, &t, 5);
	RIG_WANT(&r, 5);
	pager_drop(&r.p);
	assert_int_equal(touch_end(&t), 0);
	pager_drop(&r.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_fault_is_asked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(one_request_however_many_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(the_other_link_may_be_faster, setup, teardown),
		cmocka_unit_test_setup_teardown(a_duplicate_never_overwrites, setup, teardown),
		cmocka_unit_test_setup_teardown(twice_in_a_frame, setup, teardown),
		cmocka_unit_test_setup_teardown(zeros_take_no_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(given_back_reads_as_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(given_back_while_it_is_waited_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_page_that_is_there_wakes, setup, teardown),
		cmocka_unit_test_setup_teardown(uffd_wakes_what_exists, setup_early, teardown),
		cmocka_unit_test_setup_teardown(the_loop_asks_first, setup, teardown),
		cmocka_unit_test_setup_teardown(the_loop_never_faults_on_zeros, setup, teardown),
		cmocka_unit_test_setup_teardown(pages_may_come_again_before, setup_early, teardown),
		cmocka_unit_test_setup_teardown(what_was_there_is_forgotten, setup_early, teardown),
		cmocka_unit_test_setup_teardown(all_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(dropping_lets_go, setup, teardown),
	};

	return cmocka_run_group_tests(tests, rig_skip, NULL);
}
