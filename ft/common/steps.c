#include "ft/common/steps.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/log.h"

static const char *const names[] = {
#define X(e, name) name,
	STEP_LIST(X)
#undef X
};

const char *step_name(enum step s)
{
	return s < STEP_MAX ? names[s] : "?";
}

/* The environment is process-wide and constant, and so is what is read from it, once. */
static struct {
	int step; /* -1: none */
	int left;
} die_at;

__attribute__((constructor)) static void read_environment(void)
{
	const char *env = getenv("FTVMM_DIE_AT");
	const char *colon = env ? strchr(env, ':') : NULL;
	size_t len = colon ? (size_t)(colon - env) : env ? strlen(env) : 0;

	die_at.step = -1;
	for (int i = 0; env && i < STEP_MAX; i++)
		if (strlen(names[i]) == len && !strncmp(names[i], env, len))
			die_at.step = i;
	die_at.left = colon ? atoi(colon + 1) : 1;
}

void step_reached(enum step s)
{
	if (__builtin_expect((int)s != die_at.step, 1))
		return;
	if (__atomic_sub_fetch(&die_at.left, 1, __ATOMIC_RELAXED) != 0)
		return;
	log_flush();
	kill(getpid(), SIGKILL);
}
