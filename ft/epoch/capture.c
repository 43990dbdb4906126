#define _GNU_SOURCE
#include "ft/epoch/capture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HOT_COOL      8	 /* equal this many epochs: protect again */
#define BUFFER_WAIT_S 30 /* the link's own deadlines are much shorter */
#define MIN_BUFS      256u

int capture_init(struct capture *c, struct kvm *kvm, struct mem *mem, uint64_t staging_bytes,
		 struct err *e)
{
	pthread_condattr_t ca;
	int r;

	memset(c, 0, sizeof(*c));
	c->mem = mem;
	c->nbufs =
		staging_bytes / MEM_PAGE_SIZE > MIN_BUFS ? staging_bytes / MEM_PAGE_SIZE : MIN_BUFS;
	c->hot_max = c->nbufs / 2;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&c->returned, &ca);
	pthread_condattr_destroy(&ca);
	r = dirty_start(&c->dirty, kvm, mem, e);
	if (r)
		return r;
	c->free = calloc(c->nbufs, sizeof(*c->free));
	c->hot = calloc(c->hot_max, sizeof(*c->hot));
	c->hot_bits = calloc(c->dirty.nwords, sizeof(uint64_t));
	c->last_bits = calloc(c->dirty.nwords, sizeof(uint64_t));
	c->pool = mmap(NULL, ((size_t)c->nbufs + 1) * MEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->pool == MAP_FAILED)
		c->pool = NULL;
	if (!c->free || !c->hot || !c->hot_bits || !c->last_bits || !c->pool ||
	    bases_init(&c->bases, c->nbufs / 4)) {
		capture_done(c);
		return err_set(e, -ENOMEM, "staging memory of %u pages: out of memory (--staging)",
			       c->nbufs);
	}
	/* A stack: buffers used last are used next, so the working set stays small and in cache. */
	for (uint32_t i = 0; i < c->nbufs; i++)
		c->free[i] = c->pool + (size_t)(c->nbufs - 1 - i) * MEM_PAGE_SIZE;
	c->nfree = c->nbufs;
	c->zeros = c->pool + (size_t)c->nbufs * MEM_PAGE_SIZE;
	return 0;
}

void capture_done(struct capture *c)
{
	if (!c->mem)
		return;
	dirty_stop(&c->dirty);
	if (c->pool)
		munmap(c->pool, ((size_t)c->nbufs + 1) * MEM_PAGE_SIZE);
	bases_done(&c->bases);
	free(c->free);
	free(c->hot);
	free(c->hot_bits);
	free(c->last_bits);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->returned);
	memset(c, 0, sizeof(*c));
}

void capture_close(struct capture *c)
{
	pthread_mutex_lock(&c->lock);
	c->closed = true;
	pthread_cond_signal(&c->returned);
	pthread_mutex_unlock(&c->lock);
}

static void put_buf(struct capture *c, uint8_t *buf)
{
	pthread_mutex_lock(&c->lock);
	c->free[c->nfree++] = buf;
	pthread_cond_signal(&c->returned);
	pthread_mutex_unlock(&c->lock);
}

void capture_put(struct capture *c, const struct capture_page *pages, uint32_t n)
{
	pthread_mutex_lock(&c->lock);
	for (const struct capture_page *p = pages; p < pages + n; p++) {
		if (p->base)
			c->free[c->nfree++] = p->base;
		if (!p->keep)
			c->free[c->nfree++] = p->now;
	}
	pthread_cond_signal(&c->returned);
	pthread_mutex_unlock(&c->lock);
}

/* --- one capture ------------------------------------------------------------------------------ */

struct run {
	struct capture *c;
	struct capture_batch **batch;
	capture_push_fn *push;
	void *arg;
	int64_t count;
};

/* Let the sender have what there is so far. */
static int push_batch(struct run *r)
{
	struct capture_batch *next = r->push(r->arg, *r->batch);

	if (!next)
		return -EPIPE;
	*r->batch = next;
	return 0;
}

/* No buffer free: wait for the sender to give some back. */
static int wait_for_buffers(struct run *r)
{
	struct capture *c = r->c;
	struct timespec until;
	int res = push_batch(r);

	if (res)
		return res;
	c->waits++;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += BUFFER_WAIT_S;
	pthread_mutex_lock(&c->lock);
	while (!c->nfree && !c->closed && !res)
		if (pthread_cond_timedwait(&c->returned, &c->lock, &until) == ETIMEDOUT)
			res = -ETIMEDOUT;
	if (c->closed)
		res = -EPIPE;
	pthread_mutex_unlock(&c->lock);
	return res;
}

static void fetch_bufs(struct capture *c)
{
	uint32_t room = sizeof(c->mine) / sizeof(c->mine[0]);

	pthread_mutex_lock(&c->lock);
	c->nmine = c->nfree < room ? c->nfree : room;
	c->nfree -= c->nmine;
	memcpy(c->mine, c->free + c->nfree, c->nmine * sizeof(c->mine[0]));
	pthread_mutex_unlock(&c->lock);
}

static uint8_t *take_buf(struct run *r, int *ret_err)
{
	struct capture *c = r->c;
	uint8_t *buf = NULL;

	*ret_err = 0;
	while (!buf && !*ret_err) {
		if (!c->nmine)
			fetch_bufs(c);
		if (c->nmine)
			buf = c->mine[--c->nmine];
		if (!buf)
			buf = bases_steal(&c->bases);
		if (!buf)
			*ret_err = wait_for_buffers(r);
	}
	return buf;
}

