/*
 * A guest in C: all that it knows is in its registers and memory, so that it is only as right as
 * these are. It writes pages and looks whether they are as it wrote them, writes blocks of its disk
 * through virtio-blk, and says of each that it is there.
 */
#include "tests/sim/guest.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#include "devices/debugexit.h"
#include "devices/i8042.h"
#include "devices/serial.h"
#include "tests/sim/swarm.h"
#include "tests/sim/trouble.h"
#include "tests/sim/truth.h"
#include "vmm/base/hash.h"
#include "vmm/machine/machine.h"

#define DISK_GPA      (MACHINE_MMIO_BASE + 3 * MACHINE_MMIO_STEP) /* behind console, rng, balloon */
#define STATE_GPA     GUEST_GPA
#define DESC_GPA      0x111000ull
#define AVAIL_GPA     0x112000ull
#define USED_GPA      0x113000ull
#define HEAD_GPA      0x114000ull /* struct virtio_blk_outhdr, then the status */
#define DATA_GPA      0x115000ull
#define WORK_GPA      0x130000ull /* PAGES / 2 pages, and as many elsewhere, */
#define WORK_APART    0x80000ull  /* where a table of 128 has the same places for them */
#define PAGES	      32u
#define CPU_GPA	      0x150000ull /* struct cpu, a page for each but the first */
#define CPUS	      4u
#define QUEUE	      8u
#define RUNNING	      0x7777777ull /* rip, once it has looked around */
#define MAGIC	      0x6c6c657720736920ull
#define LSR	      (SERIAL_BASE + 5)
#define LSR_ROOM      0x20
#define TWINS_DIFFER  200 /* one time in so many that a twin draws */
#define STOPS_WRITING 4
#define CLOCK_LINES   64 /* one in so many says the clock, where there are twins */

enum mode { STARTS, DRIVES, READS_ALL, LIVES };

struct state {
	uint64_t magic, steps, node, boot, clock;
	uint64_t began;	 /* to boot */
	uint64_t chance; /* what both guests of a pair draw the same from */
	uint32_t mode, init;
	uint16_t avail, used;
	uint32_t busy, kind; /* of the request under way */
	uint64_t block, value;
	uint32_t flushing, to_say, asked_room;
	uint64_t page[PAGES];
	uint64_t disk[BLOCKS];
	uint8_t unsure[BLOCKS];
};

/* The registers of the disk, in the order of virtio 1.2, 3.1.1 and 4.2.3.1.1. */
static const struct {
	uint32_t reg, value;
} drive[] = {
	{VIRTIO_MMIO_STATUS, 0},
	{VIRTIO_MMIO_STATUS, 1},
	{VIRTIO_MMIO_STATUS, 3},
	{VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0},
	{VIRTIO_MMIO_DRIVER_FEATURES, 1u << VIRTIO_BLK_F_FLUSH},
	{VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1},
	{VIRTIO_MMIO_DRIVER_FEATURES, 1u << (VIRTIO_F_VERSION_1 - 32)},
	{VIRTIO_MMIO_STATUS, 0xb},
	{VIRTIO_MMIO_QUEUE_SEL, 0},
	{VIRTIO_MMIO_QUEUE_NUM, QUEUE},
	{VIRTIO_MMIO_QUEUE_DESC_LOW, DESC_GPA},
	{VIRTIO_MMIO_QUEUE_DESC_HIGH, 0},
	{VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL_GPA},
	{VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0},
	{VIRTIO_MMIO_QUEUE_USED_LOW, USED_GPA},
	{VIRTIO_MMIO_QUEUE_USED_HIGH, 0},
	{VIRTIO_MMIO_QUEUE_READY, 1},
	{VIRTIO_MMIO_STATUS, 0xf},
};

#define DRIVE_STEPS (sizeof(drive) / sizeof(drive[0]))

/* What the others have: they write, and see how far the first one is. */
struct cpu {
	uint64_t magic, steps, seen, written[8];
};

