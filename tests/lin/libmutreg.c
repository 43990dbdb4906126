/*
 * Ways to break a correct history: registers. Each comment says why no server could have given
 * these replies. g->value and g->version are the state after all operations; operations without
 * a reply may still change it, so a mutation never relies on a final state that was not seen.
 */
#include "tests/lin/gen.h"

#include <stdlib.h>

static uint32_t mutreg_key(struct gen *g)
{
	return g->h.recs[gen_random(g, g->h.n)].key;
}

static uint32_t mutreg_unknowns(const struct gen *g, uint32_t key)
{
	uint32_t n = 0;

	for (size_t i = 0; i < g->h.n; i++)
		n += g->h.recs[i].result == HISTORY_UNKNOWN && g->h.recs[i].key == key;
	return n;
}

static bool mutreg_get(struct gen *g, uint32_t key, uint64_t value, uint64_t version)
{
	struct history_rec r = gen_later(g, KV_GET, key);

	r.value = value;
	r.version = version;
	return !gen_add(g, &r, NULL);
}

/* An acknowledged put at the end, so that state is certain. */
static bool mutreg_put(struct gen *g, uint32_t key, uint64_t version, uint64_t *value)
{
	struct history_rec r = gen_later(g, KV_PUT, key);

	*value = r.a = r.value = g->next_id++;
	r.version = version;
	return !gen_add(g, &r, NULL);
}

/* The acknowledged put is gone: a later read shows the version before it. */
static bool mutreg_lost_write(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	return mutreg_put(g, key, g->version[key] + 1, &v) &&
	       mutreg_get(g, key, g->value[key], g->version[key]);
}

static bool mutreg_pair(struct gen *g, bool write, size_t *first, size_t *second)
{
	for (unsigned tries = 0; tries < 20000; tries++) {
		size_t i = gen_random(g, g->h.n), j = gen_random(g, g->h.n);
		const struct history_rec *a = &g->h.recs[i], *b = &g->h.recs[j];

		if (a->op != (write ? KV_PUT : KV_GET) || b->op != KV_GET || a->key != b->key ||
		    a->result != HISTORY_OK || b->result != HISTORY_OK || a->complete >= b->invoke)
			continue;
		if (!write && a->version >= b->version)
			continue;
		*first = i;
		*second = j;
		return true;
	}
	return false;
}

/* A read that began after put n was over shows version n - 1. */
static bool mutreg_stale_read(struct gen *g)
{
	size_t w, r;

	if (!mutreg_pair(g, true, &w, &r))
		return false;
	g->h.recs[r].version = g->h.recs[w].version - 1;
	g->h.recs[r].value = 0;
	for (size_t i = 0; i < g->h.n; i++)
		if (g->h.recs[i].op <= KV_CAS && g->h.recs[i].key == g->h.recs[r].key && i != r &&
		    g->h.recs[i].result == HISTORY_OK &&
		    g->h.recs[i].version == g->h.recs[r].version)
			g->h.recs[r].value = g->h.recs[i].value;
	return true;
}

/* Two reads, one after the other, exchange what they saw: the version goes back. */
static bool mutreg_read_back(struct gen *g)
{
	struct history_rec *a, *b;
	uint64_t value, version;
	size_t i, j;

	if (!mutreg_pair(g, false, &i, &j))
		return false;
	a = &g->h.recs[i];
	b = &g->h.recs[j];
	value = a->value;
	version = a->version;
	a->value = b->value;
	a->version = b->version;
	b->value = value;
	b->version = version;
	return true;
}

/* Two cas that expect the same value succeed one after the other. */
static bool mutreg_cas_twice(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	if (!mutreg_put(g, key, g->version[key] + 1, &v))
		return false;
	for (unsigned i = 0; i < 2; i++) {
		struct history_rec r = gen_later(g, KV_CAS, key);

		r.a = v;
		r.b = r.value = g->next_id++;
		r.version = g->version[key] + 2 + i;
		if (gen_add(g, &r, NULL))
			return false;
	}
	return true;
}

/* The value read was not in any request. */
static bool mutreg_never_written(struct gen *g)
{
	uint32_t key = mutreg_key(g);

	return mutreg_get(g, key, UINT64_MAX - g->next_id++, g->version[key] + 1);
}

/* A version is read with its value, then with another. */
static bool mutreg_two_values(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	return mutreg_put(g, key, g->version[key] + 1, &v) &&
	       mutreg_get(g, key, v, g->version[key] + 1) &&
	       mutreg_get(g, key, g->value[key], g->version[key] + 1);
}

