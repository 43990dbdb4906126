/*
 * A secondary without /dev/kvm: memory, real devices with their tables, disks on files, a staging
 * area; and epochs made by hand, frame by frame, to be damaged in every way.
 */
#ifndef TESTS_UNIT_STAGE_RIG_H
#define TESTS_UNIT_STAGE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef STAGE_RIG_PLAIN /* for the fuzzer and benchmarks */
#define assert_true(c)                                                                             \
	do {                                                                                       \
		if (!(c))                                                                          \
			abort();                                                                   \
	} while (0)
#define assert_false(c)		     assert_true(!(c))
#define assert_non_null(p)	     assert_true((p) != NULL)
#define assert_int_equal(a, b)	     assert_true((a) == (b))
#define assert_memory_equal(a, b, n) assert_true(!memcmp(a, b, n))
#else
#include <cmocka.h>
#endif

#include "devices/serial.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_rng.h"
#include "vmm/copy/pages.h"
#include "ft/epoch/stage.h"
#include "vmm/base/log.h"

#define RIG_UNUSED __attribute__((unused))
#ifndef RIG_MEM
#define RIG_MEM (2ull << 20)
#endif
#define RIG_PAGES      (RIG_MEM / MEM_PAGE_SIZE)
#define RIG_DISK       (1u << 20)
#define RIG_DISKLOG    (64u << 10) /* what the primary announced */
#define RIG_MAX_FRAMES 32
/* By index of machine.devs. */
enum { RIG_MIRROR, RIG_SHARED, RIG_RNG, RIG_MIRROR2, RIG_DEVS };

static RIG_UNUSED uint64_t rig_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* One frame as it would come out of the stream. */
struct part {
	uint16_t type;
	uint64_t epoch;
	uint32_t length;
	uint8_t *data;
};

struct parts {
	unsigned n;
	struct part p[RIG_MAX_FRAMES];
};

/* All that a rejected message must leave as it was. */
struct image {
	uint8_t *ram, *pods, *disk[RIG_DEVS];
	size_t pods_len;
};

struct srig {
	struct loop loop;
	struct vm vm;
	struct diskapply disks;
	struct stage stage;
	struct machine *m;
	unsigned moved;
	char dir[64];
	struct image before;
};

static RIG_UNUSED void rig_moved(void *arg)
{
	((struct srig *)arg)->moved++;
}

static RIG_UNUSED bool rig_sink(void *arg, const void *data, uint32_t len)
{
	return true;
}

static RIG_UNUSED void rig_add_item(struct vm *vm, const struct state_desc *desc, unsigned instance,
				    void *pod)
{
	vm->state.items[vm->state.nitems] = (struct state_item){desc, instance, pod};
	vm->state.scratch[vm->state.nitems++] =
		(struct state_item){desc, instance, calloc(1, desc->size)};
}

static RIG_UNUSED void rig_machine(struct machine *m)
{
	static const struct mdev devs[RIG_DEVS] = {
		[RIG_MIRROR] = {.kind = MDEV_BLK,
				.id = "d0",
				.bytes = RIG_DISK,
				.ft = DISK_FT_MIRROR},
		[RIG_SHARED] = {.kind = MDEV_BLK,
				.id = "d1",
				.bytes = RIG_DISK,
				.ft = DISK_FT_SHARED},
		[RIG_RNG] = {.kind = MDEV_RNG, .id = "rng"},
		[RIG_MIRROR2] = {.kind = MDEV_BLK,
				 .id = "d2",
				 .bytes = RIG_DISK,
				 .ft = DISK_FT_MIRROR},
	};

	memset(m, 0, sizeof(*m));
	snprintf(m->name, sizeof(m->name), "vm");
	m->mem_bytes = RIG_MEM;
	m->vcpus = 1;
	m->ndevs = RIG_DEVS;
	memcpy(m->devs, devs, sizeof(devs));
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		m->devs[i].gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP;
		m->devs[i].gsi = MACHINE_GSI_BASE + i;
	}
}

static RIG_UNUSED void rig_open_disk(struct srig *r, unsigned i)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/%u", r->dir, i);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0 && ftruncate(fd, RIG_DISK) == 0);
	close(fd);
	assert_int_equal(
		disk_open(&r->vm.devices.disks[i], &r->loop, r->m->devs[i].id, path, 0, NULL), 0);
}

