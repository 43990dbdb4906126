/*
 * What a guest writes that is not to reach the image yet: the running secondary's between two
 * checkpoints. Everything that the guest of a disk changes stays in here, in memory and, above a
 * limit, in an unnamed file; it reads this over the image. It is forgotten at each checkpoint
 * (overlay_drop()), or written to the image when this side takes over (overlay_merge()).
 *
 * Requests that overlap, one of them a change, are served one after the other in the order of
 * submit, so a read sees what was submitted before it and nothing of what came later. Aliases of
 * the disk (disk_alias()) go to the image itself: whoever writes there by one does so between a
 * drop and the guest's next request, and never during a merge. A hook of the disk sees requests of
 * the guest as ever, and nothing of a merge: no pass over the image begins before its end.
 *
 * A flush is done at once, as long as there is no merge: what is here does not outlive a host.
 *
 * Owner: the loop. Nothing here waits for a file.
 */
#ifndef DEVICES_OVERLAY_H
#define DEVICES_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "vmm/base/err.h"

#define OVERLAY_MEM_MIN (4ull << 20)
#define OVERLAY_MEM_MAX (1ull << 40)
#define OVERLAY_REQ_MAX (1u << 20) /* bytes of one write; larger ones fail with -EINVAL */

struct overlay;

struct overlay_limits {
	uint64_t mem_bytes;   /* of blocks and of what is known of them */
	uint64_t keep_bytes;  /* of them, stay allocated over a drop; the rest costs time there */
	uint64_t spill_bytes; /* of the file; 0: there is none */
	const char *dir;      /* where it is; used by overlay_attach() only */
	/*
	 * Both are full, or the file fails: a checkpoint is wanted. Once until a drop; from the
	 * loop, not from inside a submit. What the guest asks for waits, in order, until a drop or
	 * a merge.
	 */
	void (*full)(void *arg);
	/*
	 * A read is about to be done, until there is a merge, and some of r->buf is of this side's
	 * own: overlay_has(). May be NULL.
	 */
	void (*own)(void *arg, struct overlay *ov, const struct disk_req *r);
	void *arg;
};

struct overlay_stats {
	uint64_t bytes;	  /* memory in use */
	uint64_t blocks;  /* of 4 KiB in memory or in the file; zeros are not counted */
	uint64_t spilled; /* of them, in the file */
	/* Since overlay_attach(). Reads that got sectors which only this side wrote, and how many.
	 */
	uint64_t reads, sectors;
	uint64_t writes; /* requests, since the last drop */
	uint64_t drops;
};

/*
 * Before the guest of d has requests, and without any under way (-EBUSY). d must outlive it. NULL:
 * e says why.
 */
struct overlay *overlay_attach(struct disk *d, const struct overlay_limits *limits, struct err *e);
/*
 * Forget all of it: the guest goes back to a checkpoint. Requests that are not done are part of
 * what is forgotten: they change nothing any more and are done with -ECANCELED, those that waited
 * from in here (no lock of a device is held). Not after overlay_merge(). Costs next to nothing,
 * however much there was.
 */
void overlay_drop(struct overlay *ov);
/*
 * The guest's disk is this one from now on: what is here goes to the image, piece by piece, while
 * the guest goes on; then the image is flushed, and d is as it was before overlay_attach(). Flushes
 * of the guest wait for that. done() is called from the loop; the overlay may be freed in it.
 *
 * err, a negative errno, is the first failure of the image or the file: then it stays attached with
 * what is not in the image. Requests go on, but flushes, and what finds no room, fail with err;
 * overlay_merge() may be tried again. Until it succeeds the image is neither the checkpoint's nor
 * the guest's.
 */
void overlay_merge(struct overlay *ov, void (*done)(void *arg, int err), void *arg);
/* Has this side written bytes to the sector there? Zeros by a discard do not count. */
bool overlay_has(struct overlay *ov, uint64_t off);
void overlay_get_stats(const struct overlay *ov, struct overlay_stats *ret);
/* No request of the guest is under way. What is at the kernel keeps its memory. NULL is fine. */
void overlay_free(struct overlay *ov);

#endif
