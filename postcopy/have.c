#include "postcopy/have.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/lock.h"
#include "vmm/base/log.h"

#define STATE	 0x0f
#define WAITERS	 (HAVE_FAULT | HAVE_LOOP)
#define WAS_ZERO 0x40 /* claimed to give memory to what is here */
#define TAKER	 0x80 /* have_remove() waits until it is settled */

static uint8_t load(const struct have *h, uint64_t page)
{
	return __atomic_load_n(&h->state[page], __ATOMIC_ACQUIRE);
}

/* On failure *s is what it is now. */
static bool change(struct have *h, uint64_t page, uint8_t *s, unsigned to)
{
	return __atomic_compare_exchange_n(&h->state[page], s, (uint8_t)to, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

static void count(uint64_t *n, int by)
{
	__atomic_fetch_add(n, (uint64_t)(int64_t)by, __ATOMIC_ACQ_REL);
}

int have_init(struct have *h, uint64_t npages)
{
	memset(h, 0, sizeof(*h));
	h->state = calloc(npages, 1);
	if (!h->state)
		return -ENOMEM;
	h->npages = h->left = npages;
	lock_init(&h->lock);
	pthread_cond_init(&h->settled, NULL);
	return 0;
}

void have_done(struct have *h)
{
	if (!h->state)
		return;
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->settled);
	free(h->state);
	memset(h, 0, sizeof(*h));
}

enum have_state have_state(const struct have *h, uint64_t page)
{
	return (enum have_state)(load(h, page) & STATE);
}

enum have_state have_ask(struct have *h, uint64_t page, enum have_waiter who)
{
	uint8_t s = load(h, page);

	for (;;) {
		enum have_state was = (enum have_state)(s & STATE);

		if (was == HAVE_ABSENT) {
			if (!change(h, page, &s, HAVE_ASKED | who))
				continue;
			count(&h->asked, 1);
			return was;
		}
		if (was >= HAVE_ZERO || (s & who) || change(h, page, &s, s | who))
			return was;
	}
}

enum have_state have_claim(struct have *h, uint64_t page)
{
	uint8_t s = load(h, page);

	for (;;) {
		enum have_state was = (enum have_state)(s & STATE);

		if (was > HAVE_ASKED)
			return was;
		if (!change(h, page, &s, HAVE_CLAIMED | (s & WAITERS)))
			continue;
		if (was == HAVE_ASKED)
			count(&h->asked, -1);
		return was;
	}
}

bool have_claim_zero(struct have *h, uint64_t page)
{
	uint8_t s = HAVE_ZERO;

	return change(h, page, &s, HAVE_CLAIMED | WAS_ZERO);
}

/* Out of CLAIMED, as `s` was. */
static void tell_taker(struct have *h, uint8_t s)
{
	if (!(s & TAKER))
		return;
	pthread_mutex_lock(&h->lock);
	pthread_cond_broadcast(&h->settled);
	pthread_mutex_unlock(&h->lock);
}

bool have_settle(struct have *h, uint64_t page, enum have_state to, unsigned *ret_waiters)
{
	uint8_t s = load(h, page);

	do {
		VMM_BUG_ON((s & STATE) != HAVE_CLAIMED);
		if (to == HAVE_ZERO && (s & HAVE_FAULT))
			return false;
	} while (!change(h, page, &s, to));
	if (!(s & WAS_ZERO))
		count(&h->left, -1);
	tell_taker(h, s);
	*ret_waiters = s & WAITERS;
	return true;
}

void have_unclaim(struct have *h, uint64_t page)
{
	uint8_t s = load(h, page), to;

	do {
		to = s & WAS_ZERO  ? HAVE_ZERO
		     : s & WAITERS ? HAVE_ASKED | (s & WAITERS)
				   : HAVE_ABSENT;
	} while (!change(h, page, &s, to));
	if ((to & STATE) == HAVE_ASKED)
		count(&h->asked, 1);
	tell_taker(h, s);
}

static void wait_settled(struct have *h, uint64_t page)
{
	uint8_t s = load(h, page);

	pthread_mutex_lock(&h->lock);
	while ((s & STATE) == HAVE_CLAIMED) {
		if ((s & TAKER) || change(h, page, &s, s | TAKER)) {
			pthread_cond_wait(&h->settled, &h->lock);
			s = load(h, page);
		}
	}
	pthread_mutex_unlock(&h->lock);
}

/* True: it was not here, and is ZERO now. */
static bool remove_one(struct have *h, uint64_t page, unsigned *waiters)
{
	uint8_t s = load(h, page);

	for (;;) {
		if ((s & STATE) == HAVE_CLAIMED) {
			wait_settled(h, page);
			s = load(h, page);
			continue;
		}
		if ((s & STATE) > HAVE_ASKED)
			return false;
		if (!change(h, page, &s, HAVE_ZERO))
			continue;
		count(&h->left, -1);
		if ((s & STATE) == HAVE_ASKED)
			count(&h->asked, -1);
		*waiters |= s & WAITERS;
		return true;
	}
}

unsigned have_remove(struct have *h, uint64_t page, uint64_t n, have_run_fn *fn, void *arg)
{
	unsigned waiters = 0;
	uint64_t run = 0;

	for (uint64_t end = page + n; page < end; page++) {
		if (remove_one(h, page, &waiters)) {
			run++;
			continue;
		}
		if (run && fn)
			fn(arg, page - run, run);
		run = 0;
	}
	if (run && fn)
		fn(arg, page - run, run);
	return waiters;
}

void have_emptied(struct have *h, uint64_t page, uint64_t n)
{
	for (uint64_t end = page + n; page < end; page++) {
		uint8_t s = HAVE_PAGE;

		change(h, page, &s, HAVE_ZERO);
	}
}

void have_came(struct have *h, uint64_t page, bool zero)
{
	if (have_state(h, page) == HAVE_ABSENT)
		count(&h->left, -1);
	__atomic_store_n(&h->state[page], zero ? HAVE_ZERO : HAVE_PAGE, __ATOMIC_RELEASE);
}

void have_drop(struct have *h, uint64_t page, uint64_t n)
{
	for (uint64_t end = page + n; page < end; page++) {
		if (have_state(h, page) != HAVE_ABSENT)
			count(&h->left, 1);
		__atomic_store_n(&h->state[page], HAVE_ABSENT, __ATOMIC_RELEASE);
	}
}

uint64_t have_next(const struct have *h, uint64_t page, enum have_state state)
{
	const uint64_t ones = 0x0101010101010101ull;

	while (page < h->npages && have_state(h, page) != state) {
		uint64_t w, x;

		page++;
		/* Eight at once that are all in another. */
		while (page % 8 == 0 && page + 8 <= h->npages) {
			w = __atomic_load_n((const uint64_t *)(const void *)(h->state + page),
					    __ATOMIC_ACQUIRE);
			x = (w & ones * STATE) ^ (ones * state);
			if ((x - ones) & ~x & (ones << 7))
				break;
			page += 8;
		}
	}
	return page;
}

void have_bitmap(const struct have *h, uint64_t word, uint64_t nwords, uint64_t *out)
{
	for (uint64_t i = 0; i < nwords; i++) {
		uint64_t first = (word + i) * 64;

		out[i] = 0;
		for (uint64_t b = 0; b < 64 && first + b < h->npages; b++) {
			uint8_t s = load(h, first + b);

			if ((s & STATE) >= HAVE_ZERO || (s & WAS_ZERO))
				out[i] |= 1ull << b;
		}
	}
}
