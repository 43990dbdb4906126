#include "tests/unit/libvirtio.h"

uint64_t rig_now_ns;
static uint64_t rig_tick_ns;

static uint64_t rig_clock(void)
{
	rig_now_ns += rig_tick_ns;
	return rig_now_ns;
}

void rig_set_clock(struct loop *l, uint64_t tick_ns)
{
	rig_tick_ns = tick_ns;
	l->clock = rig_clock;
}

void rig_init(struct rig *r, uint64_t obuf_limit)
{
	memset(r, 0, sizeof(*r));
	/* Broken rules are what these tests are about; the log would drown the results. */
	log_init(LOG_ERROR, "test");
	assert_int_equal(mem_init(&r->mem, MEM_SHARED_FILE, RIG_MEM, NULL), 0);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	obuf_init(&r->obuf, obuf_limit);
	seqmap_init(&r->seqs, SEQMAP_MAX);
	r->env = (struct dev_env){&r->mem, &r->loop, &r->bus, &r->obuf, &r->seqs, &r->inputs};
}

void rig_done(struct rig *r)
{
	seqmap_done(&r->seqs);
	obuf_done(&r->obuf);
	loop_done(&r->loop);
	mem_done(&r->mem);
}

struct mdev rig_mdev(enum mdev_kind kind, unsigned slot)
{
	struct mdev md = {.kind = kind, .gpa = RIG_BASE + slot * 0x1000, .gsi = 16 + slot};

	snprintf(md.id, sizeof(md.id), "dev%u", slot);
	memcpy(md.mac, (uint8_t[]){0x52, 0x54, 0, 1, 2, 3}, 6);
	return md;
}

void rig_settle(struct rig *r)
{
	for (int i = 0; i < 6; i++)
		loop_run_once(&r->loop, 200000);
}

uint32_t rig_get(struct rig *r, unsigned slot, uint64_t off)
{
	return (uint32_t)bus_read(&r->bus, BUS_MMIO, RIG_BASE + slot * 0x1000 + off, 4);
}

void rig_set(struct rig *r, unsigned slot, uint64_t off, uint32_t v)
{
	bus_write(&r->bus, BUS_MMIO, RIG_BASE + slot * 0x1000 + off, 4, v);
}

uint64_t rig_offered(struct rig *r, unsigned slot)
{
	uint64_t f;

	rig_set(r, slot, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	f = (uint64_t)rig_get(r, slot, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	rig_set(r, slot, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return f | rig_get(r, slot, VIRTIO_MMIO_DEVICE_FEATURES);
}

void rig_accept(struct rig *r, unsigned slot, uint64_t features)
{
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	rig_set(r, slot, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

void rig_set_queue(struct rig *r, unsigned slot, unsigned qi, uint32_t size, uint64_t desc,
		   uint64_t avail, uint64_t used)
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

struct rig_q rig_q(struct rig *r, unsigned index, unsigned place, uint16_t size)
{
	struct rig_q q = {.rig = r, .index = index, .size = size};

	q.desc = RIG_RINGS(place);
	q.availr = q.desc + 0x1000;
	q.used = q.desc + 0x2000;
	memset(r->mem.base + q.desc, 0, 0x4000);
	return q;
}

void rig_start(struct rig *r, unsigned slot, uint64_t features, struct rig_q *qs, unsigned n,
	       uint16_t size)
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

void *rig_ptr(struct rig *r, uint64_t gpa)
{
	return r->mem.base + gpa;
}

struct vring_desc *rig_desc(struct rig_q *q, unsigned i)
{
	return (struct vring_desc *)rig_ptr(q->rig, q->desc) + i;
}

uint16_t rig_used_idx(struct rig_q *q)
{
	return __atomic_load_n((uint16_t *)rig_ptr(q->rig, q->used + 2), __ATOMIC_ACQUIRE);
}

struct vring_used_elem *rig_used(struct rig_q *q, uint16_t idx)
{
	return (struct vring_used_elem *)rig_ptr(q->rig, q->used + 4 + 8 * (idx % q->size));
}

void rig_post(struct rig_q *q, uint16_t head)
{
	uint16_t *ring = rig_ptr(q->rig, q->availr);

	ring[2 + q->avail % q->size] = head;
	q->avail++;
	__atomic_store_n(&ring[1], q->avail, __ATOMIC_RELEASE);
}

uint16_t rig_add(struct rig_q *q, const struct rig_seg *s, unsigned n)
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

void rig_kick(struct rig *r, unsigned slot, unsigned qi)
{
	rig_set(r, slot, VIRTIO_MMIO_QUEUE_NOTIFY, qi);
}

bool rig_took_signal(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
}

bool rig_deliver(void *arg, const void *data, uint32_t len)
{
	struct rig_out *o = arg;

	assert_true(o->bytes + len <= sizeof(o->data));
	memcpy(o->data + o->bytes, data, len);
	o->bytes += len;
	o->n++;
	return true;
}
