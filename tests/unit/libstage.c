#define _GNU_SOURCE
#include "tests/unit/libstage.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/serial.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_rng.h"
#include "vmm/base/log.h"
#include "vmm/copy/pages.h"

/* Of the rig itself: there is no test without it. */
#define must(c) ((c) ? (void)0 : broken(#c, __LINE__))

static void broken(const char *what, int line)
{
	fprintf(stderr, "%s:%d: %s\n", __FILE__, line, what);
	abort();
}

uint64_t rig_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

void rig_moved(void *arg)
{
	((struct srig *)arg)->moved++;
}

static bool rig_sink(void *arg, const void *data, uint32_t len)
{
	return true;
}

static void rig_add_item(struct vm *vm, const struct state_desc *desc, unsigned instance, void *pod)
{
	vm->state.items[vm->state.nitems] = (struct state_item){desc, instance, pod};
	vm->state.scratch[vm->state.nitems++] =
		(struct state_item){desc, instance, calloc(1, desc->size)};
}

static void rig_machine(struct machine *m, uint64_t mem_bytes)
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
	m->mem_bytes = mem_bytes;
	m->vcpus = 1;
	m->ndevs = RIG_DEVS;
	memcpy(m->devs, devs, sizeof(devs));
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		m->devs[i].gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP;
		m->devs[i].gsi = MACHINE_GSI_BASE + i;
	}
}

static void rig_open_disk(struct srig *r, unsigned i)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/%u", r->dir, i);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && ftruncate(fd, RIG_DISK) == 0);
	close(fd);
	must(disk_open(&r->vm.devices.disks[i], &r->loop, r->m->devs[i].id, path, 0, NULL) == 0);
}

static void rig_add_device(struct srig *r, struct device *d)
{
	struct vm *vm = &r->vm;

	vm->devices.devs[vm->devices.ndevs] = d;
	d->ops->save(d);
	rig_add_item(vm, d->ops->state, vm->devices.ndevs++, d->pod);
}

void rig_start_with(struct srig *r, uint64_t mem_bytes)
{
	struct vm *vm = &r->vm;
	struct device *d;

	memset(r, 0, sizeof(*r));
	log_init(LOG_ERROR, "test"); /* the log would drown the results */
	snprintf(r->dir, sizeof(r->dir), "/tmp/stage-test-XXXXXX");
	must(mkdtemp(r->dir));
	r->m = &vm->machine;
	rig_machine(r->m, mem_bytes);
	must(loop_init(&r->loop, NULL) == 0);
	must(mem_init(&vm->mem, MEM_SHARED_FILE, mem_bytes, NULL) == 0);
	obuf_init(&vm->obuf, 1 << 20);
	vm->loop = &r->loop;
	vm->devices.env = (struct dev_env){&vm->mem, &r->loop, &vm->bus, &vm->obuf, NULL, NULL};
	vm->chips.pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	vm->chips.ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	vm->vcpus[0].state.xcr0 = 1;
	vm->vcpus[0].state.nmsrs = 3;
	rig_add_item(vm, &vm_chips_desc, 0, &vm->chips);
	rig_add_item(vm, &vcpu_state_desc, 0, &vm->vcpus[0].state);
	must(serial_new(&vm->devices.env, rig_sink, NULL, &d, NULL) == 0);
	rig_add_device(r, d);
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		vm->devices.disks[i].fd = -1;
		if (r->m->devs[i].kind == MDEV_BLK) {
			rig_open_disk(r, i);
			must(virtio_blk_new(&vm->devices.env, &r->m->devs[i], &vm->devices.disks[i],
					    &d, NULL) == 0);
		} else {
			must(virtio_rng_new(&vm->devices.env, &r->m->devs[i], &d, NULL) == 0);
		}
		rig_add_device(r, d);
	}
	must(diskapply_init(&r->disks, r->m, vm->devices.disks, rig_moved, r) == 0);
	must(stage_init(&r->stage, vm, &r->disks, RIG_DISKLOG) == 0);
}

void rig_start(struct srig *r)
{
	rig_start_with(r, RIG_MEM);
}

