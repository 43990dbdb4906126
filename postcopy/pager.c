#define _GNU_SOURCE
#include "postcopy/pager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "postcopy/pager_thread.h"
#include "postcopy/uffd.h"
#include "vmm/base/lock.h"
#include "vmm/base/log.h"

#define READY_ASKS 256 /* pages that one look asks for */

int pager_probe(struct err *e)
{
	int fd = uffd_open(e);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int open_fills(struct pager *p)
{
	for (int i = 0; i < 2; i++) {
		p->fill[i] = (struct fill){.mem = p->mem,
					   .uffd = p->uffd,
					   .have = &p->have,
					   .faults = &p->faults,
					   .counts = &p->counts};
		if (fill_init(&p->fill[i]))
			return -ENOMEM;
	}
	return 0;
}

int pager_open(struct pager *p, struct mem *m, int notify_fd, struct err *e)
{
	int r;

	memset(p, 0, sizeof(*p));
	p->uffd = uffd_open(e);
	if (p->uffd < 0)
		return p->uffd;
	p->mem = m;
	p->notify_fd = notify_fd;
	lock_init(&p->lock);
	pthread_cond_init(&p->idle, NULL);
	faults_init(&p->faults);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake_fd < 0) {
		r = err_sys(e, "eventfd");
		goto fail;
	}
	p->ask = calloc(PAGER_ASKS, sizeof(*p->ask));
	p->gone = calloc(WIRE_RUNS, sizeof(*p->gone));
	if (p->ask && p->gone && !have_init(&p->have, m->npages) && !open_fills(p))
		return 0;
	r = err_set(e, -ENOMEM, "postcopy: out of memory for the state of %llu pages",
		    (unsigned long long)m->npages);
fail:
	pager_drop(p);
	return r;
}

/* --- the loop's side of faults ---------------------------------------------------------------- */

void pager_want(struct pager *p, uint64_t page)
{
	/* Asked for later: while so many are on their way, some come and the caller looks again. */
	if (__atomic_load_n(&p->have.asked, __ATOMIC_ACQUIRE) >= 2 * PAGER_ASKED) {
		__atomic_store_n(&p->hungry, true, __ATOMIC_RELEASE);
		return;
	}
	if (have_ask(&p->have, page, HAVE_LOOP) == HAVE_ABSENT)
		pager_ask(p, page);
	pager_wake(p);
}

static bool page_ready(struct pager *p, uint64_t page, unsigned *zeros)
{
	enum have_state s = have_state(&p->have, page);

	if (s < HAVE_ZERO) {
		pager_want(p, page);
		s = have_state(&p->have, page); /* it may have come in between */
	}
	if (s != HAVE_ZERO)
		return s > HAVE_ZERO;
	++*zeros;
	if (!fill_zero(&p->fill[0], page))
		return true;
	__atomic_store_n(&p->hungry, true, __ATOMIC_RELEASE); /* looks again */
	pager_tell(p, PAGER_FAILED);
	return false;
}

static bool ready(void *arg, uint64_t page, uint64_t n)
{
	unsigned missing = 0, zeros = 0;
	uint64_t end = page + n;

	/* Not all of a large range at once: whoever hears that some have come looks again. */
	for (; page < end && missing < READY_ASKS && zeros < READY_ASKS; page++)
		missing += !page_ready(arg, page, &zeros);
	if (page < end && !missing)
		pager_tell(arg, PAGER_ARRIVED);
	return page == end && !missing;
}

/* It is only to spare the source: what finds no room is sent, and dropped here. */
static void note_gone(void *arg, uint64_t page, uint64_t count)
{
	struct pager *p = arg;
	struct wire_run *last;

	__atomic_fetch_add(&p->counts.removed, count, __ATOMIC_RELAXED);
	pthread_mutex_lock(&p->lock);
	last = p->ngone ? &p->gone[p->ngone - 1] : NULL;
	if (last && page == last->page + last->count)
		last->count += count;
	else if (last && page + count == last->page)
		*last = (struct wire_run){page, last->count + count};
	else if (p->ngone < WIRE_RUNS)
		p->gone[p->ngone++] = (struct wire_run){page, count};
	pthread_mutex_unlock(&p->lock);
}

static void discard(void *arg, uint64_t page, uint64_t n)
{
	struct pager *p = arg;
	unsigned waiters = have_remove(&p->have, page, n, note_gone, p);

	if (!waiters)
		return;
	/* A guest that gives back what it waits for: zeros will do. */
	for (uint64_t i = 0; i < n; i++)
		if (have_state(&p->have, page + i) == HAVE_ZERO && fill_zero(&p->fill[0], page + i))
			pager_tell(p, PAGER_FAILED);
	p->fill[0].waiters |= waiters;
}

