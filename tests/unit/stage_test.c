/* Staging: an epoch counts whole or not at all, whatever its frames are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/libstage.h"

#include "tests/unit/stage_fields.h"
#include "vmm/copy/pages.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct srig rig;

static int setup(void **state)
{
	rig_start(&rig);
	return 0;
}

static int teardown(void **state)
{
	rig_end(&rig);
	return 0;
}

static const struct golden second = {.epoch = 8, .first = 10, .n = 26, .seed = 12};

/* A rig with epoch 7 committed, and the frames of epoch 8. */
static void prepare(struct parts *ps)
{
	rig_first_epoch(&rig, 7);
	golden_epoch(&rig, &second, ps);
}

/* After whatever was refused, the right epoch is still taken, with the right result. */
static void check_still_good(const struct parts *ps)
{
	uint8_t page[MEM_PAGE_SIZE];
	struct err e;

	assert_int_equal(rig_feed(&rig, ps, NULL, &e), 1);
	rig_check_ram_and_pods(&rig);
	stage_commit(&rig.stage);
	rig_settle(&rig);
	for (uint64_t i = 0; i < RIG_PAGES; i++) {
		const uint8_t *old = rig.before.ram + i * MEM_PAGE_SIZE;

		memcpy(page, old, sizeof(page));
		if (i >= second.first && i < second.first + second.n)
			golden_page(&second, i - second.first, old, page);
		assert_memory_equal(mem_page(&rig.vm.mem, i), page, MEM_PAGE_SIZE);
	}
	assert_int_equal(rig.vm.vcpus[0].state.regs.rax, second.seed);
	assert_int_equal(rig.vm.vcpus[0].state.msrs[1].data, ~second.seed);
	assert_int_equal(rig.vm.chips.clock_ns, second.seed * 77);
	assert_int_equal(rig.stage.committed, second.epoch);
}

static void check_disk_result(void)
{
	uint8_t *want = malloc(RIG_DISK), *d0 = rig_read_disk(&rig, RIG_MIRROR);
	uint8_t *d2 = rig_read_disk(&rig, RIG_MIRROR2);

	memset(want, 0, RIG_DISK);
	memset(want, 0x77, 65536);
	memset(want + 4096, 0x11 + 12, 8192);
	memset(want + 8192, 0, 1024);
	memset(want + 8704, 0x33 + 12, 512);
	assert_memory_equal(d0, want, RIG_DISK);
	memset(want, 0, RIG_DISK);
	memset(want + RIG_DISK - 512, 0x22 + 12, 512);
	assert_memory_equal(d2, want, RIG_DISK);
	free(want);
	free(d0);
	free(d2);
}

static void good_epoch(void **state)
{
	struct parts ps;

	prepare(&ps);
	check_still_good(&ps);
	check_disk_result();
	parts_free(&ps);
}

