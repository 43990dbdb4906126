/*
 * The primary role: find a peer, bring it into step, run epochs with it, and know what to do when
 * it is lost. The phases and what moves them:
 *
 *   IDLE -- retry timer --> CONNECTING -- socket writable --> HELLO -- WELCOME --> HEART
 *   HEART -- second socket writable --> SYNCING -- sender says synced --> EPOCHS
 *   any -- error, silence, end of stream --> IDLE (with a claim first, if the peer may run the VM)
 *   EPOCHS -- the VM is over, last epoch acked --> BYE -- DONE --> the end
 *   IDLE -- the VM is over, the images lag --> REST -- they have all, or 30 s --> the end
 *   EPOCHS -- hand-over, last epoch acked --> HANDED -- RUNS --> the end
 *
 * Owner: the loop.
 */
#ifndef FT_PRIMARY_H
#define FT_PRIMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/epoch/capture.h"
#include "ft/epoch/disklog.h"
#include "ft/common/ft.h"
#include "ft/common/heart.h"
#include "ft/epoch/send.h"
#include "ft/epoch/sync.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/stream.h"
#include "vmm/vm/vm.h"

#define PRIMARY_CONNECT_NS 1000000000ull

enum primary_phase {
	PRI_IDLE,
	PRI_CONNECTING,
	PRI_HELLO,
	PRI_HEART,
	PRI_SYNCING,
	PRI_EPOCHS,
	PRI_BYE,    /* BYE said: the secondary is to say that its images have everything */
	PRI_HANDED, /* HAND_OVER said: the secondary is to say that the VM runs there */
	PRI_REST,   /* no link, stopped: the images here do not have all yet since the takeover */
	PRI_PHASE_MAX
};

/* What the last epoch is for, or was. */
enum primary_end {
	END_NOT,
	END_STOP,
	END_HAND_OVER,
	END_HANDED, /* HAND_OVER was said: the VM may be the other side's */
};

struct primary {
	struct ft *ft;
	struct vm *vm;
	enum primary_phase phase;
	unsigned peer_index;
	struct chan_uri uri;
	int conn_fd, notify_fd;
	struct loop_op conn_op, main_op, notify_op, epoch_op, timer_op, claim_op;
	struct stream main;
	struct heart heart;
	struct capture capture;
	struct disklog disklog;
	struct sync sync;
	struct send send;
	bool has_sender;
	bool wants_log; /* atomic: set by the sender */
	uint64_t epoch_ns;
	uint64_t epoch;	     /* the open one */
	uint64_t sealed_ns;  /* when the one in flight was sealed */
	bool in_flight, due; /* an epoch awaits its ack; another seal is wanted after it */
	uint64_t late_ack;   /* an ack that came while we were suspect, 0 for none */
	struct disklog_list sent_log;
	bool peer_may_run; /* an epoch was sealed for this peer: it may take over */
	bool owe_claim;	   /* the arbiter did not answer yet: VM stopped, output held */
	bool user_paused;
	enum primary_end ending;
	uint64_t rest_until_ns;
	uint64_t token; /* of the claim that takes the VM from here, 0 for none */
	int end_code;
	bool stop_after; /* of END_HANDED: when the VM stays this side's, it is stopped */
	int stop_code;
	char last_trouble[CONFIG_MAX_PEERS][480]; /* of each peer: said once */
	char lost_why[480];
};

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
 * PROTECTED, or paused; fails when the arbiter does not answer. Loop thread.
 */
int primary_hand_over(struct primary *p, struct err *e);
/* -EBUSY: not while the VM is being handed over. */
int primary_pause(struct primary *p, bool pause, struct err *e);
void primary_set_epoch(struct primary *p, uint64_t epoch_ns);
/* Ends links and threads. Held output is dropped by the VM's own end. */
void primary_stop(struct primary *p);

/* ft/role/epoch.c */
void epoch_seal(struct primary *p);
void epoch_acked(struct primary *p, uint64_t epoch);
/* ft/role/primary.c, for ft/role/epoch.c */
void primary_lost(struct primary *p, const char *why);
void primary_fence(struct primary *p);
void primary_claim(struct primary *p); /* lost_why says why */
void primary_close_link(struct primary *p);
/* ft/role/ending.c */
void primary_finish(struct primary *p);
void primary_done(struct primary *p);	  /* the secondary confirmed the stop */
void primary_not_done(struct primary *p); /* or will not */
void primary_gone(struct primary *p);	  /* the secondary runs the VM */
void primary_keep(struct primary *p);	  /* this side owns the VM: no hand-over any more */

#endif
