/* Guest memory that is given back: what reads as zeros, what takes memory, what is marked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/machine/mem.h"
#include "vmm/machine/mem_places.h"

#define BYTES (4ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)

static struct mem m;

static int setup(void **state)
{
	return mem_init(&m, MEM_SHARED_FILE, BYTES, NULL);
}

static int teardown(void **state)
{
	mem_done(&m);
	return 0;
}

/* Pages that take memory. */
static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(fstat(m.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

static void fill(uint64_t page, uint64_t n)
{
	memset(mem_page(&m, page), 'x', n * MEM_PAGE_SIZE);
}

static void discard(uint64_t page, uint64_t n)
{
	assert_int_equal(mem_discard(&m, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE), 0);
}

static uint64_t marked(void)
{
	uint64_t n = 0;

	for (uint64_t w = 0; w < PAGES / 64; w++)
		n += (uint64_t)__builtin_popcountll(mem_take_discarded(&m, w));
	return n;
}

static void discarded_pages_are_zero_and_free(void **state)
{
	uint64_t before;

	fill(0, PAGES);
	before = allocated();
	assert_int_equal(before, PAGES);
	assert_int_equal(marked(), 0);
	discard(3, 1);
	discard(64, 100);
	assert_int_equal(allocated(), before - 101);
	assert_int_equal(marked(), 101);
	assert_int_equal(marked(), 0);
	assert_int_equal(mem_take_host_dirty(&m, 1), 0);
	assert_int_equal(*mem_page(&m, 2), 'x');
	assert_int_equal(*mem_page(&m, 4), 'x');
	assert_true(mem_is_zero_page(mem_page(&m, 3)));
	assert_true(mem_is_zero_page(mem_page(&m, 64)));
	assert_true(mem_is_zero_page(mem_page(&m, 163)));
	assert_int_equal(*mem_page(&m, 164), 'x');
}

static void what_is_no_ram_is_refused(void **state)
{
	static const struct {
		uint64_t gpa, len;
		int want;
	} cases[] = {
		{1, 4096, -EINVAL},
		{4096, 1, -EINVAL},
		{0, 0, -EINVAL},
		{BYTES, 4096, -EFAULT},
		{BYTES - 4096, 8192, -EFAULT},
		{0, BYTES + 4096, -EFAULT},
		{0xd0000000, 4096, -EFAULT},
		{MEM_HIGH_BASE, 4096, -EFAULT},
		{UINT64_MAX - 4095, 4096, -EFAULT},
		{4096, UINT64_MAX - 4095, -EFAULT},
	};

	fill(0, PAGES);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(mem_discard(&m, cases[i].gpa, cases[i].len), cases[i].want);
	assert_int_equal(allocated(), PAGES);
	assert_int_equal(marked(), 0);
}

/* Asking allocates nothing; a write ends it, with or without a new question; so does mem_found().
 */
static void absent_is_known_until_written(void **state)
{
	struct mem_hole h = {0};
	uint64_t before;

	fill(0, PAGES);
	discard(100, 300);
	before = allocated();
	for (uint64_t p = 0; p < PAGES; p++)
		assert_int_equal(mem_absent(&m, p, &h), p >= 100 && p < 400);
	for (uint64_t p = PAGES; p-- > 0;)
		assert_int_equal(mem_absent(&m, p, &h), p >= 100 && p < 400);
	assert_int_equal(allocated(), before);
	fill(200, 1);
	h = (struct mem_hole){0};
	assert_true(mem_absent(&m, 199, &h));
	assert_false(mem_absent(&m, 200, &h));
	assert_true(mem_absent(&m, 201, &h));
	mem_found(&m, 200);
	assert_false(mem_absent(&m, 200, &h));
	discard(200, 1);
	h = (struct mem_hole){0};
	assert_true(mem_absent(&m, 200, &h));
}

/* What was never touched is absent too, but nobody asks: reading it is how it has always been. */
static void only_what_was_discarded_is_asked_for(void **state)
{
	struct mem_hole h = {0};

	assert_false(mem_absent(&m, 5, &h));
	discard(0, PAGES);
	assert_true(mem_absent(&m, 5, &h));
	assert_true(mem_absent(&m, PAGES - 1, &h));
	assert_int_equal(allocated(), 0);
}

static void zeroing_allocates_nothing(void **state)
{
	for (unsigned n = 1; n < 64; n += 7) {
		discard(0, PAGES);
		fill(40, 8);
		mem_zero_pages(&m, 10, n); /* before them, then into, then over them */
		mem_zero_pages(&m, 30, n);
		for (uint64_t p = 40; p < 48; p++)
			assert_int_equal(*mem_page(&m, p), p < 30 + n || p < 10 + n ? 0 : 'x');
		assert_true(allocated() <= 8);
	}
	fill(0, PAGES);
	mem_zero_pages(&m, 64, 128);
	assert_true(allocated() <= PAGES - 128);
	marked();
	mem_zero_pages(&m, 0, PAGES);
	assert_int_equal(marked(), 0);
	assert_int_equal(mem_hash(&m), 0);
}

/* Also over pages that have memory, and were discarded; what the mapping shows is the same. */
static void filled_pages_are_what_was_given(void **state)
{
	static uint8_t src[MEM_FILL_MAX][MEM_PAGE_SIZE];
	struct iovec data[MEM_FILL_MAX];

	for (unsigned i = 0; i < MEM_FILL_MAX; i++) {
		memset(src[i], (int)i + 1, MEM_PAGE_SIZE);
		data[i] = (struct iovec){src[i], MEM_PAGE_SIZE};
	}
	fill(110, 4);
	fill(120, 8);
	discard(120, 8);
	assert_int_equal(mem_fill_pages(&m, 100, data, MEM_FILL_MAX), 0);
	for (unsigned i = 0; i < MEM_FILL_MAX; i++)
		assert_memory_equal(mem_page(&m, 100 + i), src[i], MEM_PAGE_SIZE);
	assert_true(mem_is_zero_page(mem_page(&m, 99)));
	assert_true(mem_is_zero_page(mem_page(&m, 100 + MEM_FILL_MAX)));
	/* Past the end nothing is written, and it says so. */
	assert_true(mem_fill_pages(&m, PAGES - 1, data, 2) < 0);
	assert_int_equal(mem_fill_pages(&m, PAGES - 1, data, 1), 0);
}

static void one_byte_makes_a_page(void **state)
{
	uint8_t *p = mem_page(&m, 7);

	for (unsigned i = 0; i < MEM_PAGE_SIZE; i++) {
		p[i] = (uint8_t)(i | 1);
		assert_false(mem_is_zero_page(p));
		assert_int_not_equal(mem_hash(&m), 0);
		p[i] = 0;
	}
	assert_true(mem_is_zero_page(p));
	assert_int_equal(mem_hash(&m), 0);
}

static void hash_knows_where_a_page_is(void **state)
{
	uint64_t first;

	memset(mem_page(&m, 3), 'a', MEM_PAGE_SIZE);
	memset(mem_page(&m, 9), 'b', MEM_PAGE_SIZE);
	first = mem_hash(&m);
	memset(mem_page(&m, 3), 'b', MEM_PAGE_SIZE);
	memset(mem_page(&m, 9), 'a', MEM_PAGE_SIZE);
	assert_int_not_equal(mem_hash(&m), first);
	memset(mem_page(&m, 3), 'a', MEM_PAGE_SIZE);
	memset(mem_page(&m, 9), 'b', MEM_PAGE_SIZE);
	assert_int_equal(mem_hash(&m), first);
}

/* One page by its number, several by what their numbers begin with. */
static void places_name_the_page(void **state)
{
	static const unsigned pages[] = {0, 1, 5, 6, 64, PAGES - 1};
	struct mem_places before, after;
	uint64_t hash = mem_hash_places(&m, &before), first, last;

	assert_int_equal(hash, mem_hash(&m));
	for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		uint64_t now;

		*mem_page(&m, pages[i]) ^= 1;
		now = mem_hash_places(&m, &after);
		mem_places_find(now - hash, &after, &before, &first, &last);
		assert_int_equal(first, pages[i]);
		assert_int_equal(last, pages[i]);
		mem_places_find(hash - now, &before, &after, &first, &last);
		assert_true(first == pages[i] && last == first);
		*mem_page(&m, pages[i]) ^= 1;
	}
	*mem_page(&m, 5) ^= 1;
	*mem_page(&m, 6) ^= 1;
	mem_places_find(mem_hash_places(&m, &after) - hash, &after, &before, &first, &last);
	assert_true(first == 4 && last == 7);
	*mem_page(&m, 5) ^= 1;
	*mem_page(&m, 6) ^= 1;
}

/* Of this kind of mapping the file has what is written, and is what is read. */
static void mapping_is_the_file(void **state)
{
	uint8_t c = 0;

	*mem_page(&m, 7) = 'a';
	assert_int_equal(pread(m.fd, &c, 1, 7 * MEM_PAGE_SIZE), 1);
	assert_int_equal(c, 'a');
	assert_int_equal(pwrite(m.fd, "b", 1, 7 * MEM_PAGE_SIZE), 1);
	assert_int_equal(*mem_page(&m, 7), 'b');
}

/* Who takes marks and reads while others write: the last content of each page is always seen. */
struct taker {
	uint64_t seen[8]; /* atomic: of each page, as its last word says */
	bool stop;	  /* atomic */
};

__attribute__((no_sanitize_thread)) static void *take_marks(void *arg)
{
	struct taker *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE))
		for (uint64_t bits = mem_take_host_dirty(&m, 0); bits; bits &= bits - 1) {
			unsigned page = (unsigned)__builtin_ctzll(bits);
			const uint64_t *last = (const uint64_t *)mem_page(&m, page + 1) - 1;

			__atomic_store_n(&t->seen[page], __atomic_load_n(last, __ATOMIC_RELAXED),
					 __ATOMIC_RELEASE);
		}
	return NULL;
}

