#include "devices/virtio_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"
#include "net/announce.h"
#include "net/obuf.h"
#include "vmm/log.h"

#define RX	  0
#define TX	  1
#define BUDGET	  64 /* frames a callback, so that one busy NIC does not starve the rest */
#define FRAME_MIN (NET_VNET_HDR + ETH_HLEN)
#define BUF_BYTES (NET_VNET_HDR + NET_FRAME_MAX)

#define BIT(n) (1ull << (n))

struct net_state {
	struct virtio_state common;
	uint8_t link_down;
	uint8_t src_mac[6]; /* as last seen in what the guest sent, for the announcement */
	uint8_t ipv4[4];
};

static const struct field net_fields[] = {
	F_STRUCT(struct net_state, common, 1, virtio_fields, "what all virtio devices have"),
	F_U8(struct net_state, link_down, 2, "cable unplugged", .max = 1),
	F_BYTES(struct net_state, src_mac, 3, "address the guest sends from"),
	F_BYTES(struct net_state, ipv4, 4, "IPv4 address the guest sends from, 0 when unknown"),
};

struct net {
	struct virtio_dev vd;
	struct net_state live;
	struct netdev *nd;
	struct loop_op input;
	bool polling; /* input is armed */
	int sink;
	uint8_t mac[6];
	struct virtio_net_stats stats;
	uint32_t pending; /* bytes of a frame in rx_buf that waits for guest buffers */
	uint16_t too_few; /* chains that were waiting and not enough for it */
	struct virtq_chain first, chain;
	uint8_t rx_buf[BUF_BYTES];
	uint8_t tx_buf[BUF_BYTES];
};

static struct net *to_net(struct virtio_dev *vd)
{
	return (struct net *)vd;
}

static int net_check(const void *pod, struct err *e)
{
	const struct net_state *s = pod;

	return virtio_state_check(&s->common, 2, e);
}

static const struct state_desc net_desc = {
	.name = "virtio-net",
	.id = 31,
	.version = 1,
	.size = sizeof(struct net_state),
	.fields = net_fields,
	.nfields = sizeof(net_fields) / sizeof(net_fields[0]),
	.check = net_check,
};

/*
 * Does the header only ask for what this direction negotiated, and stay inside the frame? len is
 * that of the frame without header. Clears what means nothing in this direction.
 */
static bool header_ok(struct virtio_net_hdr_v1 *h, uint32_t len, bool csum, bool tso4, bool tso6)
{
	h->num_buffers = 0;
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if (!csum || (uint32_t)h->csum_start + h->csum_offset + 2 > len)
			return false;
	} else {
		h->csum_start = h->csum_offset = 0;
	}
	switch (h->gso_type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		h->gso_size = h->hdr_len = 0;
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		if (!tso4)
			return false;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		if (!tso6)
			return false;
		break;
	default: /* UDP fragmentation, ECN: not offered */
		return false;
	}
	return (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && h->gso_size && h->hdr_len <= len;
}

/* Transmit. */

/* Remember where the guest says it lives: sender of ARP, source of IPv4. */
static void learn(struct net *n, const uint8_t *eth, uint32_t len)
{
	const uint8_t *ip = NULL;
	uint16_t type = (uint16_t)(eth[12] << 8 | eth[13]);

	if (eth[6] & 1) /* no source can be a group address */
		return;
	memcpy(n->live.src_mac, eth + 6, 6);
	if (type == ETH_P_ARP && len >= ETH_HLEN + 28)
		ip = eth + ETH_HLEN + 14;
	else if (type == ETH_P_IP && len >= ETH_HLEN + 20)
		ip = eth + ETH_HLEN + 12;
	if (ip && ip[0] && ip[0] != 127 && ip[0] < 224)
		memcpy(n->live.ipv4, ip, 4);
}

/* Copy the frame of n->chain to tx_buf and check it there. Returns bytes, 0 to drop it. */
static uint32_t take_frame(struct net *n)
{
	struct virtio_dev *vd = &n->vd;
	uint64_t len = n->chain.read_bytes;
	struct virtio_net_hdr_v1 *h = (struct virtio_net_hdr_v1 *)n->tx_buf;

	if (len < FRAME_MIN || len > BUF_BYTES || n->live.link_down)
		return 0;
	virtq_chain_read(&vd->vq[TX], &n->chain, 0, n->tx_buf, (uint32_t)len);
	if (!header_ok(h, (uint32_t)len - NET_VNET_HDR, virtio_has(vd, VIRTIO_NET_F_CSUM),
		       virtio_has(vd, VIRTIO_NET_F_HOST_TSO4),
		       virtio_has(vd, VIRTIO_NET_F_HOST_TSO6)))
		return 0;
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	learn(n, n->tx_buf + NET_VNET_HDR, (uint32_t)len - NET_VNET_HDR);
	return (uint32_t)len;
}

