#include "tests/unit/libnic.h"

static int nic_setup_mdev(void **state, unsigned pairs, bool no_offload)
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

int nic_setup(void **state)
{
	return nic_setup_mdev(state, 1, false);
}

int nic_setup_mq(void **state)
{
	return nic_setup_mdev(state, PAIRS, false);
}

int nic_setup_plain(void **state)
{
	return nic_setup_mdev(state, 1, true);
}

int nic_teardown(void **state)
{
	struct fix *f = *state;

	f->dev->ops->free(f->dev);
	close(f->nd.fd);
	close(f->peer);
	rig_done(&f->rig);
	free(f);
	return 0;
}

void nic_start(struct fix *f, uint64_t features)
{
	rig_start(&f->rig, 0, features, f->q, 2, 32);
}

uint8_t *nic_ram(struct fix *f, uint64_t gpa)
{
	return rig_ptr(&f->rig, gpa);
}

struct virtio_net_hdr_v1 *nic_frame(struct fix *f, uint32_t len, uint8_t n)
{
	uint8_t *p = nic_ram(f, RIG_DATA);

	memset(p, 0, HDR);
	for (uint32_t i = 0; i < len; i++)
		p[HDR + i] = (uint8_t)(n + i);
	memcpy(p + HDR, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x99\x12\x34",
	       len < 14 ? len : 14);
	return (struct virtio_net_hdr_v1 *)p;
}

void nic_send_frame(struct fix *f, uint32_t len)
{
	struct rig_seg s[2] = {{RIG_DATA, HDR, false}, {RIG_DATA + HDR, len, false}};
	uint16_t want = rig_used_idx(&f->q[TX]) + 1;

	rig_add(&f->q[TX], s, len ? 2 : 1);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == want);
}

int nic_got(struct fix *f)
{
	int n = (int)read(f->peer, f->buf, sizeof(f->buf));

	return n < 0 ? -errno : n;
}
