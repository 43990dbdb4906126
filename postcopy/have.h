/*
 * What a destination has of its memory, page by page, while the guest runs on it. Every page goes
 *
 *	ABSENT -> ASKED -> CLAIMED -> PAGE, or ZERO (known to be zero; has memory or not)
 *
 * and never back, so that it is asked for once, however many wait for it, and filled once, whatever
 * comes late or twice. Only before the switch may a page be filled again, or dropped.
 *
 * Any thread, without a lock: a state is one byte, changed by compare-and-set. Who has claimed a
 * page is the only one who may fill it, and settles it soon.
 */
#ifndef POSTCOPY_HAVE_H
#define POSTCOPY_HAVE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum have_state {
	HAVE_ABSENT,
	HAVE_ASKED,
	HAVE_CLAIMED,
	HAVE_ZERO,
	HAVE_PAGE,
};

/* Who waits for a page; several may. */
enum have_waiter {
	HAVE_FAULT = 0x10, /* a thread, in a fault */
	HAVE_LOOP = 0x20,  /* whoever asked mem_ready() */
};

struct have {
	uint8_t *state; /* a byte a page: enum have_state and waiters */
	uint64_t npages;
	uint64_t left;	/* atomic: pages neither ZERO nor PAGE */
	uint64_t asked; /* atomic: pages that are ASKED */
	/* private to have.c: who takes a page away waits until it is settled */
	pthread_mutex_t lock;
	pthread_cond_t settled;
};

int have_init(struct have *h, uint64_t npages); /* all absent. -ENOMEM, or 0 */
void have_done(struct have *h);			/* safe on a zeroed one */
enum have_state have_state(const struct have *h, uint64_t page);

/*
 * Somebody waits for the page. ABSENT: it is ASKED now and the caller is to send for it; else
 * what it was: ASKED and CLAIMED come by themselves, ZERO and PAGE are the caller's to resolve.
 */
enum have_state have_ask(struct have *h, uint64_t page, enum have_waiter who);
/* What it was. ABSENT or ASKED: the caller alone fills it now, and settles it; else nobody does. */
enum have_state have_claim(struct have *h, uint64_t page);
/* True: it was ZERO, and the caller gives it memory, likewise. */
bool have_claim_zero(struct have *h, uint64_t page);
/*
 * A claimed page is filled. True, and its waiters. False: a thread waits for it in a fault, ZERO
 * would be no help, and nothing is changed: the caller fills it with zeros first.
 */
bool have_settle(struct have *h, uint64_t page, enum have_state to, unsigned *ret_waiters);
/* It could not be filled: ASKED when somebody waits for it, else ABSENT; or ZERO, as it was. */
void have_unclaim(struct have *h, uint64_t page);

/*
 * Take n pages away before their memory goes: what is not here is ZERO from now on, and told run by
 * run (NULL: not). Waits for claimed ones to be settled. Their waiters, all together.
 */
typedef void have_run_fn(void *arg, uint64_t page, uint64_t count);
unsigned have_remove(struct have *h, uint64_t page, uint64_t n, have_run_fn *fn, void *arg);
/* After that, when their memory is gone. */
void have_emptied(struct have *h, uint64_t page, uint64_t n);

/* Before the switch, one thread: it came (again) / what came is void. */
void have_came(struct have *h, uint64_t page, bool zero);
void have_drop(struct have *h, uint64_t page, uint64_t n);

/* The next page that is in `state` at or after `page`, or npages. 0.2 ns a page. */
uint64_t have_next(const struct have *h, uint64_t page, enum have_state state);
/* A bit for each page that is here, from word * 64 on, for a peer to go on from. */
void have_bitmap(const struct have *h, uint64_t word, uint64_t nwords, uint64_t *out);

#endif
