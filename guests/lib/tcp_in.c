#include <string.h>

#include "guests/lib/ip.h"
#include "guests/lib/tcp_int.h"

#define TCP_CWND_MAX (1u << 20)
#define TCP_MSS_MIN  64

static void tcp_in_options(const uint8_t *p, uint32_t hlen, struct tcp_seg *seg)
{
	seg->mss = 0;
	seg->shift = -1;
	for (uint32_t i = TCP_HDR_LEN; i < hlen && p[i];) {
		if (p[i] == 1) {
			i++;
			continue;
		}
		if (i + 1 >= hlen || p[i + 1] < 2 || i + p[i + 1] > hlen)
			return;
		if (p[i] == 2 && p[i + 1] == 4)
			seg->mss = net_get16(p + i + 2);
		if (p[i] == 3 && p[i + 1] == 3)
			seg->shift = (int8_t)(p[i + 2] < 14 ? p[i + 2] : 14);
		i += p[i + 1];
	}
}

static bool tcp_in_parse(const struct net_if *nif, const struct ip_packet *pkt, struct tcp_seg *seg)
{
	const uint8_t *p = pkt->data;
	uint32_t hlen;
	uint64_t sum;

	if (pkt->len < TCP_HDR_LEN)
		return false;
	hlen = (uint32_t)(p[12] >> 4) * 4;
	if (hlen < TCP_HDR_LEN || hlen > pkt->len)
		return false;
	sum = ip_pseudo_sum(pkt->src, nif->ip, IP_TCP, pkt->len);
	if (net_sum_fold(net_sum(sum, p, pkt->len)))
		return false;
	seg->src = pkt->src;
	seg->sport = net_get16(p);
	seg->dport = net_get16(p + 2);
	seg->seq = net_get32(p + 4);
	seg->ack = net_get32(p + 8);
	seg->flags = p[13] & 0x1f;
	seg->wnd = net_get16(p + 14);
	seg->data = p + hlen;
	seg->len = (uint32_t)pkt->len - hlen;
	tcp_in_options(p, hlen, seg);
	return seg->sport && seg->dport;
}

static struct tcp_conn *tcp_in_find(struct tcp_stack *s, const struct tcp_seg *seg)
{
	for (int i = 0; i < TCP_CONNS; i++) {
		struct tcp_conn *c = &s->conn[i];

		if (c->state != TCP_FREE && c->rport == seg->sport && c->lport == seg->dport &&
		    c->rip == seg->src)
			return c;
	}
	return NULL;
}

/* What both kinds of open learn from the peer's SYN. */
static void tcp_in_take_syn(struct tcp_conn *c, const struct tcp_seg *seg)
{
	c->irs = seg->seq;
	c->rcv_nxt = seg->seq + 1;
	c->rcv_edge = c->rcv_nxt;
	c->snd_wnd = seg->wnd;
	c->snd_wl1 = seg->seq;
	c->snd_wl2 = seg->ack;
	if (seg->mss)
		c->mss = (uint16_t)tcp_max(tcp_min(seg->mss, TCP_MSS), TCP_MSS_MIN);
	c->scale_ok = seg->shift >= 0;
	c->snd_shift = c->scale_ok ? (uint8_t)seg->shift : 0;
}

static void tcp_in_listen(struct tcp_stack *s, const struct tcp_seg *seg)
{
	struct tcp_listener *l = NULL;
	struct tcp_conn *c;

	for (int i = 0; i < TCP_LISTENERS; i++)
		if (s->listener[i].port == seg->dport)
			l = &s->listener[i];
	if (!l || (seg->flags & (TCP_ACK | TCP_RST)) || !(seg->flags & TCP_SYN)) {
		if (!l)
			s->stats.refused++;
		tcp_out_reset(s, seg);
		return;
	}
	c = tcp_alloc(s, seg);
	if (!c) {
		s->stats.refused++;
		return;
	}
	c->event = l->event;
	c->ctx = l->ctx;
	c->state = TCP_SYN_RCVD;
	tcp_in_take_syn(c, seg);
	c->rtt_start = s->nif->now;
	tcp_out_syn(c);
}

/* RFC 6298, 2. */
static void tcp_in_rtt(struct tcp_conn *c)
{
	uint64_t r = c->stack->nif->now - c->rtt_start, d;

	c->rtt_start = 0;
	if (!c->srtt) {
		c->srtt = r ? r : 1;
		c->rttvar = r / 2;
	} else {
		d = c->srtt > r ? c->srtt - r : r - c->srtt;
		c->rttvar = (3 * c->rttvar + d) / 4;
		c->srtt = (7 * c->srtt + r) / 8;
	}
}

static void tcp_in_set_rto(struct tcp_conn *c)
{
	if (!c->srtt)
		return;
	c->rto = c->srtt + 4 * c->rttvar;
	if (c->rto < TCP_RTO_MIN)
		c->rto = TCP_RTO_MIN;
	if (c->rto > TCP_RTO_MAX)
		c->rto = TCP_RTO_MAX;
}

