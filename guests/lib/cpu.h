/*
 * The per-CPU block and the selectors, shared by assembly and C. One block is 64 KiB, aligned to
 * its size, and holds both stacks of its CPU: masking the stack pointer finds it at any level.
 *
 * What an interrupt writes (counters, kernel stack, kvmclock) shares the first page, so that an
 * idle CPU dirties one page only.
 */
#ifndef GUESTS_LIB_CPU_H
#define GUESTS_LIB_CPU_H

#define SEL_KCODE32 0x08
#define SEL_KCODE   0x10
#define SEL_KDATA   0x18
#define SEL_UDATA   0x2b
#define SEL_UCODE   0x33
#define SEL_TSS	    0x40 /* + 16 * CPU index */

#define PC_SIZE	    0x10000
#define PC_EVENTS   0x00
#define PC_INDEX    0x08
#define PC_HASCLOCK 0x0c
#define PC_FN	    0x10
#define PC_ARG	    0x18
#define PC_CLOCK    0x40  /* pvclock, 32-byte aligned */
#define PC_VECTORS  0x100 /* one counter for each vector from VEC_FIRST */
#define PC_KSTACK   0x1000
#define PC_TSS	    0x1000
#define PC_USTACK   (PC_SIZE - 16)

#define TSS_IOMAP 0x68
#define TSS_LIMIT (TSS_IOMAP + 8192) /* the bitmap's end byte included */

#define VEC_FIRST    0x40 /* the APIC timer */
#define VEC_GSI	     0x48 /* + GSI of the first I/O APIC */
#define VEC_COUNT    32
#define VEC_SPURIOUS 0xff
#define STUB_SIZE    64

#define APIC_BASE   0xfee00000
#define IOAPIC_BASE 0xfec00000
#define AP_PAGE	    0x8000 /* where application processors start, in real mode */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

/* KVM's clock page, as its documentation of MSR 0x4b564d01 gives it. */
struct pvclock {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

struct percpu {
	uint64_t events; /* interrupts taken; written by CPL0 stubs of this CPU only */
	uint32_t index;
	uint32_t has_clock;
	void (*fn)(void *arg);
	void *arg;
	uint32_t started;
	uint32_t periodic;	 /* a periodic timer runs */
	uint64_t armed_deadline; /* of the one-shot timer, in clock_ns(); 0 = not armed */
	uint64_t armed_tick;	 /* timer count when it was armed */
	uint64_t pad0;
	struct pvclock clock;
	uint8_t pad[PC_VECTORS - PC_CLOCK - 32];
	uint64_t vectors[VEC_COUNT];
	uint8_t rest[PC_SIZE - PC_VECTORS - 8 * VEC_COUNT];
};

_Static_assert(offsetof(struct percpu, index) == PC_INDEX, "index");
_Static_assert(offsetof(struct percpu, has_clock) == PC_HASCLOCK, "has_clock");
_Static_assert(offsetof(struct percpu, fn) == PC_FN, "fn");
_Static_assert(offsetof(struct percpu, arg) == PC_ARG, "arg");
_Static_assert(offsetof(struct percpu, clock) == PC_CLOCK, "clock");
_Static_assert(offsetof(struct percpu, vectors) == PC_VECTORS, "vectors");
_Static_assert(sizeof(struct percpu) == PC_SIZE, "percpu");

extern struct percpu percpu_blocks[];

static inline struct percpu *cpu_this(void)
{
	uint64_t sp;

	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
	return (struct percpu *)(sp & ~(uint64_t)(PC_SIZE - 1));
}

/* Interrupts taken by CPU 0 for one GSI: the only thing a driver learns from an interrupt. */
static inline uint64_t irq_count(unsigned gsi)
{
	return __atomic_load_n(&percpu_blocks[0].vectors[VEC_GSI - VEC_FIRST + gsi],
			       __ATOMIC_ACQUIRE);
}

static inline void cpu_out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t cpu_in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t cpu_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}
#endif
#endif
