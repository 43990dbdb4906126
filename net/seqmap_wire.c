/* A map as bytes: a number of connections, then those, ascending by flow. Little-endian. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/seqmap.h"
#include "vmm/machine/machine.h"

struct wire_conn {
	struct seqmap_flow flow;
	uint8_t seen, pad;
	uint32_t delta, ts_delta;
	uint32_t acked, fin_out, fin_in; /* 0: not seen */
};

_Static_assert(sizeof(struct wire_conn) == SEQMAP_WIRE_CONN, "no holes");

size_t seqmap_wire_bytes(const struct seqmap *m)
{
	return SEQMAP_WIRE_HEADER + (size_t)m->count * SEQMAP_WIRE_CONN;
}

static int by_flow(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct seqmap_flow));
}

static struct wire_conn to_wire(const struct seqmap_conn *c)
{
	struct wire_conn w;

	memset(&w, 0, sizeof(w));
	w.flow = c->flow;
	w.seen = c->seen;
	w.delta = c->delta;
	w.ts_delta = c->ts_delta;
	w.acked = c->seen & SEQMAP_ACKED ? c->acked : 0;
	w.fin_out = c->seen & SEQMAP_FIN_OUT ? c->fin_out : 0;
	w.fin_in = c->seen & SEQMAP_FIN_IN ? c->fin_in : 0;
	return w;
}

size_t seqmap_encode(const struct seqmap *m, uint8_t *buf)
{
	uint8_t *to = buf + SEQMAP_WIRE_HEADER;

	memcpy(buf, &m->count, SEQMAP_WIRE_HEADER);
	for (uint32_t i = 0; i < m->nbuckets; i++)
		for (uint32_t at = m->buckets[i]; at; at = m->conns[at - 1].next) {
			struct wire_conn w = to_wire(&m->conns[at - 1]);

			memcpy(to, &w, sizeof(w));
			to += sizeof(w);
		}
	qsort(buf + SEQMAP_WIRE_HEADER, m->count, SEQMAP_WIRE_CONN, by_flow);
	return seqmap_wire_bytes(m);
}

static bool flow_is_good(const struct seqmap_flow *f)
{
	static const uint8_t zero[12];

	if (f->nic >= MACHINE_MAX_DEVS || f->vlan[0] > 0xfff || f->vlan[1] > 0xfff ||
	    (f->vlan[1] && !f->vlan[0]))
		return false;
	return f->version == 6 || (f->version == 4 && !memcmp(f->guest + 4, zero, sizeof(zero)) &&
				   !memcmp(f->peer + 4, zero, sizeof(zero)));
}

static bool conn_is_good(const struct wire_conn *w)
{
	if (!flow_is_good(&w->flow) || w->pad || (!w->delta && !w->ts_delta) ||
	    (w->seen & ~SEQMAP_SEEN))
		return false;
	/* What was not seen has no number, and is not acknowledged. */
	if ((!(w->seen & SEQMAP_ACKED) && w->acked) ||
	    (!(w->seen & SEQMAP_FIN_OUT) && (w->fin_out || (w->seen & SEQMAP_FIN_OUT_ACKED))) ||
	    (!(w->seen & SEQMAP_FIN_IN) && (w->fin_in || (w->seen & SEQMAP_FIN_IN_ACKED))))
		return false;
	return true;
}

static struct wire_conn conn_at(const uint8_t *buf, uint32_t i)
{
	struct wire_conn w;

	memcpy(&w, buf + SEQMAP_WIRE_HEADER + (size_t)i * SEQMAP_WIRE_CONN, sizeof(w));
	return w;
}

int seqmap_decode(struct seqmap *m, const uint8_t *buf, size_t len)
{
	struct wire_conn w, before;
	uint32_t count;

	if (len < SEQMAP_WIRE_HEADER)
		return -EBADMSG;
	memcpy(&count, buf, SEQMAP_WIRE_HEADER);
	if (count > SEQMAP_MAX || len != SEQMAP_WIRE_HEADER + (size_t)count * SEQMAP_WIRE_CONN)
		return -EBADMSG;
	if (count > m->limit)
		return -ENOSPC;
	for (uint32_t i = 0; i < count; i++, before = w) {
		w = conn_at(buf, i);
		if (!conn_is_good(&w) || (i && by_flow(&before, &w) >= 0))
			return -EBADMSG;
	}
	seqmap_clear(m);
	for (uint32_t i = 0; i < count; i++) {
		struct seqmap_conn *c;

		w = conn_at(buf, i);
		seqmap_add(m, &w.flow, w.delta, w.ts_delta); /* there is room: counted */
		c = seqmap_find(m, &w.flow);
		c->seen = w.seen;
		c->acked = w.acked;
		c->fin_out = w.fin_out;
		c->fin_in = w.fin_in;
	}
	return 0;
}
