#include "ft/epoch/stage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "vmm/copy/pages.h"
#include "ft/common/steps.h"

int stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t disklog_limit)
{
	uint64_t slabs = (vm->mem.npages + STAGE_SLAB_PAGES - 1) / STAGE_SLAB_PAGES;

	memset(s, 0, sizeof(*s));
	s->vm = vm;
	s->disks = disks;
	s->disklog_limit = disklog_limit;
	s->slabs = calloc(slabs, sizeof(*s->slabs));
	s->page = calloc(slabs * STAGE_SLAB_PAGES, sizeof(*s->page));
	s->seen = calloc((vm->mem.npages + 63) / 64, sizeof(*s->seen));
	if (!s->slabs || !s->page || !s->seen) {
		stage_done(s);
		return -ENOMEM;
	}
	return 0;
}

void stage_done(struct stage *s)
{
	for (uint64_t i = 0; i < s->nslabs; i++)
		free(s->slabs[i]);
	free(s->slabs);
	free(s->page);
	free(s->seen);
	disk_writes_free(&s->disklog);
	memset(s, 0, sizeof(*s));
}

static void close_epoch(struct stage *s)
{
	for (uint64_t i = 0; i < s->npages; i++)
		s->seen[(s->page[i] & ~STAGE_ZERO) / 64] = 0;
	s->open = false;
	s->part = STAGE_PAGES;
	s->npages = s->nslots = 0;
}

void stage_abort(struct stage *s)
{
	disk_writes_free(&s->disklog);
	close_epoch(s);
}

static uint8_t *slot(const struct stage *s, uint64_t i)
{
	return s->slabs[i / STAGE_SLAB_PAGES] + i % STAGE_SLAB_PAGES * MEM_PAGE_SIZE;
}

static uint8_t *new_slot(struct stage *s)
{
	if (s->nslots / STAGE_SLAB_PAGES == s->nslabs) {
		uint8_t *slab = aligned_alloc(4096, STAGE_SLAB_PAGES * MEM_PAGE_SIZE);

		if (!slab)
			return NULL;
		s->slabs[s->nslabs++] = slab;
	}
	return slot(s, s->nslots);
}

/* Pages of zeros in a row are made in one go, and take no memory. */
struct zero_run {
	uint64_t page, n;
};

static void zero_flush(struct stage *s, struct zero_run *z)
{
	if (z->n)
		mem_zero_pages(&s->vm->mem, z->page, z->n);
	z->n = 0;
}

static void zero_add(struct stage *s, struct zero_run *z, uint64_t page)
{
	if (z->n && page != z->page + z->n)
		zero_flush(s, z);
	if (!z->n)
		z->page = page;
	z->n++;
}

/* Raw pages in a row are written in one go. */
struct raw_run {
	uint64_t page;
	unsigned n;
	struct iovec data[MEM_FILL_MAX];
};

static int raw_flush(struct stage *s, struct raw_run *run, struct err *e)
{
	int r = run->n ? mem_fill_pages(&s->vm->mem, run->page, run->data, run->n) : 0;

	run->n = 0;
	return r ? err_set(e, r, "guest memory in the first sync: %s", strerror(-r)) : 0;
}

static int raw_add(struct stage *s, struct raw_run *run, const struct page_entry *en, struct err *e)
{
	int r = 0;

	if (run->n == MEM_FILL_MAX || (run->n && en->page != run->page + run->n))
		r = raw_flush(s, run, e);
	if (!run->n)
		run->page = en->page;
	run->data[run->n++] = (struct iovec){(void *)en->data, MEM_PAGE_SIZE};
	return r;
}

