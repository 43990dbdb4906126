/*
 * Pages into memory that has absent ones: what comes is checked and unpacked, and each page is
 * claimed before it is filled, so that neither a late nor a second copy changes what the guest may
 * have changed since.
 *
 * Each thread has its own; they share what is pointed to.
 */
#ifndef POSTCOPY_FILL_H
#define POSTCOPY_FILL_H

#include <stdbool.h>
#include <stdint.h>

#include "postcopy/faults.h"
#include "postcopy/have.h"
#include "vmm/base/err.h"
#include "vmm/machine/mem.h"
#include "vmm/wire/stream.h"

#define FILL_RUN 32u /* pages in a row that are filled by one call */

/* Pages, all atomic. */
struct fill_counts {
	uint64_t urgent, pushed; /* entries in frames of the urgent / main link since the switch */
	uint64_t zero;		 /* by WIRE_MAP_ZERO, since the switch */
	uint64_t removed;	 /* taken away before they came */
	uint64_t twice;		 /* here already: dropped */
	uint64_t unasked;	 /* on the urgent link, and not asked for */
	uint64_t wants;		 /* asked for */
	uint64_t exist;		 /* had memory already when they were to be filled */
	uint64_t bytes;		 /* of all these frames */
};

struct fill {
	struct mem *mem;
	int uffd;
	struct have *have;
	struct faults *faults;
	struct fill_counts *counts;
	unsigned waiters; /* of what was filled, all together; the caller clears it */
	/* private to fill.c */
	uint64_t page; /* a run of claimed pages, unpacked and not yet filled */
	unsigned n;
	uint8_t *buf;
};

int fill_init(struct fill *f); /* the rest is set already. -ENOMEM, or 0 */
void fill_done(struct fill *f);
/*
 * A FRAME_PAGES. -EBADMSG: the peer's fault; whole pages before it were taken. -ENOMEM and others:
 * the host's; what could not be filled is to be asked for again.
 */
int fill_frame(struct fill *f, const struct frame *frame, bool urgent, struct err *e);
/* Pages that are zero and will not be sent. 0, or the host's errno. */
int fill_mark_zero(struct fill *f, uint64_t page, uint64_t n);
/* Somebody touches a page that is ZERO or PAGE and finds no memory. Likewise. */
int fill_zero(struct fill *f, uint64_t page);

#endif
