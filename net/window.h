/*
 * A stretch of a byte stream that two sides produce, each cut in its own way: who is first with a
 * byte writes it, who is second has it compared. What both had is kept until the room is needed, so
 * that it can be compared when it comes once more.
 *
 * Room is the caller's: before a byte is put, base and size are such that it is within. Owner: that
 * of the struct.
 */
#ifndef NET_WINDOW_H
#define NET_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "net/spans.h"

enum { WINDOW_OURS, WINDOW_THEIRS };

struct window {
	uint8_t *ring;	      /* byte at `pos` is at pos % size */
	uint32_t size;	      /* a power of two, or 0 */
	uint32_t base;	      /* what is before is not known any more */
	struct spans have[2]; /* at or behind base */
};

/* Nothing is known, and the stream goes on at pos. Keeps the room. */
void window_start(struct window *w, uint32_t pos);
/* The room and what was known go; the position stays. */
void window_free(struct window *w);
/* To a power of two that is more than size. -ENOMEM: as before. */
int window_grow(struct window *w, uint32_t size);
/* What is before pos is not needed. */
void window_skip(struct window *w, uint32_t pos);
/* Up to here both have all. */
uint32_t window_both(const struct window *w);
/*
 * Bytes of a side. -EILSEQ: data[*ret_at] is not what is known; -ENOBUFS: more gaps than can be
 * kept. Some of it may count as put then.
 */
int window_put(struct window *w, int side, uint32_t pos, const uint8_t *data, uint32_t len,
	       uint32_t *ret_at);
/* Bytes of ours, whatever was known. */
void window_write(struct window *w, uint32_t pos, const uint8_t *data, uint32_t len);
/* Up to n bytes from pos, as far as one of them had them in a row. Returns how many. */
uint32_t window_peek(const struct window *w, uint32_t pos, uint8_t *buf, uint32_t n);

#endif
