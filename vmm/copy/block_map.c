#include "vmm/copy/block_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t words(const struct block_map *m)
{
	return (m->nblocks + 63) / 64;
}

int block_map_init(struct block_map *m, uint64_t bytes)
{
	m->nblocks = (bytes + BLOCK_MAP_BYTES - 1) / BLOCK_MAP_BYTES;
	m->bits = calloc(words(m), sizeof(*m->bits));
	return m->bits ? 0 : -ENOMEM;
}

void block_map_done(struct block_map *m)
{
	free(m->bits);
	memset(m, 0, sizeof(*m));
}

/* A word at a time: a request may be for a gigabyte. */
void block_map_mark(struct block_map *m, uint64_t off, uint64_t len)
{
	uint64_t b = off / BLOCK_MAP_BYTES, end = (off + len - 1) / BLOCK_MAP_BYTES + 1;

	while (b < end) {
		uint64_t next = b / 64 * 64 + 64 < end ? b / 64 * 64 + 64 : end;

		__atomic_fetch_or(&m->bits[b / 64], ~0ull >> (64 - (next - b)) << (b % 64),
				  __ATOMIC_ACQ_REL);
		b = next;
	}
}

bool block_map_take(struct block_map *m, uint64_t block)
{
	uint64_t bit = 1ull << (block % 64);

	if (!(__atomic_load_n(&m->bits[block / 64], __ATOMIC_ACQUIRE) & bit))
		return false;
	return __atomic_fetch_and(&m->bits[block / 64], ~bit, __ATOMIC_ACQ_REL) & bit;
}

uint64_t block_map_next(const struct block_map *m, uint64_t block)
{
	for (uint64_t w = block / 64; w < words(m); w++) {
		uint64_t bits = __atomic_load_n(&m->bits[w], __ATOMIC_ACQUIRE);

		if (w == block / 64)
			bits &= ~0ull << (block % 64);
		if (bits)
			return w * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	return m->nblocks;
}

uint64_t block_map_count(const struct block_map *m)
{
	uint64_t n = 0;

	for (uint64_t w = 0; w < words(m); w++)
		n += (uint64_t)__builtin_popcountll(__atomic_load_n(&m->bits[w], __ATOMIC_RELAXED));
	return n;
}
