/*
 * virtio-vsock where the guest is a twin: it is given the packets that the primary's was given, as
 * they are, and its own packets order the same as there. So of a connection it is enough to know
 * what the headers say.
 */
#include <stdlib.h>
#include <string.h>

#include "devices/inputs.h"
#include "devices/virtio_vsock_int.h"

#define FED_LIMIT (1u << 20) /* bytes that wait for the guest's buffers, a packet more at most */

_Static_assert(sizeof(struct vsock_given) + VSOCK_BUF_BYTES == VIRTIO_VSOCK_INPUT_MAX, "largest");

/* --- what waits ------------------------------------------------------------------------------- */

bool virtio_vsock_is_input(const void *data, uint32_t len)
{
	struct vsock_given g;

	if (len < sizeof(g) || len > VIRTIO_VSOCK_INPUT_MAX)
		return false;
	memcpy(&g, data, sizeof(g));
	return g.h.len == len - sizeof(g) && (g.h.op != VSOCK_NO_PACKET || !g.h.len);
}

bool virtio_vsock_put(struct device *d, const void *data, uint32_t len)
{
	struct vsock *v = (struct vsock *)d;
	struct vsock_fed *f = malloc(sizeof(*f) + len);
	bool full;

	if (!f)
		return true; /* a lost packet: the next checkpoint makes up for it */
	f->next = NULL;
	f->len = len - (uint32_t)sizeof(f->given);
	memcpy(&f->given, data, sizeof(f->given));
	memcpy(f->data, (const uint8_t *)data + sizeof(f->given), f->len);
	pthread_mutex_lock(&d->lock);
	*v->fed_tail = f;
	v->fed_tail = &f->next;
	v->fed_bytes += sizeof(*f) + f->len;
	full = v->full = v->fed_bytes >= FED_LIMIT;
	pthread_mutex_unlock(&d->lock);
	device_signal(v->wake_fd);
	return !full;
}

void vsock_fed_pop(struct vsock *v)
{
	struct vsock_fed *f = v->fed;

	v->fed = f->next;
	if (!v->fed)
		v->fed_tail = &v->fed;
	v->fed_bytes -= sizeof(*f) + f->len;
	free(f);
	if (!v->full || v->fed_bytes > FED_LIMIT / 2)
		return;
	v->full = false;
	inputs_room(v->vd.env.inputs);
}

void vsock_fed_drop(struct vsock *v)
{
	v->full = false;
	while (v->fed)
		vsock_fed_pop(v);
}

bool vsock_fed_reset(const struct vsock *v)
{
	return v->fed && v->fed->given.h.op == VSOCK_NO_PACKET;
}

/* --- connections ------------------------------------------------------------------------------ */

/* What the guest knows of it once it has this packet. */
static void follow(struct vsock *v, const struct vsock_given *g)
{
	struct vsock_conn *c = vsock_conn_by_id(&v->conns, g->id);

	if (c && (g->h.op == VIRTIO_VSOCK_OP_RST || g->h.op == VIRTIO_VSOCK_OP_REQUEST)) {
		vsock_conn_free(&v->conns, c);
		c = NULL;
	}
	if (g->id && g->h.op == VIRTIO_VSOCK_OP_REQUEST)
		c = vsock_conn_new(&v->conns, g->id, g->h.src_port, g->h.dst_port, VSOCK_HOST_ASKS);
	if (c && g->h.op == VIRTIO_VSOCK_OP_RESPONSE)
		c->state = VSOCK_ESTABLISHED;
	if (c && g->h.op == VIRTIO_VSOCK_OP_RW)
		c->tx_cnt += g->h.len;
	if (c && vsock_counts_fit(c->rx_cnt, g->h.fwd_cnt))
		c->fwd_cnt = g->h.fwd_cnt;
}

/* The primary's guest had room for it; the one here may lag behind, and counts (5.10.6.3). */
static bool has_room(struct vsock *v, const struct vsock_fed *f)
{
	const struct vsock_conn *c = f->given.h.op == VIRTIO_VSOCK_OP_RW
					     ? vsock_conn_by_id(&v->conns, f->given.id)
					     : NULL;

	return !c || f->len <= vsock_conn_room(c);
}

int vsock_fed_give(struct vsock *v)
{
	struct virtq *vq = &v->vd.vq[RX];
	int r;

	if (!v->fed || vsock_fed_reset(v) || !has_room(v, v->fed))
		return 0;
	r = virtq_pop(vq, &v->chain);
	if (r == 0)
		return virtq_kick_on(vq, 0);
	if (r < 0 || v->chain.write_bytes < HDR)
		return -EBADMSG;
	v->rx.given = v->fed->given;
	memcpy(v->rx.data, v->fed->data, v->fed->len);
	vsock_fed_pop(v);
	follow(v, &v->rx.given);
	return vsock_give(v);
}

/* One that the guest has not heard of comes with its first packet. */
void vsock_conns_save(struct vsock *v)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_MAX_CONNS; i++) {
		const struct vsock_conn *c = &v->conns.at[i];

		if (!c->id || c->owed & VSOCK_OWE_REQUEST)
			continue;
		v->live.conns[n++] = (struct vsock_conn_pod){.id = c->id,
							     .host_port = c->host_port,
							     .guest_port = c->guest_port,
							     .state = (uint8_t)c->state,
							     .shut_guest = (uint8_t)c->shut_guest,
							     .rx_cnt = c->rx_cnt,
							     .fwd_cnt = c->fwd_cnt,
							     .tx_cnt = c->tx_cnt,
							     .peer_fwd_cnt = c->peer_fwd_cnt,
							     .peer_buf_alloc = c->peer_buf_alloc};
	}
	v->live.nconns = n;
}

void vsock_conns_load(struct vsock *v)
{
	vsock_conns_reset(&v->conns, v->conns.next_port);
	v->nreplies = 0;
	v->forget = false;
	for (unsigned i = 0; i < v->live.nconns; i++) {
		const struct vsock_conn_pod *p = &v->live.conns[i];
		struct vsock_conn *c =
			vsock_conn_new(&v->conns, p->id, p->host_port, p->guest_port, p->state);

		c->shut_guest = p->shut_guest;
		c->rx_cnt = p->rx_cnt;
		c->fwd_cnt = p->fwd_cnt;
		c->tx_cnt = p->tx_cnt;
		c->peer_fwd_cnt = p->peer_fwd_cnt;
		c->peer_buf_alloc = p->peer_buf_alloc;
	}
}
