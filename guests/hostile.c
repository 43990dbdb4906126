/*
 * Attacks its own devices, and proves after each attack that they still work. It needs a virtio
 * console; a disk (its contents are lost), a network card, an entropy device, a balloon and a vsock
 * are attacked if they are there.
 *
 *	mode=rings	lying descriptors and rings beside honest requests, resets under way
 *	mode=status	random walks through device states, queue sizes and addresses
 *	mode=regs	registers (those in use all, the rest by chance) and ports, all widths
 *	mode=pieces	accesses that need several exits (part of regs)
 *	mode=race	CPU 1 changes the rings while the device reads them (-c 2, cpus=2)
 *	mode=flood	doorbells without need, output without end; kicks=N (100000) of them
 *	mode=mix	rings and status in turn
 *
 *	seed=S (1) ops=N attacks (200, or fewer long ones; 0 for ever) first=N number of the first
 *(1)
 *
 * Prints `attack N ok`, at last `hostile ok ...`. Attack N of a seed is always the same one, so
 * `first=N ops=1` repeats it alone.
 */
#include "guests/hostile_race.h"
#include "guests/hostile_regs.h"

static void attack_mix(void)
{
	if (h.attack & 1)
		attack_status();
	else
		attack_ring();
}

static void run(void (*attack)(void), uint64_t ops)
{
	for (uint64_t n = 0; !ops || n < ops; n++)
		attack();
}

int main(void)
{
	static const struct {
		const char *name;
		void (*attack)(void);
		unsigned ops;
	} modes[] = {{"rings", attack_ring, 200},  {"status", attack_status, 200},
		     {"regs", attack_regs, 5},	   {"race", attack_race, 100},
		     {"flood", attack_flood, 1},   {"mix", attack_mix, 200},
		     {"pieces", attack_pieces, 20}};
	char mode[16];

	cmdline_str("mode", mode, sizeof(mode));
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(mode, modes[i].name))
			continue;
		hostile_init();
		if (modes[i].attack == attack_race && smp_start(1, race_flip, NULL))
			guest_die(2, "hostile: mode=race needs two CPUs");
		say("READY\n");
		run(modes[i].attack, cmdline_u64("ops", modes[i].ops));
		__atomic_store_n(&race_over, true, __ATOMIC_RELAXED);
		say("hostile ok mode=%s attacks=%lu needs_reset=%lu\n", mode, h.attack,
		    h.needs_resets);
		return 0;
	}
	guest_die(1, "hostile: mode=rings, status, regs, race, flood or mix");
}
