/*
 * A side that runs the guest as well, between the checkpoints that the other one sends: its memory
 * is split (vmm/machine/mem_split.h), and what it writes is followed, so that a roll back is what
 * those pages cost, whatever the size of RAM.
 *
 * The log is exact from replica_begin() on: then nothing is private. When it cannot be read,
 * everything counts as written, and stays so, until it can.
 *
 * Owner: the loop. The VM stands and its devices are quiet, from the first page of a commit to the
 * last piece of the roll back behind it.
 */
#ifndef VMM_REPLICA_H
#define VMM_REPLICA_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/vm/dirty.h"

enum replica_part { REPLICA_RUNS, REPLICA_DROPS, REPLICA_PROTECTS, REPLICA_JOINS };

struct replica {
	struct dirty dirty;
	enum replica_part part;
	uint64_t at;	    /* how far it is */
	uint64_t own_pages; /* that this side or a commit had written, at the last roll back or the
			       end */
	bool blind;	    /* the log could not be read then */
};

/*
 * Memory is what the last commit left. -EBUSY: the dirty log is somebody else's. On failure nothing
 * is changed.
 */
int replica_begin(struct replica *r, struct kvm *kvm, struct mem *mem, struct err *e);
/*
 * Everything that this side wrote is as in the checkpoint. A piece of it; true: that was the last.
 * Once begun it is brought to its end before anything else is done here. Cannot fail.
 */
bool replica_roll_back(struct replica *r);
/*
 * Memory is one again, as this side's guest sees it, and nobody follows it any more: a takeover, or
 * right behind a roll back the end of the mode. In pieces, likewise. Cannot fail.
 */
bool replica_end(struct replica *r);

#endif
