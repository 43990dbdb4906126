/*
 * Boots again and again: [boots=N] [cpus=N] [how=0|1|2] [gap=MS].
 *
 * A count in memory below the kernel survives the reset; the .bss does not. All CPUs are started in
 * each boot, the disk and the network card are used, and so is the timer. Vector registers must be
 * zeros, and are not when the next reset comes.
 */
#include "guests/lib/guest.h"
#include "guests/lib/cpu.h"
#include "guests/lib/vector.h"

#define COUNT_AT    0x90000ul /* low memory that neither loader nor kernel uses */
#define COUNT_MAGIC 0x626f6f740000ul
#define PORT_RESET  0x603
#define PORT_KBD    0x64
#define KBD_RESET   0xfe

static uint64_t in_bss[1024];
static unsigned started;

static void ap_main(void *arg)
{
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	for (;;)
		cpu_relax();
}

static void check_fresh(void)
{
	for (unsigned i = 0; i < 1024; i++)
		if (in_bss[i])
			guest_die(3, ".bss is not zero: %lx", in_bss[i]);
	memset(in_bss, 0xee, sizeof(in_bss));
}

static void start_cpus(void)
{
	for (unsigned i = 1; i < cpu_count(); i++)
		if (smp_start(i, ap_main, NULL))
			guest_die(4, "cpu %u does not start", i);
	while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < cpu_count() - 1)
		cpu_relax();
}

static void use_disk(uint64_t boot)
{
	static uint8_t sector[512] __attribute__((aligned(512)));
	struct blk *b = blk_open(0);

	if (!b)
		return;
	if (blk_read(b, 0, sector, 1) || (boot > 1 && sector[0] != (uint8_t)(boot - 1)))
		guest_die(5, "disk: boot %lu, sector says %u", boot, sector[0]);
	sector[0] = (uint8_t)boot;
	if (blk_write(b, 0, sector, 1) || blk_flush(b))
		guest_die(5, "disk: write");
}

static _Noreturn void reset(uint64_t how)
{
	if (how != 1)
		cpu_out8(PORT_RESET, 1);
	if (how != 0)
		cpu_out8(PORT_KBD, KBD_RESET);
	for (;;)
		cpu_relax();
}

int main(void)
{
	volatile uint64_t *count = (volatile uint64_t *)COUNT_AT;
	uint64_t boots = cmdline_u64("boots", 3), boot, begin = clock_ns();

	if ((*count & ~0xfffful) != COUNT_MAGIC)
		*count = COUNT_MAGIC;
	*count += 1;
	boot = *count & 0xffff;
	check_fresh();
	vector_start();
	vector_mix(boot);
	start_cpus();
	use_disk(boot);
	print("boot %lu cpus %u\n", boot, cpu_count());
	guest_sleep_until(begin + cmdline_u64("gap", 50) * 1000000);
	if (boots && boot >= boots)
		return 0;
	reset(cmdline_u64("how", 0));
}
