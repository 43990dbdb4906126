/*
 * A pass over RAM: pages go out while the guest and its devices may go on writing. A page that is
 * torn by that is fine: what was written has a dirty mark, and a later pass brings it again.
 *
 * Owner: one thread, the sender.
 */
#ifndef VMM_RAM_PASS_H
#define VMM_RAM_PASS_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/copy/page_out.h"
#include "vmm/machine/mem.h"
#include "vmm/vm/dirty.h"

struct ram_pass {
	const struct mem *mem;
	struct page_out *out;
	uint64_t *pages; /* atomic: counts those that went out; or NULL */
	/* After each frame, and every now and then; if not 0, the pass ends with it: what has not
	 * gone out is dirty again, or was never sent. Or NULL. */
	int (*between)(void *arg);
	void *arg;
	uint64_t *sent; /* a bit for each page that goes out; or NULL */
	bool still;	/* the guest stands, and this is the last pass: nothing is protected */
};

/* Every page that is not zero, to a receiver whose memory is. */
int ram_pass_all(const struct ram_pass *p);
/* The pages that are dirty now, protected again before they are read, unless it is the last time;
 * *ret_count is how many. */
int ram_pass_dirty(const struct ram_pass *p, struct dirty *d, uint64_t *ret_count);
/*
 * Likewise those whose bit is set, taken before they are read. Somebody else looks at the dirty
 * log, and sets the bits (atomic) of what he finds there.
 */
int ram_pass_marked(const struct ram_pass *p, uint64_t *bits, uint64_t *ret_count);

/* A page as a guest that writes it meanwhile leaves it: each word as it was or as it is. */
void ram_copy_page(uint64_t *to, const uint8_t *page);

#endif
