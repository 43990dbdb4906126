/*
 * virtio-balloon (virtio 1.2 section 5.5): memory that the guest does not use goes back to the
 * host, and with fault tolerance not to the peer. By the balloon, which the host asks the guest to
 * fill, and by free page reporting, which the guest does on its own.
 */
#ifndef DEVICES_VIRTIO_BALLOON_H
#define DEVICES_VIRTIO_BALLOON_H

#include "devices/device.h"
#include "vmm/machine/machine.h"

int virtio_balloon_new(const struct dev_env *env, const struct mdev *md, struct device **ret,
		       struct err *e);
/* How many 4 KiB pages the guest should give up. It takes its time, or does not. Loop. */
void virtio_balloon_set_target(struct device *d, uint32_t pages);
/* That number, as the guest knows it or will. Any thread. */
uint64_t virtio_balloon_target(struct device *d);
/* How many it says it has given up, at most all it has. Any thread. */
uint64_t virtio_balloon_actual(struct device *d);

extern const struct state_desc virtio_balloon_desc;

#endif
