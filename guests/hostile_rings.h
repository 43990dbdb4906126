/* Attacks on rings for hostile.c: each puts one kind of nonsense beside honest requests. */
#ifndef GUESTS_HOSTILE_RINGS_H
#define GUESTS_HOSTILE_RINGS_H

#include "guests/hostile_dev.h"

#define FIRST_FREE  12u	  /* descriptors below belong to honest requests */
#define LOW_SECTORS 1024u /* attacks write to these only */

struct victim {
	struct hdev *d;
	struct hring *r;
	unsigned qi;
	unsigned flags; /* VIRTQ_DESC_WRITE where the device writes */
};

static void header_make(uint64_t *header)
{
	static const uint32_t types[] = {0, 1, 0, 1, 4, 8, 11, 13, 2, 0xffffffff};

	header[0] = types[below(10)];
	header[1] = below(8) ? below(LOW_SECTORS) : ~0ull >> below(20);
}

/* An honest chain from descriptor `at` on, at most three long. */
static void honest_chain(struct victim *v, unsigned at)
{
	uint64_t buf = (uint64_t)h.arena + 0x20000 + at * 0x2000;
	unsigned way = below(2) ? VIRTQ_DESC_WRITE : 0;
	uint64_t *header = (uint64_t *)(buf + 0x1800);

	if (v->d->name[0] == 'd') {
		header[0] = way ? BLK_READ : BLK_WRITE;
		header[1] = below(LOW_SECTORS);
		desc_set(v->r, at, (uint64_t)header, HEADER_BYTES, VIRTQ_DESC_NEXT, at + 1);
		desc_set(v->r, at + 1, buf, BLK_SECTOR * (1 + below(8)), VIRTQ_DESC_NEXT | way,
			 at + 2);
		desc_set(v->r, at + 2, (uint64_t)(header + 2), 1, VIRTQ_DESC_WRITE, 0);
	} else if (v->flags) {
		desc_set(v->r, at, buf, 2048, VIRTQ_DESC_WRITE, 0);
	} else {
		uint32_t len = v->d->name[0] == 'v' ? packet_make(v->d, (uint8_t *)buf, 3)
						    : frame_make((uint8_t *)buf);

		desc_set(v->r, at, buf, len, 0, 0);
	}
	ring_offer(v->r, (uint16_t)at);
}

/* Something that could be a piece of a request: a header for the disk first. */
static void piece(struct victim *v, unsigned i, unsigned flags, unsigned next)
{
	uint64_t addr = any_addr(1);

	if (v->d->name[0] == 'd' && !(flags & VIRTQ_DESC_WRITE) && below(2)) {
		addr = arena_addr(8);
		header_make((uint64_t *)addr);
		desc_set(v->r, i, addr, HEADER_BYTES, flags, next);
		return;
	}
	desc_set(v->r, i, addr, any_len(v->d), flags, next);
}

static void a_loop(struct victim *v)
{
	unsigned n = 1 + below(4), at = FIRST_FREE;

	for (unsigned i = 0; i < n; i++)
		desc_set(v->r, at + i, arena_addr(16), 16, VIRTQ_DESC_NEXT | v->flags,
			 at + (i + 1) % n);
	ring_offer(v->r, (uint16_t)at);
}

static void a_next(struct victim *v)
{
	piece(v, FIRST_FREE, VIRTQ_DESC_NEXT | v->flags, RING_NUM + below(0x10000 - RING_NUM));
	ring_offer(v->r, FIRST_FREE);
}

static void a_head(struct victim *v)
{
	ring_offer(v->r, (uint16_t)(RING_NUM + below(0x10000 - RING_NUM)));
}

static void a_length(struct victim *v)
{
	unsigned n = 1 + below(6), at = FIRST_FREE;

	for (unsigned i = 0; i < n; i++)
		desc_set(v->r, at + i, arena_addr(1), below(3) ? any_len(v->d) : 0,
			 v->flags | (i + 1 < n ? VIRTQ_DESC_NEXT : 0), at + i + 1);
	ring_offer(v->r, (uint16_t)at);
}

