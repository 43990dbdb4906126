#include "ft/epoch/bases.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int bases_init(struct bases *b, uint32_t limit)
{
	memset(b, 0, sizeof(*b));
	for (b->count = 1; b->count * 2 <= limit; b->count *= 2)
		;
	b->slots = calloc(b->count, sizeof(*b->slots));
	return b->slots ? 0 : -ENOMEM;
}

void bases_done(struct bases *b)
{
	free(b->slots);
	memset(b, 0, sizeof(*b));
}

void bases_begin(struct bases *b)
{
	b->capture++;
}

static struct base_slot *slot_of(const struct bases *b, uint64_t page)
{
	return &b->slots[page & (b->count - 1)];
}

static uint8_t *empty(struct base_slot *s)
{
	uint8_t *copy = s->copy;

	s->copy = NULL;
	return copy;
}

uint8_t *bases_take(struct bases *b, uint64_t page)
{
	struct base_slot *s = slot_of(b, page);

	return s->copy && s->page == page ? empty(s) : NULL;
}

bool bases_room(const struct bases *b, uint64_t page)
{
	const struct base_slot *s = slot_of(b, page);

	return !s->copy || s->added != b->capture;
}

uint8_t *bases_put(struct bases *b, uint64_t page, uint8_t *copy)
{
	struct base_slot *s = slot_of(b, page);
	uint8_t *displaced = empty(s);

	*s = (struct base_slot){page, copy, b->capture};
	return displaced;
}

uint8_t *bases_steal(struct bases *b)
{
	for (uint32_t n = 0; n < b->count; n++) {
		struct base_slot *s = &b->slots[b->hand++ & (b->count - 1)];

		if (s->copy && s->added != b->capture)
			return empty(s);
	}
	return NULL;
}
