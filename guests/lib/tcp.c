#include <errno.h>
#include <string.h>

#include "guests/lib/tcp_int.h"

#define TCP_PORT_FIRST 49152

void tcp_init(struct tcp_stack *s, struct net_if *nif, uint64_t seed)
{
	memset(s, 0, offsetof(struct tcp_stack, snd));
	s->nif = nif;
	s->secret[0] = seed;
	s->secret[1] = seed * 0x9e3779b97f4a7c15ull + 1;
	s->isn_base = (uint32_t)(seed >> 32);
	s->next_port = TCP_PORT_FIRST;
	for (uint16_t i = 0; i < TCP_CONNS; i++) {
		s->conn[i].stack = s;
		s->conn[i].index = i;
	}
	nif->tcp = s;
}

int tcp_listen(struct tcp_stack *s, uint16_t port, tcp_event_fn *event, void *ctx)
{
	for (int i = 0; i < TCP_LISTENERS; i++) {
		struct tcp_listener *l = &s->listener[i];

		if (l->port == port)
			return -EADDRINUSE;
		if (!l->port) {
			*l = (struct tcp_listener){port, event, ctx};
			return 0;
		}
	}
	return -ENOSPC;
}

static uint64_t tcp_mix(uint64_t h)
{
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ull;
	h = (h ^ h >> 27) * 0x94d049bb133111ebull;
	return h ^ h >> 31;
}

/*
 * RFC 6528 with a counter of used sequence space in place of a clock, unless isn_clock: two
 * machines that run the same guest on the same input choose the same numbers.
 */
static uint32_t tcp_isn(const struct tcp_stack *s, const struct tcp_seg *peer)
{
	uint64_t h = tcp_mix(s->secret[0] ^ ((uint64_t)peer->src << 32 |
					     (uint32_t)peer->sport << 16 | peer->dport));

	return s->isn_base + (uint32_t)tcp_mix(h ^ s->secret[1]) +
	       (s->isn_clock ? (uint32_t)(s->nif->now >> 6) : 0);
}

static bool tcp_is_unread(const struct tcp_conn *c)
{
	return c->event && c->rcv_len;
}

/* A free slot, or one that only waits: TIME_WAIT, or half open for long. */
static struct tcp_conn *tcp_find_slot(struct tcp_stack *s)
{
	struct tcp_conn *old = NULL;

	for (int i = 0; i < TCP_CONNS; i++) {
		struct tcp_conn *c = &s->conn[i];

		if (c->state == TCP_FREE)
			return c;
		if ((c->state == TCP_TIME_WAIT && !tcp_is_unread(c)) ||
		    (c->state == TCP_SYN_RCVD && c->retries > 1))
			old = c;
	}
	if (old)
		tcp_free(old);
	return old && old->state == TCP_FREE ? old : NULL;
}

struct tcp_conn *tcp_alloc(struct tcp_stack *s, const struct tcp_seg *peer)
{
	struct tcp_conn *c = tcp_find_slot(s);
	uint16_t index;

	if (!c)
		return NULL;
	index = c->index;
	memset(c, 0, sizeof(*c));
	c->stack = s;
	c->index = index;
	c->serial = ++s->next_serial;
	c->rip = peer->src;
	c->rport = peer->sport;
	c->lport = peer->dport;
	c->nodelay = true;
	c->iss = tcp_isn(s, peer);
	c->snd_una = c->iss;
	c->snd_nxt = c->snd_max = c->iss + 1;
	c->recover = c->iss;
	c->mss = 536;
	c->rto = TCP_RTO_INIT;
	c->ssthresh = ~0u;
	c->timer_at = s->nif->now + c->rto;
	return c;
}

void tcp_free(struct tcp_conn *c)
{
	tcp_event_fn *event = c->event;

	c->stack->isn_base += c->snd_max - c->iss + 65536;
	c->state = TCP_FREE;
	c->timer_at = 0;
	c->snd_len = 0;
	c->rcv_len = 0;
	c->event = NULL;
	if (event)
		event(c->ctx, c);
}

static bool tcp_port_used(const struct tcp_stack *s, uint16_t port)
{
	for (int i = 0; i < TCP_CONNS; i++)
		if (s->conn[i].state != TCP_FREE && s->conn[i].lport == port)
			return true;
	return false;
}

struct tcp_conn *tcp_connect(struct tcp_stack *s, uint32_t ip, uint16_t port, tcp_event_fn *event,
			     void *ctx)
{
	struct tcp_seg peer = {.src = ip, .sport = port};
	struct tcp_conn *c;

	do {
		peer.dport = s->next_port++;
		if (s->next_port < TCP_PORT_FIRST)
			s->next_port = TCP_PORT_FIRST;
	} while (tcp_port_used(s, peer.dport)); /* there are more ports than slots */
	c = tcp_alloc(s, &peer);
	if (!c)
		return NULL;
	c->event = event;
	c->ctx = ctx;
	c->state = TCP_SYN_SENT;
	tcp_out_syn(c);
	return c;
}

void tcp_shutdown(struct tcp_conn *c)
{
	switch (c->state) {
	case TCP_ESTABLISHED:
		c->fin_queued = true;
		c->state = TCP_FIN_WAIT_1;
		break;
	case TCP_CLOSE_WAIT:
		c->fin_queued = true;
		c->state = TCP_LAST_ACK;
		break;
	case TCP_SYN_SENT:
	case TCP_SYN_RCVD:
		tcp_abort(c);
		break;
	default:
		break;
	}
}

void tcp_close(struct tcp_conn *c)
{
	c->event = NULL;
	tcp_shutdown(c);
	tcp_buf_discard(c);
	if (c->state == TCP_FIN_WAIT_2)
		c->timer_at = c->stack->nif->now + TCP_ORPHAN_TIME;
}

void tcp_abort(struct tcp_conn *c)
{
	if (c->state == TCP_FREE)
		return;
	c->event = NULL;
	if (c->state != TCP_SYN_SENT && c->state != TCP_TIME_WAIT)
		tcp_out_segment(c, c->snd_max, 0, 0, TCP_RST | TCP_ACK);
	tcp_free(c);
}

void tcp_enter_time_wait(struct tcp_conn *c)
{
	c->state = TCP_TIME_WAIT;
	c->timer_at = c->stack->nif->now + TCP_WAIT_TIME;
}

void tcp_finish(struct tcp_conn *c)
{
	if (tcp_is_unread(c))
		tcp_enter_time_wait(c);
	else
		tcp_free(c);
}

static void tcp_timer(struct tcp_conn *c)
{
	if (c->state == TCP_TIME_WAIT || c->state == TCP_FIN_WAIT_2)
		tcp_finish(c);
	else
		tcp_out_timeout(c);
}

void tcp_poll(struct tcp_stack *s)
{
	for (int i = 0; i < TCP_CONNS; i++) {
		struct tcp_conn *c = &s->conn[i];

		if (c->state == TCP_FREE)
			continue;
		if (c->timer_at && s->nif->now >= c->timer_at)
			tcp_timer(c);
		tcp_out_flush(c);
	}
}

bool tcp_is_busy(const struct tcp_stack *s)
{
	for (int i = 0; i < TCP_CONNS; i++)
		if (s->conn[i].state != TCP_FREE && s->conn[i].timer_at)
			return true;
	return false;
}