/* The link ends after any frame. */
static void every_prefix(void **state)
{
	struct parts ps, cut;
	struct err e;

	prepare(&ps);
	for (unsigned n = 0; n < ps.n; n++) {
		parts_copy(&cut, &ps);
		while (cut.n > n)
			parts_remove(&cut, cut.n - 1);
		assert_int_equal(rig_feed(&rig, &cut, NULL, &e), 0);
		rig_check_ram_and_pods(&rig);
		stage_abort(&rig.stage);
		assert_int_equal(rig.stage.disklog.count, 0);
		parts_free(&cut);
	}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

static void every_frame_left_out(void **state)
{
	struct parts ps, less;

	prepare(&ps);
	for (unsigned i = 0; i + 1 < ps.n; i++) {
		parts_copy(&less, &ps);
		parts_remove(&less, i);
		rig_refuses(&rig, &less);
		parts_free(&less);
	}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

static void every_frame_twice(void **state)
{
	struct parts ps, more;

	prepare(&ps);
	for (unsigned from = 0; from < ps.n; from++)
		for (unsigned at = from; at + 1 < ps.n; at++) {
			parts_copy(&more, &ps);
			parts_repeat(&more, from, at);
			rig_refuses(&rig, &more);
			parts_free(&more);
		}
	/* One left out and another one in its place: the counts fit. */
	for (unsigned from = 1; from + 1 < ps.n; from++)
		for (unsigned at = 1; at + 1 < ps.n; at++) {
			bool log =
				ps.p[at].type == FRAME_DISKLOG && ps.p[from].type == FRAME_DISKLOG;

			/* Which changes there are is what the sequence numbers say. */
			if (from == at || log)
				continue;
			parts_copy(&more, &ps);
			parts_repeat(&more, from, at);
			parts_remove(&more, from > at ? at : at);
			rig_refuses(&rig, &more);
			parts_free(&more);
		}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

/* Any two frames change places: within a kind that is the stream's business (sequence numbers). */
static void every_swap(void **state)
{
	struct parts ps, other;

	prepare(&ps);
	for (unsigned a = 0; a < ps.n; a++)
		for (unsigned b = a + 1; b < ps.n; b++) {
			if (ps.p[a].type == ps.p[b].type)
				continue;
			parts_copy(&other, &ps);
			parts_swap(&other, a, b);
			rig_refuses(&rig, &other);
			parts_free(&other);
		}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

static void frames_of_other_kinds(void **state)
{
	struct parts ps, more;
	uint8_t zeros[64] = {0};

	prepare(&ps);
	for (uint16_t type = 0; type < FRAME_TYPE_MAX + 2; type++)
		for (unsigned at = 0; at < ps.n; at++) {
			if (type == FRAME_PAGES || type == FRAME_DISKLOG || type == FRAME_STATE ||
			    type == FRAME_EPOCH_END)
				continue;
			parts_copy(&more, &ps);
			more.p[at].type = type;
			if (type == FRAME_EPOCH_BEGIN && at == 0)
				more.p[at].epoch = 0;
			rig_refuses(&rig, &more);
			parts_free(&more);
		}
	/* Nothing but a beginning comes between epochs once there is a committed one. */
	for (uint16_t type = 0; type < FRAME_TYPE_MAX + 2; type++)
		for (uint64_t epoch = 0; epoch < 10; epoch++) {
			struct parts one = {0};

			if (type == FRAME_EPOCH_BEGIN && epoch == 8)
				continue;
			parts_add(&one, type, epoch, zeros,
				  type == FRAME_PAGES ? 0 : sizeof(zeros));
			rig_refuses(&rig, &one);
			parts_free(&one);
		}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

static void wrong_epochs(void **state)
{
	static const uint64_t wrong[] = {
		0, 1, 6, 7, 9, 10, 1ull << 32, (1ull << 32) + 8, 1ull << 63, UINT64_MAX};
	struct parts ps, other;
	struct err e;

	prepare(&ps);
	for (unsigned w = 0; w < COUNT(wrong); w++) {
		for (unsigned i = 0; i < ps.n; i++) {
			parts_copy(&other, &ps);
			other.p[i].epoch = wrong[w];
			rig_refuses(&rig, &other);
			parts_free(&other);
		}
		/* A whole epoch that was skipped to, or is played again. */
		parts_copy(&other, &ps);
		for (unsigned i = 0; i < ps.n; i++)
			other.p[i].epoch = wrong[w];
		rig_refuses_with(&rig, &other, "after epoch 7");
		parts_free(&other);
	}
	check_still_good(&ps);
	rig_mark(&rig);
	rig_refuses_with(&rig, &ps, "after epoch 8");
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), -EBADMSG);
	parts_free(&ps);
}

/* The highest number there is has no successor, not even 0. */
static void last_epoch(void **state)
{
	struct golden g = second;
	struct parts ps;

	rig_first_epoch(&rig, UINT64_MAX);
	for (g.epoch = 0; g.epoch < 3; g.epoch++) {
		golden_epoch(&rig, &g, &ps);
		rig_refuses(&rig, &ps);
		parts_free(&ps);
	}
	g.epoch = UINT64_MAX;
	golden_epoch(&rig, &g, &ps);
	rig_refuses(&rig, &ps);
	parts_free(&ps);
}

static void wrong_counts(void **state)
{
	static const int64_t by[] = {-1, 1, 2, -26, 1ll << 32, INT64_MIN};
	struct parts ps, other;
	uint8_t longer[256] = {0};
	unsigned end;

	prepare(&ps);
	end = parts_find(&ps, FRAME_EPOCH_END);
	for (unsigned i = 0; i < COUNT(by); i++)
		for (unsigned field = 0; field < 2; field++) {
			uint64_t v;

			parts_copy(&other, &ps);
			memcpy(&v, other.p[end].data + field * 8, 8);
			v += (uint64_t)by[i];
			memcpy(other.p[end].data + field * 8, &v, 8);
			rig_refuses_with(&rig, &other, "not whole");
			parts_free(&other);
		}
	for (uint32_t len = 0; len <= sizeof(longer); len++) {
		if (len == sizeof(struct wire_end) ||
		    len == sizeof(struct wire_end) + sizeof(struct mem_places))
			continue;
		parts_copy(&other, &ps);
		memcpy(longer, other.p[end].data, sizeof(struct wire_end));
		free(other.p[end].data);
		other.p[end] = part_make(FRAME_EPOCH_END, 8, longer, len);
		rig_refuses_with(&rig, &other, "epoch end of");
		parts_free(&other);
	}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

/* --- pages ---------------------------------------------------------------------------------------
 */

static void put_entry(struct parts *ps, uint64_t page, unsigned method, unsigned length,
		      const void *data, size_t have, uint64_t epoch)
{
	uint64_t head = page << 24 | (uint64_t)method << 16 | length;
	uint8_t *buf = calloc(1, 8 + have);

	memcpy(buf, &head, 8);
	if (data)
		memcpy(buf + 8, data, have);
	parts_add(ps, FRAME_PAGES, epoch, buf, 8 + have);
	free(buf);
}

/* One page entry in an epoch that is good but for it. */
static void refuse_entry(uint64_t page, unsigned method, unsigned length, const void *data,
			 size_t have)
{
	struct parts ps = {0};

	parts_add(&ps, FRAME_EPOCH_BEGIN, 8, NULL, 0);
	put_entry(&ps, page, method, length, data, have, 8);
	rig_refuses(&rig, &ps);
	parts_free(&ps);
}

static void hostile_pages(void **state)
{
	static const uint64_t numbers[] = {RIG_PAGES, RIG_PAGES + 1, 1ull << 20, 1ull << 32,
					   PAGE_NUMBER_MAX};
	uint8_t junk[8192];

	rig_first_epoch(&rig, 7);
	memset(junk, 0xa5, sizeof(junk));
	for (unsigned i = 0; i < COUNT(numbers); i++)
		for (unsigned method = 0; method < 8; method++)
			refuse_entry(numbers[i], method, method == PAGE_RAW ? 4096 : 0, junk,
				     method == PAGE_RAW ? 4096 : 0);
	for (unsigned method = PAGE_METHOD_MAX; method < 256; method++)
		refuse_entry(1, method, 0, NULL, 0);
	refuse_entry(1, 0, 0, NULL, 0);
	refuse_entry(1, PAGE_ZERO, 1, junk, 1);
	refuse_entry(1, PAGE_RAW, 4095, junk, 4095);
	refuse_entry(1, PAGE_RAW, 4097, junk, 4097);
	refuse_entry(1, PAGE_RAW, 4096, junk, 4095);
	refuse_entry(1, PAGE_LZ4, 0, NULL, 0);
	refuse_entry(1, PAGE_LZ4, 100, junk, 100);
	refuse_entry(1, PAGE_LZ4, 4096, junk, 4096);
	refuse_entry(1, PAGE_DELTA, 65535, junk, 8192);
	for (unsigned len = 1; len < 64; len++)
		refuse_entry(1, PAGE_DELTA, len, junk, len);
	rig_check_unchanged(&rig);
}

static void put_run(uint8_t *out, uint16_t skip, uint16_t count)
{
	memcpy(out, &skip, 2);
	memcpy(out + 2, &count, 2);
}

static void hostile_deltas(void **state)
{
	static const uint16_t runs[][2] = {{512, 1}, {511, 2}, {0, 513},   {65535, 65535},
					   {0, 0},   {1, 0},   {65535, 1}, {0, 65535}};
	uint8_t d[3000];

	rig_first_epoch(&rig, 7);
	memset(d, 0, sizeof(d));
	for (unsigned i = 0; i < COUNT(runs); i++) {
		put_run(d, runs[i][0], runs[i][1]);
		refuse_entry(2, PAGE_DELTA, 12, d, 12);
		refuse_entry(2, PAGE_DELTA, 3000, d, 3000);
	}
	/* Two runs: the second without a gap, or past the end. */
	put_run(d, 0, 1);
	put_run(d + 12, 0, 1);
	refuse_entry(2, PAGE_DELTA, 24, d, 24);
	put_run(d + 12, 511, 1);
	refuse_entry(2, PAGE_DELTA, 24, d, 24);
	rig_check_unchanged(&rig);
}

/* The memory for staging is bounded: no page twice, so no more than the machine has. */
static void too_many_pages(void **state)
{
	struct parts ps = {0};
	uint8_t *all = malloc((RIG_PAGES + 1) * 8);
	struct err e;

	rig_first_epoch(&rig, 7);
	for (uint64_t i = 0; i <= RIG_PAGES; i++) {
		uint64_t head = (i % RIG_PAGES) << 24 | PAGE_ZERO << 16;

		memcpy(all + i * 8, &head, 8);
	}
	parts_add(&ps, FRAME_EPOCH_BEGIN, 8, NULL, 0);
	parts_add(&ps, FRAME_PAGES, 8, all, RIG_PAGES * 8);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 0);
	stage_abort(&rig.stage);
	parts_add(&ps, FRAME_PAGES, 8, all, 8);
	rig_refuses_with(&rig, &ps, "twice");
	parts_free(&ps);
	parts_add(&ps, FRAME_EPOCH_BEGIN, 8, NULL, 0);
	parts_add(&ps, FRAME_PAGES, 8, all, (RIG_PAGES + 1) * 8);
	rig_refuses_with(&rig, &ps, "twice");
	assert_true(rig.stage.pages.nslabs <=
		    (RIG_PAGES + PAGE_IN_SLAB_PAGES - 1) / PAGE_IN_SLAB_PAGES);
	/* What was refused or thrown away is forgotten: the same pages may come again. */
	ps.p[1].length = RIG_PAGES * 8;
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 0);
	stage_abort(&rig.stage);
	rig_check_unchanged(&rig);
	parts_free(&ps);
	free(all);
}

/* --- the first sync ------------------------------------------------------------------------------
 */

/* One frame of the first sync is refused, and the pods and images stay. */
static void refuse_sync(uint16_t type, uint64_t epoch, const void *data, size_t len)
{
	struct parts ps = {0};
	struct err e;

	parts_add(&ps, type, epoch, data, len);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), -EBADMSG);
	assert_true(strlen(e.msg) > 8);
	stage_abort(&rig.stage);
	assert_true(diskapply_idle(&rig.disks));
	assert_false(rig.stage.open);
	assert_int_equal(rig.stage.committed, 0);
	parts_free(&ps);
}

