/*
 * How fast something may go, in bytes and in operations a second: two buckets, and a timer of the
 * loop that says when there are tokens again. Whoever may not go on leaves what it has to do where
 * it is.
 *
 * Owner: the loop; all of it on the loop thread.
 */
#ifndef VMM_LIMIT_H
#define VMM_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/bucket.h"
#include "vmm/base/loop.h"

/* A burst is what comes in so long, and two operations. */
#define LIMIT_BURST_NS 100000000ull
/* A wait is so long at least, so that there is something to do behind it. */
#define LIMIT_WAIT_NS 2000000ull

struct limit_rates {
	uint64_t bytes; /* a second; 0: any number */
	uint32_t ops;	/* likewise */
};

struct limit {
	struct loop *loop;
	struct bucket bytes, ops;
	struct loop_op timer;
	bool waits;
	uint64_t since_ns, held_ns; /* when the wait began; all that are over */
	void (*go)(void *arg);
	void *arg;
};

/* l is zeroed. go(arg): after a wait, as often as one was begun. No limit yet. */
void limit_init(struct limit *l, struct loop *loop, void (*go)(void *arg), void *arg);
void limit_done(struct limit *l); /* safe twice, and on a zeroed one */
/* While it waits, too: go() comes soon then. */
void limit_set(struct limit *l, const struct limit_rates *r);
static inline bool limit_is_set(const struct limit *l)
{
	return l->bytes.rate || l->ops.rate;
}
/* Not now: go() comes. False: go on, and limit_take(). */
bool limit_holds(struct limit *l);
/* One operation of so many bytes was begun. */
void limit_take(struct limit *l, uint64_t bytes);
/* How long all waits took so far, the one that is under way included. */
uint64_t limit_held_ns(const struct limit *l);

#endif
