/*
 * Zero, delta, LZ4 or raw: one page to one entry and back.
 *
 * A delta is a row of runs {u16 skip, u16 count, count words}, little-endian: leave `skip` 8-byte
 * words as they are, replace the next `count`. count > 0; skip > 0 in all runs but the first.
 */
#include "vmm/copy/pages.h"

#include <errno.h>
#include <lz4.h>
#include <stdbool.h>
#include <string.h>

#define WORDS	    (MEM_PAGE_SIZE / 8)
#define RUN_HEAD    4u
#define DELTA_LIMIT (MEM_PAGE_SIZE * 3 / 4) /* above that a delta does not pay */
#define LZ4_LIMIT   (MEM_PAGE_SIZE - MEM_PAGE_SIZE / 8)

/* Two words: a vector register on every 64-bit machine, without asking which one it is. */
typedef uint64_t pair_t __attribute__((vector_size(16), aligned(8), may_alias));

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "heads are copied as they lie");

static inline bool any_bit(pair_t v)
{
	return (v[0] | v[1]) != 0;
}

static bool is_zero(const uint8_t *data)
{
	const pair_t *p = (const pair_t *)data;
	const pair_t *end = (const pair_t *)(data + MEM_PAGE_SIZE);

	for (; p < end; p += 8)
		if (any_bit((p[0] | p[1]) | (p[2] | p[3]) | (p[4] | p[5]) | (p[6] | p[7])))
			return false;
	return true;
}

/* One bit for each of 8 words that differs. */
static inline uint64_t compare8(const uint8_t *data, const uint8_t *base)
{
	const pair_t *a = (const pair_t *)data, *b = (const pair_t *)base;
	pair_t x0 = a[0] ^ b[0], x1 = a[1] ^ b[1], x2 = a[2] ^ b[2], x3 = a[3] ^ b[3];

	if (!any_bit((x0 | x1) | (x2 | x3)))
		return 0;
	return (uint64_t)(x0[0] != 0) | (uint64_t)(x0[1] != 0) << 1 | (uint64_t)(x1[0] != 0) << 2 |
	       (uint64_t)(x1[1] != 0) << 3 | (uint64_t)(x2[0] != 0) << 4 |
	       (uint64_t)(x2[1] != 0) << 5 | (uint64_t)(x3[0] != 0) << 6 |
	       (uint64_t)(x3[1] != 0) << 7;
}

/*
 * One bit for each word that differs. False when so many do that a delta cannot pay: looking at the
 * rest would be wasted.
 */
static bool find_changes(const uint8_t *data, const uint8_t *base, uint64_t map[WORDS / 64])
{
	unsigned changed = 0;

	for (unsigned i = 0; i < WORDS / 64; i++, data += 512, base += 512) {
		uint64_t bits = 0;

		for (unsigned j = 0; j < 8; j++)
			bits |= compare8(data + j * 64, base + j * 64) << (j * 8);
		map[i] = bits;
		changed += (unsigned)__builtin_popcountll(bits);
		if (changed * 8 > DELTA_LIMIT)
			return false;
	}
	return true;
}

/* First word from `from` on whose bit is `set`; WORDS when there is none. */
static unsigned find_word(const uint64_t *map, unsigned from, bool set)
{
	while (from < WORDS) {
		uint64_t w = (set ? map[from / 64] : ~map[from / 64]) >> (from % 64);

		if (w)
			return from + (unsigned)__builtin_ctzll(w);
		from = (from | 63) + 1;
	}
	return WORDS;
}

/* Length of the delta, or 0 when it does not pay; an equal page has *ret_len 0 and true. */
static bool put_delta(const uint8_t *data, const uint8_t *base, uint8_t *out, uint32_t *ret_len)
{
	uint64_t map[WORDS / 64];
	unsigned at = 0, len = 0;

	if (!find_changes(data, base, map))
		return false;
	for (;;) {
		unsigned start = find_word(map, at, true);
		unsigned end = find_word(map, start, false);
		uint16_t head[2] = {(uint16_t)(start - at), (uint16_t)(end - start)};

		if (start == WORDS)
			break;
		if (len + RUN_HEAD + (end - start) * 8 > DELTA_LIMIT)
			return false;
		memcpy(out + len, head, RUN_HEAD);
		memcpy(out + len + RUN_HEAD, data + start * 8, (end - start) * 8);
		len += RUN_HEAD + (end - start) * 8;
		at = end;
	}
	*ret_len = len;
	return true;
}

