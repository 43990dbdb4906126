/*
 * `ftvmm run --restore FILE --lazy`: the guest runs while its memory comes. Meanwhile a snapshot is
 * refused. When the file cannot be read any more the VM stands for good, with the reason as its
 * note; it can only be stopped.
 *
 * Owner: the loop.
 */
#ifndef VMM_RUN_LAZY_H
#define VMM_RUN_LAZY_H

#include <jansson.h>
#include <stdbool.h>

#include "devices/backends.h"
#include "ft/common/fsm.h"
#include "postcopy/lazy.h"

#define RUN_LAZY_STATES(X)                                                                         \
	X(NONE, "none")                                                                            \
	X(FILLING, "memory comes")                                                                 \
	X(LOST, "memory will not come")

#define RUN_LAZY_EVENTS(X)                                                                         \
	X(BEGUN, "restored lazily")                                                                \
	X(WHOLE, "all pages are here")                                                             \
	X(LOST, "the file cannot be read")

enum run_lazy_state {
#define X(name, what) LAZY_##name,
	RUN_LAZY_STATES(X)
#undef X
		LAZY_STATE_MAX
};

enum run_lazy_event {
#define X(name, what) LAZY_EV_##name,
	RUN_LAZY_EVENTS(X)
#undef X
		LAZY_EV_MAX
};

struct run;

struct run_lazy {
	struct fsm fsm; /* desc NULL: not restored so */
	struct lazy *lazy;
	struct err err; /* why memory will not come */
	uint64_t begun_ns;
};

int run_lazy_restore(struct run *r, const struct backends *b, struct err *e);
/* Loaded, and about to run for the first time; nothing when it was not restored so. */
int run_lazy_go(struct run *r, struct err *e);
/* Is some of the guest's memory not here? */
bool run_lazy_missing(const struct run *r);
json_t *run_lazy_status(const struct run *r); /* new reference, or NULL */
/* The VM is about to go. */
void run_lazy_stop(struct run *r);

#endif
