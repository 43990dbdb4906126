/* Histories, each in a process of its own, as the program leaves nothing behind itself so. */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include <stdbool.h>

#include "tests/sim/plan.h"

enum history_shows { SHOWS_NOTHING, SHOWS_HASH, SHOWS_STEPS };

/* False: something was violated; `outcome` says what. What it prints is shown, or not. */
bool history_live(const struct plan *p, enum history_shows shows);
/* As history_live(), without a word. */
bool history_try(const struct plan *p);

/* Of a plan that fails: fewer kinds of events, fewer events, an earlier end, the same failure. */
void shrink(struct plan *p);

#endif