static RIG_UNUSED void rig_add_device(struct srig *r, struct device *d)
{
	struct vm *vm = &r->vm;

	vm->devices.devs[vm->devices.ndevs] = d;
	d->ops->save(d);
	rig_add_item(vm, d->ops->state, vm->devices.ndevs++, d->pod);
}

static RIG_UNUSED void rig_start(struct srig *r)
{
	struct vm *vm = &r->vm;
	struct device *d;

	memset(r, 0, sizeof(*r));
	log_init(LOG_ERROR, "test"); /* the log would drown the results */
	snprintf(r->dir, sizeof(r->dir), "/tmp/stage-test-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	r->m = &vm->machine;
	rig_machine(r->m);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	assert_int_equal(mem_init(&vm->mem, MEM_SHARED_FILE, RIG_MEM, NULL), 0);
	obuf_init(&vm->obuf, 1 << 20);
	vm->loop = &r->loop;
	vm->devices.env = (struct dev_env){&vm->mem, &r->loop, &vm->bus, &vm->obuf};
	vm->chips.pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	vm->chips.ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	vm->vcpus[0].state.xcr0 = 1;
	vm->vcpus[0].state.nmsrs = 3;
	rig_add_item(vm, &vm_chips_desc, 0, &vm->chips);
	rig_add_item(vm, &vcpu_state_desc, 0, &vm->vcpus[0].state);
	assert_int_equal(serial_new(&vm->devices.env, rig_sink, NULL, &d, NULL), 0);
	rig_add_device(r, d);
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		vm->devices.disks[i].fd = -1;
		if (r->m->devs[i].kind == MDEV_BLK) {
			rig_open_disk(r, i);
			assert_int_equal(virtio_blk_new(&vm->devices.env, &r->m->devs[i],
							&vm->devices.disks[i], &d, NULL),
					 0);
		} else {
			assert_int_equal(virtio_rng_new(&vm->devices.env, &r->m->devs[i], &d, NULL),
					 0);
		}
		rig_add_device(r, d);
	}
	assert_int_equal(diskapply_init(&r->disks, r->m, vm->devices.disks, rig_moved, r), 0);
	assert_int_equal(stage_init(&r->stage, vm, &r->disks, RIG_DISKLOG), 0);
}

static RIG_UNUSED void image_free(struct image *im)
{
	free(im->ram);
	free(im->pods);
	for (unsigned i = 0; i < RIG_DEVS; i++)
		free(im->disk[i]);
	memset(im, 0, sizeof(*im));
}

static RIG_UNUSED void rig_end(struct srig *r)
{
	struct vm *vm = &r->vm;
	char path[96];

	image_free(&r->before);
	diskapply_done(&r->disks);
	stage_done(&r->stage);
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		vm->devices.devs[i]->ops->free(vm->devices.devs[i]);
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		if (vm->devices.disks[i].fd >= 0)
			disk_close(&vm->devices.disks[i]);
		snprintf(path, sizeof(path), "%s/%u", r->dir, i);
		unlink(path);
	}
	rmdir(r->dir);
	for (unsigned i = 0; i < vm->state.nitems; i++)
		free(vm->state.scratch[i].pod);
	obuf_done(&vm->obuf);
	mem_done(&vm->mem);
	loop_done(&r->loop);
}

/* Until the images have all. */
static RIG_UNUSED void rig_settle(struct srig *r)
{
	for (int left = 5000; !diskapply_idle(&r->disks) && left; left--)
		loop_run_once(&r->loop, 10000000);
	assert_true(diskapply_idle(&r->disks));
	assert_int_equal(r->disks.queue.bytes, 0);
	assert_int_equal(r->disks.error, 0);
}

/* --- what is now, and what was ------------------------------------------------------------------
 */

static RIG_UNUSED uint8_t *rig_read_disk(struct srig *r, unsigned i)
{
	uint8_t *p = malloc(RIG_DISK);

	assert_non_null(p);
	assert_int_equal(pread(r->vm.devices.disks[i].fd, p, RIG_DISK, 0), RIG_DISK);
	return p;
}