static void discarded(void *arg, uint64_t page, uint64_t n)
{
	struct pager *p = arg;

	have_emptied(&p->have, page, n);
	pager_filled(p, &p->fill[0]);
	pager_wake(p);
}

/* --- life ------------------------------------------------------------------------------------- */

/* What was put there before, as by a firmware's start, is not the guest's. */
static int empty_absent(struct pager *p)
{
	uint64_t page = 0, n = p->mem->npages;
	bool all = pager_left(p) == n;

	while ((page = have_next(&p->have, page, HAVE_ABSENT)) < n) {
		uint64_t end = page;
		int r;

		while (end < n && (all || have_state(&p->have, end) == HAVE_ABSENT))
			end += all ? n - end : 1;
		r = mem_empty_pages(p->mem, page, end - page);
		if (r)
			return r;
		page = end;
	}
	return 0;
}

int pager_start(struct pager *p, struct stream *urgent, struct err *e)
{
	int r;

	/* A huge page in place of small ones would fill what is missing. */
	madvise(p->mem->base, p->mem->bytes, MADV_NOHUGEPAGE);
	r = empty_absent(p);

	if (r)
		return err_set(e, r, "postcopy: guest memory cannot be emptied: %s", strerror(-r));
	r = uffd_register(p->uffd, p->mem);
	if (r)
		return err_set(e, r, "postcopy: userfaultfd refuses guest memory: %s",
			       strerror(-r));
	p->urgent = urgent;
	r = pthread_create(&p->thread, NULL, pager_thread, p);
	if (r) {
		p->urgent = NULL;
		uffd_unregister(p->uffd, p->mem);
		return err_set(e, -r, "thread pager: %s", strerror(r));
	}
	pthread_setname_np(p->thread, "pager");
	p->started = true;
	p->late = (struct mem_late){ready, discard, discarded, p};
	p->mem->late = &p->late;
	return 0;
}

unsigned pager_events(struct pager *p)
{
	return __atomic_exchange_n(&p->events, 0, __ATOMIC_ACQ_REL);
}

void pager_why(struct pager *p, char *buf, size_t len)
{
	pthread_mutex_lock(&p->lock);
	snprintf(buf, len, "%s", p->why);
	pthread_mutex_unlock(&p->lock);
}

void pager_get_stats(struct pager *p, struct pager_stats *ret)
{
	const uint64_t *from = (const uint64_t *)&p->counts;
	uint64_t *to = (uint64_t *)&ret->counts;

	for (unsigned i = 0; i < sizeof(p->counts) / sizeof(*from); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	faults_get(&p->faults, &ret->faults);
	ret->left = pager_left(p);
	ret->asked = __atomic_load_n(&p->have.asked, __ATOMIC_RELAXED);
	ret->waiting = __atomic_load_n(&p->faults.waiting, __ATOMIC_RELAXED);
}

void pager_cut(struct pager *p)
{
	pthread_mutex_lock(&p->lock);
	if (p->urgent)
		chan_shut(&p->urgent->chan);
	p->urgent = NULL;
	pager_wake(p);
	while (p->busy)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

void pager_again(struct pager *p, struct stream *urgent)
{
	pthread_mutex_lock(&p->lock);
	p->nask = p->ngone = 0;
	p->got_eos = p->dead = false;
	p->base = p->counts;
	/* Of the last link, which may have ended after it was cut. */
	__atomic_fetch_and(&p->events, ~(unsigned)(PAGER_LOST | PAGER_FAILED), __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&p->lock);
	for (uint64_t i = 0; (i = have_next(&p->have, i, HAVE_ASKED)) < p->mem->npages; i++)
		pager_ask(p, i);
	/* What the host could not do is tried again. */
	uffd_wake(p->uffd, p->mem, 0, p->mem->npages);
	pthread_mutex_lock(&p->lock);
	p->urgent = urgent;
	pthread_mutex_unlock(&p->lock);
	pager_wake(p);
}

bool pager_complete(const struct pager *p)
{
	return p->got_eos && !pager_left(p);
}

static void end_thread(struct pager *p)
{
	pager_cut(p);
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pager_wake(p);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	p->mem->late = NULL;
	p->started = false;
}

void pager_finish(struct pager *p)
{
	VMM_BUG_ON(pager_left(p));
	pager_drop(p);
}

void pager_drop(struct pager *p)
{
	if (!p->mem)
		return;
	if (p->started) {
		end_thread(p);
		uffd_unregister(p->uffd, p->mem); /* wakes whoever waits */
	}
	close(p->uffd);
	close(p->wake_fd);
	free(p->ask);
	free(p->gone);
	fill_done(&p->fill[0]);
	fill_done(&p->fill[1]);
	have_done(&p->have);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->idle);
	memset(p, 0, sizeof(*p));
}