static void a_address(struct victim *v)
{
	piece(v, FIRST_FREE, VIRTQ_DESC_NEXT, FIRST_FREE + 1);
	desc_set(v->r, FIRST_FREE + 1, bad_addr(), any_len(v->d), VIRTQ_DESC_NEXT | v->flags,
		 FIRST_FREE + 2);
	desc_set(v->r, FIRST_FREE + 2, any_addr(1), 1, VIRTQ_DESC_WRITE, 0);
	ring_offer(v->r, FIRST_FREE + (uint16_t)below(3));
}

/* Readable after writable, and what flags there are. */
static void a_order(struct victim *v)
{
	unsigned n = 2 + below(8), at = FIRST_FREE;

	for (unsigned i = 0; i < n; i++)
		piece(v, at + i,
		      (below(4) ? below(4) : below(0x10000)) | (i + 1 < n ? VIRTQ_DESC_NEXT : 0),
		      at + i + 1);
	ring_offer(v->r, (uint16_t)at);
}

static void a_index(struct victim *v)
{
	static const uint16_t jump[] = {RING_NUM + 1, RING_NUM, 0x8000, 0xffff, 2 * RING_NUM, 2};

	piece(v, FIRST_FREE, v->flags, 0);
	v->r->avail->ring[v->r->avail->idx % RING_NUM] = FIRST_FREE;
	v->r->avail->idx = (uint16_t)(v->r->avail->idx + jump[below(6)]);
}

static void a_indirect(struct victim *v)
{
	static const uint32_t len[] = {
		16,   32,    48,       0,	  15, 17, 16 * RING_NUM, 16 * (RING_NUM + 1),
		4096, 65536, HUGE_LEN, 0xfffffff0};
	struct hring table = {.desc = (struct virtq_desc *)arena_addr(16)};
	struct victim in = {v->d, &table, v->qi, v->flags};
	unsigned n = 1 + below(8);

	for (unsigned i = 0; i < n; i++)
		piece(&in, i, (i ? v->flags : 0) | (i + 1 < n ? VIRTQ_DESC_NEXT : 0), i + 1);
	if (!below(3)) /* a table in a table, or a loop in it */
		table.desc[below(n)].flags |= (uint16_t)(1u << below(3));
	if (!below(3))
		table.desc[below(n)].next = (uint16_t)below(2 * n + 1);
	desc_set(v->r, FIRST_FREE, below(4) ? (uint64_t)table.desc : any_addr(1),
		 below(3) ? 16 * n : len[below(12)], DESC_INDIRECT | (below(4) ? 0 : below(4)),
		 below(RING_NUM));
	ring_offer(v->r, FIRST_FREE);
}

/* Buffers that are the rings themselves. */
static void a_alias(struct victim *v)
{
	uint64_t at[] = {(uint64_t)v->r->desc, (uint64_t)v->r->avail, (uint64_t)v->r->used};
	uint64_t *header = (uint64_t *)arena_addr(8);
	unsigned last = FIRST_FREE + 1 + below(3);

	header[0] = BLK_READ;
	header[1] = below(LOW_SECTORS);
	desc_set(v->r, FIRST_FREE, (uint64_t)header, HEADER_BYTES, VIRTQ_DESC_NEXT, FIRST_FREE + 1);
	for (unsigned i = FIRST_FREE + 1; i <= last; i++)
		desc_set(v->r, i, at[below(3)], 512, v->flags | VIRTQ_DESC_NEXT, i + 1);
	desc_set(v->r, last + 1, at[below(3)] + below(64), 1, VIRTQ_DESC_WRITE, 0);
	ring_offer(v->r, FIRST_FREE + (v->d->name[0] != 'd' && v->flags ? 1 : 0));
}

