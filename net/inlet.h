/*
 * What a twin's network gets: the frames that the primary's guest was given, in place of those of
 * its own tap or passt, which waits unplugged until this side runs the VM alone.
 *
 * Owner: the loop.
 */
#ifndef NET_INLET_H
#define NET_INLET_H

#include <stdbool.h>
#include <stdint.h>

#include "net/netdev.h"

#define INLET_LIMIT (1u << 20) /* bytes that wait for the guest's buffers, a frame more at most */

struct inlet_frame;
struct limit;
struct seqmap;

struct inlet {
	struct netdev *nd;	      /* NULL: not begun */
	const struct netdev_ops *ops; /* of the back end that waits, */
	void *back;
	int fd;
	uint64_t features;   /* and the guest's, for it */
	struct seqmap *seqs; /* the map for the back end that waits, */
	struct limit *limit; /* and its limit: the primary's holds what comes here */
	struct inlet_frame *head, **tail;
	uint64_t bytes;
	bool full;
	void (*room)(void *arg); /* after inlet_put() said that it is full */
	void *arg;
};

/*
 * room and arg are the caller's, set before, and born, which has the TCP connections of this guest
 * whose numbers are others than the primary's. -errno: there is no descriptor.
 */
int inlet_begin(struct inlet *in, struct netdev *nd, struct seqmap *born);
/* The back end is there again. What waits is dropped. Safe on a zeroed one, and twice. */
void inlet_end(struct inlet *in);
/* A frame with its header, for the guest: copied. False: full, no more until room(). */
bool inlet_put(struct inlet *in, const void *frame, uint32_t len);
/* A checkpoint: what waits is dropped. */
void inlet_drop(struct inlet *in);

#endif
