/*
 * A network back end as virtio-net sees it: a file descriptor that carries one Ethernet frame per
 * read/write, each behind a 12-byte virtio_net_hdr (v1). Loop thread.
 */
#ifndef NET_NETDEV_H
#define NET_NETDEV_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/err.h"

#define NET_VNET_HDR  12
#define NET_FRAME_MAX (65536 + 64) /* with offloads a frame may be 64 KiB */

struct netdev {
	char id[32];
	char ifname[16]; /* host name of the tap */
	int fd;	   /* non-blocking, poll for input; -1: unplugged (reads nothing, drops writes) */
	bool ours; /* we made the tap: it goes away with the fd */
	uint64_t tx_frames, rx_frames, tx_dropped;
};

/*
 * Make the tap IFNAME, or attach to a persistent one that exists; set vnet header size 12. If
 * bridge is not NULL, enslave it. It stays DOWN until netdev_link(up). libnl does the link work.
 */
int netdev_open_tap(struct netdev *nd, const char *id, const char *ifname, const char *bridge,
		    struct err *e);
/* Tell the kernel which offloads the guest negotiated (virtio feature bits, host side of the tap).
 */
int netdev_set_offloads(struct netdev *nd, uint64_t guest_features);
int netdev_link(struct netdev *nd, bool up, struct err *e);
void netdev_close(struct netdev *nd);
/* One frame with its header. >= 0 bytes, -EAGAIN when nothing waits. */
int netdev_recv(struct netdev *nd, void *buf, uint32_t cap);
/* Delivers or drops (counted); never blocks. Called by the output buffer only. */
void netdev_send(struct netdev *nd, const void *frame, uint32_t len);

#endif
