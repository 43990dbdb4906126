/*
 * Disk replication, primary side. While syncing, changes only mark blocks in a bitmap; from the
 * switch on they are copied into the log of the open epoch, in the order in which they went to the
 * image. The log of an epoch is freed, in turns, when the epoch is acknowledged. Bounded: when it
 * holds limit_bytes, the disks hold new requests until an ack comes (the guest waits, nothing
 * grows).
 *
 * Owner: the loop; the sender reads the bitmap with atomics and a cut list until the ack.
 */
#ifndef FT_DISKLOG_H
#define FT_DISKLOG_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "ft/epoch/amend.h"
#include "vmm/copy/block_map.h"
#include "vmm/copy/disk_writes.h"
#include "vmm/machine/machine.h"

enum disklog_mode { DISKLOG_OFF, DISKLOG_BITMAP, DISKLOG_LOG };

struct disklog {
	struct disk *disks[MACHINE_MAX_DEVS];	 /* by index of machine.devs; NULL: not mirrored */
	struct block_map maps[MACHINE_MAX_DEVS]; /* changed while syncing */
	struct block_map
		*lacks; /* of a peer that is behind, likewise, in any mode; or NULL. The caller's */
	enum disklog_mode mode;
	uint64_t limit_bytes, bytes;
	bool held; /* disks, until nothing is in flight, or as long as the caller wants it */
	struct loop *loop;
	struct loop_op poll;	    /* is anything in flight? */
	struct disk_writes spent;   /* to be freed, */
	struct loop_work free_work; /* in turns */
	bool full;		    /* disks held until that makes room */
	bool failed;		    /* out of memory: a change is missing */
	struct amends amends;	    /* of changes that an image here failed */
	uint32_t differs; /* disks, by bit: the other image is not known to be like the one here */
	struct disk_writes open; /* of the open epoch */
	/* A change of device i is in the log; the log is full. NULL: nobody wants to know. */
	void (*wrote)(void *arg, unsigned i, const struct disk_req *r);
	void (*filled)(void *arg);
	void *wrote_arg;
	void (*switched)(void *arg);
	void *arg;
	void (*still)(void *arg);
	void *still_arg;
};

/* Watch the mirrored disks, in bitmap mode. */
int disklog_start(struct disklog *dl, struct loop *l, const struct machine *m, struct disk *disks,
		  uint64_t limit_bytes, struct err *e);
bool disklog_has_disks(const struct disklog *dl); /* any thread */
/* Stop watching, let held requests go on, free everything. */
void disklog_stop(struct disklog *dl);
/* Bitmap -> log, as soon as nothing is in flight; then switched(arg) is called. */
void disklog_switch(struct disklog *dl, void (*switched)(void *arg), void *arg);
/*
 * Hold the disks. still(arg), when nothing is in flight any more: the images stay as they are until
 * disklog_go_on(), which may also come before.
 */
void disklog_hold(struct disklog *dl, void (*still)(void *arg), void *arg);
void disklog_go_on(struct disklog *dl);
/*
 * *ret: the open epoch's changes, in order; the log goes on empty. VM stopped. -ENOMEM: one is
 * missing, so that neither this epoch nor a later one can be sent.
 */
int disklog_cut(struct disklog *dl, struct disk_writes *ret);
/* The epoch is acknowledged (or given up): its list, which is empty now, is freed soon. */
void disklog_free(struct disklog *dl, struct disk_writes *list);

#endif
