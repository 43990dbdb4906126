#include "net/compare_tcp.h"

#include <string.h>

#include "net/compare_flow.h"

#define CLOCK_SLACK (1u << 14) /* of timestamps: they count milliseconds, or less often */

/* The bytes of it as SYN and FIN are; what they are is compared by their places. */
static const uint8_t mark[1] = {0};

static uint32_t length_of(const struct packet *p)
{
	return p->len + !!(p->flags & PACKET_SYN) + !!(p->flags & PACKET_FIN);
}

static void tell(struct compare *c, const struct compare_flow *f, int side, enum compare_why why,
		 const struct compare_piece *x)
{
	uint8_t known[COMPARE_SHOWN];
	uint32_t n = f->tcp.placed ? window_peek(&f->tcp.w, x->pos, known, sizeof(known)) : 0;
	struct compare_place at = {.why = why, .offset = (uint32_t)(x->pos - f->tcp.first)};

	if (why != COMPARE_BYTES) /* then it may be of the same side */
		n = 0;
	at.ours = side == WINDOW_OURS ? x->data : known;
	at.nours = side == WINDOW_OURS ? x->len : n;
	at.theirs = side == WINDOW_OURS ? known : x->data;
	at.ntheirs = side == WINDOW_OURS ? n : x->len;
	compare_tell(c, &f->key, &at);
}

static void place(struct compare_tcp *t, uint32_t pos)
{
	window_start(&t->w, pos);
	t->first = t->sent = pos;
	t->placed = true;
}

/* A new connection between the same ends; the room for its bytes stays. */
static void restart(struct compare_tcp *t)
{
	struct compare_tcp was = *t;

	memset(t, 0, sizeof(*t));
	t->w = was.w;
	for (int s = 0; s < 2; s++) {
		t->side[s].has_last = was.side[s].syn || was.side[s].has_last;
		t->side[s].last = was.side[s].syn ? was.side[s].zero : was.side[s].last;
	}
	place(t, 0);
}

/*
 * Theirs to ours. Two that read one clock at different moments are not apart by much; offsets of
 * connections are, as they are random.
 */
static uint32_t timestamps_apart(const struct compare_tcp_side *ours,
				 const struct compare_tcp_side *theirs)
{
	uint32_t by = ours->tsval - theirs->tsval;

	if (!(ours->options & theirs->options & PACKET_TSVAL) ||
	    by + CLOCK_SLACK - 1 < 2 * CLOCK_SLACK - 1)
		return 0;
	return by;
}

static void tell_mapping(struct compare *c, const struct compare_flow *f)
{
	const struct compare_tcp_side *ours = &f->tcp.side[WINDOW_OURS],
				      *theirs = &f->tcp.side[WINDOW_THEIRS];
	struct compare_mapping m = {
		.delta = theirs->zero - ours->zero,
		.ts_delta = timestamps_apart(ours, theirs),
		.fixed = (ours->options | theirs->options) & PACKET_FIXED,
	};

	if (c->ops->mapped)
		c->ops->mapped(c->arg, &f->key, &m);
}

static enum compare_why take_syn(struct compare *c, struct compare_flow *f, int side,
				 const struct packet *p)
{
	struct compare_tcp *t = &f->tcp;
	struct compare_tcp_side *me = &t->side[side], *other = &t->side[!side];
	uint8_t syn = p->flags & (PACKET_SYN | PACKET_ACK);

	if (me->syn && me->zero == p->seq)
		return me->syn == syn ? COMPARE_EQUAL : COMPARE_FLAGS;
	if (me->syn || !other->syn) {
		/* Not beside the one before, which is not through. */
		if (!TAILQ_EMPTY(&f->waiting) || f->ahead)
			return COMPARE_FLAGS;
		restart(t);
	}
	me->syn = syn;
	me->zero = p->seq;
	me->options = p->options;
	me->tsval = p->tsval;
	if (!other->syn)
		return COMPARE_EQUAL;
	if (other->syn != syn)
		return COMPARE_FLAGS;
	tell_mapping(c, f);
	return COMPARE_EQUAL;
}

static bool is_late_syn(const struct compare_tcp_side *me, const struct packet *p)
{
	return (p->flags & PACKET_SYN) && me->has_last && me->last == p->seq &&
	       !(me->syn && me->zero == p->seq);
}

/* Of the connection before the one that the other side, or both have begun. */
static bool is_stale(const struct compare_tcp *t, int side, const struct packet *p)
{
	return is_late_syn(&t->side[side], p) ||
	       (!(p->flags & PACKET_SYN) && t->side[!side].syn && !t->side[side].syn);
}

