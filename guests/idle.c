/* Sleeps: hz=N timer interrupts a second (10); verbose=1 prints `tick SECONDS` once a second. */
#include "guests/lib/guest.h"

int main(void)
{
	unsigned hz = (unsigned)cmdline_u64("hz", 10);
	bool verbose = cmdline_u64("verbose", 0);
	uint64_t seconds = cmdline_u64("seconds", 0), begin = clock_ns(), last = 0;

	print("READY\n");
	timer_periodic(hz);
	for (;;) {
		uint64_t seen = guest_events();
		uint64_t second = (clock_ns() - begin) / 1000000000ul;

		if (second != last) {
			last = second;
			if (verbose)
				print("tick %lu\n", second);
			if (seconds && second >= seconds)
				return 0;
		}
		guest_wait(seen);
	}
}
