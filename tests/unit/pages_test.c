/* The page codec: exact both ways, small when it can be, strict about what it did not write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/copy/pages.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define NPAGES	 1000

static uint64_t seed = 0xd1b54a32d192ed03ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill_random(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)next_random();
}

/* Buffers of their exact size on the heap: the sanitizer sees any step outside. */
struct rig {
	uint8_t *data, *base, *out, *page;
};

static void rig_init(struct rig *r)
{
	r->data = malloc(MEM_PAGE_SIZE);
	r->base = malloc(MEM_PAGE_SIZE);
	r->out = malloc(PAGE_ENTRY_MAX);
	r->page = malloc(MEM_PAGE_SIZE);
	assert_true(r->data && r->base && r->out && r->page);
	fill_random(r->base, MEM_PAGE_SIZE);
	memcpy(r->data, r->base, MEM_PAGE_SIZE);
	memset(r->page, 0xee, MEM_PAGE_SIZE);
}

static void rig_done(struct rig *r)
{
	free(r->data);
	free(r->base);
	free(r->out);
	free(r->page);
}

/* Parse and unpack exactly len bytes. */
static int unpack(const uint8_t *p, size_t len, const uint8_t *base, uint8_t *page,
		  struct page_entry *ret)
{
	uint8_t *copy = malloc(len ? len : 1);
	const uint8_t *pos = copy;
	int r;

	assert_non_null(copy);
	memcpy(copy, p, len);
	r = pages_next(&pos, copy + len, NPAGES, ret);
	if (r == 1) {
		assert_true(pos <= copy + len);
		r = pages_decode(ret, base, page);
		if (!r)
			r = 1;
	}
	free(copy);
	return r;
}

static enum page_method round_trip(struct rig *r, bool with_base, bool lz4, uint32_t *ret_len)
{
	uint64_t page = next_random() % NPAGES;
	const uint8_t *base = with_base ? r->base : NULL;
	uint32_t len = pages_encode(page, r->data, base, lz4, r->out);
	struct page_entry en;

	assert_in_range(len, PAGE_HEAD_SIZE, PAGE_ENTRY_MAX);
	assert_int_equal(unpack(r->out, len, base, r->page, &en), 1);
	assert_int_equal(en.page, page);
	assert_int_equal(en.length + PAGE_HEAD_SIZE, len);
	assert_memory_equal(r->page, r->data, MEM_PAGE_SIZE);
	if (with_base) { /* in place */
		memcpy(r->page, r->base, MEM_PAGE_SIZE);
		assert_int_equal(unpack(r->out, len, r->page, r->page, &en), 1);
		assert_memory_equal(r->page, r->data, MEM_PAGE_SIZE);
	}
	if (ret_len)
		*ret_len = en.length;
	return en.method;
}

static void zero_pages_need_no_data(void **state)
{
	struct rig r;
	uint32_t len;

	rig_init(&r);
	memset(r.data, 0, MEM_PAGE_SIZE);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(round_trip(&r, i & 1, i & 2, &len), PAGE_ZERO);
		assert_int_equal(len, 0);
	}
	for (unsigned i = 0; i < MEM_PAGE_SIZE; i++) { /* one byte anywhere makes a difference */
		r.data[i] = 0x80;
		assert_int_not_equal(round_trip(&r, false, false, NULL), PAGE_ZERO);
		r.data[i] = 0;
	}
	rig_done(&r);
}

static void one_changed_word_costs_12_bytes(void **state)
{
	struct rig r;
	uint32_t len;

	rig_init(&r);
	assert_int_equal(round_trip(&r, true, true, &len), PAGE_DELTA);
	assert_int_equal(len, 0); /* nothing changed */
	for (unsigned i = 0; i < MEM_PAGE_SIZE; i++) {
		r.data[i] ^= 1;
		assert_int_equal(round_trip(&r, true, i & 1, &len), PAGE_DELTA);
		assert_int_equal(len, 12);
		r.data[i] ^= 1;
	}
	rig_done(&r);
}

