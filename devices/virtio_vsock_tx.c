/* virtio-vsock: packets of the guest, and what they order. */
#include <errno.h>

#include "devices/virtio_vsock_int.h"
#include "net/obuf.h"

int vsock_put(struct vsock *v, uint32_t op, uint32_t arg, uint64_t id, uint32_t len)
{
	struct iovec iov = {&v->tx, sizeof(v->tx.order) + len};
	int r;

	v->tx.order = (struct vsock_order){.op = op, .arg = arg, .id = id};
	r = obuf_put(v->vd.env.obuf, v->sink, &iov, 1);
	if (!r || r == -EAGAIN)
		return r;
	/* A stream must not lose a part: as if there were no room. */
	v->put_again = true;
	vsock_start_ticking(v);
	return -EAGAIN;
}

/* There is room: vsock_tx_one() takes no packet otherwise. */
static void reply_rst(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	if (h->op == VIRTIO_VSOCK_OP_RST || v->is_fed)
		return;
	v->replies[(v->reply_at + v->nreplies++) % REPLIES] =
		(struct reply){h->dst_cid, h->dst_port, h->src_port, h->type};
}

static int take_request(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	uint64_t id = (v->live.last_id | 1) + 2;
	struct vsock_conn *c;

	if (v->conns.n == VSOCK_MAX_CONNS) {
		reply_rst(v, h);
		return 0;
	}
	if (vsock_put(v, VSOCK_CONNECT, h->dst_port, id, 0))
		return -EAGAIN;
	v->live.last_id = id;
	c = vsock_conn_new(&v->conns, id, h->dst_port, h->src_port, VSOCK_GUEST_ASKS);
	vsock_conn_credit(c, h);
	c->deadline_ns = loop_now_ns() + GUEST_ASKS_NS;
	vsock_start_ticking(v);
	return 0;
}

/* Whatever was judged: no more than there is room for. */
static uint32_t read_data(struct vsock *v, uint32_t len)
{
	if (len > sizeof(v->tx.data))
		len = sizeof(v->tx.data);
	return virtq_chain_read(&v->vd.vq[TX], &v->chain, HDR, v->tx.data, len);
}

/* Have the host's side do what the packet asks for. 0 or -EAGAIN. */
static int order(struct vsock *v, const struct vsock_conn *c, const struct virtio_vsock_hdr *h,
		 enum vsock_action a)
{
	switch (a) {
	case VSOCK_DO_NOTHING:
		return 0;
	case VSOCK_DO_ACCEPT:
		return vsock_put(v, VSOCK_ACCEPT, c->host_port, c->id, 0);
	case VSOCK_DO_DATA:
		return vsock_put(v, VSOCK_DATA, 0, c->id, read_data(v, h->len));
	case VSOCK_DO_SHUTDOWN:
		return vsock_put(v, VSOCK_SHUTDOWN, h->flags, c->id, 0);
	case VSOCK_DO_CLOSE:
	case VSOCK_DO_ABORT:
		break;
	}
	return vsock_put(v, VSOCK_CLOSE, 0, c->id, 0);
}

/* 0 taken, -EAGAIN not yet: nothing has changed. */
static int take_packet(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	struct vsock_conn *c;
	enum vsock_action a;

	if (h->src_cid != v->cid) { /* nobody to answer to */
		v->stats.tx_bad++;
		return 0;
	}
	if (h->dst_cid != HOST_CID || h->type != VIRTIO_VSOCK_TYPE_STREAM) {
		v->stats.tx_bad++;
		reply_rst(v, h);
		return 0;
	}
	c = vsock_conn_find(&v->conns, h->dst_port, h->src_port);
	if (!c && h->op == VIRTIO_VSOCK_OP_REQUEST)
		return take_request(v, h);
	if (!c) {
		reply_rst(v, h);
		return 0;
	}
	a = h->len > v->chain.read_bytes - HDR ? VSOCK_DO_ABORT : vsock_conn_judge(c, h);
	if (order(v, c, h, a))
		return -EAGAIN;
	vsock_conn_take(c, h, a);
	if (a == VSOCK_DO_ABORT) {
		v->stats.tx_bad++;
		reply_rst(v, h);
	}
	if (a == VSOCK_DO_ABORT || a == VSOCK_DO_CLOSE)
		vsock_conn_free(&v->conns, c);
	return 0;
}

int vsock_tx_one(struct virtio_dev *vd, unsigned qi)
{
	struct vsock *v = to_vsock(vd);
	struct virtio_vsock_hdr h;
	int r;

	/* Section 5.10.6.1.1: what answers need is bounded, so no packet before there is room. */
	if (v->nreplies == REPLIES || v->forget)
		return -EAGAIN;
	r = virtq_pop(&vd->vq[qi], &v->chain);
	if (r <= 0)
		return r;
	if (virtq_chain_read(&vd->vq[qi], &v->chain, 0, &h, HDR) != HDR)
		return -EBADMSG;
	if (take_packet(v, &h)) {
		virtq_unpop(&vd->vq[qi], 1); /* the guest waits; room() goes on */
		return -EAGAIN;
	}
	v->stats.tx_packets++;
	r = virtq_push(&vd->vq[qi], v->chain.head, 0);
	return r ? r : 1;
}
