/*
 * What a guest has in memory or on a disk is not to be in a core dump, which is written to where
 * others may read it. Any thread.
 */
#ifndef VMM_NODUMP_H
#define VMM_NODUMP_H

#include <stddef.h>
#include <sys/mman.h>

/*
 * p: on a page's border, or NULL; the last page may be in part. Advice only: a host without control
 * of core dumps works, too. Heap that is given back stays out of them.
 */
static inline void nodump(void *p, size_t bytes)
{
	if (p)
		madvise(p, bytes & ~(size_t)4095, MADV_DONTDUMP);
}

#endif
