/*
 * A snapshot of a VM that goes on. A thread writes its pages in passes, each what has changed
 * during the one before, until that is little; then the VM stands for as long as it takes to copy
 * the rest, and the thread writes the copy. The file may have a page several times: the last one
 * counts. What it holds is the VM of the moment in which it stood.
 *
 * The thread has guest memory only under a lock, which it gives back while storage has its turn:
 * so the VM never waits for storage, neither when the snapshot is given up nor when the VM ends.
 *
 * Owner: the loop. From live_snapshot_new() on the VM's dirty log is the snapshot's, until it is
 * taken, given up or over.
 */
#ifndef VMM_LIVE_SNAPSHOT_H
#define VMM_LIVE_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/vm/vm.h"

#define LIVE_SNAPSHOT_PASSES  8
#define LIVE_SNAPSHOT_IDLE_NS 60000000000ull /* storage that takes nothing for so long is away */

struct live_snapshot;

/* What the owner is told of, on the loop. */
enum live_snapshot_event {
	LIVE_REST,    /* passes are over: live_snapshot_take() */
	LIVE_WRITTEN, /* whole, and on disk under its name: read the result, then free it */
	LIVE_FAILED,  /* the thread is through, e says why: free it */
	LIVE_LATE,    /* nothing was written for LIVE_SNAPSHOT_IDLE_NS: give it up */
};

struct live_snapshot_plan {
	const char *path;
	uint64_t copy_bytes; /* most that is copied while the VM stands; at least one page */
	void (*told)(void *arg, enum live_snapshot_event ev, const struct err *e);
	void *arg;
};

/* How far it is, and in the end how it was. */
struct live_snapshot_stats {
	uint64_t written; /* bytes */
	unsigned passes;  /* over changed pages */
	uint64_t copied;  /* pages, while the VM stood */
	uint64_t pause_ns;
};

/* -EBUSY: the dirty log is another's. Nothing is told before this has returned. */
int live_snapshot_new(struct live_snapshot **ret, struct vm *vm,
		      const struct live_snapshot_plan *plan, struct err *e);
/* Passes, one at least, in the thread. Told of: LIVE_REST or LIVE_FAILED. */
int live_snapshot_pass(struct live_snapshot *s, struct err *e);
/*
 * After LIVE_REST: stop the VM, copy, let it go if it ran. -EAGAIN: more has changed than may be
 * copied, so another live_snapshot_pass() is due. -E2BIG: there were enough, or it does not get
 * less. After this and any other error it is given up, and live_snapshot_write() removes what there
 * is.
 */
int live_snapshot_take(struct live_snapshot *s, struct err *e);
/* What was taken goes to the file. Told of: LIVE_WRITTEN or LIVE_FAILED. */
int live_snapshot_write(struct live_snapshot *s, struct err *e);
/*
 * The file is not to be; guest memory and the dirty log are let go at once. The thread may still
 * wait for its storage: its end is told of as LIVE_FAILED.
 */
void live_snapshot_give_up(struct live_snapshot *s);
void live_snapshot_stats(const struct live_snapshot *s, struct live_snapshot_stats *ret);
/* No thread is at it, or (abandon) nobody is to be told: given up, and freed by whoever is last. */
void live_snapshot_free(struct live_snapshot *s);
void live_snapshot_abandon(struct live_snapshot *s); /* NULL is fine */

#endif
