#define _GNU_SOURCE
#include "postcopy/unsent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm/base/lock.h"

static uint64_t words(uint64_t npages)
{
	return (npages + 63) / 64;
}

/* Bits of a word that are pages. */
static uint64_t mask(const struct unsent *u, uint64_t word)
{
	uint64_t n = u->npages - word * 64;

	return n >= 64 ? UINT64_MAX : (1ull << n) - 1;
}

int unsent_init(struct unsent *u, uint64_t npages, bool all)
{
	memset(u, 0, sizeof(*u));
	u->bits = calloc(words(npages), sizeof(*u->bits));
	u->owed = calloc(words(npages), sizeof(*u->owed));
	if (!u->bits || !u->owed) {
		free(u->bits);
		free(u->owed);
		memset(u, 0, sizeof(*u));
		return -ENOMEM;
	}
	u->npages = npages;
	for (uint64_t w = 0; all && w < words(npages); w++)
		u->owed[w] = u->bits[w] = mask(u, w);
	u->left = all ? npages : 0;
	lock_init(&u->lock);
	pthread_cond_init(&u->changed, NULL);
	return 0;
}

void unsent_done(struct unsent *u)
{
	if (!u->bits)
		return;
	pthread_mutex_destroy(&u->lock);
	pthread_cond_destroy(&u->changed);
	free(u->bits);
	free(u->owed);
	memset(u, 0, sizeof(*u));
}

void unsent_set(struct unsent *u, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64);

	if (!(u->bits[page / 64] & bit))
		u->left++;
	u->bits[page / 64] |= bit;
	u->owed[page / 64] |= bit;
}

void unsent_peer_has(struct unsent *u, uint64_t word, uint64_t had)
{
	u->left -= (uint64_t)__builtin_popcountll(u->bits[word]);
	u->bits[word] = ~had & mask(u, word);
	u->left += (uint64_t)__builtin_popcountll(u->bits[word]);
	u->owed[word] = u->bits[word];
}

uint64_t *unsent_owed(const struct unsent *u)
{
	uint64_t *copy = malloc(words(u->npages) * sizeof(*copy));

	if (copy)
		memcpy(copy, u->owed, words(u->npages) * sizeof(*copy));
	return copy;
}

uint64_t unsent_take(struct unsent *u, uint64_t word, uint64_t bits)
{
	uint64_t n = (uint64_t)__builtin_popcountll(bits), got;

	if (!(__atomic_load_n(&u->bits[word], __ATOMIC_RELAXED) & bits))
		return 0;
	/* What flies is counted first: nobody may see a page neither left nor flying. */
	__atomic_fetch_add(&u->flying, n, __ATOMIC_SEQ_CST);
	bits &= __atomic_fetch_and(&u->bits[word], ~bits, __ATOMIC_SEQ_CST);
	got = (uint64_t)__builtin_popcountll(bits);
	__atomic_fetch_sub(&u->left, got, __ATOMIC_SEQ_CST);
	unsent_written(u, n - got);
	return bits;
}

bool unsent_claim(struct unsent *u, uint64_t page)
{
	return unsent_take(u, page / 64, 1ull << (page % 64)) != 0;
}

uint64_t unsent_next(const struct unsent *u, uint64_t page)
{
	for (uint64_t w = page / 64; w < words(u->npages); w++) {
		uint64_t bits = __atomic_load_n(&u->bits[w], __ATOMIC_RELAXED);

		if (w == page / 64)
			bits &= UINT64_MAX << (page % 64);
		if (bits)
			return w * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	return u->npages;
}

bool unsent_over(const struct unsent *u)
{
	return !__atomic_load_n(&u->left, __ATOMIC_SEQ_CST) &&
	       !__atomic_load_n(&u->flying, __ATOMIC_SEQ_CST);
}

void unsent_written(struct unsent *u, uint64_t n)
{
	if (n && __atomic_sub_fetch(&u->flying, n, __ATOMIC_SEQ_CST))
		return;
	if (!unsent_over(u))
		return;
	pthread_mutex_lock(&u->lock);
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

void unsent_wait(struct unsent *u, const bool *stop, uint64_t until_ns)
{
	struct timespec t = {.tv_sec = (time_t)(until_ns / 1000000000),
			     .tv_nsec = (long)(until_ns % 1000000000)};

	pthread_mutex_lock(&u->lock);
	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE) && !unsent_over(u))
		if (pthread_cond_clockwait(&u->changed, &u->lock, CLOCK_MONOTONIC, &t))
			break;
	pthread_mutex_unlock(&u->lock);
}

void unsent_stir(struct unsent *u, bool *stop)
{
	pthread_mutex_lock(&u->lock);
	__atomic_store_n(stop, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}
