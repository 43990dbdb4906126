/*
 * Whether to try LZ4: on a fast link compressing a page takes longer than sending it. The link's
 * speed is what its channel knows; what a try costs and saves is measured on some pages
 * even while LZ4 is off. Deltas and zero pages are always worth it.
 *
 * Owner: one thread, the sender.
 */
#ifndef FT_SQUEEZE_H
#define FT_SQUEEZE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/wire/chan_io.h"

struct squeeze {
	const struct chan *chan;
	uint64_t link_ns;  /* to send one page; 0 while unknown */
	uint64_t cost_ns;  /* of one try on both sides, smoothed */
	uint64_t saved;	   /* bytes saved by one try, smoothed */
	unsigned to_probe; /* pages until LZ4 is tried whatever it pays */
};

/* c: that pages go out on, which must stay; one that does not know its speed counts as fast. */
void squeeze_init(struct squeeze *z, const struct chan *c);
/* Read the link's speed: once in a while, like before a frame. */
void squeeze_look(struct squeeze *z);
/* pages_encode() with LZ4 if that pays. */
uint32_t squeeze_encode(struct squeeze *z, uint64_t page, const uint8_t *data, const uint8_t *base,
			uint8_t *out);

#endif
