/*
 * The devices at fixed ports, driven by a guest that writes and reads anything of any size, while
 * bytes are typed, output is held, and time goes on by a clock of this target's own. Whatever the
 * guest does: a read gives no more than it has room for, and the state is one that another side
 * takes, twice the same.
 *
 * Input: commands, a byte each with what it needs behind it (see step()).
 */
#include <time.h>

#include "tests/fuzz/fuzz.h"

#include "devices/debugexit.h"
#include "devices/ged.h"
#include "devices/i8042.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/watchdog.h"
#include "vmm/base/log.h"

enum { SERIAL, RTC, I8042, GED, WATCHDOG, PVPANIC, DEBUGEXIT, NDEV };

uint64_t __wrap_loop_now_ns(void);
time_t __wrap_time(time_t *ret);

struct world {
	struct mem mem;
	struct loop loop;
	struct bus bus;
	struct obuf obuf;
	struct dev_env env;
	struct device *dev[NDEV];
	uint64_t epoch, printed;
	unsigned calls; /* what devices asked of the machine */
};

static struct world w;
static uint64_t now_ns;

uint64_t __wrap_loop_now_ns(void)
{
	return now_ns;
}

time_t __wrap_time(time_t *ret)
{
	time_t now = (time_t)(now_ns / 1000000000u);

	if (ret)
		*ret = now;
	return now;
}

static bool printed(void *arg, const void *data, uint32_t len)
{
	w.printed += len;
	return true;
}

static void asked(void *arg)
{
	w.calls++;
}

static void off(void *arg, bool reset)
{
	w.calls++;
}

static void expired(void *arg, unsigned seconds)
{
	require(seconds <= WATCHDOG_COUNT_MAX / 10);
	w.calls++;
}

static void panicked(void *arg, uint8_t event)
{
	require(event && event <= (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED));
	w.calls++;
}

static void ended(void *arg, int code)
{
	require(code >= 0 && code <= 255);
	w.calls++;
}

static void start(void)
{
	static bool ready;

	if (!ready) {
		log_init(LOG_ERROR, "fuzz");
		require(!mem_init(&w.mem, MEM_SHARED_FILE, 2 << 20, NULL) &&
			!loop_init(&w.loop, NULL));
	}
	ready = true;
	now_ns = 1700000000000000000ull;
	memset(&w.bus, 0, sizeof(w.bus));
	w.epoch = w.printed = w.calls = 0;
	obuf_init(&w.obuf, 256);
	w.env = (struct dev_env){&w.mem, &w.loop, &w.bus, &w.obuf, NULL, NULL};
	require(!serial_new(&w.env, printed, NULL, &w.dev[SERIAL], NULL) &&
		!rtc_new(&w.env, &w.dev[RTC], NULL) &&
		!i8042_new(&w.env, asked, NULL, &w.dev[I8042], NULL) &&
		!ged_new(&w.env, off, NULL, &w.dev[GED], NULL) &&
		!watchdog_new(&w.env, expired, NULL, &w.dev[WATCHDOG], NULL) &&
		!pvpanic_new(&w.env, panicked, NULL, &w.dev[PVPANIC], NULL) &&
		!debugexit_new(&w.env, ended, NULL, &w.dev[DEBUGEXIT], NULL));
}

static void finish(void)
{
	for (unsigned i = 0; i < NDEV; i++)
		w.dev[i]->ops->free(w.dev[i]);
	fuzz_turn(&w.loop);
	obuf_done(&w.obuf);
}

