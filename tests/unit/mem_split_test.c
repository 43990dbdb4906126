/* Split memory: what the guest sees, what the checkpoint is, and what either of them takes. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/libnomem.h"
#include "tests/unit/libviews.h"
#include "vmm/machine/mem_split.h"

#define BYTES (8ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)

void *__real_mremap(void *from, size_t old, size_t len, int flags, void *at);
void *__wrap_mremap(void *from, size_t old, size_t len, int flags, void *at);

static struct mem m;
static uint64_t bits[PAGES / 64];

/* mremap() fails, when what was there is gone already or before that. */
static enum { MOVES, MOVES_NOTHING, MOVES_TOO_LATE } moves;

void *__wrap_mremap(void *from, size_t old, size_t len, int flags, void *at)
{
	if (moves == MOVES)
		return __real_mremap(from, old, len, flags, at);
	if (moves == MOVES_TOO_LATE)
		munmap(at, len);
	errno = ENOMEM;
	return MAP_FAILED;
}

static int setup(void **state)
{
	moves = MOVES;
	memset(bits, 0, sizeof(bits));
	return mem_init(&m, MEM_SHARED_FILE, BYTES, NULL);
}

static int teardown(void **state)
{
	mem_done(&m);
	return 0;
}

/* What the guest writes: it is known. */
static void guest(uint64_t page, uint64_t n, uint8_t value)
{
	for (uint64_t p = page; p < page + n; p++)
		bits[p / 64] |= 1ull << (p % 64);
	memset(mem_page(&m, page), value, n * MEM_PAGE_SIZE);
}

static void commit(uint64_t page, uint64_t n, uint8_t value)
{
	memset(mem_kept_page(&m, page), value, n * MEM_PAGE_SIZE);
}

static uint8_t kept(uint64_t page)
{
	uint8_t buf[MEM_PAGE_SIZE];

	views_read_kept(&m, page, buf);
	for (unsigned i = 1; i < MEM_PAGE_SIZE; i++)
		assert_int_equal(buf[i], buf[0]);
	return buf[0];
}

static uint8_t seen(uint64_t page)
{
	const uint8_t *p = mem_page(&m, page);

	for (unsigned i = 1; i < MEM_PAGE_SIZE; i++)
		assert_int_equal(p[i], p[0]);
	return p[0];
}

static void split(void)
{
	struct err e = {0};

	assert_int_equal(mem_split(&m, &e), 0);
	assert_true(mem_is_split(&m));
}

static unsigned roll_back(void)
{
	uint64_t at = 0;
	unsigned pieces = 1;

	while (!mem_roll_back(&m, bits, &at))
		pieces++;
	memset(bits, 0, sizeof(bits));
	return pieces;
}

static void join(void)
{
	uint64_t at = 0;

	while (!mem_join(&m, bits, &at))
		assert_true(mem_is_split(&m));
	memset(bits, 0, sizeof(bits));
	assert_false(mem_is_split(&m));
	assert_int_equal(views_private(&m), 0);
}

/* Of a plain one: both ways, and no second view. */
static void check_plain(void)
{
	uint8_t c = 0;

	assert_false(mem_is_split(&m));
	assert_ptr_equal(mem_kept_page(&m, 3), mem_page(&m, 3));
	memset(mem_page(&m, 3), 'p', MEM_PAGE_SIZE);
	assert_int_equal(kept(3), 'p');
	assert_int_equal(pwrite(m.fd, "q", 1, 3 * MEM_PAGE_SIZE), 1);
	assert_int_equal(*mem_page(&m, 3), 'q');
	assert_int_equal(pread(m.fd, &c, 1, 3 * MEM_PAGE_SIZE), 1);
	assert_int_equal(c, 'q');
}

static void what_is_written_is_not_in_the_checkpoint(void **state)
{
	uint8_t *base = m.base;

	guest(0, 8, 'a');
	split();
	assert_ptr_equal(m.base, base);
	assert_int_equal(views_private(&m), 0);
	for (uint64_t p = 0; p < 8; p++)
		assert_true(seen(p) == 'a' && kept(p) == 'a');
	guest(2, 1, 'b');
	guest(6, 1, 'b');
	assert_int_equal(views_private(&m), 2);
	assert_true(seen(2) == 'b' && kept(2) == 'a');
	/* And what comes to the checkpoint is seen where nothing was written. */
	commit(2, 2, 'c');
	assert_true(seen(2) == 'b' && kept(2) == 'c');
	assert_true(seen(3) == 'c' && kept(3) == 'c');
	assert_int_equal(roll_back(), 2); /* the second piece finds nothing */
	assert_int_equal(views_private(&m), 0);
	assert_true(seen(2) == 'c' && seen(6) == 'a');
	guest(2, 1, 'd');
	assert_true(seen(2) == 'd' && kept(2) == 'c');
}