static int tx_one(struct virtio_dev *vd, unsigned qi)
{
	struct net *n = to_net(vd);
	struct iovec iov = {.iov_base = n->tx_buf};
	int r = virtq_pop(&vd->vq[qi], &n->chain);

	if (r <= 0)
		return r;
	if (n->chain.read_bytes < NET_VNET_HDR)
		return -EBADMSG;
	iov.iov_len = take_frame(n);
	if (!iov.iov_len) {
		n->stats.tx_bad++;
	} else if (obuf_put(vd->env.obuf, n->sink, &iov, 1) == -EAGAIN) {
		virtq_unpop(&vd->vq[qi], 1); /* the guest waits; room() goes on */
		return -EAGAIN;
	} else {
		n->stats.tx_frames++;
	}
	r = virtq_push(&vd->vq[qi], n->chain.head, 0);
	return r ? r : 1;
}

static void deliver(void *arg, const void *data, uint32_t len)
{
	struct net *n = arg;

	netdev_send(n->nd, data, len);
}

static void room(void *arg)
{
	struct net *n = arg;

	virtio_kick(&n->vd, TX);
}

/* Receive. */

/*
 * Put the frame in rx_buf into as many chains as it takes. 1 given, 0 not enough buffers, -ENOSPC
 * it can never fit, -EBADMSG.
 */
static int give_frame(struct net *n, uint32_t len)
{
	struct virtio_dev *vd = &n->vd;
	struct virtq *vq = &vd->vq[RX];
	bool merge = virtio_has(vd, VIRTIO_NET_F_MRG_RXBUF);
	uint16_t used = 0;
	uint32_t pos = 0;

	while (pos < len) {
		struct virtq_chain *c = used ? &n->chain : &n->first;
		int r = used == vq->st->size ? -ENOSPC : virtq_pop(vq, c);
		uint32_t room_here;

		if (r <= 0) {
			virtq_unpop(vq, used);
			n->too_few = used;
			return r;
		}
		used++;
		if (c->write_bytes < (used == 1 ? NET_VNET_HDR : 1))
			return -EBADMSG;
		if (!merge && c->write_bytes < len) {
			virtq_unpop(vq, used);
			return -ENOSPC;
		}
		room_here = virtq_chain_write(vq, c, 0, n->rx_buf + pos, len - pos);
		pos += room_here;
		r = virtq_fill(vq, used - 1, c->head, room_here);
		if (r)
			return r;
	}
	virtq_chain_write(vq, &n->first, offsetof(struct virtio_net_hdr_v1, num_buffers), &used,
			  sizeof(used));
	return virtq_flush(vq, used) ? -EBADMSG : 1;
}

/* Have a good frame in rx_buf. 1 yes, 0 nothing waits, negative: the netdev is gone. */
static int fetch_frame(struct net *n)
{
	struct virtio_dev *vd = &n->vd;
	int r;

	if (n->pending)
		return 1;
	r = netdev_recv(n->nd, n->rx_buf, BUF_BYTES);
	if (r == -EAGAIN || r == -EINTR)
		return 0;
	if (r <= 0)
		return r ? r : -EPIPE;
	if (r < (int)FRAME_MIN || r > (int)BUF_BYTES || n->live.link_down ||
	    !header_ok((struct virtio_net_hdr_v1 *)n->rx_buf, (uint32_t)r - NET_VNET_HDR,
		       virtio_has(vd, VIRTIO_NET_F_GUEST_CSUM),
		       virtio_has(vd, VIRTIO_NET_F_GUEST_TSO4),
		       virtio_has(vd, VIRTIO_NET_F_GUEST_TSO6))) {
		n->stats.rx_bad++;
		return 1;
	}
	n->pending = (uint32_t)r;
	return 1;
}

static void on_input(struct loop_op *op, int res);

static void set_polling(struct net *n, bool on)
{
	on = on && n->nd->fd >= 0;
	if (on == n->polling)
		return;
	n->polling = on;
	if (!on) {
		loop_poll_del(n->vd.env.loop, &n->input);
		return;
	}
	n->input = (struct loop_op){.fn = on_input, .arg = n};
	if (loop_poll_add(n->vd.env.loop, &n->input, n->nd->fd, POLLIN) < 0) {
		log_error("%s: cannot wait for input", n->vd.id);
		n->polling = false;
	}
}

/* Move one frame. Returns whether to go on now; sets *poll to whether more input may wake us. */
static bool receive_one(struct net *n, bool *poll)
{
	int r = fetch_frame(n);

	if (r <= 0) {
		*poll = r == 0;
		return false;
	}
	if (!n->pending)
		return true;
	r = give_frame(n, n->pending);
	if (r == 1)
		n->stats.rx_frames++;
	if (r == -ENOSPC)
		n->stats.rx_bad++;
	if (r == -EBADMSG)
		virtio_fault(&n->vd, "bad receive buffer");
	if (r)
		n->pending = 0;
	if (r == 1 || r == -ENOSPC)
		return true;
	/* No buffers: stop listening until the guest's kick says there are some. */
	if (!r && virtq_kick_on(&n->vd.vq[RX], n->too_few))
		return true;
	n->stats.rx_starved += !r;
	*poll = false;
	return false;
}

