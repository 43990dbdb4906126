#include "vmm/copy/page_in.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/nodump.h"
#include "vmm/copy/pages.h"
#include "vmm/machine/mem_split.h"

typedef int take_fn(void *arg, const struct page_entry *en, struct err *e);

/* Until there are no more, or one cannot be taken. */
static int each_entry(const struct frame *f, uint64_t npages, take_fn *take, void *arg,
		      struct err *e)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	struct page_entry en;
	int r;

	while ((r = pages_next(&pos, end, npages, &en)) == 1) {
		r = take(arg, &en, e);
		if (r)
			return r;
	}
	return r ? err_set(e, r, "malformed page entry") : 0;
}

static int malformed(uint64_t page, struct err *e)
{
	return err_set(e, -EBADMSG, "malformed page %llu", (unsigned long long)page);
}

/* --- pages in a row --------------------------------------------------------------------------- */

/* Pages of zeros in a row are made in one go, and take no memory. */
struct zero_run {
	struct mem *mem;
	uint64_t page, n;
};

static void zero_flush(struct zero_run *z)
{
	if (z->n)
		mem_zero_pages(z->mem, z->page, z->n);
	z->n = 0;
}

static void zero_add(struct zero_run *z, uint64_t page)
{
	if (z->n && page != z->page + z->n)
		zero_flush(z);
	if (!z->n)
		z->page = page;
	z->n++;
}

/* Raw pages in a row are written in one go. */
struct raw_run {
	struct mem *mem;
	uint64_t page;
	unsigned n;
	struct iovec data[MEM_FILL_MAX];
};

static int raw_flush(struct raw_run *run, struct err *e)
{
	int r = run->n ? mem_fill_pages(run->mem, run->page, run->data, run->n) : 0;

	run->n = 0;
	return r ? err_set(e, r, "guest memory: %s", strerror(-r)) : 0;
}

static int raw_add(struct raw_run *run, const struct page_entry *en, struct err *e)
{
	int r = 0;

	if (run->n == MEM_FILL_MAX || (run->n && en->page != run->page + run->n))
		r = raw_flush(run, e);
	if (!run->n)
		run->page = en->page;
	run->data[run->n++] = (struct iovec){(void *)en->data, MEM_PAGE_SIZE};
	return r;
}

/* --- straight into memory --------------------------------------------------------------------- */

struct now {
	struct zero_run zeros;
	struct raw_run raws;
};

/* The same page may come again: only one of the two runs has something at a time. */
static int take_now(void *arg, const struct page_entry *en, struct err *e)
{
	struct now *now = arg;
	int r = 0;

	if (en->method != PAGE_ZERO)
		zero_flush(&now->zeros);
	if (en->method != PAGE_RAW)
		r = raw_flush(&now->raws, e);
	if (r)
		return r;
	if (en->method == PAGE_RAW)
		return raw_add(&now->raws, en, e);
	if (en->method == PAGE_ZERO)
		zero_add(&now->zeros, en->page);
	/* Without a base, so that a delta fails. */
	else if (pages_decode(en, NULL, mem_kept_page(now->zeros.mem, en->page)))
		return malformed(en->page, e);
	return 0;
}

int page_in_now(struct mem *m, const struct frame *f, struct err *e)
{
	struct now now; /* large: not cleared */
	int r;

	now.zeros = (struct zero_run){.mem = m};
	now.raws.mem = m;
	now.raws.n = 0;
	r = each_entry(f, m->npages, take_now, &now, e);
	zero_flush(&now.zeros);
	return r ? r : raw_flush(&now.raws, e);
}

/* --- kept apart ------------------------------------------------------------------------------- */

int page_in_init(struct page_in *in, struct mem *m)
{
	uint64_t slabs = (m->npages + PAGE_IN_SLAB_PAGES - 1) / PAGE_IN_SLAB_PAGES;

	memset(in, 0, sizeof(*in));
	in->mem = m;
	in->slabs = calloc(slabs, sizeof(*in->slabs));
	in->page = calloc(slabs * PAGE_IN_SLAB_PAGES, sizeof(*in->page));
	in->seen = calloc((m->npages + 63) / 64, sizeof(*in->seen));
	in->there = calloc((m->npages + 63) / 64, sizeof(*in->there));
	if (in->slabs && in->page && in->seen && in->there)
		return 0;
	page_in_done(in);
	return -ENOMEM;
}

