/*
 * The images of a receiver: of a secondary, what was committed or belongs to the first sync; of a
 * migration's destination, what comes. Changes go to the images one after the other, in their
 * order. Bounded by whoever feeds it: see queue.bytes.
 *
 * Owner: the loop.
 */
#ifndef VMM_DISKAPPLY_H
#define VMM_DISKAPPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "vmm/copy/disk_writes.h"
#include "vmm/base/err.h"
#include "vmm/machine/machine.h"

/* No guest's request is larger (devices/virtio_blk.c). */
#define DISKAPPLY_WRITE_MAX (1u << 20)
#define DISKAPPLY_RANGE_MAX (1u << 30) /* of a zero or discard */

struct diskapply {
	const struct machine *machine;
	struct disk disks[MACHINE_MAX_DEVS]; /* aliases: a hold on the guest's requests does not
						hold these */
	uint32_t which;			     /* bit i: devs[i]; at first the mirrored ones */
	bool sparse;			     /* zeros become holes, not reserved space */
	struct disk_writes queue;	     /* the first may be at the kernel */
	struct disk_req req;
	uint8_t *buf; /* 4096-aligned: what req writes */
	bool busy;
	int error;		  /* first failure of an image: these images are no use any more */
	void (*moved)(void *arg); /* an entry was finished, or error was set */
	void *arg;
};

/* -ENOMEM, or 0. */
int diskapply_init(struct diskapply *da, const struct machine *m, struct disk *disks,
		   void (*moved)(void *arg), void *arg);
/* Parse and check one wire entry into list. -EBADMSG with e, or -ENOMEM. */
int diskapply_parse(const struct diskapply *da, const uint8_t *p, uint32_t len,
		    struct disk_writes *list, struct err *e);
/* Append the whole list to what is applied; list becomes empty. Cannot fail. */
void diskapply_push(struct diskapply *da, struct disk_writes *list);
/* Append a flush of every image. -ENOMEM, or 0. */
int diskapply_flush(struct diskapply *da);
bool diskapply_idle(const struct diskapply *da);
/* Forget what waits (link lost before the first commit). The one in flight goes on. */
void diskapply_drop(struct diskapply *da);
/* Wait until all of it is in the images. */
void diskapply_drain(struct diskapply *da);
/* The same, no longer than until then (CLOCK_MONOTONIC). Is it? */
bool diskapply_drain_until(struct diskapply *da, uint64_t until_ns);
/*
 * As diskapply_done(), of a medium that does not answer: nothing is waited for. What is at the
 * kernel may still come into an image, which stays locked until then; its buffer is never freed.
 */
void diskapply_abandon(struct diskapply *da);
/* The same, for the last time. Before the images are closed; safe on a zeroed one. */
void diskapply_done(struct diskapply *da);

#endif
