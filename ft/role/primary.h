/*
 * The primary role: find a peer, bring it into step, run epochs with it, and know what to do when
 * it is lost, or when the VM is over. What it does when is the table in ft/role/primary.c, the same
 * as in docs/protocol.md; the actions are in joining.c, protecting.c, claiming.c, dismissing.c and
 * ending.c.
 *
 * Owner: the loop.
 */
#ifndef FT_PRIMARY_H
#define FT_PRIMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/fsm.h"
#include "ft/common/ft.h"
#include "ft/epoch/engine.h"
#include "ft/role/link.h"
#include "ft/role/mirroring.h"
#include "ft/role/moving.h"
#include "ft/role/policy.h"
#include "vmm/vm/vm.h"

#define PRIMARY_STATES(X)                                                                          \
	X(IDLE, "no peer")                                                                         \
	X(OFF, "ft=off: no peer is tried")                                                         \
	X(CONNECTING, "connecting to a peer")                                                      \
	X(HELLO, "HELLO said")                                                                     \
	X(HEART, "welcome; connecting the heartbeat link")                                         \
	X(SYNCING, "first sync")                                                                   \
	X(STEADY, "in step, no epoch in flight")                                                   \
	X(FLIGHT, "an epoch in flight")                                                            \
	X(OFF_DUE, "ft=off: an epoch in flight, one more after it")                                \
	X(OFF_LAST, "ft=off: the last epoch in flight")                                            \
	X(DISMISS, "DISMISS said: the secondary is not to take over any more")                     \
	X(MOVE_DUE, "to another secondary: an epoch in flight, the common one after it")           \
	X(MOVE, "the common epoch in flight to both")                                              \
	X(MOVE_OLD, "the old secondary has it")                                                    \
	X(MOVE_NEW, "the new secondary has it")                                                    \
	X(SWAP, "both have it: the next generation is claimed with the new one's token")           \
	X(KEEP_FLIGHT, "the new secondary is lost, maybe in step: the old one's ack is awaited")   \
	X(KEEP, "and the arbiter is asked, so that the old one stays")                             \
	X(ASKED, "hand-over asked for, in step: the arbiter is asked")                             \
	X(ASKED_FLIGHT, "the same, an epoch in flight")                                            \
	X(STOP_DUE, "stop: an epoch in flight, one more after it")                                 \
	X(STOP, "stop: the last epoch in flight")                                                  \
	X(BYE, "BYE said: the secondary's images take what waits")                                 \
	X(DISMISS_STOP, "DISMISS said, and the VM is to stop")                                     \
	X(HAND_DUE, "hand-over: an epoch in flight, one more after it")                            \
	X(HAND, "hand-over: the last epoch in flight")                                             \
	X(HANDED, "HAND_OVER said: the secondary is to run the VM")                                \
	X(HANDED_STOP, "the same, and the VM is to stop if it stays here")                         \
	X(CLAIM, "peer lost: the arbiter is asked")                                                \
	X(UNANSWERED, "the arbiter does not answer")                                               \
	X(CLAIM_STOP, "the same, and the VM is to stop")                                           \
	X(CLAIM_HANDED, "lost after HAND_OVER: the arbiter is asked")                              \
	X(HANDED_UNANSWERED, "the arbiter does not answer after HAND_OVER")                        \
	X(CLAIM_HANDED_STOP, "after HAND_OVER, and the VM is to stop")                             \
	X(REST, "over: the images here take what waits since a takeover")                          \
	X(RECORD, "over: the end is being recorded")                                               \
	X(UNSURE, "over, unconfirmed: the end is being recorded")                                  \
	X(LEFT, "the end")

#define PRIMARY_EVENTS(X)                                                                          \
	X(TIMER, "timer")                                                                          \
	X(TRY, "a peer may be tried")                                                              \
	X(STOP, "the VM is over, or stop")                                                         \
	X(HAND_OVER, "hand-over asked for")                                                        \
	X(HOST_FAILED, "this host's KVM failed")                                                   \
	X(OFF, "ft=off")                                                                           \
	X(ON, "another mode than off")                                                             \
	X(WON, "claim won")                                                                        \
	X(CLAIM_LOST, "claim lost")                                                                \
	X(NO_ANSWER, "no answer")                                                                  \
	X(ANSWERED, "the arbiter answers")                                                         \
	X(RECORDED, "recorded, or not to be recorded")                                             \
	X(IMAGES, "the images have all")                                                           \
	X(IMAGES_LATE, "30 s, or an image failed")                                                 \
	X(OUTPUT, "output is held")                                                                \
	X(DIFFER, "outputs of both sides differ, the twin is late, or comparing may begin")        \
	X(MOVE, "a new secondary lacks little, and the disks stand still")                         \
	X(NEW_ACK, "ACK of the new secondary")                                                     \
	X(NEW_GONE, "the new secondary is lost, not in step")                                      \
	X(NEW_LOST, "the new secondary is lost, maybe in step")                                    \
	X(SYNCED, "synced")                                                                        \
	X(CONNECTED, "connected")                                                                  \
	X(LOST, "link lost")                                                                       \
	X(WELCOME, "WELCOME")                                                                      \
	X(ACK, "ACK of the epoch in flight")                                                       \
	X(DONE, "DONE")                                                                            \
	X(COMPARED, "DIFFER")                                                                      \
	X(RUNS, "RUNS")

