#include "net/compare_fifo.h"

#include <stdlib.h>
#include <string.h>

#include "net/compare_flow.h"

struct compare_copy {
	struct compare_copy *next;
	struct compare_view view;
	uint8_t data[];
};

static struct compare_view view_of(const struct packet *p)
{
	return (struct compare_view){p->tag, p->len, p->data};
}

static void tell(struct compare *c, const struct compare_flow *f, enum compare_why why,
		 const struct compare_view *ours, const struct compare_view *theirs)
{
	struct compare_place at = {.why = why};
	uint32_t least = 0;

	if (ours && theirs) {
		least = ours->len < theirs->len ? ours->len : theirs->len;
		while (at.offset < least && ours->data[at.offset] == theirs->data[at.offset])
			at.offset++;
	}
	if (ours) {
		at.ours = ours->data + at.offset;
		at.nours = ours->len - (uint32_t)at.offset;
	}
	if (theirs) {
		at.theirs = theirs->data + at.offset;
		at.ntheirs = theirs->len - (uint32_t)at.offset;
	}
	compare_tell(c, &f->key, &at);
}

static bool same(struct compare *c, const struct compare_flow *f, const struct compare_view *ours,
		 const struct compare_view *theirs)
{
	if (ours->len != theirs->len || memcmp(ours->data, theirs->data, ours->len))
		tell(c, f, COMPARE_BYTES, ours, theirs);
	else if (ours->tag != theirs->tag)
		tell(c, f, COMPARE_FLAGS, ours, theirs);
	else
		return true;
	return false;
}

static void drop_copy(struct compare *c, struct compare_flow *f)
{
	struct compare_copy *copy = f->fifo.first;

	f->fifo.first = copy->next;
	compare_flow_uncharge(c, f, sizeof(*copy) + copy->view.len);
	free(copy);
}

void compare_fifo_clear(struct compare *c, struct compare_flow *f)
{
	while (f->fifo.first)
		drop_copy(c, f);
}

void compare_fifo_ours(struct compare *c, struct compare_flow *f, const struct packet *p,
		       void *cookie, uint64_t now)
{
	struct compare_view ours = view_of(p);
	struct compare_held *h;

	if (c->differs)
		return;
	if (f->fifo.first) {
		if (!same(c, f, &ours, &f->fifo.first->view))
			return;
		drop_copy(c, f);
		compare_flow_set_ahead(c, f, f->fifo.first != NULL, true, now);
		compare_flow_pass(c, cookie);
		return;
	}
	h = compare_flow_hold(c, f, cookie, now);
	if (h)
		h->view = ours;
	else
		tell(c, f, COMPARE_FULL, &ours, NULL);
}

static bool keep_copy(struct compare *c, struct compare_flow *f, const struct compare_view *theirs)
{
	struct compare_copy *copy;

	if (!compare_flow_charge(c, f, sizeof(*copy) + theirs->len))
		return false;
	copy = malloc(sizeof(*copy) + theirs->len);
	if (!copy) {
		compare_flow_uncharge(c, f, sizeof(*copy) + theirs->len);
		return false;
	}
	copy->next = NULL;
	copy->view = (struct compare_view){theirs->tag, theirs->len, copy->data};
	memcpy(copy->data, theirs->data, theirs->len);
	if (f->fifo.first)
		f->fifo.last->next = copy;
	else
		f->fifo.first = copy;
	f->fifo.last = copy;
	return true;
}

void compare_fifo_theirs(struct compare *c, struct compare_flow *f, const struct packet *p,
			 uint64_t now)
{
	struct compare_view theirs = view_of(p);

	if (c->differs)
		return;
	if (!TAILQ_EMPTY(&f->waiting)) {
		if (same(c, f, &TAILQ_FIRST(&f->waiting)->view, &theirs))
			compare_flow_let(c, f);
	} else if (keep_copy(c, f, &theirs)) {
		compare_flow_set_ahead(c, f, true, false, now);
	} else {
		tell(c, f, COMPARE_FULL, NULL, &theirs);
	}
}

void compare_fifo_late(struct compare *c, const struct compare_flow *f, bool ours)
{
	if (ours)
		tell(c, f, COMPARE_OVERDUE, &TAILQ_FIRST(&f->waiting)->view, NULL);
	else
		tell(c, f, COMPARE_EXTRA, NULL, &f->fifo.first->view);
}