/* Encode what it is, change that if asked, and offer it to a side that may refuse only changes. */
static void move(struct device *d, uint16_t place, uint8_t change)
{
	const struct state_desc *desc = d->ops->state;
	struct state_item it = {.desc = desc, .pod = d->pod};
	void *scratch = calloc(1, desc->size);
	size_t cap = state_bound(desc);
	uint8_t *wire = malloc(cap), *again = malloc(cap);
	int64_t n;
	int r;

	require(scratch && wire && again);
	if (d->ops->quiet)
		d->ops->quiet(d, true);
	d->ops->save(d);
	n = state_encode_all(&it, 1, wire, cap);
	require(n > 0);
	wire[place % n] ^= change;
	it.pod = scratch;
	r = state_decode_all(&it, 1, wire, (size_t)n, NULL);
	require(!r || change);
	if (!r) {
		d->ops->load(d, scratch);
		d->ops->save(d);
		it.pod = d->pod;
		require(state_encode_all(&it, 1, again, cap) >= 0);
		require(change || !memcmp(wire, again, (size_t)n));
		d->ops->resume(d);
	}
	if (d->ops->quiet)
		d->ops->quiet(d, false);
	free(scratch);
	free(wire);
	free(again);
}

static uint64_t port(struct input *in, unsigned which)
{
	static const uint16_t base[] = {SERIAL_BASE, RTC_BASE,	    I8042_DATA,	  I8042_CMD,
					GED_BASE,    WATCHDOG_BASE, PVPANIC_PORT, DEBUGEXIT_PORT};
	static const uint8_t mask[] = {7, 1, 0, 0, 3, 15, 0, 0};

	return base[which] + (mask[which] ? take(in, 1) & mask[which] : 0);
}

static void output(unsigned how)
{
	if (how == 0)
		obuf_hold(&w.obuf, ++w.epoch);
	else if (how == 1 && w.obuf.holding)
		obuf_seal(&w.obuf, ++w.epoch);
	else if (how == 2 && w.obuf.holding && w.epoch > 1)
		obuf_release(&w.obuf, w.epoch - 1);
	else if (how == 3)
		obuf_pass(&w.obuf);
}

static void host_side(struct input *in, unsigned c)
{
	struct device *d = w.dev[(c >> 4) % NDEV];
	size_t n = 1 + (c >> 4) * 8;

	switch (c & 7) {
	case 3:
		(void)serial_input(w.dev[SERIAL], take_bytes(in, &n), (unsigned)n);
		break;
	case 4:
		output(c >> 4 & 3);
		break;
	case 5:
		ged_raise(w.dev[GED], c >> 4 & (GED_POWER_BUTTON | GED_GENERATION));
		break;
	case 6:
		move(d, (uint16_t)take(in, 2), (uint8_t)take(in, 1));
		break;
	default:
		now_ns += take(in, 1) * 97000000u;
		fuzz_turn(&w.loop);
		fuzz_turn(&w.loop);
	}
}

/* As by REP OUTS: the same value, more often than the serial port has room for. */
static void write_often(uint64_t at, unsigned size, uint64_t v, unsigned n)
{
	while (n--)
		bus_write(&w.bus, BUS_PIO, at, size, v);
}

/* Bits 0-2 the command, bit 3 and one byte more the size, bits 4-6 where. */
static void step(struct input *in)
{
	unsigned c = (unsigned)take(in, 1), size = 1u << (c & 8 ? take(in, 1) & 3 : 0);
	uint64_t at, v;

	switch (c & 7) {
	case 0:
		at = port(in, c >> 4 & 7);
		bus_write(&w.bus, BUS_PIO, at, size, take(in, size));
		break;
	case 1:
		at = port(in, c >> 4 & 7);
		v = take(in, size);
		write_often(at, size, v, 1 + 6 * (unsigned)take(in, 1));
		break;
	case 2:
		at = port(in, c >> 4 & 7);
		v = bus_read(&w.bus, BUS_PIO, at, size);
		require(size == 8 || v >> (8 * size) == 0);
		break;
	default:
		host_side(in, c);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size > 2048 ? 2048 : size};

	start();
	while (in.left)
		step(&in);
	for (unsigned i = 0; i < NDEV; i++)
		move(w.dev[i], 0, 0);
	finish();
	return 0;
}