/* Nobody puts bytes behind an end, nor an end before bytes. */
static bool ends_agree(const struct compare_tcp *t, uint32_t end, bool fin)
{
	for (int s = 0; s < 2; s++) {
		const struct compare_tcp_side *side = &t->side[s];

		if (side->has_fin ? pos_before(side->fin, end) || (fin && side->fin != end)
				  : fin && pos_before(end, spans_top(&t->w.have[s])))
			return false;
	}
	return true;
}

static void take_ack(struct compare_tcp_side *me, const struct packet *p)
{
	if (!(p->flags & PACKET_ACK) || (me->has_ack && !pos_before(me->ack, p->ack)))
		return;
	me->ack = p->ack;
	me->has_ack = true;
}

/* SYN, payload and FIN at x->pos. Where something is wrong x says where. */
static enum compare_why take_bytes(struct compare *c, struct compare_flow *f, int side,
				   const struct packet *p, struct compare_piece *x)
{
	struct compare_tcp *t = &f->tcp;
	bool fin = p->flags & PACKET_FIN;
	enum compare_why why;

	if (p->flags & PACKET_SYN) {
		*x = (struct compare_piece){x->pos, mark, 1};
		why = compare_room_put(c, f, side, x);
		if (why)
			return why;
		x->pos = 1;
	}
	*x = (struct compare_piece){x->pos, p->data, p->len};
	if (!ends_agree(t, x->pos + p->len, fin))
		return COMPARE_FLAGS;
	why = compare_room_put(c, f, side, x);
	if (why || !fin)
		return why;
	t->side[side].has_fin = true;
	t->side[side].fin = p->seq - t->side[side].zero + length_of(p) - 1;
	*x = (struct compare_piece){t->side[side].fin, mark, 1};
	return compare_room_put(c, f, side, x);
}

/* What a side says. *s: what that would need to be released. */
static enum compare_why take(struct compare *c, struct compare_flow *f, int side,
			     const struct packet *p, struct compare_segment *s)
{
	struct compare_tcp *t = &f->tcp;
	struct compare_tcp_side *me = &t->side[side];
	enum compare_why why = p->flags & PACKET_SYN ? take_syn(c, f, side, p) : COMPARE_EQUAL;
	struct compare_piece x = {why ? t->first : p->seq - me->zero, p->data, p->len};

	memset(s, 0, sizeof(*s));
	s->from = s->to = x.pos;
	s->rst = p->flags & PACKET_RST;
	if (!why && s->rst) {
		me->rst = true;
		s->never = p->len; /* bytes that belong to no stream */
		return why;
	}
	if (!why) {
		take_ack(me, p);
		s->has_ack = p->flags & PACKET_ACK;
		s->ack = p->ack;
	}
	if (!why && length_of(p)) {
		if (!t->placed)
			place(t, x.pos);
		me->has_bytes = true;
		s->to += length_of(p);
		/* What the client has, it throws away unread: it does not matter. */
		if (pos_before(s->from, t->w.base))
			s->never = !t->has_acked || pos_before(t->acked, pos_min(s->to, t->w.base));
		why = take_bytes(c, f, side, p, &x);
	}
	if (why)
		tell(c, f, side, why, &x);
	return why;
}

/* After a difference only what ours says counts: at the checkpoint it is what both have said. */
static void learn(struct compare *c, struct compare_flow *f, const struct packet *p)
{
	struct compare_tcp *t = &f->tcp;
	struct compare_tcp_side *me = &t->side[WINDOW_OURS];
	uint32_t pos;

	if (is_late_syn(me, p))
		return;
	if (p->flags & PACKET_SYN && !(me->syn && me->zero == p->seq)) {
		restart(t);
		me->syn = p->flags & (PACKET_SYN | PACKET_ACK);
		me->zero = p->seq;
	}
	if (p->flags & PACKET_RST) {
		me->rst = true;
		return;
	}
	take_ack(me, p);
	if (!length_of(p))
		return;
	pos = p->seq - me->zero;
	if (!me->has_bytes) /* what theirs has said is void */
		place(t, pos);
	me->has_bytes = true;
	if (p->flags & PACKET_SYN)
		compare_room_write(c, f, (struct compare_piece){pos++, mark, 1});
	compare_room_write(c, f, (struct compare_piece){pos, p->data, p->len});
	if (p->flags & PACKET_FIN) {
		me->has_fin = true;
		me->fin = pos + p->len;
		compare_room_write(c, f, (struct compare_piece){me->fin, mark, 1});
	}
}

