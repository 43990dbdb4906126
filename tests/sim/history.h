/*
 * Histories, in processes of their own. Many live in one process, one after the other, each as if
 * it were the first there (heap.h), where that can be; the one that fails is the last of its
 * process.
 */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include <stdbool.h>

#include "tests/sim/plan.h"

enum history_shows { SHOWS_NOTHING, SHOWS_HASH, SHOWS_STEPS };

/*
 * From the plan's seed on, n of them, or fewer: how many, and whether the last one was good; those
 * before it were. `outcomes` has what they leave. What they print is shown.
 */
unsigned history_live(const struct plan *p, unsigned n, enum history_shows shows, bool *good);
/* One, without a word; false: something was violated; `outcome` says what. */
bool history_try(const struct plan *p);

/* Of a plan that fails: fewer kinds of events, fewer events, an earlier end, the same failure. */
void shrink(struct plan *p);

#endif
