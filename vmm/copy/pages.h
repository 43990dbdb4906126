/*
 * The page codec. A FRAME_PAGES payload is a row of entries: an 8-byte little-endian head
 * (page << 24 | method << 16 | length) and `length` bytes. Pure functions, any thread.
 */
#ifndef FT_PAGES_H
#define FT_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/machine/mem.h"

enum page_method {
	PAGE_ZERO = 1,	/* all zero, no data */
	PAGE_RAW = 2,	/* 4096 bytes */
	PAGE_DELTA = 3, /* runs of 8-byte words that differ from the page both sides hold */
	PAGE_LZ4 = 4,	/* one LZ4 block that unpacks to 4096 bytes */
	PAGE_METHOD_MAX,
};

#define PAGE_HEAD_SIZE	8u
#define PAGE_ENTRY_MAX	(PAGE_HEAD_SIZE + MEM_PAGE_SIZE)
#define PAGE_NUMBER_MAX ((1ull << 40) - 1)

struct page_entry {
	uint64_t page;
	enum page_method method;
	uint32_t length;
	const uint8_t *data;
};

/*
 * Encode one page to out (room for PAGE_ENTRY_MAX); returns the bytes used. base: the content the
 * receiver holds for this page, or NULL when unknown. lz4: try LZ4 when the delta does not pay.
 * Tries zero, delta, LZ4, raw in this order and takes the first that pays. A page equal to base
 * becomes a delta of length 0. data and base are 8-byte aligned; page <= PAGE_NUMBER_MAX.
 */
uint32_t pages_encode(uint64_t page, const uint8_t *data, const uint8_t *base, bool lz4,
		      uint8_t *out);
/* How the entry at out was encoded. */
static inline enum page_method pages_method(const uint8_t *entry)
{
	return (enum page_method)entry[2];
}
/*
 * Take the next entry off [*pos, end). 1 and *ret, 0 at the end, -EBADMSG when it is malformed
 * (unknown method, wrong length for the method, runs past the end, page >= npages). After that
 * only an LZ4 entry, or a delta without a base, can still fail in pages_decode().
 */
int pages_next(const uint8_t **pos, const uint8_t *end, uint64_t npages, struct page_entry *ret);
/*
 * Unpack an entry to a whole page in out (4096 bytes). base: what the receiver holds now (used by
 * PAGE_DELTA only, which fails without; may equal out). 0, or -EBADMSG and out is garbage.
 */
int pages_decode(const struct page_entry *en, const uint8_t *base, uint8_t *out);

#endif