/* The same chain many times, so that its pieces are in use more than once. */
static void a_again(struct victim *v)
{
	for (unsigned n = 1 + below(RING_NUM); n; n--)
		ring_offer(v->r, (uint16_t)(below(4) * 3));
}

/* Overlapping writes at once: whatever wins must win everywhere. */
static void a_overlap(struct victim *v)
{
	for (unsigned at = 0; at < FIRST_FREE; at += 3) {
		uint64_t *header;

		honest_chain(v, at);
		if (v->d->name[0] != 'd')
			continue;
		header = (uint64_t *)v->r->desc[at].addr;
		header[0] = BLK_WRITE;
		header[1] = below(4);
		v->r->desc[at + 1].flags = VIRTQ_DESC_NEXT;
		memset((void *)v->r->desc[at + 1].addr, (int)(h.attack + at), 512);
	}
}

/* A queue that is closed and opened while requests are under way. */
static void a_toggle(struct victim *v)
{
	kick(v->d, v->qi);
	reg_write(v->d, R_QUEUE_SEL, v->qi);
	for (unsigned n = 1 + below(3); n; n--)
		reg_write(v->d, R_QUEUE_READY, 0);
	queue_ready(v->d, v->qi);
}

static void a_wishes(struct victim *v)
{
	v->r->avail->flags = (uint16_t)below(0x10000);
	v->r->avail->ring[RING_NUM] = (uint16_t)below(0x10000); /* used_event */
	v->r->used->idx = (uint16_t)below(0x10000);
	v->r->used->flags = (uint16_t)below(0x10000);
	honest_chain(v, 9);
}

static void a_noise(struct victim *v)
{
	for (unsigned i = 0; i < RING_NUM; i++)
		piece(v, i, below(8), below(RING_NUM + 2));
	for (unsigned n = below(RING_NUM + 1); n; n--)
		ring_offer(v->r, (uint16_t)below(RING_NUM + (below(16) ? 0 : 1)));
}

static const struct {
	const char *name;
	void (*fn)(struct victim *v);
} ring_attacks[] = {
	{"loop", a_loop},     {"next", a_next},		{"head", a_head},
	{"length", a_length}, {"address", a_address},	{"order", a_order},
	{"index", a_index},   {"indirect", a_indirect}, {"alias", a_alias},
	{"again", a_again},   {"overlap", a_overlap},	{"toggle", a_toggle},
	{"wishes", a_wishes}, {"noise", a_noise},
};

#define RING_ATTACKS (sizeof(ring_attacks) / sizeof(ring_attacks[0]))

static struct victim victim_choose(void)
{
	struct hdev *d = &h.dev[below(h.ndev)];
	unsigned qi = below(d->nq);

	/* of two queues, and of a vsock's, the second one is the device's input */
	return (struct victim){d, &d->q[qi], qi,
			       (d->nq == 2 || d->name[0] == 'v') && qi == 1 ? 0 : VIRTQ_DESC_WRITE};
}

static void attack_ring(void)
{
	struct victim v;

	attack_begin("ring");
	v = victim_choose();
	dev_setup(v.d, h.arena, random_next(&h.random) & FEATURES_TRIED);
	for (unsigned rounds = 1 + below(3); rounds; rounds--) {
		unsigned kind = below(RING_ATTACKS);

		h.doing = ring_attacks[kind].name;
		for (unsigned n = below(4); n; n--)
			honest_chain(&v, 3 * (n - 1));
		if (below(2))
			kick(v.d, v.qi);
		ring_attacks[kind].fn(&v);
		for (unsigned n = below(3); n; n--)
			kick(v.d, v.qi);
		/* at once, or after a moment in which the device gets somewhere */
		for (unsigned n = below(4); n; n--)
			reg_read(v.d, R_STATUS);
	}
	attack_end(v.d);
}

#endif
