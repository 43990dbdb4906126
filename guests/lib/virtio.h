/*
 * virtio-mmio version 2 and split virtqueues (virtio 1.2, sections 4.2 and 2.7), driver side.
 *
 * Interrupts may come late, twice or for nothing, as after a move to another host: a driver looks
 * at the ring's indices and at nothing else. All functions: CPU 0 only, unless noted.
 */
#ifndef GUESTS_LIB_VIRTIO_H
#define GUESTS_LIB_VIRTIO_H

#include "guests/lib/guest.h"

#define VIRTIO_ID_NET	  1u
#define VIRTIO_ID_BLK	  2u
#define VIRTIO_ID_CONSOLE 3u
#define VIRTIO_ID_RNG	  4u
#define VIRTIO_ID_BALLOON 5u
#define VIRTIO_ID_VSOCK	  19u

#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VIRTQ_MAX	   64u
#define VIRTQ_DESC_NEXT	   1u
#define VIRTQ_DESC_WRITE   2u
#define VIRTQ_NO_INTERRUPT 1u /* avail->flags: a wish, not a promise */
#define VIRTQ_NO_NOTIFY	   1u /* used->flags */

struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct virtq_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[];
};

struct virtq_used {
	uint16_t flags;
	uint16_t idx;
	struct {
		uint32_t id;
		uint32_t len;
	} ring[];
};

struct virtio_dev {
	uint64_t regs;
	unsigned gsi;
	uint64_t features; /* negotiated */
	uint64_t irq_seen;
};

struct virtq {
	struct virtio_dev *dev;
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	unsigned index;
	uint16_t num;
	uint16_t free_head; /* free descriptors, last freed first: few pages stay in use */
	uint16_t free_count;
	uint16_t last_used;
	uint16_t kicked; /* avail->idx at the last kick */
	void *token[VIRTQ_MAX];
};

/* One piece of a request. */
struct virtq_buf {
	const void *addr;
	uint32_t len;
};

/* The n-th device of that type in command-line order; false if there is none that speaks v2. */
bool virtio_find(struct virtio_dev *d, uint32_t id, unsigned n);
/* Reset, then negotiate VERSION_1 and what the device has of `wanted`. 0 or -ENODEV. */
int virtio_setup(struct virtio_dev *d, uint64_t wanted);
/* Creates queue `index` with at most `max` (<= VIRTQ_MAX) descriptors. 0 or -ENODEV. */
int virtq_init(struct virtq *q, struct virtio_dev *d, unsigned index, unsigned max);
/* After the queues: lets the device work and its interrupts in. */
void virtio_start(struct virtio_dev *d);
/*
 * Acknowledges the interrupts of all devices that came since the last call; true if there were
 * any, and then rings are to be looked at again. Only guest_wait() calls it.
 */
bool virtio_ack_all(void);
/* Device-specific configuration. */
uint32_t virtio_config32(const struct virtio_dev *d, unsigned offset);
uint64_t virtio_config64(const struct virtio_dev *d, unsigned offset);
uint8_t virtio_config8(const struct virtio_dev *d, unsigned offset);

/*
 * Offers `out` pieces to be read by the device, then `in` pieces to be written by it; `token`
 * comes back from virtq_get(). False if there are not enough descriptors. Any one CPU at a time.
 */
bool virtq_add(struct virtq *q, const struct virtq_buf *bufs, unsigned out, unsigned in,
	       void *token);
/* Tells the device about new offers, if there are any and it wants to know. */
void virtq_kick(struct virtq *q);
/* The oldest finished request's token and the bytes written into it, or NULL. */
void *virtq_get(struct virtq *q, uint32_t *ret_len);
/* Asks the device for interrupts of this queue, or not to send any. */
void virtq_interrupts(struct virtq *q, bool on);

#endif
