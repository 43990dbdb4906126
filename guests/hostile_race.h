/* For hostile.c: a second CPU that changes rings under the device's eyes, and floods. */
#ifndef GUESTS_HOSTILE_RACE_H
#define GUESTS_HOSTILE_RACE_H

#include "guests/hostile_rings.h"

#define RACE_KICKS 64u

static bool race_over;
static uint32_t race_console; /* the victim prints: keep it short */

/* CPU 1: never stops, and touches nothing but the arena. */
static void race_flip(void *arg)
{
	static const uint32_t lengths[] = {1,	       16,	 0,   12,   64,
					   0xffffffff, HUGE_LEN, 512, 4096, 65536};
	struct hring r;
	uint64_t random = h.seed + 1;

	r.desc = (struct virtq_desc *)h.arena;
	r.avail = (struct virtq_avail *)(h.arena + RING_AVAIL);
	r.used = (struct virtq_used *)(h.arena + RING_USED);
	while (!__atomic_load_n(&race_over, __ATOMIC_RELAXED)) {
		uint64_t x = random_next(&random);
		volatile struct virtq_desc *d = &r.desc[x % RING_NUM];
		uint64_t in = (uint64_t)h.arena + (x >> 8) % ARENA_BYTES;
		uint32_t lens = __atomic_load_n(&race_console, __ATOMIC_RELAXED) ? 7 : 10;

		switch (x >> 40 & 7) {
		case 0:
			d->addr = x >> 43 & 1 ? in : h.ram_end - (x >> 8 & 15);
			break;
		case 1:
			d->addr = x >> 43 & 1 ? in : x;
			break;
		case 2:
			d->len = lengths[(x >> 44) % lens];
			break;
		case 3:
			d->flags = (uint16_t)(x >> 44 & 7);
			break;
		case 4:
			d->next = (uint16_t)((x >> 44) % (RING_NUM + 1));
			break;
		case 5:
			r.avail->ring[(x >> 44) % RING_NUM] = (uint16_t)(x >> 50) % RING_NUM;
			break;
		case 6:
			r.avail->idx = (uint16_t)(r.avail->idx + (x >> 44 & 3));
			break;
		default: /* the type and sector that a disk is about to read */
			((volatile uint64_t *)(in & ~7ull))[x >> 50 & 1] = x >> 44 & 31;
			break;
		}
	}
	(void)arg;
}

static void attack_race(void)
{
	struct victim v;

	attack_begin("race");
	v = victim_choose();
	__atomic_store_n(&race_console, v.d == h.console, __ATOMIC_RELAXED);
	/* the first page is the one that CPU 1 works on */
	dev_setup(v.d, v.qi ? h.arena - PAGE_SIZE : h.arena,
		  random_next(&h.random) & FEATURES_TRIED);
	for (unsigned i = 0; i < RACE_KICKS; i++) {
		honest_chain(&v, below(9));
		kick(v.d, v.qi);
		if (i % 16 == 15 && reg_read(v.d, R_STATUS) & ST_NEEDS_RESET)
			break;
	}
	attack_end(v.d);
}

/* Doorbells of queues that have nothing, or nothing new. */
static void flood_kicks(uint64_t total)
{
	attack_begin("kicks");
	for (uint64_t n = 0; n < total; n++) {
		struct hdev *d = &h.dev[n / 64 % h.ndev];

		if (n % 64 == 0)
			own(d);
		kick(d, (unsigned)n % d->nq);
	}
	attack_end(&h.dev[0]);
}

/* As many as the ring takes, again and again; `len` bytes each. */
static void flood_queue(struct hdev *d, uint64_t total, uint32_t len)
{
	struct hring *r = &d->q[1];

	attack_begin("flood");
	own(d);
	for (uint64_t sent = 0; sent < total;) {
		uint16_t n = RING_NUM;

		for (uint16_t i = 0; i < n; i++) {
			desc_set(r, i, (uint64_t)own_buffer(d), len, 0, 0);
			ring_offer(r, i);
		}
		kick(d, 1);
		for (uint16_t i = 0; i < n; i++)
			ring_wait(d, 1);
		sent += n;
	}
	attack_end(d);
}

/* The largest requests, as many as the ring takes; all share one chain and the arena. */
static void flood_disk(struct hdev *d, uint64_t rounds)
{
	uint64_t *header = (uint64_t *)own_buffer(d);
	struct hring *r = &d->q[0];
	unsigned last = ARENA_BYTES / ARENA_GUARD + 1;

	attack_begin("disk flood");
	own(d);
	for (; rounds; rounds--) {
		unsigned way = rounds & 1 ? VIRTQ_DESC_WRITE : 0;

		header[0] = way ? BLK_READ : BLK_WRITE;
		header[1] = below(LOW_SECTORS);
		desc_set(r, 0, (uint64_t)header, HEADER_BYTES, VIRTQ_DESC_NEXT, 1);
		for (unsigned i = 1; i < last; i++)
			desc_set(r, i, (uint64_t)h.arena + (i - 1) * ARENA_GUARD, ARENA_GUARD,
				 VIRTQ_DESC_NEXT | way, i + 1);
		desc_set(r, last, (uint64_t)(header + 2), 1, VIRTQ_DESC_WRITE, 0);
		for (unsigned n = 0; n < RING_NUM; n++)
			ring_offer(r, 0);
		kick(d, 0);
		for (unsigned n = 0; n < RING_NUM; n++)
			ring_wait(d, 0);
	}
	attack_end(d);
}

/* Connections without end, and packets of none, with and without room for the answers. */
static void flood_vsock(struct hdev *d, uint64_t rounds)
{
	struct hring *r = &d->q[1];

	attack_begin("vsock flood");
	for (; rounds; rounds--) {
		d->mine = false; /* what was under way is not for a proof */
		own(d);
		for (unsigned n = below(4); n; n--) {
			for (uint16_t i = 0; i < RING_NUM; i++) {
				uint8_t *buf = h.arena + i * 0x2000;

				desc_set(&d->q[0], i, (uint64_t)h.arena + 0x80000 + i * 0x1000,
					 4096, VIRTQ_DESC_WRITE, 0);
				desc_set(r, i, (uint64_t)buf, packet_make(d, buf, 1000), 0, 0);
				ring_offer(r, i);
				if (rounds & 1)
					ring_offer(&d->q[0], i);
			}
			kick(d, 1);
			kick(d, 0);
			for (unsigned i = below(20); i; i--)
				reg_read(d, R_STATUS);
		}
	}
	d->mine = false;
	attack_end(d);
}

static void attack_flood(void)
{
	uint64_t kicks = cmdline_u64("kicks", 100000);

	flood_kicks(kicks);
	for (unsigned i = 0; i < h.ndev; i++) {
		struct hdev *d = &h.dev[i];
		uint32_t len = 64;

		if (d->name[0] == 'd')
			flood_disk(d, kicks / 5000);
		if (d->name[0] == 'v')
			flood_vsock(d, kicks / 500);
		if (d->nq != 2)
			continue;
		if (d == h.console)
			memset(own_buffer(d), '.', len);
		else
			len = frame_make(own_buffer(d));
		flood_queue(d, kicks / 4, len);
	}
}

#endif
