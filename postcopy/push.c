#define _GNU_SOURCE
#include "postcopy/push.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "postcopy/wire.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"

#define SEND_NS	 5000000000ull
#define LAST_NS	 100000000ull /* for a small frame, with its answer there already */
#define BATCH	 32u	      /* pages in a frame: what is in one is late for who waits for it */
#define BURST_NS 10000000ull  /* that may be made up for when the thread was away */
#define STEP_NS	 100000000ull /* the limit may change meanwhile */
#define FOREVER	 (1ull << 62)

static void count(uint64_t *n, uint64_t by)
{
	__atomic_fetch_add(n, by, __ATOMIC_RELAXED);
}

static bool stopped(const struct push *p)
{
	return __atomic_load_n(&p->stop, __ATOMIC_ACQUIRE);
}

/* --- memory that was never touched ------------------------------------------------------------ */

struct maps {
	struct push *p;
	struct wire_map *map; /* WIRE_MAPS */
	unsigned n;
	uint64_t pages;
};

static int send_maps(struct maps *m)
{
	struct iovec iov = {m->map, m->n * sizeof(m->map[0])};
	struct push *p = m->p;
	int r;

	if (!m->n)
		return 0;
	r = stream_send(p->out->stream, FRAME_MAP, 0, &iov, 1, loop_now_ns() + SEND_NS);
	if (r)
		return r;
	count(&p->zero, m->pages);
	count(&p->bytes, iov.iov_len);
	p->link_zero += m->pages;
	unsent_written(p->unsent, m->pages);
	m->n = 0;
	m->pages = 0;
	return stopped(p) ? -ECANCELED : 0;
}

static void add_run(struct maps *m, uint64_t page, uint64_t count)
{
	struct wire_map *last = m->n ? &m->map[m->n - 1] : NULL;

	m->pages += count;
	if (last && last->page + last->count == page)
		last->count += count;
	else
		m->map[m->n++] =
			(struct wire_map){.page = page, .count = count, .kind = WIRE_MAP_ZERO};
}

/* At most 64 pages, in one word. */
static int map_word(struct maps *m, uint64_t page, uint64_t n)
{
	uint64_t mask = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << (page % 64);
	uint64_t bits = unsent_take(m->p->unsent, page / 64, mask), base = page & ~63ull;

	while (bits) {
		unsigned from = (unsigned)__builtin_ctzll(bits);
		uint64_t rest = ~(bits >> from);
		unsigned len = rest ? (unsigned)__builtin_ctzll(rest) : 64;

		len = len > 64 - from ? 64 - from : len;
		add_run(m, base + from, len);
		bits &= len == 64 ? 0 : ~(((1ull << len) - 1) << from);
	}
	if (m->n + 64 > WIRE_MAPS || m->pages + 64 > WIRE_MAP_PAGES)
		return send_maps(m);
	return 0;
}

static int map_hole(struct maps *m, uint64_t page, uint64_t end)
{
	int r = 0;

	while (page < end && !r) {
		uint64_t n = 64 - page % 64;

		n = n < end - page ? n : end - page;
		r = map_word(m, page, n);
		page += n;
	}
	return r;
}

/* Looking at it would allocate it; and sending it page by page would cost 8 bytes for each. */
static int send_holes(struct push *p)
{
	struct maps m = {.p = p, .map = calloc(WIRE_MAPS, sizeof(struct wire_map))};
	uint64_t off = 0, end, hole = 0;
	int r = m.map ? 0 : -ENOMEM;

	while (!r && mem_next_data(p->mem, &off, &end)) {
		r = map_hole(&m, hole >> MEM_PAGE_SHIFT, off >> MEM_PAGE_SHIFT);
		off = hole = end;
	}
	if (!r)
		r = map_hole(&m, hole >> MEM_PAGE_SHIFT, p->mem->npages);
	if (!r)
		r = send_maps(&m);
	free(m.map);
	return r;
}

/* --- pages ------------------------------------------------------------------------------------ */

/* Where to go on: behind what was asked for last, if that is news. */
static uint64_t next_page(struct push *p, uint64_t cursor, uint64_t *near)
{
	uint64_t now = __atomic_load_n(&p->unsent->near, __ATOMIC_RELAXED), page;

	if (now != *near)
		cursor = *near = now;
	page = cursor < p->mem->npages ? unsent_next(p->unsent, cursor) : p->mem->npages;
	return page < p->mem->npages ? page : unsent_next(p->unsent, 0);
}

/* From `page` on, what of its word is unsent, BATCH at most. Where the next begins. */
static int send_batch(struct push *p, uint64_t page, uint64_t *ret_next)
{
	uint64_t n = 64 - page % 64, bits, sent = 0;
	int r;

	n = n < BATCH ? n : BATCH;
	bits = unsent_take(p->unsent, page / 64, ((1ull << n) - 1) << (page % 64));
	*ret_next = page + n;
	for (; bits; bits &= bits - 1) {
		uint64_t at = (page & ~63ull) + (uint64_t)__builtin_ctzll(bits);

		page_out_add(p->out, at, mem_page(p->mem, at), NULL);
		sent++;
	}
	r = page_out_flush(p->out);
	if (r)
		return r; /* these fly for ever: no end before there is another link */
	count(&p->pages, sent);
	p->link_pages += sent;
	unsent_written(p->unsent, sent);
	step_reached(STEP_MIG_PUSHED);
	return 0;
}

