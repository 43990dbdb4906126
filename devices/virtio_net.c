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
#include "net/addresses.h"
#include "net/announce.h"
#include "net/flow.h"
#include "net/obuf.h"
#include "net/seqmap.h"
#include "vmm/base/limit.h"
#include "vmm/base/log.h"

/* Queues: receive and transmit of pair 0, of pair 1, ..., then control. */
#define RX(pair)  (2 * (pair))
#define TX(pair)  (2 * (pair) + 1)
#define FRAME_MIN (NET_VNET_HDR + ETH_HLEN)
#define BUF_BYTES (NET_VNET_HDR + NET_FRAME_MAX)
/*
 * Of a segment of what is sent. The host may have to make the segments, within one call, and each
 * costs it a frame. NICs have the same bound: Linux does not ask Intel's 700 series for less.
 */
#define SEGMENT_MIN 64

#define BIT(n) (1ull << (n))
#define OFFLOADS                                                                                   \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |    \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6))

struct net_state {
	struct virtio_state common;
	uint8_t link_down;
	uint8_t src_mac[6]; /* as last seen in what the guest sent, for the announcement */
	uint8_t ipv4[4];    /* of before version 4, perhaps another machine's: not used */
	uint8_t pairs;	    /* the driver uses; 0, as in a state of version 1, is 1 */
	uint8_t announce;   /* the driver is asked to say where its addresses are */
	struct addresses addresses;
	uint32_t nconns; /* the last two: see net_save() */
	struct seqmap_conn conns[SEQMAP_MAX];
};

#define F_CONN(f, i, d, ...) F_U32(struct seqmap_conn, f, i, d, ##__VA_ARGS__)

static const struct field flow_fields[] = {
	F_U16(struct seqmap_flow, version, 1, "of IP", .min = 4, .max = 6),
	F_U16(struct seqmap_flow, guest_port, 2, "the guest's port"),
	F_U16(struct seqmap_flow, peer_port, 3, "the other's"),
	F_BYTES(struct seqmap_flow, vlan, 4, "numbers of the VLANs, 0 none"),
	F_BYTES(struct seqmap_flow, guest, 5, "the guest's address"),
	F_BYTES(struct seqmap_flow, peer, 6, "the other's"),
};

static const struct field conn_fields[] = {
	F_STRUCT(struct seqmap_conn, flow, 1, flow_fields, "its ends"),
	F_U8(struct seqmap_conn, seen, 2, "what was seen of its end", .max = SEQMAP_SEEN),
	F_CONN(delta, 3, "sequence numbers of the guest less those of the other"),
	F_CONN(ts_delta, 4, "timestamps of the other less those of the guest"),
	F_CONN(acked, 5, "what the guest acknowledged last"),
	F_CONN(fin_out, 6, "behind the guest's FIN"),
	F_CONN(fin_in, 7, "behind the other's"),
};

static const struct field address_fields[] = {
	F_U8(struct address, version, 1, "of IP", .min = 4, .max = 6),
	F_U8(struct address, router, 2, "it said that it is one", .max = 1),
	F_BYTES(struct address, ip, 3, "the address"),
};

static const struct field addresses_fields[] = {
	F_ARRAY(struct addresses, a, n, 1, address_fields, "the one it spoke of last first"),
};

static const struct field net_fields[] = {
	F_STRUCT(struct net_state, common, 1, virtio_fields, "what all virtio devices have"),
	F_U8(struct net_state, link_down, 2, "cable unplugged", .max = 1),
	F_BYTES(struct net_state, src_mac, 3, "address the guest sends from"),
	F_BYTES(struct net_state, ipv4, 4,
		"not used; before version 4 an address the guest sent from"),
	F_U8(struct net_state, pairs, 5, "queue pairs the driver uses", .since = 2,
	     .max = MACHINE_MAX_QUEUES),
	F_U8(struct net_state, announce, 6, "the driver is asked to announce", .since = 2,
	     .max = 1),
	F_ARRAY(struct net_state, conns, nconns, 7, conn_fields,
		"TCP connections, of all networks, whose clients have other numbers: in the first "
		"only",
		.since = 3, .flags = FIELD_UNSTABLE),
	F_STRUCT(struct net_state, addresses, 8, addresses_fields,
		 "IP addresses that the guest says it has", .since = 4),
};

