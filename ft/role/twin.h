/*
 * The secondary's half of COLO: between two checkpoints the primary's guest runs here, too. Its
 * memory is split from the last checkpoint's (vmm/vm/replica.h), what it writes to its disks stays
 * in overlays (devices/overlay.h), its devices give it what the primary's guest was given
 * (net/inlet.h, devices/inputs.h), and what it puts out goes to the primary, and nowhere else.
 *
 * At a checkpoint all of that is rolled back; when the primary is lost the twin goes on, as it has
 * produced whatever the primary has let out since the last one.
 *
 * Owner: the loop.
 */
#ifndef FT_TWIN_H
#define FT_TWIN_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/overlay.h"
#include "ft/common/mirror.h"
#include "ft/common/wire.h"
#include "ft/role/sources.h"
#include "net/inlet.h"
#include "net/seqmap.h"
#include "vmm/conf/config.h"
#include "vmm/machine/machine.h"
#include "vmm/vm/replica.h"
#include "vmm/vm/vm.h"

enum twin_state {
	TWIN_NONE,
	TWIN_SPLIT,	 /* the guest runs from the last checkpoint, or could */
	TWIN_ROLLS_BACK, /* to the one that was committed just now */
	TWIN_MERGES,	 /* this side has taken over: its overlays go to the images */
};

/* An input of an epoch that is not loaded yet: those behind it wait on the connection. */
struct twin_input {
	uint8_t *data; /* NULL: none */
	uint32_t len, device;
	uint64_t epoch;
};

struct twin {
	struct vm *vm;
	const struct config *cfg;
	enum twin_state state;
	struct mirror mirror;
	struct replica memory;
	struct overlay *disks[MACHINE_MAX_DEVS];
	struct inlet nets[MACHINE_MAX_DEVS];
	struct seqmap born; /* TCP connections since the last checkpoint, of all networks */
	unsigned mapped;    /* that often in this epoch */
	struct twin_input early;
	uint32_t given;	  /* inputs in this epoch */
	bool unfit;	  /* it cannot run here: not tried again with this primary */
	bool apart;	  /* said so, of this epoch */
	uint64_t told;	  /* log_may(): that */
	unsigned merging; /* overlays whose merge is not over */
	int merge_error;
	void (*merged)(void *arg, int error);
	void *merged_arg;
	uint64_t epoch; /* that its inputs and outputs belong to */
	struct sources sources;
};

/*
 * The primary's third connection: takes the stream over. epoch: the one that is open there, or one
 * before. vm and cfg stay until twin_abandon().
 */
void twin_connect(struct twin *t, struct vm *vm, const struct config *cfg, struct stream *st,
		  uint64_t epoch);
static inline bool twin_is_connected(const struct twin *t)
{
	return mirror_is_up(&t->mirror);
}
/*
 * VM stands, its state is the last checkpoint's: its guest is to run from there on, its outputs are
 * of that epoch. Before vm_load(). On failure it is to be abandoned.
 */
int twin_begin(struct twin *t, uint64_t epoch, struct err *e);
/* It runs: the primary is told, and what came for it meanwhile is given. */
void twin_go(struct twin *t);
/* It does not do as the primary's guest any more: a checkpoint is asked for, once in an epoch. */
void twin_apart(struct twin *t, enum wire_apart_why why);
/* The guest stands. What it is may be lost with this host's KVM: then it is only to be loaded. */
int twin_stand(struct twin *t, struct err *e);
/* The next checkpoint is decoded, for a difference, and VM stands: what is another here? */
void twin_look(struct twin *t);
/*
 * The next checkpoint is in memory, VM stands: what this side did is undone. A turn of it, or all;
 * true: it is over, or there was nothing.
 */
bool twin_roll_back(struct twin *t, bool all);
static inline bool twin_rolls_back(const struct twin *t)
{
	return t->state == TWIN_ROLLS_BACK;
}
/*
 * Rolled back, or there is none, and the guest is not to run on here: what came for it is void, up
 * to the epoch that is open now. The connection stays.
 */
void twin_end(struct twin *t, uint64_t epoch);
/*
 * Give it up: memory and disks are the last checkpoint's, the networks their own. Safe always. A
 * guest that cannot be stopped is of no use any more: its output is thrown away, its disks are
 * held.
 */
void twin_abandon(struct twin *t);
/*
 * VM stands: memory and networks are this side's own, as the guest here has them. True: so are the
 * disks, once twin_merge() was called and done(arg, 0). An error: the images lack something.
 */
bool twin_keep(struct twin *t);
/* The disk log is in the images. False: there is nothing, and the images have all. */
bool twin_merge(struct twin *t, void (*done)(void *arg, int error), void *arg);
static inline bool twin_merges(const struct twin *t)
{
	return t->state == TWIN_MERGES;
}
/* The process ends, and the VM that was taken over with it. */
void twin_leave(struct twin *t);

#endif
