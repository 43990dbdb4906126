/*
 * Capture: while the VM is stopped, the pages that changed in the epoch are copied into staging
 * buffers; they are encoded and sent while it runs again.
 *
 * A page that is dirty in two epochs running is "hot": its dirty bit stays set, so that the guest
 * takes no more write faults on it, and it is compared with the copy last sent instead. That copy
 * is also the base of its delta. A hot page that stays equal for HOT_COOL epochs is protected
 * again.
 *
 * A page that was given back to the host (mem_discard()) and not touched since takes no staging
 * memory and is not looked at: it is sent as the page of zeros that it is, and stops being hot.
 *
 * Staging memory is bounded: when it runs out in the middle of a capture, the batch so far is
 * pushed to the sender and the VM stays stopped until buffers come back. Nothing here waits.
 *
 * Owner: the loop, but for capture_put(), which the sender calls.
 */
#ifndef FT_CAPTURE_H
#define FT_CAPTURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ft/epoch/bases.h"
#include "vmm/vm/dirty.h"
#include "vmm/base/err.h"

struct capture_page {
	uint64_t page;
	uint8_t *now;  /* content at the seal, not to be written */
	uint8_t *base; /* content the peer holds, or NULL; goes back to the pool after sending */
	bool keep;     /* `now` stays here, as the next base */
};

/* One batch of pages on its way from capture to sender. */
struct capture_batch {
	uint64_t epoch;
	struct capture_page *pages;
	uint32_t n, cap;
};

struct hot_page {
	uint64_t page;
	uint8_t *copy;	/* as last sent */
	uint32_t equal; /* epochs in a row without a change */
};

/* How far a capture is: first the hot pages, then word by word of the dirty bits. */
struct capture_place {
	uint32_t hot;
	uint64_t word, bits, last; /* the next word; of the one before what is left, and hotness */
	uint64_t cleared;	   /* so many words are protected again */
};

struct capture {
	struct dirty dirty;
	struct mem *mem;
	uint8_t *pool;	/* nbufs pages, and one more that stays zero */
	uint8_t *zeros; /* that one */
	uint32_t nbufs;
	uint8_t **free; /* stack */
	uint32_t nfree;
	uint8_t *mine[64]; /* taken off it by the loop: one lock for many pages */
	uint32_t nmine;
	pthread_mutex_t lock; /* of free, nfree */
	struct hot_page *hot;
	uint32_t nhot, hot_max;
	struct bases bases;  /* copies of cold pages */
	uint64_t *hot_bits;  /* pages in the hot set */
	uint64_t *last_bits; /* cold pages of the epoch before */
	uint64_t *lacks; /* atomic: a peer that is behind lacks these, too; or NULL. The caller's */
	struct mem_hole hole; /* during a capture */
	struct capture_place at;
	uint32_t piece; /* pages that this call may still look at */
	int64_t count;	/* pages of this capture */
	uint64_t sent_hot;
};

int capture_init(struct capture *c, struct kvm *kvm, struct mem *mem, uint64_t staging_bytes,
		 struct err *e);
void capture_done(struct capture *c);
/* VM stopped: the pages that changed since the last capture are looked up. 0 or negative errno. */
int capture_begin(struct capture *c);
enum capture_filled {
	CAPTURE_FULL, /* the batch is, or no buffer is free: go on with an empty one */
	CAPTURE_ALL,  /* c->count of them */
	CAPTURE_MORE, /* there are, and room is, too: the caller may look at the clock */
};

/* VM still stopped: put a piece of them into the batch. What is in there, or a negative errno. */
int capture_fill(struct capture *c, struct capture_batch *b);
/* Pages of staging memory in use, bases and hot copies included. */
uint32_t capture_used(struct capture *c); /* loop; 0 when there is none */
/* Sender: these pages were encoded; their bases and, unless kept, their copies are free again. */
void capture_put(struct capture *c, const struct capture_page *pages, uint32_t n);
#endif
