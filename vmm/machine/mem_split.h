/*
 * Split memory, for a side that runs the guest between checkpoints: the memfd is the last
 * checkpoint, and the guest runs on a private mapping of it, at the address that KVM knows. What is
 * written there becomes a private page; every other page shows the checkpoint, and what is written
 * to that later. To apply a checkpoint is to write its pages into the memfd (mem_kept_page() and
 * what goes with it), and to roll back: to drop the private ones.
 *
 * A page without memory in the memfd may have a private one. The first write makes both, but that
 * of the memfd is clean and zero, is mapped nowhere, and goes when the kernel wants its memory. So
 * what mem_absent(), mem_is_hole(), mem_next_data() and mem_hash() say is of the checkpoint.
 *
 * Which pages were written is not asked of the kernel, but of whoever knows: KVM's dirty log and
 * the host's marks, by which epochs live and die, too (vmm/vm/replica.h). More pages than these do
 * no harm. A page that nobody wrote may be private as well: the kernel makes it before the write,
 * and a vCPU that is stopped then never writes. It is like the checkpoint's, which it hides once
 * that changes: mem_kept_changed().
 *
 * Private pages come on top of the memfd's: up to another copy of RAM, by a guest that has written
 * all of it since the last checkpoint.
 *
 * Loop thread; the VM stands, and nothing is under way to its memory.
 */
#ifndef VMM_MEM_SPLIT_H
#define VMM_MEM_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/mem.h"

/* What memory is now is the checkpoint. Not while pages are to come. On failure all is as it was.
 */
int mem_split(struct mem *m, struct err *e);
/*
 * The private ones of these pages, a bit for each, are dropped: the guest sees the checkpoint. A
 * piece of it: *page is how far it is, 0 at the beginning. True: that was the last. Cannot fail.
 */
bool mem_roll_back(struct mem *m, const uint64_t *pages, uint64_t *page);
/*
 * A peer's page has been written into the checkpoint: it is marked, and the next roll back drops
 * what may lie over it. Nothing to do for memory that is not split.
 */
void mem_kept_changed(struct mem *m, uint64_t page);
/*
 * What the guest sees becomes what is in the memfd, and memory is one again: at a takeover. `pages`
 * has at least those that were written. In pieces, as above; pages of zeros take no memory for the
 * most part. Cannot fail: what is written has memory.
 */
bool mem_join(struct mem *m, const uint64_t *pages, uint64_t *page);

#endif
