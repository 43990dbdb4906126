/*
 * Histories of a simulated world, one for each seed, each in a process of its own.
 * usage: sim [--seed N] [--runs N] [--seconds N] [--trace] [--shrink] ...: see tests/sim/README.md
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/sim/cover.h"
#include "tests/sim/edges.h"
#include "tests/sim/heap.h"
#include "tests/sim/history.h"
#include "tests/sim/memory.h"
#include "tests/sim/outcome.h"
#include "tests/sim/real.h"
#include "tests/sim/world.h"

/* A process that dies leaves what it had. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0:detect_stack_use_after_return=0";
}

struct asked {
	struct plan plan;
	uint64_t runs, seconds;
	const char *self, *seeds, *edges;
	bool trace, until_failure, rows, shrinks, hashes;
};

struct sums {
	uint64_t n, failed;
	uint64_t ns, pair_ns; /* of simulated time */
	uint64_t events;      /* faults, and what the operator did */
};

static bool take(struct asked *a, const char *name, const char *value)
{
	if (!strcmp(name, "--runs"))
		a->runs = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--seconds"))
		a->seconds = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--seeds"))
		a->seeds = value;
	else if (!strcmp(name, "--edges"))
		a->edges = value;
	else
		return plan_take(&a->plan, name, value);
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
		else if (!strcmp(argv[i], "--hashes"))
			a->hashes = true;
		else if (!strcmp(argv[i], "--shrink"))
			a->shrinks = true;
		else if (!strcmp(argv[i], "--until-failure"))
			a->until_failure = true;
		else if (i + 1 < argc && take(a, argv[i], argv[i + 1]))
			i++;
		else
			return false;
	return true;
}

static void say_shortest(const struct asked *a, const struct plan *p)
{
	struct plan best = *p;
	char options[4096];
	bool good;

	shrink(&best);
	plan_print(&best, options, sizeof(options));
	printf("shortest: %s %s --trace\n", a->self, options);
	history_live(&best, 1, SHOWS_STEPS, &good);
}

static void reckon(const struct asked *a, const struct plan *p, struct sums *s, bool good)
{
	char options[4096];

	s->n++;
	s->ns += outcome->lasted_ns;
	s->pair_ns += outcome->moves ? 0 : outcome->lasted_ns;
	for (unsigned f = 0; f < SWARM_MAX; f++)
		s->events += outcome->events[f];
	if (good)
		return;
	s->failed++;
	plan_print(p, options, sizeof(options));
	printf("not ok %s; step by step: %s %s --trace\n", options, a->self, options);
	if (a->shrinks)
		say_shortest(a, p);
}

/* From the plan's seed on, n or fewer; the plan is the next one's then. */
static void live(const struct asked *a, struct plan *p, uint64_t n, struct sums *s)
{
	enum history_shows shows = a->runs > 1 || a->seeds ? SHOWS_NOTHING : SHOWS_HASH;
	unsigned lived;
	bool good;

	shows = a->trace ? SHOWS_STEPS : a->hashes ? SHOWS_HASH : shows;
	lived = history_live(p, (unsigned)(n < OUTCOMES ? n : OUTCOMES), shows, &good);
	for (unsigned i = 0; i < lived; i++, p->seed++) {
		outcome = &outcomes->of[i];
		reckon(a, p, s, good || i + 1 < lived);
	}
}

static void live_many(const struct asked *a, struct sums *s)
{
	time_t until = REAL(time)(NULL) + (time_t)a->seconds;
	struct plan p = a->plan;

	while (s->n < a->runs && (!a->seconds || REAL(time)(NULL) < until) &&
	       !(a->until_failure && s->failed))
		live(a, &p, a->runs - s->n, s);
}

/* A line: options, then # and what they found. */
static bool parse_line(struct plan *p, char *line)
{
	char *rest, *name;

	line[strcspn(line, "#\n")] = 0;
	for (name = strtok_r(line, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
		const char *value = strtok_r(NULL, " ", &rest);

		if (!value || !plan_take(p, name, value))
			return false;
	}
	return true;
}

/* False: the file is not as it should be. */
static bool live_kept(const struct asked *a, struct sums *s)
{
	FILE *f = fopen(a->seeds, "r");
	char line[4096];
	bool good = f;

	while (good && fgets(line, sizeof(line), f)) {
		struct plan p = {0};

		if (line[0] == '#' || line[0] == '\n')
			continue;
		good = parse_line(&p, line);
		if (good && !(a->until_failure && s->failed))
			live(a, &p, 1, s);
	}
	if (f)
		fclose(f);
	if (!good)
		printf("not ok %s cannot be read, or has a line that is none\n", a->seeds);
	return good;
}

static double minutes(uint64_t ns)
{
	return (double)ns / 6e10;
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* By the time of the processor: others may be busy beside it. */
static void sum_up(const struct asked *a, const struct sums *s)
{
	struct rusage u;
	double took;

	getrusage(RUSAGE_CHILDREN, &u);
	took = seconds_of(u.ru_utime) + seconds_of(u.ru_stime);
	if (a->runs > 1) {
		cover_print(a->rows);
		printf("# %.1f minutes, %.1f of them of pairs, %.0f events in each, in %.1f s of "
		       "one "
		       "core: %.0f minutes a minute\n",
		       minutes(s->ns), minutes(s->pair_ns), (double)s->events / minutes(s->ns),
		       took, (double)s->ns / 1e9 / took);
	}
	printf("%s %llu histories from seed %llu, %llu with a violation\n",
	       s->failed ? "not ok" : "ok", (unsigned long long)s->n,
	       (unsigned long long)a->plan.seed, (unsigned long long)s->failed);
}

int main(int argc, char **argv)
{
	struct asked a = {.plan.seed = 1, .runs = 1, .self = argv[0]};
	struct sums s = {0};
	bool good = true;

	if (!parse(&a, argc, argv)) {
		printf("usage: %s [--seed N] [--runs N] [--seconds N] [--seeds FILE] [--edges "
		       "FILE] [--faults "
		       "a,b] "
		       "[--kind pair|colo|move|off] [--lasts MS] [--without a.0,b.2-4] "
		       "[--until-failure] "
		       "[--shrink] [--rows] [--hashes] [--trace] [--verbose]\n",
		       argv[0]);
		return 2;
	}
	heap_init();
	memory_init();
	cover_init();
	outcome_init();
	edges_init();
	if (a.seeds)
		good = live_kept(&a, &s);
	else
		live_many(&a, &s);
	sum_up(&a, &s);
	if (a.edges && !edges_print(a.edges)) {
		printf("not ok --edges: %s cannot be written, or this build does not count\n",
		       a.edges);
		good = false;
	}
	return s.failed > 0 || !good;
}
