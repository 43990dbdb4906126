/*
 * Pages on their way out: encoded one behind the other and written as FRAME_PAGES, whoever sends
 * them: first sync, epochs, snapshots.
 *
 * Owner: one thread, the sender.
 */
#ifndef VMM_PAGE_OUT_H
#define VMM_PAGE_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/copy/squeeze.h"
#include "vmm/wire/stream.h"

struct page_out {
	struct stream *stream;
	uint64_t epoch;	   /* that the frames belong to */
	uint64_t frame_ns; /* for writing one... */
	uint64_t until_ns; /* ...unless this (CLOCK_MONOTONIC) is for all of them, 0: it is not */
	uint64_t *sent;	   /* atomic: encoded bytes are added to it; NULL: to nothing */
	/* private to page_out.c */
	struct squeeze squeeze;
	uint8_t *enc;
	size_t fill;
};

/* To a file all is compressed, to a peer what pays on its link. -ENOMEM, or 0. */
int page_out_init(struct page_out *o, struct stream *st, uint64_t frame_ns);
void page_out_done(struct page_out *o); /* safe on a zeroed one */
/*
 * Add a page, whose data are not needed any more after this. base: what the receiver holds, or
 * NULL. Both are 8-byte aligned. True: the frame is full, page_out_flush() before the next page.
 */
bool page_out_add(struct page_out *o, uint64_t page, const uint8_t *data, const uint8_t *base);
/* Write what there is. 0, or what stream_send() says. */
int page_out_flush(struct page_out *o);

#endif
