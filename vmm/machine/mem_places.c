#include "vmm/machine/mem_places.h"

#include <string.h>
#include <xxhash.h>

static uint64_t places_of(const struct mem *m, const uint8_t *view, struct mem_places *ret)
{
	uint64_t all = 0, off = 0, end;

	memset(ret, 0, sizeof(*ret));
	for (; mem_next_data(m, &off, &end); off = end)
		for (uint64_t at = off; at < end; at += MEM_PAGE_SIZE) {
			uint64_t hash;

			if (mem_is_zero_page(view + at))
				continue;
			hash = XXH3_64bits_withSeed(view + at, MEM_PAGE_SIZE, at);
			all += hash;
			for (unsigned bit = 0; bit < MEM_PLACES; bit++)
				if (at >> MEM_PAGE_SHIFT >> bit & 1)
					ret->sum[bit] += hash;
		}
	return all;
}

uint64_t mem_hash_places(const struct mem *m, struct mem_places *ret)
{
	return places_of(m, m->base, ret);
}

uint64_t mem_hash_places_kept(const struct mem *m, struct mem_places *ret)
{
	return places_of(m, m->kept, ret);
}

uint64_t mem_hash(const struct mem *m)
{
	struct mem_places ignored;

	return places_of(m, m->base, &ignored);
}

uint64_t mem_hash_kept(const struct mem *m)
{
	struct mem_places ignored;

	return places_of(m, m->kept, &ignored);
}

void mem_places_find(uint64_t by, const struct mem_places *a, const struct mem_places *b,
		     uint64_t *first, uint64_t *last)
{
	uint64_t page = 0;
	unsigned bit = MEM_PLACES;

	/* Down to the first bit in which those that differ are not alike. */
	while (bit) {
		uint64_t d = a->sum[bit - 1] - b->sum[bit - 1];

		if (d && d != by)
			break;
		page |= (uint64_t)(d == by) << --bit;
	}
	*first = page;
	*last = page | ((1ull << bit) - 1);
}
