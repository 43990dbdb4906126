#include "tests/unit/liblate.h"

#include <sys/mman.h>

static bool late_ready(void *arg, uint64_t page, uint64_t n)
{
	struct late *l = arg;
	bool here = true;

	for (uint64_t end = page + n; page < end; page++) {
		l->asked[page] |= l->absent[page];
		here &= !l->absent[page];
	}
	return here;
}

void late_init(struct late *l, struct mem *m)
{
	*l = (struct late){.mem = m, .ops = {.ready = late_ready, .arg = l}};
	m->late = &l->ops;
}

void late_take(struct late *l, gpa_t gpa)
{
	uint64_t page = gpa / MEM_PAGE_SIZE;

	l->absent[page] = true;
	l->asked[page] = false;
	assert_int_equal(mprotect(mem_page(l->mem, page), MEM_PAGE_SIZE, PROT_NONE), 0);
}

bool late_bring(struct late *l, gpa_t gpa)
{
	uint64_t page = gpa / MEM_PAGE_SIZE;

	l->absent[page] = false;
	assert_int_equal(mprotect(mem_page(l->mem, page), MEM_PAGE_SIZE, PROT_READ | PROT_WRITE),
			 0);
	return l->asked[page];
}
