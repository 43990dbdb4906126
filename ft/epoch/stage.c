#include "ft/epoch/stage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "ft/common/steps.h"
#include "vmm/base/log.h"

#define PIECE_PAGES 256u /* of a commit, between two looks at the clock */
#define FIELD_TEXT  320u /* a field's path and two values */

_Static_assert(sizeof(struct wire_end) + sizeof(struct mem_places) <= 320,
	       "what an epoch end may have: stream.c");

int stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t disklog_limit)
{
	memset(s, 0, sizeof(*s));
	s->vm = vm;
	s->disks = disks;
	s->disklog_limit = disklog_limit;
	return page_in_init(&s->pages, &vm->mem);
}

void stage_done(struct stage *s)
{
	page_in_done(&s->pages);
	disk_writes_free(&s->disklog);
	memset(s, 0, sizeof(*s));
}

static void close_epoch(struct stage *s)
{
	s->open = false;
	s->part = STAGE_PAGES;
}

static int stage_pages(struct stage *s, const struct frame *f, struct err *e)
{
	int r = page_in_keep(&s->pages, f, e);

	step_reached(STEP_STAGE_PAGES);
	return r;
}

static int sync_pages(struct stage *s, const struct frame *f, struct err *e)
{
	int r = page_in_now(&s->vm->mem, f, e);

	return r ? err_wrap(e, "first sync") : 0;
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

	if (f->length != sizeof(end) && f->length != sizeof(end) + sizeof(s->places))
		return err_set(e, -EBADMSG, "epoch end of %u bytes", f->length);
	memcpy(&end, f->data, sizeof(end));
	s->has_places = f->length > sizeof(end);
	if (s->has_places)
		memcpy(&s->places, f->data + sizeof(end), sizeof(s->places));
	if (end.paused > 1 || end.runs > 1 || end.apart > 1)
		return err_set(e, -EBADMSG, "epoch %llu is neither paused nor not",
			       (unsigned long long)s->epoch);
	s->end = end;
	if (end.pages != s->pages.npages || end.disk_ops != s->disklog.count)
		return err_set(
			e, -EBADMSG,
			"epoch %llu is not whole: %llu of %llu pages, %llu of %llu disk changes",
			(unsigned long long)s->epoch, (unsigned long long)s->pages.npages,
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
	VMM_BUG_ON(stage_is_committing(s));
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

static void commit_rest(struct stage *s)
{
	vm_commit(s->vm);
	diskapply_push(s->disks, &s->disklog);
	s->committed = s->epoch;
	s->paused = s->end.paused;
	s->runs = s->end.runs;
	close_epoch(s);
	step_reached(STEP_COMMIT_END);
}

/* At least two pieces, for tests to end it between them. True: there are no more. */
static bool commit_piece(struct stage *s)
{
	bool first = s->part != STAGE_COMMIT;
	uint64_t half = s->pages.npages / 2;

	s->part = STAGE_COMMIT;
	if (page_in_commit(&s->pages, first && half < PIECE_PAGES ? half : PIECE_PAGES))
		return true;
	if (first)
		step_reached(STEP_COMMIT_MIDDLE);
#ifdef BUG_PARTIAL_EPOCH /* planted: the tests must notice */
	if (s->epoch % 8 == 0)
		page_in_drop(&s->pages);
#endif
	return false;
}

bool stage_commit_turn(struct stage *s)
{
	while (!commit_piece(s))
		if (loop_should_yield(s->vm->loop))
			return false;
	commit_rest(s);
	return true;
}

void stage_commit(struct stage *s)
{
	while (!commit_piece(s))
		;
	commit_rest(s);
}

void stage_abort(struct stage *s)
{
	if (stage_is_committing(s)) {
		stage_commit(s);
		return;
	}
	page_in_drop(&s->pages);
	disk_writes_free(&s->disklog);
	close_epoch(s);
}

static int unequal_memory(const struct stage *s, uint64_t ram, const struct mem_places *places,
			  struct err *e)
{
	uint64_t first = 0, last = UINT64_MAX;
	char where[80] = "";

	if (s->has_places)
		mem_places_find(ram - s->end.ram_hash, places, &s->places, &first, &last);
	if (last >= s->vm->mem.npages)
		last = s->vm->mem.npages - 1;
	if (first == last)
		snprintf(where, sizeof(where), ": the page at %#llx",
			 (unsigned long long)(first << MEM_PAGE_SHIFT));
	else if (s->has_places)
		snprintf(where, sizeof(where), ": pages between %#llx and %#llx",
			 (unsigned long long)(first << MEM_PAGE_SHIFT),
			 (unsigned long long)(((last + 1) << MEM_PAGE_SHIFT) - 1));
	return err_set(e, -EBADMSG, "verify: memory differs from the primary's after epoch %llu%s",
		       (unsigned long long)s->committed, where);
}

static void first_field(void *arg, const char *path, const char *here, const char *sent)
{
	char *what = arg;
	size_t n = strlen(what);

	if (n && what[n - 1] == '.') /* the device alone is there */
		snprintf(what + n, FIELD_TEXT - n, "%s is %s, and was sent as %s", path, here,
			 sent);
}

/* Nothing was decoded since: scratch is what the primary has sent. */
static int unequal_state(const struct stage *s, struct err *e)
{
	const struct vm_state *v = &s->vm->state;
	char what[FIELD_TEXT] = "as it is encoded here: are both sides of one version?";

	for (unsigned i = 0; i < v->nitems; i++) {
		const struct state_item *it = &v->items[i];
		char device[FIELD_TEXT];

		snprintf(device, sizeof(device), "%s[%u].", it->desc->name, it->instance);
		if (!state_compare(it->desc, it->pod, v->scratch[i].pod, first_field, device))
			continue;
		memcpy(what, device, sizeof(what));
		break;
	}
	return err_set(e, -EBADMSG, "verify: state differs from the primary's after epoch %llu: %s",
		       (unsigned long long)s->committed, what);
}

int stage_verify_view(struct stage *s, struct err *e)
{
	struct mem_places places;
	uint64_t ram;

	if (!mem_is_split(&s->vm->mem))
		return 0;
	ram = mem_hash_places(&s->vm->mem, &places);
	if (ram == s->end.ram_hash)
		return 0;
	unequal_memory(s, ram, &places, e);
	return err_wrap(e, "the twin, rolled back");
}

int stage_verify(struct stage *s, struct err *e)
{
	size_t cap = vm_state_bound(s->vm);
	uint8_t *buf = malloc(cap);
	int64_t len =
		buf ? state_encode_all(s->vm->state.items, s->vm->state.nitems, buf, cap) : -ENOMEM;
	uint64_t state = len > 0 ? XXH3_64bits(buf, len) : 0;
	struct mem_places places;
	uint64_t ram = mem_hash_places_kept(&s->vm->mem, &places);

	free(buf);
	if (ram != s->end.ram_hash)
		return unequal_memory(s, ram, &places, e);
	if (state != s->end.state_hash)
		return unequal_state(s, e);
	return 0;
}
