/* Attacks on registers and ports for hostile.c. */
#ifndef GUESTS_HOSTILE_REGS_H
#define GUESTS_HOSTILE_REGS_H

#include "guests/hostile_dev.h"

#define REGS_BYTES     0x1000u
#define REGS_DENSE     0x180u /* below: every offset; above: one in SPARSE_STEP on average */
#define SPARSE_STEP    48u
#define LAPIC_LVT0     (APIC_BASE + 0x350)
#define LVT_MASKED     0x10000u
#define SERIAL	       0x3f8
#define CROSSINGS      200u
#define STRINGS	       4u
#define WORDS_STORED   100u
#define REGS_CONFIG    0x100u
#define VIRTIO_MAGIC   0x74726976u
#define SERIAL_SCRATCH (SERIAL + 7)
#define SERIAL_LCR     (SERIAL + 3)
#define SERIAL_LSR     (SERIAL + 5)
#define LSR_EMPTY      0x20
#define KBD_COMMAND    0x64
#define KBD_OUTPORT    0xd1 /* its data byte can reset the machine */
#define KBD_PULSE      0xf0 /* and so can these, with bit 0 clear */
#define WALK_STEPS     24u

static uint32_t any_value(void)
{
	static const uint32_t values[] = {
		0,    1,    2,	   3,	  4,	  8,	   0xf,	       0x10,	   0x40,
		0x80, 0xff, 0x100, 0x101, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff};

	return below(5) ? values[below(18)] : (uint32_t)arena_addr(1);
}

/* Plain moves of each width, as instruction emulators know them. */
static void mem_touch(uint64_t addr, unsigned size, bool write, uint64_t value)
{
	if (write && size == 1)
		__asm__ volatile("movb %b0, (%1)" : : "q"(value), "r"(addr) : "memory");
	else if (write && size == 2)
		__asm__ volatile("movw %w0, (%1)" : : "r"(value), "r"(addr) : "memory");
	else if (write && size == 4)
		__asm__ volatile("movl %k0, (%1)" : : "r"(value), "r"(addr) : "memory");
	else if (write)
		__asm__ volatile("movq %q0, (%1)" : : "r"(value), "r"(addr) : "memory");
	else if (size == 1)
		__asm__ volatile("movb (%1), %b0" : "=q"(value) : "r"(addr) : "memory");
	else if (size == 2)
		__asm__ volatile("movw (%1), %w0" : "=r"(value) : "r"(addr) : "memory");
	else if (size == 4)
		__asm__ volatile("movl (%1), %k0" : "=r"(value) : "r"(addr) : "memory");
	else
		__asm__ volatile("movq (%1), %q0" : "=r"(value) : "r"(addr) : "memory");
}

static void port_touch(uint16_t port, unsigned size, bool write, uint32_t value)
{
	if (write && size == 1)
		__asm__ volatile("outb %b0, %w1" : : "a"(value), "Nd"(port));
	else if (write && size == 2)
		__asm__ volatile("outw %w0, %w1" : : "a"(value), "Nd"(port));
	else if (write)
		__asm__ volatile("outl %k0, %w1" : : "a"(value), "Nd"(port));
	else if (size == 1)
		__asm__ volatile("inb %w1, %b0" : "=a"(value) : "Nd"(port));
	else if (size == 2)
		__asm__ volatile("inw %w1, %w0" : "=a"(value) : "Nd"(port));
	else
		__asm__ volatile("inl %w1, %k0" : "=a"(value) : "Nd"(port));
}

/* Every register of one device; on the way the device is sometimes set up and running. */
static void attack_registers(struct hdev *d)
{
	attack_begin("registers");
	for (uint32_t off = 0; off < REGS_BYTES;
	     off += off < REGS_DENSE ? 1 : below(2 * SPARSE_STEP)) {
		if (off % 64 == 0)
			dev_setup(d, h.arena, random_next(&h.random) & FEATURES_TRIED);
		mem_touch(d->dev.regs + off, 1u << below(4), false, 0);
		mem_touch(d->dev.regs + off, 1u << below(4), true,
			  any_value() | (uint64_t)any_value() << 32);
		if (!below(8))
			reg_write(d, R_QUEUE_NOTIFY, any_value());
	}
	attack_end(d);
}

