/*
 * A driver with no manners, for hostile.c: virtio-mmio devices by their registers, ring memory to
 * be filled with anything, and a proof that a device still works after a reset. Polls only.
 *
 * What a device may be made to write to lies in the arena, or where there is no RAM: a guest that
 * overwrites itself proves nothing.
 */
#ifndef GUESTS_HOSTILE_DEV_H
#define GUESTS_HOSTILE_DEV_H

#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"
#include "guests/lib/vsock.h"

/* virtio 1.2, section 4.2.2 */
#define R_FEATURES	0x010
#define R_FEATURES_SEL	0x014
#define R_DRV_FEATURES	0x020
#define R_DRV_FEAT_SEL	0x024
#define R_QUEUE_SEL	0x030
#define R_QUEUE_NUM	0x038
#define R_QUEUE_READY	0x044
#define R_QUEUE_NOTIFY	0x050
#define R_INTERRUPT_ACK 0x064
#define R_STATUS	0x070
#define R_QUEUE_DESC	0x080
#define R_QUEUE_AVAIL	0x090
#define R_QUEUE_USED	0x0a0

#define ST_ACK	       1u
#define ST_DRIVER      2u
#define ST_DRIVER_OK   4u
#define ST_FEATURES_OK 8u
#define ST_NEEDS_RESET 0x40u
#define ST_FAILED      0x80u

#define DESC_INDIRECT 4u

/*
 * Flush, discard, zeroes of disks; mergeable buffers of cards; reports of free pages; indirect,
 * event index of all.
 */
#define F_REPORTING (1ull << 5)
#define FEATURES_TRIED                                                                             \
	(F_REPORTING | 1ull << 9 | 1ull << 13 | 1ull << 14 | 1ull << 15 | 1ull << 28 | 1ull << 29)

#define RING_NUM     32u
#define RING_AVAIL   0x400u /* in a ring's page */
#define RING_USED    0x600u
#define ARENA_BYTES  (1u << 20)
#define ARENA_GUARD  (1u << 16)	 /* the longest piece that starts in the arena ends in here */
#define HUGE_LEN     0x10000000u /* longer than what RAM the machine may have */
#define HEADER_BYTES 16u	 /* of a disk request */
#define NET_HEADER   12u
#define PROOF_NS     20000000000ull
#define ASK_AGAIN_NS 1000000000ull
#define HOME_WORDS   (BLK_SECTOR / 8)
#define HOME_MAGIC   0x656d6f6820656874ull
#define DEVICES	     6u
#define QUEUES	     4u

struct hring {
	volatile struct virtq_desc *desc;
	volatile struct virtq_avail *avail;
	volatile struct virtq_used *used;
	uint16_t last_used;
};

struct hdev {
	const char *name;
	struct virtio_dev dev;
	unsigned first, nq; /* the device's queues that are used; q[0] is number `first` */
	struct hring q[QUEUES];
	uint8_t *mem;  /* QUEUES pages of rings and two of buffers, for proofs only */
	bool mine;     /* set up on `mem`, and nobody has meddled since */
	uint64_t home; /* disk: the sector that proofs read and attacks leave alone */
};

struct hostile {
	struct hdev dev[DEVICES];
	unsigned ndev;
	struct hdev *console;
	uint8_t *arena;
	uint64_t ram_end;
	uint64_t seed, random;
	uint64_t attack;       /* its number */
	const char *doing;     /* and what it is */
	uint64_t needs_resets; /* times a device was seen to have had enough */
};

static struct hostile h;

/* ---- numbers ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t random_next(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15ull);
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(random_next(&h.random) >> 32) % n;
}

/* Each attack has numbers of its own, so that it is the same whatever the ones before did. */
static void attack_begin(const char *doing)
{
	h.random = mix(h.seed) ^ mix(++h.attack);
	h.doing = doing;
}

static uint64_t arena_addr(uint32_t align)
{
	return (uint64_t)h.arena + below(ARENA_BYTES) / align * align;
}

