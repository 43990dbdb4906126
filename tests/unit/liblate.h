/*
 * Memory of which pages are still to come, for device tests: whoever touches one that is absent
 * ends the test, as nobody but a vCPU may.
 */
#ifndef TESTS_LIBLATE_H
#define TESTS_LIBLATE_H

#include "tests/unit/libvirtio.h"

struct late {
	struct mem *mem;
	struct mem_late ops;
	bool absent[RIG_MEM / MEM_PAGE_SIZE], asked[RIG_MEM / MEM_PAGE_SIZE];
};

void late_init(struct late *l, struct mem *m);
void late_take(struct late *l, gpa_t gpa);
/* It has come; was it asked for? */
bool late_bring(struct late *l, gpa_t gpa);

#endif
