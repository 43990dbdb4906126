/* Whether LZ4 is tried: by what it costs and saves here, and what the link takes for a page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vmm/copy/pages.h"
#include "vmm/copy/squeeze.h"

#define PROBES_EVERY 64u
#define SLOW	     1000000000ull /* ns for a page: any saving pays */

static uint64_t text[MEM_PAGE_SIZE / 8], noise[MEM_PAGE_SIZE / 8], zeros[MEM_PAGE_SIZE / 8];
static uint8_t out[PAGE_ENTRY_MAX];
static struct squeeze z;

static int setup(void **state)
{
	uint64_t s = 88172645463325252ull;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		noise[i] = s;
		text[i] = i / 8;
	}
	squeeze_init(&z, NULL);
	return 0;
}

static enum page_method encode(const uint64_t *page, const uint64_t *base)
{
	uint32_t len = squeeze_encode(&z, 5, (const uint8_t *)page, (const uint8_t *)base, out);

	assert_true(len >= PAGE_HEAD_SIZE && len <= PAGE_ENTRY_MAX);
	return pages_method(out);
}

/* A link of which nothing is known is fast: LZ4 only to know what it would be worth. */
static void on_a_fast_link_only_probes(void **state)
{
	for (unsigned i = 0; i < 5 * PROBES_EVERY; i++)
		assert_int_equal(encode(text, NULL), i % PROBES_EVERY ? PAGE_RAW : PAGE_LZ4);
	assert_true(z.cost_ns && z.saved > MEM_PAGE_SIZE / 2);
}

static void on_a_slow_link_always(void **state)
{
	encode(text, NULL);
	z.link_ns = SLOW;
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(encode(text, NULL), PAGE_LZ4);
	/* And no more once it is fast again. */
	z.link_ns = 0;
	assert_int_equal(encode(text, NULL), PAGE_RAW);
}

/* Nothing to be had, however slow the link is; what it saves is learnt anew in time. */
static void noise_is_not_worth_it(void **state)
{
	unsigned tried = 0;

	z.link_ns = SLOW / 1000;
	for (unsigned i = 0; i < 10 * PROBES_EVERY; i++) {
		unsigned probes = z.to_probe;

		assert_int_equal(encode(noise, NULL), PAGE_RAW);
		tried += z.to_probe >= probes;
	}
	assert_int_equal(z.saved, 0);
	assert_int_equal(tried, 10);
	for (unsigned i = 0; i < PROBES_EVERY && !z.saved; i++)
		encode(text, NULL);
	assert_int_equal(encode(text, NULL), PAGE_LZ4);
}

/* Deltas and zeros are worth it anyway, and neither count as tries. */
static void without_lz4(void **state)
{
	uint64_t now[MEM_PAGE_SIZE / 8];

	memcpy(now, noise, sizeof(now));
	now[7]++;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(encode(now, noise), PAGE_DELTA);
		assert_int_equal(encode(zeros, NULL), PAGE_ZERO);
	}
	assert_int_equal(z.to_probe | z.cost_ns | z.saved, 0);
	assert_int_equal(encode(text, NULL), PAGE_LZ4);
}

static uint64_t rate;

static uint64_t link_rate(const struct chan *c)
{
	return rate;
}

/* A speed that is not known leaves what was known. */
static void the_link_is_asked(void **state)
{
	const struct chan_ops ops = {.rate = link_rate}, mute = {0};
	struct chan c = {.ops = &ops};

	squeeze_init(&z, &c);
	squeeze_look(&z);
	assert_int_equal(z.link_ns, 0);
	rate = 125000000; /* 1 Gbit/s */
	squeeze_look(&z);
	assert_int_equal(z.link_ns, 32768);
	rate = 0;
	squeeze_look(&z);
	assert_int_equal(z.link_ns, 32768);
	c.ops = &mute;
	squeeze_init(&z, &c);
	squeeze_look(&z);
	assert_int_equal(z.link_ns, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(on_a_fast_link_only_probes, setup),
		cmocka_unit_test_setup(on_a_slow_link_always, setup),
		cmocka_unit_test_setup(noise_is_not_worth_it, setup),
		cmocka_unit_test_setup(without_lz4, setup),
		cmocka_unit_test_setup(the_link_is_asked, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
