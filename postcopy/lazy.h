/*
 * Lazy restore: the VM of a snapshot runs at once, and its pages come from the file while it does:
 * those that it waits for first, the others in the file's order. To the pager the file is a peer:
 * a thread answers on an urgent link of its own, a pair of sockets.
 *
 * What is kept of the file is which of its frames has each page last (4 bytes a page) and where
 * each frame is, with a digest (16 bytes a frame): the file is read once for that, and not
 * unpacked. A frame that is not the same any more when it is read again ends it: what is missing
 * stays missing, and who waits for it waits. No page is ever another one than the snapshot's.
 *
 * Owner: the loop. The thread touches the file and its end of the link, and no guest memory.
 */
#ifndef POSTCOPY_LAZY_H
#define POSTCOPY_LAZY_H

#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/copy/snapshot.h"
#include "vmm/vm/vm.h"

struct lazy;

struct lazy_stats {
	uint64_t left; /* pages that are missing */
	uint64_t faults, fault_p50_ns, fault_max_ns;
};

/* Refused, with what mends it, where userfaultfd is. */
int lazy_new(struct lazy **ret, struct err *e);
/* For snapshot_restore(). From its taken() on the loop may fault, and waits for the file then. */
struct snapshot_pages lazy_pages(struct lazy *l);
/*
 * The VM is loaded and about to run: from here on the loop does not touch what is missing. Fails
 * when the file did: what was loaded may be wrong.
 */
int lazy_go(struct lazy *l, struct err *e);
/*
 * From now on told of, on the loop, once: e NULL, memory is whole and the lazy may be freed; or
 * why it never will be. Devices are told of pages that they asked for.
 */
int lazy_watch(struct lazy *l, void (*told)(void *arg, const struct err *e), void *arg,
	       struct err *e);
void lazy_stats(struct lazy *l, struct lazy_stats *ret);
/*
 * NULL is fine. When memory is not whole the guest must not run any more (vm_halt()): what is
 * missing reads as zeros then. Waits for no storage.
 */
void lazy_free(struct lazy *l);

#endif
