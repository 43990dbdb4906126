/*
 * Port and MMIO dispatch. Regions are added at set-up and never change while vCPUs run, so the
 * look-up needs no lock. Handlers run on vCPU threads: bounded, no I/O, under the device's lock.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdint.h>

#include "vmm/base/err.h"

enum bus_kind { BUS_PIO, BUS_MMIO };
#define BUS_MAX_REGIONS 32

/* off is relative to the region; size is 1, 2, 4 or 8 and lies wholly inside the region. */
typedef uint64_t bus_read_fn(void *arg, uint64_t off, unsigned size);
typedef void bus_write_fn(void *arg, uint64_t off, unsigned size, uint64_t val);

struct bus_region {
	enum bus_kind kind;
	uint64_t base, len;
	bus_read_fn *read;
	bus_write_fn *write;
	void *arg;
};

struct bus {
	struct bus_region regions[BUS_MAX_REGIONS];
	unsigned n;
};

/* -EEXIST when it overlaps another region, -ENOSPC when full. */
int bus_add(struct bus *b, const struct bus_region *r);
/* Nothing there: reads are all ones, writes are ignored (as on a PC). */
uint64_t bus_read(const struct bus *b, enum bus_kind kind, uint64_t addr, unsigned size);
void bus_write(const struct bus *b, enum bus_kind kind, uint64_t addr, unsigned size, uint64_t val);

#endif
