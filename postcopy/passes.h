/*
 * The sender of a migration: a thread that brings memory, and images that are copied, to the
 * destination in passes while the guest runs, until the rest fits into the downtime; and, when the
 * VM stands, that rest, its state and SWITCH. It is the only writer of the link while it runs. It
 * tells the loop of its end by an eventfd, and of nothing else.
 */
#ifndef POSTCOPY_PASSES_H
#define POSTCOPY_PASSES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "postcopy/copies.h"
#include "postcopy/wire.h"
#include "vmm/conf/migrate_conf.h"
#include "vmm/copy/page_out.h"
#include "vmm/machine/machine.h"
#include "vmm/vm/dirty.h"

#define PASSES_FRAME_NS 30000000000ull /* so long a frame may take */

enum passes_part { PASSES_LIVE, PASSES_LAST };

/* Atomic each, for status; QEMU's words in docs/operations.md. */
struct passes_stats {
	uint64_t bytes;	      /* encoded, of pages */
	uint64_t pages;	      /* that went out */
	uint64_t pass;	      /* 1: the first one */
	uint64_t todo, begun; /* pages of this pass; `pages` when it began */
	uint64_t page_rate;   /* pages a second that went out in the last pass, without waits */
	uint64_t byte_rate;   /* likewise bytes */
	uint64_t dirty_rate;  /* pages a second that became dirty in the last pass */
	uint64_t expected_ns; /* for what is dirty now, if the VM stood */
	uint64_t last_pages;  /* sent while the VM stood */
	uint64_t last_ns, state_ns; /* what these and the state took then */
	uint64_t disk_bytes;	    /* of frames of images */
	uint64_t disk_left;	    /* bytes of images that are still to go, as far as is known */
	uint64_t disk_total;	    /* of images that are copied; 0: none is */
	uint64_t disk_rate;	    /* bytes of images a second, without waits */
	uint64_t last_disk_ns;	    /* the images' part of last_ns */
};

struct passes {
	/* The caller's, set before passes_start(). */
	struct dirty *dirty;   /* logging is on */
	struct copies *copies; /* likewise */
	struct stream *stream;
	const struct migrate_conf *conf;
	int notify_fd;		   /* eventfd: the thread has come to its end */
	int fds[MACHINE_MAX_DEVS]; /* images, to be brought to the medium before the VM stands */
	unsigned nfds;
	uint64_t *sent;	       /* a bit for each page that went out; NULL: precopy alone */
	bool lazy;	       /* after PASSES_LIVE: the rest comes when it runs there */
	uint64_t lazy_from_ns; /* with MIGRATE_HOW_AUTO: no more passes after this */
	/* For PASSES_LAST. */
	const struct wire_map *maps; /* void: what was sent of these; else the rest is sent */
	uint32_t nmaps;
	const void *state;
	size_t state_len;
	struct wire_switch last; /* stopped_ns is filled when it is sent */
	uint64_t stopped_at_ns;	 /* CLOCK_MONOTONIC */

	struct passes_stats stats;
	struct err err; /* why it failed; the thread's until passes_join() */
	/* private to passes.c */
	enum passes_part part;
	pthread_t thread;
	bool started;
	bool stop; /* atomic: come to an end */
	pthread_mutex_t lock;
	pthread_cond_t cond; /* stop was set, or written */
	bool asked;	     /* are the copied images on the medium there? */
	bool written;	     /* they are */
	uint8_t *block;	     /* of an image, on its way */
	struct page_out out;
	uint64_t paced_ns, paced_bytes; /* the bandwidth limit: when so many bytes had their time */
	uint64_t waited_ns;		/* for it, in this pass */
};

int passes_init(struct passes *p, struct err *e);
void passes_done(struct passes *p); /* the thread has ended; safe on a zeroed one */
int passes_start(struct passes *p, enum passes_part part, struct err *e);
static inline bool passes_running(const struct passes *p)
{
	return p->started;
}
/* The destination says that what came of images is on the medium there. False: nobody asked. Loop.
 */
bool passes_written(struct passes *p);
/*
 * Have it come to an end with -ECANCELED: at once, unless it hangs at a link that takes nothing;
 * chan_shut() ends that. Any thread.
 */
void passes_stop(struct passes *p);
/* Wait for that. 0: all that the part is for is done; else negative errno and err. Loop. */
int passes_join(struct passes *p);

/* --- its images: postcopy/passes_disks.c, for passes.c; its thread ------------------------------
 */

/* All of them, and then what was changed meanwhile, as long as that becomes less. */
int passes_disks_begin(struct passes *p);
/* What was changed since; 0 when there are none. */
int passes_disks_go_on(struct passes *p);
/* What is there comes to the medium there. */
int passes_disks_bring(struct passes *p);
/* So long the rest would take, if the VM stood. */
uint64_t passes_disks_ns(struct passes *p);
/* Between two frames: -ECANCELED when it is to end. */
int passes_between(void *arg);

#endif
