#include <string.h>

#include "guests/lib/ip.h"
#include "guests/lib/tcp_int.h"

enum tcp_option { TCP_OPT_NOP = 1, TCP_OPT_MSS = 2, TCP_OPT_SCALE = 3 };

/* RFC 9293, 3.8.6.2.2: the right edge moves only by steps worth a packet, and never back. */
static uint32_t tcp_out_window(struct tcp_conn *c)
{
	uint32_t space = tcp_buf_space(c), ahead = c->rcv_edge - c->rcv_nxt;

	if (space >= ahead + TCP_MSS) {
		c->rcv_edge = c->rcv_nxt + space;
		return space;
	}
	return ahead;
}

static void tcp_out_header(uint8_t *p, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack,
			   uint32_t hlen, uint32_t flags, uint32_t wnd)
{
	net_put16(p, sport);
	net_put16(p + 2, dport);
	net_put32(p + 4, seq);
	net_put32(p + 8, flags & TCP_ACK ? ack : 0);
	p[12] = (uint8_t)(hlen / 4 << 4);
	p[13] = (uint8_t)flags;
	net_put16(p + 14, (uint16_t)tcp_min(wnd, 65535));
	net_put32(p + 16, 0);
}

static int tcp_out_ip(struct tcp_stack *s, uint32_t dst, uint8_t *p, uint32_t len)
{
	uint64_t sum = ip_pseudo_sum(s->nif->ip, dst, IP_TCP, len);
	int r;

	net_put16(p + 16, net_sum_fold(net_sum(sum, p, len)));
	r = ip_send(s->nif, dst, IP_TCP, len);
	if (!r)
		s->stats.tx_segs++;
	return r;
}

int tcp_out_segment(struct tcp_conn *c, uint32_t seq, uint32_t off, uint32_t len, uint32_t flags)
{
	uint8_t *p = ip_payload(c->stack->nif);
	uint32_t edge = c->rcv_edge;
	int r;

	tcp_out_header(p, c->lport, c->rport, seq, c->rcv_nxt, TCP_HDR_LEN, flags,
		       flags & TCP_RST ? 0 : tcp_out_window(c));
	if (len)
		tcp_buf_peek_snd(c, off, p + TCP_HDR_LEN, len);
	r = tcp_out_ip(c->stack, c->rip, p, TCP_HDR_LEN + len);
	if (r)
		c->rcv_edge = edge;
	else
		c->ack_now = false;
	return r;
}

void tcp_out_syn(struct tcp_conn *c)
{
	uint8_t *p = ip_payload(c->stack->nif), *o = p + TCP_HDR_LEN;
	uint32_t hlen = TCP_HDR_LEN + 4;

	o[0] = TCP_OPT_MSS;
	o[1] = 4;
	net_put16(o + 2, TCP_MSS);
	if (c->state == TCP_SYN_SENT || c->scale_ok) {
		/* Our own windows fit without scaling: the option lets the peer scale its own. */
		o[4] = TCP_OPT_NOP;
		o[5] = TCP_OPT_SCALE;
		o[6] = 3;
		o[7] = 0;
		hlen += 4;
	}
	tcp_out_header(p, c->lport, c->rport, c->iss, c->rcv_nxt, hlen,
		       c->state == TCP_SYN_SENT ? TCP_SYN : TCP_SYN | TCP_ACK, tcp_buf_space(c));
	c->rcv_edge = c->rcv_nxt + tcp_buf_space(c);
	tcp_out_ip(c->stack, c->rip, p, hlen);
	c->ack_now = false;
}

void tcp_out_reset(struct tcp_stack *s, const struct tcp_seg *seg)
{
	uint8_t *p = ip_payload(s->nif);
	uint32_t end = seg->seq + seg->len + !!(seg->flags & TCP_SYN) + !!(seg->flags & TCP_FIN);

	if (seg->flags & TCP_RST)
		return;
	if (seg->flags & TCP_ACK)
		tcp_out_header(p, seg->dport, seg->sport, seg->ack, 0, TCP_HDR_LEN, TCP_RST, 0);
	else
		tcp_out_header(p, seg->dport, seg->sport, 0, end, TCP_HDR_LEN, TCP_RST | TCP_ACK,
			       0);
	tcp_out_ip(s, seg->src, p, TCP_HDR_LEN);
}

/* The sequence space that is queued: data, and a FIN that was not acknowledged. */
static uint32_t tcp_out_queued(const struct tcp_conn *c)
{
	return c->snd_len + (c->fin_queued && !c->fin_acked);
}

void tcp_out_rearm(struct tcp_conn *c)
{
	c->timer_at = tcp_out_queued(c) ? c->stack->nif->now + c->rto : 0;
}

