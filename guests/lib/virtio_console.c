/* The virtio console (virtio 1.2, section 5.3), port 0, without the multiport feature. */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define Q_RX	  0
#define Q_TX	  1
#define SLOT_SIZE 256u
#define SLOTS	  16u
#define RETRY_NS  500000ull

/* Callers hold the print lock, except for the receive side, which belongs to CPU 0. */
struct console {
	struct virtio_dev dev;
	struct virtq rx;
	struct virtq tx;
	uint8_t *tx_slots;
	uint8_t *free[SLOTS];
	unsigned free_count;
	uint8_t *open_slot; /* being filled up to a newline */
	unsigned open_len;
	uint8_t *rx_slot;
	uint32_t rx_len, rx_pos;
	bool ready;
};

static struct console con;

static void rx_offer(uint8_t *slot)
{
	struct virtq_buf buf = {slot, SLOT_SIZE};

	virtq_add(&con.rx, &buf, 0, 1, slot);
}

bool console_open(void)
{
	uint8_t *page;

	if (!virtio_find(&con.dev, VIRTIO_ID_CONSOLE, 0) || virtio_setup(&con.dev, 0) ||
	    virtq_init(&con.rx, &con.dev, Q_RX, SLOTS) ||
	    virtq_init(&con.tx, &con.dev, Q_TX, SLOTS))
		return false;
	page = mem_alloc(2 * SLOTS * SLOT_SIZE / PAGE_SIZE);
	for (unsigned i = 0; i < con.rx.num; i++)
		rx_offer(page + i * SLOT_SIZE);
	page += SLOTS * SLOT_SIZE;
	while (con.free_count < con.tx.num) {
		con.free[con.free_count] = page + con.free_count * SLOT_SIZE;
		con.free_count++;
	}
	virtq_interrupts(&con.tx, false);
	virtio_start(&con.dev);
	virtq_kick(&con.rx);
	con.ready = true;
	return true;
}

static void tx_reclaim(void)
{
	uint8_t *slot;

	while ((slot = virtq_get(&con.tx, NULL)))
		con.free[con.free_count++] = slot;
}

/* The host may hold output back for a while; nothing else announces the end of that. */
static uint8_t *slot_wait(void)
{
	for (;;) {
		uint64_t seen = guest_events();

		tx_reclaim();
		if (con.free_count)
			return con.free[--con.free_count];
		guest_wait_until(seen, clock_ns() + RETRY_NS);
	}
}

static void slot_send(void)
{
	struct virtq_buf buf = {con.open_slot, con.open_len};

	virtq_add(&con.tx, &buf, 1, 0, con.open_slot);
	virtq_kick(&con.tx);
	con.open_slot = NULL;
}

void console_write(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!con.open_slot) {
			con.open_slot = slot_wait();
			con.open_len = 0;
		}
		con.open_slot[con.open_len++] = (uint8_t)text[i];
		if (text[i] == '\n' || con.open_len == SLOT_SIZE)
			slot_send();
	}
}

void console_drain(uint64_t deadline_ns)
{
	if (!con.ready)
		return;
	if (con.open_slot)
		slot_send();
	for (tx_reclaim(); con.free_count < con.tx.num; tx_reclaim()) {
		if (clock_ns() >= deadline_ns)
			return;
		guest_wait_until(guest_events(), clock_ns() + RETRY_NS);
	}
}

int console_read(void *buf, uint32_t cap)
{
	uint32_t n;

	if (!con.ready)
		return 0;
	if (!con.rx_slot) {
		con.rx_slot = virtq_get(&con.rx, &con.rx_len);
		con.rx_pos = 0;
		if (!con.rx_slot)
			return 0;
		if (con.rx_len > SLOT_SIZE)
			con.rx_len = SLOT_SIZE;
	}
	n = con.rx_len - con.rx_pos < cap ? con.rx_len - con.rx_pos : cap;
	memcpy(buf, con.rx_slot + con.rx_pos, n);
	con.rx_pos += n;
	if (con.rx_pos == con.rx_len) {
		rx_offer(con.rx_slot);
		virtq_kick(&con.rx);
		con.rx_slot = NULL;
	}
	return (int)n;
}
