#include "net/seqmap.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "net/packet.h"
#include "net/segment.h"
#include "vmm/base/hash.h"
#include "vmm/base/log.h"

#define OPTION_SACK	 5
#define OPTION_TIMESTAMP 8

/* So much may be on its way before a FIN of the guest, and come again behind it. */
#define SEND_WINDOW (1u << 24)

_Static_assert(sizeof(struct seqmap_flow) == 42, "no holes");

void seqmap_init(struct seqmap *m, uint32_t limit)
{
	VMM_BUG_ON(!limit || limit > SEQMAP_MAX);
	memset(m, 0, sizeof(*m));
	m->limit = limit;
}

static int allocate(struct seqmap *m)
{
	if (getrandom(&m->seed, sizeof(m->seed), 0) != sizeof(m->seed))
		return -EIO;
	for (m->nbuckets = 1; m->nbuckets < m->limit; m->nbuckets *= 2)
		;
	m->conns = calloc(m->limit, sizeof(*m->conns));
	m->buckets = calloc(m->nbuckets, sizeof(*m->buckets));
	if (m->conns && m->buckets)
		return 0;
	free(m->conns);
	free(m->buckets);
	m->conns = NULL;
	m->buckets = NULL;
	m->nbuckets = 0;
	return -ENOMEM;
}

void seqmap_done(struct seqmap *m)
{
	free(m->conns);
	free(m->buckets);
	memset(m, 0, sizeof(*m));
}

static uint32_t *bucket_of(const struct seqmap *m, const struct seqmap_flow *flow)
{
	uint64_t hash = XXH3_64bits_withSeed(flow, sizeof(*flow), m->seed);

	return &m->buckets[hash & (m->nbuckets - 1)];
}

/* Where the chain says the connection, or where it ends. */
static uint32_t *link_of(const struct seqmap *m, const struct seqmap_flow *flow)
{
	uint32_t *link = bucket_of(m, flow);

	while (*link && memcmp(&m->conns[*link - 1].flow, flow, sizeof(*flow)))
		link = &m->conns[*link - 1].next;
	return link;
}

struct seqmap_conn *seqmap_find(const struct seqmap *m, const struct seqmap_flow *flow)
{
	uint32_t at = m->count ? *link_of(m, flow) : 0;

	return at ? &m->conns[at - 1] : NULL;
}

/* The connection that *link says. */
static void forget(struct seqmap *m, uint32_t *link)
{
	uint32_t at = *link;
	struct seqmap_conn *c = &m->conns[at - 1];

	*link = c->next;
	c->next = m->unused;
	m->unused = at;
	m->count--;
}

void seqmap_clear(struct seqmap *m)
{
	for (uint32_t i = 0; i < m->nbuckets && m->count; i++)
		while (m->buckets[i])
			forget(m, &m->buckets[i]);
}

/* An unused one: index + 1, or 0. */
static uint32_t take_unused(struct seqmap *m)
{
	uint32_t at = m->unused;

	if (at)
		m->unused = m->conns[at - 1].next;
	else if (m->fresh < m->limit)
		at = ++m->fresh;
	return at;
}

static bool has_ended(const struct seqmap_conn *c)
{
	const uint8_t fins = SEQMAP_FIN_IN_ACKED | SEQMAP_FIN_OUT_ACKED;

	return (c->seen & SEQMAP_RESET) || (c->seen & fins) == fins;
}

static int by_flow(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct seqmap_flow));
}

/* One that has, before its time: the first by flow, however a map is hashed. False: there is none.
 */
static bool forget_ended(struct seqmap *m)
{
	const struct seqmap_conn *first = NULL;

	for (uint32_t i = 0; i < m->nbuckets; i++)
		for (uint32_t at = m->buckets[i]; at; at = m->conns[at - 1].next) {
			const struct seqmap_conn *c = &m->conns[at - 1];

			if (has_ended(c) && (!first || by_flow(c, first) < 0))
				first = c;
		}
	if (first)
		forget(m, link_of(m, &first->flow));
	return first != NULL;
}

uint32_t seqmap_room(const struct seqmap *m)
{
	uint32_t room = m->limit - m->count;

	for (uint32_t i = 0; i < m->nbuckets; i++)
		for (uint32_t at = m->buckets[i]; at; at = m->conns[at - 1].next)
			room += has_ended(&m->conns[at - 1]);
	return room;
}

