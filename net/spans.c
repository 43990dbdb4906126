#include "net/spans.h"

#include <string.h>

void spans_start(struct spans *s, uint32_t pos)
{
	s->edge = pos;
	s->n = 0;
}

static void remove_islands(struct spans *s, uint32_t at, uint32_t count)
{
	memmove(&s->island[at], &s->island[at + count], (s->n - at - count) * sizeof(s->island[0]));
	s->n -= count;
}

void spans_raise(struct spans *s, uint32_t pos)
{
	uint32_t reached = 0;

	s->edge = pos_max(s->edge, pos);
	while (reached < s->n && !pos_before(s->edge, s->island[reached].from))
		s->edge = pos_max(s->edge, s->island[reached++].to);
	if (reached)
		remove_islands(s, 0, reached);
}

bool spans_add(struct spans *s, uint32_t from, uint32_t to)
{
	uint32_t i = 0, j;

	if (!pos_before(s->edge, from)) {
		spans_raise(s, to);
		return true;
	}
	while (i < s->n && pos_before(s->island[i].to, from))
		i++;
	for (j = i; j < s->n && !pos_before(to, s->island[j].from); j++) {
		from = pos_min(from, s->island[j].from);
		to = pos_max(to, s->island[j].to);
	}
	if (i == j) {
		if (s->n == SPANS_ISLANDS)
			return false;
		memmove(&s->island[i + 1], &s->island[i], (s->n - i) * sizeof(s->island[0]));
		s->n++;
	} else if (j - i > 1) {
		remove_islands(s, i + 1, j - i - 1);
	}
	s->island[i].from = from;
	s->island[i].to = to;
	return true;
}

uint32_t spans_until(const struct spans *s, uint32_t pos)
{
	if (pos_before(pos, s->edge))
		return s->edge;
	for (uint32_t i = 0; i < s->n && !pos_before(pos, s->island[i].from); i++)
		if (pos_before(pos, s->island[i].to))
			return s->island[i].to;
	return pos;
}

uint32_t spans_next(const struct spans *s, uint32_t pos, uint32_t none)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (pos_before(pos, s->island[i].from))
			return pos_min(none, s->island[i].from);
	return none;
}

uint32_t spans_top(const struct spans *s)
{
	return s->n ? s->island[s->n - 1].to : s->edge;
}
