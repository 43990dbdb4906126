#include <string.h>

#include "guests/lib/tcp_int.h"

static void tcp_buf_put(uint8_t *ring, uint32_t size, uint32_t pos, const uint8_t *src,
			uint32_t len)
{
	uint32_t at = pos & (size - 1), first = tcp_min(len, size - at);

	memcpy(ring + at, src, first);
	memcpy(ring, src + first, len - first);
}

static void tcp_buf_get(const uint8_t *ring, uint32_t size, uint32_t pos, uint8_t *dst,
			uint32_t len)
{
	uint32_t at = pos & (size - 1), first = tcp_min(len, size - at);

	memcpy(dst, ring + at, first);
	memcpy(dst + first, ring, len - first);
}

size_t tcp_room(const struct tcp_conn *c)
{
	if (c->fin_queued || (c->state != TCP_ESTABLISHED && c->state != TCP_CLOSE_WAIT))
		return 0;
	return TCP_SND_BUF - c->snd_len;
}

size_t tcp_write(struct tcp_conn *c, const void *buf, size_t len)
{
	size_t room = tcp_room(c);

	if (len > room)
		len = room;
	tcp_buf_put(c->stack->snd[c->index], TCP_SND_BUF, c->snd_head + c->snd_len, buf,
		    (uint32_t)len);
	c->snd_len += (uint32_t)len;
	return len;
}

void tcp_buf_peek_snd(const struct tcp_conn *c, uint32_t off, uint8_t *dst, uint32_t len)
{
	tcp_buf_get(c->stack->snd[c->index], TCP_SND_BUF, c->snd_head + off, dst, len);
}

/* An empty ring starts over at its first byte, so that small exchanges dirty one page only. */
void tcp_buf_drop_snd(struct tcp_conn *c, uint32_t len)
{
	c->snd_len -= len;
	c->snd_head = c->snd_len ? (c->snd_head + len) & (TCP_SND_BUF - 1) : 0;
}

size_t tcp_avail(const struct tcp_conn *c)
{
	return c->rcv_len;
}

bool tcp_eof(const struct tcp_conn *c)
{
	return c->fin_seen && !c->rcv_len;
}

size_t tcp_peek(const struct tcp_conn *c, void *buf, size_t len)
{
	uint32_t n = len < c->rcv_len ? (uint32_t)len : c->rcv_len;

	tcp_buf_get(c->stack->rcv[c->index], TCP_RCV_BUF, c->rcv_head, buf, n);
	return n;
}

size_t tcp_read(struct tcp_conn *c, void *buf, size_t len)
{
	uint32_t n = (uint32_t)tcp_peek(c, buf, len), ahead;

	c->rcv_len -= n;
	c->rcv_head = c->rcv_len || c->ooo_count ? (c->rcv_head + n) & (TCP_RCV_BUF - 1) : 0;
	/* Tell the peer when the window has opened by something worth a packet. */
	ahead = c->rcv_edge - c->rcv_nxt;
	if (!c->fin_seen && tcp_buf_space(c) - ahead >= TCP_RCV_BUF / 4)
		c->ack_now = true;
	return n;
}

void tcp_buf_discard(struct tcp_conn *c)
{
	c->rcv_head = (c->rcv_head + c->rcv_len) & (TCP_RCV_BUF - 1);
	c->rcv_len = 0;
}

uint32_t tcp_buf_space(const struct tcp_conn *c)
{
	return TCP_RCV_BUF - c->rcv_len;
}

/* Adds a range, merged with those it touches; false if there is no room for one more. */
static bool tcp_buf_add_range(struct tcp_conn *c, struct tcp_range r)
{
	struct tcp_range kept[TCP_OOO + 1];
	unsigned n = 0;
	bool placed = false;

	for (unsigned i = 0; i < c->ooo_count; i++) {
		struct tcp_range o = c->ooo[i];

		if (tcp_cmp(o.end, r.start) < 0) {
			kept[n++] = o;
		} else if (tcp_cmp(r.end, o.start) < 0) {
			if (!placed)
				kept[n++] = r;
			placed = true;
			kept[n++] = o;
		} else {
			if (tcp_cmp(o.start, r.start) < 0)
				r.start = o.start;
			if (tcp_cmp(o.end, r.end) > 0)
				r.end = o.end;
		}
	}
	if (!placed)
		kept[n++] = r;
	if (n > TCP_OOO)
		return false;
	memcpy(c->ooo, kept, n * sizeof(kept[0]));
	c->ooo_count = (uint8_t)n;
	return true;
}

void tcp_buf_store(struct tcp_conn *c, uint32_t seq, const uint8_t *data, uint32_t len)
{
	uint32_t off = seq - c->rcv_nxt;

	if (!len || (off && !tcp_buf_add_range(c, (struct tcp_range){seq, seq + len})))
		return;
	tcp_buf_put(c->stack->rcv[c->index], TCP_RCV_BUF, c->rcv_head + c->rcv_len + off, data,
		    len);
	if (off)
		return;
	c->rcv_nxt += len;
	c->rcv_len += len;
	while (c->ooo_count && tcp_cmp(c->ooo[0].start, c->rcv_nxt) <= 0) {
		if (tcp_cmp(c->ooo[0].end, c->rcv_nxt) > 0) {
			c->rcv_len += c->ooo[0].end - c->rcv_nxt;
			c->rcv_nxt = c->ooo[0].end;
		}
		c->ooo_count--;
		memmove(c->ooo, c->ooo + 1, c->ooo_count * sizeof(c->ooo[0]));
	}
	c->tell = true;
}
