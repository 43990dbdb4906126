/*
 * The primary's engine: a first sync, then one epoch after the other: seal, send, ack, release. It
 * does what it is told and reports what came of it, and knows neither peer nor arbiter.
 *
 * The output rule rests on two calls here: obuf_seal()/obuf_hold() while the vCPUs are stopped, and
 * obuf_release() in engine_acked(), which is called for nothing but the peer's ack of that epoch.
 *
 * Owner: the loop.
 */
#ifndef FT_ENGINE_H
#define FT_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/ft.h"
#include "ft/epoch/capture.h"
#include "ft/epoch/disklog.h"
#include "ft/epoch/send.h"
#include "ft/epoch/sync.h"
#include "vmm/vm/vm.h"
#include "vmm/wire/stream.h"

enum engine_news {
	ENGINE_SYNCED, /* the peer has all but what the first epoch brings */
	ENGINE_BROKEN, /* it cannot go on: engine->why; the VM may be stopped */
	ENGINE_HOLDS,  /* the first output of the open epoch waits for its ack */
	ENGINE_NEAR,   /* of another peer (ft/epoch/follow.c): it lacks little, */
	ENGINE_FED,    /* nothing but its first epoch, which is on its way: the VM may go on, */
	ENGINE_ASTRAY, /* its link is broken */
};

/* How another peer follows, while epochs go on with the one in step. */
enum follow_state {
	FOLLOW_OFF,
	FOLLOW_PASSES,
	FOLLOW_NEAR,
	FOLLOW_LAST,	/* the next seal is its first epoch, too */
	FOLLOW_SENDING, /* sealed; VM and disks stand until the rest is out */
	FOLLOW_SENT,
};

struct follow {
	enum follow_state state;
	struct sync_other other;
	uint64_t epoch; /* its first one */
	uint64_t begun_bytes;
};

enum engine_state {
	ENGINE_DOWN,
	ENGINE_SYNCING,
	ENGINE_READY,
	ENGINE_SEALING, /* VM stopped, until all that changed is in staging */
};

struct engine {
	struct ft *ft;
	struct vm *vm;
	struct capture capture;
	struct disklog disklog;
	struct sync syncs[2], *sync; /* the peer's in step; the other one is the follower's */
	struct send sends[2], *send;
	struct follow follow;
	int notify_fd; /* the senders' */
	struct loop_op notify_op;
	struct loop_work seal_work; /* a turn at sealing */
	enum engine_state state;
	struct send_job *job;  /* sealing: that is being filled, or NULL */
	unsigned parts;	       /* sealing: jobs of the epoch that were handed to the sender */
	bool runs;	       /* the next epochs are for a guest that runs at the peer, too */
	bool apart;	       /* they are taken because that is none any more */
	enum ft_seal seal_for; /* and what the next one is for */
	uint64_t epoch;	       /* the open one */
	uint64_t in_flight;    /* the one that awaits its ack, 0: none */
	uint64_t sealed_ns;    /* when that was sealed, or the last one, */
	uint64_t resumed_ns;   /* and when the VM might go on */
	uint64_t ticked_ns;    /* when one last looked for connections that are over */
	struct ft_parts at;    /* of that, but for the copy, which is the rest */
	struct disk_writes sent_log;
	char why[160];
	void (*news)(void *arg, enum engine_news what);
	void *arg;
};

int engine_init(struct engine *g, struct ft *ft, struct vm *vm,
		void (*news)(void *arg, enum engine_news what), void *arg, struct err *e);
void engine_done(struct engine *g);

/* Both links are up: dirty tracking on, then everything is sent while the guest runs. */
int engine_start(struct engine *g, struct stream *main, uint32_t kept, struct err *e);
/* Ends the sender and everything that is under way; the stream is of no use after it. */
void engine_stop(struct engine *g);

/*
 * Stop the VM, close the open epoch and send it; then the VM goes on, if nobody else wants it to
 * stand. That is over on return, unless so much has changed that the loop's turn is over, or that
 * staging is used up: then the rest follows, as the sender gives buffers back. The first one of an
 * engine begins to hold output. Negative errno and e: the epoch cannot be sent, the VM is stopped.
 */
int engine_seal(struct engine *g, struct err *e);
/* Is this the epoch in flight, and has all of it gone out? */
bool engine_awaits(const struct engine *g, uint64_t epoch);
/* The peer holds the epoch in flight: its output goes out. */
void engine_acked(struct engine *g);

/* Another peer: brought into step beside the one that is, then in its place. */
int engine_follow(struct engine *g, struct stream *main, uint32_t kept, struct err *e);
/* A FRAME_DIFFER of the peer that follows. -EBADMSG with e, or 0. */
int engine_follow_answered(struct engine *g, const struct frame *f, struct err *e);
/*
 * It is NEAR, the disks stand, no epoch is in flight: the next seal is its first epoch, too. The VM
 * stands from there on for FT_STAND_MOVE, until the caller lets it go at ENGINE_FED.
 */
void engine_follow_last(struct engine *g);
bool engine_follow_awaits(const struct engine *g, uint64_t epoch);
/* It has what the other one has, which has acknowledged all: epochs go to it from here on. */
void engine_follow_swap(struct engine *g);
/* Give it up; the disks go on. True: its first epoch may have come whole. */
bool engine_unfollow(struct engine *g);
uint64_t engine_follow_bytes(const struct engine *g); /* sent to it so far */

#endif
