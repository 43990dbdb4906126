/* Network cards (virtio 1.2, section 5.1): one receive and one transmit queue, no offloads. */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define CARD_MAX  2u
#define SLOT_SIZE 2048u
#define HDR_SIZE  12u /* struct virtio_net_hdr with num_buffers */

#define F_MAC (1ull << 5)

#define Q_RX 0
#define Q_TX 1

struct netdev {
	struct virtio_dev dev;
	struct virtq rx;
	struct virtq tx;
	uint8_t *tx_free; /* slots not in use, linked through their first 8 bytes */
	uint8_t mac[6];
	bool open;
};

static struct netdev cards[CARD_MAX];

/* The slot used last is used first again, so that little traffic dirties few pages. */
static void slot_put(struct netdev *d, uint8_t *slot)
{
	memcpy(slot, &d->tx_free, sizeof(slot));
	d->tx_free = slot;
}

static uint8_t *slot_take(struct netdev *d)
{
	uint8_t *slot = d->tx_free;

	memcpy(&d->tx_free, slot, sizeof(slot));
	return slot;
}

static void rx_offer(struct netdev *d, uint8_t *slot)
{
	struct virtq_buf buf = {slot, SLOT_SIZE};

	virtq_add(&d->rx, &buf, 0, 1, slot);
}

static void cards_fill(struct netdev *d)
{
	uint8_t *slots = mem_alloc((d->rx.num + d->tx.num) * SLOT_SIZE / PAGE_SIZE);

	for (unsigned i = 0; i < d->rx.num; i++, slots += SLOT_SIZE)
		rx_offer(d, slots);
	for (unsigned i = 0; i < d->tx.num; i++, slots += SLOT_SIZE)
		slot_put(d, slots);
	virtq_interrupts(&d->tx, false);
}

struct netdev *net_dev_open(unsigned n)
{
	struct netdev *d;

	if (n >= CARD_MAX)
		return NULL;
	d = &cards[n];
	if (d->open)
		return d;
	if (!virtio_find(&d->dev, VIRTIO_ID_NET, n) || virtio_setup(&d->dev, F_MAC) ||
	    virtq_init(&d->rx, &d->dev, Q_RX, VIRTQ_MAX) ||
	    virtq_init(&d->tx, &d->dev, Q_TX, VIRTQ_MAX))
		return NULL;
	memcpy(d->mac, "\x52\x54\x00\x12\x34", 5);
	d->mac[5] = (uint8_t)(0x56 + n);
	for (unsigned i = 0; d->dev.features & F_MAC && i < 6; i++)
		d->mac[i] = virtio_config8(&d->dev, i);
	cards_fill(d);
	virtio_start(&d->dev);
	virtq_kick(&d->rx);
	d->open = true;
	return d;
}

void net_dev_mac(const struct netdev *d, uint8_t mac[6])
{
	memcpy(mac, d->mac, 6);
}

static void tx_reclaim(struct netdev *d)
{
	uint8_t *slot;

	while ((slot = virtq_get(&d->tx, NULL)))
		slot_put(d, slot);
}

int net_dev_send(struct netdev *d, const void *frame, uint32_t len)
{
	struct virtq_buf buf;
	uint8_t *slot;

	if (len < 14 || len > NET_FRAME_MAX)
		return -EINVAL;
	tx_reclaim(d);
	if (d->tx.free_count == 0) {
		/* ask for an interrupt, then look again: it may have become free in between */
		virtq_interrupts(&d->tx, true);
		virtq_kick(&d->tx);
		tx_reclaim(d);
		if (d->tx.free_count == 0)
			return -EAGAIN;
	}
	if (!d->tx.avail->flags)
		virtq_interrupts(&d->tx, false);
	slot = slot_take(d);
	memset(slot, 0, HDR_SIZE);
	memcpy(slot + HDR_SIZE, frame, len);
	buf = (struct virtq_buf){slot, HDR_SIZE + len};
	virtq_add(&d->tx, &buf, 1, 0, slot);
	return 0;
}

void net_dev_kick(struct netdev *d)
{
	virtq_kick(&d->tx);
}

void net_dev_kick_all(void)
{
	for (unsigned i = 0; i < CARD_MAX; i++) {
		if (cards[i].open) {
			virtq_kick(&cards[i].rx);
			virtq_kick(&cards[i].tx);
		}
	}
}

int net_dev_recv(struct netdev *d, void *buf, uint32_t cap)
{
	uint8_t *slot;
	uint32_t len;
	int n = 0;

	while (n == 0 && (slot = virtq_get(&d->rx, &len))) {
		if (len > HDR_SIZE && len <= SLOT_SIZE && len - HDR_SIZE <= cap) {
			n = (int)(len - HDR_SIZE);
			memcpy(buf, slot + HDR_SIZE, (size_t)n);
		}
		rx_offer(d, slot);
	}
	/* refill notifications are for a device that ran short: it never does while half are there
	 */
	if ((uint16_t)(d->rx.avail->idx - d->rx.kicked) > d->rx.num / 2)
		virtq_kick(&d->rx);
	return n;
}
