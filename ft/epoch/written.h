/*
 * COLO: what the guest here has written to its disks lately, by which the primary knows whether the
 * twin, when it reads what it wrote itself, reads what the guest here wrote, too. If not, the two
 * are apart, though nobody outside has seen it yet.
 *
 * A filter of sectors with their bytes, of the open epoch and of the one before, whose last
 * requests a twin makes again. It forgets nothing, and is wrong at times: then a difference is not
 * seen, or a checkpoint more is taken. Neither does any harm.
 *
 * Either side may be far behind, as an image is slower than the twin's memory. So a sector that is
 * not known is judged when the guest here has written as often as the twin had, a queue's length
 * more, or when it writes no more.
 *
 * Owner: the loop.
 */
#ifndef FT_WRITTEN_H
#define FT_WRITTEN_H

#include <stdbool.h>
#include <stdint.h>

#define WRITTEN_SECTOR 512u
#define WRITTEN_BITS   (1u << 21) /* 16 MiB of writes: one key of 60 is known by mistake */
#define WRITTEN_WAITS  4096u
#define WRITTEN_SLACK  256u /* requests that may be done in another order */
#define WRITTEN_KEYS   500u /* of one FRAME_READ */

struct written_wait {
	uint64_t key, writes;
};

struct written {
	uint64_t *bits[2]; /* of the epoch that is open, and the one before */
	bool any[2];
	uint64_t writes;	    /* requests, in the open one, */
	uint64_t had;		    /* and at the last look */
	struct written_wait *waits; /* in order of time, */
	unsigned nwaits, old;	    /* so many; those that were looked at before come first */
};

/* -ENOMEM, or 0. */
int written_init(struct written *w);
void written_done(struct written *w); /* safe on a zeroed one, and twice */
/* Of a sector at this byte of the machine's device with this index; any thread. */
uint64_t written_key(unsigned device, uint64_t off, const void *sector);
/* The guest here writes that, by one request; whole sectors. */
void written_add(struct written *w, unsigned device, uint64_t off, const void *bytes, uint32_t len);
/* An epoch is sealed. */
void written_seal(struct written *w);
/*
 * The twin read that after so many requests to write: it is known, or waits for written_missing(),
 * unless too many do: a twin may be very far ahead, and those that wait are enough to judge by.
 */
void written_expect(struct written *w, uint64_t key, uint64_t writes);
static inline bool written_waits(const struct written *w)
{
	return w->nwaits != 0;
}
/*
 * A look at what waits, from time to time: one that can be judged waits no more. True: one of them
 * was not written here.
 */
bool written_missing(struct written *w);

#endif
