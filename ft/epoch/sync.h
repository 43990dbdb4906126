/*
 * First sync, live: disks and memory of a running VM are brought to the peer in passes, until what
 * is left is small enough for the first epoch to bring it. The guest is not stopped. Runs on the
 * sender thread.
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

struct sync {
	struct dirty *dirty;	 /* logging is on; ours until sync_run() returns */
	struct disklog *disklog; /* in bitmap mode; in log mode when sync_run() returns */
	bool stop;		 /* atomic: give up */
	uint64_t bytes;		 /* atomic: sent by all syncs so far, for status */
	uint64_t pages;		 /* atomic: of memory, pages of zeros included; likewise */
	/* private to sync.c */
	struct loop *loop;
	struct loop_op switch_op;
	int switch_fd; /* eventfd: the loop is to switch the disk log */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool log_on;
};

/* Loop. Keeps the counts of the sync before. */
int sync_init(struct sync *s, struct loop *l, struct dirty *d, struct disklog *dl, struct err *e);
void sync_done(struct sync *s); /* loop; safe on a zeroed one */
/* 0 when the peer is in step, or a negative errno (-ECANCELED after sync_cancel()). */
int sync_run(struct sync *s, struct page_out *out);
void sync_cancel(struct sync *s); /* loop */

#endif
