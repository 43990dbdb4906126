/* Runs of a stream against a map of bytes, at places where positions wrap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "net/spans.h"

#define MAP 400u

static void check(const struct spans *s, const uint8_t *map, uint32_t zero)
{
	uint32_t top = 0;

	for (uint32_t i = 0; i < MAP; i++) {
		uint32_t until = i, next = i + 1;

		while (until < MAP && map[until])
			until++;
		while (next < MAP && !map[next])
			next++;
		assert_int_equal(spans_until(s, zero + i), zero + until);
		if (!map[i])
			assert_int_equal(spans_next(s, zero + i, zero + MAP), zero + next);
		if (map[i])
			top = i + 1;
	}
	assert_int_equal(spans_top(s), zero + top);
}

/* Beyond the first byte, which is in the edge. */
static unsigned runs(const uint8_t *map)
{
	unsigned n = 0;

	for (uint32_t i = 1; i < MAP; i++)
		n += map[i] && !map[i - 1];
	return n;
}

static void as_a_map(void **state)
{
	static const uint32_t zeros[] = {0, 0xffffff00, 0x7fffff80, 12345};
	unsigned seed = 7, refused = 0;

	for (unsigned round = 0; round < 4000; round++) {
		uint32_t zero = zeros[round % 4], edge = 1 + (uint32_t)rand_r(&seed) % 20;
		uint8_t map[MAP + 1] = {0}, before[MAP + 1];
		struct spans s;

		spans_start(&s, zero + edge);
		memset(map, 1, edge);
		for (unsigned i = 0; i < 30; i++) {
			uint32_t from = (uint32_t)rand_r(&seed) % (MAP - 30);
			uint32_t to = from + 1 + (uint32_t)rand_r(&seed) % 29;

			memcpy(before, map, sizeof(map));
			if (rand_r(&seed) % 20 == 0) {
				spans_raise(&s, zero + to);
				memset(map, 1, to);
			} else if (spans_add(&s, zero + from, zero + to)) {
				memset(map + from, 1, to - from);
			} else {
				memset(map + from, 1, to - from);
				assert_int_equal(runs(map), SPANS_ISLANDS + 1);
				memcpy(map, before, sizeof(map));
				refused++;
			}
			check(&s, map, zero);
		}
	}
	assert_true(refused > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(as_a_map)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
