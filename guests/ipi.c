/*
 * CPUs interrupt each other in a ring, one interrupt under way at a time: cpus=N [seconds=N].
 *
 * Each CPU waits for one more interrupt from the CPU before it and then sends one to the next. If
 * one is ever lost, the ring stands still: CPU 0 notices by the clock.
 */
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"

#define NS_PER_S   1000000000ul
#define STALL_SECS 3u
#define VEC_RING   (VEC_FIRST + 1)

static uint64_t rounds;

static uint64_t received(void)
{
	return __atomic_load_n(&cpu_this()->vectors[VEC_RING - VEC_FIRST], __ATOMIC_ACQUIRE);
}

static void pass_on(void)
{
	apic_send((cpu_index() + 1) % cpu_count(), VEC_RING);
}

static void ap_main(void *arg)
{
	for (uint64_t n = 1;; n++) {
		while (received() < n)
			cpu_relax();
		pass_on();
	}
}

int main(void)
{
	uint64_t seconds = cmdline_u64("seconds", 0), begin, moved, second = 0;
	unsigned cpus = cpu_count();

	for (unsigned i = 1; i < cpus; i++)
		if (smp_start(i, ap_main, NULL))
			guest_die(2, "ipi: cpu %u does not start", i);
	print("READY\n");
	begin = moved = clock_ns();
	for (;;) {
		pass_on();
		for (rounds++; received() < rounds;) {
			cpu_relax();
			if (clock_ns() - moved > STALL_SECS * NS_PER_S)
				guest_die(3, "STALLED in round %lu", rounds);
		}
		moved = clock_ns();
		if ((moved - begin) / NS_PER_S == second)
			continue;
		second = (moved - begin) / NS_PER_S;
		print("ipi %lu rounds %lu\n", second, rounds);
		if (seconds && second >= seconds) {
			print("ipi ok\n");
			return 0;
		}
	}
}