static void image_free(struct image *im)
{
	free(im->ram);
	free(im->pods);
	for (unsigned i = 0; i < RIG_DEVS; i++)
		free(im->disk[i]);
	memset(im, 0, sizeof(*im));
}

void rig_end(struct srig *r)
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

void rig_settle(struct srig *r)
{
	for (int left = 5000; !diskapply_idle(&r->disks) && left; left--)
		loop_run_once(&r->loop, 10000000);
	must(diskapply_idle(&r->disks));
	must(r->disks.queue.bytes == 0);
	must(r->disks.error == 0);
}

/* --- what is now, and what was -----------------------------------------------------------------
 */

uint8_t *rig_read_disk(struct srig *r, unsigned i)
{
	uint8_t *p = malloc(RIG_DISK);

	must(p);
	must(pread(r->vm.devices.disks[i].fd, p, RIG_DISK, 0) == RIG_DISK);
	return p;
}

static uint8_t *rig_pods(struct srig *r, size_t *ret_len)
{
	const struct vm *vm = &r->vm;
	size_t len = 0;
	uint8_t *p;

	for (unsigned i = 0; i < vm->state.nitems; i++)
		len += vm->state.items[i].desc->size;
	p = malloc(len);
	must(p);
	*ret_len = len;
	len = 0;
	for (unsigned i = 0; i < vm->state.nitems; i++) {
		memcpy(p + len, vm->state.items[i].pod, vm->state.items[i].desc->size);
		len += vm->state.items[i].desc->size;
	}
	return p;
}

void rig_mark(struct srig *r)
{
	image_free(&r->before);
	r->before.ram = malloc(r->vm.mem.bytes);
	must(r->before.ram);
	memcpy(r->before.ram, r->vm.mem.base, r->vm.mem.bytes);
	r->before.pods = rig_pods(r, &r->before.pods_len);
	for (unsigned i = 0; i < RIG_DEVS; i++)
		if (r->m->devs[i].kind == MDEV_BLK)
			r->before.disk[i] = rig_read_disk(r, i);
}

bool rig_has_old_state(struct srig *r)
{
	size_t len;
	uint8_t *pods = rig_pods(r, &len);
	bool same = len == r->before.pods_len && !memcmp(pods, r->before.pods, len);

	free(pods);
	return same && !memcmp(r->before.ram, r->vm.mem.base, r->vm.mem.bytes) &&
	       diskapply_idle(&r->disks) && !r->disks.queue.bytes;
}

bool rig_is_unchanged(struct srig *r)
{
	bool same = rig_has_old_state(r);

	for (int i = 0; i < 3; i++)
		loop_run_once(&r->loop, 0);
	for (unsigned i = 0; i < RIG_DEVS; i++) {
		uint8_t *now;

		if (!r->before.disk[i])
			continue;
		now = rig_read_disk(r, i);
		same = same && !memcmp(now, r->before.disk[i], RIG_DISK);
		free(now);
	}
	return same;
}

/* --- frames ------------------------------------------------------------------------------------
 */

struct part part_make(uint16_t type, uint64_t epoch, const void *data, size_t len)
{
	struct part p = {type, epoch, (uint32_t)len, malloc(len ? len : 1)};

	must(p.data);
	if (len)
		memcpy(p.data, data, len);
	return p;
}

struct part *parts_add(struct parts *ps, uint16_t type, uint64_t epoch, const void *data,
		       size_t len)
{
	must(ps->n < RIG_MAX_FRAMES);
	ps->p[ps->n] = part_make(type, epoch, data, len);
	return &ps->p[ps->n++];
}

void parts_free(struct parts *ps)
{
	for (unsigned i = 0; i < ps->n; i++)
		free(ps->p[i].data);
	ps->n = 0;
}

void parts_copy(struct parts *to, const struct parts *from)
{
	to->n = 0;
	for (unsigned i = 0; i < from->n; i++)
		parts_add(to, from->p[i].type, from->p[i].epoch, from->p[i].data,
			  from->p[i].length);
}

void parts_remove(struct parts *ps, unsigned at)
{
	free(ps->p[at].data);
	memmove(&ps->p[at], &ps->p[at + 1], (ps->n - at - 1) * sizeof(ps->p[0]));
	ps->n--;
}

