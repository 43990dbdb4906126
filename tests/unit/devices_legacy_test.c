/* Serial port, clock, keyboard controller, exit port: registers, interrupts, output, state. */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <time.h>

#include "devices/debugexit.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/serial.h"

struct fix {
	struct rig rig;
	struct rig_out out;
	struct device *serial, *rtc, *kbd, *dbg;
	unsigned resets;
	int code;
};

static void on_reset(void *arg)
{
	((struct fix *)arg)->resets++;
}

static void on_exit_code(void *arg, int code)
{
	((struct fix *)arg)->code = code;
}

static void make(struct fix *f)
{
	memset(&f->rig.bus, 0, sizeof(f->rig.bus));
	assert_int_equal(serial_new(&f->rig.env, rig_deliver, &f->out, &f->serial, NULL), 0);
	assert_int_equal(rtc_new(&f->rig.env, &f->rtc, NULL), 0);
	assert_int_equal(i8042_new(&f->rig.env, on_reset, f, &f->kbd, NULL), 0);
	assert_int_equal(debugexit_new(&f->rig.env, on_exit_code, f, &f->dbg, NULL), 0);
}

static void drop(struct fix *f)
{
	f->serial->ops->free(f->serial);
	f->rtc->ops->free(f->rtc);
	f->kbd->ops->free(f->kbd);
	f->dbg->ops->free(f->dbg);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 3000);
	f->code = -1;
	make(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	drop(f);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void out8(struct fix *f, uint16_t port, uint8_t v)
{
	bus_write(&f->rig.bus, BUS_PIO, port, 1, v);
}

static uint8_t in8(struct fix *f, uint16_t port)
{
	return (uint8_t)bus_read(&f->rig.bus, BUS_PIO, port, 1);
}

#define COM (SERIAL_BASE)

static bool irq(struct fix *f)
{
	return rig_took_signal(f->serial->irq_fd);
}

static void every_port_access_is_defined(void **state)
{
	struct fix *f = *state;
	static const uint64_t patterns[] = {0, 1, 0xff, 0x55, 0xaa, UINT64_MAX};
	static const uint16_t ports[] = {0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe,
					 0x3ff, 0x70,  0x71,  0x60,  0x64,  0xf4};
	static const unsigned sizes[] = {1, 2, 4, 8};

	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		for (unsigned s = 0; s < 4; s++) {
			for (unsigned p = 0; p < 6; p++) {
				bus_write(&f->rig.bus, BUS_PIO, ports[i], sizes[s], patterns[p]);
				uint64_t v = bus_read(&f->rig.bus, BUS_PIO, ports[i], sizes[s]);

				if (sizes[s] > 1 && ports[i] + sizes[s] <= 0x400 &&
				    ports[i] >= 0x3f8)
					assert_int_equal(v, 0);
			}
		}
	}
	/* Odd sizes write nothing. */
	out8(f, COM + UART_LCR, 3);
	out8(f, COM + UART_SCR, 0x42);
	bus_write(&f->rig.bus, BUS_PIO, COM + 6, 2, 0);
	assert_int_equal(in8(f, COM + UART_SCR), 0x42);
}

static void serial_prints_in_order(void **state)
{
	struct fix *f = *state;

	for (const char *s = "hello"; *s; s++) {
		assert_true(in8(f, COM + UART_LSR) & UART_LSR_THRE);
		out8(f, COM, (uint8_t)*s);
	}
	rig_until(&f->rig, f->out.bytes == 5);
	assert_memory_equal(f->out.data, "hello", 5);
}