/* Two puts made the same version. */
static bool mutreg_version_twice(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	return mutreg_put(g, key, g->version[key] + 1, &v) &&
	       mutreg_put(g, key, g->version[key] + 1, &v);
}

/* More versions than all unknown operations together can have made. */
static bool mutreg_version_skip(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	return mutreg_put(g, key, g->version[key] + 2 + mutreg_unknowns(g, key), &v);
}

/* A put answers with another value than it was asked to write. */
static bool mutreg_put_value(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v;

	if (!mutreg_put(g, key, g->version[key] + 1, &v))
		return false;
	g->h.recs[g->h.n - 1].value++;
	return true;
}

/* A cas is refused although it names the very value that it expected. */
static bool mutreg_cas_refused(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	struct history_rec r;
	uint64_t v;

	if (!mutreg_put(g, key, g->version[key] + 1, &v))
		return false;
	r = gen_later(g, KV_CAS, key);
	r.status = KV_MISMATCH;
	r.a = r.value = v;
	r.b = g->next_id++;
	r.version = g->version[key] + 1;
	return !gen_add(g, &r, NULL);
}

static bool mutreg_unknown_put(struct gen *g, uint32_t key, uint64_t value, uint64_t invoke)
{
	struct history_rec r = gen_later(g, KV_PUT, key);

	r.a = value;
	r.result = HISTORY_UNKNOWN;
	r.invoke = invoke ? invoke : r.invoke;
	r.complete = HISTORY_NEVER;
	return !gen_add(g, &r, NULL);
}

/* A read shows the value of an operation that began only after the read was over. */
static bool mutreg_before_invoked(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t v = g->next_id++;

	return mutreg_get(g, key, v, g->version[key] + 1) && mutreg_unknown_put(g, key, v, 0);
}

/* One operation without a reply takes effect twice. */
static bool mutreg_unknown_twice(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	uint64_t u = g->next_id++, v, version = g->version[key];

	return mutreg_unknown_put(g, key, u, 0) && mutreg_get(g, key, u, version + 1) &&
	       mutreg_put(g, key, version + 2, &v) && mutreg_get(g, key, u, version + 3);
}

/* A put that was refused takes effect. */
static bool mutreg_failed_effect(struct gen *g)
{
	uint32_t key = mutreg_key(g);
	struct history_rec r = gen_later(g, KV_PUT, key);

	r.a = g->next_id++;
	r.result = HISTORY_FAIL;
	r.status = KV_FULL;
	return !gen_add(g, &r, NULL) && mutreg_get(g, key, r.a, g->version[key] + 1);
}

/* The initial value is not 0. */
static bool mutreg_initial(struct gen *g)
{
	struct history_rec r = gen_later(g, KV_GET, mutreg_key(g));

	r.invoke = g->start - 20;
	r.complete = g->start - 10;
	r.value = 5;
	return !gen_add(g, &r, NULL);
}

/* A value is read before its put began. */
static bool mutreg_early_read(struct gen *g)
{
	for (unsigned tries = 0; tries < 20000; tries++) {
		const struct history_rec *w = &g->h.recs[gen_random(g, g->h.n)];
		struct history_rec r;

		if (w->op != KV_PUT || w->result != HISTORY_OK)
			continue;
		r = gen_later(g, KV_GET, w->key);
		r.invoke = g->start - 20;
		r.complete = w->invoke - 1;
		r.value = w->value;
		r.version = w->version;
		return !gen_add(g, &r, NULL);
	}
	return false;
}

const struct gen_mutation gen_register_mutations[] = {
	{"lost write", mutreg_lost_write},
	{"stale read", mutreg_stale_read},
	{"version goes back", mutreg_read_back},
	{"cas succeeds twice", mutreg_cas_twice},
	{"value never written", mutreg_never_written},
	{"version with two values", mutreg_two_values},
	{"version written twice", mutreg_version_twice},
	{"versions skipped", mutreg_version_skip},
	{"put answers another value", mutreg_put_value},
	{"cas refused for no reason", mutreg_cas_refused},
	{"effect before the call", mutreg_before_invoked},
	{"unknown operation twice", mutreg_unknown_twice},
	{"refused operation has effect", mutreg_failed_effect},
	{"initial value", mutreg_initial},
	{"read before the write", mutreg_early_read},
	{NULL, NULL},
};