static RIG_UNUSED uint8_t *rig_pods(struct srig *r, size_t *ret_len)
{
	const struct vm *vm = &r->vm;
	size_t len = 0;
	uint8_t *p;

	for (unsigned i = 0; i < vm->state.nitems; i++)
		len += vm->state.items[i].desc->size;
	p = malloc(len);
	assert_non_null(p);
	*ret_len = len;
	len = 0;
	for (unsigned i = 0; i < vm->state.nitems; i++) {
		memcpy(p + len, vm->state.items[i].pod, vm->state.items[i].desc->size);
		len += vm->state.items[i].desc->size;
	}
	return p;
}

/* Remember everything. */
static RIG_UNUSED void rig_mark(struct srig *r)
{
	image_free(&r->before);
	r->before.ram = malloc(RIG_MEM);
	assert_non_null(r->before.ram);
	memcpy(r->before.ram, r->vm.mem.base, RIG_MEM);
	r->before.pods = rig_pods(r, &r->before.pods_len);
	for (unsigned i = 0; i < RIG_DEVS; i++)
		if (r->m->devs[i].kind == MDEV_BLK)
			r->before.disk[i] = rig_read_disk(r, i);
}

static RIG_UNUSED void rig_check_ram_and_pods(struct srig *r)
{
	size_t len;
	uint8_t *pods = rig_pods(r, &len);

	assert_int_equal(len, r->before.pods_len);
	assert_memory_equal(pods, r->before.pods, len);
	free(pods);
	assert_true(!memcmp(r->before.ram, r->vm.mem.base, RIG_MEM));
	assert_true(diskapply_idle(&r->disks));
	assert_int_equal(r->disks.queue.bytes, 0);
}

/* Nothing has changed since rig_mark(), byte for byte. */
static RIG_UNUSED void rig_check_unchanged(struct srig *r)
{
	rig_check_ram_and_pods(r);
	for (int i = 0; i < 3; i++)
		loop_run_once(&r->loop, 0);
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		uint8_t *now;

		if (!r->before.disk[i])
			continue;
		now = rig_read_disk(r, i);
		assert_true(!memcmp(now, r->before.disk[i], RIG_DISK));
		free(now);
	}
}

/* --- frames -------------------------------------------------------------------------------------
 */

static RIG_UNUSED struct part part_make(uint16_t type, uint64_t epoch, const void *data, size_t len)
{
	struct part p = {type, epoch, (uint32_t)len, malloc(len ? len : 1)};

	assert_non_null(p.data);
	if (len)
		memcpy(p.data, data, len);
	return p;
}

static RIG_UNUSED struct part *parts_add(struct parts *ps, uint16_t type, uint64_t epoch,
					 const void *data, size_t len)
{
	assert_true(ps->n < RIG_MAX_FRAMES);
	ps->p[ps->n] = part_make(type, epoch, data, len);
	return &ps->p[ps->n++];
}

static RIG_UNUSED void parts_free(struct parts *ps)
{
	for (unsigned i = 0; i < ps->n; i++)
		free(ps->p[i].data);
	ps->n = 0;
}

static RIG_UNUSED void parts_copy(struct parts *to, const struct parts *from)
{
	to->n = 0;
	for (unsigned i = 0; i < from->n; i++)
		parts_add(to, from->p[i].type, from->p[i].epoch, from->p[i].data,
			  from->p[i].length);
}

static RIG_UNUSED void parts_remove(struct parts *ps, unsigned at)
{
	free(ps->p[at].data);
	memmove(&ps->p[at], &ps->p[at + 1], (ps->n - at - 1) * sizeof(ps->p[0]));
	ps->n--;
}

/* A copy of frame `from` right behind frame `at`. */
static RIG_UNUSED void parts_repeat(struct parts *ps, unsigned from, unsigned at)
{
	struct part p = ps->p[from];

	assert_true(ps->n < RIG_MAX_FRAMES);
	p = part_make(p.type, p.epoch, p.data, p.length);
	memmove(&ps->p[at + 2], &ps->p[at + 1], (ps->n - at - 1) * sizeof(ps->p[0]));
	ps->p[at + 1] = p;
	ps->n++;
}

static RIG_UNUSED void parts_swap(struct parts *ps, unsigned a, unsigned b)
{
	struct part p = ps->p[a];

	ps->p[a] = ps->p[b];
	ps->p[b] = p;
}

