/*
 * All CPUs count together: cpus=N [seconds=N] [hz=N].
 *
 * Each CPU increments one shared counter with a locked instruction, then its own; and now and then
 * a pair of plain words under a spin lock. CPU 0 prints all counters once a second and checks that
 * they fit together and that every CPU gets on.
 */
#include "guests/lib/guest.h"

#define NS_PER_S   1000000000ul
#define CHUNK	   1024u
#define STALL_SECS 10u

struct counter {
	uint64_t value;
	uint64_t ticks;
	uint64_t pad[6]; /* a cache line each */
};

static uint64_t shared;
static struct counter own[CPU_MAX];
static struct spinlock lock;
static uint64_t pair[2];

static void count_chunk(struct counter *c)
{
	for (unsigned i = 0; i < CHUNK; i++) {
		__atomic_add_fetch(&shared, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&c->value, c->value + 1, __ATOMIC_RELEASE);
	}
	spin_lock(&lock);
	if (pair[0] != pair[1])
		guest_die(3, "CORRUPT pair %lu %lu on cpu %u", pair[0], pair[1], cpu_index());
	pair[0]++;
	pair[1]++;
	spin_unlock(&lock);
	__atomic_store_n(&c->ticks, timer_ticks(), __ATOMIC_RELEASE);
}

static void ap_main(void *arg)
{
	timer_periodic((unsigned)cmdline_u64("hz", 100));
	for (;;)
		count_chunk(arg);
}

/* Own counters follow the shared one, so they may lag by one a CPU, and never lead. */
static void check_sum(unsigned cpus)
{
	uint64_t before = __atomic_load_n(&shared, __ATOMIC_SEQ_CST), sum = 0, after;

	for (unsigned i = 0; i < cpus; i++)
		sum += __atomic_load_n(&own[i].value, __ATOMIC_ACQUIRE);
	after = __atomic_load_n(&shared, __ATOMIC_SEQ_CST);
	if (sum + cpus < before || sum > after)
		guest_die(3, "CORRUPT sum %lu of counters, shared %lu..%lu", sum, before, after);
}

static void report(uint64_t second, unsigned cpus)
{
	static uint64_t last[CPU_MAX];
	static unsigned stalled[CPU_MAX];
	char line[256];
	int n = 0;

	for (unsigned i = 0; i < cpus; i++) {
		uint64_t v = __atomic_load_n(&own[i].value, __ATOMIC_ACQUIRE);

		stalled[i] = v == last[i] ? stalled[i] + 1 : 0;
		last[i] = v;
		if (stalled[i] == STALL_SECS)
			guest_die(3, "STALLED cpu %u at %lu", i, v);
		n += format_text(line + n, sizeof(line) - (size_t)n, " %lu/%lu", v,
				 __atomic_load_n(&own[i].ticks, __ATOMIC_ACQUIRE));
	}
	print("smp %lu shared %lu counts/ticks%s\n", second, shared, line);
}

int main(void)
{
	uint64_t seconds = cmdline_u64("seconds", 0), begin, second = 0;
	unsigned cpus = cpu_count();

	for (unsigned i = 1; i < cpus; i++) {
		if (smp_start(i, ap_main, &own[i]))
			guest_die(2, "smp: cpu %u does not start", i);
	}
	timer_periodic((unsigned)cmdline_u64("hz", 100));
	print("READY\n");
	begin = clock_ns();
	for (;;) {
		count_chunk(&own[0]);
		check_sum(cpus);
		if (clock_ns() - begin < (second + 1) * NS_PER_S)
			continue;
		second = (clock_ns() - begin) / NS_PER_S;
		report(second, cpus);
		if (seconds && second >= seconds) {
			for (unsigned i = 0; i < cpus; i++) {
				if (own[i].value == 0)
					guest_die(3, "STALLED cpu %u at 0", i);
			}
			print("smp ok\n");
			return 0;
		}
	}
}
