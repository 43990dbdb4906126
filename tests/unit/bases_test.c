/* Copies kept as bases of deltas, and the choice of LZ4. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ft/epoch/bases.h"
#include "tests/unit/libmockchan.h"
#include "vmm/copy/pages.h"
#include "vmm/copy/squeeze.h"

static uint8_t bufs[16][8];

/* Asked for 11, there are 8 slots: pages 1 and 9 share one. */
static void make(struct bases *b)
{
	assert_int_equal(bases_init(b, 11), 0);
	assert_int_equal(b->count, 8);
	bases_begin(b);
}

static void test_keep_and_take(void **state)
{
	struct bases b;

	make(&b);
	assert_null(bases_take(&b, 1));
	assert_true(bases_room(&b, 1));
	assert_null(bases_put(&b, 1, bufs[1]));
	assert_null(bases_take(&b, 9));
	assert_ptr_equal(bases_take(&b, 1), bufs[1]);
	assert_null(bases_take(&b, 1));
	bases_done(&b);
}

/* What was added in this capture may not be sent yet: nothing displaces or steals it. */
static void test_fresh_copies_stay(void **state)
{
	struct bases b;

	make(&b);
	assert_null(bases_put(&b, 1, bufs[1]));
	assert_false(bases_room(&b, 9));
	assert_null(bases_steal(&b));
	bases_begin(&b);
	assert_true(bases_room(&b, 9));
	assert_ptr_equal(bases_put(&b, 9, bufs[9]), bufs[1]);
	assert_null(bases_take(&b, 1));
	assert_false(bases_room(&b, 1));
	bases_done(&b);
}

static void test_steal_gives_each_once(void **state)
{
	struct bases b;
	unsigned seen = 0;
	uint8_t *copy;

	make(&b);
	for (unsigned i = 0; i < 8; i++)
		assert_null(bases_put(&b, i, bufs[i]));
	bases_begin(&b);
	assert_ptr_equal(bases_take(&b, 3), bufs[3]);
	assert_null(bases_put(&b, 3, bufs[11]));
	while ((copy = bases_steal(&b)))
		seen |= 1u << ((copy - bufs[0]) / (ptrdiff_t)sizeof(bufs[0]));
	assert_int_equal(seen, 0xff & ~(1u << 3));
	assert_ptr_equal(bases_take(&b, 3), bufs[11]);
	bases_done(&b);
}

static void encode_one(struct squeeze *z, const uint8_t *page, enum page_method expected)
{
	uint8_t out[PAGE_ENTRY_MAX];

	squeeze_encode(z, 5, page, NULL, out);
	assert_int_equal(pages_method(out), expected);
}

/* A link whose speed nobody knows counts as fast: LZ4 only on probes. A slow one makes it pay. */
static void test_lz4_where_it_pays(void **state)
{
	static _Alignas(16) uint8_t page[MEM_PAGE_SIZE];
	struct squeeze z;
	struct mock_chan mock;
	struct chan c = mock_chan_open(&mock);

	memset(page, 'x', sizeof(page) / 2);
	for (unsigned i = 0; i < sizeof(page) / 2; i++)
		page[sizeof(page) / 2 + i] = (uint8_t)random();
	squeeze_init(&z, &c);
	squeeze_look(&z);
	encode_one(&z, page, PAGE_LZ4);
	for (int i = 0; i < 10; i++)
		encode_one(&z, page, PAGE_RAW);
	mock.rate = MEM_PAGE_SIZE; /* a second for a page */
	encode_one(&z, page, PAGE_RAW);
	squeeze_look(&z);
	assert_int_equal(z.link_ns, 1000000000);
	encode_one(&z, page, PAGE_LZ4);
	encode_one(&z, page, PAGE_LZ4);
	mock.rate = 0; /* what is not known changes nothing */
	squeeze_look(&z);
	encode_one(&z, page, PAGE_LZ4);
	mock.rate = 1ull << 50;
	squeeze_look(&z);
	encode_one(&z, page, PAGE_RAW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keep_and_take),
		cmocka_unit_test(test_fresh_copies_stay),
		cmocka_unit_test(test_steal_gives_each_once),
		cmocka_unit_test(test_lz4_where_it_pays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