/* First frame of a type. */
static RIG_UNUSED unsigned parts_find(const struct parts *ps, uint16_t type)
{
	unsigned i = 0;

	while (i < ps->n && ps->p[i].type != type)
		i++;
	assert_true(i < ps->n);
	return i;
}

/*
 * Feed frames until one is not simply taken. Each lies in memory of exactly its size, so that
 * sanitizers see every byte read beyond it. The result of the last; *ret_at says which.
 */
static RIG_UNUSED int rig_feed(struct srig *r, const struct parts *ps, unsigned *ret_at,
			       struct err *e)
{
	int res = 0;
	unsigned i;

	memset(e, 0, sizeof(*e));
	for (i = 0; i < ps->n && res == 0; i++) {
		uint8_t *copy = malloc(ps->p[i].length ? ps->p[i].length : 1);
		struct frame f = {.type = ps->p[i].type,
				  .epoch = ps->p[i].epoch,
				  .length = ps->p[i].length,
				  .data = copy};

		assert_non_null(copy);
		memcpy(copy, ps->p[i].data, ps->p[i].length);
		res = stage_frame(&r->stage, &f, e);
		free(copy);
	}
	if (ret_at)
		*ret_at = i - 1;
	return res;
}

/* The whole is refused with a reason, and nothing of it counts. */
#define rig_refuses(r, ps)                                                                         \
	do {                                                                                       \
		struct err e_;                                                                     \
		int res_ = rig_feed(r, ps, NULL, &e_);                                             \
                                                                                                   \
		if (res_ >= 0)                                                                     \
			print_error("%s:%d: not refused\n", __FILE__, __LINE__);                   \
		assert_int_equal(res_, -EBADMSG);                                                  \
		assert_true(e_.code == -EBADMSG && strlen(e_.msg) > 8);                            \
		stage_abort(&(r)->stage);                                                          \
		rig_check_ram_and_pods(r);                                                         \
	} while (0)

/* The same with these words in the reason. */
#define rig_refuses_with(r, ps, words)                                                             \
	do {                                                                                       \
		struct err why_;                                                                   \
                                                                                                   \
		assert_int_equal(rig_feed(r, ps, NULL, &why_), -EBADMSG);                          \
		if (!strstr(why_.msg, words))                                                      \
			fail_msg("'%s' without '%s'", why_.msg, words);                            \
		stage_abort(&(r)->stage);                                                          \
		rig_check_ram_and_pods(r);                                                         \
	} while (0)

/* --- a good epoch -------------------------------------------------------------------------------
 */

/* What an epoch does: pages [first, first + n) get new content, the disks a few changes. */
struct golden {
	uint64_t epoch, first, n;
	uint64_t seed;
};

static RIG_UNUSED void golden_page(const struct golden *g, uint64_t i, const uint8_t *old,
				   uint8_t *out)
{
	uint64_t s = g->seed * 1000003 + i + 1;

	memcpy(out, old, MEM_PAGE_SIZE);
	switch (i % 4) {
	case 0: /* raw */
		for (unsigned w = 0; w < MEM_PAGE_SIZE / 8; w++) {
			uint64_t v = rig_random(&s);

			memcpy(out + w * 8, &v, 8);
		}
		break;
	case 1: /* lz4 */
		for (unsigned b = 0; b < MEM_PAGE_SIZE; b++)
			out[b] = (uint8_t)(b / 64 + g->seed);
		break;
	case 2: /* delta, or lz4 when there is no base */
		out[8 * (g->seed % 500)] ^= 0x55;
		out[2048] ^= (uint8_t)(g->seed | 1);
		break;
	case 3:
		memset(out, 0, MEM_PAGE_SIZE);
		break;
	}
}

/* base: does the receiver hold the page (an epoch), or not (the first sync)? */
static RIG_UNUSED void golden_pages(struct srig *r, const struct golden *g, uint64_t epoch,
				    bool base, struct parts *ps)
{
	uint8_t page[MEM_PAGE_SIZE] __attribute__((aligned(8)));
	uint8_t *buf = malloc(g->n * PAGE_ENTRY_MAX);
	uint64_t half = (g->n + 1) / 2;

	assert_non_null(buf);
	for (uint64_t from = 0; from < g->n; from += half) {
		size_t len = 0;

		for (uint64_t i = from; i < from + half && i < g->n; i++) {
			const uint8_t *old = mem_page(&r->vm.mem, g->first + i);

			golden_page(g, i, old, page);
			len += pages_encode(g->first + i, page, base ? old : NULL, true, buf + len);
		}
		parts_add(ps, FRAME_PAGES, epoch, buf, len);
	}
	free(buf);
}

