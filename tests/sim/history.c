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
#include "tests/sim/fd.h"
#include "tests/sim/heap.h"
#include "tests/sim/memory.h"
#include "tests/sim/outcome.h"
#include "tests/sim/real.h"
#include "tests/sim/world.h"

#define STUCK_S 120 /* of real time: a history takes some hundredths of a second */

static void live(const struct plan *p, enum history_shows shows)
{
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
}

static void live_all(struct plan p, unsigned n, enum history_shows shows)
{
	if (shows == SHOWS_STEPS)
		setlinebuf(stdout);
	heap_mark();
	for (; n; n--, p.seed++) {
		outcome = &outcomes->of[outcomes->lived];
		live(&p, shows);
		outcomes->lived++;
		for (struct proc *of = proc_youngest; of; of = of->older)
			memory_leave(of);
		heap_rewind();
	}
	_exit(0);
}

/* Returns how many came to an end, the last of them a bad one. */
static unsigned run(const struct plan *p, unsigned n, enum history_shows shows, bool silent,
		    bool *good)
{
	unsigned max = heap_is_ours() ? OUTCOMES : 1;
	int status = 0;
	pid_t pid;

	n = n < max ? n : max;
	fflush(stdout);
	memset(outcomes, 0, sizeof(*outcomes));
	pid = fork();
	if (!pid) {
		if (silent)
			dup2(REAL(open)("/dev/null", O_WRONLY), STDOUT_FILENO);
		live_all(*p, n, shows);
	}
	waitpid(pid, &status, 0);
	*good = !status;
	if (*good)
		return outcomes->lived;
	outcome = &outcomes->of[outcomes->lived];
	if (WIFSIGNALED(status))
		snprintf(outcome->violated, sizeof(outcome->violated), "signal %d%s",
			 WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it never ends" : "");
	else if (!outcome->violated[0])
		snprintf(outcome->violated, sizeof(outcome->violated), "it ends with %d",
			 WEXITSTATUS(status));
	if (WIFSIGNALED(status) && !silent)
		printf("%s\n", outcome->violated);
	return outcomes->lived + 1;
}

unsigned history_live(const struct plan *p, unsigned n, enum history_shows shows, bool *good)
{
	return run(p, n, shows, false, good);
}

bool history_try(const struct plan *p)
{
	bool good;

	run(p, 1, SHOWS_NOTHING, true, &good);
	outcome = outcomes->of;
	return good;
}