_Static_assert(DATA_GPA + IMAGE_BYTES <= WORK_GPA, "one behind the other");
_Static_assert(WORK_GPA + PAGES / 2 * 4096ull <= CPU_GPA, "one behind the other");

static uint64_t work_gpa(uint64_t page)
{
	return WORK_GPA + page / (PAGES / 2) * WORK_APART + page % (PAGES / 2) * 4096;
}

uint32_t guest_node(const void *memory)
{
	const struct state *s = memory;

	return (uint32_t)s->node;
}

/* Without the pages that it has not written: a look would make them. */
uint64_t guest_hash(const uint8_t *memory)
{
	const struct state *s = (const struct state *)memory;
	uint64_t hash = XXH3_64bits(memory, DATA_GPA + IMAGE_BYTES - GUEST_GPA);

	for (unsigned p = 0; p < PAGES; p++)
		if (s->page[p])
			hash = hash * 31 + XXH3_64bits(memory + (work_gpa(p) - GUEST_GPA), 4096);
	if (swarm_has(SWARM_CPUS))
		hash = hash * 31 + XXH3_64bits(memory + (CPU_GPA - GUEST_GPA), CPUS * 4096ull);
	return hash;
}

static struct state *state_of(struct sim_vcpu *v)
{
	return guest_write(v->vm, STATE_GPA, sizeof(struct state));
}

/* --- chance ----------------------------------------------------------------------------------- */

/*
 * What it does next with its disk: in its memory, where a twin runs, so that both do the same and
 * say the same, until one of them has something of its own to go by.
 */
static uint64_t draw(struct state *s, uint64_t n)
{
	if (!swarm_has(SWARM_COLO))
		return rnd_below(n);
	if (!s->chance || rnd_one_in(TWINS_DIFFER))
		s->chance = rnd() | 1;
	s->chance = s->chance * 6364136223846793005u + 1442695040888963407u;
	return (s->chance >> 33) % n;
}

/* --- exits ------------------------------------------------------------------------------------ */

static enum guest_exit write_register(struct sim_vcpu *v, uint32_t reg, uint32_t value)
{
	v->run->exit_reason = KVM_EXIT_MMIO;
	v->run->mmio.phys_addr = DISK_GPA + reg;
	v->run->mmio.len = 4;
	v->run->mmio.is_write = 1;
	memcpy(v->run->mmio.data, &value, sizeof(value));
	return GUEST_EXITS;
}

static enum guest_exit port(struct sim_vcpu *v, uint16_t number, bool out, uint32_t n)
{
	v->run->exit_reason = KVM_EXIT_IO;
	v->run->io.direction = out ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	v->run->io.size = 1;
	v->run->io.port = number;
	v->run->io.count = n;
	v->run->io.data_offset = 8192;
	return GUEST_EXITS;
}

/* --- the disk --------------------------------------------------------------------------------- */

static void submit(struct sim_vcpu *v, struct state *s, uint32_t kind, uint32_t len)
{
	struct virtio_blk_outhdr *h = guest_write(v->vm, HEAD_GPA, sizeof(*h) + 1);
	struct vring_desc *d = guest_write(v->vm, DESC_GPA, 3 * sizeof(*d));
	uint16_t *avail = guest_write(v->vm, AVAIL_GPA, 64);
	unsigned n = 0;

	*h = (struct virtio_blk_outhdr){
		.type = kind,
		.sector = kind == VIRTIO_BLK_T_FLUSH ? 0 : s->block * GUEST_BLOCK / 512};
	((uint8_t *)h)[sizeof(*h)] = 0xff;
	d[n++] = (struct vring_desc){HEAD_GPA, sizeof(*h), VRING_DESC_F_NEXT, 1};
	if (len)
		d[n++] = (struct vring_desc){
			DATA_GPA, len,
			VRING_DESC_F_NEXT | (kind == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0), 2};
	d[n] = (struct vring_desc){HEAD_GPA + sizeof(*h), 1, VRING_DESC_F_WRITE, 0};
	avail[2 + s->avail % QUEUE] = 0;
	avail[1] = ++s->avail;
	s->busy = 1;
	s->kind = kind;
	if (!guest_rings(v->vm, DISK_GPA + VIRTIO_MMIO_QUEUE_NOTIFY, 0))
		violated("the disk has no doorbell");
}