static void tcp_in_established(struct tcp_conn *c, const struct tcp_seg *seg)
{
	c->state = TCP_ESTABLISHED;
	c->snd_una = seg->ack;
	c->snd_wl1 = seg->seq;
	c->snd_wl2 = seg->ack;
	/* The window of a SYN is never scaled. */
	c->snd_wnd = seg->wnd << (seg->flags & TCP_SYN ? 0 : c->snd_shift);
	c->cwnd = 10u * c->mss;
	if (!c->retries && c->rtt_start)
		tcp_in_rtt(c);
	c->rtt_start = 0;
	tcp_in_set_rto(c);
	c->retries = 0;
	c->timer_at = 0;
	c->tell = true;
}

static void tcp_in_syn_sent(struct tcp_conn *c, const struct tcp_seg *seg)
{
	if ((seg->flags & TCP_ACK) && seg->ack != c->snd_max) {
		tcp_out_reset(c->stack, seg);
		return;
	}
	if (seg->flags & TCP_RST) {
		if (seg->flags & TCP_ACK)
			tcp_free(c);
		return;
	}
	if ((seg->flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK))
		return;
	tcp_in_take_syn(c, seg);
	tcp_in_established(c, seg);
	c->ack_now = true;
}

/* Cuts the segment to what is new and fits; false if nothing of it may be looked at. */
static bool tcp_in_trim(struct tcp_conn *c, struct tcp_seg *seg)
{
	uint32_t edge = c->rcv_nxt + tcp_buf_space(c);
	int32_t old = tcp_cmp(c->rcv_nxt, seg->seq);

	if (old > 0) {
		c->ack_now = true;
		if (seg->len + !!(seg->flags & TCP_FIN) <= (uint32_t)old) {
			seg->len = 0;
			seg->flags &= ~(uint32_t)TCP_FIN;
		} else {
			seg->data += old;
			seg->len -= (uint32_t)old;
		}
		seg->seq = c->rcv_nxt;
	}
	if (tcp_cmp(seg->seq, edge) > 0) {
		c->ack_now = true;
		return false;
	}
	if (seg->len > edge - seg->seq) {
		seg->len = edge - seg->seq;
		seg->flags &= ~(uint32_t)TCP_FIN;
		c->ack_now = true;
	}
	return true;
}

static void tcp_in_dup_ack(struct tcp_conn *c)
{
	c->dupacks++;
	if (c->recovering) {
		c->cwnd = tcp_min(c->cwnd + c->mss, TCP_CWND_MAX);
	} else if (c->dupacks == 3 && tcp_cmp(c->snd_una, c->recover) >= 0) {
		c->ssthresh = tcp_max((c->snd_max - c->snd_una) / 2, 2u * c->mss);
		c->cwnd = c->ssthresh + 3u * c->mss;
		c->recovering = true;
		c->recover = c->snd_max;
		tcp_out_rexmit(c);
		tcp_out_rearm(c);
	}
}

static void tcp_in_congestion(struct tcp_conn *c, uint32_t acked)
{
	c->dupacks = 0;
	if (c->recovering && tcp_cmp(c->snd_una, c->recover) >= 0) {
		c->recovering = false;
		c->cwnd = c->ssthresh;
	} else if (c->recovering) {
		tcp_out_rexmit(c);
		c->cwnd = c->cwnd - tcp_min(acked, c->cwnd) + c->mss;
	} else if (c->cwnd < c->ssthresh) {
		c->cwnd = tcp_min(c->cwnd + acked, TCP_CWND_MAX);
	} else {
		c->cwnd = tcp_min(c->cwnd + tcp_max((uint32_t)c->mss * c->mss / c->cwnd, 1),
				  TCP_CWND_MAX);
	}
}

static void tcp_in_new_ack(struct tcp_conn *c, uint32_t ack)
{
	uint32_t acked = ack - c->snd_una;

	if (acked > c->snd_len)
		c->fin_acked = true;
	tcp_buf_drop_snd(c, tcp_min(acked, c->snd_len));
	c->snd_una = ack;
	if (tcp_cmp(c->snd_nxt, ack) < 0)
		c->snd_nxt = ack;
	if (c->rtt_start && tcp_cmp(ack, c->rtt_seq) >= 0)
		tcp_in_rtt(c);
	tcp_in_set_rto(c);
	tcp_in_congestion(c, acked);
	tcp_out_rearm(c);
	c->tell = true;
	if (!c->fin_acked)
		return;
	if (c->state == TCP_FIN_WAIT_1) {
		c->state = TCP_FIN_WAIT_2;
		c->timer_at = c->event ? 0 : c->stack->nif->now + TCP_ORPHAN_TIME;
	} else if (c->state == TCP_CLOSING) {
		tcp_enter_time_wait(c);
	} else if (c->state == TCP_LAST_ACK) {
		tcp_finish(c);
	}
}

