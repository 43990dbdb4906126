/*
 * Pages on their way in, checked and unpacked, whoever brings them: straight into memory (first
 * sync, snapshot), or kept apart until an epoch is whole, and then committed by plain copies that
 * cannot fail, or dropped. What is kept apart grows up to one copy of guest RAM, never more.
 *
 * Of split memory (vmm/machine/mem_split.h) all this is the checkpoint: the guest may run while
 * pages are kept apart, stands for the commit, and is rolled back behind it.
 *
 * Owner: the loop.
 */
#ifndef VMM_PAGE_IN_H
#define VMM_PAGE_IN_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/mem.h"
#include "vmm/wire/stream.h"

#define PAGE_IN_SLAB_PAGES 256
#define PAGE_IN_ZERO	   (1ull << 63)

struct page_in {
	struct mem *mem;
	uint64_t npages, nslots;   /* kept apart; of these with a slot */
	uint64_t done, done_slots; /* of these already committed */
	uint64_t *page;	 /* page numbers; with PAGE_IN_ZERO those of zeros, which take no slot */
	uint64_t *seen;	 /* a bit for each of them: no page comes twice */
	uint64_t *there; /* a bit for each page that has memory for sure */
	uint8_t **slabs; /* slots for contents, PAGE_IN_SLAB_PAGES each */
	uint64_t nslabs;
};

int page_in_init(struct page_in *in, struct mem *m); /* -ENOMEM, or 0 */
void page_in_done(struct page_in *in);		     /* safe on a zeroed one */
/*
 * A FRAME_PAGES straight into memory, which counts for nothing yet: a page may come again, and has
 * no base. -EBADMSG (e says why): some pages may have come. -ENOMEM: the host's memory is full.
 */
int page_in_now(struct mem *m, const struct frame *f, struct err *e);
/*
 * Keep those of a FRAME_PAGES apart. Deltas are against memory, which must be as it was when the
 * last ones were committed; what they will be committed to has memory when they are here. -EBADMSG
 * or -ENOMEM (e says why): drop them all.
 */
int page_in_keep(struct page_in *in, const struct frame *f, struct err *e);
/*
 * What was kept apart goes into memory, n pages at most. True: all of it has, and nothing is kept
 * any more. Once begun it is to be brought to its end before anything else is done here.
 */
bool page_in_commit(struct page_in *in, uint64_t n);
void page_in_drop(struct page_in *in);

#endif
