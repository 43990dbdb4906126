/* What the library's files offer each other; programs use guest.h only. */
#ifndef GUESTS_LIB_SYS_H
#define GUESTS_LIB_SYS_H

#include "guests/lib/cpu.h"
#include "guests/lib/guest.h"

/*
 * Device registers are accessed by plain moves only: they may be decoded by an instruction
 * emulator, which knows less than the compiler does.
 */
static inline uint32_t mmio_read32(uint64_t addr)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(addr) : "memory");
	return value;
}

static inline void mmio_write32(uint64_t addr, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(addr) : "memory");
}

/* boot.S */
extern uint64_t boot_info, ap_percpu;
extern const char ap_code[], ap_code_end[];
extern char image_end[];
void start_cpu(void);

/* trap.S, trap.c */
struct idt_gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t ist;
	uint8_t type;
	uint16_t offset_mid;
	uint32_t offset_high;
	uint32_t reserved;
};
extern struct idt_gate idt[256];
extern const char trap_stubs[];
void trap_init(void);
void trap_fatal(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2);

/* apic.c */
void ioapic_route(unsigned gsi);
void apic_send(unsigned cpu, uint32_t command);
void apic_timer_oneshot(uint64_t ns);
void apic_timer_periodic(uint64_t ns);
void apic_timer_free_run(void);
uint32_t apic_timer_count(void);

/* clock.c */
void clock_init(void);

/* cmdline.c: where the word after `pos` that starts with `prefix` goes on; NULL at the end */
void cmdline_init(const char *text);
const char *cmdline_next(const char *pos, const char *prefix);

/* mem.c */
void mem_add_ram(uint64_t base, uint64_t size);
void mem_reserve(uint64_t base, uint64_t size);
void mem_init(void);

/* print.c, virtio_console.c */
void print_init(void);
void print_unlock(void);
bool console_open(void);
void console_write(const char *text, size_t len);
void console_drain(uint64_t deadline_ns);

/* virtio_net.c */
void net_dev_kick_all(void);

#endif