static void write_block(struct sim_vcpu *v, struct state *s)
{
	uint64_t *data = guest_write(v->vm, DATA_GPA, GUEST_BLOCK);

	s->block = draw(s, BLOCKS);
	s->value = truth_value((unsigned)s->block, (uint32_t)s->node,
			       swarm_has(SWARM_COLO) ? s->chance : 0);
	for (unsigned i = 0; i < GUEST_BLOCK / 8; i++)
		data[i] = s->value;
	s->unsure[s->block] = 1;
	submit(v, s, VIRTIO_BLK_T_OUT, GUEST_BLOCK);
}

static void read_block(struct sim_vcpu *v, struct state *s)
{
	s->block = draw(s, BLOCKS);
	memset(guest_write(v->vm, DATA_GPA, GUEST_BLOCK), 0xaa, GUEST_BLOCK);
	submit(v, s, VIRTIO_BLK_T_IN, GUEST_BLOCK);
}

static void check_block(struct sim_vcpu *v, const struct state *s, const uint64_t *data)
{
	for (unsigned i = 0; i < GUEST_BLOCK / 8; i++)
		if (data[i] != s->disk[s->block] && !s->unsure[s->block])
			violated(
				"P3: the guest at %c reads %llu in block %llu, where it wrote %llu",
				proc_now()->host->name, (unsigned long long)data[i],
				(unsigned long long)s->block,
				(unsigned long long)s->disk[s->block]);
}

/* A write that nobody was told of may be there in part, after a power cut. */
static void look_at_sectors(struct state *s, const uint64_t *data)
{
	for (unsigned i = 0; i < IMAGE_BYTES / 512; i++) {
		unsigned b = i * 512 / GUEST_BLOCK;

		truth_holds(b, data[i * 64]);
		s->unsure[b] |= data[i * 64] != s->disk[b];
	}
}

/* Nobody hears of it again: what it would say is a node that is none. */
static void goes_unheard(struct state *s)
{
	s->magic = MAGIC;
	s->node = 0;
	memset(s->unsure, 1, sizeof(s->unsure));
}

/* A twin may have stood still in its first moment, while the other side went on without it. */
static bool is_stale_twin(const uint64_t *image)
{
	return proc_now()->run->vm.obuf.divert && !truth_is_in((const uint8_t *)image);
}

static void take_image(struct sim_vcpu *v, struct state *s)
{
	const uint64_t *data = guest_read(v->vm, DATA_GPA, IMAGE_BYTES);

	s->mode = LIVES;
	if (truth_is_over(proc_now(), s->began))
		return goes_unheard(s);
	if (s->magic == MAGIC) { /* it has booted again, and knows what it wrote */
		for (s->block = 0; s->block < BLOCKS; s->block++)
			check_block(v, s, data + s->block * GUEST_BLOCK / 8);
		return;
	}
	if (is_stale_twin(data))
		return goes_unheard(s);
	s->magic = MAGIC;
	for (unsigned b = 0; b < BLOCKS; b++)
		s->disk[b] = data[b * GUEST_BLOCK / 8];
	look_at_sectors(s, data);
	s->node = truth_booted(s->disk, s->unsure);
	trace("%c: a guest starts from its image, node %llu", proc_now()->host->name,
	      (unsigned long long)s->node);
}

/* What it reads may not be on the medium: nobody is to build on that before a flush. */
static void boot_on(struct sim_vcpu *v, struct state *s, bool good)
{
	if (!good && s->kind == VIRTIO_BLK_T_IN)
		submit(v, s, VIRTIO_BLK_T_IN, IMAGE_BYTES);
	else if (!good || s->kind == VIRTIO_BLK_T_IN)
		submit(v, s, VIRTIO_BLK_T_FLUSH, 0);
	else
		take_image(v, s);
}

