#include "ft/common/steps.h"

#include <signal.h>
#include <stdbool.h>
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
struct at {
	int step; /* -1: none */
	int left;
};

static struct {
	struct at die, stop;
} asked;

static struct at parse(const char *env)
{
	const char *colon = env ? strchr(env, ':') : NULL;
	size_t len = colon ? (size_t)(colon - env) : env ? strlen(env) : 0;
	struct at at = {-1, colon ? atoi(colon + 1) : 1};

	for (int i = 0; env && i < STEP_MAX; i++)
		if (strlen(names[i]) == len && !strncmp(names[i], env, len))
			at.step = i;
	return at;
}

__attribute__((constructor)) static void read_environment(void)
{
	asked.die = parse(getenv("FTVMM_DIE_AT"));
	asked.stop = parse(getenv("FTVMM_STOP_AT"));
}

static bool is_now(struct at *at, enum step s)
{
	if (__builtin_expect((int)s != at->step, 1))
		return false;
	return __atomic_sub_fetch(&at->left, 1, __ATOMIC_RELAXED) == 0;
}

void step_reached(enum step s)
{
	if (is_now(&asked.stop, s))
		raise(SIGSTOP);
	if (!is_now(&asked.die, s))
		return;
	log_flush();
	kill(getpid(), SIGKILL);
}
