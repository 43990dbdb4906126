/*
 * A machine without CPUs, for device tests: memory, loop, bus, output buffer, and a driver that
 * talks to one virtio-mmio device by its registers and by writing to memory as a guest would.
 */
#ifndef TESTS_UNIT_VIRTIO_RIG_H
#define TESTS_UNIT_VIRTIO_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/device.h"
#include "net/obuf.h"
#include "vmm/base/log.h"
#include "vmm/machine/machine.h"

#define RIG_UNUSED __attribute__((unused))
#define RIG_BASE   0xd0000000ull
/* Where queue i lies, and where buffers may be put. */
#define RIG_RINGS(i) (0x10000ull + 0x4000ull * (i))
#define RIG_DATA     0x40000ull
#define RIG_MEM	     (8ull << 20)

struct rig {
	struct mem mem;
	struct loop loop;
	struct bus bus;
	struct obuf obuf;
	struct dev_env env;
};

/* The driver's side of one queue. */
struct rig_q {
	struct rig *rig;
	unsigned index;
	uint16_t size, next_desc, avail, seen;
	bool event_idx;
	uint64_t desc, availr, used;
};

/*
 * A clock for the loop of which each look takes rig_tick_ns: with LOOP_BUDGET_NS every turn of work
 * is over after one piece.
 */
static RIG_UNUSED uint64_t rig_now_ns, rig_tick_ns;

static RIG_UNUSED uint64_t rig_clock(void)
{
	rig_now_ns += rig_tick_ns;
	return rig_now_ns;
}

static RIG_UNUSED void rig_set_clock(struct rig *r, uint64_t tick_ns)
{
	rig_tick_ns = tick_ns;
	r->loop.clock = rig_clock;
}

static RIG_UNUSED void rig_init(struct rig *r, uint64_t obuf_limit)
{
	memset(r, 0, sizeof(*r));
	/* Broken rules are what these tests are about; the log would drown the results. */
	log_init(LOG_ERROR, "test");
	assert_int_equal(mem_init(&r->mem, MEM_SHARED_FILE, RIG_MEM, NULL), 0);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	obuf_init(&r->obuf, obuf_limit);
	r->env = (struct dev_env){&r->mem, &r->loop, &r->bus, &r->obuf};
}

static RIG_UNUSED void rig_done(struct rig *r)
{
	obuf_done(&r->obuf);
	loop_done(&r->loop);
	mem_done(&r->mem);
}

static RIG_UNUSED struct mdev rig_mdev(enum mdev_kind kind, unsigned slot)
{
	struct mdev md = {.kind = kind, .gpa = RIG_BASE + slot * 0x1000, .gsi = 16 + slot};

	snprintf(md.id, sizeof(md.id), "dev%u", slot);
	memcpy(md.mac, (uint8_t[]){0x52, 0x54, 0, 1, 2, 3}, 6);
	return md;
}

/* Let the loop work off what is ready. Reads and writes of files may take longer: rig_until(). */
static RIG_UNUSED void rig_settle(struct rig *r)
{
	for (int i = 0; i < 6; i++)
		loop_run_once(&r->loop, 200000);
}

#define rig_until(r, cond)                                                                         \
	do {                                                                                       \
		for (int left_ = 2000; !(cond) && left_; left_--)                                  \
			loop_run_once(&(r)->loop, 10000000);                                       \
		assert_true(cond);                                                                 \
	} while (0)

static RIG_UNUSED uint32_t rig_get(struct rig *r, unsigned slot, uint64_t off)
{
	return (uint32_t)bus_read(&r->bus, BUS_MMIO, RIG_BASE + slot * 0x1000 + off, 4);
}

static RIG_UNUSED void rig_set(struct rig *r, unsigned slot, uint64_t off, uint32_t v)
{
	bus_write(&r->bus, BUS_MMIO, RIG_BASE + slot * 0x1000 + off, 4, v);
}

