/* RAM: one growing piece after the image, which steps over the boot modules. */
#include "guests/lib/sys.h"

#define RANGE_MAX 16u
#define MAP_TOP	  0x200000000ull /* boot.S maps 8 GiB */

struct range {
	uint64_t base;
	uint64_t end;
};

static struct range reserved[RANGE_MAX];
static unsigned reserved_count;
static uint64_t ram_bytes;
static struct range pool; /* the RAM that holds the image, from the image's end on */
static struct range high; /* the largest piece of RAM above 4 GiB, used when the pool is full */

void mem_reserve(uint64_t base, uint64_t size)
{
	if (reserved_count < RANGE_MAX)
		reserved[reserved_count++] = (struct range){base, base + size};
}

void mem_add_ram(uint64_t base, uint64_t size)
{
	uint64_t image = (uint64_t)image_end;
	uint64_t end = base + size > MAP_TOP ? MAP_TOP : base + size;

	ram_bytes += size;
	if (base <= image && image < end)
		pool = (struct range){image, end};
	else if (base >= 0x100000000ull && base < end && end - base > high.end - high.base)
		high = (struct range){base, end};
}

uint64_t mem_bytes(void)
{
	return ram_bytes;
}

/* Moves `r` past reserved ranges until `size` bytes fit before the next one. */
static bool range_fit(struct range *r, uint64_t size)
{
	r->base = (r->base + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	for (unsigned i = 0; i < reserved_count; i++) {
		if (reserved[i].base < r->base + size && reserved[i].end > r->base) {
			r->base = (reserved[i].end + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
			i = (unsigned)-1;
		}
	}
	return r->base <= r->end && size <= r->end - r->base;
}

/* A module in the middle of the pool splits it: go on after it if that is the larger part. */
void mem_init(void)
{
	for (unsigned i = 0; i < reserved_count; i++) {
		struct range *m = &reserved[i];

		if (m->base < pool.end && m->end > pool.base &&
		    pool.end - m->base > m->base - pool.base && pool.end > m->end)
			pool.base = m->end;
	}
	range_fit(&pool, 0);
	range_fit(&high, 0);
}

static uint64_t range_room(const struct range *r)
{
	uint64_t room = r->end > r->base ? r->end - r->base : 0;

	for (unsigned i = 0; i < reserved_count; i++) {
		if (reserved[i].base >= r->base && reserved[i].base - r->base < room)
			room = reserved[i].base - r->base;
	}
	return room & ~(uint64_t)(PAGE_SIZE - 1);
}

uint64_t mem_free(void)
{
	uint64_t low = range_room(&pool), up = range_room(&high);

	return low > up ? low : up;
}

void *mem_alloc(uint64_t pages)
{
	uint64_t size = pages * PAGE_SIZE;
	struct range *from[] = {&pool, &high};

	for (unsigned i = 0; i < 2 && pages <= MAP_TOP / PAGE_SIZE; i++) {
		struct range r = *from[i];

		if (range_fit(&r, size)) {
			from[i]->base = r.base + size;
			return (void *)r.base;
		}
	}
	guest_die(2, "out of memory: %lu pages wanted, %lu KiB free", pages, mem_free() >> 10);
}