static void random_changes_are_exact(void **state)
{
	struct rig r;

	rig_init(&r);
	for (unsigned n = 0; n < 4000; n++) {
		unsigned changes = 1 + (unsigned)(next_random() % (n % 8 ? 40 : 700));

		fill_random(r.base, MEM_PAGE_SIZE);
		memcpy(r.data, r.base, MEM_PAGE_SIZE);
		for (unsigned i = 0; i < changes; i++)
			r.data[next_random() % MEM_PAGE_SIZE] ^= (uint8_t)(1 + next_random() % 255);
		round_trip(&r, true, n & 1, NULL);
	}
	rig_done(&r);
}

static void runs_of_any_place_and_length_are_exact(void **state)
{
	struct rig r;
	uint32_t len;

	rig_init(&r);
	for (unsigned start = 0; start < 512; start += 7)
		for (unsigned n = 1; start + n <= 512; n += 13) {
			memcpy(r.data, r.base, MEM_PAGE_SIZE);
			for (unsigned i = 0; i < n; i++)
				r.data[(start + i) * 8 + i % 8] ^= 0x11;
			if (4 + n * 8 <= 3072) {
				assert_int_equal(round_trip(&r, true, false, &len), PAGE_DELTA);
				assert_int_equal(len, 4 + n * 8);
			} else {
				assert_int_equal(round_trip(&r, true, false, &len), PAGE_RAW);
			}
		}
	rig_done(&r);
}

static void delta_gives_up_where_it_does_not_pay(void **state)
{
	struct rig r;
	uint32_t len;

	rig_init(&r);
	for (unsigned i = 0; i < 512; i += 2) /* 256 runs of one word: exactly 3/4 of a page */
		r.data[i * 8] ^= 1;
	assert_int_equal(round_trip(&r, true, false, &len), PAGE_DELTA);
	assert_int_equal(len, 3072);
	r.data[8] ^= 1; /* one word more, one run less: 4 bytes too many */
	assert_int_equal(round_trip(&r, true, false, &len), PAGE_RAW);
	r.data[8] ^= 1;
	fill_random(r.data, MEM_PAGE_SIZE);
	assert_int_equal(round_trip(&r, true, false, &len), PAGE_RAW);
	assert_int_equal(round_trip(&r, true, true, &len), PAGE_RAW);
	assert_int_equal(round_trip(&r, false, true, &len), PAGE_RAW);
	rig_done(&r);
}

static void lz4_is_used_when_it_gains_an_eighth(void **state)
{
	struct rig r;
	uint32_t len, packed = 0;

	rig_init(&r);
	for (unsigned keep = 0; keep < MEM_PAGE_SIZE; keep += 64) { /* more and more random bytes */
		enum page_method m;

		memset(r.data, 'x', MEM_PAGE_SIZE);
		fill_random(r.data, keep);
		m = round_trip(&r, false, true, &len);
		if (m == PAGE_LZ4)
			packed++;
		else
			assert_int_equal(m, PAGE_RAW);
		assert_true(m == PAGE_RAW || len <= MEM_PAGE_SIZE * 7 / 8);
		assert_true(m == PAGE_LZ4 || keep > 3300); /* around the edge it is LZ4's choice */
		assert_true(m == PAGE_RAW || keep < 3584);
		assert_int_equal(round_trip(&r, false, false, NULL), PAGE_RAW);
	}
	assert_true(packed > 30);
	rig_done(&r);
}

