#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

/* virtio 1.2, section 4.2.2: register layout */
#define R_MAGIC		0x000
#define R_VERSION	0x004
#define R_DEVICE_ID	0x008
#define R_FEATURES	0x010
#define R_FEATURES_SEL	0x014
#define R_DRV_FEATURES	0x020
#define R_DRV_FEAT_SEL	0x024
#define R_QUEUE_SEL	0x030
#define R_QUEUE_NUM_MAX 0x034
#define R_QUEUE_NUM	0x038
#define R_QUEUE_READY	0x044
#define R_QUEUE_NOTIFY	0x050
#define R_INTERRUPT_ACK 0x064
#define R_STATUS	0x070
#define R_QUEUE_DESC	0x080
#define R_QUEUE_AVAIL	0x090
#define R_QUEUE_USED	0x0a0
#define R_CONFIG_GEN	0x0fc
#define R_CONFIG	0x100

#define MAGIC		 0x74726976u
#define STATUS_ACK	 1u
#define STATUS_DRIVER	 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEAT_OK	 8u
#define INTERRUPT_ALL	 3u
#define RESET_TRIES	 100000u
#define CONFIG_TRIES	 100u
#define GSI_MAX		 23u
#define DEVICE_MAX	 8u
#define SLOT_BASE	 0xd0000000u /* ftvmm's devices are side by side from here on */
#define SLOT_STEP	 0x1000u
#define SLOT_GSI	 16u

static struct virtio_dev *started[DEVICE_MAX];
static unsigned started_count;

/* Parses the rest of `virtio_mmio.device=SIZE@BASE:GSI[:ID]`. */
static bool device_parse(const char *text, struct virtio_dev *d)
{
	uint64_t size, gsi;

	if (!text_u64(text, "@", &size, &text) || *text != '@' ||
	    !text_u64(text + 1, ":", &d->regs, &text) || *text != ':' ||
	    !text_u64(text + 1, ":", &gsi, NULL) || gsi > GSI_MAX)
		return false;
	d->gsi = (unsigned)gsi;
	return size > R_CONFIG;
}

static uint32_t reg_read(const struct virtio_dev *d, unsigned reg)
{
	return mmio_read32(d->regs + reg);
}

static void reg_write(const struct virtio_dev *d, unsigned reg, uint32_t value)
{
	mmio_write32(d->regs + reg, value);
}

static bool device_is(const struct virtio_dev *d, uint32_t id)
{
	return reg_read(d, R_MAGIC) == MAGIC && reg_read(d, R_VERSION) == 2 &&
	       reg_read(d, R_DEVICE_ID) == id;
}

static bool find_slot(struct virtio_dev *d, uint32_t id, unsigned n)
{
	for (unsigned i = 0; i < DEVICE_MAX; i++) {
		*d = (struct virtio_dev){.regs = SLOT_BASE + i * SLOT_STEP, .gsi = SLOT_GSI + i};
		if (device_is(d, id) && n-- == 0)
			return true;
	}
	return false;
}

bool virtio_find(struct virtio_dev *d, uint32_t id, unsigned n)
{
	static const char key[] = "virtio_mmio.device=";
	const char *p = cmdline_next(NULL, key);

	if (!p)
		return find_slot(d, id, n);
	for (; p; p = cmdline_next(p, key)) {
		*d = (struct virtio_dev){0};
		if (device_parse(p, d) && device_is(d, id) && n-- == 0)
			return true;
	}
	return false;
}

int virtio_setup(struct virtio_dev *d, uint64_t wanted)
{
	uint64_t offered;
	unsigned i;

	reg_write(d, R_STATUS, 0);
	for (i = 0; reg_read(d, R_STATUS) != 0; i++) {
		if (i == RESET_TRIES)
			return -ENODEV;
	}
	reg_write(d, R_STATUS, STATUS_ACK);
	reg_write(d, R_STATUS, STATUS_ACK | STATUS_DRIVER);
	reg_write(d, R_FEATURES_SEL, 1);
	offered = (uint64_t)reg_read(d, R_FEATURES) << 32;
	reg_write(d, R_FEATURES_SEL, 0);
	offered |= reg_read(d, R_FEATURES);
	if (!(offered & VIRTIO_F_VERSION_1))
		return -ENODEV;
	d->features = offered & (wanted | VIRTIO_F_VERSION_1);
	reg_write(d, R_DRV_FEAT_SEL, 1);
	reg_write(d, R_DRV_FEATURES, (uint32_t)(d->features >> 32));
	reg_write(d, R_DRV_FEAT_SEL, 0);
	reg_write(d, R_DRV_FEATURES, (uint32_t)d->features);
	reg_write(d, R_STATUS, STATUS_ACK | STATUS_DRIVER | STATUS_FEAT_OK);
	return reg_read(d, R_STATUS) & STATUS_FEAT_OK ? 0 : -ENODEV;
}

static void reg_write64(const struct virtio_dev *d, unsigned reg, const void *addr)
{
	reg_write(d, reg, (uint32_t)(uint64_t)addr);
	reg_write(d, reg + 4, (uint32_t)((uint64_t)addr >> 32));
}