static uint64_t bad_addr(void)
{
	switch (below(8)) {
	case 0:
		return h.ram_end - below(16);
	case 1:
		return h.ram_end;
	case 2:
		return h.ram_end + below(1 << 20);
	case 3:
		return 0xc0000000ull + below(1 << 20);
	case 4:
		return h.dev[below(h.ndev)].dev.regs + below(0x200);
	case 5:
		return 0x100000000ull + below(PAGE_SIZE);
	case 6:
		return ~0ull - below(64);
	default:
		return 1ull << (33 + below(31));
	}
}

static uint64_t any_addr(uint32_t align)
{
	return below(3) ? arena_addr(align) : bad_addr() / align * align;
}

/* What a console prints fills a file: there, lengths are short. */
static uint32_t any_len(const struct hdev *d)
{
	static const uint32_t small[] = {0, 1, 2, 7, 11, 12, 15, 16, 17, 26, 64};
	static const uint32_t large[] = {511, 512, 513, 4096, 8192, 65535, 65536};
	static const uint32_t huge[] = {HUGE_LEN, 0x7fffffff, 0x80000000, 0xfffffe00, 0xffffffff};

	if (!below(6))
		return huge[below(5)];
	return d == h.console || below(2) ? small[below(11)] : large[below(7)];
}

/* ---- registers ---- */

static uint32_t reg_read(const struct hdev *d, unsigned reg)
{
	return mmio_read32(d->dev.regs + reg);
}

static void reg_write(const struct hdev *d, unsigned reg, uint32_t value)
{
	mmio_write32(d->dev.regs + reg, value);
}

static void reg_write64(const struct hdev *d, unsigned reg, uint64_t value)
{
	reg_write(d, reg, (uint32_t)value);
	reg_write(d, reg + 4, (uint32_t)(value >> 32));
}

static void kick(const struct hdev *d, unsigned qi)
{
	reg_write(d, R_QUEUE_NOTIFY, d->first + qi);
}

static _Noreturn void failed(const struct hdev *d, const char *what)
{
	guest_die(3, "\nFAILED %s: %s, after attack %lu (%s)", d->name, what, h.attack, h.doing);
}

static void dev_reset(struct hdev *d)
{
	uint32_t status = reg_read(d, R_STATUS);

	d->mine = false;
	if (status & ST_NEEDS_RESET)
		h.needs_resets++;
	reg_write(d, R_STATUS, 0);
	for (uint64_t end = clock_ns() + PROOF_NS; reg_read(d, R_STATUS);) {
		if (clock_ns() > end)
			failed(d, "the reset does not end");
	}
}

static void ring_place(struct hring *r, uint8_t *page)
{
	memset(page, 0, PAGE_SIZE);
	r->desc = (struct virtq_desc *)page;
	r->avail = (struct virtq_avail *)(page + RING_AVAIL);
	r->used = (struct virtq_used *)(page + RING_USED);
	r->last_used = 0;
}

static void queue_ready(struct hdev *d, unsigned qi)
{
	struct hring *r = &d->q[qi];

	reg_write(d, R_QUEUE_SEL, d->first + qi);
	reg_write(d, R_QUEUE_NUM, RING_NUM);
	reg_write64(d, R_QUEUE_DESC, (uint64_t)r->desc);
	reg_write64(d, R_QUEUE_AVAIL, (uint64_t)r->avail);
	reg_write64(d, R_QUEUE_USED, (uint64_t)r->used);
	reg_write(d, R_QUEUE_READY, 1);
}