/* A held buffer: the ring fills, the port says busy, nothing is lost or reordered. */
static void serial_waits_for_room(void **state)
{
	struct fix *f = *state;
	unsigned n = 0, epoch = 1;

	obuf_hold(&f->rig.obuf, epoch);
	for (unsigned tries = 0; tries < 200; tries++) {
		while ((in8(f, COM + UART_LSR) & UART_LSR_THRE) && n < 60000)
			out8(f, COM, (uint8_t)(n++ % 251));
		rig_settle(&f->rig);
		if (!(in8(f, COM + UART_LSR) & UART_LSR_THRE))
			break;
	}
	assert_false(in8(f, COM + UART_LSR) & (UART_LSR_THRE | UART_LSR_TEMT));
	assert_in_range(n, 1024, 5000);
	assert_int_equal(f->out.bytes, 0);
	/* An interrupt tells when it goes on. */
	out8(f, COM + UART_IER, UART_IER_THRI);
	assert_false(irq(f));
	obuf_seal(&f->rig.obuf, ++epoch);
	obuf_release(&f->rig.obuf, 1);
	rig_until(&f->rig, in8(f, COM + UART_LSR) & UART_LSR_THRE);
	assert_true(irq(f));
	assert_int_equal(in8(f, COM + UART_IIR) & 0xf, UART_IIR_THRI);
	assert_int_equal(in8(f, COM + UART_IIR) & 0xf, UART_IIR_NO_INT);
	obuf_pass(&f->rig.obuf);
	rig_until(&f->rig, f->out.bytes == n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(f->out.data[i], i % 251);
}

static void serial_interrupts(void **state)
{
	struct fix *f = *state;

	assert_int_equal(in8(f, COM + UART_IIR), UART_IIR_NO_INT);
	out8(f, COM + UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in8(f, COM + UART_IIR), 0xc0 | UART_IIR_NO_INT);
	assert_false(irq(f));
	out8(f, COM + UART_IER, UART_IER_THRI); /* empty already: an event */
	assert_true(irq(f));
	assert_int_equal(in8(f, COM + UART_IIR), 0xc0 | UART_IIR_THRI);
	assert_int_equal(in8(f, COM + UART_IIR), 0xc0 | UART_IIR_NO_INT);
	out8(f, COM, 'x');
	assert_true(irq(f));
	/* Received data comes before it. */
	out8(f, COM + UART_IER, UART_IER_THRI | UART_IER_RDI);
	assert_int_equal(serial_input(f->serial, "ab", 2), 2);
	assert_true(irq(f));
	assert_int_equal(in8(f, COM + UART_IIR) & 0xf, UART_IIR_RDI);
	assert_true(in8(f, COM + UART_LSR) & UART_LSR_DR);
	assert_int_equal(in8(f, COM), 'a');
	assert_int_equal(in8(f, COM + UART_IIR) & 0xf, UART_IIR_RDI);
	assert_int_equal(in8(f, COM), 'b');
	assert_false(in8(f, COM + UART_LSR) & UART_LSR_DR);
	assert_int_equal(in8(f, COM + UART_IIR) & 0xf, UART_IIR_THRI);
	assert_int_equal(in8(f, COM), 0);
}

static void serial_input_is_bounded_and_complete(void **state)
{
	struct fix *f = *state;
	uint8_t in[6000];
	unsigned n, read = 0;

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i % 253);
	n = serial_input(f->serial, in, sizeof(in));
	assert_int_equal(n, SERIAL_TYPED_MAX);
	while (in8(f, COM + UART_LSR) & UART_LSR_DR)
		assert_int_equal(in8(f, COM), read++ % 253);
	assert_int_equal(read, n);
	assert_int_equal(serial_input(f->serial, in, 10), 10);
}

static void serial_loopback(void **state)
{
	struct fix *f = *state;

	out8(f, COM + UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT2);
	assert_int_equal(in8(f, COM + UART_MSR), UART_MSR_CTS | UART_MSR_DCD);
	out8(f, COM + UART_MCR, UART_MCR_LOOP | UART_MCR_DTR | UART_MCR_OUT1);
	assert_int_equal(in8(f, COM + UART_MSR), UART_MSR_DSR | UART_MSR_RI);
	for (unsigned i = 0; i < 17; i++)
		out8(f, COM, (uint8_t)i);
	assert_true(in8(f, COM + UART_LSR) & UART_LSR_OE); /* 16 fit */
	assert_false(in8(f, COM + UART_LSR) & UART_LSR_OE);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in8(f, COM), i);
	assert_false(in8(f, COM + UART_LSR) & UART_LSR_DR);
	rig_settle(&f->rig);
	assert_int_equal(f->out.bytes, 0);
	out8(f, COM + UART_MCR, 0);
	assert_int_equal(in8(f, COM + UART_MSR), UART_MSR_CTS | UART_MSR_DCD | UART_MSR_DSR);
}