static void hostile_sync(void **state)
{
	uint8_t zeros[4200] = {0};
	uint64_t head = 1ull << 24 | PAGE_DELTA << 16;

	rig_mark(&rig);
	for (uint16_t type = 0; type < FRAME_TYPE_MAX + 2; type++) {
		if (type == FRAME_EPOCH_BEGIN)
			continue;
		refuse_sync(type, 1, zeros, 64);
		if (type != FRAME_PAGES)
			refuse_sync(type, 0, zeros, 64);
	}
	refuse_sync(FRAME_EPOCH_BEGIN, 0, NULL, 0);
	/* There is no page yet that a delta could be against. */
	refuse_sync(FRAME_PAGES, 0, &head, 8);
	head = RIG_PAGES << 24 | PAGE_ZERO << 16;
	refuse_sync(FRAME_PAGES, 0, &head, 8);
	head = PAGE_NUMBER_MAX << 24 | PAGE_ZERO << 16;
	refuse_sync(FRAME_PAGES, 0, &head, 8);
	for (size_t n = 1; n < 8; n++)
		refuse_sync(FRAME_PAGES, 0, &head, n);
	rig_check_unchanged(&rig);
}

/* Sync data comes before the first epoch only, not inside it. */
static void sync_inside_epoch(void **state)
{
	struct golden g = {.first = 0, .n = 4, .seed = 3};
	struct parts ps = {0};

	rig_mark(&rig);
	parts_add(&ps, FRAME_EPOCH_BEGIN, 1, NULL, 0);
	golden_pages(&rig, &g, 0, false, &ps);
	rig_refuses(&rig, &ps);
	parts_free(&ps);
	parts_add(&ps, FRAME_EPOCH_BEGIN, 1, NULL, 0);
	golden_disk_op(&ps, FRAME_DISK, 0, (struct wire_disk){RIG_MIRROR, DISK_WRITE, 0, 512, 512},
		       1);
	rig_refuses(&rig, &ps);
	parts_free(&ps);
	rig_check_unchanged(&rig);
}

