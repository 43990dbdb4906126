/*
 * The other half of vmm/copy/disk_sums.h: sums that came are compared with the images here, a frame
 * at a time, on a thread of its own; each has its answer, in order. Nothing is changed. Bounded by
 * whoever feeds it: see count.
 *
 * It is the medium that is compared, not what the host's cache has of it: a write that failed in
 * the background may be in there still.
 *
 * A block that is being written meanwhile may be taken for another one: then it comes once more.
 * Never the other way: what was written since it was summed is marked at the sender anyway.
 *
 * Owner: the loop.
 */
#ifndef VMM_DISK_COMPARE_H
#define VMM_DISK_COMPARE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/disk.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/copy/disk_wire.h"
#include "vmm/wire/stream.h"

struct comparison;

struct disk_compare {
	struct loop *loop;
	const struct disk *disks; /* as many as there are devices; */
	uint32_t which;		  /* bit i: that one is compared */
	uint64_t session;
	atomic_uint *users; /* us, and threads that have not ended, abandoned ones too */
	struct comparison *queue, **tail; /* the first one is at work */
	unsigned count;
	/* The answer to the oldest, with what follows it, or a negative errno of the image. */
	void (*told)(void *arg, const struct wire_differ *w, const struct wire_blocks *pieces,
		     int error);
	void *arg;
};

/* The disks stay open until disk_compare_done(). Again after that for others. -ENOMEM, or 0. */
int disk_compare_init(struct disk_compare *c, struct loop *l, const struct disk *disks,
		      uint32_t which, uint64_t session);
/*
 * A FRAME_SUMS. -EBADMSG with e, -EBUSY when some from before disk_compare_done() still hang,
 * -ENOMEM and the like, or 0: told() comes later.
 */
int disk_compare_push(struct disk_compare *c, const struct frame *f, struct err *e);
/* Nothing is told any more; what is at work ends by itself. Safe on a zeroed one and twice. */
void disk_compare_done(struct disk_compare *c);
/* The same, for the last time. */
void disk_compare_free(struct disk_compare *c);

#endif
