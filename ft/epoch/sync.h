/*
 * First sync, live: disks and memory of a running VM are brought to the peer in passes, until what
 * is left is small enough for the first epoch to bring it. The guest is not stopped. Runs on the
 * sender thread.
 *
 * To another peer, while epochs go to the one in step, whose captures have the dirty log: they say
 * what it lacks. What is left goes when the VM and its disks stand still.
 */
#ifndef FT_SYNC_H
#define FT_SYNC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ft/epoch/disklog.h"
#include "vmm/base/loop.h"
#include "vmm/copy/page_out.h"
#include "vmm/vm/dirty.h"
#include "vmm/wire/stream.h"

struct sync_other {
	uint64_t *lacks; /* atomic: pages */
	struct block_map blocks[MACHINE_MAX_DEVS];
	void (*near)(void *arg); /* loop: little is left; sync_go_on() when all stands still */
	void *arg;
};

struct sync {
	struct dirty *dirty;	  /* logging is on; ours until sync_run() returns */
	struct disklog *disklog;  /* in bitmap mode; in log mode when sync_run() returns */
	struct sync_other *other; /* set after sync_init(); NULL: the only peer */
	bool stop;		  /* atomic: give up */
	uint64_t bytes;		  /* atomic: sent by all syncs so far, for status */
	uint64_t pages;		  /* atomic: of memory, pages of zeros included; likewise */
	uint32_t kept; /* bit i: the peer has an image for device i; the others are all zeros */
	uint64_t begun_ns, begun_bytes, begun_pages; /* loop: when this one began, and with what */
	/* private to sync.c */
	struct loop *loop;
	struct loop_op switch_op;
	int switch_fd; /* eventfd: the loop is to switch the disk log */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool may_go;	   /* under lock: what is left may be sent */
	uint64_t asked;	   /* atomic: frames of sums */
	uint64_t answered; /* atomic, written under lock */
};

/* Loop. Keeps the counts of the sync before. */
int sync_init(struct sync *s, struct loop *l, struct dirty *d, struct disklog *dl, struct err *e);
void sync_done(struct sync *s); /* loop; safe on a zeroed one */
/* 0 when the peer is in step, or a negative errno (-ECANCELED after sync_cancel()). */
int sync_run(struct sync *s, struct page_out *out);
void sync_go_on(struct sync *s); /* loop */
/* Loop. A FRAME_DIFFER. -EBADMSG with e, or 0. */
int sync_answered(struct sync *s, const struct frame *f, struct err *e);
void sync_cancel(struct sync *s); /* loop */

#endif
