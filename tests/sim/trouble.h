/* What goes wrong in a history, drawn from its seed. */
#ifndef TESTS_SIM_TROUBLE_H
#define TESTS_SIM_TROUBLE_H

#include "ft/common/steps.h"
#include "tests/sim/proc.h"

void trouble_begin(void);
/* None from here on, and what was broken is whole. */
void trouble_heal(void);
/* p is at this step: it may die there. */
void trouble_step(struct proc *p, enum step s);

/* Something is under way: one of what may go wrong does, soon. */
void trouble_soon(void);
/* Is the guest to reset its machine now, or to end? */
bool guest_resets(void);
bool guest_exits(void);

#endif
