#include "tests/unit/libsteps.h"

#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"

void __wrap_step_reached(enum step s);

static _Thread_local char seen[4096];

void __wrap_step_reached(enum step s)
{
	size_t n = strlen(seen);

	snprintf(seen + n, sizeof(seen) - n, "%s%s", n ? " " : "", step_name(s));
}

void steps_reset(void)
{
	seen[0] = 0;
}

const char *steps_seen(void)
{
	return seen;
}