/* Resets the device and drives it as one should, up to DRIVER_OK, with rings in these pages. */
static void dev_setup(struct hdev *d, uint8_t *pages, uint64_t features)
{
	uint32_t status = ST_ACK | ST_DRIVER;
	uint64_t offered;

	dev_reset(d);
	reg_write(d, R_STATUS, status);
	reg_write(d, R_FEATURES_SEL, 1);
	offered = (uint64_t)reg_read(d, R_FEATURES) << 32;
	reg_write(d, R_FEATURES_SEL, 0);
	offered |= reg_read(d, R_FEATURES);
	d->dev.features = offered & (features | VIRTIO_F_VERSION_1);
	reg_write(d, R_DRV_FEAT_SEL, 1);
	reg_write(d, R_DRV_FEATURES, (uint32_t)(d->dev.features >> 32));
	reg_write(d, R_DRV_FEAT_SEL, 0);
	reg_write(d, R_DRV_FEATURES, (uint32_t)d->dev.features);
	status |= ST_FEATURES_OK;
	reg_write(d, R_STATUS, status);
	for (unsigned i = 0; i < d->nq; i++) {
		ring_place(&d->q[i], pages + i * PAGE_SIZE);
		queue_ready(d, i);
	}
	if (reg_read(d, R_STATUS) != status)
		failed(d, "it cannot be set up any more");
	reg_write(d, R_STATUS, status | ST_DRIVER_OK);
}

/* ---- rings ---- */

static void desc_set(struct hring *r, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
		     unsigned next)
{
	r->desc[i].addr = addr;
	r->desc[i].len = len;
	r->desc[i].flags = (uint16_t)flags;
	r->desc[i].next = (uint16_t)next;
}

