/*
 * Which bytes of a stream are there: all up to an edge, and a few runs beyond it. Positions are 32
 * bits that wrap, as TCP counts; those of one set lie within 2^31. Pure.
 */
#ifndef NET_SPANS_H
#define NET_SPANS_H

#include <stdbool.h>
#include <stdint.h>

#define SPANS_ISLANDS 8u

struct spans {
	uint32_t edge;
	uint32_t n;
	struct {
		uint32_t from, to;
	} island[SPANS_ISLANDS]; /* in order, apart from each other and from the edge */
};

static inline bool pos_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline uint32_t pos_min(uint32_t a, uint32_t b)
{
	return pos_before(a, b) ? a : b;
}

static inline uint32_t pos_max(uint32_t a, uint32_t b)
{
	return pos_before(a, b) ? b : a;
}

/* Nothing but what is before pos. */
void spans_start(struct spans *s, uint32_t pos);
/* false: more islands than there is room for; nothing is changed. */
bool spans_add(struct spans *s, uint32_t from, uint32_t to);
/* Everything before pos is there now. */
void spans_raise(struct spans *s, uint32_t pos);
/* Where the run that pos is in ends; pos: that byte is not there. */
uint32_t spans_until(const struct spans *s, uint32_t pos);
/* Where the first run behind pos begins, which is in none; `none` if there is none before that. */
uint32_t spans_next(const struct spans *s, uint32_t pos, uint32_t none);
/* Behind the last byte that is there. */
uint32_t spans_top(const struct spans *s);

#endif
