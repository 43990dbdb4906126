/*
 * selftest: is the checker right? Correct random histories must pass; histories broken in a known
 * way must fail; on tiny histories, broken or not, it must agree with trying every order.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lin/check.h"
#include "tests/lin/gen.h"

#define GOOD	  60
#define SEEDS	  4
#define TINY	  40000
#define TINY_OPS  11
#define TINY_SEED 1000000

struct selftest {
	int fd; /* memory file for images and histories */
	char path[64];
	unsigned passed, failed, skipped;
	unsigned tiny_good, tiny_bad;
};

static void selftest_note(struct selftest *t, bool ok, const char *what, const char *name,
			  uint64_t seed, const struct check_report *r)
{
	if (ok) {
		t->passed++;
		return;
	}
	t->failed++;
	printf("FAIL %s: %s, seed %" PRIu64 ": verdict %d %s\n", what, name, seed, r->verdict,
	       r->why);
	for (unsigned i = 0; i < r->nevidence; i++)
		printf("  %s\n", r->evidence[i]);
}

static struct gen_params selftest_params(uint64_t seed)
{
	struct gen_params p = {.seed = seed,
			       .clients = 1 + (unsigned)(seed * 7 % 16),
			       .keys = 1 + (unsigned)(seed % 4),
			       .ops = 200 + (unsigned)(seed * 37 % 600)};

	p.unknown = (unsigned)(seed % 5) * 30;
	p.spread = 50 + (unsigned)(seed % 3) * 400;
	return p;
}

static struct check_report selftest_check(struct gen *g, bool search_only)
{
	struct check_options o = check_defaults;
	struct check_report r = {0};

	o.search_only = search_only;
	check_history(&g->h, &o, &r);
	return r;
}

static struct check_report selftest_check_image(struct selftest *t, struct gen *g)
{
	struct check_report r = {0};

	journal_check(&g->h, t->path, &check_defaults, &r);
	return r;
}

static void selftest_good(struct selftest *t, uint64_t seed)
{
	struct gen_params p = selftest_params(seed);
	struct check_report r = {0};
	struct gen g;
	bool ok = !gen_run(&g, &p);

	if (ok) {
		r = selftest_check(&g, seed % 2);
		ok = r.verdict == CHECK_OK && !gen_write_image(&g, t->fd);
	}
	if (ok) {
		r = selftest_check_image(t, &g);
		ok = r.verdict == CHECK_OK && r.records == g.nrecs;
	}
	selftest_note(t, ok, "good", "simulated history", seed, &r);
	gen_free(&g);
}

/* Registers are checked twice: by the invariants and by the search alone. */
static void selftest_bad(struct selftest *t, const struct gen_mutation *m, uint64_t seed)
{
	struct gen_params p = selftest_params(seed);
	struct check_report r = {0}, alone = {0};
	struct gen g;

	if (gen_run(&g, &p) || !m->apply(&g)) {
		t->skipped++;
	} else {
		r = selftest_check(&g, false);
		alone = selftest_check(&g, true);
		selftest_note(t, r.verdict == CHECK_VIOLATION, "bad", m->name, seed, &r);
		selftest_note(t, alone.verdict == CHECK_VIOLATION, "bad, search only", m->name,
			      seed, &alone);
	}
	gen_free(&g);
}

static void selftest_bad_image(struct selftest *t, const struct gen_image_mutation *m,
			       uint64_t seed)
{
	struct gen_params p = selftest_params(seed);
	struct check_report r = {0};
	struct gen g;

	if (gen_run(&g, &p) || gen_write_image(&g, t->fd) || !m->apply(&g, t->fd)) {
		t->skipped++;
	} else {
		r = selftest_check_image(t, &g);
		selftest_note(t, r.verdict == CHECK_VIOLATION, "bad journal", m->name, seed, &r);
	}
	gen_free(&g);
}

