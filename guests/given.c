/*
 * Says what it is given, so that two of them can be compared: [tick=MS] (100, 0: never).
 *
 * Every tick `random N HEX`, 16 bytes of virtio-rng; for each line typed at the serial port
 * `line N: TEXT`; `balloon PAGES` when the host asks for other than before, of which none are
 * given; `button N` when the power button is pressed. The line `off` switches the machine off.
 */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define PORT_DATA  0x3f8
#define PORT_LSR   0x3fd
#define DATA_READY 0x01
#define OVERRUN	   0x02
#define LINE_CAP   200
#define GED_GSI	   9
#define PORT_GED   0x600
#define BUTTON	   0x01
#define PORT_SLEEP 0x601
#define SLEEP_S5   (0x20 | 5 << 2)

static struct virtio_dev balloon;
static struct virtq inflate, deflate;
static unsigned presses;
static uint32_t target;

static void open_balloon(void)
{
	if (!virtio_find(&balloon, VIRTIO_ID_BALLOON, 0) || virtio_setup(&balloon, 0) ||
	    virtq_init(&inflate, &balloon, 0, 4) || virtq_init(&deflate, &balloon, 1, 4))
		guest_die(2, "given: no balloon");
	virtio_start(&balloon);
}

/* What the operator asks for. */
static void look(void)
{
	uint32_t pages = virtio_config32(&balloon, 0);

	if (pages != target)
		print("balloon %u\n", pages);
	target = pages;
	if (cpu_in8(PORT_GED) & BUTTON)
		print("button %u\n", ++presses);
}

static void switch_off(void)
{
	print("off after button %u, balloon %u\n", presses, target);
	guest_sleep_until(clock_ns() + 50000000); /* the console has it by then */
	cpu_out8(PORT_SLEEP, SLEEP_S5);
}

static void say_random(void)
{
	static unsigned count;
	uint64_t r[2];

	if (rng_read(r, sizeof(r)))
		guest_die(2, "given: no random numbers");
	print("random %u %016lx%016lx\n", ++count, r[0], r[1]);
}

static void take(char c)
{
	static char line[LINE_CAP];
	static unsigned len, count;

	if (c != '\n' && len < LINE_CAP - 1) {
		line[len++] = c;
		return;
	}
	line[len] = 0;
	len = 0;
	print("line %u: %s\n", ++count, line);
	if (!strcmp(line, "off"))
		switch_off();
}

static bool typed(void)
{
	uint8_t status = cpu_in8(PORT_LSR);

	if (status & OVERRUN)
		guest_die(3, "FAILED: a byte was lost");
	if (!(status & DATA_READY))
		return false;
	take((char)cpu_in8(PORT_DATA));
	return true;
}

int main(void)
{
	uint64_t tick = cmdline_u64("tick", 100) * 1000000, next = clock_ns();

	open_balloon();
	ioapic_route(GED_GSI);
	print("READY\n");
	for (;;) {
		look();
		if (!typed())
			guest_sleep_until(clock_ns() + 1000000);
		if (!tick || clock_ns() < next)
			continue;
		next += tick;
		say_random();
	}
}
