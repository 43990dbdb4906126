#define _GNU_SOURCE
#include "ft/epoch/capture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/base/lock.h"
#include "vmm/base/nodump.h"

#define HOT_COOL    8 /* equal this many epochs: protect again */
#define MIN_BUFS    256u
#define PIECE_PAGES 256u /* 0.1 ms; several if buffers are used the first time */

int capture_init(struct capture *c, struct kvm *kvm, struct mem *mem, uint64_t staging_bytes,
		 struct err *e)
{
	int r;

	memset(c, 0, sizeof(*c));
	c->mem = mem;
	c->nbufs =
		staging_bytes / MEM_PAGE_SIZE > MIN_BUFS ? staging_bytes / MEM_PAGE_SIZE : MIN_BUFS;
	c->hot_max = c->nbufs / 2;
	lock_init(&c->lock);
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
	nodump(c->pool, (size_t)c->nbufs * MEM_PAGE_SIZE);
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
	memset(c, 0, sizeof(*c));
}

static void put_buf(struct capture *c, uint8_t *buf)
{
	pthread_mutex_lock(&c->lock);
	c->free[c->nfree++] = buf;
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
	pthread_mutex_unlock(&c->lock);
}

uint32_t capture_used(struct capture *c)
{
	uint32_t free;

	if (!c->nbufs)
		return 0;
	pthread_mutex_lock(&c->lock);
	free = c->nfree + c->nmine;
	pthread_mutex_unlock(&c->lock);
	return c->nbufs - free;
}

/* --- one capture ------------------------------------------------------------------------------ */

static void fetch_bufs(struct capture *c)
{
	uint32_t room = sizeof(c->mine) / sizeof(c->mine[0]);

	pthread_mutex_lock(&c->lock);
	c->nmine = c->nfree < room ? c->nfree : room;
	c->nfree -= c->nmine;
	memcpy(c->mine, c->free + c->nfree, c->nmine * sizeof(c->mine[0]));
	pthread_mutex_unlock(&c->lock);
}

/* Is there a buffer for the next page? */
static bool has_buf(struct capture *c)
{
	uint8_t *stolen;

	if (!c->nmine)
		fetch_bufs(c);
	if (c->nmine)
		return true;
	stolen = bases_steal(&c->bases);
	if (stolen)
		c->mine[c->nmine++] = stolen;
	return stolen != NULL;
}

/* May the next page be looked at? It is counted. */
static bool has_room(struct capture *c, const struct capture_batch *b)
{
	if (!c->piece || b->n == b->cap || !has_buf(c))
		return false;
	c->piece--;
	return true;
}

static void put_page(struct capture *c, struct capture_batch *b, struct capture_page page)
{
	b->pages[b->n++] = page;
	c->count++;
}

/* There is a buffer: has_room(). */
static uint8_t *add_page(struct capture *c, struct capture_batch *b, uint64_t page, uint8_t *base,
			 bool keep)
{
	uint8_t *buf = c->mine[--c->nmine];

	memcpy(buf, mem_page(c->mem, page), MEM_PAGE_SIZE);
	put_page(c, b, (struct capture_page){page, buf, base, keep});
	return buf;
}

/* Given back to the host, and still without memory? */
static bool is_hole(struct capture *c, uint64_t page)
{
	return mem_absent(c->mem, page, &c->hole);
}