/* Those that are named, however they lie, and no others. */
static void only_those_are_dropped(void **state)
{
	static const struct {
		uint64_t page, n;
	} runs[] = {{0, 1}, {2, 1}, {60, 8}, {127, 1}, {128, 64}, {200, 1300}, {PAGES - 1, 1}};
	uint64_t n = 0;

	split();
	guest(0, PAGES, 'g');
	memset(bits, 0, sizeof(bits));
	commit(0, PAGES, 'k');
	for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		for (uint64_t p = runs[i].page; p < runs[i].page + runs[i].n; p++, n++)
			bits[p / 64] |= 1ull << (p % 64);
	/* The two in the middle are one, and what is long takes some pieces. */
	assert_int_equal(roll_back(), 8);
	assert_int_equal(views_private(&m), PAGES - n);
	for (uint64_t p = 0, left; p < PAGES; p++) {
		left = p;
		for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
			if (p >= runs[i].page && p < runs[i].page + runs[i].n)
				left = UINT64_MAX;
		assert_int_equal(seen(p), left == UINT64_MAX ? 'k' : 'g');
	}
	assert_int_equal(roll_back(), 1);
}

static void joined_it_is_what_the_guest_saw(void **state)
{
	for (unsigned round = 0; round < 3; round++) {
		guest(0, 100, 'a');
		split();
		guest(10, 5, 'b');
		guest(300, 600, 'c');
		commit(50, 1, 'd');
		join();
		for (uint64_t p = 0; p < PAGES; p++) {
			uint8_t want = p >= 10 && p < 15     ? 'b'
				       : p == 50	     ? 'd'
				       : p < 100	     ? 'a'
				       : p >= 300 && p < 900 ? 'c'
							     : 0;

			assert_int_equal(kept(p), want);
			if (want)
				assert_int_equal(seen(p), want);
		}
		assert_int_equal(views_allocated(&m), 700);
		check_plain();
	}
}

/* Also when all pages are said to be private. */
static void holes_stay_holes(void **state)
{
	struct mem_hole h = {0};

	guest(0, 64, 'a');
	split();
	guest(5, 1, 'b');
	assert_int_equal(mem_hash(&m) == mem_hash_kept(&m), false);
	assert_int_equal(views_allocated(&m), 64);
	memset(bits, 0xff, sizeof(bits));
	roll_back();
	assert_int_equal(views_private(&m), 0);
	assert_int_equal(mem_hash(&m), mem_hash_kept(&m));
	guest(5, 1, 'b');
	guest(PAGES - 1, 1, 'c');
	guest(PAGES - 5, 1, 'c'); /* with few in between */
	memset(bits, 0xff, sizeof(bits));
	join();
	assert_int_equal(views_allocated(&m), 66);
	assert_true(kept(5) == 'b' && kept(6) == 'a' && kept(PAGES - 1) == 'c');
	assert_true(mem_is_hole(&m, 64, &h) && mem_is_hole(&m, PAGES - 2, &h));
	assert_false(mem_is_hole(&m, PAGES - 1, &h));
}

/* The kernel takes the memfd's page under what was written over a hole: it was never written. */
static void vanish(uint64_t page, uint64_t n)
{
	assert_int_equal(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)(page * MEM_PAGE_SIZE), (off_t)(n * MEM_PAGE_SIZE)),
			 0);
}

static void what_was_written_over_a_hole(void **state)
{
	struct mem_hole h = {0};

	guest(0, 64, 'a');
	split();
	for (unsigned twice = 0; twice < 2; twice++) {
		guest(100, 1, 'b');
		guest(102, 40, 'c');
		vanish(100, 50);
		assert_true(mem_is_hole(&m, 100, &h));
		assert_true(seen(100) == 'b' && seen(102) == 'c' && seen(141) == 'c');
		if (!twice)
			roll_back();
	}
	join();
	assert_true(kept(100) == 'b' && kept(101) == 0 && kept(102) == 'c' && kept(141) == 'c');
	assert_int_equal(views_allocated(&m), 64 + 41);
}

static void given_back_over_a_hole(void **state)
{
	guest(0, 64, 'a');
	split();
	guest(60, 40, 'b');
	vanish(64, 36);
	assert_int_equal(mem_discard(&m, 62 * MEM_PAGE_SIZE, 30 * MEM_PAGE_SIZE), 0);
	assert_true(seen(61) == 'b' && seen(62) == 0 && seen(64) == 0 && seen(91) == 0);
	assert_true(seen(92) == 'b' && seen(99) == 'b');
	join();
	assert_true(kept(61) == 'b' && kept(62) == 0 && kept(91) == 0 && kept(99) == 'b');
}

static void take_discarded(void)
{
	for (unsigned w = 0; w < PAGES / 64; w++)
		bits[w] |= mem_take_discarded(&m, w);
}

