/*
 * Which pages changed: KVM's dirty log (manual protect: reading does not clear) together with the
 * host's own writes (vmm/machine/mem.h). Clearing a page's bit write-protects it again, so that its
 * next write costs the guest a fault; leaving the bit set keeps the page free of faults, and
 * reported.
 *
 * Owner: one thread at a time (the sender while syncing, then the loop).
 */
#ifndef VMM_DIRTY_H
#define VMM_DIRTY_H

#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/vm/kvm.h"
#include "vmm/machine/mem.h"

struct dirty {
	struct kvm *kvm;
	struct mem *mem;
	uint64_t nwords; /* of 64 pages */
	uint64_t *bits;	 /* result of dirty_get() */
	uint64_t *clear; /* work space of the caller: pages to protect again */
};

/* Start logging; from here on every write is seen. -EBUSY: somebody does so already. */
int dirty_start(struct dirty *d, struct kvm *kvm, struct mem *mem, struct err *e);
void dirty_stop(struct dirty *d);
/*
 * d->bits := pages the guest wrote since their bit was last cleared, and those that the host wrote
 * or discarded (vmm/machine/mem.h), whose marks are taken. They may be read from then on, also
 * while all of them write.
 */
int dirty_get(struct dirty *d);
/* How many pages dirty_get() would report now. Takes no mark; d->bits is work space. */
int dirty_count(struct dirty *d, uint64_t *ret_pages);
/* Take the host's marks and forget them: who reads all pages from here on needs none of them. */
void dirty_forget_host(struct dirty *d);
/* Protect the pages in d->clear again and empty it. Only pages that dirty_get() reported. */
int dirty_clear(struct dirty *d);
/*
 * A piece of that: *word is how far it is, 0 at the beginning. 1: that was the last, 0: there is
 * more, or a negative errno.
 */
int dirty_clear_piece(struct dirty *d, uint64_t *word);

static inline void dirty_set(uint64_t *bits, uint64_t page)
{
	bits[page / 64] |= 1ull << (page % 64);
}
static inline void dirty_unset(uint64_t *bits, uint64_t page)
{
	bits[page / 64] &= ~(1ull << (page % 64));
}

#endif