/* `keep`, so that the sender leaves the one page of zeros alone. */
static void add_zeros(struct capture *c, struct capture_batch *b, uint64_t page)
{
	dirty_set(c->dirty.clear, page);
	put_page(c, b, (struct capture_page){page, c->zeros, NULL, true});
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

static void hot_hole(struct capture *c, struct capture_batch *b, struct hot_page *h)
{
	uint64_t page = h->page;

	put_buf(c, h->copy);
	forget_hot(c, h);
	add_zeros(c, b, page);
}

/* Equal for long: protected from here on, so nothing is missed. */
static void cool_down(struct capture *c, struct hot_page *h)
{
	dirty_set(c->dirty.clear, h->page);
	if (bases_room(&c->bases, h->page))
		keep_base(c, h->page, h->copy);
	else
		put_buf(c, h->copy);
	forget_hot(c, h);
}

/* Compare every hot page with what was sent last. False: no room. */
static bool fill_hot(struct capture *c, struct capture_batch *b)
{
	while (c->at.hot < c->nhot) {
		struct hot_page *h = &c->hot[c->at.hot];

		if (!has_room(c, b))
			return false;
		if (is_hole(c, h->page)) {
			hot_hole(c, b, h);
			continue;
		}
		if (memcmp(mem_page(c->mem, h->page), h->copy, MEM_PAGE_SIZE)) {
			h->copy = add_page(c, b, h->page, h->copy, true);
			h->equal = 0;
			c->sent_hot++;
		} else if (++h->equal == HOT_COOL) {
			cool_down(c, h);
			continue;
		}
		c->at.hot++;
	}
	return true;
}

static void cold_hole(struct capture *c, struct capture_batch *b, uint64_t page)
{
	uint8_t *base = bases_take(&c->bases, page);

	if (base)
		put_buf(c, base);
	add_zeros(c, b, page);
}

static void cold_page(struct capture *c, struct capture_batch *b, uint64_t page, bool was_dirty)
{
	bool hot = was_dirty && c->nhot < c->hot_max;
	bool keep = hot || bases_room(&c->bases, page);
	uint8_t *copy;

#ifdef BUG_SKIP_PAGE /* planted: the tests must notice */
	if (page % 64 == 63) {
		dirty_set(c->dirty.clear, page);
		return;
	}
#endif
	if (is_hole(c, page)) {
		cold_hole(c, b, page);
		return;
	}
	mem_found(c->mem, page);
	copy = add_page(c, b, page, bases_take(&c->bases, page), keep);
	if (hot) {
		dirty_set(c->hot_bits, page);
		c->hot[c->nhot++] = (struct hot_page){page, copy, 0};
		return;
	}
	dirty_set(c->dirty.clear, page);
	if (keep)
		keep_base(c, page, copy);
}

/* What cooled down just now is in `clear` and was compared already. */
static void next_word(struct capture *c)
{
	uint64_t w = c->at.word++;

	c->at.bits = c->dirty.bits[w] & ~c->hot_bits[w] & ~c->dirty.clear[w];
	c->at.last = c->last_bits[w];
	c->last_bits[w] = c->at.bits;
}

/* False: no room. */
static bool fill_cold(struct capture *c, struct capture_batch *b)
{
	for (;;) {
		unsigned bit;

		while (!c->at.bits && c->at.word < c->dirty.nwords)
			next_word(c);
		if (!c->at.bits)
			return true;
		if (!has_room(c, b))
			return false;
		bit = __builtin_ctzll(c->at.bits);
		c->at.bits &= c->at.bits - 1;
		cold_page(c, b, (c->at.word - 1) * 64 + bit, c->at.last >> bit & 1);
	}
}

/* Hot pages are among them, whether they are found changed or not: what is in flight to it may be
 * torn. */
static void tell_lacks(struct capture *c)
{
	for (uint64_t w = 0; w < c->dirty.nwords; w++)
		if (c->dirty.bits[w])
			__atomic_fetch_or(&c->lacks[w], c->dirty.bits[w], __ATOMIC_RELEASE);
}

int capture_begin(struct capture *c)
{
	int r = dirty_get(&c->dirty);

	if (!r && c->lacks)
		tell_lacks(c);

	bases_begin(&c->bases);
	c->hole = (struct mem_hole){0};
	c->at = (struct capture_place){0};
	c->count = 0;
	return r;
}

static int not_all(const struct capture *c)
{
	return c->piece ? CAPTURE_FULL : CAPTURE_MORE;
}

int capture_fill(struct capture *c, struct capture_batch *b)
{
	int r;

	c->piece = PIECE_PAGES;
	/* Hot ones first, once: what becomes hot below was looked at. */
	if (!c->at.word) {
		if (!fill_hot(c, b))
			return not_all(c);
	}
	if (!fill_cold(c, b))
		return not_all(c);
	r = dirty_clear_piece(&c->dirty, &c->at.cleared);
	return r < 0 ? r : r ? CAPTURE_ALL : CAPTURE_MORE;
}
