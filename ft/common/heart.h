/*
 * Heartbeats on a connection and a thread of their own, and the judgement over the peer. Every
 * heartbeat says how long its sender's loop has been away, so that two kinds of loss are told
 * apart:
 *
 *   dead: nothing heard on any link for the timeout and the link's shortest round trip
 *   hung: the heart beats, but the loop has been away for HEART_HANG_TIMEOUTS timeouts, at least
 *         HEART_HANG_MIN_NS: a loop that is busy for a while is no reason to take over
 *
 * Suspicion of oneself: what the peer echoes is a lease. It heard what we sent at that time, so it
 * cannot have missed us before the timeout from then has passed. When the lease has run out, be it
 * that this process, the peer or the network stood still, or when we said that our loop hangs and
 * that has not been echoed, the peer may have taken over: this side is suspect, until a newer
 * heartbeat is echoed. The nonce of a heartbeat is its sender's clock. A new one is answered at
 * once, by a repetition with the new echo, so that a lease is no older than an interval and a round
 * trip.
 *
 * All functions and callbacks: loop thread.
 */
#ifndef FT_HEART_H
#define FT_HEART_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ft/common/wire.h"
#include "vmm/base/loop.h"
#include "vmm/wire/stream.h"

#define HEART_HANG_TIMEOUTS 10
#define HEART_HANG_MIN_NS   5000000000ull

struct heart {
	/* Owner: the loop. */
	struct loop *loop; /* NULL: not started */
	struct loop_op tick_op, told_op;
	uint64_t interval_ns;
	uint64_t timeout_ns; /* may be raised while the heart beats */
	bool running;	     /* lost() was not called yet */
	void (*lost)(void *arg, const char *why);
	void (*trusted)(void *arg); /* suspicion has ended; may be NULL */
	void *arg;
	/* Constant while the thread runs. */
	pthread_t thread;
	int tell_fd, wake_fd;
	uint64_t hang_ns;
	uint64_t lease_ns;
	/* Atomic: the loop writes, the thread reads. */
	uint64_t patience_ns; /* timeout_ns as of the loop's last tick */
	uint64_t link_heard_ns;
	/* Owner: the thread. */
	struct stream stream;
	struct wire_heart last; /* our last heartbeat, and the peer's last nonce */
	uint64_t due_ns, turn_ns, heard_ns, peer_away_ns;
	bool owes_answer, full_turn, noted;
	/* Under lock. */
	pthread_mutex_t lock;
	uint64_t echoed_ns; /* the newest of our nonces that the peer echoed */
	uint64_t trips, shortest_trip_ns;
	uint64_t confessed_ns; /* the nonce that said that our loop hangs */
	uint64_t note_away_ns; /* of the peer's loop, for the log; 0 for nothing to say */
	bool doubted;	       /* heart_suspect() was true: trusted() is to follow */
	bool is_lost;
	char why[160];
};

/*
 * Takes the connected heartbeat socket over, also on failure. lost() is called once; it may stop
 * the heart. 0 or a negative errno.
 */
int heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		uint64_t timeout_ns);
/* Ends the thread; waits for it, some milliseconds at most. No callback comes after it. */
void heart_stop(struct heart *h);
/* Something arrived on another link of the same peer. */
void heart_heard(struct heart *h);
/* May the peer have taken over? Ask before acting on an ack. True without a link. */
bool heart_suspect(struct heart *h);

#endif
