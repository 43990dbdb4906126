/* What output of a connection waits for, and what there is to wait for. */
#include "net/compare_flow.h"

bool compare_tcp_may_leave(const struct compare_tcp *t, const struct compare_segment *s)
{
	const struct compare_tcp_side *theirs = &t->side[WINDOW_THEIRS];
	uint32_t from = pos_max(s->from, t->w.base);

	if (s->never || (s->rst && !theirs->rst))
		return false;
	if (s->has_ack && (!theirs->has_ack || pos_before(theirs->ack, s->ack)))
		return false;
	return s->from == s->to || !pos_before(from, s->to) ||
	       !pos_before(spans_until(&t->w.have[WINDOW_THEIRS], from), s->to);
}

bool compare_tcp_is_ahead(const struct compare_tcp *t)
{
	if (t->client_rst)
		return false;
	return (t->side[WINDOW_THEIRS].rst && !t->side[WINDOW_OURS].rst) ||
	       pos_before(spans_top(&t->w.have[WINDOW_OURS]), spans_top(&t->w.have[WINDOW_THEIRS]));
}

bool compare_tcp_is_over(const struct compare_tcp *t)
{
	const struct compare_tcp_side *ours = &t->side[0], *theirs = &t->side[1];

	return t->client_rst || (ours->rst && theirs->rst) ||
	       (t->client_fin && ours->has_fin && theirs->has_fin &&
		pos_before(ours->fin, t->w.base));
}

bool compare_tcp_idle(const struct compare_flow *f)
{
	const struct compare_tcp_side *ours = &f->tcp.side[0], *theirs = &f->tcp.side[1];

	/* Until the checkpoint nothing else says how their numbers differ. */
	return ours->zero == theirs->zero || compare_tcp_is_over(&f->tcp);
}

void compare_tcp_late(struct compare *c, const struct compare_flow *f, bool ours)
{
	const struct window *w = &f->tcp.w;
	struct compare_place at = {.why = ours ? COMPARE_OVERDUE : COMPARE_EXTRA};
	uint32_t pos = spans_top(&w->have[WINDOW_OURS]), n;
	uint8_t known[COMPARE_SHOWN];

	if (ours) {
		const struct compare_segment *s = &TAILQ_FIRST(&f->waiting)->segment;

		pos = pos_max(s->from, w->base);
		pos = pos_min(spans_until(&w->have[WINDOW_THEIRS], pos), s->to);
	}
	n = window_peek(w, pos, known, sizeof(known));
	at.offset = (uint32_t)(pos - f->tcp.first);
	at.ours = at.theirs = known;
	*(ours ? &at.nours : &at.ntheirs) = n;
	compare_tell(c, &f->key, &at);
}