void parts_repeat(struct parts *ps, unsigned from, unsigned at)
{
	struct part p = ps->p[from];

	must(ps->n < RIG_MAX_FRAMES);
	p = part_make(p.type, p.epoch, p.data, p.length);
	memmove(&ps->p[at + 2], &ps->p[at + 1], (ps->n - at - 1) * sizeof(ps->p[0]));
	ps->p[at + 1] = p;
	ps->n++;
}

void parts_swap(struct parts *ps, unsigned a, unsigned b)
{
	struct part p = ps->p[a];

	ps->p[a] = ps->p[b];
	ps->p[b] = p;
}

unsigned parts_find(const struct parts *ps, uint16_t type)
{
	unsigned i = 0;

	while (i < ps->n && ps->p[i].type != type)
		i++;
	must(i < ps->n);
	return i;
}

int rig_feed(struct srig *r, const struct parts *ps, unsigned *ret_at, struct err *e)
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

		must(copy);
		memcpy(copy, ps->p[i].data, ps->p[i].length);
		res = stage_frame(&r->stage, &f, e);
		free(copy);
	}
	if (ret_at)
		*ret_at = i - 1;
	return res;
}

/* --- a good epoch ------------------------------------------------------------------------------
 */

void golden_page(const struct golden *g, uint64_t i, const uint8_t *old, uint8_t *out)
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

void golden_pages(struct srig *r, const struct golden *g, uint64_t epoch, bool base,
		  struct parts *ps)
{
	uint8_t page[MEM_PAGE_SIZE] __attribute__((aligned(8)));
	uint8_t *buf = malloc(g->n * PAGE_ENTRY_MAX);
	uint64_t half = (g->n + 1) / 2;

	must(buf);
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

void golden_disk_op(struct parts *ps, uint16_t type, uint64_t epoch, struct wire_disk w,
		    uint8_t fill)
{
	uint8_t *buf = malloc(sizeof(w) + w.data);

	must(buf);
	memcpy(buf, &w, sizeof(w));
	memset(buf + sizeof(w), fill, w.data);
	parts_add(ps, type, epoch, buf, sizeof(w) + w.data);
	free(buf);
}

static const struct {
	struct wire_disk w;
	uint8_t fill;
} golden_ops[GOLDEN_OPS] = {
	{{RIG_MIRROR, DISK_WRITE, 4096, 8192, 8192}, 0x11},
	{{RIG_MIRROR2, DISK_WRITE, RIG_DISK - 512, 512, 512}, 0x22},
	{{RIG_MIRROR, DISK_ZERO, 8192, 1024, 0}, 0},
	{{RIG_MIRROR, DISK_FLUSH, 0, 0, 0}, 0},
	{{RIG_MIRROR, DISK_WRITE, 8704, 512, 512}, 0x33},
	{{RIG_MIRROR2, DISK_DISCARD, 65536, 65536, 0}, 0},
};

size_t golden_state(struct srig *r, const struct golden *g, uint8_t *buf, size_t cap)
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
	must(len > 0);
	return (size_t)len;
}

void golden_epoch(struct srig *r, const struct golden *g, struct parts *ps)
{
	size_t cap = vm_state_bound(&r->vm);
	uint8_t *state = malloc(cap);
	struct wire_end end = {.pages = g->n, .disk_ops = GOLDEN_OPS};

	must(state);
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

void rig_first_epoch(struct srig *r, uint64_t epoch)
{
	struct golden sync = {.first = 0, .n = 40, .seed = 9};
	struct golden g = {.epoch = epoch, .first = 20, .n = 30, .seed = 11};
	struct parts ps = {0};
	struct err e;

	golden_pages(r, &sync, 0, false, &ps);
	golden_disk_op(&ps, FRAME_DISK, 0,
		       (struct wire_disk){RIG_MIRROR, DISK_WRITE, 0, 65536, 65536}, 0x77);
	must(rig_feed(r, &ps, NULL, &e) == 0);
	parts_free(&ps);
	golden_epoch(r, &g, &ps);
	must(rig_feed(r, &ps, NULL, &e) == 1);
	parts_free(&ps);
	stage_commit(&r->stage);
	rig_settle(r);
	rig_mark(r);
}
