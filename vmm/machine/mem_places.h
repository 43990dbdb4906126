/*
 * Where two memories differ, found by a few sums over their pages' hashes: one of all pages, and
 * for each bit of a page's number one of those pages that have it set. If one page differs, each
 * sum differs by as much as that of all, or not at all, and that is the page's number, bit by bit.
 */
#ifndef VMM_MEM_PLACES_H
#define VMM_MEM_PLACES_H

#include <stdint.h>

#include "vmm/machine/mem.h"

#define MEM_PLACES 26 /* bits: pages of 256 GiB */

struct mem_places {
	uint64_t sum[MEM_PLACES];
};

/* Also on the wire, little-endian. Returns mem_hash(), and mem_hash_kept(). */
uint64_t mem_hash_places(const struct mem *m, struct mem_places *ret);
uint64_t mem_hash_places_kept(const struct mem *m, struct mem_places *ret);
/*
 * All pages that differ are within *first..*last; if that is one, it is the one. by: the difference
 * of the two hashes, not 0.
 */
void mem_places_find(uint64_t by, const struct mem_places *a, const struct mem_places *b,
		     uint64_t *first, uint64_t *last);

#endif
