#include "tests/unit/libsteps.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define WHILE_MS 50

void __wrap_step_reached(enum step s);

static _Thread_local char seen[4096];
static atomic_uint counts[STEP_MAX];
static atomic_int linger_at; /* 1 + step, 0: none */

void __wrap_step_reached(enum step s)
{
	int here = (int)s + 1;
	size_t n = strlen(seen);

	atomic_fetch_add(&counts[s], 1);
	snprintf(seen + n, sizeof(seen) - n, "%s%s", n ? " " : "", step_name(s));
	if (atomic_compare_exchange_strong(&linger_at, &here, 0))
		poll(NULL, 0, WHILE_MS);
}

void steps_reset(void)
{
	seen[0] = 0;
	for (unsigned i = 0; i < STEP_MAX; i++)
		counts[i] = 0;
}

unsigned steps_count(enum step s)
{
	return counts[s];
}

const char *steps_seen(void)
{
	return seen;
}

void steps_linger(enum step s)
{
	linger_at = (int)s + 1;
}
