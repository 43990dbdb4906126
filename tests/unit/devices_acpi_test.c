/* What the ACPI tables point at: event device, pvpanic, watchdog. */
#include "tests/unit/libvirtio.h"

#include "devices/ged.h"
#include "devices/pvpanic.h"
#include "devices/watchdog.h"

struct fix {
	struct rig rig;
	struct device *ged, *panic, *dog;
	unsigned offs, resets, expired;
	unsigned seconds;
	uint8_t panics, given;
};

static void on_given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	struct fix *f = arg;

	assert_ptr_equal(d, f->ged);
	assert_int_equal(len, 1);
	f->given |= *(const uint8_t *)data;
}

static void on_off(void *arg, bool reset)
{
	struct fix *f = arg;

	if (reset)
		f->resets++;
	else
		f->offs++;
}

static void on_panic(void *arg, uint8_t event)
{
	((struct fix *)arg)->panics |= event;
}

static void on_expired(void *arg, unsigned seconds)
{
	struct fix *f = arg;

	f->expired++;
	f->seconds = seconds;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 3000);
	assert_int_equal(ged_new(&f->rig.env, on_off, f, &f->ged, NULL), 0);
	assert_int_equal(pvpanic_new(&f->rig.env, on_panic, f, &f->panic, NULL), 0);
	assert_int_equal(watchdog_new(&f->rig.env, on_expired, f, &f->dog, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	f->ged->ops->free(f->ged);
	f->panic->ops->free(f->panic);
	f->dog->ops->free(f->dog);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void out(struct fix *f, uint16_t port, unsigned size, uint32_t v)
{
	bus_write(&f->rig.bus, BUS_PIO, port, size, v);
}

static uint32_t in(struct fix *f, uint16_t port, unsigned size)
{
	return (uint32_t)bus_read(&f->rig.bus, BUS_PIO, port, size);
}

static uint64_t interrupts(struct device *d)
{
	uint64_t n = 0;

	return read(d->irq_fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

/* Save one device into another's pod, as a takeover does. */
static void move(struct device *d)
{
	uint8_t pod[64];

	d->ops->save(d);
	assert_true(d->ops->state->size <= sizeof(pod));
	memcpy(pod, d->pod, d->ops->state->size);
	d->ops->load(d, pod);
}

static void events_are_taken_by_reading(void **state)
{
	struct fix *f = *state;

	f->rig.inputs = (struct inputs){.given = on_given, .arg = f};
	ged_press(f->ged);
	ged_raise(f->ged, GED_GENERATION);
	assert_int_equal(f->given, GED_POWER_BUTTON);
	assert_int_equal(interrupts(f->ged), 2);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), GED_POWER_BUTTON | GED_GENERATION);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), 0);
	/* One that was not taken is raised again where the VM goes on. */
	ged_raise(f->ged, GED_POWER_BUTTON);
	assert_int_equal(interrupts(f->ged), 1);
	move(f->ged);
	f->ged->ops->resume(f->ged);
	assert_int_equal(interrupts(f->ged), 1);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), GED_POWER_BUTTON);
	move(f->ged);
	f->ged->ops->resume(f->ged);
	assert_int_equal(interrupts(f->ged), 0);
}

/* A seal that takes its time must not have it in its state, and the twin once more. */
static void a_press_waits_while_quiet(void **state)
{
	struct fix *f = *state;

	f->rig.inputs = (struct inputs){.given = on_given, .arg = f};
	f->ged->ops->quiet(f->ged, true);
	ged_press(f->ged);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), 0);
	assert_int_equal(f->given, 0);
	f->ged->ops->quiet(f->ged, false);
	assert_int_equal(f->given, GED_POWER_BUTTON);
	assert_int_equal(interrupts(f->ged), 1);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), GED_POWER_BUTTON);
	f->ged->ops->quiet(f->ged, true);
	f->ged->ops->quiet(f->ged, false);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), 0);
	/* Nor is it of another state. */
	f->ged->ops->quiet(f->ged, true);
	ged_press(f->ged);
	f->ged->ops->save(f->ged);
	f->ged->ops->load(f->ged, f->ged->pod);
	f->ged->ops->quiet(f->ged, false);
	assert_int_equal(in(f, GED_BASE + GED_EVENTS, 1), 0);
}

static void off_and_reset(void **state)
{
	struct fix *f = *state;

	out(f, GED_BASE + GED_SLEEP_CONTROL, 1, GED_SLEEP_OFF << 2); /* not enabled */
	out(f, GED_BASE + GED_SLEEP_CONTROL, 1, 0x20 | 3 << 2);	     /* another state */
	out(f, GED_BASE + GED_SLEEP_CONTROL, 2, 0x20 | GED_SLEEP_OFF << 2);
	out(f, GED_BASE + GED_RESET, 1, 0);
	assert_int_equal(f->offs + f->resets, 0);
	out(f, GED_BASE + GED_SLEEP_CONTROL, 1, 0x20 | GED_SLEEP_OFF << 2);
	assert_int_equal(f->offs, 1);
	out(f, GED_BASE + GED_RESET, 1, GED_RESET_VALUE);
	assert_int_equal(f->resets, 1);
}

