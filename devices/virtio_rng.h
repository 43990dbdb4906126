/* virtio-rng (virtio 1.2 section 5.4): random bytes of the host's getrandom(). */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "devices/device.h"
#include "vmm/machine/machine.h"

int virtio_rng_new(const struct dev_env *env, const struct mdev *md, struct device **ret,
		   struct err *e);

extern const struct state_desc virtio_rng_desc;

#endif