static void serial_divisor_and_scratch(void **state)
{
	struct fix *f = *state;

	out8(f, COM + UART_LCR, UART_LCR_DLAB | 3);
	out8(f, COM, 0x0c);
	out8(f, COM + 1, 0x01);
	assert_int_equal(in8(f, COM), 0x0c);
	assert_int_equal(in8(f, COM + 1), 0x01);
	out8(f, COM + UART_LCR, 3);
	assert_int_equal(in8(f, COM + UART_LCR), 3);
	assert_int_equal(in8(f, COM + UART_IER), 0);
	for (unsigned v = 0; v < 256; v++) {
		out8(f, COM + UART_SCR, (uint8_t)v);
		assert_int_equal(in8(f, COM + UART_SCR), v);
	}
	rig_settle(&f->rig);
	assert_int_equal(f->out.bytes, 0);
}

/* Save all devices, make new ones in their place, load those through the stream's encoding. */
static void carry_over(struct fix *f)
{
	struct device *old[4] = {f->serial, f->rtc, f->kbd, f->dbg};

	make(f);
	struct device *new[4] = {f->serial, f->rtc, f->kbd, f->dbg};

	for (unsigned i = 0; i < 4; i++) {
		const struct state_desc *desc = old[i]->ops->state;
		struct state_item item = {.desc = desc, .pod = old[i]->pod};
		size_t cap = state_bound(desc);
		void *wire = malloc(cap), *scratch = calloc(1, desc->size);
		struct err e = {0};
		int64_t n;

		assert_int_equal(state_desc_check(desc, &e), 0);
		old[i]->ops->save(old[i]);
		n = state_encode_all(&item, 1, wire, cap);
		assert_true(n > 0);
		item.pod = scratch;
		if (state_decode_all(&item, 1, wire, (size_t)n, &e))
			fail_msg("%s", e.msg);
		old[i]->ops->free(old[i]);
		new[i]->ops->load(new[i], scratch);
		new[i]->ops->save(new[i]);
		assert_memory_equal(new[i]->pod, scratch, desc->size);
		new[i]->ops->resume(new[i]);
		free(wire);
		free(scratch);
	}
}

/* What the guest had printed and the loop had not put out yet, is put out by the next machine. */
static void serial_state_survives(void **state)
{
	struct fix *f = *state;

	out8(f, COM + UART_IER, UART_IER_RDI);
	out8(f, COM + UART_SCR, 0x5a);
	serial_input(f->serial, "in", 2);
	for (const char *s = "pending"; *s; s++)
		out8(f, COM, (uint8_t)*s);
	f->serial->ops->quiet(f->serial, true);
	rig_settle(&f->rig);
	assert_int_equal(f->out.bytes, 0);
	carry_over(f);
	assert_true(irq(f)); /* received data is still waiting */
	rig_until(&f->rig, f->out.bytes == 7);
	assert_memory_equal(f->out.data, "pending", 7);
	assert_int_equal(in8(f, COM + UART_SCR), 0x5a);
	assert_int_equal(in8(f, COM), 'i');
	assert_int_equal(in8(f, COM), 'n');
}

static unsigned read_typed(struct fix *f, char *to)
{
	unsigned n = 0;

	while (in8(f, COM + UART_LSR) & UART_LSR_DR)
		to[n++] = (char)in8(f, COM);
	return n;
}

/* More than the FIFO holds: whoever takes over has all of it. While it stands nothing is typed. */
static void serial_input_is_state(void **state)
{
	static const char text[] = "what was typed, and what nobody has read yet";
	struct fix *f = *state;
	char got[100];

	assert_int_equal(serial_input(f->serial, text, sizeof(text)), sizeof(text));
	f->serial->ops->quiet(f->serial, true);
	assert_int_equal(serial_input(f->serial, "no", 2), 0);
	carry_over(f);
	assert_int_equal(read_typed(f, got), sizeof(text));
	assert_memory_equal(got, text, sizeof(text));
	assert_int_equal(serial_input(f->serial, "yes", 3), 3);
}

/* --- both sides run the guest ----------------------------------------------------------------- */

static struct {
	bool ready;
	unsigned given, rooms;
	char text[SERIAL_TYPED_MAX];
} both;

static bool both_ready(void *arg)
{
	return both.ready;
}

static void both_given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	assert_ptr_equal(d, arg);
	memcpy(both.text + both.given, data, len);
	both.given += len;
}

static void both_room(void *arg)
{
	both.rooms++;
}

static void begin_both(struct fix *f)
{
	memset(&both, 0, sizeof(both));
	both.ready = true;
	f->rig.inputs = (struct inputs){both_ready, both_given, both_room, f->serial};
}

