/*
 * A computation with a known result (hash_model.h): pages=N rounds=N seed=S [every=N].
 *
 * The sums are kept twice: in memory, and in SSE and x87 registers that live from the first round
 * to the last, and so do those of guests/lib/vector.h. The compiler uses none of them here, so
 * whatever loses a register shows.
 */
#include "guests/lib/guest.h"
#include "guests/lib/vector.h"

#define HASH_STEP(value)                                                                           \
	__asm__ volatile("movq %0, %%xmm7\n\t"                                                     \
			 "paddq %%xmm7, %%xmm5\n\t"                                                \
			 "pxor %%xmm7, %%xmm6"                                                     \
			 :                                                                         \
			 : "r"(value))
#include "guests/hash_model.h"

static void registers_clear(void)
{
	__asm__ volatile("fninit; fldz; pxor %xmm5, %xmm5; pxor %xmm6, %xmm6");
}

static void registers_check(const struct hash *h, uint64_t round)
{
	uint64_t sum, parity, rounds;

	__asm__ volatile("fld1; faddp; fld %%st(0); fistpll %0" : "=m"(rounds));
	__asm__ volatile("movq %%xmm5, %0; movq %%xmm6, %1" : "=r"(sum), "=r"(parity));
	if (sum != h->sum || parity != h->parity || rounds != round)
		guest_die(3,
			  "CORRUPT registers in round %lu: sum %#lx/%#lx parity %#lx/%#lx x87 %lu",
			  round, sum, h->sum, parity, h->parity, rounds);
}

int main(void)
{
	uint64_t pages = cmdline_u64("pages", HASH_PAGES_DEFAULT);
	uint64_t rounds = cmdline_u64("rounds", HASH_ROUNDS_DEFAULT);
	uint64_t seed = cmdline_u64("seed", HASH_SEED_DEFAULT);
	uint64_t every = cmdline_u64("every", 0);
	struct hash h;

	if (pages < 1 || pages > HASH_PAGES_MAX)
		guest_die(1, "hash: pages must be 1..%u", HASH_PAGES_MAX);
	hash_init(&h, mem_alloc(pages), pages, seed);
	registers_clear();
	print("vector %s\n", vector_start());
	print("READY\n");
	for (uint64_t i = 1; i <= rounds; i++) {
		hash_round(&h);
		registers_check(&h, i);
		vector_check();
		vector_mix(h.sum);
		if (every && i % every == 0)
			print("hash %lu %#018lx\n", i, h.sum);
	}
	print("digest %#018lx\n", hash_digest(&h));
	return 0;
}
