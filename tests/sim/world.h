/* Two hosts, an operator, and what goes wrong: drawn from the seed. */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/steps.h"
#include "tests/sim/proc.h"

/* The history of the plan. Returns when it is over; what must not be ends the process with 3. */
void world_live(void);
void world_set_verbose(bool on);
bool world_verbose(void);
/* p is at this step: it may die there. */
void world_step(struct proc *p, enum step s);

/* Where the side on h has its image: of its own, or that of both. */
void world_image(char path[32], const struct host *h);

#endif