/* First sync: straight into RAM, which counts for nothing before the first commit. */
static int sync_pages(struct stage *s, const struct frame *f, struct err *e)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	struct zero_run zeros = {0};
	struct raw_run raws;
	struct page_entry en;
	int r = 0, bad = 0;

	raws.n = 0;
	while (!bad && (r = pages_next(&pos, end, s->vm->mem.npages, &en)) == 1) {
		/* The same page may come again: one run at a time. */
		if (en.method != PAGE_ZERO)
			zero_flush(s, &zeros);
		if (en.method != PAGE_RAW)
			bad = raw_flush(s, &raws, e);
		if (en.method == PAGE_ZERO)
			zero_add(s, &zeros, en.page);
		else if (en.method == PAGE_RAW)
			bad = raw_add(s, &raws, &en, e);
		/* Without a base, so that a delta fails. */
		else if (!bad && pages_decode(&en, NULL, mem_page(&s->vm->mem, en.page)))
			bad = err_set(e, -EBADMSG, "malformed page %llu in the first sync",
				      (unsigned long long)en.page);
	}
	zero_flush(s, &zeros);
	if (!bad)
		bad = raw_flush(s, &raws, e);
	if (bad)
		return bad;
	return r < 0 ? err_set(e, -EBADMSG, "malformed page entry in the first sync") : 0;
}

static int stage_pages(struct stage *s, const struct frame *f, struct err *e)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	struct page_entry en;
	int r;

	while ((r = pages_next(&pos, end, s->vm->mem.npages, &en)) == 1) {
		uint64_t bit = 1ull << (en.page % 64);
		uint8_t *to;

		/* Also what bounds the memory: no more pages than the machine has. */
		if (s->seen[en.page / 64] & bit)
			return err_set(e, -EBADMSG, "page %llu comes twice in an epoch",
				       (unsigned long long)en.page);
		if (en.method == PAGE_ZERO) {
			s->seen[en.page / 64] |= bit;
			s->page[s->npages++] = en.page | STAGE_ZERO;
			continue;
		}
		to = new_slot(s);
		if (!to)
			return err_set(e, -ENOMEM, "staging memory: out of memory after %llu pages",
				       (unsigned long long)s->npages);
		/* Deltas are against RAM, which holds the epoch before, whole. */
		if (pages_decode(&en, mem_page(&s->vm->mem, en.page), to))
			return err_set(e, -EBADMSG, "malformed page %llu",
				       (unsigned long long)en.page);
		s->seen[en.page / 64] |= bit;
		s->page[s->npages++] = en.page;
		s->nslots++;
	}
	step_reached(STEP_STAGE_PAGES);
	return r < 0 ? err_set(e, -EBADMSG, "malformed page entry") : 0;
}

static int stage_disk(struct stage *s, const struct frame *f, struct err *e)
{
	int r = diskapply_parse(s->disks, f->data, f->length, &s->disklog, e);

	if (!r && s->disklog.bytes > s->disklog_limit * 2 + (8u << 20))
		r = err_set(e, -EBADMSG, "disk log of more than the announced %lluM",
			    (unsigned long long)(s->disklog_limit >> 20));
	return r;
}

static int sync_disk(struct stage *s, const struct frame *f, struct err *e)
{
	struct disk_writes list = {0};
	int r = diskapply_parse(s->disks, f->data, f->length, &list, e);

	diskapply_push(s->disks, &list);
	return r;
}

static int begin(struct stage *s, const struct frame *f, struct err *e)
{
	if (s->open || f->epoch == 0 || (s->committed && f->epoch != s->committed + 1))
		return err_set(e, -EBADMSG, "epoch %llu begins after epoch %llu",
			       (unsigned long long)f->epoch, (unsigned long long)s->committed);
	step_reached(STEP_STAGE_BEGIN);
	s->open = true;
	s->epoch = f->epoch;
	return 0;
}

static int finish(struct stage *s, const struct frame *f, struct err *e)
{
	struct wire_end end;

	if (f->length != sizeof(end))
		return err_set(e, -EBADMSG, "epoch end of %u bytes", f->length);
	memcpy(&end, f->data, sizeof(end));
	if (end.paused > 1)
		return err_set(e, -EBADMSG, "epoch %llu is neither paused nor not",
			       (unsigned long long)s->epoch);
	s->end = end;
	if (end.pages != s->npages || end.disk_ops != s->disklog.count)
		return err_set(
			e, -EBADMSG,
			"epoch %llu is not whole: %llu of %llu pages, %llu of %llu disk changes",
			(unsigned long long)s->epoch, (unsigned long long)s->npages,
			(unsigned long long)end.pages, (unsigned long long)s->disklog.count,
			(unsigned long long)end.disk_ops);
	return 1;
}

