#include "vmm/machine/bus.h"

#include <errno.h>
#include <stddef.h>

int bus_add(struct bus *b, const struct bus_region *r)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct bus_region *o = &b->regions[i];

		if (o->kind == r->kind && r->base < o->base + o->len && o->base < r->base + r->len)
			return -EEXIST;
	}
	if (b->n == BUS_MAX_REGIONS)
		return -ENOSPC;
	b->regions[b->n++] = *r;
	return 0;
}

static const struct bus_region *find(const struct bus *b, enum bus_kind kind, uint64_t addr,
				     unsigned size)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct bus_region *r = &b->regions[i];

		if (r->kind == kind && addr >= r->base && addr - r->base < r->len)
			return size <= r->len - (addr - r->base) ? r : NULL;
	}
	return NULL;
}

uint64_t bus_read(const struct bus *b, enum bus_kind kind, uint64_t addr, unsigned size)
{
	const struct bus_region *r = find(b, kind, addr, size);
	uint64_t mask = size < 8 ? (1ull << (size * 8)) - 1 : ~0ull;

	if (!r || !r->read)
		return mask;
	return r->read(r->arg, addr - r->base, size) & mask;
}

void bus_write(const struct bus *b, enum bus_kind kind, uint64_t addr, unsigned size, uint64_t val)
{
	const struct bus_region *r = find(b, kind, addr, size);

	if (r && r->write)
		r->write(r->arg, addr - r->base, size, val);
}
