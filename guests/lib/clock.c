/* Time: kvmclock, which the hypervisor carries from host to host; the APIC timer for waking up. */
#include "guests/lib/sys.h"

#define CLOCK_STABLE	1u /* pvclock flag: the pages of all CPUs agree */
#define CALIBRATE_NS	5000000u
#define PERIODIC_HZ_MAX 5000u
#define NS_PER_S	1000000000ull

/* Without kvmclock: clock = (tsc - base) * mul >> 32. */
static uint64_t tsc_base, tsc_mul;
static uint64_t clock_last;

bool clock_is_kvm(void)
{
	return cpu_this()->has_clock;
}

void clock_init(void)
{
	uint64_t begin, ticks;
	uint32_t first, passed;

	if (clock_is_kvm())
		return;
	apic_timer_free_run();
	begin = cpu_tsc();
	first = apic_timer_count();
	do {
		passed = first - apic_timer_count();
		ticks = cpu_tsc() - begin;
	} while (passed < CALIBRATE_NS);
	apic_timer_periodic(0);
	tsc_base = begin;
	tsc_mul = ((uint64_t)passed << 32) / (ticks ? ticks : 1);
}

/* The seqlock protocol: an odd or changed version means that the page was being rewritten. */
static uint64_t pvclock_read(const volatile struct pvclock *p, uint8_t *ret_flags)
{
	uint64_t delta, base;
	uint32_t version, mul;
	int8_t shift;

	do {
		version = __atomic_load_n(&p->version, __ATOMIC_ACQUIRE);
		delta = cpu_tsc() - p->tsc_timestamp;
		base = p->system_time;
		mul = p->tsc_to_system_mul;
		shift = p->tsc_shift;
		*ret_flags = p->flags;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (version & 1 || version != p->version);
	delta = shift >= 0 ? delta << shift : delta >> -shift;
	return base + (uint64_t)(((unsigned __int128)delta * mul) >> 32);
}

/* For clocks of several CPUs that do not agree: nobody reads less than anybody read before. */
static uint64_t clock_push(uint64_t now)
{
	uint64_t last = __atomic_load_n(&clock_last, __ATOMIC_RELAXED);

	do {
		if (last >= now)
			return last;
	} while (!__atomic_compare_exchange_n(&clock_last, &last, now, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	return now;
}

uint64_t clock_ns(void)
{
	struct percpu *c = cpu_this();
	uint8_t flags;
	uint64_t now;

	if (c->has_clock) {
		now = pvclock_read(&c->clock, &flags);
		return flags & CLOCK_STABLE ? now : clock_push(now);
	}
	now = (uint64_t)(((unsigned __int128)(cpu_tsc() - tsc_base) * tsc_mul) >> 32);
	return clock_push(now);
}

void timer_periodic(unsigned hz)
{
	struct percpu *c = cpu_this();

	if (hz > PERIODIC_HZ_MAX)
		hz = PERIODIC_HZ_MAX;
	c->periodic = hz != 0;
	c->armed_deadline = 0;
	apic_timer_periodic(hz ? NS_PER_S / hz : 0);
}

uint64_t timer_ticks(void)
{
	return __atomic_load_n(&cpu_this()->vectors[0], __ATOMIC_ACQUIRE);
}

/*
 * A timer that is armed for an earlier moment is left alone: it wakes the CPU too early, once,
 * which is cheaper than programming the APIC for every change of the deadline.
 */
void guest_wait_until(uint64_t seen, uint64_t deadline_ns)
{
	struct percpu *c = cpu_this();
	uint64_t now = clock_ns();

	if (now >= deadline_ns)
		return;
	if (!c->periodic) {
		bool armed = c->armed_deadline > now && c->armed_tick == timer_ticks();

		if (!armed || c->armed_deadline > deadline_ns) {
			uint64_t ns = deadline_ns - now;

			if (ns > UINT32_MAX)
				ns = UINT32_MAX;
			c->armed_deadline = now + ns;
			c->armed_tick = timer_ticks();
			apic_timer_oneshot(ns);
		}
	}
	guest_wait(seen);
}

void guest_sleep_until(uint64_t deadline_ns)
{
	for (;;) {
		uint64_t seen = guest_events();

		if (clock_ns() >= deadline_ns)
			return;
		guest_wait_until(seen, deadline_ns);
	}
}