/* May this part come now? There is one state, right before the end. */
static int reach(struct stage *s, enum stage_part part, const struct frame *f, struct err *e)
{
	bool good = part < STAGE_STATE	  ? part >= s->part
		    : part == STAGE_STATE ? s->part < STAGE_STATE
					  : s->part == STAGE_STATE;

	if (!good)
		return err_set(e, -EBADMSG, "%s at the wrong place in epoch %llu",
			       stream_frame_name(f->type), (unsigned long long)s->epoch);
	s->part = part;
	return 0;
}

static int in_epoch(struct stage *s, const struct frame *f, struct err *e)
{
	int r;

	if (f->epoch != s->epoch)
		return err_set(e, -EBADMSG, "%s of epoch %llu inside epoch %llu",
			       stream_frame_name(f->type), (unsigned long long)f->epoch,
			       (unsigned long long)s->epoch);
	switch (f->type) {
	case FRAME_PAGES:
		r = reach(s, STAGE_PAGES, f, e);
		return r ? r : stage_pages(s, f, e);
	case FRAME_DISKLOG:
		r = reach(s, STAGE_DISKLOG, f, e);
		return r ? r : stage_disk(s, f, e);
	case FRAME_STATE:
		r = reach(s, STAGE_STATE, f, e);
		step_reached(STEP_STAGE_STATE);
		return r ? r : vm_decode(s->vm, f->data, f->length, e);
	case FRAME_EPOCH_END:
		r = reach(s, STAGE_END, f, e);
		return r ? r : finish(s, f, e);
	default:
		return err_set(e, -EBADMSG, "%s inside an epoch", stream_frame_name(f->type));
	}
}

int stage_frame(struct stage *s, const struct frame *f, struct err *e)
{
	if (s->open)
		return in_epoch(s, f, e);
	if (f->type == FRAME_EPOCH_BEGIN)
		return begin(s, f, e);
	if (!s->committed && f->epoch == 0 && f->type == FRAME_PAGES)
		return sync_pages(s, f, e);
	if (!s->committed && f->epoch == 0 && f->type == FRAME_DISK)
		return sync_disk(s, f, e);
	return err_set(e, -EBADMSG, "%s outside an epoch", stream_frame_name(f->type));
}

void stage_commit(struct stage *s)
{
	struct zero_run zeros = {0};
	uint64_t used = 0;

	for (uint64_t i = 0; i < s->npages; i++) {
		if (s->page[i] & STAGE_ZERO)
			zero_add(s, &zeros, s->page[i] & ~STAGE_ZERO);
		else
			memcpy(mem_page(&s->vm->mem, s->page[i]), slot(s, used++), MEM_PAGE_SIZE);
#ifdef BUG_PARTIAL_EPOCH /* planted: the tests must notice */
		if (i == s->npages / 2 && s->epoch % 8 == 0)
			break;
#endif
		if (i == s->npages / 2)
			step_reached(STEP_COMMIT_MIDDLE);
	}
	zero_flush(s, &zeros);
	vm_commit(s->vm);
	diskapply_push(s->disks, &s->disklog);
	s->committed = s->epoch;
	s->paused = s->end.paused;
	close_epoch(s);
	step_reached(STEP_COMMIT_END);
}

int stage_verify(struct stage *s, struct err *e)
{
	size_t cap = vm_state_bound(s->vm);
	uint8_t *buf = malloc(cap);
	int64_t len =
		buf ? state_encode_all(s->vm->state.items, s->vm->state.nitems, buf, cap) : -ENOMEM;
	uint64_t state = len > 0 ? XXH3_64bits(buf, len) : 0;
	uint64_t ram = mem_hash(&s->vm->mem);

	free(buf);
	if (ram != s->end.ram_hash)
		return err_set(e, -EBADMSG,
			       "verify: memory differs from the primary's after epoch %llu",
			       (unsigned long long)s->committed);
	if (state != s->end.state_hash)
		return err_set(e, -EBADMSG,
			       "verify: state differs from the primary's after epoch %llu",
			       (unsigned long long)s->committed);
	return 0;
}
