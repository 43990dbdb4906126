/* Local and I/O APIC, by their memory-mapped registers (Intel SDM vol. 3, chapter 11; 82093AA). */
#include "guests/lib/sys.h"

#define APIC_ICR_LOW	 (APIC_BASE + 0x300ul)
#define APIC_ICR_HIGH	 (APIC_BASE + 0x310ul)
#define APIC_LVT_TIMER	 (APIC_BASE + 0x320ul)
#define APIC_TIMER_INIT	 (APIC_BASE + 0x380ul)
#define APIC_TIMER_COUNT (APIC_BASE + 0x390ul)
#define LVT_MASKED	 0x10000u
#define LVT_PERIODIC	 0x20000u
#define ICR_PENDING	 0x1000u

#define IOAPIC_SELECT (IOAPIC_BASE + 0x00ul)
#define IOAPIC_WINDOW (IOAPIC_BASE + 0x10ul)
#define IOAPIC_ENTRY  0x10u /* + 2 * pin */

/* Edge-triggered, active high, to CPU 0: the only form a virtio interrupt needs. */
void ioapic_route(unsigned gsi)
{
	mmio_write32(IOAPIC_SELECT, IOAPIC_ENTRY + 2 * gsi + 1);
	mmio_write32(IOAPIC_WINDOW, 0);
	mmio_write32(IOAPIC_SELECT, IOAPIC_ENTRY + 2 * gsi);
	mmio_write32(IOAPIC_WINDOW, VEC_GSI + gsi);
}

void apic_send(unsigned cpu, uint32_t command)
{
	for (unsigned i = 0; i < 1000 && mmio_read32(APIC_ICR_LOW) & ICR_PENDING; i++)
		cpu_relax();
	mmio_write32(APIC_ICR_HIGH, (uint32_t)cpu << 24);
	mmio_write32(APIC_ICR_LOW, command);
}

/* The timer counts nanoseconds on the emulated APICs of KVM and QEMU. */
static uint32_t timer_count_from(uint64_t ns)
{
	return ns < 1000 ? 1000 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

void apic_timer_oneshot(uint64_t ns)
{
	mmio_write32(APIC_LVT_TIMER, VEC_FIRST);
	mmio_write32(APIC_TIMER_INIT, timer_count_from(ns));
}

void apic_timer_periodic(uint64_t ns)
{
	mmio_write32(APIC_LVT_TIMER, ns ? LVT_PERIODIC | VEC_FIRST : LVT_MASKED | VEC_FIRST);
	mmio_write32(APIC_TIMER_INIT, ns ? timer_count_from(ns) : 0);
}

void apic_timer_free_run(void)
{
	mmio_write32(APIC_LVT_TIMER, LVT_MASKED | VEC_FIRST);
	mmio_write32(APIC_TIMER_INIT, UINT32_MAX);
}

uint32_t apic_timer_count(void)
{
	return mmio_read32(APIC_TIMER_COUNT);
}