static void rows_of_entries_are_walked(void **state)
{
	uint8_t *row = malloc(50 * PAGE_ENTRY_MAX);
	const uint8_t *pos = row;
	struct page_entry en;
	struct rig r;
	size_t len = 0;

	assert_non_null(row);
	rig_init(&r);
	for (unsigned i = 0; i < 50; i++) {
		memcpy(r.data, r.base, MEM_PAGE_SIZE);
		if (i % 3 == 0)
			memset(r.data, 0, MEM_PAGE_SIZE);
		else if (i % 3 == 1)
			r.data[i] ^= 1;
		len += pages_encode(i * 20, r.data, i % 3 == 1 ? r.base : NULL, true, row + len);
	}
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(pages_next(&pos, row + len, NPAGES, &en), 1);
		assert_int_equal(en.page, i * 20);
		assert_int_equal(pages_decode(&en, r.base, r.page), 0);
	}
	assert_int_equal(pages_next(&pos, row + len, NPAGES, &en), 0);
	assert_ptr_equal(pos, row + len);
	rig_done(&r);
	free(row);
}

static void every_truncation_is_refused(void **state)
{
	struct page_entry en;
	struct rig r;

	rig_init(&r);
	for (unsigned kind = 0; kind < 3; kind++) {
		uint32_t len;

		memset(r.data, 'a', MEM_PAGE_SIZE);
		if (kind == 0)
			fill_random(r.data, MEM_PAGE_SIZE);
		if (kind == 1)
			memcpy(r.data, r.base, MEM_PAGE_SIZE);
		for (unsigned i = 0; i < 40; i++)
			r.data[i * 100] ^= 0x55;
		len = pages_encode(1, r.data, kind == 1 ? r.base : NULL, kind == 2, r.out);
		for (uint32_t n = 1; n < len; n++)
			assert_int_equal(unpack(r.out, n, r.base, r.page, &en), -EBADMSG);
	}
	rig_done(&r);
}

/* The head itself is changed with the data: lengths that lie, and shortened data that agree. */
static void shortened_entries_are_refused(void **state)
{
	struct page_entry en;
	struct rig r;

	rig_init(&r);
	for (unsigned kind = 0; kind < 3; kind++) {
		uint32_t len;
		uint64_t head;

		memset(r.data, 'a', MEM_PAGE_SIZE);
		if (kind == 0)
			fill_random(r.data, MEM_PAGE_SIZE);
		if (kind == 1)
			memcpy(r.data, r.base, MEM_PAGE_SIZE);
		for (unsigned i = 0; i < 40; i++)
			r.data[i * 100] ^= 0x55;
		len = pages_encode(1, r.data, kind == 1 ? r.base : NULL, kind == 2, r.out);
		memcpy(&head, r.out, 8);
		for (uint32_t n = 0; n < len - PAGE_HEAD_SIZE; n++) {
			uint64_t changed = (head & ~0xffffull) | n;
			int res;

			memcpy(r.out, &changed, 8);
			res = unpack(r.out, PAGE_HEAD_SIZE + n, r.base, r.page, &en);
			if (kind == 1 && n % 12 == 0) /* ends between two runs: a valid delta */
				assert_int_equal(res, 1);
			else
				assert_int_equal(res, -EBADMSG);
		}
	}
	rig_done(&r);
}

