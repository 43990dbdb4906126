/*
 * The source's side of the urgent link: thread `urgent` answers what the destination waits for, at
 * once, past push and its rate limit. A page that is not unsent any more is on its way: such a
 * request is ignored.
 *
 * The VM is stopped: memory does not change. Owner: the loop.
 */
#ifndef POSTCOPY_URGENT_H
#define POSTCOPY_URGENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "postcopy/unsent.h"
#include "vmm/base/err.h"
#include "vmm/machine/mem.h"
#include "vmm/wire/stream.h"

struct urgent {
	/* atomic, for status; added up over all links */
	uint64_t pages, bytes;
	uint64_t wants, late; /* asked for; of these sent already, or claimed by push */
	uint64_t removed;     /* never sent, as the guest gave them back */
	uint64_t link_pages;  /* on this link, as EOS counts them */
	/* private to urgent.c */
	struct mem *mem;
	struct unsent *unsent;
	struct stream *link;
	uint8_t *buf; /* entries that are not sent yet */
	size_t fill;
	bool slow;	  /* the link is: LZ4 is worth its time */
	unsigned to_look; /* pages until that is asked again */
	int notify_fd, stop_fd;
	int error; /* atomic */
	char why[160];
	bool running;
	pthread_t thread;
};

/* The counts go on. notify_fd: written once, when the link is of no use any more. */
int urgent_start(struct urgent *s, struct mem *m, struct unsent *u, struct stream *link,
		 int notify_fd, struct err *e);
/* 0, or why the thread has ended: *ret_why says more (until urgent_stop()). */
int urgent_error(const struct urgent *s, const char **ret_why);
/* The link is the caller's again. Safe twice, and on a zeroed one. */
void urgent_stop(struct urgent *s);

#endif