static void receive(struct net *n)
{
	struct virtio_dev *vd = &n->vd;
	bool poll = !vd->quiet && virtio_running(vd) && vd->vq[RX].st->ready;
	unsigned budget = BUDGET;
	bool more = poll && n->nd->fd >= 0;

	while (more && budget--)
		more = receive_one(n, &poll);
	if (more) /* a frame may be waiting in rx_buf, which no poll would tell */
		virtio_kick(vd, RX);
	virtio_signal_used(vd, RX);
	set_polling(n, poll);
}

static void on_input(struct loop_op *op, int res)
{
	struct net *n = op->arg;

	if (res < 0) {
		n->polling = false;
		return;
	}
	pthread_mutex_lock(&n->vd.dev.lock);
	receive(n);
	pthread_mutex_unlock(&n->vd.dev.lock);
}

static bool net_notify(struct virtio_dev *vd, unsigned qi)
{
	if (qi == TX)
		return virtio_drain(vd, TX, BUDGET, tx_one);
	receive(to_net(vd));
	return false;
}

static void net_activate(struct virtio_dev *vd)
{
	struct net *n = to_net(vd);

	if (n->nd->fd >= 0 && netdev_set_offloads(n->nd, vd->st->drv_features) < 0)
		log_debug("%s: offloads not set", vd->id);
}

static void net_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	if (qi == RX)
		to_net(vd)->pending = 0;
}

static void net_wake(struct virtio_dev *vd)
{
	virtio_kick(vd, RX); /* it stopped listening */
}

static bool net_features_ok(struct virtio_dev *vd, uint64_t f)
{
	uint64_t guest_tso = BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6);
	uint64_t host_tso = BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6);

	(void)vd;
	/* Section 5.1.3.1 */
	return (!(f & guest_tso) || (f & BIT(VIRTIO_NET_F_GUEST_CSUM))) &&
	       (!(f & host_tso) || (f & BIT(VIRTIO_NET_F_CSUM)));
}

static void net_config(struct virtio_dev *vd, void *buf)
{
	struct net *n = to_net(vd);
	struct virtio_net_config cfg = {
		.status = n->live.link_down ? 0 : VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = 1,
	};

	memcpy(cfg.mac, n->mac, sizeof(cfg.mac));
	memcpy(buf, &cfg, sizeof(cfg));
}

void virtio_net_announce(struct device *d)
{
	struct net *n = (struct net *)d;
	uint8_t mac[6], ipv4[4];

	pthread_mutex_lock(&d->lock);
	memcpy(mac, n->live.src_mac, sizeof(mac));
	memcpy(ipv4, n->live.ipv4, sizeof(ipv4));
	pthread_mutex_unlock(&d->lock);
	announce_send(mac, ipv4, deliver, n);
}

void virtio_net_set_link(struct device *d, bool up)
{
	struct net *n = (struct net *)d;

	pthread_mutex_lock(&d->lock);
	if (n->live.link_down == up) {
		n->live.link_down = !up;
		virtio_signal_config(&n->vd);
		virtio_kick(&n->vd, RX); /* input may have ended with the link */
	}
	pthread_mutex_unlock(&d->lock);
}

void virtio_net_get_stats(struct device *d, struct virtio_net_stats *ret)
{
	struct net *n = (struct net *)d;

	pthread_mutex_lock(&d->lock);
	*ret = n->stats;
	pthread_mutex_unlock(&d->lock);
}

static void net_free(struct device *d)
{
	struct net *n = (struct net *)d;

	set_polling(n, false);
	virtio_done(&n->vd);
	free(n);
}

static const struct device_ops net_device_ops = {
	.state = &net_desc,
	.save = virtio_save,
	.load = virtio_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.free = net_free,
};

static const struct virtio_ops net_ops = {
	.device_id = VIRTIO_ID_NET,
	.nqueues = 2,
	.features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_CSUM) |
		    BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
		    BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_HOST_TSO4) |
		    BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_MRG_RXBUF),
	.features_ok = net_features_ok,
	.config = net_config,
	.activate = net_activate,
	.notify = net_notify,
	.queue_stop = net_queue_stop,
	.wake = net_wake,
};

int virtio_net_new(const struct dev_env *env, const struct mdev *md, struct netdev *nd,
		   struct device **ret, struct err *e)
{
	struct net *n = calloc(1, sizeof(*n));
	int r;

	_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_VNET_HDR, "header size");
	_Static_assert(sizeof(struct virtio_net_config) <= VIRTIO_CONFIG_MAX, "config space");
	if (!n)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	n->nd = nd;
	memcpy(n->mac, md->mac, sizeof(n->mac));
	memcpy(n->live.src_mac, md->mac, sizeof(n->live.src_mac));
	r = virtio_init(&n->vd, &net_device_ops, &net_ops, env, md, &n->live, e);
	if (r) {
		free(n);
		return r;
	}
	n->sink = obuf_add_sink(env->obuf, deliver, room, n);
	if (n->sink < 0) {
		r = err_set(e, n->sink, "device %s: too many outputs", md->id);
		net_free(&n->vd.dev);
		return r;
	}
	*ret = &n->vd.dev;
	return 0;
}
