/*
 * Packets of a flow, or messages, one after the other: the n-th of ours is the n-th of theirs.
 * For net/compare*.c only. Owner: the loop thread.
 */
#ifndef NET_COMPARE_FIFO_H
#define NET_COMPARE_FIFO_H

#include <stdbool.h>
#include <stdint.h>

struct compare;
struct compare_flow;
struct packet;

/* What counts of a packet. */
struct compare_view {
	uint32_t tag, len;
	const uint8_t *data;
};

struct compare_copy;

/* Of theirs that ours has not put out; there is one only when none of ours waits. */
struct compare_fifo {
	struct compare_copy *first, *last;
};

void compare_fifo_ours(struct compare *c, struct compare_flow *f, const struct packet *p,
		       void *cookie, uint64_t now);
void compare_fifo_theirs(struct compare *c, struct compare_flow *f, const struct packet *p,
			 uint64_t now);
/* What waits longest, of ours or of theirs, waited too long. */
void compare_fifo_late(struct compare *c, const struct compare_flow *f, bool ours);
void compare_fifo_clear(struct compare *c, struct compare_flow *f);

#endif
