/*
 * The destination's memory while its guest runs and not all of it is there. Knows nothing of roles:
 * pages come by frames, what is missing is asked for on the urgent link, and the owner is told by
 * an eventfd.
 *
 *	pager_open()    memory is filled by pager_take(), as often as the source likes
 *	pager_start()   the switch: from here on who touches an absent page waits until it has come
 *	pager_cut()     a link was lost; who waits goes on waiting
 *	pager_again()   there is another
 *	pager_finish()  all is there: ordinary memory again
 *
 * Owner: the loop, which calls all of this. Thread `pager` serves faults and reads the urgent
 * link, touches no guest memory by itself and waits for nobody who might fault.
 */
#ifndef POSTCOPY_PAGER_H
#define POSTCOPY_PAGER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "postcopy/faults.h"
#include "postcopy/fill.h"
#include "postcopy/have.h"
#include "postcopy/wire.h"
#include "vmm/base/err.h"
#include "vmm/machine/mem.h"
#include "vmm/wire/stream.h"

/* What pager_events() returns. */
enum pager_event {
	PAGER_ARRIVED = 1, /* pages that somebody waits for outside of a fault: look again */
	PAGER_LOST = 2, /* the urgent link is of no use any more: pager_why(); then pager_cut() */
	PAGER_COMPLETE = 4, /* no page is missing: pager_finish(), when EOS has come */
	PAGER_FAILED = 8,   /* this host cannot go on by itself: pager_why(). Who waits, waits */
};

#define PAGER_ASKED 1024u /* pages asked for at once; what faults beyond waits in the kernel */

/* What there is to tell: a copy. */
struct pager_stats {
	struct fill_counts counts;
	struct faults_stats faults;
	uint64_t left;	  /* pages that have not come */
	uint64_t asked;	  /* asked for, and not here yet */
	uint64_t waiting; /* threads that wait */
};

struct pager {
	struct mem *mem;
	int uffd, notify_fd;
	struct have have;
	struct faults faults;
	struct fill_counts counts;
	struct wire_eos eos; /* valid with got_eos */
	bool got_eos;	     /* atomic */
	/* private to pager.c and pager_thread.c */
	struct mem_late late;
	bool started;
	uint32_t events;       /* atomic */
	bool hungry;	       /* atomic: somebody could not even ask */
	pthread_mutex_t lock;  /* of what follows; a leaf */
	pthread_cond_t idle;   /* the thread does not use the link */
	struct stream *urgent; /* NULL: cut */
	bool busy, stop, dead; /* dead: of no use any more */
	char why[256];
	uint64_t *ask; /* ASKED, and not yet sent for: room for PAGER_ASKS */
	unsigned nask;
	struct wire_run *gone; /* taken away, and not yet said so: room for WIRE_RUNS */
	unsigned ngone;
	int wake_fd;
	pthread_t thread;
	struct fill_counts base; /* when this pair of links began */
	struct fill fill[2];	 /* the loop's, the thread's */
};

/*
 * Can this process have userfaults of the kernel's, too, as vCPUs make? Else *e says what mends it.
 * At start, and again when it is asked for: postcopy is refused, not found out about.
 */
int pager_probe(struct err *e);
/*
 * All pages absent. notify_fd: an eventfd of the caller's, written when pager_events() has
 * something. Opens the userfaultfd, so that a sandbox may close behind it.
 */
int pager_open(struct pager *p, struct mem *m, int notify_fd, struct err *e);
/*
 * A frame of the main link: PAGES, MAP or EOS. Before pager_start() a page may come again and be
 * dropped; after it what is here already is dropped. -EBADMSG: the peer's fault, nothing but
 * whole pages was taken. -ENOMEM: the host's memory is full.
 */
int pager_take(struct pager *p, const struct frame *f, struct err *e);
/*
 * A page that is wanted and already on the main link waits for what is before it there: the caller
 * has made that shallow (stream_shallow()).
 *
 * From here on what is absent is waited for, by KVM and the kernel, too, and mem_ready() and
 * mem_discard() know of it. On failure nothing is changed.
 */
int pager_start(struct pager *p, struct stream *urgent, struct err *e);
/* Take and clear what has happened (enum pager_event). */
unsigned pager_events(struct pager *p);
void pager_why(struct pager *p, char *buf, size_t len);
/* Any time between pager_open() and pager_finish(). */
void pager_get_stats(struct pager *p, struct pager_stats *ret);

/* Ask for a page that will be touched; nothing if it is here or asked for. PAGER_ARRIVED follows.
 */
void pager_want(struct pager *p, uint64_t page);
static inline bool pager_has(const struct pager *p, uint64_t page)
{
	return have_state(&p->have, page) >= HAVE_ZERO;
}
static inline uint64_t pager_left(const struct pager *p)
{
	return __atomic_load_n(&p->have.left, __ATOMIC_ACQUIRE);
}

/*
 * The urgent link is the caller's again, to end, when this returns. Faults stay where they are;
 * those that need no peer are resolved. Safe twice.
 */
void pager_cut(struct pager *p);
/*
 * Go on by another: what was asked for and has not come is asked for again. The source's unsent
 * pages are then those that have_bitmap(&p->have) does not have.
 */
void pager_again(struct pager *p, struct stream *urgent);
/* Has EOS come, and has every page that it counts? Then nothing more is on its way. */
bool pager_complete(const struct pager *p);
/* Only when complete: unregister, end the thread, close. The link is the caller's again. */
void pager_finish(struct pager *p);
/*
 * Give up, at any point; safe on a zeroed one. Absent pages read as zero from here on, for threads
 * that wait, too: only when the guest is not to run any more.
 */
void pager_drop(struct pager *p);

#endif
