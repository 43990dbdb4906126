/*
 * A machine without CPUs, for device tests: memory, loop, bus, output buffer, and a driver that
 * talks to one virtio-mmio device by its registers and by writing to memory as a guest would.
 */
#ifndef TESTS_LIBVIRTIO_H
#define TESTS_LIBVIRTIO_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "devices/device.h"
#include "devices/inputs.h"
#include "net/obuf.h"
#include "net/seqmap.h"
#include "vmm/base/log.h"
#include "vmm/machine/machine.h"

#define RIG_BASE 0xd0000000ull
/* Where queue i lies, and where buffers may be put. */
#define RIG_RINGS(i) (0x10000ull + 0x4000ull * (i))
#define RIG_DATA     0x40000ull
#define RIG_MEM	     (8ull << 20)

struct rig {
	struct mem mem;
	struct loop loop;
	struct bus bus;
	struct obuf obuf;
	struct seqmap seqs;
	struct inputs inputs;
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
 * A clock for the loop of which each look takes tick_ns: with LOOP_BUDGET_NS every turn of work is
 * over after one piece.
 */
extern uint64_t rig_now_ns;
void rig_set_clock(struct loop *l, uint64_t tick_ns);
void rig_init(struct rig *r, uint64_t obuf_limit);
void rig_done(struct rig *r);
struct mdev rig_mdev(enum mdev_kind kind, unsigned slot);
/* Let the loop work off what is ready. Reads and writes of files may take longer: rig_until(). */
void rig_settle(struct rig *r);

#define rig_until(r, cond)                                                                         \
	do {                                                                                       \
		for (int left_ = 2000; !(cond) && left_; left_--)                                  \
			loop_run_once(&(r)->loop, 10000000);                                       \
		assert_true(cond);                                                                 \
	} while (0)

uint32_t rig_get(struct rig *r, unsigned slot, uint64_t off);
void rig_set(struct rig *r, unsigned slot, uint64_t off, uint32_t v);
uint64_t rig_offered(struct rig *r, unsigned slot);
void rig_accept(struct rig *r, unsigned slot, uint64_t features);
void rig_set_queue(struct rig *r, unsigned slot, unsigned qi, uint32_t size, uint64_t desc,
		   uint64_t avail, uint64_t used);
/* The driver's side of queue memory at RIG_RINGS(place), zeroed. */
struct rig_q rig_q(struct rig *r, unsigned index, unsigned place, uint16_t size);
/* Bring device `slot` up with these features and its n queues (of `size`) at RIG_RINGS(0..n-1). */
void rig_start(struct rig *r, unsigned slot, uint64_t features, struct rig_q *qs, unsigned n,
	       uint16_t size);
void *rig_ptr(struct rig *r, uint64_t gpa);
struct vring_desc *rig_desc(struct rig_q *q, unsigned i);
uint16_t rig_used_idx(struct rig_q *q);
struct vring_used_elem *rig_used(struct rig_q *q, uint16_t idx);
/* Make `head` available. */
void rig_post(struct rig_q *q, uint16_t head);

struct rig_seg {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

/* Write a chain of n segments at the next free descriptors and post it; returns its head. */
uint16_t rig_add(struct rig_q *q, const struct rig_seg *s, unsigned n);
void rig_kick(struct rig *r, unsigned slot, unsigned qi);
/* Has fd been signalled since last asked? */
bool rig_took_signal(int fd);

/* What a sink got, for checks of order. */
struct rig_out {
	unsigned n;
	uint32_t bytes;
	uint8_t data[1 << 17];
};

bool rig_deliver(void *arg, const void *data, uint32_t len);

#endif
