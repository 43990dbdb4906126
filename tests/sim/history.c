#define _GNU_SOURCE
#include "tests/sim/history.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/edges.h"
#include "tests/sim/outcome.h"
#include "tests/sim/real.h"
#include "tests/sim/world.h"

#define STUCK_S 120 /* of real time: a history takes some hundredths of a second */

static void live(const struct plan *p, enum history_shows shows)
{
	if (shows == SHOWS_STEPS)
		setlinebuf(stdout);
	alarm(STUCK_S);
	trace_show(shows == SHOWS_STEPS);
	plan = *p;
	world_live();
	outcome->lasted_ns = world_now() - 1000 * SEC;
	outcome->hash = trace_hash();
	edges_keep();
	if (shows != SHOWS_NOTHING)
		printf("seed %llu: history %016llx, %.1f s\n", (unsigned long long)p->seed,
		       (unsigned long long)trace_hash(), (double)(outcome->lasted_ns / MS) / 1000);
	fflush(stdout);
	_exit(0);
}

static bool run(const struct plan *p, enum history_shows shows, bool silent)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	memset(outcome, 0, sizeof(*outcome));
	pid = fork();
	if (!pid) {
		if (silent)
			dup2(REAL(open)("/dev/null", O_WRONLY), STDOUT_FILENO);
		live(p, shows);
	}
	waitpid(pid, &status, 0);
	if (!status)
		return true;
	if (WIFSIGNALED(status))
		snprintf(outcome->violated, sizeof(outcome->violated), "signal %d%s",
			 WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it never ends" : "");
	else if (!outcome->violated[0])
		snprintf(outcome->violated, sizeof(outcome->violated), "it ends with %d",
			 WEXITSTATUS(status));
	if (WIFSIGNALED(status) && !silent)
		printf("%s\n", outcome->violated);
	return false;
}

bool history_live(const struct plan *p, enum history_shows shows)
{
	return run(p, shows, false);
}

bool history_try(const struct plan *p)
{
	return run(p, SHOWS_NOTHING, true);
}
