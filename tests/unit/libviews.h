/* Both views of split memory, as the kernel has them. */
#ifndef TESTS_LIBVIEWS_H
#define TESTS_LIBVIEWS_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/mem.h"

/* Pages that the memfd has memory for. */
uint64_t views_allocated(const struct mem *m);
/* Pages of the guest's view that are its own, in memory or swapped out. */
uint64_t views_private(const struct mem *m);
/* Has the memfd memory for the page? */
bool views_has(const struct mem *m, uint64_t page);
/* The page in the memfd, without a fault that would give it memory. */
void views_read_kept(const struct mem *m, uint64_t page, uint8_t *buf);

#endif