void page_in_done(struct page_in *in)
{
	for (uint64_t i = 0; i < in->nslabs; i++)
		free(in->slabs[i]);
	free(in->slabs);
	free(in->page);
	free(in->seen);
	free(in->there);
	memset(in, 0, sizeof(*in));
}

static uint8_t *slot(const struct page_in *in, uint64_t i)
{
	return in->slabs[i / PAGE_IN_SLAB_PAGES] + i % PAGE_IN_SLAB_PAGES * MEM_PAGE_SIZE;
}

static uint8_t *new_slot(struct page_in *in)
{
	if (in->nslots / PAGE_IN_SLAB_PAGES == in->nslabs) {
		uint8_t *slab = aligned_alloc(4096, PAGE_IN_SLAB_PAGES * MEM_PAGE_SIZE);

		if (!slab)
			return NULL;
		nodump(slab, PAGE_IN_SLAB_PAGES * MEM_PAGE_SIZE);
		in->slabs[in->nslabs++] = slab;
	}
	return slot(in, in->nslots);
}

/* Once is enough until it is given back: looking at a page costs as much as half a copy. */
static void ensure_memory(struct page_in *in, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64), *there = &in->there[page / 64];

	if (!(*there & bit))
		mem_populate(in->mem, page);
	*there |= bit;
}

/* Zeros in a row may give back what they have. */
static void commit_zero(struct page_in *in, struct zero_run *zeros, uint64_t page)
{
	in->there[page / 64] &= ~(1ull << (page % 64));
	zero_add(zeros, page);
}

static int keep(void *arg, const struct page_entry *en, struct err *e)
{
	struct page_in *in = arg;
	uint64_t bit = 1ull << (en->page % 64), *seen = &in->seen[en->page / 64];
	uint8_t *to;

	/* Also what bounds the memory: no more pages than the machine has. */
	if (*seen & bit)
		return err_set(e, -EBADMSG, "page %llu comes twice in an epoch",
			       (unsigned long long)en->page);
	if (en->method == PAGE_ZERO) {
		*seen |= bit;
		in->page[in->npages++] = en->page | PAGE_IN_ZERO;
		return 0;
	}
	to = new_slot(in);
	if (!to)
		return err_set(e, -ENOMEM, "staging memory: out of memory after %llu pages",
			       (unsigned long long)in->npages);
	if (pages_decode(en, mem_kept_page(in->mem, en->page), to))
		return malformed(en->page, e);
	ensure_memory(in, en->page);
	*seen |= bit;
	in->page[in->npages++] = en->page;
	in->nslots++;
	return 0;
}

int page_in_keep(struct page_in *in, const struct frame *f, struct err *e)
{
	return each_entry(f, in->mem->npages, keep, in, e);
}

bool page_in_commit(struct page_in *in, uint64_t n)
{
	struct zero_run zeros = {.mem = in->mem};
	uint64_t end = in->npages - in->done < n ? in->npages : in->done + n;

	for (; in->done < end; in->done++) {
		uint64_t page = in->page[in->done];

		if (page & PAGE_IN_ZERO)
			commit_zero(in, &zeros, page & ~PAGE_IN_ZERO);
		else
			memcpy(mem_kept_page(in->mem, page), slot(in, in->done_slots++),
			       MEM_PAGE_SIZE);
		mem_kept_changed(in->mem, page & ~PAGE_IN_ZERO);
	}
	zero_flush(&zeros);
	if (in->done < in->npages)
		return false;
	page_in_drop(in);
	return true;
}

void page_in_drop(struct page_in *in)
{
	for (uint64_t i = 0; i < in->npages; i++)
		in->seen[(in->page[i] & ~PAGE_IN_ZERO) / 64] = 0;
	in->npages = in->nslots = in->done = in->done_slots = 0;
}