/* False if the segment acknowledges what was never sent. */
static bool tcp_in_ack(struct tcp_conn *c, const struct tcp_seg *seg, uint32_t seq, bool empty)
{
	uint32_t wnd = seg->wnd << c->snd_shift, old_wnd = c->snd_wnd;
	bool fresh = tcp_cmp(seg->ack, c->snd_una) > 0;

	if (tcp_cmp(seg->ack, c->snd_max) > 0) {
		c->ack_now = true;
		return false;
	}
	if (tcp_cmp(seg->ack, c->snd_una) < 0)
		return true;
	c->retries = 0; /* the peer lives, even if its window stays closed */
	if (fresh || tcp_cmp(seq, c->snd_wl1) > 0 || (seq == c->snd_wl1 && wnd > c->snd_wnd)) {
		c->snd_wnd = wnd;
		c->snd_wl1 = seq;
		c->snd_wl2 = seg->ack;
	}
	if (fresh) {
		tcp_in_new_ack(c, seg->ack);
	} else if (!old_wnd && c->snd_wnd) {
		/* The window opened: what was probed with was thrown away. */
		c->snd_nxt = c->snd_una;
		tcp_in_set_rto(c);
		tcp_out_rearm(c);
	} else if (empty && wnd == old_wnd && wnd && c->snd_max != c->snd_una) {
		tcp_in_dup_ack(c);
	}
	return true;
}

static void tcp_in_fin(struct tcp_conn *c)
{
	c->rcv_nxt++;
	c->fin_seen = true;
	c->ooo_count = 0;
	c->ack_now = true;
	c->tell = true;
	if (c->state == TCP_ESTABLISHED)
		c->state = TCP_CLOSE_WAIT;
	else if (c->state == TCP_FIN_WAIT_1)
		c->state = TCP_CLOSING;
	else if (c->state == TCP_FIN_WAIT_2)
		tcp_enter_time_wait(c);
}

static void tcp_in_data(struct tcp_conn *c, const struct tcp_seg *seg)
{
	if (c->fin_seen)
		return;
	if (seg->len) {
		bool gap = seg->seq != c->rcv_nxt;

		tcp_buf_store(c, seg->seq, seg->data, seg->len);
		c->ack_now = true;
		if (gap) /* each one counts for the peer's fast retransmit */
			tcp_out_segment(c, c->snd_max, 0, 0, TCP_ACK);
	}
	if ((seg->flags & TCP_FIN) && seg->seq + seg->len == c->rcv_nxt)
		tcp_in_fin(c);
	if (tcp_cmp(c->rcv_edge, c->rcv_nxt) < 0)
		c->rcv_edge = c->rcv_nxt;
	if (!c->event)
		tcp_buf_discard(c);
}

/* RFC 9293, 3.10.7.4, with the stricter RST and SYN checks of RFC 5961. */
static void tcp_in_segment(struct tcp_conn *c, struct tcp_seg *seg)
{
	uint64_t serial = c->serial;
	uint32_t seq = seg->seq;
	bool empty = !seg->len && !(seg->flags & TCP_FIN);

	if (seg->flags & TCP_RST) {
		if (seq == c->rcv_nxt) {
			c->stack->stats.resets++;
			tcp_free(c);
		} else if (seq - c->rcv_nxt <= tcp_buf_space(c)) {
			c->ack_now = true;
		}
		return;
	}
	if (seg->flags & TCP_SYN) {
		if (c->state == TCP_SYN_RCVD && seq == c->irs)
			tcp_out_syn(c);
		else
			c->ack_now = true;
		return;
	}
	if (!(seg->flags & TCP_ACK) || !tcp_in_trim(c, seg))
		return;
	if (c->state == TCP_SYN_RCVD) {
		if (seg->ack != c->snd_max) {
			tcp_out_reset(c->stack, seg);
			return;
		}
		tcp_in_established(c, seg);
	} else if (c->state == TCP_TIME_WAIT) {
		if (c->ack_now)
			tcp_enter_time_wait(c);
		return;
	} else if (!tcp_in_ack(c, seg, seq, empty)) {
		return;
	}
	if (c->state != TCP_FREE && c->serial == serial)
		tcp_in_data(c, seg);
}

void tcp_input(struct tcp_stack *s, const struct ip_packet *pkt)
{
	struct tcp_seg seg;
	struct tcp_conn *c;

	if (!tcp_in_parse(s->nif, pkt, &seg)) {
		s->stats.rx_bad++;
		return;
	}
	s->stats.rx_segs++;
	c = tcp_in_find(s, &seg);
	/* RFC 9293, 3.6.1: a new connection may cut the wait of the old one short. */
	if (c && c->state == TCP_TIME_WAIT && (seg.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	    tcp_cmp(seg.seq, c->rcv_nxt) > 0) {
		tcp_free(c);
		c = NULL;
	}
	if (!c) {
		tcp_in_listen(s, &seg);
		return;
	}
	if (c->state == TCP_SYN_SENT)
		tcp_in_syn_sent(c, &seg);
	else
		tcp_in_segment(c, &seg);
	if (c->tell && c->state != TCP_FREE) {
		c->tell = false;
		if (c->event)
			c->event(c->ctx, c);
	}
}