static void ring_offer(struct hring *r, uint16_t head)
{
	uint16_t idx = r->avail->idx;

	r->avail->ring[idx % RING_NUM] = head;
	__atomic_store_n(&r->avail->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

static bool ring_has_used(const struct hring *r)
{
	return __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) != r->last_used;
}

/* False: nothing came back until then. */
static bool ring_wait_until(const struct hring *r, uint64_t until)
{
	while (!ring_has_used(r)) {
		if (clock_ns() > until)
			return false;
		cpu_relax();
	}
	return true;
}

static uint32_t ring_take(struct hring *r)
{
	return r->used->ring[r->last_used++ % RING_NUM].len;
}

static uint32_t ring_wait(struct hdev *d, unsigned qi)
{
	if (!ring_wait_until(&d->q[qi], clock_ns() + PROOF_NS))
		failed(d, "STALLED");
	return ring_take(&d->q[qi]);
}

/* ---- proofs ---- */

static void own(struct hdev *d)
{
	if (!d->mine)
		dev_setup(d, d->mem, F_REPORTING);
	d->mine = true;
}

static uint8_t *own_buffer(struct hdev *d)
{
	return d->mem + QUEUES * PAGE_SIZE;
}

/* Reads or writes the home sector. */
static void home_request(struct hdev *d, uint32_t type)
{
	uint64_t *data = (uint64_t *)own_buffer(d), *header = data + HOME_WORDS;
	volatile uint8_t *status = (volatile uint8_t *)(header + 2);
	unsigned way = type == BLK_READ ? VIRTQ_DESC_WRITE : 0;

	header[0] = type;
	header[1] = d->home;
	*status = 0xff;
	desc_set(&d->q[0], 0, (uint64_t)header, HEADER_BYTES, VIRTQ_DESC_NEXT, 1);
	desc_set(&d->q[0], 1, (uint64_t)data, BLK_SECTOR, VIRTQ_DESC_NEXT | way, 2);
	desc_set(&d->q[0], 2, (uint64_t)status, 1, VIRTQ_DESC_WRITE, 0);
	ring_offer(&d->q[0], 0);
	kick(d, 0);
	if (ring_wait(d, 0) != (way ? BLK_SECTOR + 1 : 1) || *status)
		failed(d, "an error for the home sector");
}

static void prove_disk(struct hdev *d)
{
	uint64_t *data = (uint64_t *)own_buffer(d);

	memset(data, 0, BLK_SECTOR);
	home_request(d, BLK_READ);
	for (unsigned i = 0; i < HOME_WORDS; i++) {
		if (data[i] != HOME_MAGIC + i)
			failed(d, "CORRUPT home sector");
	}
}

static void prove_rng(struct hdev *d)
{
	uint8_t *buf = own_buffer(d), any = 0;
	uint32_t len;

	memset(buf, 0, 65);
	desc_set(&d->q[0], 0, (uint64_t)buf, 64, VIRTQ_DESC_WRITE, 0);
	ring_offer(&d->q[0], 0);
	kick(d, 0);
	len = ring_wait(d, 0);
	for (unsigned i = 0; i < 64; i++)
		any |= buf[i];
	if (!len || len > 64 || !any || buf[64])
		failed(d, "not the random bytes that were asked for");
}

/* A page reported free is zero, the one after it is not. */
static void prove_balloon(struct hdev *d)
{
	uint8_t *buf = own_buffer(d);

	memset(buf, '#', 2 * PAGE_SIZE);
	desc_set(&d->q[1], 0, (uint64_t)buf, PAGE_SIZE, VIRTQ_DESC_WRITE, 0);
	ring_offer(&d->q[1], 0);
	kick(d, 1);
	if (ring_wait(d, 1) || buf[0] || buf[PAGE_SIZE - 1] || buf[PAGE_SIZE] != '#')
		failed(d, "not the page that was reported");
}

/* A broadcast of an experimental type (IEEE 802, 0x88b5). */
static uint32_t frame_make(uint8_t *buf)
{
	memset(buf, 0, NET_HEADER + 60);
	memset(buf + NET_HEADER, 0xff, 6);
	memcpy(buf + NET_HEADER + 6, "\x52\x54\x00\xe2\x00\x02\x88\xb5", 8);
	return NET_HEADER + 60;
}

/* A packet that may make sense: to the host's port with a listener, or to one without. */
static uint32_t packet_make(struct hdev *d, uint8_t *buf, uint32_t ports)
{
	struct vsock_hdr p = {.src_cid = virtio_config64(&d->dev, 0),
			      .dst_cid = VSOCK_HOST_CID,
			      .src_port = below(ports),
			      .dst_port = below(3) ? 6000 : below(4),
			      .len = below(3) ? 0 : below(4096),
			      .type = below(8) ? VSOCK_STREAM : (uint16_t)below(4),
			      .op = (uint16_t)below(9),
			      .flags = below(4),
			      .buf_alloc = below(2) ? 65536 : below(1 << 20),
			      .fwd_cnt = below(4) ? 0 : below(1 << 20)};
	uint32_t len = sizeof(p) + p.len;

	if (!below(8))
		p.len += below(2) ? 1 : below(1 << 20);
	if (!below(16))
		p.dst_cid = below(5);
	if (!below(16))
		p.src_cid = below(5);
	memcpy(buf, &p, sizeof(p));
	return len;
}

static void offer_packet(struct hdev *d, const struct vsock_hdr *out)
{
	desc_set(&d->q[1], 0, (uint64_t)out, sizeof(*out), 0, 0);
	ring_offer(&d->q[1], 0);
	kick(d, 1);
}

/* A takeover forgets what the device owed (section 5.10.6.6): it is asked again. */
static uint32_t wait_packet(struct hdev *d, const struct vsock_hdr *out)
{
	uint64_t end = clock_ns() + PROOF_NS;

	while (!ring_wait_until(&d->q[0], clock_ns() + ASK_AGAIN_NS)) {
		if (clock_ns() > end)
			failed(d, "STALLED");
		if (!ring_has_used(&d->q[1]))
			continue;
		ring_take(&d->q[1]);
		offer_packet(d, out);
	}
	return ring_take(&d->q[0]);
}

/* What belongs to no connection is answered with a RST. Others may come in before it. */
static void prove_vsock(struct hdev *d)
{
	struct vsock_hdr *out = (struct vsock_hdr *)own_buffer(d), *in = out + 4;
	uint32_t port = 0x40000000u + (uint32_t)h.attack;

	*out = (struct vsock_hdr){.src_cid = virtio_config64(&d->dev, 0),
				  .dst_cid = VSOCK_HOST_CID,
				  .src_port = port,
				  .dst_port = 7,
				  .type = VSOCK_STREAM,
				  .op = VSOCK_RW};
	offer_packet(d, out);
	do {
		desc_set(&d->q[0], 0, (uint64_t)in, 1024, VIRTQ_DESC_WRITE, 0);
		ring_offer(&d->q[0], 0);
		kick(d, 0);
		if (wait_packet(d, out) < sizeof(*in))
			failed(d, "a packet without a header");
	} while (in->op != VSOCK_RST || in->dst_port != port);
	ring_wait(d, 1);
}

static void prove_net(struct hdev *d)
{
	uint32_t len = frame_make(own_buffer(d));

	desc_set(&d->q[1], 0, (uint64_t)own_buffer(d), len, 0, 0);
	ring_offer(&d->q[1], 0);
	kick(d, 1);
	ring_wait(d, 1);
}

/* One line on the console, out of the guest's hands on return. */
static void say(const char *fmt, ...)
{
	struct hdev *d = h.console;
	uint8_t *buf = own_buffer(d);
	va_list ap;
	int n;

	own(d);
	va_start(ap, fmt);
	n = format_text_v((char *)buf, PAGE_SIZE, fmt, ap);
	va_end(ap);
	desc_set(&d->q[1], 0, (uint64_t)buf, (uint32_t)n, 0, 0);
	ring_offer(&d->q[1], 0);
	kick(d, 1);
	ring_wait(d, 1);
}

static void prove(struct hdev *d)
{
	own(d);
	switch (d->dev.regs ? d->name[0] : 0) {
	case 'd':
		prove_disk(d);
		break;
	case 'n':
		prove_net(d);
		break;
	case 'r':
		prove_rng(d);
		break;
	case 'v':
		prove_vsock(d);
		break;
	case 'b':
		prove_balloon(d);
		break;
	default: /* the console proves itself with every line */
		break;
	}
}

/* The victim must work again; the others must never have noticed. */
static void attack_end(struct hdev *victim)
{
	prove(victim);
	prove(&h.dev[h.attack % h.ndev]);
	say("\nattack %lu ok\n", h.attack);
}

/* ---- start ---- */

static void dev_add(const char *name, uint32_t id, unsigned first, unsigned nq)
{
	struct hdev *d = &h.dev[h.ndev];

	*d = (struct hdev){.name = name, .first = first, .nq = nq};
	if (!virtio_find(&d->dev, id, 0))
		return;
	d->mem = mem_alloc(QUEUES + 2);
	if (id == VIRTIO_ID_CONSOLE)
		h.console = d;
	h.ndev++;
	if (id != VIRTIO_ID_BLK)
		return;
	d->home = virtio_config64(&d->dev, 0) / 2;
	own(d);
	for (unsigned i = 0; i < HOME_WORDS; i++)
		((uint64_t *)own_buffer(d))[i] = HOME_MAGIC + i;
	home_request(d, BLK_WRITE);
}

static void hostile_init(void)
{
	print_to_serial();
	h.doing = "start";
	h.seed = cmdline_u64("seed", 1);
	h.attack = cmdline_u64("first", 1) - 1;
	h.ram_end = (mem_bytes() + (2u << 20) - 1) & ~(uint64_t)((2u << 20) - 1);
	if (h.ram_end > HUGE_LEN)
		guest_die(1, "hostile: at most %u MiB of memory", HUGE_LEN >> 20);
	h.arena = mem_alloc((ARENA_BYTES + ARENA_GUARD) / PAGE_SIZE + 1);
	h.arena += PAGE_SIZE; /* room for a ring before it, too */
	memset(h.arena, '#', ARENA_BYTES + ARENA_GUARD);
	dev_add("disk", VIRTIO_ID_BLK, 0, 1);
	dev_add("net", VIRTIO_ID_NET, 0, 2);
	dev_add("rng", VIRTIO_ID_RNG, 0, 1);
	dev_add("console", VIRTIO_ID_CONSOLE, 0, 2);
	/* Not the first queue: page numbers by chance are memory that this guest needs. */
	dev_add("balloon", VIRTIO_ID_BALLOON, 1, 4);
	dev_add("vsock", VIRTIO_ID_VSOCK, 0, 3);
	if (!h.console)
		guest_die(2, "hostile: no virtio console");
}

#endif