static void bit_flips_stay_in_bounds(void **state)
{
	struct page_entry en;
	struct rig r;

	rig_init(&r);
	for (unsigned kind = 1; kind < 3; kind++) {
		uint32_t len;

		memset(r.data, 'a', MEM_PAGE_SIZE);
		if (kind == 1)
			memcpy(r.data, r.base, MEM_PAGE_SIZE);
		for (unsigned i = 0; i < 40; i++)
			r.data[i * 100] ^= 0x55;
		len = pages_encode(1, r.data, kind == 1 ? r.base : NULL, kind == 2, r.out);
		for (uint32_t bit = 0; bit < len * 8; bit++) {
			r.out[bit / 8] ^= (uint8_t)(1u << (bit % 8));
			unpack(r.out, len, r.base, r.page, &en);
			r.out[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		}
	}
	rig_done(&r);
}

static size_t put_entry(uint8_t *to, uint64_t page, unsigned method, uint32_t length,
			const void *data)
{
	uint64_t head = page << 24 | (uint64_t)method << 16 | (length & 0xffff);

	memcpy(to, &head, 8);
	if (length)
		memcpy(to + 8, data, length);
	return 8 + length;
}

static void hostile_heads_are_refused(void **state)
{
	static const struct {
		unsigned method;
		uint32_t length;
		uint64_t page;
	} cases[] = {
		{0, 0, 1},
		{PAGE_METHOD_MAX, 0, 1},
		{255, 4096, 1},
		{PAGE_ZERO, 1, 1},
		{PAGE_ZERO, 4096, 1},
		{PAGE_RAW, 4095, 1},
		{PAGE_RAW, 4097, 1},
		{PAGE_RAW, 0, 1},
		{PAGE_DELTA, 3073, 1},
		{PAGE_DELTA, 3084, 1},
		{PAGE_LZ4, 0, 1},
		{PAGE_LZ4, 3585, 1},
		{PAGE_LZ4, 65535, 1},
		{PAGE_RAW, 65535, 1},
		{PAGE_ZERO, 0, NPAGES},
		{PAGE_RAW, 4096, NPAGES},
		{PAGE_ZERO, 0, 1ull << 32},
		{PAGE_ZERO, 0, PAGE_NUMBER_MAX},
	};
	uint8_t *data = calloc(1, 65536), *buf = malloc(65536 + 8);
	struct page_entry en;
	struct rig r;

	assert_true(data && buf);
	rig_init(&r);
	for (unsigned i = 0; i < COUNT(cases); i++) {
		size_t len = put_entry(buf, cases[i].page, cases[i].method, cases[i].length, data);

		assert_int_equal(unpack(buf, len, r.base, r.page, &en), -EBADMSG);
	}
	/* the last page that exists, and an entry that no one parsed */
	assert_int_equal(
		unpack(buf, put_entry(buf, NPAGES - 1, PAGE_ZERO, 0, NULL), NULL, r.page, &en), 1);
	en = (struct page_entry){.method = PAGE_RAW, .length = 10, .data = data};
	assert_int_equal(pages_decode(&en, NULL, r.page), -EBADMSG);
	en.method = (enum page_method)77;
	assert_int_equal(pages_decode(&en, NULL, r.page), -EBADMSG);
	free(data);
	free(buf);
	rig_done(&r);
}

#define RUN(skip, n) skip, n
#define W4	     1, 1, 1, 1 /* one word as four u16 */

static void check_delta(bool good, const uint16_t *v, size_t n)
{
	uint8_t *buf = malloc(8 + n * 2 + 2);
	struct page_entry en;
	struct rig r;
	size_t len;

	assert_non_null(buf);
	rig_init(&r);
	len = put_entry(buf, 1, PAGE_DELTA, (uint32_t)(n * 2), v);
	assert_int_equal(unpack(buf, len, r.base, r.page, &en), good ? 1 : -EBADMSG);
	if (good) {
		assert_int_equal(unpack(buf, len, NULL, r.page, &en), -EBADMSG); /* no base */
	} else { /* each of the two alone must refuse it */
		const uint8_t *pos = buf;

		assert_int_equal(pages_next(&pos, buf + len, NPAGES, &en), -EBADMSG);
		assert_ptr_equal(pos, buf);
		en = (struct page_entry){1, PAGE_DELTA, (uint32_t)(n * 2), buf + 8};
		assert_int_equal(pages_decode(&en, r.base, r.page), -EBADMSG);
	}
	rig_done(&r);
	free(buf);
}

#define DELTA(good, ...)                                                                           \
	do {                                                                                       \
		const uint16_t v_[] = {__VA_ARGS__};                                               \
		check_delta(good, v_, COUNT(v_));                                                  \
	} while (0)

static void hostile_deltas_are_refused(void **state)
{
	DELTA(true, RUN(0, 1), W4);
	DELTA(true, RUN(511, 1), W4);
	DELTA(true, RUN(0, 1), W4, RUN(510, 1), W4);
	DELTA(false, RUN(0, 0));
	DELTA(false, RUN(5, 0), RUN(5, 0), RUN(5, 0));
	DELTA(false, RUN(0, 1), W4, RUN(0, 1), W4); /* two runs that are one */
	DELTA(false, RUN(0, 1), W4, RUN(1, 0));
	DELTA(false, RUN(512, 1), W4);
	DELTA(false, RUN(511, 2), W4, W4);
	DELTA(false, RUN(65535, 1), W4);
	DELTA(false, RUN(0, 65535), W4);
	DELTA(false, RUN(65535, 65535), W4);
	DELTA(false, RUN(0, 1), W4, RUN(511, 1), W4);
	DELTA(false, RUN(0, 2), W4);
	DELTA(false, RUN(0, 1));
	DELTA(false, 0);
	DELTA(false, RUN(0, 1), 1, 1, 1);
	DELTA(false, RUN(0, 1), W4, 1);
	DELTA(false, RUN(300, 1), W4, RUN(300, 1), W4);
}

/* Well-formed, but longer than what an encoder may send. */
static void oversized_entries_are_refused(void **state)
{
	uint16_t run[2 + 4 * 400] = {0, 383};
	uint8_t buf[PAGE_ENTRY_MAX], packed[MEM_PAGE_SIZE];
	struct page_entry en;
	struct rig r;
	int n;

	check_delta(true, run, 2 + 4 * 383); /* 3068 bytes */
	run[1] = 384;
	check_delta(false, run, 2 + 4 * 384);
	rig_init(&r);
	memset(r.data, 'x', 300);
	n = LZ4_compress_default((char *)r.data, (char *)packed, MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	assert_in_range(n, 3585, 4095);
	assert_int_equal(
		unpack(buf, put_entry(buf, 1, PAGE_LZ4, (uint32_t)n, packed), r.base, r.page, &en),
		-EBADMSG);
	rig_done(&r);
}

static void lz4_must_give_one_page(void **state)
{
	static const int sizes[] = {1, 100, 4095, 4097, 8192, 65536};
	uint8_t *plain = calloc(1, 65536), *packed = malloc(65536), *buf = malloc(65536);
	struct page_entry en;
	struct rig r;

	assert_true(plain && packed && buf);
	rig_init(&r);
	for (unsigned i = 0; i < COUNT(sizes); i++) {
		int n = LZ4_compress_default((char *)plain, (char *)packed, sizes[i], 65536);

		assert_true(n > 0);
		assert_int_equal(unpack(buf, put_entry(buf, 1, PAGE_LZ4, (uint32_t)n, packed),
					r.base, r.page, &en),
				 -EBADMSG);
	}
	for (unsigned n = 0; n < 5000; n++) { /* noise */
		uint32_t len = 1 + (uint32_t)(next_random() % 64);

		fill_random(packed, len);
		unpack(buf, put_entry(buf, 1, PAGE_LZ4, len, packed), r.base, r.page, &en);
	}
	free(plain);
	free(packed);
	free(buf);
	rig_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_pages_need_no_data),
		cmocka_unit_test(one_changed_word_costs_12_bytes),
		cmocka_unit_test(random_changes_are_exact),
		cmocka_unit_test(runs_of_any_place_and_length_are_exact),
		cmocka_unit_test(delta_gives_up_where_it_does_not_pay),
		cmocka_unit_test(lz4_is_used_when_it_gains_an_eighth),
		cmocka_unit_test(rows_of_entries_are_walked),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(shortened_entries_are_refused),
		cmocka_unit_test(bit_flips_stay_in_bounds),
		cmocka_unit_test(hostile_heads_are_refused),
		cmocka_unit_test(hostile_deltas_are_refused),
		cmocka_unit_test(oversized_entries_are_refused),
		cmocka_unit_test(lz4_must_give_one_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