/* Pages of zeros take no buffer, so a batch may be full while there are buffers. */
static int put_page(struct run *r, struct capture_page page)
{
	int err = (*r->batch)->n == (*r->batch)->cap ? push_batch(r) : 0;

	if (err)
		return err;
	(*r->batch)->pages[(*r->batch)->n++] = page;
	r->count++;
	return 0;
}

static int add_page(struct run *r, uint64_t page, uint8_t *base, bool keep, uint8_t **ret_copy)
{
	int err;
	uint8_t *buf = take_buf(r, &err);

	if (!buf)
		return err;
	memcpy(buf, mem_page(r->c->mem, page), MEM_PAGE_SIZE);
	*ret_copy = buf;
	return put_page(r, (struct capture_page){page, buf, base, keep});
}

/* Given back to the host, and still without memory? */
static bool is_hole(struct capture *c, uint64_t page)
{
	return mem_absent(c->mem, page, &c->hole);
}

/* `keep`, so that the sender leaves the one page of zeros alone. */
static int add_zeros(struct run *r, uint64_t page)
{
	dirty_set(r->c->dirty.clear, page);
	return put_page(r, (struct capture_page){page, r->c->zeros, NULL, true});
}

static void keep_base(struct capture *c, uint64_t page, uint8_t *copy)
{
	uint8_t *displaced = bases_put(&c->bases, page, copy);

	if (displaced)
		put_buf(c, displaced);
}

/* The page is not in the hot set any more; the place is the last one's now. */
static void forget_hot(struct capture *c, struct hot_page *h)
{
	dirty_unset(c->hot_bits, h->page);
	dirty_unset(c->last_bits, h->page);
	*h = c->hot[--c->nhot];
}

static int capture_hot_hole(struct run *r, struct hot_page *h)
{
	uint64_t page = h->page;

	put_buf(r->c, h->copy);
	forget_hot(r->c, h);
	return add_zeros(r, page);
}

/* Compare every hot page with what was sent last; drop the ones that cooled down. */
static int capture_hot(struct run *r)
{
	struct capture *c = r->c;

	for (uint32_t i = 0; i < c->nhot;) {
		struct hot_page *h = &c->hot[i];
		uint8_t *copy;
		int err;

		if (is_hole(c, h->page)) {
			err = capture_hot_hole(r, h);
			if (err)
				return err;
			continue;
		}
		c->compared++;
		if (memcmp(mem_page(c->mem, h->page), h->copy, MEM_PAGE_SIZE)) {
			err = add_page(r, h->page, h->copy, true, &copy);
			if (err)
				return err;
			h->copy = copy;
			h->equal = 0;
			c->sent_hot++;
			i++;
		} else if (++h->equal < HOT_COOL) {
			i++;
		} else {
			/* Equal now and protected from here on: nothing is missed. */
			dirty_set(c->dirty.clear, h->page);
			if (bases_room(&c->bases, h->page))
				keep_base(c, h->page, h->copy);
			else
				put_buf(c, h->copy);
			forget_hot(c, h);
		}
	}
	return 0;
}

static int capture_cold_hole(struct run *r, uint64_t page)
{
	uint8_t *base = bases_take(&r->c->bases, page);

	if (base)
		put_buf(r->c, base);
	return add_zeros(r, page);
}

static int capture_cold_page(struct run *r, uint64_t page, bool was_dirty)
{
	struct capture *c = r->c;
	bool hot = was_dirty && c->nhot < c->hot_max;
	bool keep = hot || bases_room(&c->bases, page);
	uint8_t *copy;
	int err;

#ifdef BUG_SKIP_PAGE /* planted: the tests must notice */
	if (page % 64 == 63) {
		dirty_set(c->dirty.clear, page);
		return 0;
	}
#endif
	if (is_hole(c, page))
		return capture_cold_hole(r, page);
	mem_found(c->mem, page);
	err = add_page(r, page, bases_take(&c->bases, page), keep, &copy);
	if (err)
		return err;
	if (!hot) {
		dirty_set(c->dirty.clear, page);
		if (keep)
			keep_base(c, page, copy);
		return 0;
	}
	dirty_set(c->hot_bits, page);
	c->hot[c->nhot++] = (struct hot_page){page, copy, 0};
	return 0;
}

static int capture_cold(struct run *r)
{
	struct capture *c = r->c;

	for (uint64_t w = 0; w < c->dirty.nwords; w++) {
		/* What cooled down just now is in `clear` and was compared already. */
		uint64_t bits = c->dirty.bits[w] & ~c->hot_bits[w] & ~c->dirty.clear[w];
		uint64_t last = c->last_bits[w];

		c->last_bits[w] = bits;
		while (bits) {
			unsigned b = __builtin_ctzll(bits);
			int err = capture_cold_page(r, w * 64 + b, last >> b & 1);

			if (err)
				return err;
			bits &= bits - 1;
		}
	}
	return 0;
}

int64_t capture_pages(struct capture *c, struct capture_batch **batch, capture_push_fn *push,
		      void *arg)
{
	struct run r = {c, batch, push, arg, 0};
	int err = dirty_get(&c->dirty);

	bases_begin(&c->bases);
	c->hole = (struct mem_hole){0};
	if (!err)
		err = capture_hot(&r);
	if (!err)
		err = capture_cold(&r);
	if (!err)
		err = dirty_clear(&c->dirty);
	return err ? err : r.count;
}