/* One random change to one reply or time; whether it matters is for the judge to say. */
static void selftest_disturb(struct gen *g)
{
	struct history_rec *r = &g->h.recs[gen_random(g, g->h.n)];

	switch (gen_random(g, 5)) {
	case 0:
		r->version += r->op <= KV_CAS && r->result == HISTORY_OK ? gen_random(g, 3) - 1 : 0;
		break;
	case 1:
		r->value = r->result == HISTORY_OK ? gen_random(g, 4) : 0;
		break;
	case 2:
		r->invoke -= gen_random(g, 3000);
		break;
	case 3:
		if (r->result == HISTORY_OK)
			r->complete = r->invoke + gen_random(g, 3000);
		break;
	default:
		if (r->op == KV_LIST && r->n)
			g->h.elems[g->h.list_at[r - g->h.recs]] = gen_random(g, 6) + 1;
		if (r->op == KV_PUT && gen_random(g, 2))
			r->a = gen_random(g, 4);
		break;
	}
}

static void selftest_tiny(struct selftest *t, uint64_t seed)
{
	struct gen_params p = {.seed = seed + TINY_SEED,
			       .clients = 1 + (unsigned)(seed % 4),
			       .keys = 1,
			       .ops = 2 + (unsigned)(seed % (TINY_OPS - 1)),
			       .unknown = (unsigned)(seed % 3) * 150,
			       .spread = 200};
	struct check_report r, alone;
	struct history part = {0};
	struct gen g;
	bool good;

	if (gen_run(&g, &p)) {
		t->failed++;
		return;
	}
	for (unsigned i = 0; i < seed % 7; i++)
		selftest_disturb(&g);
	for (size_t i = 0; i < g.h.n; i++) /* registers and lists alternate: one key each */
		if ((g.h.recs[i].op >= KV_APPEND) == (seed / 2 % 2) &&
		    history_add(&part, &g.h.recs[i], history_list(&g.h, i)))
			t->failed++;
	history_free(&g.h);
	g.h = part;
	good = brute_linearizable(&g.h);
	*(good ? &t->tiny_good : &t->tiny_bad) += 1;
	r = selftest_check(&g, false);
	alone = selftest_check(&g, true);
	selftest_note(t, r.verdict == (good ? CHECK_OK : CHECK_VIOLATION), "tiny",
		      good ? "linearizable" : "not linearizable", seed, &r);
	selftest_note(t, alone.verdict == (good ? CHECK_OK : CHECK_VIOLATION), "tiny, search only",
		      good ? "linearizable" : "not linearizable", seed, &alone);
	gen_free(&g);
}

static unsigned selftest_all_bad(struct selftest *t)
{
	unsigned kinds = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		kinds = 0;
		for (const struct gen_mutation *m = gen_register_mutations; m->name; m++, kinds++)
			selftest_bad(t, m, 100 * seed + kinds);
		for (const struct gen_mutation *m = gen_list_mutations; m->name; m++, kinds++)
			selftest_bad(t, m, 100 * seed + kinds);
		for (const struct gen_image_mutation *m = gen_journal_mutations; m->name;
		     m++, kinds++)
			selftest_bad_image(t, m, 100 * seed + kinds);
	}
	return kinds;
}

int main(void)
{
	struct selftest t = {.fd = memfd_create("selftest", MFD_CLOEXEC)};
	unsigned kinds;
	bool enough;

	if (t.fd < 0)
		return 2;
	snprintf(t.path, sizeof(t.path), "/proc/self/fd/%d", t.fd);
	for (uint64_t seed = 1; seed <= GOOD; seed++)
		selftest_good(&t, seed);
	kinds = selftest_all_bad(&t);
	for (uint64_t seed = 1; seed <= TINY; seed++)
		selftest_tiny(&t, seed);
	/* Too few of either kind would make agreement worth little. */
	enough =
		t.tiny_good > TINY / 10 && t.tiny_bad > TINY / 10 && t.skipped * 10 < kinds * SEEDS;
	printf("selftest: %u good, %u kinds of bad with %u seeds each, %u + %u tiny ones: "
	       "%u checks passed, %u failed, %u not applicable%s\n",
	       GOOD, kinds, SEEDS, t.tiny_good, t.tiny_bad, t.passed, t.failed, t.skipped,
	       enough ? "" : ", not enough of each kind");
	return t.failed || !enough;
}
