/*
 * `ftvmm snapshot`: one at a time, while the guest, its clients and the control socket go on. The
 * table in run_snapshot.c says what may come meanwhile. A pause, a resume, a reset and `set` are
 * followed: the snapshot is of the moment in which the VM stands for it. The VM's end, and a client
 * that leaves, end it.
 *
 * Owner: the loop.
 */
#ifndef VMM_RUN_SNAPSHOT_H
#define VMM_RUN_SNAPSHOT_H

#include <jansson.h>

#include "ft/common/fsm.h"
#include "vmm/cli/ctl.h"
#include "vmm/copy/live_snapshot.h"

#define RUN_SNAPSHOT_STATES(X)                                                                     \
	X(NONE, "none")                                                                            \
	X(PASSES, "passes while the VM goes on")                                                   \
	X(STANDING, "the VM stands, the rest is copied")                                           \
	X(WRITING, "the copy is written")                                                          \
	X(GIVEN_UP, "given up, its storage is waited for")

#define RUN_SNAPSHOT_EVENTS(X)                                                                     \
	X(ASKED, "asked for")                                                                      \
	X(REST, "little is left")                                                                  \
	X(TAKEN, "copied")                                                                         \
	X(MORE, "too much for a copy")                                                             \
	X(WRITTEN, "written")                                                                      \
	X(FAILED, "failed")                                                                        \
	X(LATE, "storage takes nothing")                                                           \
	X(LEFT, "the client has left")

enum run_snapshot_state {
#define X(name, what) SNAP_##name,
	RUN_SNAPSHOT_STATES(X)
#undef X
		SNAP_STATE_MAX
};

enum run_snapshot_event {
#define X(name, what) SNAP_EV_##name,
	RUN_SNAPSHOT_EVENTS(X)
#undef X
		SNAP_EV_MAX
};

struct run;

struct run_snapshot {
	struct fsm fsm; /* desc NULL: never asked for */
	struct live_snapshot *live;
	struct ctl_later client;
	struct err err; /* why it failed */
	char path[256];
};

/* For the table of commands. */
json_t *serve_snapshot(struct run *r, json_t *request, struct err *e);
/* For `status`: a new reference, or NULL when there is none. */
json_t *run_snapshot_status(const struct run *r);
/* Is one under way? One that was given up is not. */
bool run_snapshot_busy(const struct run *r);
/* The VM is about to go: so is what has not been written. */
void run_snapshot_stop(struct run *r);

#endif