static void completed(struct sim_vcpu *v, struct state *s)
{
	const uint8_t *status = guest_read(v->vm, HEAD_GPA + sizeof(struct virtio_blk_outhdr), 1);
	bool good = *status == VIRTIO_BLK_S_OK;

	s->busy = 0;
	if (s->mode == READS_ALL) {
		boot_on(v, s, good);
	} else if (s->kind == VIRTIO_BLK_T_OUT) {
		if (good)
			submit(v, s, VIRTIO_BLK_T_FLUSH, 0);
	} else if (s->kind == VIRTIO_BLK_T_FLUSH) {
		if (!good)
			return;
		s->node = truth_acked((uint32_t)s->node, (unsigned)s->block, s->value);
		s->disk[s->block] = s->value;
		s->unsure[s->block] = 0;
		s->to_say = 1;
	} else if (good) {
		check_block(v, s, guest_read(v->vm, DATA_GPA, GUEST_BLOCK));
	}
}

static bool poll_disk(struct sim_vcpu *v, struct state *s)
{
	const uint16_t *used = guest_read(v->vm, USED_GPA, 4);

	if (!s->busy || used[1] == s->used)
		return false;
	s->used = used[1];
	completed(v, s);
	return true;
}

/* --- memory ----------------------------------------------------------------------------------- */

static void write_page(struct sim_vcpu *v, struct state *s)
{
	unsigned p = (unsigned)rnd_below(PAGES);
	uint64_t *w = guest_write(v->vm, work_gpa(p), 4096);

	w[1 + s->page[p] % 510] = 0;
	s->page[p] = rnd() | 1;
	w[0] = w[511] = s->page[p];
	w[1 + s->page[p] % 510] = s->page[p];
}

static void check_page(struct sim_vcpu *v, const struct state *s)
{
	unsigned p = (unsigned)rnd_below(PAGES);
	const uint64_t *w = guest_read(v->vm, work_gpa(p), 4096);

	if (w[0] != s->page[p] || w[511] != s->page[p] ||
	    (s->page[p] && w[1 + s->page[p] % 510] != s->page[p]))
		violated("memory: page %u of the guest at %c is not as the guest wrote it", p,
			 proc_now()->host->name);
}

/*
 * Stopped in the middle of a write: the kernel has made a private page for it, where memory is
 * split, and nothing is written.
 */
void guest_stopped(struct sim_vcpu *v)
{
	volatile uint8_t *p;

	if (!proc_now()->run->vm.obuf.divert || !rnd_one_in(STOPS_WRITING))
		return;
	p = (uint8_t *)guest_read(v->vm, work_gpa(rnd_below(PAGES)), 1);
	*p = *p;
}

/* --- its life --------------------------------------------------------------------------------- */

static enum guest_exit say(struct sim_vcpu *v, struct state *s)
{
	char *line = (char *)v->run + 8192;
	uint64_t clock = s->clock;
	int n;

	if (!s->asked_room) {
		s->asked_room = 1;
		return port(v, LSR, false, 1);
	}
	s->asked_room = s->to_say = 0;
	/* Two guests' clocks are never the same: that would be a difference at each line. */
	if (swarm_has(SWARM_COLO) && s->node % CLOCK_LINES)
		clock = 0;
	if (proc_now()->run->vm.obuf.divert)
		truth_twin_says(proc_now(), (uint32_t)s->node, s->boot, clock);
	n = sprintf(line, "=%llx %llx %llx %llx\n", (unsigned long long)s->node,
		    (unsigned long long)s->boot, (unsigned long long)clock,
		    (unsigned long long)(s->node ^ s->boot ^ clock) % 97);
	return port(v, SERIAL_BASE, true, (uint32_t)n);
}

void guest_answered(struct sim_vcpu *v)
{
	struct state *s = state_of(v);

	if (s->mode == DRIVES && ++s->init == DRIVE_STEPS) {
		s->mode = READS_ALL;
		s->block = 0;
		submit(v, s, VIRTIO_BLK_T_IN, IMAGE_BYTES);
	} else if (s->asked_room && v->run->io.port == LSR) {
		s->asked_room = ((uint8_t *)v->run)[8192] & LSR_ROOM;
	}
}