struct net {
	struct virtio_dev vd;
	struct net_state live;
	struct netdev *nd;
	struct loop_op input;
	bool polling;	 /* input is armed */
	struct limit tx; /* what it holds stays in the rings */
	struct limit rx; /* while it holds nothing is read */
	unsigned last;	 /* queue that tx let go on */
	int sink;
	unsigned pairs; /* that the device has */
	uint8_t mac[6];
	struct virtio_net_stats stats;
	uint32_t pending; /* bytes of a frame in rx_buf that waits for guest buffers */
	uint32_t flow;	  /* and its hash */
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

	unsigned nqueues = s->common.nqueues;

	/* A version 1 had no control queue. */
	if (nqueues < 2 || (nqueues > 2 && nqueues % 2 == 0))
		return err_set(e, -EBADMSG, "%u queues are no pairs and a control queue", nqueues);
	if (s->pairs > nqueues / 2)
		return err_set(e, -EBADMSG, "%u pairs in use, there are %u", s->pairs, nqueues / 2);
	return virtio_state_check(&s->common, nqueues, e);
}

const struct state_desc virtio_net_desc = {
	.name = "virtio-net",
	.id = 31,
	.version = 4,
	.size = sizeof(struct net_state),
	.fields = net_fields,
	.nfields = sizeof(net_fields) / sizeof(net_fields[0]),
	.check = net_check,
};

/* Pairs in use. */
static unsigned net_pairs(const struct net *n)
{
	unsigned pairs = n->live.pairs < n->pairs ? n->live.pairs : n->pairs;

	return virtio_has(&n->vd, VIRTIO_NET_F_MQ) && pairs ? pairs : 1;
}

/* Section 5.1.2: behind all pairs for a driver that knows of them, else behind the first. */
static unsigned ctrl_queue(const struct net *n)
{
	return virtio_has(&n->vd, VIRTIO_NET_F_MQ) ? 2 * n->pairs : 2;
}

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

/* Remember where the guest says it lives. */
static void learn(struct net *n, const uint8_t *eth, uint32_t len)
{
	if (eth[6] & 1) /* no source can be a group address */
		return;
	memcpy(n->live.src_mac, eth + 6, 6);
	addresses_said(&n->live.addresses, n->mac, eth, len);
}

/* Copy the frame of n->chain, from queue qi, to tx_buf and check it there. Returns bytes, 0 to drop
 * it. */
static uint32_t take_frame(struct net *n, unsigned qi)
{
	struct virtio_dev *vd = &n->vd;
	uint64_t len = n->chain.read_bytes;
	struct virtio_net_hdr_v1 *h = (struct virtio_net_hdr_v1 *)n->tx_buf;

	if (len < FRAME_MIN || len > BUF_BYTES || n->live.link_down)
		return 0;
	virtq_chain_read(&vd->vq[qi], &n->chain, 0, n->tx_buf, (uint32_t)len);
	if (!header_ok(h, (uint32_t)len - NET_VNET_HDR, virtio_has(vd, VIRTIO_NET_F_CSUM),
		       virtio_has(vd, VIRTIO_NET_F_HOST_TSO4),
		       virtio_has(vd, VIRTIO_NET_F_HOST_TSO6)))
		return 0;
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE && h->gso_size < SEGMENT_MIN)
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
	if (limit_holds(&n->tx)) {
		virtq_unpop(&vd->vq[qi], 1);
		return -EAGAIN;
	}
	iov.iov_len = take_frame(n, qi);
	if (!iov.iov_len) {
		n->stats.tx_bad++;
	} else if (obuf_put(vd->env.obuf, n->sink, &iov, 1) == -EAGAIN) {
		virtq_unpop(&vd->vq[qi], 1); /* the guest waits; room() goes on */
		return -EAGAIN;
	} else {
		n->stats.tx_frames++;
	}
	limit_take(&n->tx, iov.iov_len ? iov.iov_len - NET_VNET_HDR : 0);
	n->last = qi;
	r = virtq_push(&vd->vq[qi], n->chain.head, 0);
	return r ? r : 1;
}

static void room(void *arg)
{
	struct net *n = arg;

	for (unsigned i = 0; i < n->pairs; i++)
		virtio_kick(&n->vd, TX(i));
}

static void tx_over(void *arg)
{
	struct net *n = arg;
	uint32_t queues = 0;

	for (unsigned i = 0; i < n->pairs; i++)
		queues |= 1u << TX(i);
	virtio_go_on(&n->vd, queues, n->last);
}

/* Receive. */

/*
 * The queue for the frame in rx_buf. By its flow alone: the frames of one flow stay in order, which
 * steering by what the driver last sent (section 5.1.6.5.5) would not promise.
 */
static unsigned rx_queue(const struct net *n)
{
	unsigned qi = RX(n->flow % net_pairs(n));

	return n->vd.vq[qi].st->ready ? qi : RX(0);
}