/* The checkpoint has them still; joined they take no memory. */
static void given_back_by_the_guest(void **state)
{
	struct mem_hole h = {0};

	guest(0, 100, 'a');
	split();
	guest(90, 20, 'b');
	assert_int_equal(mem_discard(&m, 40 * MEM_PAGE_SIZE, 200 * MEM_PAGE_SIZE), 0);
	for (uint64_t p = 0; p < 100; p++)
		assert_int_equal(kept(p), 'a');
	for (uint64_t p = 0; p < 110; p++)
		assert_int_equal(seen(p), p < 40 ? 'a' : 0);
	assert_int_equal(views_allocated(&m), 110);
	assert_int_equal(views_private(&m), 70);
	assert_true(mem_absent(&m, 150, &h));
	assert_false(mem_absent(&m, 50, &h));
	take_discarded();
	roll_back();
	assert_true(seen(50) == 'a' && seen(105) == 0);
	assert_int_equal(mem_discard(&m, 40 * MEM_PAGE_SIZE, 200 * MEM_PAGE_SIZE), 0);
	take_discarded();
	join();
	assert_int_equal(views_allocated(&m), 40);
	assert_int_equal(mem_discard(&m, 0, BYTES), 0);
	assert_int_equal(views_allocated(&m), 0);
	check_plain();
}

/* What a peer fills is the checkpoint. */
static void filled_from_outside(void **state)
{
	static uint8_t src[2][MEM_PAGE_SIZE];
	struct iovec data[2] = {{src[0], MEM_PAGE_SIZE}, {src[1], MEM_PAGE_SIZE}};
	uint64_t off = 0, end;

	memset(src, 'f', sizeof(src));
	guest(0, 64, 'a');
	split();
	guest(0, 64, 'b');
	assert_int_equal(mem_fill_pages(&m, 10, data, 2), 0);
	mem_zero_pages(&m, 20, 3);
	mem_zero_pages(&m, 30, 20);
	mem_populate(&m, 100);
	assert_true(kept(10) == 'f' && kept(11) == 'f' && kept(12) == 'a');
	assert_true(kept(19) == 'a' && kept(20) == 0 && kept(22) == 0 && kept(23) == 'a');
	assert_true(kept(29) == 'a' && kept(30) == 0 && kept(49) == 0 && kept(50) == 'a');
	assert_true(views_has(&m, 100) && !views_has(&m, 101) && !views_has(&m, 30));
	assert_int_equal(views_private(&m), 64);
	for (uint64_t p = 0; p < 64; p++)
		assert_int_equal(seen(p), 'b');
	roll_back();
	assert_true(seen(10) == 'f' && seen(20) == 0 && seen(29) == 'a');
	assert_true(mem_next_data(&m, &off, &end));
	assert_true(off == 0 && end == 30 * MEM_PAGE_SIZE);
	/* Looking at it through the guest's view did not fill the hole. */
	assert_int_equal(mem_hash(&m), mem_hash_kept(&m));
	assert_int_equal(views_allocated(&m), 64 - 20 + 1);
}

static void hashes_of_either_view(void **state)
{
	uint64_t a, b;

	guest(3, 1, 'a');
	a = mem_hash(&m);
	assert_int_equal(mem_hash_kept(&m), a);
	split();
	assert_int_equal(mem_hash(&m), a);
	guest(3, 1, 'b');
	guest(PAGES - 1, 1, 'z');
	b = mem_hash(&m);
	assert_int_not_equal(b, a);
	assert_int_equal(mem_hash_kept(&m), a);
	join();
	assert_int_equal(mem_hash(&m), b);
	assert_int_equal(mem_hash_kept(&m), b);
}

/* Whatever is refused: memory is a plain one, with all that was in it. */
static void a_split_that_is_refused(void **state)
{
	static const struct {
		unsigned mmap;
		int moves;
	} cases[] = {{1, MOVES}, {2, MOVES}, {0, MOVES_NOTHING}, {0, MOVES_TOO_LATE}};
	uint8_t *base = m.base;

	guest(0, 20, 'a');
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = {0};

		moves = cases[i].moves;
		nomem_at(cases[i].mmap, cases[i].mmap ? 1 : 0);
		assert_int_equal(mem_split(&m, &e), -ENOMEM);
		nomem_at(0, 0);
		assert_non_null(strstr(e.msg, "guest memory of 8M"));
		assert_ptr_equal(m.base, base);
		assert_int_equal(kept(10), 'a');
		assert_int_equal(seen(10), 'a');
		check_plain();
	}
	moves = MOVES;
	split();
	/* At the end there is no way back, and none is needed. */
	for (unsigned i = MOVES_NOTHING; i <= MOVES_TOO_LATE; i++) {
		guest(10, 1, 'b' + (uint8_t)i);
		moves = i;
		join();
		moves = MOVES;
		assert_int_equal(kept(10), 'b' + i);
		check_plain();
		split();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(what_is_written_is_not_in_the_checkpoint),
		T(only_those_are_dropped),
		T(joined_it_is_what_the_guest_saw),
		T(holes_stay_holes),
		T(what_was_written_over_a_hole),
		T(given_back_over_a_hole),
		T(given_back_by_the_guest),
		T(filled_from_outside),
		T(hashes_of_either_view),
		T(a_split_that_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
