#include "devices/vsock_conn.h"

#include <string.h>

#define PORT_FIRST (1u << 30) /* below are ports that people choose */

void vsock_conns_reset(struct vsock_conns *cs, uint32_t port)
{
	memset(cs, 0, sizeof(*cs));
	cs->next_port = PORT_FIRST | port;
}

struct vsock_conn *vsock_conn_find(struct vsock_conns *cs, uint32_t host_port, uint32_t guest_port)
{
	for (unsigned i = 0; i < VSOCK_MAX_CONNS && cs->n; i++) {
		struct vsock_conn *c = &cs->at[i];

		if (c->id && c->host_port == host_port && c->guest_port == guest_port)
			return c;
	}
	return NULL;
}

struct vsock_conn *vsock_conn_by_id(struct vsock_conns *cs, uint64_t id)
{
	for (unsigned i = 0; i < VSOCK_MAX_CONNS; i++)
		if (id && cs->at[i].id == id)
			return &cs->at[i];
	return NULL;
}

struct vsock_conn *vsock_conn_new(struct vsock_conns *cs, uint64_t id, uint32_t host_port,
				  uint32_t guest_port, enum vsock_state state)
{
	for (unsigned i = 0; i < VSOCK_MAX_CONNS; i++) {
		struct vsock_conn *c = &cs->at[i];

		if (c->id)
			continue;
		*c = (struct vsock_conn){
			.id = id, .host_port = host_port, .guest_port = guest_port, .state = state};
		cs->n++;
		return c;
	}
	return NULL;
}

void vsock_conn_free(struct vsock_conns *cs, struct vsock_conn *c)
{
	c->id = 0;
	cs->n--;
}

/* Ends: there are fewer connections than ports. */
uint32_t vsock_conns_port(struct vsock_conns *cs, uint32_t guest_port)
{
	uint32_t port;

	do {
		port = cs->next_port++;
		if (cs->next_port >= UINT32_MAX)
			cs->next_port = PORT_FIRST;
	} while (vsock_conn_find(cs, port, guest_port));
	return port;
}

static enum vsock_action judge_data(const struct vsock_conn *c, uint32_t len)
{
	uint32_t waiting = c->rx_cnt - c->fwd_cnt;

	if (c->shut_guest & VSOCK_SHUT_SEND || !vsock_counts_fit(c->rx_cnt, c->fwd_cnt) ||
	    len > VSOCK_BUF_BYTES - waiting)
		return VSOCK_DO_ABORT;
	return len ? VSOCK_DO_DATA : VSOCK_DO_NOTHING;
}

enum vsock_action vsock_conn_judge(const struct vsock_conn *c, const struct virtio_vsock_hdr *h)
{
	if (h->op == VIRTIO_VSOCK_OP_RST)
		return VSOCK_DO_CLOSE;
	if (c->state == VSOCK_ENDED)
		return VSOCK_DO_NOTHING;
	if (h->op == VIRTIO_VSOCK_OP_CREDIT_UPDATE || h->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		return VSOCK_DO_NOTHING;
	if (c->state == VSOCK_HOST_ASKS && h->op == VIRTIO_VSOCK_OP_RESPONSE)
		return VSOCK_DO_ACCEPT;
	if (c->state != VSOCK_ESTABLISHED)
		return VSOCK_DO_ABORT;
	if (h->op == VIRTIO_VSOCK_OP_RW)
		return judge_data(c, h->len);
	if (h->op == VIRTIO_VSOCK_OP_SHUTDOWN)
		return h->flags & VSOCK_SHUT_BOTH & ~c->shut_guest ? VSOCK_DO_SHUTDOWN
								   : VSOCK_DO_NOTHING;
	return VSOCK_DO_ABORT;
}

void vsock_conn_credit(struct vsock_conn *c, const struct virtio_vsock_hdr *h)
{
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_fwd_cnt = h->fwd_cnt;
	if (vsock_conn_room(c))
		c->asked = false;
}

void vsock_conn_take(struct vsock_conn *c, const struct virtio_vsock_hdr *h, enum vsock_action a)
{
	vsock_conn_credit(c, h);
	if (a == VSOCK_DO_ACCEPT) {
		c->state = VSOCK_ESTABLISHED;
		c->deadline_ns = 0;
	} else if (a == VSOCK_DO_DATA) {
		c->rx_cnt += h->len;
	} else if (a == VSOCK_DO_SHUTDOWN) {
		c->shut_guest |= h->flags & VSOCK_SHUT_BOTH;
	} else if (h->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST && c->state == VSOCK_ESTABLISHED) {
		c->owed |= VSOCK_OWE_CREDIT;
	}
}

void vsock_conn_written(struct vsock_conn *c, uint32_t n)
{
	c->fwd_cnt += n;
	/* The guest thinks that this much waits here: it need not know before half is used. */
	if (c->rx_cnt - c->fwd_told >= VSOCK_BUF_BYTES / 2 && c->state == VSOCK_ESTABLISHED)
		c->owed |= VSOCK_OWE_CREDIT;
}

uint32_t vsock_conn_room(const struct vsock_conn *c)
{
	uint32_t under_way = c->tx_cnt - c->peer_fwd_cnt;

	/* A guest that lies about what it has forwarded gets nothing. */
	return under_way < c->peer_buf_alloc ? c->peer_buf_alloc - under_way : 0;
}

void vsock_conn_host_ends(struct vsock_conn *c, uint32_t shut)
{
	c->readable = false;
	if (!(shut & ~c->shut_host))
		return;
	c->shut_host |= shut;
	c->owed |= VSOCK_OWE_SHUTDOWN;
}

void vsock_conn_end(struct vsock_conn *c)
{
	c->state = VSOCK_ENDED;
	c->readable = false;
	c->deadline_ns = 0;
	c->owed = VSOCK_OWE_RST;
}

bool vsock_conn_has_output(struct vsock_conn *c, bool may_ask)
{
	bool wants =
		c->readable && c->state == VSOCK_ESTABLISHED && !(c->shut_guest & VSOCK_SHUT_RCV);

	if (wants && !vsock_conn_room(c)) {
		if (!c->asked)
			c->owed |= VSOCK_OWE_CREDIT_REQUEST;
		c->asked = true;
		wants = false;
	}
	return wants || (c->owed & (may_ask ? ~0u : ~(uint32_t)VSOCK_OWE_REQUEST));
}
