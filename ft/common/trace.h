/*
 * What happened when, for `ftvmm trace`: while somebody asks, spans of time go into a ring of fixed
 * size; else nothing is kept, and a call costs some comparisons. Each is a probe `ftvmm:span`, too:
 * name, nanoseconds, epoch, n. Owner: the loop.
 */
#ifndef FT_TRACE_H
#define FT_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define TRACE_RING 4096 /* spans; what finds no room is counted */

/* A span, the track that it is drawn in, what `n` of it is ("" nothing), and what it is. */
#define TRACE_SPANS(X)                                                                             \
	X(EPOCH, "epoch", "epochs", "", "from the stop of the vCPUs to the ack")                   \
	X(PAUSE, "pause", "epochs", "pages", "the vCPUs stand")                                    \
	X(STOP, "stop", "epochs", "", "until no vCPU runs")                                        \
	X(BITMAP, "bitmap", "epochs", "", "which pages changed, and protecting them again")        \
	X(COPY, "copy", "epochs", "pages", "pages to staging, and waiting for room there")         \
	X(STATE, "state", "epochs", "", "state of vCPUs and devices, the log of disk writes cut")  \
	X(SEND, "send", "epochs", "", "until the sender is at the last frame")                     \
	X(ACK, "ack", "epochs", "", "the rest: the link, the secondary")                           \
	X(RECEIVE, "receive", "epochs", "", "secondary: first frame to the last, ack included")    \
	X(COMMIT, "commit", "epochs", "", "secondary: into memory, state and disks")               \
	X(SYNC, "first sync", "sync", "bytes", "all of it, to the first ack")                      \
	X(TAKEOVER, "takeover", "takeover", "", "loss noticed to the first vCPU let go")           \
	X(CLAIM, "claim", "takeover", "", "until the arbiter has said yes")                        \
	X(LOAD, "load", "takeover", "", "vCPUs and devices, networks plugged in")                  \
	X(MIGRATION, "migration", "migration", "", "the command to its end")                       \
	X(CONNECT, "connect", "migration", "", "until memory goes")                                \
	X(PASSES, "passes", "migration", "pages", "memory, while the guest runs")                  \
	X(DOWNTIME, "downtime", "migration", "", "the stop here to the run there")                 \
	X(HALT, "halt", "migration", "", "until no vCPU runs")                                     \
	X(DRAIN, "drain", "migration", "", "requests to disks come to an end")                     \
	X(LAST, "last pages", "migration", "pages", "these, and the state")                        \
	X(THERE, "there", "migration", "", "the destination takes images and state")               \
	X(RUN, "run", "migration", "", "GO to RUNS")                                               \
	X(REST, "rest", "migration", "", "postcopy: memory, while it runs there")                  \
	X(COMES, "comes in", "migration", "bytes", "destination: all that, until it runs here")    \
	X(WORD, "state changed", "state", "", "a moment: the state from here on")

enum trace_what {
#define X(id, name, track, n, help) TRACE_##id,
	TRACE_SPANS(X)
#undef X
		TRACE_WHATS
};

struct trace_row {
	const char *name, *track, *n, *help;
};

struct trace_span {
	uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC; equal: a moment */
	uint64_t epoch, n;	   /* n: of WORD, the index of the word (ft_word_at) */
	uint8_t what, why;	   /* why: enum ft_seal, of an epoch */
};

struct trace {
	struct trace_span *ring; /* NULL: nobody asks */
	uint32_t at, len;
	uint64_t lost; /* that found no room; zeroed by who tells of them */
};

const struct trace_row *trace_row_at(unsigned what); /* NULL behind the last */
/* From here on spans are kept. -ENOMEM with e. */
int trace_start(struct trace *t, struct err *e);
void trace_stop(struct trace *t); /* safe on a zeroed one */
/* At its end. Nothing when it has not begun, or ends before it does. */
void trace_span(struct trace *t, const struct trace_span *s);
/* The oldest one, which leaves the ring; false: there is none. */
bool trace_take(struct trace *t, struct trace_span *ret);

#endif