static uint32_t put_head(uint8_t *out, uint64_t page, enum page_method method, uint32_t length)
{
	uint64_t head = page << 24 | (uint64_t)method << 16 | length;

	memcpy(out, &head, sizeof(head));
	return PAGE_HEAD_SIZE + length;
}

uint32_t pages_encode(uint64_t page, const uint8_t *data, const uint8_t *base, bool lz4,
		      uint8_t *out)
{
	uint8_t *to = out + PAGE_HEAD_SIZE;
	uint32_t len;
	int n;

	if (is_zero(data))
		return put_head(out, page, PAGE_ZERO, 0);
	if (base && put_delta(data, base, to, &len))
		return put_head(out, page, PAGE_DELTA, len);
	if (lz4) {
		n = LZ4_compress_default((const char *)data, (char *)to, MEM_PAGE_SIZE, LZ4_LIMIT);
		if (n > 0)
			return put_head(out, page, PAGE_LZ4, (uint32_t)n);
	}
	memcpy(to, data, MEM_PAGE_SIZE);
	return put_head(out, page, PAGE_RAW, MEM_PAGE_SIZE);
}

/* Walk the runs; with out, apply them. Nothing is read or written outside of either buffer. */
static bool walk_delta(const uint8_t *data, uint32_t length, uint8_t *out)
{
	const uint8_t *end = data + length;
	unsigned at = 0;

	for (bool first = true; data < end; first = false) {
		uint16_t head[2];

		if ((size_t)(end - data) < RUN_HEAD)
			return false;
		memcpy(head, data, RUN_HEAD);
		data += RUN_HEAD;
		if (!head[1] || (!head[0] && !first))
			return false;
		at += head[0];
		if (at + head[1] > WORDS || (size_t)(end - data) < head[1] * 8u)
			return false;
		if (out)
			memcpy(out + at * 8, data, head[1] * 8u);
		data += head[1] * 8u;
		at += head[1];
	}
	return true;
}

static bool length_fits(const struct page_entry *en)
{
	switch (en->method) {
	case PAGE_ZERO:
		return en->length == 0;
	case PAGE_RAW:
		return en->length == MEM_PAGE_SIZE;
	case PAGE_DELTA:
		return en->length <= DELTA_LIMIT;
	case PAGE_LZ4:
		return en->length > 0 && en->length <= LZ4_LIMIT;
	default:
		return false;
	}
}

int pages_next(const uint8_t **pos, const uint8_t *end, uint64_t npages, struct page_entry *ret)
{
	const uint8_t *p = *pos;
	struct page_entry en;
	uint64_t head;

	if (p == end)
		return 0;
	if ((size_t)(end - p) < PAGE_HEAD_SIZE)
		return -EBADMSG;
	memcpy(&head, p, sizeof(head));
	p += PAGE_HEAD_SIZE;
	en.page = head >> 24;
	en.method = (enum page_method)(head >> 16 & 0xff);
	en.length = head & 0xffff;
	en.data = p;
	if (en.page >= npages || !length_fits(&en) || en.length > (size_t)(end - p))
		return -EBADMSG;
	if (en.method == PAGE_DELTA && !walk_delta(en.data, en.length, NULL))
		return -EBADMSG;
	*pos = p + en.length;
	*ret = en;
	return 1;
}

static int decode_delta(const struct page_entry *en, const uint8_t *base, uint8_t *out)
{
	if (!base)
		return -EBADMSG;
	if (base != out)
		memcpy(out, base, MEM_PAGE_SIZE);
	return walk_delta(en->data, en->length, out) ? 0 : -EBADMSG;
}

int pages_decode(const struct page_entry *en, const uint8_t *base, uint8_t *out)
{
	if (!length_fits(en))
		return -EBADMSG;
	switch (en->method) {
	case PAGE_ZERO:
		memset(out, 0, MEM_PAGE_SIZE);
		return 0;
	case PAGE_RAW:
		memcpy(out, en->data, MEM_PAGE_SIZE);
		return 0;
	case PAGE_DELTA:
		return decode_delta(en, base, out);
	default:
		if (LZ4_decompress_safe((const char *)en->data, (char *)out, (int)en->length,
					MEM_PAGE_SIZE) != MEM_PAGE_SIZE)
			return -EBADMSG;
		return 0;
	}
}
