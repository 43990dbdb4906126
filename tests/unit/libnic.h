/* A NIC over a socket pair, for its tests. Include with it: libvirtio.h. */
#ifndef TESTS_LIBNIC_H
#define TESTS_LIBNIC_H

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "devices/virtio.h"
#include "devices/virtio_net.h"
#include "net/announce.h"
#include "net/flow.h"
#include "net/netdev.h"
#include "tests/unit/libvirtio.h"

#define RX    0
#define TX    1
#define F(n)  (1ull << VIRTIO_NET_F_##n)
#define HDR   NET_VNET_HDR
#define PAIRS 3 /* of a NIC with several */

struct fix {
	struct rig rig;
	struct netdev nd;
	int peer;
	struct device *dev;
	struct rig_q q[2 * PAIRS + 1];
	unsigned pairs;
	uint8_t buf[70000];
};

int nic_setup(void **state);
int nic_setup_mq(void **state);
int nic_setup_plain(void **state);
int nic_teardown(void **state);
void nic_start(struct fix *f, uint64_t features);
uint8_t *nic_ram(struct fix *f, uint64_t gpa);
/* A frame of len bytes with header at RIG_DATA: MACs, type, and a pattern that starts with n. */
struct virtio_net_hdr_v1 *nic_frame(struct fix *f, uint32_t len, uint8_t n);
void nic_send_frame(struct fix *f, uint32_t len);
int nic_got(struct fix *f);

#endif