static void a_mark_is_behind_what_it_marks(void **state)
{
	uint64_t buf[8 * MEM_PAGE_SIZE / 8], end = 0;
	struct taker t = {0};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, take_marks, &t), 0);
	for (uint64_t round = 1; round <= 400; round++) {
		for (unsigned i = 0; i < sizeof(buf) / 8; i++)
			buf[i] = round;
		assert_int_equal(mem_write(&m, 0, buf, sizeof(buf)), 0);
		if (round % 2) /* and the two others, on the last word of the last page */
			assert_int_equal(mem_zero(&m, sizeof(buf) - 2, 2), 0);
		else
			assert_int_equal(mem_store16(&m, sizeof(buf) - 8, 7), 0);
		for (unsigned page = 0; page < 8; page++) {
			uint64_t want = *((uint64_t *)mem_page(&m, page + 1) - 1);

			for (unsigned left = 1000000; left; left--) {
				end = __atomic_load_n(&t.seen[page], __ATOMIC_ACQUIRE);
				if (end == want)
					break;
				sched_yield();
			}
			assert_int_equal(end, want);
		}
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
}

static void writes_outside_of_memory(void **state)
{
	uint8_t buf[16] = {1};

	assert_int_equal(mem_write(&m, BYTES - 8, buf, 16), -EFAULT);
	assert_int_equal(mem_zero(&m, BYTES - 8, 16), -EFAULT);
	assert_int_equal(mem_zero(&m, UINT64_MAX - 7, 16), -EFAULT);
	assert_int_equal(mem_store16(&m, BYTES, 1), -EFAULT);
	assert_int_equal(mem_store16(&m, 4095, 1), -EFAULT);
	for (uint64_t w = 0; w < PAGES / 64; w++)
		assert_int_equal(mem_take_host_dirty(&m, w), 0);
	assert_int_equal(mem_store16(&m, BYTES - 2, 0x1234), 0);
	assert_int_equal(mem_write(&m, 4090, buf, 7), 0);
	assert_int_equal(mem_take_host_dirty(&m, 0), 3);
	assert_int_equal(mem_take_host_dirty(&m, PAGES / 64 - 1), 1ull << 63);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(mapping_is_the_file),
		T(discarded_pages_are_zero_and_free),
		T(what_is_no_ram_is_refused),
		T(absent_is_known_until_written),
		T(only_what_was_discarded_is_asked_for),
		T(zeroing_allocates_nothing),
		T(filled_pages_are_what_was_given),
		T(one_byte_makes_a_page),
		T(hash_knows_where_a_page_is),
		T(places_name_the_page),
		T(a_mark_is_behind_what_it_marks),
		T(writes_outside_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
