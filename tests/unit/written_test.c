/* What the guest here has written: what is known, what is waited for, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ft/epoch/written.h"

static struct written w;
static uint8_t bytes[8 * WRITTEN_SECTOR];

static int setup(void **state)
{
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i / WRITTEN_SECTOR + 1);
	return written_init(&w);
}

static int teardown(void **state)
{
	written_done(&w);
	written_done(&w);
	return 0;
}

static uint64_t key(unsigned device, unsigned sector)
{
	return written_key(device, sector * WRITTEN_SECTOR, bytes + sector % 8 * WRITTEN_SECTOR);
}

static void a_sector_is_its_place_and_its_bytes(void **state)
{
	written_add(&w, 1, 0, bytes, sizeof(bytes));
	for (unsigned i = 0; i < 8; i++)
		written_expect(&w, key(1, i), 1);
	assert_false(written_waits(&w));
	written_expect(&w, key(2, 0), 1); /* another disk */
	assert_int_equal(w.nwaits, 1);
	written_expect(&w, key(1, 8), 1); /* another place, the same bytes */
	assert_int_equal(w.nwaits, 2);
	bytes[0] ^= 1;
	written_expect(&w, key(1, 0), 1);
	assert_int_equal(w.nwaits, 3);
}

/* Far behind, but at it. */
static void one_that_comes_later_is_known(void **state)
{
	written_expect(&w, key(1, 0), 700);
	for (unsigned i = 0; i < 700; i++) {
		written_add(&w, 2, i * WRITTEN_SECTOR, bytes, WRITTEN_SECTOR);
		assert_false(written_missing(&w));
		assert_true(written_waits(&w));
	}
	written_add(&w, 1, 0, bytes, WRITTEN_SECTOR);
	assert_false(written_missing(&w));
	assert_false(written_waits(&w));
}

static void one_that_should_have_come(void **state)
{
	written_expect(&w, key(1, 0), 10);
	for (unsigned i = 0; i < 10 + WRITTEN_SLACK; i++) {
		assert_false(written_missing(&w));
		written_add(&w, 2, i * WRITTEN_SECTOR, bytes, WRITTEN_SECTOR);
	}
	assert_true(written_missing(&w));
	assert_false(written_missing(&w)); /* once */
}

/* It has waited from one look to the next, and nothing was written here. */
static void nobody_writes_any_more(void **state)
{
	written_add(&w, 2, 0, bytes, WRITTEN_SECTOR);
	written_expect(&w, key(1, 0), 1000);
	assert_false(written_missing(&w));
	written_add(&w, 2, 0, bytes, WRITTEN_SECTOR);
	assert_false(written_missing(&w));
	written_expect(&w, key(1, 1), 1000); /* has not waited so long */
	assert_true(written_missing(&w));
	assert_int_equal(w.nwaits, 1);
	assert_true(written_missing(&w));
	assert_false(written_missing(&w));
}

/* Requests that are under way at a seal are the twin's, too. */
static void the_epoch_before_counts(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		bool known = i == 1 || i == 2;

		if (i == 1)
			written_add(&w, 1, 0, bytes, WRITTEN_SECTOR);
		written_expect(&w, key(1, 0), 5);
		assert_int_equal(w.nwaits, !known);
		written_seal(&w);
		assert_false(written_waits(&w));
	}
}

static void so_many_wait(void **state)
{
	for (unsigned i = 0; i <= WRITTEN_WAITS; i++)
		written_expect(&w, key(1, i), 5);
	assert_int_equal(w.nwaits, WRITTEN_WAITS);
	assert_false(written_missing(&w));
	assert_true(written_missing(&w));
}

/* A sector is known by mistake as seldom as the header says. */
static void mistakes_are_rare(void **state)
{
	unsigned known = 0;

	for (unsigned i = 0; i < (16u << 20) / sizeof(bytes); i++)
		written_add(&w, 1, i * sizeof(bytes), bytes, sizeof(bytes));
	for (unsigned i = 0; i < 4000; i++) {
		w.nwaits = 0;
		written_expect(&w, key(2, i), 5);
		known += !w.nwaits;
	}
	assert_in_range(known, 1, 4000 / 40);
}

#define WRITTEN_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WRITTEN_TEST(a_sector_is_its_place_and_its_bytes),
		WRITTEN_TEST(one_that_comes_later_is_known),
		WRITTEN_TEST(one_that_should_have_come),
		WRITTEN_TEST(nobody_writes_any_more),
		WRITTEN_TEST(the_epoch_before_counts),
		WRITTEN_TEST(so_many_wait),
		WRITTEN_TEST(mistakes_are_rare),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
