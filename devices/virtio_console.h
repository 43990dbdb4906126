/* virtio-console (virtio 1.2 section 5.3): port 0 only. */
#ifndef DEVICES_VIRTIO_CONSOLE_H
#define DEVICES_VIRTIO_CONSOLE_H

#include "devices/device.h"
#include "net/obuf.h"
#include "vmm/machine/machine.h"

/* What the guest prints goes through env->obuf and then to out(arg, ...). Loop thread. */
int virtio_console_new(const struct dev_env *env, const struct mdev *md, obuf_sink_fn *out,
		       void *arg, struct device **ret, struct err *e);
/* Bytes for the guest; returns how many fitted (the rest is the caller's to offer again or drop).
 */
unsigned virtio_console_input(struct device *d, const void *bytes, unsigned len);

extern const struct state_desc virtio_console_desc;

#endif
