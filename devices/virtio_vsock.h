/*
 * virtio-vsock (virtio 1.2 section 5.10), stream sockets: the guest's packets on one side, the unix
 * sockets of net/vsock_host.h on the other.
 *
 * What the guest causes on the host's side goes through the output buffer. What the host's side has
 * for the guest is taken when the guest has buffers for it. Connections do not outlive the process:
 * after a load they are forgotten, and an event tells the guest so.
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

extern const struct state_desc virtio_vsock_desc;

#endif
