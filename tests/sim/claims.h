/*
 * Who asked the arbiter for what, and what it answered, seen at the calls of the program: two
 * claims that follow the same generation are never both won, and none follows one that has ended;
 * who loses the VM loses it to somebody.
 */
#ifndef TESTS_SIM_CLAIMS_H
#define TESTS_SIM_CLAIMS_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/arbiter.h"
#include "ft/common/steps.h"

struct proc;

/* Of one process. */
struct claims {
	bool token;		  /* its claims name the hand-over: they may yet be undone */
	uint64_t asked;		  /* the highest generation that it asked to follow, or 0 */
	uint64_t asked_good;	  /* likewise, for good */
	uint64_t handed_from;	  /* the generation that it offered to hand over, or 0 */
	uint64_t left_at, ran_at; /* it said goodbye; it let a VM run that it had taken over */
	/* The question under way. */
	arbiter_done *done;
	void *arg;
	uint64_t generation;
	bool ends, goes_on;
};

/* p is there. */
void claims_step(struct proc *p, enum step s);
/* Its state is this word now, and why. */
void claims_look(const struct proc *p, const char *word, const char *note);
/* Has another process, dead or alive, asked for what follows its generation? After a hand-over that
   nobody confirmed, for good. */
bool claims_is_rivalled(const struct proc *p);

#endif
