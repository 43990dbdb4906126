/*
 * virtio-vsock (virtio 1.2 section 5.10), stream sockets: the guest's packets on one side, the unix
 * sockets of net/vsock_host.h on the other.
 *
 * What the guest causes on the host's side goes through the output buffer. What the host's side has
 * for the guest is taken when the guest has buffers for it. Connections do not outlive the process:
 * after a load they are forgotten, and an event tells the guest so. They are saved for a twin,
 * which has no host's side: only what the primary's guest was given.
 */
#ifndef DEVICES_VIRTIO_VSOCK_H
#define DEVICES_VIRTIO_VSOCK_H

#include "devices/device.h"
#include "net/vsock_host.h"
#include "vmm/machine/machine.h"

struct virtio_vsock_stats {
	uint64_t tx_packets, tx_bad; /* taken from the guest; of these against the rules */
	uint64_t rx_packets;	     /* given to the guest */
	uint64_t resets;	     /* RSTs given to the guest */
	uint64_t transport_resets;   /* events that told it to forget all connections */
	unsigned connections;
};

/* The host stays the caller's and outlives the device. Loop thread, before vCPUs run. */
int virtio_vsock_new(const struct dev_env *env, const struct mdev *md, struct vsock_host *host,
		     struct device **ret, struct err *e);
void virtio_vsock_get_stats(struct device *d, struct virtio_vsock_stats *ret);

/* --- with a twin (devices/inputs.h); loop thread, without the lock ---------------------------- */

#define VIRTIO_VSOCK_INPUT_MAX (52 + VSOCK_BUF_BYTES)

/*
 * A twin's, from the next load on: its guest is given only what virtio_vsock_put() has, and the
 * host's side says and hears nothing. False: it has taken over, and its guest is told that all
 * connections are gone. What waits is dropped.
 */
void virtio_vsock_feed(struct device *d, bool on);
bool virtio_vsock_is_input(const void *data, uint32_t len);
/* One, which the primary's guest was given. False: full, no more until inputs.room(). */
bool virtio_vsock_put(struct device *d, const void *data, uint32_t len);
/* inputs.ready() may say something else now. */
void virtio_vsock_go_on(struct device *d);

extern const struct state_desc virtio_vsock_desc;

#endif
