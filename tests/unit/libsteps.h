/* The steps of the protocol (ft/common/steps.h) that were reached: it stands in for step_reached().
 */
#ifndef TESTS_LIBSTEPS_H
#define TESTS_LIBSTEPS_H

#include "ft/common/steps.h"

/* Forget them. */
void steps_reset(void);
/* Those of the calling thread since, a space between two; other threads' are not kept. */
const char *steps_seen(void);
/* So often was it reached, by any thread, since then. */
unsigned steps_count(enum step s);
/* Whoever reaches this step next stays there for a while. */
void steps_linger(enum step s);

#endif
