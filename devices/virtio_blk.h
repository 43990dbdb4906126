/* virtio-blk (virtio 1.2 section 5.2): up to 8 queues, over a struct disk. */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include "devices/device.h"
#include "devices/disk.h"
#include "vmm/base/limit.h"
#include "vmm/machine/machine.h"

/* The disk stays the caller's and outlives the device. Loop thread, before vCPUs run. */
int virtio_blk_new(const struct dev_env *env, const struct mdev *md, struct disk *disk,
		   struct device **ret, struct err *e);
/*
 * How fast requests are begun, of all queues together: each is an operation, those that move bytes
 * or write zeros have so many, too. The others stay in the rings. No state: whoever takes the guest
 * over has limits of its own. Loop thread.
 */
void virtio_blk_limit(struct device *d, const struct limit_rates *r);
/* How long requests were held so far. */
uint64_t virtio_blk_held_ns(const struct device *d);

extern const struct state_desc virtio_blk_desc;

#endif
