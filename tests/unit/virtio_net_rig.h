/* A NIC over a socket pair, for its tests. */
#ifndef TESTS_UNIT_VIRTIO_NET_RIG_H
#define TESTS_UNIT_VIRTIO_NET_RIG_H

#include "tests/unit/virtio_rig.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "devices/virtio.h"
#include "devices/virtio_net.h"
#include "net/announce.h"
#include "net/flow.h"
#include "net/netdev.h"

#define RX   0
#define TX   1
#define F(n) (1ull << VIRTIO_NET_F_##n)
#define HDR  NET_VNET_HDR

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

static RIG_UNUSED int setup_mdev(void **state, unsigned pairs, bool no_offload)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct mdev md = rig_mdev(MDEV_NET, 0);
	int sv[2], size = 4 << 20;

	f->pairs = pairs;
	md.queues = pairs;
	md.no_offload = no_offload;
	rig_init(&f->rig, 100000);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	for (unsigned i = 0; i < 2; i++)
		setsockopt(sv[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	f->nd.fd = sv[0];
	f->peer = sv[1];
	assert_int_equal(virtio_net_new(&f->rig.env, &md, &f->nd, &f->dev, NULL), 0);
	*state = f;
	return 0;
}

static RIG_UNUSED int setup(void **state)
{
	return setup_mdev(state, 1, false);
}

static RIG_UNUSED int setup_mq(void **state)
{
	return setup_mdev(state, PAIRS, false);
}

static RIG_UNUSED int setup_plain(void **state)
{
	return setup_mdev(state, 1, true);
}

static RIG_UNUSED int teardown(void **state)
{
	struct fix *f = *state;

	f->dev->ops->free(f->dev);
	close(f->nd.fd);
	close(f->peer);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static RIG_UNUSED void start(struct fix *f, uint64_t features)
{
	rig_start(&f->rig, 0, features, f->q, 2, 32);
}

static RIG_UNUSED uint8_t *ram(struct fix *f, uint64_t gpa)
{
	return rig_ptr(&f->rig, gpa);
}

/* A frame of len bytes with header at RIG_DATA: MACs, type, and a pattern that starts with n. */
static RIG_UNUSED struct virtio_net_hdr_v1 *frame(struct fix *f, uint32_t len, uint8_t n)
{
	uint8_t *p = ram(f, RIG_DATA);

	memset(p, 0, HDR);
	for (uint32_t i = 0; i < len; i++)
		p[HDR + i] = (uint8_t)(n + i);
	memcpy(p + HDR, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x99\x12\x34",
	       len < 14 ? len : 14);
	return (struct virtio_net_hdr_v1 *)p;
}

static RIG_UNUSED void send_frame(struct fix *f, uint32_t len)
{
	struct rig_seg s[2] = {{RIG_DATA, HDR, false}, {RIG_DATA + HDR, len, false}};
	uint16_t want = rig_used_idx(&f->q[TX]) + 1;

	rig_add(&f->q[TX], s, len ? 2 : 1);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == want);
}

static RIG_UNUSED int got(struct fix *f)
{
	int n = (int)read(f->peer, f->buf, sizeof(f->buf));

	return n < 0 ? -errno : n;
}

#endif
