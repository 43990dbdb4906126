/* The socket device (virtio 1.2, section 5.10): receive, transmit and event queue. */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"
#include "guests/lib/vsock.h"

#define Q_RX	0
#define Q_TX	1
#define Q_EVENT 2

#define RING   32u
#define EVENTS 2u
#define HDR    ((uint32_t)sizeof(struct vsock_hdr))

static struct {
	struct virtio_dev dev;
	struct virtq rx, tx, event;
	uint8_t *tx_slots;
	uint32_t tx_free; /* bit per slot */
	uint32_t events[EVENTS][2];
	uint64_t cid;
	bool open;
} vs;

static void rx_offer(uint8_t *slot)
{
	struct virtq_buf buf = {slot, VSOCK_SLOT};

	virtq_add(&vs.rx, &buf, 0, 1, slot);
}

static void event_offer(uint32_t *event)
{
	struct virtq_buf buf = {event, 8};

	virtq_add(&vs.event, &buf, 0, 1, event);
}

bool vsock_open(void)
{
	uint8_t *slots;

	if (vs.open)
		return true;
	if (!virtio_find(&vs.dev, VIRTIO_ID_VSOCK, 0) || virtio_setup(&vs.dev, 0) ||
	    virtq_init(&vs.rx, &vs.dev, Q_RX, RING) || virtq_init(&vs.tx, &vs.dev, Q_TX, RING) ||
	    virtq_init(&vs.event, &vs.dev, Q_EVENT, EVENTS))
		return false;
	slots = mem_alloc(vs.rx.num * VSOCK_SLOT / PAGE_SIZE);
	for (unsigned i = 0; i < vs.rx.num; i++)
		rx_offer(slots + i * VSOCK_SLOT);
	vs.tx_slots = mem_alloc(vs.tx.num * VSOCK_SLOT / PAGE_SIZE);
	vs.tx_free = (uint32_t)((1ull << vs.tx.num) - 1);
	for (unsigned i = 0; i < vs.event.num && i < EVENTS; i++)
		event_offer(vs.events[i]);
	virtio_start(&vs.dev);
	vs.cid = virtio_config64(&vs.dev, 0);
	virtq_kick(&vs.rx);
	virtq_kick(&vs.event);
	vs.open = true;
	return true;
}

uint64_t vsock_cid(void)
{
	return vs.cid;
}

int vsock_send(struct vsock_hdr *h, const void *data)
{
	struct virtq_buf buf;
	uint8_t *slot;

	while ((slot = virtq_get(&vs.tx, NULL)))
		vs.tx_free |= 1u << (slot - vs.tx_slots) / VSOCK_SLOT;
	if (!vs.tx_free || !vs.tx.free_count)
		return -EAGAIN;
	slot = vs.tx_slots + (unsigned)__builtin_ctz(vs.tx_free) * VSOCK_SLOT;
	vs.tx_free &= vs.tx_free - 1;
	h->src_cid = vs.cid;
	h->dst_cid = VSOCK_HOST_CID;
	h->type = VSOCK_STREAM;
	memcpy(slot, h, HDR);
	memcpy(slot + HDR, data, h->len);
	buf = (struct virtq_buf){slot, HDR + h->len};
	virtq_add(&vs.tx, &buf, 1, 0, slot);
	return 0;
}

void vsock_kick(void)
{
	virtq_kick(&vs.tx);
	virtq_kick(&vs.rx);
	virtq_kick(&vs.event);
}

bool vsock_recv(struct vsock_hdr *ret, void *buf)
{
	uint32_t len;
	uint8_t *slot = virtq_get(&vs.rx, &len);

	if (!slot)
		return false;
	if (len < HDR || len > VSOCK_SLOT)
		guest_die(4, "vsock: a packet of %u bytes", len);
	memcpy(ret, slot, HDR);
	if (ret->len != len - HDR)
		guest_die(4, "vsock: a packet of %u bytes says %u", len - HDR, ret->len);
	memcpy(buf, slot + HDR, ret->len);
	rx_offer(slot);
	return true;
}

bool vsock_was_reset(void)
{
	uint32_t len, *event = virtq_get(&vs.event, &len);
	bool reset;

	if (!event)
		return false;
	if (len != 4)
		guest_die(4, "vsock: an event of %u bytes", len);
	reset = *event == 0;
	event_offer(event);
	return reset;
}
