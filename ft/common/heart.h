/*
 * Heartbeats on a connection of their own, and the judgement "the peer is dead": nothing heard on
 * any link for peer_timeout. A side that was itself away for long (stopped, starved) must not judge
 * by old clocks: it gives the peer a fresh timeout, and calls itself suspect until the peer has
 * echoed a heartbeat sent after the gap, because meanwhile the peer may have taken over.
 *
 * Owner: the loop.
 */
#ifndef FT_HEART_H
#define FT_HEART_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/loop.h"
#include "vmm/wire/stream.h"

struct heart {
	struct loop *loop;
	struct stream stream;
	struct loop_op tick_op, poll_op, again_op;
	uint64_t interval_ns, timeout_ns;
	uint64_t last_heard_ns, last_tick_ns;
	uint64_t nonce, peer_nonce;
	uint64_t trusted_from; /* an echo of this nonce or later ends suspicion; 0: not suspect */
	bool running;
	void (*lost)(void *arg, const char *why);
	void (*trusted)(void *arg); /* suspicion has ended */
	void *arg;
};

/* Takes the connected heartbeat socket over. lost() is called once, from the loop. */
int heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		uint64_t timeout_ns);
void heart_stop(struct heart *h);
/* Something arrived on another link of the same peer. */
void heart_heard(struct heart *h);
/* Was this side away, and has the peer not yet been heard since? Ask before acting on an ack. */
bool heart_suspect(struct heart *h);

#endif