/*
 * Put the frame in rx_buf into as many chains as it takes. 1 given, 0 not enough buffers, -ENOSPC
 * it can never fit, -EBADMSG.
 */
static int give_frame(struct net *n, struct virtq *vq, uint32_t len)
{
	struct virtio_dev *vd = &n->vd;
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
	n->flow = flow_hash(n->rx_buf + NET_VNET_HDR, n->pending - NET_VNET_HDR);
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

/*
 * Move one frame. Returns whether to go on now; sets *poll to whether more input may wake us, and
 * the bit of a queue that got something in *used.
 */
static bool receive_one(struct net *n, bool *poll, uint32_t *used)
{
	int r = fetch_frame(n);
	unsigned qi;

	if (r <= 0) {
		*poll = r == 0;
		return false;
	}
	if (!n->pending)
		return true;
	qi = rx_queue(n);
	r = give_frame(n, &n->vd.vq[qi], n->pending);
	if (r == 1) {
		n->stats.rx_frames++;
		*used |= 1u << qi;
		netdev_given(n->nd, n->rx_buf, n->pending);
		addresses_heard(&n->live.addresses, n->mac, n->rx_buf + NET_VNET_HDR,
				n->pending - NET_VNET_HDR);
	}
	if (r == -ENOSPC)
		n->stats.rx_bad++;
	if (r == -EBADMSG)
		virtio_fault(&n->vd, "bad receive buffer");
	if (r)
		n->pending = 0;
	if (r == 1 || r == -ENOSPC)
		return true;
	/*
	 * No buffers: stop listening until the guest's kick says there are some. Frames for other
	 * queues wait as well; a queue without buffers is rare, and none is lost this way.
	 */
	if (!r && virtq_kick_on(&n->vd.vq[qi], n->too_few))
		return true;
	n->stats.rx_starved += !r;
	*poll = false;
	return false;
}

static bool may_receive(const struct net *n)
{
	return !n->vd.quiet && virtio_running(&n->vd) && n->vd.vq[RX(0)].st->ready;
}

/* A turn. True: there may be more, perhaps a frame in rx_buf, which no poll would tell. */
static bool receive(struct net *n)
{
	struct virtio_dev *vd = &n->vd;
	bool poll = may_receive(n), more = poll && n->nd->fd >= 0;
	uint32_t used = 0;

	while (more) {
		more = receive_one(n, &poll, &used);
		if (loop_should_yield(vd->env.loop))
			break;
	}
	for (; used; used &= used - 1)
		virtio_signal_used(vd, (unsigned)__builtin_ctz(used));
	set_polling(n, poll);
	return more;
}

static void on_input(struct loop_op *op, int res)
{
	struct net *n = op->arg;

	if (res < 0) {
		n->polling = false;
		return;
	}
	pthread_mutex_lock(&n->vd.dev.lock);
	if (may_receive(n))
		virtio_later(&n->vd, RX(0));
	else
		set_polling(n, false);
	pthread_mutex_unlock(&n->vd.dev.lock);
}

/* Control (section 5.1.6.5). */

static uint8_t set_pairs(struct net *n, uint32_t len)
{
	const struct virtq_chain *c = &n->chain;
	uint16_t pairs;

	if (!virtio_has(&n->vd, VIRTIO_NET_F_MQ) || len != sizeof(pairs))
		return VIRTIO_NET_ERR;
	virtq_chain_read(&n->vd.vq[ctrl_queue(n)], c, sizeof(struct virtio_net_ctrl_hdr), &pairs,
			 sizeof(pairs));
	if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > n->pairs)
		return VIRTIO_NET_ERR;
	n->live.pairs = (uint8_t)pairs;
	virtio_kick(&n->vd, RX(0)); /* a frame may wait for a queue that is not used any more */
	return VIRTIO_NET_OK;
}