/* A reset leaves memory as it is, and takes all else. */
static void start(struct sim_vcpu *v, struct state *s)
{
	if (s->magic != MAGIC)
		memset(s, 0, sizeof(*s));
	memset(guest_write(v->vm, DESC_GPA, 4 * 4096), 0, 4 * 4096);
	s->began = world_now();
	s->mode = DRIVES;
	s->init = s->busy = s->asked_room = 0;
	s->avail = s->used = 0;
	s->clock = 0;
	s->boot = swarm_has(SWARM_COLO) ? draw(s, UINT32_MAX) : rnd();
	v->regs.rip = RUNNING;
	v->regs.r15 = s->steps;
}

static void tell_time(struct sim_vcpu *v, struct state *s)
{
	uint64_t now = guest_clock(v->vm);

	if (now < s->clock)
		violated("the clock of the guest at %c went back by %llu ns",
			 proc_now()->host->name, (unsigned long long)(s->clock - now));
	s->clock = now;
}

static enum guest_exit end(struct sim_vcpu *v, uint16_t number, uint8_t value)
{
	((uint8_t *)v->run)[8192] = value;
	return port(v, number, true, 1);
}

static enum guest_exit live(struct sim_vcpu *v, struct state *s)
{
	uint64_t what;

	if (s->to_say)
		return say(v, s);
	if (guest_resets())
		return end(v, I8042_CMD, 0xfe);
	if (guest_exits())
		return end(v, DEBUGEXIT_PORT, 0);
	what = rnd_below(s->busy ? 3 : 6);
	switch (what) {
	case 0:
	case 1:
		write_page(v, s);
		break;
	case 2:
		check_page(v, s);
		break;
	default:
		if (swarm_has(SWARM_COLO))
			what = 3 + draw(s, 3);
		if (what == 3)
			read_block(v, s);
		else
			write_block(v, s);
	}
	return GUEST_RUNS;
}

static void agree(const struct sim_vcpu *v, uint64_t steps)
{
	if (v->regs.r15 != steps)
		violated("vCPU %u of the guest at %c has the registers of step %llu and the memory "
			 "of %llu",
			 v->index, proc_now()->host->name, (unsigned long long)v->regs.r15,
			 (unsigned long long)steps);
}

/* All vCPUs and memory are of one moment: what one has seen of another was before it. */
static enum guest_exit step_other(struct sim_vcpu *v)
{
	const struct state *s = guest_read(v->vm, STATE_GPA, sizeof(*s));
	struct cpu *c = guest_write(v->vm, CPU_GPA + v->index % CPUS * 4096ull, sizeof(*c));

	if (c->magic != MAGIC)
		*c = (struct cpu){.magic = MAGIC};
	if (v->regs.rip != RUNNING) {
		v->regs.rip = RUNNING;
		v->regs.r15 = c->steps;
		c->seen = 0;
	}
	agree(v, c->steps);
	if (s->steps < c->seen)
		violated("vCPU %u of the guest at %c has seen step %llu of the first one, which is "
			 "at %llu",
			 v->index, proc_now()->host->name, (unsigned long long)c->seen,
			 (unsigned long long)s->steps);
	c->seen = s->steps;
	v->regs.r15 = ++c->steps;
	c->written[c->steps % 8] = c->steps;
	truth_runs(proc_now());
	return GUEST_RUNS;
}

enum guest_exit guest_step(struct sim_vcpu *v)
{
	struct state *s;

	if (v->index)
		return step_other(v);
	s = state_of(v);

	if (v->regs.rip != RUNNING)
		start(v, s);
	agree(v, s->steps);
	v->regs.r15 = ++s->steps;
	tell_time(v, s);
	truth_runs(proc_now());
	if (s->mode == DRIVES)
		return write_register(v, drive[s->init].reg, drive[s->init].value);
	if (poll_disk(v, s) || s->mode == READS_ALL)
		return GUEST_RUNS;
	return live(v, s);
}
