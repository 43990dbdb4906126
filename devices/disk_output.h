/*
 * A disk whose image both hosts have: its changes are output. They wait in the output buffer, as
 * frames do, until the epoch in which the guest asked for them is acknowledged, and are done only
 * then: until that the guest has them in flight, so that a side that takes over asks for them
 * again. Reads and flushes go to the image at once; a read behind a change of the same sectors
 * waits for it.
 *
 * What has left may be done twice, by either side, and changes nothing the second time: nothing
 * that came later reaches the image before the side that is to do it again is gone, and its lock
 * with it (ft/role/takeover.c).
 *
 * Owner: the loop.
 */
#ifndef DEVICES_DISK_OUTPUT_H
#define DEVICES_DISK_OUTPUT_H

#include <stdbool.h>

#include "devices/disk.h"
#include "net/obuf.h"

#define DISK_OUTPUT_MAX 128u /* changes that wait; more wait in the disk's queue */

struct disk_output {
	struct disk_layer layer;
	struct disk *disk; /* NULL: not begun, or ended */
	struct obuf *obuf;
	int sink;
	struct disk_req *asked;			/* is being put, and may leave at once */
	struct disk_req *held[DISK_OUTPUT_MAX]; /* NULL: none; the entry in the buffer says which */
	unsigned count, next;
};

/* Before the guest of d has requests. Both stay the caller's. 0, or -ENOSPC: too many sinks. */
int disk_output_begin(struct disk_output *o, struct disk *d, struct obuf *ob);
/*
 * What waits is done with -ECANCELED, and changes nothing; nor does what is asked for from here on:
 * it waits until the disk is closed. Safe on a zeroed one, and twice.
 */
void disk_output_end(struct disk_output *o);

#endif
