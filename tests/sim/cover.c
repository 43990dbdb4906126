#define _GNU_SOURCE
#include "tests/sim/cover.h"

#include <stdio.h>
#include <sys/mman.h>

#include "tests/sim/real.h"

#define TABLES	 4
#define ROWS_MAX 256

static const struct fsm_desc *const tables[TABLES] = {&primary_desc, &secondary_desc, &source_desc,
						      &dest_desc};
static uint32_t (*taken)[ROWS_MAX];

void cover_init(void)
{
	taken = REAL(mmap)(NULL, TABLES * sizeof(*taken), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void count(unsigned table, unsigned state, unsigned event)
{
	const struct fsm_desc *d = tables[table];

	for (unsigned i = 0; i < d->nrows; i++)
		if (d->rows[i].state == state && d->rows[i].event == event)
			__atomic_fetch_add(&taken[table][i], 1, __ATOMIC_RELAXED);
}

static void look(unsigned table, const struct fsm *f, uint64_t *seen)
{
	if (f->steps < *seen || f->steps - *seen > FSM_TRACE)
		*seen = f->steps > FSM_TRACE ? f->steps - FSM_TRACE : 0;
	for (; *seen < f->steps; ++*seen) {
		unsigned at = *seen % FSM_TRACE;

		count(table, f->trace[at].state, f->trace[at].event);
	}
}

void cover_look(struct proc *p)
{
	if (!p->run)
		return;
	look(0, &p->run->primary.fsm, &p->table_steps[0]);
	look(1, &p->run->secondary.fsm, &p->table_steps[1]);
	look(2, &p->run->source.fsm, &p->table_steps[2]);
	look(3, &p->run->dest.fsm, &p->table_steps[3]);
}

void cover_print(bool all)
{
	for (unsigned t = 0; t < TABLES; t++) {
		const struct fsm_desc *d = tables[t];
		unsigned n = 0;

		for (unsigned i = 0; i < d->nrows; i++)
			n += taken[t][i] > 0;
		printf("# %s: %u of %u rows taken\n", d->name, n, (unsigned)d->nrows);
		for (unsigned i = 0; all && i < d->nrows; i++)
			if (!taken[t][i])
				printf("#   not: %s, %s\n", d->states[d->rows[i].state],
				       d->events[d->rows[i].event]);
	}
}
