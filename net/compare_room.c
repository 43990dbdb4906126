/* The bytes of a connection, and room for them. */
#include <errno.h>

#include "net/compare_flow.h"

#define RING_MIN 4096u

static bool grow(struct compare *c, struct compare_flow *f, uint32_t bytes)
{
	struct window *w = &f->tcp.w;
	uint32_t size = RING_MIN, more;

	while (size < bytes)
		size *= 2;
	more = size - w->size;
	if (!compare_flow_charge(c, f, more))
		return false;
	if (!window_grow(w, size))
		return true;
	compare_flow_uncharge(c, f, more);
	return false;
}

/*
 * Room for [from, to), from at or behind base. What both have said goes first once it is more than
 * history_bytes, never what this is to be compared with.
 */
static bool make_room(struct compare *c, struct compare_flow *f, uint32_t from, uint32_t to)
{
	struct window *w = &f->tcp.w;
	uint32_t all = to - w->base, least = to - pos_min(window_both(w), from), want = all;

	if (all <= w->size)
		return true;
	if (least > c->limits.flow_bytes)
		return false;
	if (want > c->limits.history_bytes)
		want = c->limits.history_bytes > least ? c->limits.history_bytes : least;
	if (want > w->size && !grow(c, f, want) && least > w->size && !grow(c, f, least))
		return false;
	if (all > w->size)
		window_skip(w, to - w->size);
	return true;
}

/* What is before base falls away. false: nothing is left. */
static bool clip(const struct window *w, struct compare_piece *x)
{
	uint32_t skip = w->base - x->pos;

	if (!pos_before(x->pos, w->base))
		return true;
	if (skip >= x->len)
		return false;
	x->pos += skip;
	x->data += skip;
	x->len -= skip;
	return true;
}

enum compare_why compare_room_put(struct compare *c, struct compare_flow *f, int side,
				  struct compare_piece *x)
{
	struct window *w = &f->tcp.w;
	uint32_t at;
	int r;

	if (!x->len || !clip(w, x))
		return COMPARE_EQUAL;
	if (!make_room(c, f, x->pos, x->pos + x->len))
		return COMPARE_FULL;
	r = window_put(w, side, x->pos, x->data, x->len, &at);
	if (r != -EILSEQ)
		return r ? COMPARE_FULL : COMPARE_EQUAL;
	x->pos += at;
	x->data += at;
	x->len -= at;
	return COMPARE_BYTES;
}

void compare_room_write(struct compare *c, struct compare_flow *f, struct compare_piece x)
{
	struct window *w = &f->tcp.w;
	uint32_t to = x.pos + x.len, all, want;

	if (!x.len || !clip(w, &x))
		return;
	all = to - w->base;
	want = all < c->limits.history_bytes ? all : c->limits.history_bytes;
	if (want > w->size)
		grow(c, f, want);
	if (all > w->size)
		window_skip(w, to - w->size);
	if (clip(w, &x))
		window_write(w, x.pos, x.data, x.len);
}

void compare_room_free(struct compare *c, struct compare_flow *f)
{
	compare_flow_uncharge(c, f, f->tcp.w.size);
	window_free(&f->tcp.w);
}