/* len: bytes behind the header. */
static uint8_t command(struct net *n, const struct virtio_net_ctrl_hdr *h, uint32_t len)
{
	if (h->class == VIRTIO_NET_CTRL_MQ && h->cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET)
		return set_pairs(n, len);
	if (h->class == VIRTIO_NET_CTRL_ANNOUNCE && h->cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK &&
	    virtio_has(&n->vd, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		n->live.announce = 0;
		return VIRTIO_NET_OK;
	}
	return VIRTIO_NET_ERR;
}

static int ctrl_one(struct virtio_dev *vd, unsigned qi)
{
	struct net *n = to_net(vd);
	struct virtq *vq = &vd->vq[qi];
	struct virtio_net_ctrl_hdr h;
	uint64_t len;
	uint8_t ack;
	int r = virtq_pop(vq, &n->chain);

	if (r <= 0)
		return r;
	len = n->chain.read_bytes;
	if (len < sizeof(h) || len > UINT32_MAX || n->chain.write_bytes < sizeof(ack))
		return -EBADMSG;
	virtq_chain_read(vq, &n->chain, 0, &h, sizeof(h));
	ack = command(n, &h, (uint32_t)len - (uint32_t)sizeof(h));
	virtq_chain_write(vq, &n->chain, 0, &ack, sizeof(ack));
	r = virtq_push(vq, n->chain.head, sizeof(ack));
	return r ? r : 1;
}

static bool net_notify(struct virtio_dev *vd, unsigned qi)
{
	struct net *n = to_net(vd);

	if (qi == ctrl_queue(n) && virtio_has(vd, VIRTIO_NET_F_CTRL_VQ))
		return virtio_drain(vd, qi, ctrl_one);
	if (qi > 1 && (!virtio_has(vd, VIRTIO_NET_F_MQ) || qi == ctrl_queue(n)))
		return false; /* a queue that this driver does not have */
	if (qi % 2)
		return virtio_drain(vd, qi, tx_one);
	return receive(n);
}

static void net_activate(struct virtio_dev *vd)
{
	struct net *n = to_net(vd);

	if (n->nd->fd >= 0 && netdev_set_offloads(n->nd, vd->st->drv_features) < 0)
		log_debug("%s: offloads not set", vd->id);
}

static void net_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	struct net *n = to_net(vd);

	if (qi == RX(0)) { /* a reset, mostly */
		n->pending = 0;
		n->live.pairs = n->live.announce = 0;
	} else {
		virtio_kick(vd, RX(0)); /* a frame may wait for buffers of this one */
	}
}

static void net_wake(struct virtio_dev *vd)
{
	virtio_kick(vd, RX(0)); /* it stopped listening */
}

static bool net_features_ok(struct virtio_dev *vd, uint64_t f)
{
	uint64_t guest_tso = BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6);
	uint64_t on_ctrl = BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
	uint64_t host_tso = BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6);

	(void)vd;
	/* Section 5.1.3.1 */
	return (!(f & guest_tso) || (f & BIT(VIRTIO_NET_F_GUEST_CSUM))) &&
	       (!(f & host_tso) || (f & BIT(VIRTIO_NET_F_CSUM))) &&
	       (!(f & on_ctrl) || (f & BIT(VIRTIO_NET_F_CTRL_VQ)));
}

static void net_config(struct virtio_dev *vd, void *buf)
{
	struct net *n = to_net(vd);
	struct virtio_net_config cfg = {
		.status = (n->live.link_down ? 0 : VIRTIO_NET_S_LINK_UP) |
			  (n->live.announce ? VIRTIO_NET_S_ANNOUNCE : 0),
		.max_virtqueue_pairs = (uint16_t)n->pairs,
	};

	memcpy(cfg.mac, n->mac, sizeof(cfg.mac));
	memcpy(buf, &cfg, sizeof(cfg));
}

/* What the guest was seen to send from is its own word, too: it leaves as its frames do. */
static void put_announcement(void *arg, const void *frame, uint32_t len)
{
	struct net *n = arg;
	struct iovec iov = {.iov_base = (void *)frame, .iov_len = len};

	obuf_put(n->vd.env.obuf, n->sink, &iov, 1);
}

void virtio_net_announce(struct device *d)
{
	struct net *n = (struct net *)d;
	struct addresses known;
	uint8_t mac[6];

	pthread_mutex_lock(&d->lock);
	memcpy(mac, n->live.src_mac, sizeof(mac));
	known = n->live.addresses;
	/* A driver that was asked knows better: addresses come and go without a word of ARP. */
	if (virtio_has(&n->vd, VIRTIO_NET_F_GUEST_ANNOUNCE))
		known.n = 0;
	pthread_mutex_unlock(&d->lock);
	for (uint32_t i = 0; i < known.n; i++)
		announce_address(n->mac, &known.a[i], put_announcement, n);
	/* For switches. A guest that bridges sends from others' addresses, too. */
	announce_mac(n->mac, put_announcement, n);
	if (memcmp(mac, n->mac, sizeof(mac)))
		announce_mac(mac, put_announcement, n);
}

