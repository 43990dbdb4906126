/*
 * Ends itself when a host says so: [tick=MS] [pages=N]. `boot N word at A`: in the word of guest
 * memory at A a host writes what to do, an enum act; the next one says 1 as soon as it is begun.
 * Until then it prints `tick N` each MS and writes to N pages; the page of the word as well, so
 * that what a host wrote there is the guest's.
 */
#include "guests/lib/cpu.h"
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"

#define COUNT_AT    0x90000ul /* as reset.c */
#define COUNT_MAGIC 0x656e64730000ul
#define PORT_EXIT   0xf4
#define PORT_SLEEP  0x601
#define SLEEP_OFF   (5 << 2 | 1 << 5)
#define PORT_RESET  0x603
#define PORT_PANIC  0x505
#define EXIT_CODE   7

enum act { ACT_NONE, ACT_EXIT, ACT_OFF, ACT_RESET, ACT_PANIC, ACT_CRASH };

static struct {
	uint64_t act, begun, rounds;
	uint8_t rest[PAGE_SIZE - 24];
} word __attribute__((aligned(PAGE_SIZE)));

static uint64_t count_boots(void)
{
	volatile uint64_t *count = (volatile uint64_t *)COUNT_AT;

	if ((*count & ~0xfffful) != COUNT_MAGIC)
		*count = COUNT_MAGIC;
	*count += 1;
	return *count & 0xffff;
}

/* No gate is left to report it by: a triple fault. */
static void crash(void)
{
	memset(idt, 0, sizeof(idt));
	__builtin_trap();
}

static void end_by(uint64_t act)
{
	__atomic_store_n(&word.begun, 1, __ATOMIC_SEQ_CST);
	switch (act) {
	case ACT_EXIT:
		cpu_out8(PORT_EXIT, EXIT_CODE);
		break;
	case ACT_OFF:
		cpu_out8(PORT_SLEEP, SLEEP_OFF);
		break;
	case ACT_RESET:
		cpu_out8(PORT_RESET, 1);
		break;
	case ACT_PANIC: /* of a guest that goes on */
		cpu_out8(PORT_PANIC, 1);
		__atomic_store_n(&word.act, ACT_NONE, __ATOMIC_SEQ_CST);
		return;
	case ACT_CRASH:
		crash();
	}
	for (;;)
		cpu_relax();
}

int main(void)
{
	uint64_t tick = cmdline_u64("tick", 5) * 1000000, pages = cmdline_u64("pages", 16), n = 0;
	uint8_t *mem = mem_alloc(pages);
	uint64_t next = clock_ns();

	print("boot %lu word at %#lx\nREADY\n", count_boots(), (uint64_t)&word);
	for (;;) {
		uint64_t act = __atomic_load_n(&word.act, __ATOMIC_SEQ_CST);

		if (act)
			end_by(act);
		__atomic_add_fetch(&word.rounds, 1, __ATOMIC_SEQ_CST);
		if (clock_ns() < next)
			continue;
		next += tick;
		for (uint64_t i = 0; i < pages; i++)
			mem[i * PAGE_SIZE + n % PAGE_SIZE] += 1;
		print("tick %lu\n", ++n);
	}
}