/* Bytes that only theirs has said may be ours yet, however much a client seems to be gone. */
static void settle(struct compare *c, struct compare_flow *f, bool moved, uint64_t now)
{
	const struct window *w = &f->tcp.w;

	compare_flow_set_ahead(c, f, compare_tcp_is_ahead(&f->tcp), moved, now);
	if (w->size && compare_tcp_is_over(&f->tcp) && TAILQ_EMPTY(&f->waiting) && !f->ahead &&
	    !pos_before(spans_top(&w->have[WINDOW_OURS]), spans_top(&w->have[WINDOW_THEIRS])))
		compare_room_free(c, f);
}

void compare_tcp_ours(struct compare *c, struct compare_flow *f, const struct packet *p,
		      void *cookie, uint64_t now)
{
	uint32_t top = spans_top(&f->tcp.w.have[WINDOW_OURS]);
	struct compare_segment s = {.never = true};
	struct compare_held *h;

	if (!(p->flags & PACKET_RST))
		f->tcp.client_rst = false; /* ours did not believe it */
	if (c->differs || (!is_stale(&f->tcp, WINDOW_OURS, p) && take(c, f, WINDOW_OURS, p, &s))) {
		learn(c, f, p);
		return;
	}
	if (TAILQ_EMPTY(&f->waiting) && compare_tcp_may_leave(&f->tcp, &s)) {
		compare_flow_pass(c, cookie);
	} else {
		h = compare_flow_hold(c, f, cookie, now);
		if (!h) {
			tell(c, f, WINDOW_OURS, COMPARE_FULL,
			     &(struct compare_piece){s.from, p->data, p->len});
			return;
		}
		h->segment = s;
	}
	settle(c, f, top != spans_top(&f->tcp.w.have[WINDOW_OURS]), now);
}

void compare_tcp_theirs(struct compare *c, struct compare_flow *f, const struct packet *p,
			uint64_t now)
{
	struct compare_segment s;

	if (c->differs || is_stale(&f->tcp, WINDOW_THEIRS, p) || take(c, f, WINDOW_THEIRS, p, &s))
		return;
	while (!TAILQ_EMPTY(&f->waiting) &&
	       compare_tcp_may_leave(&f->tcp, &TAILQ_FIRST(&f->waiting)->segment))
		compare_flow_let(c, f);
	settle(c, f, false, now);
}

void compare_tcp_input(struct compare *c, struct compare_flow *f, const struct packet *p)
{
	struct compare_tcp *t = &f->tcp;
	uint32_t pos = p->ack - t->side[WINDOW_OURS].zero;

	/* It does not stay behind: come round, it would be ahead of what was released. */
	if (pos_before(t->sent, window_both(&t->w)))
		t->sent = window_both(&t->w);
	if (t->side[WINDOW_THEIRS].syn && !t->side[WINDOW_OURS].syn)
		return;
	/* Nobody has what was not released: that would be an answer to something else. */
	if (p->flags & PACKET_ACK && t->placed && !pos_before(t->sent, pos) &&
	    (!t->has_acked || pos_before(t->acked, pos))) {
		t->has_acked = true;
		t->acked = pos;
		window_skip(&t->w, pos);
	}
	if (p->flags & PACKET_FIN)
		t->client_fin = true;
	if (p->flags & PACKET_RST && t->side[WINDOW_OURS].has_ack &&
	    p->seq - t->side[WINDOW_OURS].ack < PACKET_RESET_WINDOW)
		t->client_rst = true;
	if (!c->differs)
		settle(c, f, false, f->ahead_ns);
}

bool compare_tcp_reset(struct compare_flow *f)
{
	struct compare_tcp *t = &f->tcp;
	const struct compare_tcp_side *ours = &t->side[WINDOW_OURS];

	t->placed = ours->has_bytes;
	t->sent = spans_top(&t->w.have[WINDOW_OURS]);
	t->client_rst = false;
	t->side[WINDOW_THEIRS] = *ours;
	t->w.have[WINDOW_THEIRS] = t->w.have[WINDOW_OURS];
	return ours->has_bytes || ours->has_ack || ours->rst;
}

void compare_stream_place(const struct compare_flow *f, int side, struct packet *p)
{
	p->seq = f->tcp.w.have[side].edge;
}

void compare_stream_skip(struct compare_flow *f)
{
	window_skip(&f->tcp.w, window_both(&f->tcp.w));
}
