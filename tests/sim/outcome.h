/* What histories leave to the process that started theirs: they share this. */
#ifndef TESTS_SIM_OUTCOME_H
#define TESTS_SIM_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/swarm.h"

struct outcome {
	uint64_t faults;	    /* as drawn */
	uint32_t events[SWARM_MAX]; /* that came up */
	bool healed, moves;	    /* the last fault is over; it was a VM that moves */
	uint64_t lasted_ns, hash;
	char violated[512];
};

#define OUTCOMES 512

struct outcomes {
	unsigned lived; /* to their end */
	struct outcome of[OUTCOMES];
};

extern struct outcomes *outcomes;
extern struct outcome *outcome; /* of the history under way, or that is looked at */
void outcome_init(void);

#endif
