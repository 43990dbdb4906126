/* Interrupt gates, the end of a faulting guest, and waiting for interrupts. */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

static void gate_set(unsigned vector, unsigned stub)
{
	uint64_t addr = (uint64_t)trap_stubs + (uint64_t)stub * STUB_SIZE;

	idt[vector] = (struct idt_gate){
		.offset_low = (uint16_t)addr,
		.selector = SEL_KCODE,
		.type = 0xee, /* present, DPL 3, interrupt gate: enters with IF = 0 */
		.offset_mid = (uint16_t)(addr >> 16),
		.offset_high = (uint32_t)(addr >> 32),
	};
}

void trap_init(void)
{
	for (unsigned i = 0; i < 32; i++)
		gate_set(i, i);
	for (unsigned i = 0; i < VEC_COUNT; i++)
		gate_set(VEC_FIRST + i, 32 + i);
	gate_set(VEC_SPURIOUS, 32 + VEC_COUNT);
}

/* trap.S resumes the faulting CPU here, at CPL3. */
void trap_fatal(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2)
{
	print_unlock();
	guest_die(2, "TRAP %lu error %#lx rip %#lx cr2 %#lx cpu %u", vector, error, rip, cr2,
		  cpu_index());
}

uint64_t guest_events(void)
{
	return __atomic_load_n(&cpu_this()->events, __ATOMIC_ACQUIRE);
}

void guest_wait(uint64_t seen)
{
	struct percpu *c = cpu_this();

	if (c->index == 0) {
		net_dev_kick_all();
		if (virtio_ack_all())
			return;
	}
	/* hlt faults at CPL3; the stub compares %rdi with the counter, interrupts off, and halts */
	if (__atomic_load_n(&c->events, __ATOMIC_ACQUIRE) == seen)
		__asm__ volatile("hlt" : : "D"(seen) : "memory");
}
