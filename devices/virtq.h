/*
 * The split virtqueue (virtio 1.2 section 2.7). The only file that touches ring memory.
 *
 * Every guest word is read once into a local copy and checked there. A broken rule gives -EBADMSG
 * and the caller puts the device to needs-reset. Guest RAM is written through mem_write() only, at
 * the moment the bytes are there, so dirty marks are exact.
 *
 * While memory is still to come (mem_ready()), nothing of it is touched: a chain of which something
 * is missing counts as not there yet, `absent` is set, and whoever hears that pages have arrived
 * looks at the queue again.
 *
 * Under the device's lock, on the loop thread; virtq_validate() on any thread.
 */
#ifndef DEVICES_VIRTQ_H
#define DEVICES_VIRTQ_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/state.h"

#define VIRTQ_MAX_SIZE 256

/* What survives of a queue. */
struct virtq_state {
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t size;		    /* entries, 0 until the driver chose */
	uint16_t last_avail;	    /* free-running index of the next entry to pop */
	uint16_t used_idx;	    /* free-running index of the next used entry */
	uint16_t signalled;	    /* used_idx when the driver was last told */
	uint8_t ready;
};

extern const struct field virtq_fields[8];

struct virtq {
	struct virtq_state *st;
	struct mem *mem;
	bool event_idx; /* negotiated features */
	bool indirect;
	bool untouched; /* buffers are only named, as what is given back: they may be absent */
	bool absent;	/* of rings or chain something is still to come: no kick will say when */
	uint16_t inuse; /* popped and not yet pushed */
	uint32_t gen;	/* bumped when the queue stops: what was popped before is void */
};

struct virtq_seg {
	gpa_t gpa;
	uint32_t len;
};

/* One descriptor chain: nread segments for the device to read, then nwrite for it to write. */
struct virtq_chain {
	uint16_t head;
	uint16_t nread, nwrite;
	uint64_t read_bytes, write_bytes;
	struct virtq_seg seg[VIRTQ_MAX_SIZE];
};

/* Is the set-up usable: size, alignment, rings wholly in RAM and apart? 0 or -EINVAL. */
int virtq_validate(const struct virtq *vq);
/* 1: a chain was taken, 0: the ring is empty, or the chain is absent, -EBADMSG. */
int virtq_pop(struct virtq *vq, struct virtq_chain *ret);
/* Give the n chains popped last back, untouched: they are popped again next time. */
void virtq_unpop(struct virtq *vq, unsigned n);
/*
 * Walk a chain again that was popped before a checkpoint. Does not count as a pop. 0, -EBADMSG, or
 * -EAGAIN: absent.
 */
int virtq_reload(struct virtq *vq, uint16_t head, struct virtq_chain *ret);
/* Chains waiting in the ring (none while it is absent), or -EBADMSG. */
int virtq_waiting(struct virtq *vq);

/* Copy out of the readable part; returns bytes copied (less at its end). */
uint32_t virtq_chain_read(const struct virtq *vq, const struct virtq_chain *c, uint64_t off,
			  void *buf, uint32_t len);
/* Copy into the writable part; returns bytes copied (less at its end). Marks pages dirty. */
uint32_t virtq_chain_write(struct virtq *vq, const struct virtq_chain *c, uint64_t off,
			   const void *buf, uint32_t len);

/* Put used entries at used_idx + n without showing them, then show n of them at once. */
int virtq_fill(struct virtq *vq, unsigned n, uint16_t head, uint32_t len);
int virtq_flush(struct virtq *vq, unsigned n);
/* Fill and flush one. 0 or -EBADMSG. */
int virtq_push(struct virtq *vq, uint16_t head, uint32_t len);
/* Does the driver want an interrupt for what was flushed since the last yes? */
bool virtq_should_signal(struct virtq *vq);
/* While the device looks at the ring anyway, kicks only cost. */
void virtq_kick_off(struct virtq *vq);
/*
 * Ask for a kick when more than `seen` entries wait (0: at the next one; n: after n chains were
 * found too few and given back). True when there are more already, and not absent: look again.
 */
bool virtq_kick_on(struct virtq *vq, uint16_t seen);

#endif