int seqmap_put(struct seqmap *m, const struct seqmap_conn *c)
{
	int r = m->conns ? 0 : allocate(m);
	struct seqmap_conn *old;
	uint32_t *link, at, next;

	if (r)
		return r;
	link = link_of(m, &c->flow);
	if (!c->delta && !c->ts_delta) {
		if (*link)
			forget(m, link);
		return 0;
	}
	at = *link;
	if (!at) {
		if (m->count == m->limit && !forget_ended(m))
			return -ENOSPC;
		link = link_of(m, &c->flow); /* it may have been in that one */
		at = take_unused(m);
		*link = at;
		m->count++;
		m->conns[at - 1].next = 0;
	}
	old = &m->conns[at - 1];
	next = old->next;
	*old = *c;
	old->next = next;
	old->quiet_ns = 0;
	return 0;
}

int seqmap_set(struct seqmap *m, const struct seqmap_flow *flow, uint32_t delta, uint32_t ts_delta)
{
	struct seqmap_conn c = {.flow = *flow, .delta = delta, .ts_delta = ts_delta};

	return seqmap_put(m, &c);
}

/* Whatever was seen of one before with these ends: it is not to make room for others. */
static void let_go_on(struct seqmap *m, const struct seqmap *by)
{
	for (uint32_t i = 0; i < by->nbuckets; i++)
		for (uint32_t at = by->buckets[i]; at; at = by->conns[at - 1].next) {
			struct seqmap_conn *c = seqmap_find(m, &by->conns[at - 1].flow);

			if (c)
				c->seen = 0;
		}
}

static int add_one(struct seqmap *m, const struct seqmap_conn *by)
{
	const struct seqmap_conn *c = seqmap_find(m, &by->flow);
	struct seqmap_conn sum = *by;

	if (c) {
		sum.delta += c->delta;
		sum.ts_delta += c->ts_delta;
		sum.fin_out -= c->delta; /* by's client is m's guest */
	}
	return seqmap_put(m, &sum);
}

int seqmap_add_all(struct seqmap *m, const struct seqmap *by)
{
	int first = 0;

	let_go_on(m, by);
	for (uint32_t i = 0; i < by->nbuckets; i++)
		for (uint32_t at = by->buckets[i]; at; at = by->conns[at - 1].next) {
			int r = add_one(m, &by->conns[at - 1]);

			first = first ? first : r;
		}
	return first;
}

uint32_t seqmap_list(const struct seqmap *m, struct seqmap_conn *ret)
{
	uint32_t n = 0;

	_Static_assert(offsetof(struct seqmap_conn, flow) == 0, "its order");
	for (uint32_t i = 0; i < m->nbuckets; i++)
		for (uint32_t at = m->buckets[i]; at; at = m->conns[at - 1].next)
			ret[n++] = m->conns[at - 1];
	qsort(ret, n, sizeof(*ret), by_flow);
	return n;
}

static struct seqmap_conn *conn_of(const struct seqmap *m, const struct segment *s,
				   bool guest_is_src)
{
	struct seqmap_flow flow = {.version = s->version,
				   .guest_port = guest_is_src ? s->sport : s->dport,
				   .peer_port = guest_is_src ? s->dport : s->sport,
				   .vlan = {s->vlan[0], s->vlan[1]}};

	memcpy(flow.guest, guest_is_src ? s->src : s->dst, sizeof(flow.guest));
	memcpy(flow.peer, guest_is_src ? s->dst : s->src, sizeof(flow.peer));
	return seqmap_find(m, &flow);
}

/* A state that is taken over may know the end of a connection, and not that another has begun. */
static bool is_of_another(const struct seqmap_conn *c, const struct segment *s)
{
	return (s->flags & SEGMENT_SYN) || ((c->seen & SEQMAP_FIN_OUT) &&
					    c->fin_out - segment_get(s, SEGMENT_SEQ) > SEND_WINDOW);
}

/* What the guest says is so, but for a reset of another connection with these addresses. */
static void learn_out(struct seqmap_conn *c, const struct segment *s)
{
	uint32_t ack = segment_get(s, SEGMENT_ACK);
	uint32_t end = segment_get(s, SEGMENT_SEQ) + s->payload + 1;

	c->quiet_ns = 0;
	if (s->flags & SEGMENT_RST) {
		c->seen |= SEQMAP_RESET;
		return;
	}
	c->seen &= (uint8_t)~SEQMAP_RESET;
	if (is_of_another(c, s))
		c->seen = 0;
	if (s->flags & SEGMENT_HAS_ACK) {
		c->seen |= SEQMAP_ACKED;
		c->acked = ack;
		if ((c->seen & SEQMAP_FIN_IN) && ack == c->fin_in)
			c->seen |= SEQMAP_FIN_IN_ACKED;
	}
	if ((s->flags & SEGMENT_FIN) && s->whole) {
		if (end != c->fin_out)
			c->seen &= (uint8_t)~SEQMAP_FIN_OUT_ACKED;
		c->seen |= SEQMAP_FIN_OUT;
		c->fin_out = end;
	}
}