enum primary_state {
#define X(name, what) PRI_##name,
	PRIMARY_STATES(X)
#undef X
		PRI_STATE_MAX
};

enum primary_event {
#define X(name, what) PRI_EV_##name,
	PRIMARY_EVENTS(X)
#undef X
		PRI_EV_MAX
};

/* code: 0, the hand-over has begun; or why it has not. */
typedef void primary_handing(void *arg, int code, const struct err *e);

struct primary {
	struct ft *ft;
	struct vm *vm;
	struct fsm fsm;
	struct link links[2], *link; /* to the peer in step, or on the way to it */
	struct engine engine;
	struct loop_op timer_op; /* one timer: each state has one thing to wait for */
	const struct ft_policy *policy;
	uint64_t epoch_ns;
	enum ft_seal due; /* what the seal is for that the timer is set for */
	uint64_t rest_until_ns;
	unsigned unsynced[LINK_OTHER + 1]; /* first syncs in a row that came to nothing, of each */
	uint64_t token; /* of the claim that takes the VM from here, 0 for none */
	struct mirroring mirroring;
	struct move move;
	uint64_t move_token; /* of our claim for a move, which may have been made; or 0 */
	int end_code;	     /* of the process, when the VM is over */
	struct arbiter_answer answer;
	primary_handing *handing; /* who asked for a hand-over that has not begun, or NULL */
	void *handing_arg;
	char lost_why[480];
};

extern const struct fsm_desc primary_desc;

/* The VM runs or is about to; starts looking for a peer at once. */
int primary_start(struct primary *p, struct ft *ft, struct vm *vm, struct err *e);
/*
 * The VM is over (guest ended, or stop): last epoch, ack, release, BYE, DONE; then
 * ft->on_exit(code). A hand-over becomes that as long as it was not said.
 */
void primary_end(struct primary *p, int code);
/*
 * The secondary is to run the VM: last epoch, ack, release, HAND_OVER, RUNS, GONE; then
 * ft->on_exit(3). A secondary that is lost before leaves the VM running here. -EBUSY when not
 * PROTECTED, or paused. 0: done is called once, never from within, unless primary_stop() comes
 * first: the arbiter, without which the secondary could not go on, answers or does not.
 */
int primary_hand_over(struct primary *p, primary_handing *done, void *arg, struct err *e);
/*
 * This host cannot run the VM any more (VM_END_HOST). A secondary in step takes over when the links
 * end without a goodbye: so they do, and ft->on_exit(2). False: there is none, and nothing was
 * done.
 */
bool primary_host_failed(struct primary *p);
/* Is a hand-over asked for that has not begun? */
bool primary_is_asked(const struct primary *p);
/*
 * A secondary at this address is to take the place of the one in step: p->move says how that goes.
 * -EBUSY: not now. One that is lost before is given up, and the one in step stays.
 */
int primary_move(struct primary *p, const char *uri, struct err *e);
/* -EBUSY: there is none, or it has gone too far to be undone. */
int primary_move_cancel(struct primary *p, struct err *e);
/* A user's pause. -EBUSY: not while the VM is being handed over. */
int primary_pause(struct primary *p, bool pause, struct err *e);
/* ft->cfg has other peers now: they are tried when none is in step. */
void primary_new_peers(struct primary *p);
void primary_set_epoch(struct primary *p, uint64_t epoch_ns);
/* ft->cfg has this mode now, which primary_may_have_mode(). */
void primary_set_mode(struct primary *p, enum ft_mode mode);
/* -EBUSY: to end the protection, or to begin it again, is for later. */
int primary_may_have_mode(const struct primary *p, enum ft_mode mode, struct err *e);
/*
 * May the dirty log be had for something else? -EBUSY: not between HELLO and the first sync. From
 * there on ft->cover says it; a peer that is tried later is not told HELLO meanwhile.
 */
int primary_may_snapshot(const struct primary *p, struct err *e);
/* Does this side own the VM, and is neither a stop nor a hand-over under way, but asked for? */
bool primary_goes_on(const struct primary *p);
/* May the guest's end be answered now? If not, it is told again when this side may go on. */
bool primary_may_end(const struct primary *p);
/* Ends links and threads. Held output is dropped by the VM's own end. */
void primary_stop(struct primary *p);

#endif