static RIG_UNUSED uint64_t rig_offered(struct rig *r, unsigned slot)
{
	uint64_t f;

	rig_set(r, slot, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	f = (uint64_t)rig_get(r, slot, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	rig_set(r, slot, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return f | rig_get(r, slot, VIRTIO_MMIO_DEVICE_FEATURES);
}

static RIG_UNUSED void rig_accept(struct rig *r, unsigned slot, uint64_t features)
{
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

static RIG_UNUSED void rig_set_queue(struct rig *r, unsigned slot, unsigned qi, uint32_t size,
				     uint64_t desc, uint64_t avail, uint64_t used)
{
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_SEL, qi);
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_NUM, size);
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)desc);
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(desc >> 32));
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)avail);
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(avail >> 32));
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)used);
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(used >> 32));
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* The driver's side of queue memory at RIG_RINGS(place), zeroed. */
static RIG_UNUSED struct rig_q rig_q(struct rig *r, unsigned index, unsigned place, uint16_t size)
{
	struct rig_q q = {.rig = r, .index = index, .size = size};

	q.desc = RIG_RINGS(place);
	q.availr = q.desc + 0x1000;
	q.used = q.desc + 0x2000;
	memset(r->mem.base + q.desc, 0, 0x4000);
	return q;
}

/* Bring device `slot` up with these features and its n queues (of `size`) at RIG_RINGS(0..n-1). */
static RIG_UNUSED void rig_start(struct rig *r, unsigned slot, uint64_t features, struct rig_q *qs,
				 unsigned n, uint16_t size)
{
	features |= 1ull << VIRTIO_F_VERSION_1;
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 1);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 3);
	rig_accept(r, slot, features);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0xb);
	assert_int_equal(rig_get(r, slot, VIRTIO_MMIO_STATUS), 0xb);
	for (unsigned i = 0; i < n; i++) {
		qs[i] = rig_q(r, i, i, size);
		qs[i].event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
		rig_set_queue(r, slot, i, size, qs[i].desc, qs[i].availr, qs[i].used);
		assert_int_equal(rig_get(r, slot, VIRTIO_MMIO_QUEUE_READY), 1);
	}
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0xf);
	assert_int_equal(rig_get(r, slot, VIRTIO_MMIO_STATUS), 0xf);
	rig_settle(r);
}

static RIG_UNUSED void *rig_ptr(struct rig *r, uint64_t gpa)
{
	return r->mem.base + gpa;
}

static RIG_UNUSED struct vring_desc *rig_desc(struct rig_q *q, unsigned i)
{
	return (struct vring_desc *)rig_ptr(q->rig, q->desc) + i;
}

static RIG_UNUSED uint16_t rig_used_idx(struct rig_q *q)
{
	return __atomic_load_n((uint16_t *)rig_ptr(q->rig, q->used + 2), __ATOMIC_ACQUIRE);
}

static RIG_UNUSED struct vring_used_elem *rig_used(struct rig_q *q, uint16_t idx)
{
	return (struct vring_used_elem *)rig_ptr(q->rig, q->used + 4 + 8 * (idx % q->size));
}

/* Make `head` available. */
static RIG_UNUSED void rig_post(struct rig_q *q, uint16_t head)
{
	uint16_t *ring = rig_ptr(q->rig, q->availr);

	ring[2 + q->avail % q->size] = head;
	q->avail++;
	__atomic_store_n(&ring[1], q->avail, __ATOMIC_RELEASE);
}

struct rig_seg {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

/* Write a chain of n segments at the next free descriptors and post it; returns its head. */
static RIG_UNUSED uint16_t rig_add(struct rig_q *q, const struct rig_seg *s, unsigned n)
{
	uint16_t head = q->next_desc % q->size;

	for (unsigned i = 0; i < n; i++) {
		uint16_t at = (head + i) % q->size;

		*rig_desc(q, at) = (struct vring_desc){
			.addr = s[i].gpa,
			.len = s[i].len,
			.flags = (s[i].write ? VRING_DESC_F_WRITE : 0) |
				 (i + 1 < n ? VRING_DESC_F_NEXT : 0),
			.next = (at + 1) % q->size,
		};
	}
	q->next_desc = (head + n) % q->size;
	rig_post(q, head);
	return head;
}

static RIG_UNUSED void rig_kick(struct rig *r, unsigned slot, unsigned qi)
{
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_NOTIFY, qi);
}

/* Has fd been signalled since last asked? */
static RIG_UNUSED bool rig_took_signal(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
}

/* What a sink got, for checks of order. */
struct rig_out {
	unsigned n;
	uint32_t bytes;
	uint8_t data[1 << 17];
};

static RIG_UNUSED bool rig_deliver(void *arg, const void *data, uint32_t len)
{
	struct rig_out *o = arg;

	assert_true(o->bytes + len <= sizeof(o->data));
	memcpy(o->data + o->bytes, data, len);
	o->bytes += len;
	o->n++;
	return true;
}

#endif
