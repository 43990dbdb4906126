/* Pages from frames: at once, or kept apart, committed in turns, or dropped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/libnodump.h"
#include "vmm/copy/page_in.h"
#include "vmm/copy/pages.h"

#define BYTES (8ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)

static struct mem mem;
static struct page_in in;
static uint8_t *buf; /* a frame of all pages */
static size_t len;
static uint64_t content[MEM_PAGE_SIZE / 8];

static int setup(void **state)
{
	buf = malloc(PAGES * PAGE_ENTRY_MAX);
	assert_non_null(buf);
	len = 0;
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(page_in_init(&in, &mem), 0);
	return 0;
}

static int teardown(void **state)
{
	page_in_done(&in);
	page_in_done(&in);
	mem_done(&mem);
	free(buf);
	return 0;
}

static const uint8_t *page_of(uint64_t page, uint64_t seed)
{
	uint64_t s = seed * 1000003 + page + 1;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		content[i] = seed ? s : 0;
	}
	return (const uint8_t *)content;
}

static void add(uint64_t page, uint64_t seed)
{
	len += pages_encode(page, page_of(page, seed), NULL, false, buf + len);
}

static int keep(struct err *e)
{
	struct frame f = {.type = FRAME_PAGES, .length = (uint32_t)len, .data = buf};

	len = 0;
	memset(e, 0, sizeof(*e));
	return page_in_keep(&in, &f, e);
}

static bool is(uint64_t page, uint64_t seed)
{
	return !memcmp(mem_page(&mem, page), page_of(page, seed), MEM_PAGE_SIZE);
}

