#include "postcopy/pager_thread.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "postcopy/uffd.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"

#define SEND_NS	 5000000000ull /* for a frame of requests, on a link that had room for it */
#define FEW	 64	       /* requests for which there is room without a look */
#define PRIORITY 2	       /* before the loop: who faults waits for nothing else */
#define FAULTS	 16
#define FRAMES	 64 /* of the urgent link, before faults are looked at again */

void pager_tell(struct pager *p, unsigned events)
{
	uint64_t one = 1;

	if (!(~__atomic_fetch_or(&p->events, events, __ATOMIC_ACQ_REL) & events))
		return;
	if (write(p->notify_fd, &one, sizeof(one)) < 0)
		log_debug("pager: eventfd: %s", strerror(errno));
}

void pager_wake(struct pager *p)
{
	uint64_t one = 1;

	if (write(p->wake_fd, &one, sizeof(one)) < 0)
		log_debug("pager: eventfd: %s", strerror(errno));
}

/* What has come meanwhile need not be asked for. Under lock. */
static void drop_stale(struct pager *p)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < p->nask; i++)
		if (have_state(&p->have, p->ask[i]) == HAVE_ASKED)
			p->ask[kept++] = p->ask[i];
	p->nask = kept;
}

void pager_ask(struct pager *p, uint64_t page)
{
	pthread_mutex_lock(&p->lock);
	if (p->nask == PAGER_ASKS)
		drop_stale(p);
	VMM_BUG_ON(p->nask == PAGER_ASKS);
	p->ask[p->nask++] = page;
	pthread_mutex_unlock(&p->lock);
}

void pager_filled(struct pager *p, struct fill *f)
{
	unsigned events = 0;

	if ((f->waiters & HAVE_LOOP) || (__atomic_load_n(&p->hungry, __ATOMIC_RELAXED) &&
					 __atomic_exchange_n(&p->hungry, false, __ATOMIC_ACQ_REL)))
		events = PAGER_ARRIVED;
	f->waiters = 0;
	if (!pager_left(p))
		events |= PAGER_COMPLETE;
	if (events)
		pager_tell(p, events);
}

bool pager_cheated(const struct pager *p)
{
	return __atomic_load_n(&p->got_eos, __ATOMIC_ACQUIRE) && pager_left(p) &&
	       __atomic_load_n(&p->counts.urgent, __ATOMIC_ACQUIRE) - p->base.urgent >=
		       p->eos.urgent;
}

/* What the thread has in hand; only it uses this. */
struct work {
	struct pager *p;
	struct stream *link; /* NULL: none, or of no use */
	struct pollfd fds[3];
	bool writable; /* the link has room for a large frame */
	bool owes;     /* there is something to be sent */
	bool unread;   /* frames may be in the stream's buffer, of which no poll tells */
	uint64_t ask[WIRE_WANTS];
	struct wire_run gone[WIRE_RUNS];
};

enum { WAKE, FAULT, LINK };

static void lose(struct work *w, unsigned event, const char *what, const char *why)
{
	pthread_mutex_lock(&w->p->lock);
	snprintf(w->p->why, sizeof(w->p->why), "%.60s: %.180s", what, why);
	w->p->dead = true;
	pthread_mutex_unlock(&w->p->lock);
	w->link = NULL;
	pager_tell(w->p, event);
}

/* The link for this round. False: end. */
static bool begin_round(struct work *w)
{
	struct pager *p = w->p;
	bool stop;

	pthread_mutex_lock(&p->lock);
	w->link = p->stop || p->dead ? NULL : p->urgent;
	w->unread &= w->link != NULL;
	p->busy = w->link != NULL;
	if (!p->busy)
		pthread_cond_broadcast(&p->idle);
	stop = p->stop;
	pthread_mutex_unlock(&p->lock);
	return !stop;
}

/* --- faults ----------------------------------------------------------------------------------- */

static void resolve(struct work *w, uint64_t page)
{
	int r = fill_zero(&w->p->fill[1], page);

	if (r)
		lose(w, PAGER_FAILED, "guest memory", strerror(-r));
}

static void fault(struct work *w, const struct uffd_fault *f)
{
	struct pager *p = w->p;

	faults_begin(&p->faults, f->tid, f->page, loop_now_ns());
	switch (have_ask(&p->have, f->page, HAVE_FAULT)) {
	case HAVE_ABSENT:
		pager_ask(p, f->page);
		break;
	case HAVE_ASKED:
	case HAVE_CLAIMED:
		break;
	case HAVE_ZERO:
	case HAVE_PAGE:
		resolve(w, f->page);
		break;
	}
}

static void read_faults(struct work *w)
{
	struct uffd_fault f[FAULTS];
	int n = uffd_read(w->p->uffd, w->p->mem, f, FAULTS);

	if (n < 0)
		lose(w, PAGER_FAILED, "userfaultfd", strerror(-n));
	for (int i = 0; i < n; i++)
		fault(w, &f[i]);
}

