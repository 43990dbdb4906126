/*
 * Histories of a simulated world, one for each seed, each in a process of its own.
 * usage: sim [--seed N] [--runs N] [--seconds N] [--faults a,b,c] [--kind pair|move] [--trace]
 * [--verbose]
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/cover.h"
#include "tests/sim/real.h"
#include "tests/sim/world.h"

#define STUCK_S 120 /* of real time: a history takes some hundredths of a second */

/* A process that dies leaves what it had. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0:detect_stack_use_after_return=0";
}

struct asked {
	uint64_t seed, runs, seconds;
	bool trace, until_failure, rows;
};

static void live(const struct asked *a, uint64_t seed)
{
	if (a->trace)
		setlinebuf(stdout);
	alarm(STUCK_S);
	trace_show(a->trace);
	world_live(seed);
	if (a->runs == 1)
		printf("seed %llu: history %016llx, %.1f s\n", (unsigned long long)seed,
		       (unsigned long long)trace_hash(), (double)(world_now() / MS) / 1000 - 1000);
	fflush(stdout);
	_exit(0);
}

/* False: something was violated. */
static bool live_apart(const struct asked *a, const char *self, uint64_t seed)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		live(a, seed);
	waitpid(pid, &status, 0);
	if (!status)
		return true;
	if (WIFSIGNALED(status))
		printf("signal %d%s\n", WTERMSIG(status),
		       WTERMSIG(status) == SIGALRM ? ": it never ends" : "");
	printf("not ok seed %llu; step by step: %s --trace --seed %llu\n", (unsigned long long)seed,
	       self, (unsigned long long)seed);
	return false;
}

static bool take(struct asked *a, const char *name, const char *value)
{
	if (!strcmp(name, "--seed"))
		a->seed = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--runs"))
		a->runs = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--seconds"))
		a->seconds = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--kind"))
		world_set_kind(*value);
	else if (!strcmp(name, "--faults"))
		world_set_faults(value);
	else
		return false;
	return true;
}

static bool parse(struct asked *a, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--trace"))
			a->trace = true;
		else if (!strcmp(argv[i], "--verbose"))
			world_set_verbose(true);
		else if (!strcmp(argv[i], "--rows"))
			a->rows = true;
		else if (!strcmp(argv[i], "--until-failure"))
			a->until_failure = true;
		else if (i + 1 < argc && take(a, argv[i], argv[i + 1]))
			i++;
		else
			return false;
	return true;
}

int main(int argc, char **argv)
{
	struct asked a = {.seed = 1, .runs = 1};
	uint64_t failed = 0, n = 0;
	time_t until;

	if (!parse(&a, argc, argv)) {
		printf("usage: %s [--seed N] [--runs N] [--seconds N] [--faults a,b] [--kind "
		       "pair|move] "
		       "[--until-failure] [--rows] [--trace] [--verbose]\n",
		       argv[0]);
		return 2;
	}
	cover_init();
	until = REAL(time)(NULL) + (time_t)a.seconds;
	while (n < a.runs && (!a.seconds || REAL(time)(NULL) < until) &&
	       !(a.until_failure && failed))
		failed += !live_apart(&a, argv[0], a.seed + n++);
	if (a.runs > 1)
		cover_print(a.rows);
	printf("%s %llu histories from seed %llu, %llu with a violation\n",
	       failed ? "not ok" : "ok", (unsigned long long)n, (unsigned long long)a.seed,
	       (unsigned long long)failed);
	return failed > 0;
}
