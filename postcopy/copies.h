/*
 * Images that go with the VM: each host has one of its own, and the source's is copied into the
 * destination's. Which these are the destination finds out, before anything is written: an image
 * that is not the source's, and that nobody has in use. Owner: the loop.
 */
#ifndef POSTCOPY_COPIES_H
#define POSTCOPY_COPIES_H

#include "postcopy/wire.h"
#include "vmm/copy/block_map.h"
#include "vmm/vm/vm.h"

/* The source's: what the guest changes is marked, until copies_forget(). {0} is none. */
struct copies {
	uint32_t which; /* bit i: machine.devs[i] */
	struct vm *vm;
	struct block_map maps[MACHINE_MAX_DEVS];
};

/* What the source offers: all that the guest writes. Returns how many. */
unsigned copies_list(const struct vm *vm, struct wire_image list[MACHINE_MAX_DEVS]);
/*
 * Which of these the destination takes; they are locked here. The others are one file at both
 * sides, which the source has locked. Anything else is refused, as what is not known for sure to be
 * another image than the source's may not be written.
 */
int copies_choose(struct vm *vm, const struct wire_image *list, unsigned n, uint32_t *ret_which,
		  struct err *e);
uint64_t copies_bytes(const struct vm *vm, uint32_t which); /* all of them together */
/* From here on changes are marked. */
int copies_watch(struct copies *c, struct vm *vm, uint32_t which, struct err *e);
void copies_forget(struct copies *c);
static inline bool copies_has(uint32_t which, unsigned i)
{
	return which >> i & 1;
}

#endif
