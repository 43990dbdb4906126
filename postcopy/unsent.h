/*
 * The pages that a source has still to send, once the guest runs elsewhere. A page is claimed
 * before it is read, by whoever sends it, so that none is sent twice, on whichever link.
 *
 * Any thread. Set up by the loop, before urgent_start() and push_start() and between their ends and
 * the next start.
 */
#ifndef POSTCOPY_UNSENT_H
#define POSTCOPY_UNSENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct unsent {
	uint64_t *bits; /* atomic */
	uint64_t *owed; /* the loop's: those of which nobody has said that the peer has them */
	uint64_t npages;
	uint64_t left;	 /* atomic: bits that are set */
	uint64_t flying; /* atomic: claimed, and not yet written to a link */
	uint64_t near;	 /* atomic: the last page that somebody waited for; 0 at first */
	/* private to unsent.c */
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

int unsent_init(struct unsent *u, uint64_t npages, bool all); /* -ENOMEM, or 0 */
void unsent_done(struct unsent *u);			      /* safe on a zeroed one */
void unsent_set(struct unsent *u, uint64_t page);
/* A peer that has lost its links has these: 64 pages from word * 64 on; the others are unsent. */
void unsent_peer_has(struct unsent *u, uint64_t word, uint64_t had);

/* A copy of the owed ones, a bit a page, to be freed; or NULL. */
uint64_t *unsent_owed(const struct unsent *u);

/*
 * Of these pages of a word, those that are the caller's to send now: unsent_written() when they
 * have been. Those that the caller finds unsent and does not get, another has taken meanwhile.
 */
uint64_t unsent_take(struct unsent *u, uint64_t word, uint64_t bits);
bool unsent_claim(struct unsent *u, uint64_t page); /* one, likewise */
/* The first unsent page at or after `page`, or npages. */
uint64_t unsent_next(const struct unsent *u, uint64_t page);
void unsent_written(struct unsent *u, uint64_t n);
/* Nothing is left, and nothing is on its way to a link. */
bool unsent_over(const struct unsent *u);
/* Wait until it is over, *stop is set, or the time (CLOCK_MONOTONIC) has come. */
void unsent_wait(struct unsent *u, const bool *stop, uint64_t until_ns);
/* Set *stop for those who wait. */
void unsent_stir(struct unsent *u, bool *stop);

#endif