/* Sends one segment of the queue at `off`; fin says that its FIN goes along. */
static int tcp_out_queue(struct tcp_conn *c, uint32_t off, uint32_t len, bool fin)
{
	uint32_t flags = TCP_ACK, seq = c->snd_una + off, end = seq + len + fin;
	bool fresh = seq == c->snd_max;
	int r;

	if (fin)
		flags |= TCP_FIN;
	if (len && off + len == c->snd_len)
		flags |= TCP_PSH;
	r = tcp_out_segment(c, seq, off, len, flags);
	if (r)
		return r;
	if (fresh && !c->rtt_start) {
		c->rtt_start = c->stack->nif->now;
		c->rtt_seq = end;
	}
	if (tcp_cmp(end, c->snd_max) > 0)
		c->snd_max = end;
	return 0;
}

static void tcp_out_data(struct tcp_conn *c)
{
	uint32_t wnd = tcp_min(c->snd_wnd, c->cwnd);

	for (;;) {
		uint32_t off = c->snd_nxt - c->snd_una, len = 0;
		uint32_t most = c->stack->cut ? c->stack->cut(c->mss) : c->mss;
		bool fin, tail;

		if (off >= tcp_out_queued(c))
			return;
		if (off < c->snd_len && wnd > off)
			len = tcp_min(tcp_min(c->snd_len - off, wnd - off), most);
		tail = off + len == c->snd_len;
		fin = tail && c->fin_queued;
		if (!len && !fin)
			return;
		/* A small segment: only the end of the data, or when nothing else is on its way. */
		if (len < most && off && !fin && !(tail && c->nodelay))
			return;
		if (tcp_out_queue(c, off, len, fin))
			return;
		c->snd_nxt += len + fin;
	}
}

void tcp_out_flush(struct tcp_conn *c)
{
	if (c->state >= TCP_ESTABLISHED && c->state != TCP_TIME_WAIT) {
		tcp_out_data(c);
		if (!c->timer_at && tcp_out_queued(c))
			tcp_out_rearm(c);
	}
	if (c->ack_now && c->state >= TCP_ESTABLISHED)
		tcp_out_segment(c, c->snd_max, 0, 0, TCP_ACK);
}

void tcp_out_rexmit(struct tcp_conn *c)
{
	uint32_t len = tcp_min(c->snd_len, c->mss);
	bool fin = c->fin_queued && !c->fin_acked && len == c->snd_len;

	/* Not beyond what was sent: the rest is the business of the windows. */
	if (len > c->snd_max - c->snd_una) {
		len = c->snd_max - c->snd_una;
		fin = false;
	}
	if (fin && c->snd_una + len + 1 != c->snd_max)
		fin = false;
	if (!len && !fin)
		return;
	c->rtt_start = 0;
	c->stack->stats.rexmit_fast++;
	tcp_out_queue(c, 0, len, fin);
}

static uint32_t tcp_out_max_tries(const struct tcp_conn *c)
{
	switch (c->state) {
	case TCP_SYN_SENT:
	case TCP_SYN_RCVD:
		return TCP_TRIES_OPEN;
	case TCP_FIN_WAIT_1:
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		return c->event ? TCP_TRIES_DATA : TCP_TRIES_CLOSE;
	default:
		return TCP_TRIES_DATA;
	}
}

/* One byte, or the FIN, into a closed window: the answer tells when it opens. */
static void tcp_out_probe(struct tcp_conn *c)
{
	uint32_t len = c->snd_len ? 1 : 0;
	bool fin = !c->snd_len;

	if (!tcp_out_queue(c, 0, len, fin) && c->snd_nxt == c->snd_una)
		c->snd_nxt += len + fin;
}

void tcp_out_timeout(struct tcp_conn *c)
{
	if (c->retries++ >= tcp_out_max_tries(c)) {
		c->stack->stats.resets++;
		if (c->state != TCP_SYN_SENT)
			tcp_out_segment(c, c->snd_max, 0, 0, TCP_RST | TCP_ACK);
		tcp_free(c);
		return;
	}
	c->rto = c->rto * 2 < TCP_RTO_MAX ? c->rto * 2 : TCP_RTO_MAX;
	c->rtt_start = 0; /* Karn: what is sent twice is not timed */
	if (c->state < TCP_ESTABLISHED) {
		tcp_out_syn(c);
	} else if (!c->snd_wnd) {
		tcp_out_probe(c);
	} else {
		c->stack->stats.rexmit_timeout++;
		c->ssthresh = tcp_max((c->snd_max - c->snd_una) / 2, 2u * c->mss);
		c->cwnd = c->mss;
		c->recovering = false;
		c->recover = c->snd_max;
		c->dupacks = 0;
		c->snd_nxt = c->snd_una;
		tcp_out_data(c);
	}
	c->timer_at = c->stack->nif->now + c->rto;
}
