/*
 * The secondary role: listen, become the primary's machine, take epochs, and take over when the
 * primary is lost and the arbiter agrees. What it does when is the table in ft/role/secondary.c,
 * the same as in docs/protocol.md; the actions are in door.c, welcome.c, receiving.c and
 * takeover.c.
 *
 * Owner: the loop.
 */
#ifndef FT_SECONDARY_H
#define FT_SECONDARY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/door.h"
#include "ft/common/fsm.h"
#include "ft/common/ft.h"
#include "ft/common/heart.h"
#include "ft/common/wire.h"
#include "vmm/copy/disk_compare.h"
#include "vmm/copy/diskapply.h"
#include "ft/epoch/stage.h"
#include "ft/role/locking.h"
#include "ft/role/twin.h"
#include "vmm/vm/vm.h"
#include "vmm/vm/vm_net.h"
#include "vmm/wire/stream.h"

#define SECONDARY_STATES(X)                                                                        \
	X(LISTEN, "no primary")                                                                    \
	X(ASKED, "HELLO came: the arbiter is asked")                                               \
	X(SYNCING, "first sync: nothing to take over with")                                        \
	X(STANDBY, "an epoch is committed")                                                        \
	X(TWIN, "the guest runs here, too")                                                        \
	X(TWIN_STAGES, "it stands: an epoch comes in")                                             \
	X(TWIN_CLAIM, "primary lost, a twin is here: the arbiter is asked")                        \
	X(DRAIN, "stopped in order: the images take what waits")                                   \
	X(DRAIN_ALONE, "the same, and nobody waits to hear of it")                                 \
	X(DISMISSED, "the primary goes on alone: the images take what waits")                      \
	X(CLAIM, "primary lost: the arbiter is asked")                                             \
	X(ACCEPT, "the primary hands over: the arbiter is asked")                                  \
	X(ACCEPT_ALONE, "the same, and the link is lost")                                          \
	X(HELD, "the VM runs, its output held, until the primary is gone")                         \
	X(LOCKS, "the primary is gone: the locks of shared images are awaited")                    \
	X(CONFIRM, "it did not say that it is gone: the VM stands, and is claimed once more")      \
	X(YIELD, "an image failed meanwhile: what was claimed is given back")                      \
	X(TAKEN, "this side runs the VM")                                                          \
	X(OVER, "the end")

#define SECONDARY_EVENTS(X)                                                                        \
	X(HELLO, "HELLO")                                                                          \
	X(END, "the process ends")                                                                 \
	X(FITS, "the primary fits")                                                                \
	X(UNFIT, "the primary does not fit")                                                       \
	X(BUILT, "the VM is built")                                                                \
	X(HEART, "heartbeat link")                                                                 \
	X(WHOLE, "an epoch is whole")                                                              \
	X(READY, "this host takes the state")                                                      \
	X(TWIN_DUE, "committed: the guest is to run here, too")                                    \
	X(TWIN_OFF, "it cannot")                                                                   \
	X(UNEQUAL, "`--verify` fails")                                                             \
	X(TIMER, "timer")                                                                          \
	X(WON, "claim won")                                                                        \
	X(CLAIM_LOST, "claim lost")                                                                \
	X(WAS_STOPPED, "the record says stopped")                                                  \
	X(NO_ANSWER, "no answer")                                                                  \
	X(GIVEN_BACK, "given back, or not claimed")                                                \
	X(LOADED, "the state is loaded")                                                           \
	X(NOT_LOADED, "the state cannot be loaded")                                                \
	X(LOCKED, "the images are locked here")                                                    \
	X(IMAGES, "the images have all")                                                           \
	X(IMAGE_FAILED, "an image failed")                                                         \
	X(LOST, "link lost")                                                                       \
	X(PART, "a part of the sync or of an epoch")                                               \
	X(BYE, "BYE between two epochs")                                                           \
	X(HAND_OVER, "HAND_OVER between two epochs")                                               \
	X(GENERATION, "GENERATION between two epochs")                                             \
	X(LEAVE, "LEAVE between two epochs")                                                       \
	X(DISMISS, "DISMISS between two epochs")                                                   \
	X(GONE, "GONE")

enum secondary_state {
#define X(name, what) SEC_##name,
	SECONDARY_STATES(X)
#undef X
		SEC_STATE_MAX
};

enum secondary_event {
#define X(name, what) SEC_EV_##name,
	SECONDARY_EVENTS(X)
#undef X
		SEC_EV_MAX
};

struct secondary {
	struct ft *ft;
	struct vm *vm; /* the caller's; built at HELLO */
	bool has_vm;
	struct fsm fsm;
	struct loop_op main_op, timer_op;
	struct vm_announce announce;
	struct loop_work read_work;
	struct door door;
	struct door_conn *caller;     /* who said HELLO, or is the heartbeat link */
	struct arbiter_record theirs; /* by which it runs the VM */
	uint64_t claimed;	      /* the generation that is to be given back at an end; or 0 */
	struct wire_hello hello;      /* what it said, */
	struct machine asked_for;     /* and is to be built */
	const struct frame *frame;    /* that is being taken */
	struct stream main;	      /* its fd is -1 when there is no link */
	struct heart heart;
	bool verify;
	struct stage stage;
	struct diskapply disks;
	struct disk_compare compare; /* in the first sync */
	uint32_t kept;		     /* bit i: the image of device i may have data */
	struct twin twin;
	int drain_error;      /* what an image failed with when it was to take the last of it */
	bool reading_stopped; /* the images are slower than the stream */
	struct arbiter_answer answer;
	char why[480]; /* the primary does not fit, its link was lost, the VM cannot be loaded */
	char last_refused[480];
	struct locking locking;
	uint64_t lost_ns;
	uint64_t begun_ns, committed_ns; /* when the open, the committed epoch began to arrive */
	uint64_t whole_ns;		 /* when the last one had come that is whole */
	/* The VM runs here now. */
	void (*taken_over)(void *arg);
	void *arg;
};

extern const struct fsm_desc secondary_desc;

/* The VM is this side's alone, and taken_over() comes soon. */
static inline bool secondary_waits_for_locks(const struct secondary *s)
{
	return s->ft && s->fsm.state == SEC_LOCKS;
}

/* taken_over(arg): the VM runs here, this side is the primary from now on. */
int secondary_start(struct secondary *s, struct ft *ft, struct vm *vm,
		    void (*taken_over)(void *arg), void *arg, struct err *e);
/*
 * Ends links; a VM that was taken over stays the caller's. -EIO: the images did not take what was
 * acknowledged.
 */
int secondary_stop(struct secondary *s);

#endif
