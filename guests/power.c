/*
 * What the ACPI tables point at, used as a driver would: [ignore] [panic] [watchdog=MS] [feed].
 *
 * Prints `event N` for each event of the generic event device, with the VM generation ID when that
 * is what changed, and switches the machine off at the power button unless told to ignore it.
 * `panic` reports one through pvpanic. `watchdog` starts the watchdog, which `feed` feeds; in the
 * second boot it only says so.
 */
#include "guests/lib/cpu.h"
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"

#define GED_GSI	      9
#define GED_EVENTS    0x600
#define GED_SLEEP     0x601
#define SLEEP_OFF     (0x20 | 5 << 2)
#define EVENT_POWER   1
#define EVENT_GENID   2
#define GENID_AT      0xef000ul
#define PVPANIC	      0x505
#define DOG_CONTROL   0x610
#define DOG_COUNT     0x614
#define DOG_KICK      0x618
#define DOG_PERIOD_MS 100
#define BOOTED_AT     0x91000ul /* low memory that survives a reset */
#define NS_PER_MS     1000000ul

static void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static void print_genid(void)
{
	const volatile uint64_t *id = (const volatile uint64_t *)GENID_AT;

	print("generation %016lx%016lx\n", id[0], id[1]);
}

static void take_events(bool ignore)
{
	uint8_t events = cpu_in8(GED_EVENTS);

	if (!events)
		return;
	print("event %u\n", events);
	if (events & EVENT_GENID)
		print_genid();
	if (events & EVENT_POWER && !ignore)
		cpu_out8(GED_SLEEP, SLEEP_OFF);
}

static void start_watchdog(uint64_t ms)
{
	volatile uint64_t *booted = (volatile uint64_t *)BOOTED_AT;

	if (*booted == BOOTED_AT) {
		print("booted again\n");
		guest_exit(0);
	}
	*booted = BOOTED_AT;
	out32(DOG_COUNT, (uint32_t)(ms / DOG_PERIOD_MS));
	out32(DOG_CONTROL, 1);
}

int main(void)
{
	uint64_t dog = cmdline_u64("watchdog", 0), ticks = 0;
	bool ignore = cmdline_u64("ignore", 0), feed = cmdline_u64("feed", 0);

	ioapic_route(GED_GSI);
	if (dog)
		start_watchdog(dog);
	if (cmdline_u64("panic", 0))
		cpu_out8(PVPANIC, 1);
	print_genid();
	print("READY\n");
	for (;;) {
		uint64_t seen = guest_events();

		take_events(ignore);
		if (feed)
			out32(DOG_KICK, 1);
		if (!(++ticks & 63))
			print("alive %lu\n", ticks);
		guest_wait_until(seen, clock_ns() + 10 * NS_PER_MS);
	}
}
