/*
 * What is asked of a history beyond its seed: only some kinds of events, none of some of them, an
 * earlier end. Each event has a name, KIND.NUMBER, and chance of its own, so that the rest of the
 * history does not change before one that is left out.
 */
#ifndef TESTS_SIM_PLAN_H
#define TESTS_SIM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/swarm.h"

#define PLAN_EVENTS 1024 /* of a kind that can be left out one by one */

struct plan {
	uint64_t seed;
	char kind; /* 'p': pairs, one side runs; 'c': both do; 'm': VMs that move; 'o': pairs, and
		      ft=off; 0: as drawn */
	unsigned theme;	   /* swarm_theme(), or 0: as drawn */
	bool chosen;	   /* only these faults: */
	uint64_t faults;   /* bits */
	uint64_t lasts_ms; /* 0: as drawn */
	uint8_t without[SWARM_MAX][PLAN_EVENTS / 8];
};

extern struct plan plan;

/* An option of the command line; false: none of ours, or not so. */
bool plan_take(struct plan *p, const char *name, const char *value);
/* As options. */
void plan_print(const struct plan *p, char *text, size_t cap);
void plan_leave_out(struct plan *p, enum swarm_fault f, unsigned first, unsigned n, bool out);

/* Of the history under way: what the plan says of what the seed drew. */
void plan_apply(void);
/* Something of this kind comes up; false: it is left out. Until event_ends() chance is its own. */
bool event_begins(enum swarm_fault f);
void event_ends(void);

#endif
