/* virtio-blk (virtio 1.2 section 5.2): up to 8 queues, over a struct disk. */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include "devices/device.h"
#include "devices/disk.h"
#include "vmm/machine/machine.h"

/* The disk stays the caller's and outlives the device. Loop thread, before vCPUs run. */
int virtio_blk_new(const struct dev_env *env, const struct mdev *md, struct disk *disk,
		   struct device **ret, struct err *e);

extern const struct state_desc virtio_blk_desc;

#endif
