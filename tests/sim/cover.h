/* Which rows of the program's tables were taken, over all histories: counted across processes. */
#ifndef TESTS_SIM_COVER_H
#define TESTS_SIM_COVER_H

#include <stdbool.h>

#include "tests/sim/proc.h"

void cover_init(void);
/* What p's tables did since the last look. */
void cover_look(struct proc *p);
/* How many of them; all: the names of those that were not. */
void cover_print(bool all);

#endif