/* Interrupts of the old controllers would be exceptions to this guest: nobody passes them on. */
static void pic_silence(void)
{
	mmio_write32(LAPIC_LVT0, LVT_MASKED);
}

static void pic_restore(void)
{
	for (uint16_t port = 0x20; port <= 0xa0; port += 0x80) {
		cpu_out8(port, 0x11);
		cpu_out8(port + 1, port == 0x20 ? 0xe0 : 0xe8);
		cpu_out8(port + 1, port == 0x20 ? 4 : 2);
		cpu_out8(port + 1, 1);
		cpu_out8(port + 1, 0xff);
	}
}

static bool port_resets(uint16_t port, bool write, uint32_t value)
{
	uint8_t byte = (uint8_t)value;

	return write && port == KBD_COMMAND &&
	       (byte == KBD_OUTPORT || (byte >= KBD_PULSE && !(byte & 1)));
}

static void serial_say(const char *text)
{
	for (unsigned i = 1; i < 5; i++)
		cpu_out8((uint16_t)(SERIAL + i), 0);
	cpu_out8(SERIAL_LCR, 3);
	for (; *text; text++) {
		uint64_t end = clock_ns() + PROOF_NS;

		while (!(cpu_in8(SERIAL_LSR) & LSR_EMPTY)) {
			if (clock_ns() > end)
				guest_exit(3);
		}
		cpu_out8(SERIAL, (uint8_t)*text);
	}
}

static void attack_ports(void)
{
	static const struct {
		uint16_t first, count;
	} ports[] = {{0x20, 2}, {0x40, 4}, {0x60, 5},  {0x70, 2},  {0x80, 1},  {0x92, 1},
		     {0xa0, 2}, {0xf0, 4}, {0x3f8, 8}, {0x4d0, 2}, {0xcf8, 8}, {0xfff8, 4}};
	char line[32];

	attack_begin("ports");
	pic_silence();
	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		for (unsigned n = 0; n < 16u * ports[i].count; n++) {
			uint16_t port = (uint16_t)(ports[i].first + below(ports[i].count));
			bool write = below(2);
			uint32_t value = any_value();

			if (!port_resets(port, write, value))
				port_touch(port, 1u << below(3), write, value);
		}
	}
	pic_restore();
	format_text(line, sizeof(line), "\nserial %lu ok\n", h.attack);
	serial_say(line);
	attack_end(h.console);
}

/* Two devices side by side: where the second one's registers begin, or 0. */
static uint64_t border_find(void)
{
	for (unsigned i = 0; i < h.ndev; i++) {
		for (unsigned j = 0; j < h.ndev; j++) {
			if (h.dev[i].dev.regs + REGS_BYTES == h.dev[j].dev.regs)
				return h.dev[j].dev.regs;
		}
	}
	return 0;
}

/* Bytes to a port and from it, all of which must arrive, and words to a device that ignores them.
 */
static void string_attack(uint8_t *buf)
{
	uint64_t count = 1 + below(1024), left = count;
	uint8_t *at = buf, want = (uint8_t)below(256);
	uint16_t port = SERIAL_SCRATCH;

	memset(buf, ~want, count);
	buf[count - 1] = want;
	__asm__ volatile("rep outsb" : "+S"(at), "+c"(left) : "d"(port) : "memory");
	at = buf;
	left = count;
	__asm__ volatile("rep insb" : "+D"(at), "+c"(left) : "d"(port) : "memory");
	for (uint64_t i = 0; i < count; i++) {
		if (buf[i] != want)
			failed(h.console, "a string of bytes through a port has holes");
	}
	at = (uint8_t *)h.console->dev.regs + REGS_CONFIG;
	left = WORDS_STORED;
	__asm__ volatile("rep stosl" : "+D"(at), "+c"(left) : "a"(count) : "memory");
	if (left || at != (uint8_t *)h.console->dev.regs + REGS_CONFIG + 4 * WORDS_STORED)
		failed(h.console, "a string of words to a device ended early");
}

