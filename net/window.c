#include "net/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void window_start(struct window *w, uint32_t pos)
{
	w->base = pos;
	spans_start(&w->have[WINDOW_OURS], pos);
	spans_start(&w->have[WINDOW_THEIRS], pos);
}

void window_free(struct window *w)
{
	window_skip(w, pos_max(spans_top(&w->have[0]), spans_top(&w->have[1])));
	free(w->ring);
	w->ring = NULL;
	w->size = 0;
}

/* How much from pos lies in a row. */
static uint32_t straight(const struct window *w, uint32_t pos, uint32_t len)
{
	uint32_t left = w->size - (pos & (w->size - 1));

	return len < left ? len : left;
}

static void write_ring(struct window *w, uint32_t pos, const uint8_t *data, uint32_t len)
{
	uint32_t first = straight(w, pos, len);

	memcpy(w->ring + (pos & (w->size - 1)), data, first);
	memcpy(w->ring, data + first, len - first);
}

int window_grow(struct window *w, uint32_t size)
{
	uint32_t top = pos_max(spans_top(&w->have[0]), spans_top(&w->have[1])), n;
	struct window bigger = *w;

	bigger.size = size;
	bigger.ring = malloc(size);
	if (!bigger.ring)
		return -ENOMEM;
	for (uint32_t pos = w->base; pos != top; pos += n) {
		n = straight(w, pos, top - pos);
		write_ring(&bigger, pos, w->ring + (pos & (w->size - 1)), n);
	}
	free(w->ring);
	*w = bigger;
	return 0;
}

void window_skip(struct window *w, uint32_t pos)
{
	if (!pos_before(w->base, pos))
		return;
	w->base = pos;
	spans_raise(&w->have[WINDOW_OURS], pos);
	spans_raise(&w->have[WINDOW_THEIRS], pos);
}

uint32_t window_both(const struct window *w)
{
	return pos_min(w->have[WINDOW_OURS].edge, w->have[WINDOW_THEIRS].edge);
}

/* How many bytes from pos on are those; all in a row in the ring. */
static uint32_t same_straight(const uint8_t *known, const uint8_t *data, uint32_t len)
{
	uint32_t n = 0;

#ifdef BUG_COMPARE_SHORT /* planted: the tests must notice */
	if (!memcmp(known, data, len ? len - 1 : 0))
		return len;
#endif
	if (!memcmp(known, data, len))
		return len;
	while (known[n] == data[n])
		n++;
	return n;
}

static uint32_t same(const struct window *w, uint32_t pos, const uint8_t *data, uint32_t len)
{
	uint32_t first = straight(w, pos, len);
	uint32_t n = same_straight(w->ring + (pos & (w->size - 1)), data, first);

	return n < first ? n : n + same_straight(w->ring, data + first, len - first);
}

static uint32_t known_until(const struct window *w, uint32_t pos)
{
	return pos_max(spans_until(&w->have[0], pos), spans_until(&w->have[1], pos));
}

int window_put(struct window *w, int side, uint32_t pos, const uint8_t *data, uint32_t len,
	       uint32_t *ret_at)
{
	uint32_t from = pos, end = pos + len, to;

	while (pos != end) {
		const uint8_t *p = data + (pos - from);

		to = pos_min(known_until(w, pos), end);
		if (to != pos) {
			uint32_t n = same(w, pos, p, to - pos);

			if (n < to - pos) {
				*ret_at = pos - from + n;
				return -EILSEQ;
			}
		} else {
			to = spans_next(&w->have[0], pos, end);
			to = spans_next(&w->have[1], pos, to);
			write_ring(w, pos, p, to - pos);
		}
		pos = to;
	}
	return spans_add(&w->have[side], from, end) ? 0 : -ENOBUFS;
}

void window_write(struct window *w, uint32_t pos, const uint8_t *data, uint32_t len)
{
	write_ring(w, pos, data, len);
	if (!spans_add(&w->have[WINDOW_OURS], pos, pos + len))
		window_start(w, pos + len);
}

uint32_t window_peek(const struct window *w, uint32_t pos, uint8_t *buf, uint32_t n)
{
	uint32_t i = 0;

	if (pos_before(pos, w->base) || !w->size)
		return 0;
	while (i < n && known_until(w, pos + i) != pos + i) {
		buf[i] = w->ring[(pos + i) & (w->size - 1)];
		i++;
	}
	return i;
}
