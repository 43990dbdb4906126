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
#include "vmm/copy/page_out.h"
#include "vmm/vm/dirty.h"

struct sync {
	const struct machine *machine;
	struct mem *mem;
	struct dirty *dirty; /* logging is on; ours until sync_run() returns */
	struct disklog *disklog;
	struct disk *disks;
	bool stop;	/* atomic: give up */
	uint64_t bytes; /* atomic: sent so far, for status */
	uint64_t pages; /* atomic: of memory, pages of zeros included; likewise */
	/* Asks the loop to switch the disk log; sync_log_is_on() answers. */
	void (*ask_log)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool log_on;
};

void sync_init(struct sync *s);
void sync_done(struct sync *s);
/* 0 when the peer is in step, or a negative errno (-ECANCELED after sync_cancel()). */
int sync_run(struct sync *s, struct page_out *out);
/* From the loop. */
void sync_log_is_on(struct sync *s);
void sync_cancel(struct sync *s);

#endif
