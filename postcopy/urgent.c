#define _GNU_SOURCE
#include "postcopy/urgent.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "postcopy/wire.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"
#include "vmm/copy/pages.h"

#define SEND_NS	 5000000000ull
#define PRIORITY 2  /* before push: somebody waits */
#define BATCH	 16 /* pages in a frame, so that the first need not wait for the last */
/*
 * Of a link that carries a page at a time TCP says how many round trips there are, not how much it
 * could carry: below this a page takes 0.2 ms either way, and compressing it 0.01.
 */
#define SLOW_RATE  (20u << 20)
#define LOOK_EVERY 64u

static void count(uint64_t *n, uint64_t by)
{
	__atomic_fetch_add(n, by, __ATOMIC_RELAXED);
}

static __attribute__((format(printf, 2, 3))) int refuse(struct urgent *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

static int flush(struct urgent *s, unsigned *n)
{
	struct iovec iov = {s->buf, s->fill};
	int r = stream_send(s->link, FRAME_PAGES, 0, &iov, 1, loop_now_ns() + SEND_NS);

	count(&s->bytes, s->fill);
	s->fill = 0;
	if (r)
		return r; /* what was claimed flies for ever: no end before there is another link */
	count(&s->pages, *n);
	__atomic_fetch_add(&s->link_pages, *n, __ATOMIC_SEQ_CST);
	unsent_written(s->unsent, *n);
	step_reached(STEP_MIG_ANSWERED);
	*n = 0;
	return 0;
}

static void add_page(struct urgent *s, uint64_t page)
{
	if (!s->to_look--) {
		uint64_t rate = chan_rate(&s->link->chan);

		s->slow = rate && rate < SLOW_RATE;
		s->to_look = LOOK_EVERY - 1;
	}
	s->fill += pages_encode(page, mem_page(s->mem, page), NULL, s->slow, s->buf + s->fill);
}

static int want(struct urgent *s, const struct frame *f)
{
	unsigned n = 0;
	int r = 0;

	if (!f->length || f->length % sizeof(uint64_t))
		return refuse(s, "want: a length of %u bytes", f->length);
	for (uint32_t at = 0; at < f->length && !r; at += sizeof(uint64_t)) {
		uint64_t page;

		memcpy(&page, f->data + at, sizeof(page));
		if (page >= s->mem->npages)
			return refuse(s, "want: page %llu of %llu", (unsigned long long)page,
				      (unsigned long long)s->mem->npages);
		count(&s->wants, 1);
		__atomic_store_n(&s->unsent->near, page, __ATOMIC_RELAXED);
		if (!unsent_claim(s->unsent, page)) {
			count(&s->late, 1);
			continue;
		}
		add_page(s, page);
		if (++n == BATCH)
			r = flush(s, &n);
	}
	return r || !n ? r : flush(s, &n);
}

static int removed(struct urgent *s, const struct frame *f)
{
	uint64_t room = s->mem->npages;

	if (!f->length || f->length % sizeof(struct wire_run))
		return refuse(s, "removed: a length of %u bytes", f->length);
	for (uint32_t at = 0; at < f->length; at += sizeof(struct wire_run)) {
		struct wire_run run; /* none twice: bounds the time for a frame */

		memcpy(&run, f->data + at, sizeof(run));
		if (!run.count || run.page >= s->mem->npages ||
		    run.count > s->mem->npages - run.page || run.count > room)
			return refuse(s, "removed: %llu pages from %llu on, of %llu",
				      (unsigned long long)run.count, (unsigned long long)run.page,
				      (unsigned long long)s->mem->npages);
		room -= run.count;
		for (uint64_t i = run.page; i < run.page + run.count; i++)
			if (unsent_claim(s->unsent, i)) {
				count(&s->removed, 1);
				unsent_written(s->unsent, 1);
			}
	}
	return 0;
}

static int take(struct urgent *s, const struct frame *f)
{
	if (f->type == FRAME_WANT)
		return want(s, f);
	if (f->type == FRAME_REMOVED)
		return removed(s, f);
	return refuse(s, "%s: not for this link", stream_frame_name(f->type));
}

static int urgent_round(struct urgent *s)
{
	struct pollfd fds[2] = {{.fd = s->link->fd, .events = POLLIN},
				{.fd = s->stop_fd, .events = POLLIN}};
	struct frame f;
	int r;

	while ((r = stream_recv(s->link, &f)) > 0) {
		r = take(s, &f);
		if (r)
			return r;
	}
	if (r == -EBADMSG)
		refuse(s, "%s", s->link->why);
	if (r)
		return r;
	if (poll(fds, 2, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	return fds[1].revents ? -ECANCELED : 0;
}

static void *thread(void *arg)
{
	struct urgent *s = arg;
	uint64_t one = 1;
	int r;

	loop_raise_priority(PRIORITY);
	do {
		r = urgent_round(s);
	} while (!r);
	if (!s->why[0])
		snprintf(s->why, sizeof(s->why), "%s", strerror(-r));
	__atomic_store_n(&s->error, r, __ATOMIC_RELEASE);
	if (write(s->notify_fd, &one, sizeof(one)) < 0)
		log_debug("urgent: eventfd: %s", strerror(errno));
	return NULL;
}

int urgent_start(struct urgent *s, struct mem *m, struct unsent *u, struct stream *link,
		 int notify_fd, struct err *e)
{
	int r;

	s->mem = m;
	s->unsent = u;
	s->link = link;
	s->notify_fd = notify_fd;
	s->link_pages = 0;
	u->flying = 0; /* of the last links: those who claimed it are gone */
	s->error = 0;
	s->why[0] = 0;
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return err_sys(e, "eventfd");
	s->fill = s->to_look = 0;
	s->buf = malloc(BATCH * PAGE_ENTRY_MAX);
	r = s->buf ? 0 : -ENOMEM;
	if (!r)
		r = -pthread_create(&s->thread, NULL, thread, s);
	if (!r) {
		pthread_setname_np(s->thread, "urgent");
		s->running = true;
		return 0;
	}
	free(s->buf);
	close(s->stop_fd);
	return err_set(e, r, "thread urgent: %s", strerror(-r));
}

int urgent_error(const struct urgent *s, const char **ret_why)
{
	int r = __atomic_load_n(&s->error, __ATOMIC_ACQUIRE);

	if (r && ret_why)
		*ret_why = s->why;
	return r;
}

void urgent_stop(struct urgent *s)
{
	uint64_t one = 1;

	if (!s->running)
		return;
	if (write(s->stop_fd, &one, sizeof(one)) < 0)
		log_debug("urgent: eventfd: %s", strerror(errno));
	chan_shut(&s->link->chan);
	pthread_join(s->thread, NULL);
	free(s->buf);
	close(s->stop_fd);
	s->running = false;
}
