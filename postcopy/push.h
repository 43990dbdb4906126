/*
 * The source's background: thread `push` sends what nobody has asked for yet on the main link,
 * nearest to what was asked for last, and no faster than it may. Ends with EOS, when both links
 * have everything. Memory that was never touched goes as WIRE_MAP_ZERO, in runs, first.
 *
 * Owner: the loop. While it runs nobody else writes to the main link.
 */
#ifndef POSTCOPY_PUSH_H
#define POSTCOPY_PUSH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "postcopy/urgent.h"
#include "postcopy/unsent.h"
#include "vmm/base/err.h"
#include "vmm/copy/page_out.h"
#include "vmm/machine/mem.h"

struct push {
	/* the caller's, before push_start() */
	bool background; /* false: only what is asked for is sent (--no-background) */
	uint64_t rate;	 /* atomic: bytes a second at most, 0: as fast as it goes */
	/* atomic, for status; added up over all links */
	uint64_t pages, bytes;
	uint64_t zero; /* pages in WIRE_MAP_ZERO */
	bool eos;      /* EOS is written: nothing more comes from here */
	/* private to push.c */
	struct mem *mem;
	struct unsent *unsent;
	struct urgent *urgent;
	struct page_out *out;
	int notify_fd;
	int error; /* atomic */
	bool running, stop;
	bool last; /* atomic: nothing but EOS comes any more */
	uint64_t link_pages, link_zero;
	pthread_t thread;
};

/*
 * out: of the main link. urgent: started. notify_fd: written once, when EOS has gone out (p->eos)
 * or the link is of no use any more (push_error()).
 */
int push_start(struct push *p, struct page_out *out, struct urgent *urgent, int notify_fd,
	       struct err *e);
int push_error(const struct push *p);
/* A frame that is half written is given up: the link is of no use then. Safe twice, and zeroed. */
void push_stop(struct push *p);

#endif
