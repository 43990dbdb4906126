/*
 * Time: cpus=N [seconds=N]. All CPUs read kvmclock and TSC in turns; neither may be less than what
 * any of them read before. CPU 0 prints `clock NS tsc TICKS` ten times a second.
 */
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"

#define NS_PER_S 1000000000ul
#define STEP_NS	 (NS_PER_S / 10)

static struct spinlock lock;
static uint64_t last_clock, last_tsc;

static uint64_t read_both(uint64_t *ret_tsc)
{
	uint64_t clock, tsc;

	spin_lock(&lock);
	clock = clock_ns();
	tsc = cpu_tsc();
	if (clock < last_clock)
		guest_die(3, "BACKWARDS clock %lu after %lu on cpu %u", clock, last_clock,
			  cpu_index());
	if (tsc < last_tsc)
		guest_die(3, "BACKWARDS tsc %lu after %lu on cpu %u", tsc, last_tsc, cpu_index());
	last_clock = clock;
	last_tsc = tsc;
	spin_unlock(&lock);
	*ret_tsc = tsc;
	return clock;
}

static void ap_main(void *arg)
{
	uint64_t tsc;

	for (;;)
		read_both(&tsc);
}

int main(void)
{
	uint64_t seconds = cmdline_u64("seconds", 0), tsc, begin, now, next;

	for (unsigned i = 1; i < cpu_count(); i++)
		if (smp_start(i, ap_main, NULL))
			guest_die(2, "clock: cpu %u does not start", i);
	print("READY %s\n", clock_is_kvm() ? "kvmclock" : "tsc");
	begin = next = read_both(&tsc);
	for (;;) {
		now = read_both(&tsc);
		if (now < next)
			continue;
		next = now + STEP_NS;
		print("clock %lu tsc %lu\n", now, tsc);
		if (seconds && now - begin >= seconds * NS_PER_S) {
			print("clock ok\n");
			return 0;
		}
	}
}