/* What it took, and no more. */
static void a_primary_tells_what_is_typed(void **state)
{
	static const char much[SERIAL_TYPED_MAX + 1] = {[0 ... SERIAL_TYPED_MAX] = 'm'};
	struct fix *f = *state;

	begin_both(f);
	assert_int_equal(serial_input(f->serial, "ab", 2), 2);
	assert_int_equal(both.given, 2);
	assert_memory_equal(both.text, "ab", 2);
	both.ready = false;
	assert_int_equal(serial_input(f->serial, "c", 1), 0);
	assert_int_equal(both.given, 2);
	both.ready = true;
	both.given = 0;
	assert_int_equal(serial_input(f->serial, much, sizeof(much)), SERIAL_TYPED_MAX);
	assert_int_equal(both.given, SERIAL_TYPED_MAX);
	assert_int_equal(serial_input(f->serial, "", 0), 0);
	assert_int_equal(both.given, SERIAL_TYPED_MAX);
}

/* A twin that does not read yet has room for as much as its primary's guest was given. */
static void a_twin_reads_what_was_typed(void **state)
{
	static char much[SERIAL_TYPED_MAX], got[3 * SERIAL_TYPED_MAX];
	struct fix *f = *state;
	unsigned n;

	begin_both(f);
	memset(much, 'm', sizeof(much));
	assert_true(serial_put(f->serial, "twin", 4));
	assert_int_equal(read_typed(f, got), 4);
	assert_memory_equal(got, "twin", 4);
	assert_true(serial_put(f->serial, much, sizeof(much)));
	assert_false(serial_put(f->serial, much, sizeof(much)));
	rig_settle(&f->rig);
	assert_int_equal(both.rooms, 0);
	assert_int_equal(serial_input(f->serial, "n", 1), 0); /* it has taken over meanwhile */
	n = read_typed(f, got);
	assert_int_equal(n, 2 * sizeof(much));
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(got[i], 'm');
	rig_until(&f->rig, both.rooms == 1);
	rig_settle(&f->rig);
	assert_int_equal(both.rooms, 1);
	assert_int_equal(both.given, 0);
}

/* Nobody sends more than there is room for; whoever does has it dropped. */
static void a_twin_is_given_too_much(void **state)
{
	static char much[SERIAL_TYPED_MAX], got[4 * SERIAL_TYPED_MAX];
	struct fix *f = *state;

	begin_both(f);
	for (unsigned i = 0; i < 4; i++)
		serial_put(f->serial, much, sizeof(much));
	assert_in_range(read_typed(f, got), 2 * sizeof(much), 2 * sizeof(much) + 16);
}

static uint8_t cmos(struct fix *f, uint8_t reg)
{
	out8(f, 0x70, reg);
	return in8(f, 0x71);
}

static int bcd(uint8_t v)
{
	return (v >> 4) * 10 + (v & 15);
}

/* Seconds since the epoch, as the guest would work them out; retried over a tick. */
static time_t rtc_time(struct fix *f, bool binary)
{
	uint8_t r[8], again;
	struct tm tm = {0};

	do {
		again = cmos(f, 0);
		r[0] = again;
		r[1] = cmos(f, 2);
		r[2] = cmos(f, 4);
		r[3] = cmos(f, 7);
		r[4] = cmos(f, 8);
		r[5] = cmos(f, 9);
		r[6] = cmos(f, 0x32);
	} while (cmos(f, 0) != again);
	for (unsigned i = 0; i < 7 && !binary; i++)
		r[i] = (uint8_t)bcd(r[i]);
	tm.tm_sec = r[0], tm.tm_min = r[1], tm.tm_hour = r[2], tm.tm_mday = r[3];
	tm.tm_mon = r[4] - 1, tm.tm_year = r[6] * 100 + r[5] - 1900;
	return timegm(&tm);
}