/* All three parts of a queue share one page, so that a request dirties no more than that. */
int virtq_init(struct virtq *q, struct virtio_dev *d, unsigned index, unsigned max)
{
	uint8_t *page;
	uint32_t num;

	reg_write(d, R_QUEUE_SEL, index);
	num = reg_read(d, R_QUEUE_NUM_MAX);
	if (num > max)
		num = max;
	if (num > VIRTQ_MAX)
		num = VIRTQ_MAX;
	if (num < 2 || reg_read(d, R_QUEUE_READY))
		return -ENODEV;
	num = 1u << (31 - __builtin_clz(num));
	page = mem_alloc(1);
	memset(page, 0, PAGE_SIZE);
	*q = (struct virtq){.dev = d, .index = index};
	q->num = (uint16_t)num;
	q->free_count = q->num;
	q->desc = (struct virtq_desc *)page;
	q->avail = (struct virtq_avail *)(page + 16 * VIRTQ_MAX);
	q->used = (struct virtq_used *)(page + 16 * VIRTQ_MAX + 8 + 2 * VIRTQ_MAX);
	for (uint16_t i = 0; i < q->num; i++)
		q->desc[i].next = (uint16_t)(i + 1);
	reg_write(d, R_QUEUE_NUM, num);
	reg_write64(d, R_QUEUE_DESC, q->desc);
	reg_write64(d, R_QUEUE_AVAIL, q->avail);
	reg_write64(d, R_QUEUE_USED, q->used);
	reg_write(d, R_QUEUE_READY, 1);
	return 0;
}

void virtio_start(struct virtio_dev *d)
{
	if (started_count == DEVICE_MAX)
		guest_die(2, "more than %u virtio devices", DEVICE_MAX);
	started[started_count++] = d;
	ioapic_route(d->gsi);
	reg_write(d, R_STATUS, STATUS_ACK | STATUS_DRIVER | STATUS_FEAT_OK | STATUS_DRIVER_OK);
}

/*
 * The line stays up until it is acknowledged, and only a rising edge interrupts: so what the
 * device did between the last look at its ring and this moment raises no interrupt, and the ring
 * must be looked at once more. It is done before waiting only, as an exit to the device model is
 * expensive: a busy guest polls and never pays for it. Both causes are acknowledged without
 * reading which it was; configuration changes are ignored.
 */
bool virtio_ack_all(void)
{
	bool any = false;

	for (unsigned i = 0; i < started_count; i++) {
		struct virtio_dev *d = started[i];
		uint64_t now = irq_count(d->gsi);

		if (now == d->irq_seen)
			continue;
		d->irq_seen = now;
		reg_write(d, R_INTERRUPT_ACK, INTERRUPT_ALL);
		any = true;
	}
	return any;
}

uint8_t virtio_config8(const struct virtio_dev *d, unsigned offset)
{
	uint8_t value;

	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(d->regs + R_CONFIG + offset));
	return value;
}

uint32_t virtio_config32(const struct virtio_dev *d, unsigned offset)
{
	return reg_read(d, R_CONFIG + offset);
}

uint64_t virtio_config64(const struct virtio_dev *d, unsigned offset)
{
	uint64_t value;
	uint32_t gen;
	unsigned i = 0;

	do {
		gen = reg_read(d, R_CONFIG_GEN);
		value = virtio_config32(d, offset);
		value |= (uint64_t)virtio_config32(d, offset + 4) << 32;
	} while (gen != reg_read(d, R_CONFIG_GEN) && ++i < CONFIG_TRIES);
	return value;
}

bool virtq_add(struct virtq *q, const struct virtq_buf *bufs, unsigned out, unsigned in,
	       void *token)
{
	uint16_t head = q->free_head, at = head, last = head;

	if (out + in == 0 || out + in > q->free_count)
		return false;
	for (unsigned i = 0; i < out + in; i++) {
		struct virtq_desc *desc = &q->desc[at];

		desc->addr = (uint64_t)bufs[i].addr;
		desc->len = bufs[i].len;
		desc->flags = (uint16_t)((i >= out ? VIRTQ_DESC_WRITE : 0) |
					 (i + 1 < out + in ? VIRTQ_DESC_NEXT : 0));
		last = at;
		at = desc->next;
	}
	q->free_head = q->desc[last].next;
	q->free_count = (uint16_t)(q->free_count - out - in);
	q->token[head] = token;
	q->avail->ring[q->avail->idx & (q->num - 1)] = head;
	/* the device may see the index only after the entry and the descriptors */
	__atomic_store_n(&q->avail->idx, (uint16_t)(q->avail->idx + 1), __ATOMIC_RELEASE);
	return true;
}

void virtq_kick(struct virtq *q)
{
	if (q->kicked == q->avail->idx)
		return;
	q->kicked = q->avail->idx;
	/* either the device sees the new index, or we see that it wants to be told */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & VIRTQ_NO_NOTIFY))
		reg_write(q->dev, R_QUEUE_NOTIFY, q->index);
}

void *virtq_get(struct virtq *q, uint32_t *ret_len)
{
	uint16_t slot = q->last_used & (q->num - 1), at, count = 1;
	uint32_t head;
	void *token;

	if (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) == q->last_used)
		return NULL;
	head = q->used->ring[slot].id;
	if (head >= q->num || !q->token[head])
		guest_die(4, "virtq %u of device %#lx: bad used id %u", q->index, q->dev->regs,
			  head);
	if (ret_len)
		*ret_len = q->used->ring[slot].len;
	q->last_used++;
	token = q->token[head];
	q->token[head] = NULL;
	for (at = (uint16_t)head; q->desc[at].flags & VIRTQ_DESC_NEXT; at = q->desc[at].next)
		count++;
	q->desc[at].next = q->free_head;
	q->free_head = (uint16_t)head;
	q->free_count = (uint16_t)(q->free_count + count);
	return token;
}

void virtq_interrupts(struct virtq *q, bool on)
{
	__atomic_store_n(&q->avail->flags, on ? 0 : VIRTQ_NO_INTERRUPT, __ATOMIC_SEQ_CST);
}