/* --- the urgent link -------------------------------------------------------------------------- */

static bool send_frame(struct work *w, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};
	int r = stream_send(w->link, type, 0, &iov, 1, loop_now_ns() + SEND_NS);

	if (r)
		lose(w, PAGER_LOST, "urgent link", strerror(-r));
	return !r;
}

static unsigned take_gone(struct work *w)
{
	struct pager *p = w->p;
	unsigned n = p->ngone;

	memcpy(w->gone, p->gone, n * sizeof(p->gone[0]));
	p->ngone = 0;
	return n;
}

/*
 * A peer that does not read is not waited for: beyond a few requests the link is to say that it
 * has room. What piles up meanwhile goes in one frame.
 */
static void send_wants(struct work *w)
{
	struct pager *p = w->p;
	unsigned nask = 0, ngone, n;

	pthread_mutex_lock(&p->lock);
	w->owes = p->nask || p->ngone;
	if (!w->writable && __atomic_load_n(&p->have.asked, __ATOMIC_RELAXED) > FEW) {
		pthread_mutex_unlock(&p->lock);
		return;
	}
	n = p->nask < WIRE_WANTS ? p->nask : WIRE_WANTS;
	/* What has come meanwhile need not be asked for. */
	for (unsigned i = 0; i < n; i++)
		if (have_state(&p->have, p->ask[i]) == HAVE_ASKED)
			w->ask[nask++] = p->ask[i];
	p->nask -= n;
	memmove(p->ask, p->ask + n, p->nask * sizeof(p->ask[0]));
	ngone = w->writable ? take_gone(w) : 0;
	w->owes = p->nask || p->ngone;
	pthread_mutex_unlock(&p->lock);
	__atomic_fetch_add(&p->counts.wants, nask, __ATOMIC_RELAXED);
	if (nask && !send_frame(w, FRAME_WANT, w->ask, nask * sizeof(w->ask[0])))
		return;
	if (nask)
		step_reached(STEP_MIG_WANTS);
	if (ngone)
		send_frame(w, FRAME_REMOVED, w->gone, ngone * sizeof(w->gone[0]));
}

static void take(struct work *w, const struct frame *f)
{
	struct pager *p = w->p;
	struct err e = {0};
	int r;

	if (f->type != FRAME_PAGES) {
		lose(w, PAGER_LOST, "urgent link: a frame that is not of pages",
		     stream_frame_name(f->type));
		return;
	}
	r = fill_frame(&p->fill[1], f, true, &e);
	pager_filled(p, &p->fill[1]);
	if (!r && pager_cheated(p))
		r = err_set(&e, -EBADMSG, "the end came, and %llu pages did not",
			    (unsigned long long)pager_left(p));
	if (r)
		lose(w, r == -EBADMSG ? PAGER_LOST : PAGER_FAILED, "urgent link", e.msg);
}

static void read_link(struct work *w)
{
	struct frame f;

	w->unread = false;
	for (int i = 0; i < FRAMES && w->link; i++) {
		int r = stream_recv(w->link, &f);

		if (!r)
			return;
		if (r > 0)
			take(w, &f);
		else
			lose(w, PAGER_LOST, "urgent link", stream_trouble(w->link, r));
	}
	w->unread = w->link;
}

static void drain(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_debug("pager: eventfd: %s", strerror(errno));
}

/*
 * Faults beyond what may be asked for stay in the kernel: a peer that stops reading costs no
 * memory here.
 */
static void wait_round(struct work *w)
{
	struct pager *p = w->p;
	bool room = __atomic_load_n(&p->have.asked, __ATOMIC_ACQUIRE) < PAGER_ASKED;

	w->fds[WAKE] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
	w->fds[FAULT] = (struct pollfd){.fd = room ? p->uffd : -1, .events = POLLIN};
	w->fds[LINK] = (struct pollfd){.fd = w->link ? w->link->fd : -1,
				       .events = w->owes ? POLLIN | POLLOUT : POLLIN};
	if (poll(w->fds, 3, w->unread ? 0 : -1) < 0)
		w->fds[WAKE].revents = w->fds[FAULT].revents = w->fds[LINK].revents = 0;
	w->writable = w->fds[LINK].revents & POLLOUT;
}

void *pager_thread(void *arg)
{
	struct pager *p = arg;
	struct work w = {.p = p};

	loop_raise_priority(PRIORITY);
	while (begin_round(&w)) {
		if (w.link)
			send_wants(&w);
		wait_round(&w);
		if (w.fds[WAKE].revents)
			drain(p->wake_fd);
		if ((w.fds[LINK].revents || w.unread) && w.link)
			read_link(&w);
		if (w.fds[FAULT].revents)
			read_faults(&w);
	}
	return NULL;
}