static void panic_is_passed_on(void **state)
{
	struct fix *f = *state;

	assert_int_equal(in(f, PVPANIC_PORT, 1), PVPANIC_PANICKED | PVPANIC_CRASH_LOADED);
	out(f, PVPANIC_PORT, 1, 0xf0);
	assert_int_equal(f->panics, 0);
	out(f, PVPANIC_PORT, 1, 0xff);
	assert_int_equal(f->panics, PVPANIC_PANICKED | PVPANIC_CRASH_LOADED);
	move(f->panic);
}

#define DOG(reg) (WATCHDOG_BASE + WATCHDOG_##reg)

static void start_dog(struct fix *f, unsigned count)
{
	out(f, DOG(COUNT), 4, count);
	out(f, DOG(CONTROL), 4, WATCHDOG_RUNNING);
}

static void watchdog_expires(void **state)
{
	struct fix *f = *state;

	start_dog(f, 1);
	assert_int_equal(in(f, DOG(CONTROL), 4), WATCHDOG_RUNNING);
	while (!f->expired)
		loop_run_once(&f->rig.loop, 1000000000);
	assert_int_equal(in(f, DOG(CONTROL), 4), 0);
	/* Once, until it is started again. */
	rig_settle(&f->rig);
	assert_int_equal(f->expired, 1);
	/* A side that takes over before the reset hears of it. */
	move(f->dog);
	f->dog->ops->resume(f->dog);
	assert_int_equal(f->expired, 2);
	assert_int_equal(in(f, DOG(CONTROL), 4), 0);
	start_dog(f, 1);
	while (f->expired < 3)
		loop_run_once(&f->rig.loop, 1000000000);
}

static void watchdog_kept_off(void **state)
{
	struct fix *f = *state;
	uint64_t until = loop_now_ns() + 350000000;

	/* Fed: three times its count goes by. A loop that is late feeds late, too: count is long.
	 */
	start_dog(f, 1);
	out(f, DOG(COUNT), 4, 50);
	while (loop_now_ns() < until) {
		out(f, DOG(KICK), 4, 1);
		loop_run_once(&f->rig.loop, 10000000);
	}
	assert_int_equal(f->expired, 0);
	assert_in_range(in(f, DOG(LEFT), 4), 1, 50);
	/* Stopped. */
	start_dog(f, 1);
	out(f, DOG(COUNT), 4, 1);
	out(f, DOG(KICK), 4, 1);
	out(f, DOG(CONTROL), 4, 0);
	until = loop_now_ns() + 200000000;
	while (loop_now_ns() < until)
		loop_run_once(&f->rig.loop, 10000000);
	assert_int_equal(f->expired, 0);
}

static void watchdog_limits(void **state)
{
	struct fix *f = *state;

	out(f, DOG(COUNT), 4, 7);
	out(f, DOG(COUNT), 4, 0);
	out(f, DOG(COUNT), 4, WATCHDOG_COUNT_MAX + 1);
	out(f, DOG(COUNT), 2, 9);
	assert_int_equal(in(f, DOG(COUNT), 4), 7);
	assert_int_equal(in(f, DOG(COUNT), 2), 0);
}

/* A pause does not count, nor does the time between save and load. */
static void watchdog_stands_still(void **state)
{
	struct fix *f = *state;
	uint32_t before;
	uint64_t until;

	start_dog(f, 2);
	f->dog->ops->quiet(f->dog, true);
	before = in(f, DOG(LEFT), 4);
	move(f->dog);
	until = loop_now_ns() + 400000000;
	while (loop_now_ns() < until)
		loop_run_once(&f->rig.loop, 10000000);
	assert_int_equal(f->expired, 0);
	assert_int_equal(in(f, DOG(LEFT), 4), before);
	f->dog->ops->resume(f->dog);
	while (!f->expired)
		loop_run_once(&f->rig.loop, 1000000000);
}

static void tables_are_sane(void **state)
{
	struct fix *f = *state;

	assert_int_equal(state_desc_check(f->ged->ops->state, NULL), 0);
	assert_int_equal(state_desc_check(f->panic->ops->state, NULL), 0);
	assert_int_equal(state_desc_check(f->dog->ops->state, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(events_are_taken_by_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(a_press_waits_while_quiet, setup, teardown),
		cmocka_unit_test_setup_teardown(off_and_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(panic_is_passed_on, setup, teardown),
		cmocka_unit_test_setup_teardown(watchdog_expires, setup, teardown),
		cmocka_unit_test_setup_teardown(watchdog_kept_off, setup, teardown),
		cmocka_unit_test_setup_teardown(watchdog_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(watchdog_stands_still, setup, teardown),
		cmocka_unit_test_setup_teardown(tables_are_sane, setup, teardown),
	};

	return cmocka_run_group_tests_name("devices_acpi", tests, NULL, NULL);
}