static void rtc_shows_the_time(void **state)
{
	struct fix *f = *state;
	time_t before = time(NULL), shown = rtc_time(f, false);

	assert_in_range(shown, before, time(NULL));
	assert_int_equal(cmos(f, 11) & 2, 2);
	assert_int_equal(cmos(f, 13), 0x80);
	assert_int_equal(cmos(f, 10) & 0x80, 0);
	out8(f, 0x70, 11);
	out8(f, 0x71, 0xff); /* binary, 24 hours; the rest is not there */
	assert_int_equal(cmos(f, 11), 6);
	before = time(NULL);
	shown = rtc_time(f, true);
	assert_in_range(shown, before, time(NULL));
	/* 12 hours */
	out8(f, 0x70, 11);
	out8(f, 0x71, 4);
	assert_in_range(cmos(f, 4) & 0x7f, 1, 12);
	assert_int_equal(cmos(f, 0x80 | 13), 0x80); /* NMI bit */
	assert_int_equal(in8(f, 0x70), 0xff);
	out8(f, 0x70, 0x8b);
	carry_over(f);
	assert_int_equal(in8(f, 0x71), 4);
}

static uint8_t kbd_answer(struct fix *f, uint8_t cmd)
{
	out8(f, 0x64, cmd);
	assert_true(in8(f, 0x64) & 1);
	uint8_t v = in8(f, 0x60);

	assert_false(in8(f, 0x64) & 1);
	return v;
}

static void i8042_answers(void **state)
{
	struct fix *f = *state;

	assert_int_equal(kbd_answer(f, 0xaa), 0x55);
	assert_true(in8(f, 0x64) & 4);
	out8(f, 0x64, 0x60);
	out8(f, 0x60, 0x47);
	assert_int_equal(kbd_answer(f, 0x20), 0x47);
	out8(f, 0x64, 0xad);
	out8(f, 0x64, 0xa7);
	assert_int_equal(kbd_answer(f, 0x20), 0x77);
	out8(f, 0x64, 0xae);
	out8(f, 0x64, 0xa8);
	assert_int_equal(kbd_answer(f, 0x20), 0x47);
	assert_int_equal(kbd_answer(f, 0xa9), 1); /* no second port */
	out8(f, 0x64, 0xd3);
	out8(f, 0x60, 0x5a);
	assert_int_not_equal(in8(f, 0x60), 0x5a);
	out8(f, 0x60, 0xed); /* to a keyboard that is not there */
	assert_false(in8(f, 0x64) & 1);
	for (unsigned v = 0; v < 256; v++) {
		out8(f, 0x60, (uint8_t)v);
		assert_int_not_equal(in8(f, 0x64), 0xff);
	}
	assert_int_equal(f->resets, 0);
	out8(f, 0x64, 0xd2);
	out8(f, 0x60, 0x11);
	out8(f, 0x64, 0x60);
	carry_over(f);
	assert_int_equal(in8(f, 0x60), 0x11);
	out8(f, 0x60, 0x65); /* the data of the command before */
	assert_int_equal(kbd_answer(f, 0x20), 0x65);
}

static void i8042_resets(void **state)
{
	struct fix *f = *state;
	unsigned n = 0;

	for (unsigned cmd = 0; cmd < 256; cmd++) {
		out8(f, 0x64, (uint8_t)cmd);
		n += cmd >= 0xf0 && !(cmd & 1);
		assert_int_equal(f->resets, n);
	}
	out8(f, 0x64, 0xd1);
	out8(f, 0x60, 0x03);
	assert_int_equal(f->resets, n);
	out8(f, 0x64, 0xd1);
	out8(f, 0x60, 0x02);
	assert_int_equal(f->resets, n + 1);
}

static void debugexit_tells_the_code(void **state)
{
	struct fix *f = *state;

	bus_write(&f->rig.bus, BUS_PIO, DEBUGEXIT_PORT, 4, 7); /* reaches beyond: nobody's */
	assert_int_equal(f->code, -1);
	out8(f, DEBUGEXIT_PORT, 0x42);
	assert_int_equal(f->code, 0x42);
	carry_over(f);
	assert_int_equal(in8(f, DEBUGEXIT_PORT), 0x42);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_port_access_is_defined),
		T(serial_prints_in_order),
		T(serial_waits_for_room),
		T(serial_interrupts),
		T(serial_input_is_bounded_and_complete),
		T(serial_loopback),
		T(serial_divisor_and_scratch),
		T(serial_state_survives),
		T(serial_input_is_state),
		T(a_primary_tells_what_is_typed),
		T(a_twin_reads_what_was_typed),
		T(a_twin_is_given_too_much),
		T(rtc_shows_the_time),
		T(i8042_answers),
		T(i8042_resets),
		T(debugexit_tells_the_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