void virtio_net_ask_announce(struct device *d)
{
	struct net *n = (struct net *)d;

	pthread_mutex_lock(&d->lock);
	if (virtio_running(&n->vd) && virtio_has(&n->vd, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		n->live.announce = 1;
		virtio_signal_config(&n->vd);
	}
	pthread_mutex_unlock(&d->lock);
}

void virtio_net_set_link(struct device *d, bool up)
{
	struct net *n = (struct net *)d;

	pthread_mutex_lock(&d->lock);
	if (n->live.link_down == up) {
		n->live.link_down = !up;
		virtio_signal_config(&n->vd);
		virtio_kick(&n->vd, RX(0)); /* input may have ended with the link */
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

static void rx_over(void *arg)
{
	struct net *n = arg;

	virtio_kick(&n->vd, RX(0)); /* it stopped listening */
}

void virtio_net_limit(struct device *d, const struct limit_rates *r)
{
	struct net *n = (struct net *)d;

	limit_set(&n->tx, r);
	limit_set(&n->rx, r);
}

uint64_t virtio_net_held_ns(const struct device *d)
{
	return limit_held_ns(&((const struct net *)d)->tx);
}

/* The netdev lost its descriptor, or has a new one. With or without the lock. */
static void netdev_changed(void *arg)
{
	struct net *n = arg;

	set_polling(n, false);
	virtio_kick(&n->vd, RX(0));
}

/* The map is of all networks: one of them has it in its state. Loop thread. */
static bool keeps_map(const struct net *n)
{
	return n->vd.env.seqs && n->vd.env.seqs->keeper == n;
}

/* The connections are copied when there are any: this is within a pause. */
static void net_save(struct device *d)
{
	struct net *n = (struct net *)d;
	struct net_state *pod = d->pod;

	pthread_mutex_lock(&d->lock);
	memcpy(pod, n->vd.st, offsetof(struct net_state, nconns));
	pthread_mutex_unlock(&d->lock);
	pod->nconns = keeps_map(n) ? seqmap_list(n->vd.env.seqs, pod->conns) : 0;
}

static void net_load(struct device *d, const void *pod)
{
	const struct net_state *s = pod;
	struct net *n = (struct net *)d;

	virtio_load(d, pod);
	if (!keeps_map(n))
		return;
	seqmap_clear(n->vd.env.seqs);
	for (uint32_t i = 0; i < s->nconns; i++)
		if (seqmap_put(n->vd.env.seqs, &s->conns[i]))
			log_error("%s: a TCP connection is lost: no memory", d->id);
}

static void net_free(struct device *d)
{
	struct net *n = (struct net *)d;

	netdev_watch(n->nd, NULL, NULL);
	netdev_set_limit(n->nd, NULL);
	limit_done(&n->tx);
	limit_done(&n->rx);
	netdev_translate(n->nd, NULL);
	if (keeps_map(n))
		n->vd.env.seqs->keeper = NULL;
	set_polling(n, false);
	virtio_done(&n->vd);
	free(n);
}

static const struct device_ops net_device_ops = {
	.state = &virtio_net_desc,
	.save = net_save,
	.load = net_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = net_free,
};

static const struct virtio_ops net_ops = {
	.device = &net_device_ops,
	.device_id = VIRTIO_ID_NET,
	.features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) |
		    BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE),
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
	_Static_assert(2 * MACHINE_MAX_QUEUES + 1 <= VIRTIO_MAX_QUEUES, "pairs and control");
	_Static_assert(sizeof(struct virtio_net_config) <= VIRTIO_CONFIG_MAX, "config space");
	if (!n)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	n->nd = nd;
	n->pairs = md->queues ? md->queues : 1;
	n->vd.nqueues = 2 * n->pairs + 1;
	memcpy(n->mac, md->mac, sizeof(n->mac));
	memcpy(n->live.src_mac, md->mac, sizeof(n->live.src_mac));
	r = virtio_init(&n->vd, &net_ops, env, md, &n->live, e);
	if (r) {
		free(n);
		return r;
	}
	n->vd.features |=
		(md->no_offload ? 0 : OFFLOADS) | (n->pairs > 1 ? BIT(VIRTIO_NET_F_MQ) : 0);
	limit_init(&n->tx, env->loop, tx_over, n);
	limit_init(&n->rx, env->loop, rx_over, n);
	n->sink = netdev_add_sink(nd, env->obuf, room, n);
	if (n->sink < 0) {
		r = err_set(e, n->sink, "device %s: too many outputs", md->id);
		net_free(&n->vd.dev);
		return r;
	}
	netdev_translate(nd, env->seqs);
	if (env->seqs && !env->seqs->keeper)
		env->seqs->keeper = n;
	netdev_watch(nd, netdev_changed, n);
	netdev_set_limit(nd, &n->rx);
	*ret = &n->vd.dev;
	return 0;
}
