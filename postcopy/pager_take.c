/* What comes on the main link: pages, runs of zeros, the end. */
#include <errno.h>
#include <string.h>

#include "postcopy/pager_thread.h"
#include "vmm/copy/page_in.h"
#include "vmm/copy/pages.h"

/* Before the switch a page may come again. */
static int take_pages_early(struct pager *p, const struct frame *f, struct err *e)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	struct page_entry en;
	int r = page_in_now(p->mem, f, e);

	while (!r && pages_next(&pos, end, p->mem->npages, &en) == 1)
		have_came(&p->have, en.page, en.method == PAGE_ZERO);
	return r;
}

static int take_map_early(struct pager *p, const struct wire_map *w)
{
	if (w->kind == WIRE_MAP_DROP) {
		have_drop(&p->have, w->page, w->count);
		return 0;
	}
	mem_zero_pages(p->mem, w->page, w->count);
	for (uint64_t i = 0; i < w->count; i++)
		have_came(&p->have, w->page + i, true);
	return 0;
}

static int take_map_late(struct pager *p, const struct wire_map *w)
{
	__atomic_fetch_add(&p->counts.zero, w->count, __ATOMIC_RELAXED);
	return fill_mark_zero(&p->fill[0], w->page, w->count);
}

static int take_map(struct pager *p, const struct frame *f, struct err *e)
{
	uint64_t room = WIRE_MAP_PAGES;

	if (!f->length || f->length % sizeof(struct wire_map))
		return err_set(e, -EBADMSG, "map: a length of %u bytes", f->length);
	for (uint32_t at = 0; at < f->length; at += sizeof(struct wire_map)) {
		struct wire_map w;
		int r;

		memcpy(&w, f->data + at, sizeof(w));
		if (!w.count || w.page >= p->mem->npages || w.count > p->mem->npages - w.page ||
		    w.count > room)
			return err_set(e, -EBADMSG, "map: %llu pages from %llu on, of %llu",
				       (unsigned long long)w.count, (unsigned long long)w.page,
				       (unsigned long long)p->mem->npages);
		if (w.kind != WIRE_MAP_ZERO && (w.kind != WIRE_MAP_DROP || p->started))
			return err_set(e, -EBADMSG, "map: kind %u", w.kind);
		room -= w.count;
		r = p->started ? take_map_late(p, &w) : take_map_early(p, &w);
		if (r)
			return err_set(e, r, "guest memory: %s", strerror(-r));
	}
	return 0;
}

static int take_eos(struct pager *p, const struct frame *f, struct err *e)
{
	if (!p->started || p->got_eos || f->length != sizeof(p->eos))
		return err_set(e, -EBADMSG, "eos: out of order, or of %u bytes", f->length);
	memcpy(&p->eos, f->data, sizeof(p->eos));
	__atomic_store_n(&p->got_eos, true, __ATOMIC_RELEASE);
	if (!pager_cheated(p))
		return 0;
	return err_set(e, -EBADMSG, "eos: %llu pages have not come",
		       (unsigned long long)pager_left(p));
}

int pager_take(struct pager *p, const struct frame *f, struct err *e)
{
	int r;

	if (f->type == FRAME_EOS)
		r = take_eos(p, f, e);
	else if (f->type == FRAME_MAP)
		r = take_map(p, f, e);
	else if (f->type != FRAME_PAGES)
		r = err_set(e, -EBADMSG, "%s: not of memory", stream_frame_name(f->type));
	else if (p->started)
		r = fill_frame(&p->fill[0], f, false, e);
	else
		r = take_pages_early(p, f, e);
	if (p->started)
		pager_filled(p, &p->fill[0]);
	return r;
}
