/* virtio-rng (virtio 1.2 section 5.4): random bytes of the host's getrandom(). */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "devices/device.h"
#include "vmm/machine/machine.h"

#define VIRTIO_RNG_MAX 4096u /* bytes of an answer; a longer buffer is filled in part: 5.4.6 */

int virtio_rng_new(const struct dev_env *env, const struct mdev *md, struct device **ret,
		   struct err *e);

/* --- with a twin (devices/inputs.h); loop thread, without the lock ---------------------------- */

/* A twin's: bytes are from here on only what virtio_rng_put() gives, or its own again. Drops what
 * was given and waits.
 */
void virtio_rng_feed(struct device *d, bool on);
/*
 * What one request was answered with at the primary, at most VIRTIO_RNG_MAX bytes. False: full, no
 * more until inputs.room(). Without virtio_rng_feed() before: dropped.
 */
bool virtio_rng_put(struct device *d, const void *bytes, uint32_t len);
/* inputs.ready() may say something else now. */
void virtio_rng_go_on(struct device *d);

extern const struct state_desc virtio_rng_desc;

#endif