static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(fstat(mem.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

static uint64_t faults(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (uint64_t)ru.ru_minflt;
}

/* All that a commit needs is there when pages are kept: it neither waits for memory nor fails. */
static void a_commit_takes_no_memory(void **state)
{
	struct err e;
	uint64_t had;

	for (uint64_t p = 0; p < PAGES; p++)
		add(p * 7919 % PAGES, p % 4 ? p : 0);
	assert_int_equal(keep(&e), 0);
	assert_int_equal(in.npages, PAGES);
	assert_int_equal(in.nslots, PAGES - PAGES / 4);
	assert_int_equal(allocated(), PAGES - PAGES / 4);
	had = faults();
	assert_true(is_nodump(in.slabs[0]) && is_nodump(mem.base));
	assert_true(page_in_commit(&in, PAGES));
	assert_true(faults() - had < 32);
	assert_int_equal(allocated(), PAGES - PAGES / 4);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_true(is(p * 7919 % PAGES, p % 4 ? p : 0));
}

/* Memory that a commit has given back is asked for anew. */
static void given_back_and_used_again(void **state)
{
	struct err e;

	for (unsigned round = 1; round < 4; round++) {
		uint64_t had;

		for (uint64_t p = 0; p < 400; p++)
			add(p, round);
		assert_int_equal(keep(&e), 0);
		assert_int_equal(allocated(), 400);
		had = faults();
		assert_true(page_in_commit(&in, PAGES));
		assert_true(faults() - had < 32);
		for (uint64_t p = 0; p < 400; p++)
			add(p, 0);
		assert_int_equal(keep(&e), 0);
		assert_true(page_in_commit(&in, PAGES));
		assert_int_equal(allocated(), 0);
	}
}

/* As many turns as it takes, whatever is zero in between; and then the next ones. */
static void a_commit_in_turns(void **state)
{
	struct err e;

	for (unsigned n = 1; n <= 333; n += 83) {
		unsigned turns = 0;

		for (uint64_t p = 0; p < 500; p++)
			add(p, p % 50 < 20 ? 0 : p + n);
		assert_int_equal(keep(&e), 0);
		while (!page_in_commit(&in, n)) {
			turns++;
			/* What is not done is as it was. */
			assert_int_equal(in.done, turns * n);
			assert_true(is(499, n == 1 ? 0 : 499 + n - 83));
		}
		assert_int_equal(turns, (500 - 1) / n);
		for (uint64_t p = 0; p < 500; p++)
			assert_true(is(p, p % 50 < 20 ? 0 : p + n));
		assert_int_equal(in.npages | in.nslots | in.done, 0);
	}
	/* Nothing at all. */
	assert_true(page_in_commit(&in, 0));
}

static void dropped_ones_never_were(void **state)
{
	struct err e;

	add(5, 1);
	add(6, 0);
	add(PAGES - 1, 3);
	assert_int_equal(keep(&e), 0);
	page_in_drop(&in);
	assert_true(page_in_commit(&in, PAGES));
	assert_true(is(5, 0) && is(PAGES - 1, 0));
	/* They may come again. */
	add(5, 2);
	add(6, 2);
	assert_int_equal(keep(&e), 0);
	assert_true(page_in_commit(&in, PAGES));
	assert_true(is(5, 2) && is(6, 2));
}

static void no_page_comes_twice(void **state)
{
	static const uint64_t seeds[][2] = {{1, 2}, {0, 1}, {1, 0}, {0, 0}};
	struct err e;

	for (unsigned i = 0; i < 4; i++) {
		for (uint64_t p = 0; p < 64; p++)
			add(p, 9);
		add(64 + i, seeds[i][0]);
		assert_int_equal(keep(&e), 0);
		add(64 + i, seeds[i][1]);
		assert_int_equal(keep(&e), -EBADMSG);
		assert_non_null(strstr(e.msg, "comes twice"));
		page_in_drop(&in);
	}
}

/* Against memory, for those that are kept; against nothing for others, which have no base. */
static void a_delta_needs_its_base(void **state)
{
	uint64_t base[MEM_PAGE_SIZE / 8], now[MEM_PAGE_SIZE / 8];
	struct frame f = {.type = FRAME_PAGES, .data = buf};
	struct err e = {0};

	memcpy(base, page_of(3, 1), sizeof(base));
	memcpy(mem_page(&mem, 3), base, sizeof(base));
	memcpy(now, base, sizeof(now));
	now[100] ^= 77;
	len = pages_encode(3, (uint8_t *)now, (uint8_t *)base, false, buf);
	assert_true(len < 100);
	f.length = (uint32_t)len;
	assert_int_equal(page_in_now(&mem, &f, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "malformed page 3"));
	assert_int_equal(keep(&e), 0);
	assert_memory_equal(mem_page(&mem, 3), base, sizeof(base));
	assert_true(page_in_commit(&in, 1));
	assert_memory_equal(mem_page(&mem, 3), now, sizeof(now));
}

/* At once: the last one of a page counts, whatever is on its way when it comes. */
static void at_once_the_last_one_counts(void **state)
{
	static const uint64_t seeds[] = {1, 0, 2, 3, 0, 0, 4};
	struct frame f = {.type = FRAME_PAGES, .data = buf};
	struct err e = {0};

	for (unsigned i = 0; i < 7; i++)
		for (uint64_t p = 10; p < 40; p += 1 + i % 2)
			add(p, seeds[i]);
	f.length = (uint32_t)len;
	assert_int_equal(page_in_now(&mem, &f, &e), 0);
	for (uint64_t p = 10; p < 40; p++)
		assert_true(is(p, 4));
	/* Cut off anywhere: refused, and nothing beyond its end is read. */
	for (size_t cut = 0; cut < 2 * PAGE_ENTRY_MAX; cut += 7) {
		uint8_t *copy = malloc(cut + 1);

		memcpy(copy, buf, cut);
		f.data = copy;
		f.length = (uint32_t)cut;
		assert_int_equal(page_in_now(&mem, &f, &e), cut % PAGE_ENTRY_MAX ? -EBADMSG : 0);
		free(copy);
	}
}

/* Zeros, bytes and what is packed, of one page in turns: nothing overtakes. */
static void at_once_in_order(void **state)
{
	static const uint64_t packed[MEM_PAGE_SIZE / 8] = {7};
	struct frame f = {.type = FRAME_PAGES, .data = buf};
	struct err e = {0};

	for (unsigned order = 0; order < 27; order++) {
		unsigned last = order / 9;

		len = 0;
		for (unsigned i = 0, o = order; i < 3; i++, o /= 3) {
			if (o % 3 == 2)
				len += pages_encode(5, (const uint8_t *)packed, NULL, true,
						    buf + len);
			else
				add(5, o % 3);
		}
		/* And others behind it, which may let go what waits. */
		len += pages_encode(20, (const uint8_t *)packed, NULL, true, buf + len);
		add(9, 0);
		add(30, 1);
		f.length = (uint32_t)len;
		assert_int_equal(page_in_now(&mem, &f, &e), 0);
		if (last == 2)
			assert_memory_equal(mem_page(&mem, 5), packed, MEM_PAGE_SIZE);
		else
			assert_true(is(5, last));
	}
}

/* As many raw ones in a row as are written at once, and one more or less. */
static void raw_pages_in_a_row(void **state)
{
	static const uint64_t counts[] = {MEM_FILL_MAX - 1, MEM_FILL_MAX, MEM_FILL_MAX + 1,
					  2 * MEM_FILL_MAX + 1};
	struct frame f = {.type = FRAME_PAGES, .data = buf};
	struct err e = {0};

	for (unsigned i = 0; i < 4; i++) {
		const uint64_t n = counts[i];

		len = 0;
		for (uint64_t p = 0; p < n; p++)
			add(p + 3, n);
		f.length = (uint32_t)len;
		assert_int_equal(page_in_now(&mem, &f, &e), 0);
		for (uint64_t p = 0; p < n; p++)
			assert_true(is(p + 3, n));
		assert_false(is(n + 3, n));
	}
}

/* The host has no memory for them. */
static void pages_that_cannot_be_filled(void **state)
{
	struct frame f = {.type = FRAME_PAGES, .data = buf};
	int fd = mem.fd, closed = open("/dev/null", O_RDONLY);
	struct err e = {0};

	add(3, 1);
	f.length = (uint32_t)len;
	mem.fd = closed;
	assert_int_equal(page_in_now(&mem, &f, &e), -EBADF);
	assert_non_null(strstr(e.msg, "guest memory"));
	add(9, 1); /* one that does not follow */
	f.length = (uint32_t)len;
	memset(&e, 0, sizeof(e));
	assert_int_equal(page_in_now(&mem, &f, &e), -EBADF);
	mem.fd = fd;
	close(closed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_commit_takes_no_memory),	T(given_back_and_used_again),
		T(a_commit_in_turns),		T(dropped_ones_never_were),
		T(no_page_comes_twice),		T(a_delta_needs_its_base),
		T(at_once_the_last_one_counts), T(at_once_in_order),
		T(raw_pages_in_a_row),		T(pages_that_cannot_be_filled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