/* What comes in may be anybody's: it counts with the right numbers only. */
static void learn_in(struct seqmap_conn *c, const struct segment *s)
{
	uint32_t seq = segment_get(s, SEGMENT_SEQ), ack = segment_get(s, SEGMENT_ACK);

	c->quiet_ns = 0;
	if (s->flags & SEGMENT_RST) {
		if ((c->seen & SEQMAP_ACKED) && seq - c->acked < PACKET_RESET_WINDOW)
			c->seen |= SEQMAP_RESET;
		return;
	}
	if ((s->flags & SEGMENT_HAS_ACK) && (c->seen & SEQMAP_FIN_OUT) && ack == c->fin_out)
		c->seen |= SEQMAP_FIN_OUT_ACKED;
	if ((s->flags & SEGMENT_FIN) && s->whole) {
		c->seen |= SEQMAP_FIN_IN;
		c->fin_in = seq + s->payload + 1;
	}
}

static bool is_timestamp(unsigned kind, unsigned bytes)
{
	return kind == OPTION_TIMESTAMP && bytes == 10;
}

/* That of a frame of the guest; *s gets the client's numbers. */
static struct seqmap_conn *conn_out(struct seqmap *m, struct segment *s, uint8_t *frame,
				    uint32_t len)
{
	struct seqmap_conn *c;

	if (!m->count || !segment_find(s, frame, len) || s->quoted)
		return NULL;
	c = conn_of(m, s, true);
	if (c)
		segment_add(s, SEGMENT_SEQ, -c->delta);
	return c;
}

void seqmap_see(struct seqmap *m, const uint8_t *frame, uint32_t len)
{
	struct segment s;
	struct seqmap_conn *c = conn_out(m, &s, (uint8_t *)frame, len); /* only read */

	if (c)
		learn_out(c, &s);
}

bool seqmap_out(struct seqmap *m, uint8_t *frame, uint32_t len)
{
	unsigned at = SEGMENT_OPTIONS, kind, bytes;
	struct segment s;
	struct seqmap_conn *c = conn_out(m, &s, frame, len);

	if (!c)
		return false;
	while ((kind = segment_option(&s, &at, &bytes)))
		if (is_timestamp(kind, bytes))
			segment_add(&s, at - 8, c->ts_delta);
	segment_put(&s);
	learn_out(c, &s);
	return true;
}

/* What acknowledges bytes of the guest, and echoes its clock. */
static void change_acks(const struct seqmap_conn *c, struct segment *s)
{
	unsigned at = SEGMENT_OPTIONS, kind, bytes;

	segment_add(s, SEGMENT_ACK, c->delta);
	while ((kind = segment_option(s, &at, &bytes))) {
		if (is_timestamp(kind, bytes))
			segment_add(s, at - 4, -c->ts_delta);
		if (kind == OPTION_SACK && bytes > 2 && (bytes - 2) % 8 == 0)
			for (unsigned edge = at - bytes + 2; edge < at; edge += 4)
				segment_add(s, edge, c->delta);
	}
}

bool seqmap_in(struct seqmap *m, uint8_t *frame, uint32_t len)
{
	struct seqmap_conn *c;
	struct segment s;

	if (!m->count || !segment_find(&s, frame, len))
		return false;
	c = conn_of(m, &s, s.quoted);
	if (!c)
		return false;
	if (s.quoted) {
		segment_add(&s, SEGMENT_SEQ, c->delta);
		segment_put(&s);
		return true;
	}
	learn_in(c, &s);
	if (!(s.flags & SEGMENT_HAS_ACK)) /* the numbers mean nothing */
		return false;
	change_acks(c, &s);
	segment_put(&s);
	return true;
}

static bool is_over(struct seqmap_conn *c, uint64_t now_ns)
{
	if (!c->quiet_ns)
		c->quiet_ns = now_ns;
	return now_ns - c->quiet_ns >= (has_ended(c) ? SEQMAP_LINGER_NS : SEQMAP_IDLE_NS);
}

uint32_t seqmap_tick(struct seqmap *m, uint64_t now_ns)
{
	uint32_t before = m->count;

	for (uint32_t i = 0; i < m->nbuckets && m->count; i++)
		for (uint32_t *link = &m->buckets[i]; *link;) {
			struct seqmap_conn *c = &m->conns[*link - 1];

			if (is_over(c, now_ns))
				forget(m, link);
			else
				link = &c->next;
		}
	return before - m->count;
}