static RIG_UNUSED void golden_disk_op(struct parts *ps, uint16_t type, uint64_t epoch,
				      struct wire_disk w, uint8_t fill)
{
	uint8_t *buf = malloc(sizeof(w) + w.data);

	assert_non_null(buf);
	memcpy(buf, &w, sizeof(w));
	memset(buf + sizeof(w), fill, w.data);
	parts_add(ps, type, epoch, buf, sizeof(w) + w.data);
	free(buf);
}

static const struct {
	struct wire_disk w;
	uint8_t fill;
} golden_ops[] = {
	{{RIG_MIRROR, DISK_WRITE, 4096, 8192, 8192}, 0x11},
	{{RIG_MIRROR2, DISK_WRITE, RIG_DISK - 512, 512, 512}, 0x22},
	{{RIG_MIRROR, DISK_ZERO, 8192, 1024, 0}, 0},
	{{RIG_MIRROR, DISK_FLUSH, 0, 0, 0}, 0},
	{{RIG_MIRROR, DISK_WRITE, 8704, 512, 512}, 0x33},
	{{RIG_MIRROR2, DISK_DISCARD, 65536, 65536, 0}, 0},
};
#define GOLDEN_OPS (sizeof(golden_ops) / sizeof(golden_ops[0]))

/* The state of a primary whose registers are g->seed, encoded from the receiver's own pods. */
static RIG_UNUSED size_t golden_state(struct srig *r, const struct golden *g, uint8_t *buf,
				      size_t cap)
{
	struct vm *vm = &r->vm;
	struct vcpu_state was = vm->vcpus[0].state;
	struct vm_chips chips = vm->chips;
	int64_t len;

	vm->vcpus[0].state.regs.rax = g->seed;
	vm->vcpus[0].state.msrs[1].data = ~g->seed;
	vm->chips.clock_ns = g->seed * 77;
	len = state_encode_all(vm->state.items, vm->state.nitems, buf, cap);
	vm->vcpus[0].state = was;
	vm->chips = chips;
	assert_true(len > 0);
	return (size_t)len;
}

static RIG_UNUSED void golden_epoch(struct srig *r, const struct golden *g, struct parts *ps)
{
	size_t cap = vm_state_bound(&r->vm);
	uint8_t *state = malloc(cap);
	struct wire_end end = {.pages = g->n, .disk_ops = GOLDEN_OPS};

	assert_non_null(state);
	ps->n = 0;
	parts_add(ps, FRAME_EPOCH_BEGIN, g->epoch, NULL, 0);
	golden_pages(r, g, g->epoch, true, ps);
	for (unsigned i = 0; i < GOLDEN_OPS; i++)
		golden_disk_op(ps, FRAME_DISKLOG, g->epoch, golden_ops[i].w,
			       (uint8_t)(golden_ops[i].fill + g->seed));
	parts_add(ps, FRAME_STATE, g->epoch, state, golden_state(r, g, state, cap));
	parts_add(ps, FRAME_EPOCH_END, g->epoch, &end, sizeof(end));
	free(state);
}

/* Sync and first epoch, committed; the mark is set behind them. */
static RIG_UNUSED void rig_first_epoch(struct srig *r, uint64_t epoch)
{
	struct golden sync = {.first = 0, .n = 40, .seed = 9};
	struct golden g = {.epoch = epoch, .first = 20, .n = 30, .seed = 11};
	struct parts ps = {0};
	struct err e;

	golden_pages(r, &sync, 0, false, &ps);
	golden_disk_op(&ps, FRAME_DISK, 0,
		       (struct wire_disk){RIG_MIRROR, DISK_WRITE, 0, 65536, 65536}, 0x77);
	assert_int_equal(rig_feed(r, &ps, NULL, &e), 0);
	parts_free(&ps);
	golden_epoch(r, &g, &ps);
	assert_int_equal(rig_feed(r, &ps, NULL, &e), 1);
	parts_free(&ps);
	stage_commit(&r->stage);
	rig_settle(r);
	rig_mark(r);
}

#endif
