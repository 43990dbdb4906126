/*
 * Copies of pages as the peer holds them, kept after sending so that the next change of such a page
 * goes out as a delta. Direct-mapped by page number: no search, and neighbours never collide.
 *
 * Owner: the loop, during a capture. The buffers belong to the capture's pool.
 */
#ifndef FT_BASES_H
#define FT_BASES_H

#include <stdbool.h>
#include <stdint.h>

struct base_slot {
	uint64_t page;
	uint8_t *copy;	/* NULL: empty */
	uint64_t added; /* in which capture */
};

struct bases {
	struct base_slot *slots;
	uint32_t count; /* power of two */
	uint32_t hand;	/* where bases_steal() looks next */
	uint64_t capture;
};

/* Room for at most `limit` copies. 0 or -ENOMEM. */
int bases_init(struct bases *b, uint32_t limit);
void bases_done(struct bases *b);
/* A capture begins: copies added from here on are in use until it is acknowledged. */
void bases_begin(struct bases *b);
/* The copy of that page, which is the caller's now, or NULL. */
uint8_t *bases_take(struct bases *b, uint64_t page);
/* Whether bases_put() would take a copy of that page. */
bool bases_room(const struct bases *b, uint64_t page);
/* Keep it; there must be room. Returns the buffer it displaces, or NULL. */
uint8_t *bases_put(struct bases *b, uint64_t page, uint8_t *copy);
/* Some copy that nobody uses, to be used for something else; NULL when there is none. */
uint8_t *bases_steal(struct bases *b);

#endif