/*
 * Accesses that a hypervisor cuts in pieces, each an exit of its own: moves across the border of
 * two devices, and string instructions. No piece may get lost, least of all when the machine is
 * stopped or saved between two of them.
 */
static void attack_pieces(void)
{
	uint64_t border = border_find();

	attack_begin("pieces");
	for (unsigned n = 0; border && n < CROSSINGS; n++) {
		uint64_t value;

		__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(border - 4) : "memory");
		if (value != (uint64_t)VIRTIO_MAGIC << 32)
			failed(h.console, "a read across two devices is not whole");
	}
	for (unsigned n = 0; n < STRINGS; n++)
		string_attack(own_buffer(h.console) + PAGE_SIZE);
	attack_end(h.console);
}

static void attack_regs(void)
{
	uint64_t turn = h.attack % (h.ndev + 2);

	if (turn == h.ndev)
		attack_ports();
	else if (turn > h.ndev)
		attack_pieces();
	else
		attack_registers(&h.dev[turn]);
}

/* One step of a walk through the states of a device and its queues. */
static void walk_step(struct hdev *d)
{
	static const uint32_t sizes[] = {0, 1, 2, 3, 16, RING_NUM, 256, 257, 0x8000, 0xffffffff};
	static const uint32_t path[] = {ST_ACK, ST_ACK | ST_DRIVER,
					ST_ACK | ST_DRIVER | ST_FEATURES_OK,
					ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK};
	static const unsigned parts[] = {R_QUEUE_DESC, R_QUEUE_AVAIL, R_QUEUE_USED};

	switch (below(12)) {
	case 0:
		reg_write(d, R_STATUS, below(3) ? below(0x100) : any_value());
		break;
	case 1:
	case 2:
		reg_write(d, R_STATUS, path[below(4)]);
		break;
	case 3:
		reg_write(d, R_STATUS, reg_read(d, R_STATUS) | 1u << below(9));
		break;
	case 4:
		reg_write(d, R_DRV_FEAT_SEL, below(3) ? 1 : any_value());
		reg_write(d, R_DRV_FEATURES, below(3) ? 1 : any_value());
		break;
	case 5:
		reg_write(d, R_QUEUE_SEL, below(3) ? below(3) : any_value());
		break;
	case 6:
		reg_write(d, R_QUEUE_NUM, sizes[below(10)]);
		break;
	case 7:
		reg_write64(d, parts[below(3)], any_addr(below(4) ? 16 : 1));
		break;
	case 8:
		reg_write(d, R_QUEUE_READY, below(8) ? 1 : any_value());
		break;
	case 9:
		reg_write(d, R_QUEUE_READY, 0);
		break;
	case 10:
		reg_write(d, R_QUEUE_NOTIFY, below(3) ? below(3) : any_value());
		break;
	default:
		queue_ready(d, below(d->nq));
		break;
	}
}

static void attack_status(void)
{
	struct hdev *d;

	attack_begin("status");
	d = &h.dev[below(h.ndev)];
	if (d->first) /* walks meet all its queues */
		d = h.console;
	ring_place(&d->q[0], h.arena);
	ring_place(&d->q[1], h.arena + PAGE_SIZE);
	d->mine = false;
	if (below(4))
		dev_setup(d, h.arena, random_next(&h.random) & FEATURES_TRIED);
	for (unsigned i = 0; i < WALK_STEPS; i++) {
		if (!below(16))
			dev_reset(d);
		walk_step(d);
	}
	attack_end(d);
}

#endif
