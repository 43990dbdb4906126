#include "guests/lib/bgload.h"
#include "guests/lib/guest.h"

#define BGLOAD_PERIOD 10000000u /* ns */
#define BGLOAD_SLICES 8		/* one of them changes on a tick, in every page */
#define BGLOAD_WORDS  (PAGE_SIZE / 8)
#define BGLOAD_EXIT   3

static uint64_t bgload_word(uint64_t at, uint64_t tick)
{
	return (at + 1) * 0x9e3779b97f4a7c15ull ^ tick * 0xbf58476d1ce4e5b9ull;
}

void bgload_start(struct bgload *b, uint64_t pages)
{
	*b = (struct bgload){.pages = pages};
	if (!pages)
		return;
	b->mem = mem_alloc(pages);
	memset(b->mem, 0, pages * PAGE_SIZE);
}

static void bgload_tick(struct bgload *b)
{
	uint64_t first = b->tick % BGLOAD_SLICES * (BGLOAD_WORDS / BGLOAD_SLICES);
	uint64_t old = b->tick - BGLOAD_SLICES;

	for (uint64_t page = 0; page < b->pages; page++) {
		uint64_t at = page * BGLOAD_WORDS + first, end = at + BGLOAD_WORDS / BGLOAD_SLICES;

		for (; at < end; at++) {
			uint64_t want = b->tick < BGLOAD_SLICES ? 0 : bgload_word(at, old);

			if (b->mem[at] != want) {
				print("CORRUPT page %lu word %lu tick %lu: %#lx, not %#lx\n", page,
				      at % BGLOAD_WORDS, b->tick, b->mem[at], want);
				guest_exit(BGLOAD_EXIT);
			}
			b->mem[at] = bgload_word(at, b->tick);
		}
	}
	b->tick++;
}

void bgload_poll(struct bgload *b, uint64_t now_ns)
{
	if (!b->pages || now_ns < b->next)
		return;
	bgload_tick(b);
	b->next =
		b->next + BGLOAD_PERIOD > now_ns ? b->next + BGLOAD_PERIOD : now_ns + BGLOAD_PERIOD;
}
