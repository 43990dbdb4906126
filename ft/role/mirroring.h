/*
 * The way to a twin: a third connection to the secondary in step, made when the mode wants one, and
 * given up with the other two. Without it, while outputs keep differing, or when the twin does not
 * load or take its input in time, the pair goes on as with kemari. Loop thread.
 */
#ifndef FT_MIRRORING_H
#define FT_MIRRORING_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/dial.h"
#include "ft/epoch/lockstep.h"

struct primary;

enum mirroring_state {
	MIRRORING_OFF,
	MIRRORING_REST, /* it failed: again soon */
	MIRRORING_DIAL,
	MIRRORING_UP,
};

struct mirroring {
	struct primary *primary;
	enum mirroring_state state;
	struct dial dial;
	struct loop_op timer_op;
	struct lockstep lockstep;
	unsigned short_ones;   /* checkpoints in a row that came right after the one before */
	uint64_t kemari_until; /* outputs keep differing, or the twin does not keep up */
	uint64_t told;	       /* log_may() */
	char trouble[200];     /* the last one, with this peer: said once */
};

void mirroring_init(struct mirroring *m, struct primary *p);
/* An epoch is acknowledged, or the mode is another one: begin, go on, or end, as the mode wants. */
void mirroring_look(struct mirroring *m);
/* The peer is lost, or another one. Safe twice. */
void mirroring_stop(struct mirroring *m);
/* Is the epoch that is sealed now one that a twin is to run from? */
bool mirroring_may_run(const struct mirroring *m);

#endif