/* When the next frame may go out, so many bytes after one that might at *at_ns. */
static void pace(struct push *p, uint64_t bytes, uint64_t *at_ns)
{
	uint64_t rate = __atomic_load_n(&p->rate, __ATOMIC_RELAXED), now = loop_now_ns();

	if (!rate)
		return;
	if (*at_ns + BURST_NS < now)
		*at_ns = now - BURST_NS;
	*at_ns += bytes * 1000000000ull / rate;
	while (*at_ns > now && !stopped(p)) {
		if (unsent_over(p->unsent) || !__atomic_load_n(&p->rate, __ATOMIC_RELAXED))
			return;
		unsent_wait(p->unsent, &p->stop, *at_ns < now + STEP_NS ? *at_ns : now + STEP_NS);
		now = loop_now_ns();
	}
}

static int send_pages(struct push *p)
{
	uint64_t near = __atomic_load_n(&p->unsent->near, __ATOMIC_RELAXED), page = near, at_ns = 0;

	while (!stopped(p)) {
		uint64_t before = __atomic_load_n(&p->bytes, __ATOMIC_RELAXED);
		int r;

		page = next_page(p, page, &near);
		if (page == p->mem->npages)
			return 0;
		r = send_batch(p, page, &page);
		if (r)
			return r;
		pace(p, __atomic_load_n(&p->bytes, __ATOMIC_RELAXED) - before, &at_ns);
	}
	return -ECANCELED;
}

/* Both links have all of it. */
static int send_eos(struct push *p)
{
	struct wire_eos eos = {
		.urgent = __atomic_load_n(&p->urgent->link_pages, __ATOMIC_SEQ_CST),
		.pushed = p->link_pages,
		.zero = p->link_zero,
		.removed = __atomic_load_n(&p->urgent->removed, __ATOMIC_RELAXED),
	};
	struct iovec iov = {&eos, sizeof(eos)};
	int r;

	__atomic_store_n(&p->last, true, __ATOMIC_RELEASE);
	r = stream_send(p->out->stream, FRAME_EOS, 0, &iov, 1, loop_now_ns() + SEND_NS);
	step_reached(STEP_MIG_EOS);
	return r;
}

static int push(struct push *p)
{
	int r = send_holes(p);

	if (!r && p->background)
		r = send_pages(p);
	if (r)
		return r;
	unsent_wait(p->unsent, &p->stop, FOREVER);
	return stopped(p) ? -ECANCELED : send_eos(p);
}

static void *thread(void *arg)
{
	struct push *p = arg;
	uint64_t one = 1;
	int r = push(p);

	if (r)
		__atomic_store_n(&p->error, r, __ATOMIC_RELEASE);
	else
		__atomic_store_n(&p->eos, true, __ATOMIC_RELEASE);
	if (write(p->notify_fd, &one, sizeof(one)) < 0)
		log_debug("push: eventfd: %s", strerror(errno));
	return NULL;
}

int push_start(struct push *p, struct page_out *out, struct urgent *urgent, int notify_fd,
	       struct err *e)
{
	int r;

	p->mem = urgent->mem;
	p->unsent = urgent->unsent;
	p->urgent = urgent;
	p->out = out;
	p->out->sent = &p->bytes;
	p->notify_fd = notify_fd;
	p->error = 0;
	p->stop = p->last = p->eos = false;
	p->link_pages = p->link_zero = 0;
	stream_shallow(out->stream);
	r = pthread_create(&p->thread, NULL, thread, p);
	if (r)
		return err_set(e, -r, "thread push: %s", strerror(r));
	pthread_setname_np(p->thread, "push");
	p->running = true;
	return 0;
}

int push_error(const struct push *p)
{
	return __atomic_load_n(&p->error, __ATOMIC_ACQUIRE);
}

/* EOS may be out, and have its answer, before the thread has come to its end. */
static bool has_ended(struct push *p)
{
	uint64_t until = loop_now_ns() + LAST_NS;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000),
			     .tv_nsec = (long)(until % 1000000000)};

	if (__atomic_load_n(&p->eos, __ATOMIC_ACQUIRE))
		return !pthread_join(p->thread, NULL);
	return __atomic_load_n(&p->last, __ATOMIC_ACQUIRE) &&
	       !pthread_clockjoin_np(p->thread, NULL, CLOCK_MONOTONIC, &t);
}

void push_stop(struct push *p)
{
	if (!p->running)
		return;
	unsent_stir(p->unsent, &p->stop);
	if (!has_ended(p)) {
		chan_shut(&p->out->stream->chan);
		pthread_join(p->thread, NULL);
	}
	p->running = false;
}
