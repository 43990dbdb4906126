/*
 * The computation of the `hash` guest: a chain of dependent reads and writes all over a set of
 * pages. Whoever runs it with the same numbers gets the same digest, so a host program can tell
 * whether a guest that was checkpointed and moved about computed as if nothing had happened.
 */
#ifndef GUESTS_HASH_MODEL_H
#define GUESTS_HASH_MODEL_H

#include <stdint.h>

#define HASH_PAGES_DEFAULT  256
#define HASH_ROUNDS_DEFAULT 2000
#define HASH_SEED_DEFAULT   1
#define HASH_STEPS	    65536u /* steps of one round */
#define HASH_PAGE_WORDS	    512u
#define HASH_PAGES_MAX	    (1u << 22)

/* May be defined before inclusion: called with the value that each step writes. */
#ifndef HASH_STEP
#define HASH_STEP(value) ((void)(value))
#endif

struct hash {
	uint64_t *words; /* of the caller; count of them */
	uint64_t count;
	uint64_t lcg;
	uint64_t sum; /* of all values written */
	uint64_t parity;
};

/* `words` holds pages * HASH_PAGE_WORDS words; 1 <= pages <= HASH_PAGES_MAX. */
static inline void hash_init(struct hash *h, uint64_t *words, uint64_t pages, uint64_t seed)
{
	h->words = words;
	h->count = pages * HASH_PAGE_WORDS;
	h->lcg = seed * 0x9e3779b97f4a7c15ull + 1;
	h->sum = 0;
	h->parity = 0;
	for (uint64_t i = 0; i < h->count; i++)
		words[i] = (i + seed) * 0xbf58476d1ce4e5b9ull;
}

static inline void hash_round(struct hash *h)
{
	uint64_t lcg = h->lcg, sum = h->sum, parity = h->parity;

	for (uint32_t i = 0; i < HASH_STEPS; i++) {
		uint64_t *w, v;

		lcg = lcg * 6364136223846793005ull + 1442695040888963407ull;
		w = &h->words[((lcg >> 32) * h->count) >> 32];
		v = *w ^ lcg;
		v = (v << 17 | v >> 47) + sum;
		*w = v;
		sum += v;
		parity ^= v;
		HASH_STEP(v);
	}
	h->lcg = lcg;
	h->sum = sum;
	h->parity = parity;
}

static inline uint64_t hash_digest(const struct hash *h)
{
	uint64_t d = 0xcbf29ce484222325ull ^ h->lcg ^ h->sum ^ h->parity;

	for (uint64_t i = 0; i < h->count; i++)
		d = (d ^ h->words[i]) * 0x100000001b3ull;
	return d;
}

/* The whole computation. */
static inline uint64_t hash_run(uint64_t *words, uint64_t pages, uint64_t rounds, uint64_t seed)
{
	struct hash h;

	hash_init(&h, words, pages, seed);
	for (uint64_t i = 0; i < rounds; i++)
		hash_round(&h);
	return hash_digest(&h);
}

#endif
