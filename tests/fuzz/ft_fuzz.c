/*
 * Frames of the main link, behind the framing, into the staging area of a secondary that has a
 * committed epoch (bit 0 of the first byte clear) or none yet. Bit 1 picks: the rest is a list of
 * frames {u8 type, u8 epoch, u16 length, payload...}; or a list of edits {u8 frame, u8 what, u16
 * place, u8 value} to a good epoch. What is refused or not yet committed must leave memory and
 * state alone; what is accepted must be whole.
 */
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/libstage.h"

#define assert_true(c)                                                                             \
	do {                                                                                       \
		if (!(c))                                                                          \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct srig rig;
static struct parts good;

static void prepare(void)
{
	static const struct golden g = {.epoch = 8, .first = 10, .n = 8, .seed = 12};
	static bool ready;

	if (ready)
		return;
	ready = true;
	rig_start(&rig);
	rig_first_epoch(&rig, 7);
	golden_epoch(&rig, &g, &good);
	for (unsigned i = 0; i < RIG_DEVS; i++) { /* they are open: the names may go */
		char path[96];

		snprintf(path, sizeof(path), "%s/%u", rig.dir, i);
		unlink(path);
	}
	rmdir(rig.dir);
}

static void free_form(struct parts *ps, const uint8_t *p, size_t n)
{
	while (n >= 4 && ps->n < RIG_MAX_FRAMES) {
		uint16_t length = (uint16_t)(p[2] | p[3] << 8);

		if (length > n - 4)
			length = (uint16_t)(n - 4);
		parts_add(ps, p[0] % (FRAME_TYPE_MAX + 1), p[1], p + 4, length);
		p += 4 + length;
		n -= 4 + length;
	}
}

static void cut(struct part *p, uint32_t length)
{
	if (length < p->length)
		p->length = length;
}

static void edit(struct parts *ps, const uint8_t *p, size_t n)
{
	parts_copy(ps, &good);
	for (; n >= 5 && ps->n; p += 5, n -= 5) {
		unsigned at = p[0] % ps->n, place = p[2] | p[3] << 8;
		struct part *f = &ps->p[at];

		switch (p[1] % 8) {
		case 0:
			cut(f, place);
			break;
		case 1:
			f->epoch = p[4];
			break;
		case 2:
			f->type = p[4];
			break;
		case 3:
			parts_remove(ps, at);
			break;
		case 4:
			if (ps->n < RIG_MAX_FRAMES)
				parts_repeat(ps, at, place % ps->n);
			break;
		case 5:
			parts_swap(ps, at, place % ps->n);
			break;
		default:
			if (place < f->length)
				f->data[place] = p[4];
		}
	}
}

/* What ended well is one epoch, in the one order of its parts, and no page comes twice. */
static void check_whole(const struct parts *ps, unsigned end)
{
	static const uint8_t rank[FRAME_TYPE_MAX] = {
		[FRAME_PAGES] = 1, [FRAME_DISKLOG] = 2, [FRAME_STATE] = 3, [FRAME_EPOCH_END] = 4};
	unsigned states = 0, at = end;
	uint64_t seen[RIG_PAGES / 64] = {0};

	assert_true(ps->p[end].type == FRAME_EPOCH_END);
	for (; ps->p[at].type != FRAME_EPOCH_BEGIN; at--) {
		const struct part *p = &ps->p[at];

		assert_true(at && p->type < FRAME_TYPE_MAX && rank[p->type]);
		assert_true(p->epoch == ps->p[end].epoch &&
			    (at == end || rank[p->type] <= rank[p[1].type]));
		states += p->type == FRAME_STATE;
		if (at == end - 1)
			assert_true(p->type == FRAME_STATE);
	}
	assert_true(states == 1 && ps->p[at].epoch == ps->p[end].epoch);
	for (uint64_t i = 0; i < rig.stage.pages.npages; i++) {
		uint64_t page = rig.stage.pages.page[i] & ~PAGE_IN_ZERO;

		assert_true(page < RIG_PAGES && !(seen[page / 64] >> (page % 64) & 1));
		seen[page / 64] |= 1ull << (page % 64);
	}
}

/* Commit what was accepted, see that only that has changed, and go back. */
static void check_commit(void)
{
	struct stage *s = &rig.stage;
	uint64_t n = s->pages.npages;
	const uint8_t *pods = rig.before.pods;

	assert_true(s->open && s->part == STAGE_END && s->pages.npages == s->end.pages &&
		    s->disklog.count == s->end.disk_ops && s->epoch);
	disk_writes_free(
		&s->disklog); /* what is written to the images is another test's business */
	stage_commit(s);
	assert_true(s->committed == s->epoch && !s->open && !s->pages.npages);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t page = s->pages.page[i] & ~PAGE_IN_ZERO;

		assert_true(page < RIG_PAGES);
		memcpy(mem_page(&rig.vm.mem, page), rig.before.ram + page * MEM_PAGE_SIZE,
		       MEM_PAGE_SIZE);
	}
	for (unsigned i = 0; i < rig.vm.state.nitems; i++) {
		const struct state_item *it = &rig.vm.state.items[i];

		memcpy(it->pod, pods, it->desc->size);
		pods += it->desc->size;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct parts ps = {0};
	struct err e;
	unsigned at;
	bool first;
	int r;

	prepare();
	if (!size)
		return 0;
	first = data[0] & 1;
	if (data[0] & 2)
		edit(&ps, data + 1, size - 1);
	else
		free_form(&ps, data + 1, size - 1);
	rig.stage.committed = first ? 0 : 7;
	r = rig_feed(&rig, &ps, &at, &e);
	assert_true(r >= 0 || ((r == -EBADMSG || r == -ENOMEM) && e.msg[0]));
	if (first) { /* the first sync goes to memory and images at once */
		diskapply_drain(&rig.disks);
		memcpy(rig.vm.mem.base, rig.before.ram, RIG_MEM);
	}
	rig_check_ram_and_pods(&rig);
	if (r == 1) {
		check_whole(&ps, at);
		check_commit();
	}
	stage_abort(&rig.stage);
	rig_check_ram_and_pods(&rig);
	parts_free(&ps);
	return 0;
}
