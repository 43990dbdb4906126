/*
 * virtio-net (virtio 1.2 section 5.1): up to 8 pairs of queues and a control queue, over a struct
 * netdev. There is one netdev whatever the number of pairs: one thread does all the work, so what
 * comes in is spread over the pairs here, by flow.
 */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/device.h"
#include "net/netdev.h"
#include "vmm/base/limit.h"
#include "vmm/machine/machine.h"

struct virtio_net_stats {
	uint64_t tx_frames, tx_bad; /* taken from the guest; of these dropped as malformed */
	uint64_t rx_frames, rx_bad; /* given to the guest; dropped as not fitting its buffers */
	uint64_t rx_starved;	    /* times input stopped for want of guest buffers */
};

/* The netdev stays the caller's and outlives the device. Loop thread, before vCPUs run. */
int virtio_net_new(const struct dev_env *env, const struct mdev *md, struct netdev *nd,
		   struct device **ret, struct err *e);
/*
 * Tell the switches where the guest lives now: gratuitous ARP (when its address is known) and
 * RARP, through the output buffer: the address is what the guest sent from. Only the owner of the
 * VM may call this. Loop thread.
 */
void virtio_net_announce(struct device *d);
/*
 * Have the guest say itself where its addresses are (all of them, not just the one we learnt), if
 * its driver can. After a takeover, once. Loop thread.
 */
void virtio_net_ask_announce(struct device *d);
/* Show the guest the cable as plugged or not. Loop thread. */
void virtio_net_set_link(struct device *d, bool up);
/*
 * How fast frames go, to the guest and from it, each: bytes without the virtio header. What is from
 * it stays in its rings, what is for it at the netdev, which is not read. No state: whoever takes
 * the guest over has limits of its own. Loop thread.
 */
void virtio_net_limit(struct device *d, const struct limit_rates *r);
/* How long frames from the guest were held so far. */
uint64_t virtio_net_held_ns(const struct device *d);
void virtio_net_get_stats(struct device *d, struct virtio_net_stats *ret);

extern const struct state_desc virtio_net_desc;

#endif
