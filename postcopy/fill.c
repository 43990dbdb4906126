#include "postcopy/fill.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "postcopy/uffd.h"
#include "vmm/base/loop.h"
#include "vmm/copy/pages.h"

int fill_init(struct fill *f)
{
	f->n = f->waiters = 0;
	f->buf = aligned_alloc(MEM_PAGE_SIZE, FILL_RUN * MEM_PAGE_SIZE);
	return f->buf ? 0 : -ENOMEM;
}

void fill_done(struct fill *f)
{
	free(f->buf);
	f->buf = NULL;
}

static void count(uint64_t *n, uint64_t by)
{
	__atomic_fetch_add(n, by, __ATOMIC_RELAXED);
}

/* The page is here: who waits for it? */
static void settled(struct fill *f, uint64_t page, unsigned waiters)
{
	if (waiters & HAVE_FAULT)
		faults_end(f->faults, page, loop_now_ns());
	f->waiters |= waiters;
}

static void settle_page(struct fill *f, uint64_t page)
{
	unsigned waiters = 0;

	have_settle(f->have, page, HAVE_PAGE, &waiters);
	settled(f, page, waiters);
}

/* A claimed page becomes zeros with memory. */
static int give_zeros(struct fill *f, uint64_t page)
{
	uint64_t exist = 0;
	int r = uffd_zero(f->uffd, f->mem, page, &exist);

	if (r)
		have_unclaim(f->have, page);
	else
		settle_page(f, page);
	return r;
}

int fill_zero(struct fill *f, uint64_t page)
{
	uint64_t exist = 0;
	int r;

	if (have_claim_zero(f->have, page))
		r = give_zeros(f, page);
	else /* it may have been given back since; and what is there only wants the wake */
		r = uffd_zero(f->uffd, f->mem, page, &exist);
	if (!r)
		faults_end(f->faults, page, loop_now_ns());
	return r;
}

static int flush(struct fill *f)
{
	uint64_t exist = 0;
	unsigned n = f->n;
	int r = 0;

	f->n = 0;
	if (n)
		r = uffd_copy(f->uffd, f->mem, f->page, f->buf, n, &exist);
	if (exist)
		count(&f->counts->exist, exist);
	/* What a failed call has filled all the same is woken when it comes again. */
	for (unsigned i = 0; i < n; i++) {
		if (r)
			have_unclaim(f->have, f->page + i);
		else
			settle_page(f, f->page + i);
	}
	return r;
}

static int settle_zero(struct fill *f, uint64_t page)
{
	unsigned waiters = 0;

	if (!have_settle(f->have, page, HAVE_ZERO, &waiters))
		return give_zeros(f, page);
	settled(f, page, waiters);
	return 0;
}

int fill_mark_zero(struct fill *f, uint64_t page, uint64_t n)
{
	int r = 0;

	for (uint64_t end = page + n; page < end && !r; page++)
		if (have_claim(f->have, page) <= HAVE_ASKED)
			r = settle_zero(f, page);
	return r;
}

/* Unpack before it is claimed: what cannot be unpacked fills nothing. */
static int unpack(struct fill *f, const struct page_entry *en)
{
	int r = 0;

	if (f->n == FILL_RUN || (f->n && en->page != f->page + f->n))
		r = flush(f);
	return r ? r : pages_decode(en, NULL, f->buf + f->n * MEM_PAGE_SIZE);
}

static int take(struct fill *f, const struct page_entry *en, bool urgent)
{
	enum have_state was;
	bool here = have_state(f->have, en->page) > HAVE_ASKED;
	int r = here ? 0 : unpack(f, en);

	if (r)
		return r;
	was = have_claim(f->have, en->page);
	if (urgent && was == HAVE_ABSENT)
		count(&f->counts->unasked, 1);
	if (was > HAVE_ASKED) {
		count(&f->counts->twice, 1);
		return 0;
	}
	if (here) { /* given up by who had claimed it: that link is lost, and it comes again */
		have_unclaim(f->have, en->page);
		return 0;
	}
	if (en->method == PAGE_ZERO)
		return settle_zero(f, en->page);
	if (!f->n)
		f->page = en->page;
	f->n++;
	return 0;
}

int fill_frame(struct fill *f, const struct frame *frame, bool urgent, struct err *e)
{
	const uint8_t *pos = frame->data, *end = frame->data + frame->length;
	struct page_entry en;
	uint64_t n = 0;
	int r, last;

	while ((r = pages_next(&pos, end, f->mem->npages, &en)) == 1) {
		n++;
		r = take(f, &en, urgent);
		if (r)
			break;
	}
	last = flush(f);
	count(&f->counts->bytes, frame->length);
	/* When they are here: the end of the stream is looked at by it. */
	__atomic_fetch_add(urgent ? &f->counts->urgent : &f->counts->pushed, n, __ATOMIC_RELEASE);
	if (r == -EBADMSG)
		return err_set(e, r, "malformed page entry");
	r = r ? r : last;
	return r ? err_set(e, r, "guest memory: %s", strerror(-r)) : 0;
}
