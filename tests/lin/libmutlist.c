/*
 * Ways to break a correct history: append lists, connections and streams. g->list and g->len are
 * the lists after all operations; each mutation adds operations that no list could have answered.
 */
#include "tests/lin/gen.h"

#include <stdlib.h>

static uint32_t mutlist_key(struct gen *g)
{
	return g->h.recs[gen_random(g, g->h.n)].key;
}

/* Append a fresh value, acknowledged at this index; g->list becomes what a server would have. */
static bool mutlist_append(struct gen *g, uint32_t key, uint64_t index)
{
	struct history_rec r = gen_later(g, KV_APPEND, key);

	r.a = g->next_id++;
	r.value = index;
	g->list[key][g->len[key]++] = r.a;
	return !gen_add(g, &r, NULL);
}

/* Read the last n elements of g->list, which is claimed to be len long. */
static bool mutlist_read(struct gen *g, uint32_t key, uint64_t len, uint32_t n)
{
	struct history_rec r = gen_later(g, KV_LIST, key);

	r.n = n < len ? n : (uint32_t)len;
	r.value = len;
	r.a = len - r.n;
	return !gen_add(g, &r, g->list[key] + r.a);
}

/* An acknowledged append is missing from a later read. */
static bool mutlist_vanish(struct gen *g)
{
	uint32_t key = mutlist_key(g);

	return mutlist_append(g, key, g->len[key]) && mutlist_read(g, key, g->len[key] - 1, 8);
}

/* One append shows up twice. */
static bool mutlist_twice(struct gen *g)
{
	uint32_t key = mutlist_key(g);

	if (!mutlist_append(g, key, g->len[key]))
		return false;
	g->list[key][g->len[key]] = g->list[key][g->len[key] - 1];
	g->len[key]++;
	return mutlist_read(g, key, g->len[key], 8);
}

/* Two appends were acknowledged in one order and are read in the other. */
static bool mutlist_reorder(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	uint64_t t, *l = g->list[key];

	if (!mutlist_append(g, key, g->len[key]) || !mutlist_append(g, key, g->len[key]))
		return false;
	t = l[g->len[key] - 1];
	l[g->len[key] - 1] = l[g->len[key] - 2];
	l[g->len[key] - 2] = t;
	return mutlist_read(g, key, g->len[key], 8);
}

/* Two appends got one index. */
static bool mutlist_same_index(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	uint64_t len = g->len[key];

	return mutlist_append(g, key, len) && mutlist_append(g, key, len);
}

/* A hole that all unknown appends together cannot fill. */
static bool mutlist_gap(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	uint64_t unknown = 0;

	for (size_t i = 0; i < g->h.n; i++)
		unknown += g->h.recs[i].result == HISTORY_UNKNOWN && g->h.recs[i].key == key;
	return mutlist_append(g, key, g->len[key] + unknown + 1);
}

/* An element that nobody appended. */
static bool mutlist_phantom(struct gen *g)
{
	uint32_t key = mutlist_key(g);

	g->list[key][g->len[key]++] = UINT64_MAX - g->next_id++;
	return mutlist_read(g, key, g->len[key], 8);
}

/* A read has fewer elements than its length says. */
static bool mutlist_short(struct gen *g)
{
	uint32_t key = mutlist_key(g);

	if (!mutlist_append(g, key, g->len[key]) || !mutlist_read(g, key, g->len[key], 8))
		return false;
	g->h.recs[g->h.n - 1].n--;
	return true;
}

/* A read shows an element whose append began only after the read was over. */
static bool mutlist_early(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	struct history_rec *append;

	if (!mutlist_append(g, key, g->len[key]) || !mutlist_read(g, key, g->len[key], 8))
		return false;
	append = &g->h.recs[g->h.n - 2];
	append->invoke = g->end;
	append->complete = g->end + 5;
	g->end += 10;
	return true;
}

/* The list is shorter in a later read. */
static bool mutlist_shrink(struct gen *g)
{
	uint32_t key = mutlist_key(g);

	return mutlist_append(g, key, g->len[key]) && mutlist_read(g, key, g->len[key], 8) &&
	       mutlist_read(g, key, g->len[key] - 1, 8);
}

/* Two appends, one after the other, get indices in the wrong order. */
static bool mutlist_wrong_order(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	uint64_t len = g->len[key];

	return mutlist_append(g, key, len + 1) && mutlist_append(g, key, len);
}

/* An append without a reply takes effect twice. */
static bool mutlist_unknown_twice(struct gen *g)
{
	uint32_t key = mutlist_key(g);
	struct history_rec *r;

	if (!mutlist_append(g, key, g->len[key]))
		return false;
	r = &g->h.recs[g->h.n - 1];
	r->result = HISTORY_UNKNOWN;
	r->complete = HISTORY_NEVER;
	r->value = 0;
	g->list[key][g->len[key]] = g->list[key][g->len[key] - 1];
	g->len[key]++;
	return mutlist_read(g, key, g->len[key], 8);
}

static bool mutlist_event(struct gen *g, unsigned op, unsigned result)
{
	struct history_rec r = gen_later(g, op, 7);

	r.result = (uint8_t)result;
	return !gen_add(g, &r, NULL);
}

static bool mutlist_conn_lost(struct gen *g)
{
	return mutlist_event(g, HISTORY_CONN_LOST, HISTORY_OK);
}

static bool mutlist_stream(struct gen *g)
{
	return mutlist_event(g, HISTORY_STREAM, HISTORY_FAIL);
}

static bool mutlist_answered_twice(struct gen *g)
{
	return mutlist_event(g, HISTORY_DUP_DIFF, HISTORY_OK);
}

static bool mutlist_bad_reply(struct gen *g)
{
	return mutlist_event(g, HISTORY_BAD_REPLY, HISTORY_OK);
}

const struct gen_mutation gen_list_mutations[] = {
	{"append vanishes", mutlist_vanish},
	{"append shows twice", mutlist_twice},
	{"list reordered", mutlist_reorder},
	{"index given twice", mutlist_same_index},
	{"hole in the list", mutlist_gap},
	{"element never appended", mutlist_phantom},
	{"list read too short", mutlist_short},
	{"element before its append", mutlist_early},
	{"list shrinks", mutlist_shrink},
	{"appends in wrong order", mutlist_wrong_order},
	{"unknown append twice", mutlist_unknown_twice},
	{"connection lost", mutlist_conn_lost},
	{"byte stream differs", mutlist_stream},
	{"answered twice", mutlist_answered_twice},
	{"bad reply", mutlist_bad_reply},
	{NULL, NULL},
};
