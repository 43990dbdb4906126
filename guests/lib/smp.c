/* Starting the other CPUs (Intel SDM vol. 3, 9.4.4: INIT, start-up IPI), and spin locks. */
#include "guests/lib/sys.h"

#define ICR_INIT    0x4500u
#define ICR_STARTUP 0x4600u
#define START_TRIES 3
#define START_NS    500000000ull
#define INIT_NS	    200000ull

/* boot.S lays the rest out; zeroed blocks are valid, but for the index */
unsigned cpu_index(void)
{
	return cpu_this()->index;
}

unsigned cpu_count(void)
{
	uint64_t n = cmdline_u64("cpus", 1);

	return n < 1 ? 1 : n > CPU_MAX ? CPU_MAX : (unsigned)n;
}

static bool started_by(const struct percpu *c, uint64_t deadline)
{
	while (!__atomic_load_n(&c->started, __ATOMIC_ACQUIRE)) {
		if (clock_ns() >= deadline)
			return false;
		cpu_relax();
	}
	return true;
}

int smp_start(unsigned cpu, void (*fn)(void *arg), void *arg)
{
	struct percpu *c;

	if (cpu == 0 || cpu >= cpu_count() || percpu_blocks[cpu].started)
		return -EINVAL;
	c = &percpu_blocks[cpu];
	c->index = cpu;
	c->fn = fn;
	c->arg = arg;
	memcpy((void *)AP_PAGE, ap_code, (size_t)(ap_code_end - ap_code));
	/* One CPU at a time uses the trampoline: it is done with it once it reports. */
	__atomic_store_n(&ap_percpu, (uint64_t)c, __ATOMIC_SEQ_CST);
	apic_send(cpu, ICR_INIT);
	for (uint64_t end = clock_ns() + INIT_NS; clock_ns() < end;)
		cpu_relax();
	for (int i = 0; i < START_TRIES; i++) {
		apic_send(cpu, ICR_STARTUP | AP_PAGE >> 12);
		if (started_by(c, clock_ns() + START_NS))
			return 0;
	}
	return -EIO;
}

void spin_lock(struct spinlock *l)
{
	while (__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE)) {
		while (__atomic_load_n(&l->held, __ATOMIC_RELAXED))
			cpu_relax();
	}
}

void spin_unlock(struct spinlock *l)
{
	__atomic_store_n(&l->held, 0, __ATOMIC_RELEASE);
}
