/* virtio-vsock: packets and events for the guest. */
#include <errno.h>

#include "devices/inputs.h"
#include "devices/virtio_vsock_int.h"

int vsock_give(struct vsock *v)
{
	const struct virtio_vsock_hdr *h = &v->rx.given.h;
	struct virtq *vq = &v->vd.vq[RX];
	int r;

	virtq_chain_write(vq, &v->chain, 0, h, HDR);
	virtq_chain_write(vq, &v->chain, HDR, v->rx.data, h->len);
	v->stats.rx_packets++;
	v->stats.resets += h->op == VIRTIO_VSOCK_OP_RST;
	r = virtq_push(vq, v->chain.head, HDR + h->len) ? -EBADMSG : 1;
	if (!v->is_fed)
		inputs_given(v->vd.env.inputs, &v->vd.dev, &v->rx,
			     (uint32_t)sizeof(v->rx.given) + h->len);
	return r;
}

static int give_reply(struct vsock *v)
{
	const struct reply *p = &v->replies[v->reply_at];

	v->rx.given = (struct vsock_given){.h = {.src_cid = p->src_cid,
						 .dst_cid = v->cid,
						 .src_port = p->src_port,
						 .dst_port = p->dst_port,
						 .type = p->type,
						 .op = VIRTIO_VSOCK_OP_RST}};
	v->reply_at = (v->reply_at + 1) % REPLIES;
	v->nreplies--;
	return vsock_give(v);
}

static int give_packet(struct vsock *v, struct vsock_conn *c, uint16_t op, uint32_t len)
{
	v->rx.given.id = c->id;
	v->rx.given.h = (struct virtio_vsock_hdr){
		.src_cid = HOST_CID,
		.dst_cid = v->cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? c->shut_host : 0,
		.buf_alloc = VSOCK_BUF_BYTES,
		.fwd_cnt = c->fwd_cnt,
	};

	c->fwd_told = c->fwd_cnt;
	c->tx_cnt += len;
	return vsock_give(v);
}

/* Bytes of the program, as many as buffer and credit take. */
static int give_data(struct vsock *v, struct vsock_conn *c)
{
	uint64_t max = v->chain.write_bytes - HDR;
	ssize_t n;

	if (!max)
		return -EBADMSG;
	if (max > vsock_conn_room(c))
		max = vsock_conn_room(c);
	if (max > sizeof(v->rx.data))
		max = sizeof(v->rx.data);
	n = vsock_host_read(v->host, c->id, v->rx.data, (uint32_t)max);
	if (n > 0)
		return give_packet(v, c, VIRTIO_VSOCK_OP_RW, (uint32_t)n);
	virtq_unpop(&v->vd.vq[RX], 1);
	c->readable = false;
	if (n == 0 || n == -EPIPE)
		vsock_conn_host_ends(c, n ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND);
	return 1;
}

/* The next thing that the connection has for the guest. */
static int give_conn(struct vsock *v, struct vsock_conn *c)
{
	static const struct {
		uint32_t owed;
		uint16_t op;
	} packets[] = {
		{VSOCK_OWE_REQUEST, VIRTIO_VSOCK_OP_REQUEST},
		{VSOCK_OWE_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE},
		{VSOCK_OWE_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE},
		{VSOCK_OWE_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST},
		{VSOCK_OWE_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN},
	};
	int r;

	if (c->owed & VSOCK_OWE_RST) {
		r = give_packet(v, c, VIRTIO_VSOCK_OP_RST, 0);
		vsock_conn_free(&v->conns, c);
		return r;
	}
	for (unsigned i = 0; i < sizeof(packets) / sizeof(packets[0]); i++)
		if (c->owed & packets[i].owed) {
			c->owed &= ~packets[i].owed;
			return give_packet(v, c, packets[i].op, 0);
		}
	return give_data(v, c);
}

/* Connections take turns. One that the guest has yet to hear of waits until it forgot the old. */
static struct vsock_conn *next_conn(struct vsock *v)
{
	for (unsigned i = 0; i < VSOCK_MAX_CONNS && v->conns.n; i++) {
		struct vsock_conn *c = &v->conns.at[(v->conns.turn + i) % VSOCK_MAX_CONNS];

		if (!c->id || !vsock_conn_has_output(c, !v->live.reset_pending))
			continue;
		v->conns.turn = (v->conns.turn + i + 1) % VSOCK_MAX_CONNS;
		return c;
	}
	return NULL;
}

/* 1 go on, 0 nothing to give or no buffer, -EBADMSG. */
static int give_one(struct vsock *v)
{
	struct vsock_conn *c = v->nreplies ? NULL : next_conn(v);
	struct virtq *vq = &v->vd.vq[RX];
	int r;

	if ((!v->nreplies && !c) || !inputs_ready(v->vd.env.inputs))
		return 0; /* virtio_vsock_go_on() */
	r = virtq_pop(vq, &v->chain);
	if (r == 0)
		return virtq_kick_on(vq, 0);
	if (r < 0 || v->chain.write_bytes < HDR)
		return -EBADMSG;
	return c ? give_conn(v, c) : give_reply(v);
}

bool vsock_pump(struct vsock *v)
{
	bool was_full = v->nreplies == REPLIES;
	int r;

	do
		r = v->is_fed ? vsock_fed_give(v) : give_one(v);
	while (r > 0 && !loop_should_yield(v->vd.env.loop));
	if (r < 0)
		virtio_fault(&v->vd, "bad receive buffer or ring");
	if (was_full && v->nreplies < REPLIES)
		virtio_kick(&v->vd, TX);
	virtio_signal_used(&v->vd, RX);
	return r > 0;
}

/* Section 5.10.6.6: every connection of before the load is gone. */
void vsock_tell_reset(struct vsock *v)
{
	struct virtio_vsock_event ev = {.id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
	struct virtq *vq = &v->vd.vq[EVENT];
	int r;

	if (!(v->is_fed ? vsock_fed_reset(v) : v->live.reset_pending) || !vq->st->ready ||
	    !inputs_ready(v->vd.env.inputs))
		return;
	do
		r = virtq_pop(vq, &v->chain);
	while (r == 0 && virtq_kick_on(vq, 0));
	if (r == 0) /* the guest's kick says when there is a buffer */
		return;
	if (r < 0 || virtq_chain_write(vq, &v->chain, 0, &ev, sizeof(ev)) != sizeof(ev) ||
	    virtq_push(vq, v->chain.head, sizeof(ev))) {
		virtio_fault(&v->vd, "bad event buffer or ring");
		return;
	}
	v->live.reset_pending = 0;
	v->stats.transport_resets++;
	if (v->is_fed)
		vsock_fed_pop(v);
	else
		inputs_given(v->vd.env.inputs, &v->vd.dev, &(struct vsock_given){0},
			     sizeof(struct vsock_given));
	virtio_signal_used(&v->vd, EVENT);
}