/* And not after it: these would go straight to memory and images. */
static void sync_after_commit(void **state)
{
	struct golden g = {.first = 0, .n = 4, .seed = 3};
	struct parts ps = {0};

	rig_first_epoch(&rig, 7);
	golden_pages(&rig, &g, 0, false, &ps);
	rig_refuses_with(&rig, &ps, "outside an epoch");
	parts_free(&ps);
	golden_disk_op(&ps, FRAME_DISK, 0, (struct wire_disk){RIG_MIRROR, DISK_WRITE, 0, 512, 512},
		       1);
	rig_refuses_with(&rig, &ps, "outside an epoch");
	parts_free(&ps);
	rig_check_unchanged(&rig);
}

/* --- state ---------------------------------------------------------------------------------------
 */

static void replace_state(struct parts *ps, const void *data, size_t len)
{
	unsigned at = parts_find(ps, FRAME_STATE);

	free(ps->p[at].data);
	ps->p[at] = part_make(FRAME_STATE, ps->p[at].epoch, data, len);
}

static void state_cut_anywhere(void **state)
{
	struct parts ps, other;
	const struct part *st;

	prepare(&ps);
	st = &ps.p[parts_find(&ps, FRAME_STATE)];
	for (uint32_t len = 0; len < st->length; len += 1 + len / 97) {
		parts_copy(&other, &ps);
		replace_state(&other, st->data, len);
		rig_refuses(&rig, &other);
		parts_free(&other);
	}
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

struct field_run {
	struct parts *good;
	uint8_t *state;
	unsigned refused;
};

static void refuse_state(struct field_run *run)
{
	struct parts other;
	const struct part *st = &run->good->p[parts_find(run->good, FRAME_STATE)];

	parts_copy(&other, run->good);
	replace_state(&other, run->state, st->length);
	rig_refuses(&rig, &other);
	parts_free(&other);
	memcpy(run->state, st->data, st->length);
	run->refused++;
}

/* Every head of every field, and every limited value, made wrong one at a time. */
static void damage_field(void *arg, const struct field *f, size_t head, size_t value,
			 uint32_t length)
{
	struct field_run *run = arg;
	uint8_t *p = run->state;

	p[head] ^= 0x40; /* id */
	p[head + 1] ^= 0x40;
	refuse_state(run);
	p[head + 2] ^= 0x04; /* type */
	refuse_state(run);
	p[head + 3] = 1; /* reserved */
	refuse_state(run);
	for (unsigned b = 4; b < 8; b++) {
		p[head + b] ^= 0x81; /* length */
		refuse_state(run);
	}
	if (!state_is_int(f) || !f->max ||
	    f->max == (f->size < 8 ? (1ull << 8 * f->size) - 1 : ~0ull))
		return;
	uint64_t over = f->max + 1;

	memcpy(p + value, &over, f->size);
	refuse_state(run);
	memset(p + value, 0xff, f->size);
	refuse_state(run);
}

static void state_fields(void **state)
{
	struct parts ps;
	struct field_run run = {.good = &ps};
	const struct part *st;

	prepare(&ps);
	st = &ps.p[parts_find(&ps, FRAME_STATE)];
	run.state = malloc(st->length);
	memcpy(run.state, st->data, st->length);
	fields_walk(&rig.vm, run.state, st->length, damage_field, &run);
	assert_true(run.refused > 1000);
	free(run.state);
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

/* Sections: one missing, one twice, one for a device that is not there. */
static void state_sections(void **state)
{
	struct parts ps, other;
	const struct part *st;
	uint8_t *buf;

	prepare(&ps);
	st = &ps.p[parts_find(&ps, FRAME_STATE)];
	buf = malloc(st->length * 2);
	for (size_t at = 0; at < st->length;) {
		uint32_t len;

		memcpy(&len, st->data + at + 8, 4);
		len += STATE_SECTION_HEAD;
		memcpy(buf, st->data, at);
		memcpy(buf + at, st->data + at + len, st->length - at - len);
		parts_copy(&other, &ps);
		replace_state(&other, buf, st->length - len);
		rig_refuses_with(&rig, &other, "missing");
		parts_free(&other);

		memcpy(buf, st->data, st->length);
		memcpy(buf + st->length, st->data + at, len);
		parts_copy(&other, &ps);
		replace_state(&other, buf, st->length + len);
		rig_refuses_with(&rig, &other, "twice");
		parts_free(&other);

		buf[at + 2] ^= 0x20;
		parts_copy(&other, &ps);
		replace_state(&other, buf, st->length);
		rig_refuses_with(&rig, &other, "no device here");
		parts_free(&other);
		at += len;
	}
	free(buf);
	rig_check_unchanged(&rig);
	check_still_good(&ps);
	parts_free(&ps);
}

/* --- hashes --------------------------------------------------------------------------------------
 */

static void verify_hashes(void **state)
{
	struct parts ps;
	struct err e;

	prepare(&ps);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
	stage_commit(&rig.stage);
	assert_int_equal(stage_verify(&rig.stage, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "memory differs"));
	rig.stage.end.ram_hash = mem_hash(&rig.vm.mem);
	memset(&e, 0, sizeof(e));
	assert_int_equal(stage_verify(&rig.stage, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "state differs"));
	rig_settle(&rig);
	parts_free(&ps);
}

/* --- anything ------------------------------------------------------------------------------------
 */

static uint64_t random_state;

static uint64_t below(uint64_t n)
{
	return rig_random(&random_state) % n;
}

static void mutate_bytes(struct part *p)
{
	static const uint64_t special[] = {
		0, 1, 511, 512, 4096, 1ull << 31, 1ull << 32, 1ull << 63, UINT32_MAX, UINT64_MAX};
	uint32_t at;

	if (!p->length)
		return;
	at = (uint32_t)below(p->length);
	if (below(4) == 0) /* heads lie in front */
		at = (uint32_t)below(p->length < 64 ? p->length : 64);
	switch (below(3)) {
	case 0:
		p->data[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1:
		p->data[at] = (uint8_t)below(256);
		break;
	default:
		if (p->length - at >= 8)
			memcpy(p->data + at, &special[below(COUNT(special))], 1ull << below(4));
	}
}

static void resize(struct part *p)
{
	uint32_t len = (uint32_t)below(p->length + 40);
	struct part n = {p->type, p->epoch, len, calloc(1, len ? len : 1)};

	memcpy(n.data, p->data, len < p->length ? len : p->length);
	free(p->data);
	*p = n;
}

static void mutate(struct parts *ps)
{
	unsigned at = (unsigned)below(ps->n);

	switch (below(12)) {
	case 0:
		resize(&ps->p[at]);
		break;
	case 1:
		ps->p[at].epoch = below(2) ? below(12) : rig_random(&random_state);
		break;
	case 2:
		ps->p[at].type = (uint16_t)below(FRAME_TYPE_MAX + 2);
		break;
	case 3:
		if (ps->n > 1)
			parts_remove(ps, at);
		break;
	case 4:
		if (ps->n < RIG_MAX_FRAMES)
			parts_repeat(ps, at, (unsigned)below(ps->n));
		break;
	case 5:
		parts_swap(ps, at, (unsigned)below(ps->n));
		break;
	default:
		mutate_bytes(&ps->p[at]);
	}
}

/* What was accepted is a whole epoch, if another one; and it is not applied before the commit. */
static void check_accepted(const struct srig *r)
{
	assert_true(r->stage.open && r->stage.part == STAGE_END && r->stage.epoch == 8);
	assert_int_equal(r->stage.pages.npages, r->stage.end.pages);
	assert_int_equal(r->stage.disklog.count, r->stage.end.disk_ops);
	for (uint64_t i = 0; i < r->stage.pages.npages; i++)
		assert_true((r->stage.pages.page[i] & ~PAGE_IN_ZERO) < RIG_PAGES);
}

static void random_mutations(void **state)
{
	const char *seed = getenv("FT_SEED"), *count = getenv("FT_MUTATIONS");
	uint64_t n = count ? strtoull(count, NULL, 0) : 20000, accepted = 0, refused = 0;
	struct parts good, ps;
	struct err e;

	random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)getpid() * 2654435761u + 1;
	print_message("%llu mutations, FT_SEED=%llu\n", (unsigned long long)n,
		      (unsigned long long)random_state);
	prepare(&good);
	for (uint64_t i = 0; i < n; i++) {
		int r;

		parts_copy(&ps, &good);
		for (uint64_t times = 1 + below(3); times; times--)
			mutate(&ps);
		r = rig_feed(&rig, &ps, NULL, &e);
		if (r == 1)
			check_accepted(&rig);
		else if (r < 0)
			assert_true(r == -EBADMSG && e.msg[0]);
		accepted += r == 1;
		refused += r < 0;
		rig_check_ram_and_pods(&rig);
		stage_abort(&rig.stage);
		parts_free(&ps);
	}
	print_message("refused %llu, harmless %llu, incomplete %llu\n", (unsigned long long)refused,
		      (unsigned long long)accepted, (unsigned long long)(n - refused - accepted));
	assert_true(refused > n / 4);
	rig_check_unchanged(&rig);
	check_still_good(&good);
	check_disk_result();
	parts_free(&good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(good_epoch),	       T(every_prefix),	     T(every_frame_left_out),
		T(every_frame_twice),  T(every_swap),	     T(frames_of_other_kinds),
		T(wrong_epochs),       T(last_epoch),	     T(wrong_counts),
		T(hostile_pages),      T(hostile_deltas),    T(too_many_pages),
		T(hostile_sync),       T(sync_inside_epoch), T(sync_after_commit),
		T(state_cut_anywhere), T(state_fields),	     T(state_sections),
		T(verify_hashes),      T(random_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
