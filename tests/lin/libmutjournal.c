/*
 * Ways to break a correct journal: in its records, before the image is written again, or in the
 * image itself. Every acknowledged write must be there once, as asked, in the order clients saw.
 */
#include "tests/lin/gen.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct history_rec *mutjournal_op(struct gen *g, size_t rec)
{
	for (size_t i = 0; i < g->h.n; i++)
		if (g->h.recs[i].id == g->recs[rec].id)
			return &g->h.recs[i];
	return NULL;
}

/* A record whose operation was acknowledged. */
static bool mutjournal_pick(struct gen *g, size_t *at)
{
	for (unsigned tries = 0; g->nrecs && tries < 10000; tries++) {
		*at = gen_random(g, g->nrecs);
		if (mutjournal_op(g, *at)->result == HISTORY_OK)
			return true;
	}
	return false;
}

static void mutjournal_insert(struct gen *g, size_t at, const struct kv_record *rec)
{
	struct kv_record copy = *rec;

	memmove(g->recs + at + 1, g->recs + at, (g->nrecs - at) * sizeof(*g->recs));
	g->recs[at] = copy;
	g->nrecs++;
}

static bool mutjournal_missing(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	memmove(g->recs + at, g->recs + at + 1, (--g->nrecs - at) * sizeof(*g->recs));
	return !gen_write_image(g, fd);
}

/* The end is missing, and with it at least one acknowledged write. */
static bool mutjournal_cut(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	g->nrecs = at;
	return !gen_write_image(g, fd);
}

static bool mutjournal_value(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	g->recs[at].a ^= 1ull << gen_random(g, 64);
	return !gen_write_image(g, fd);
}

static bool mutjournal_key(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	g->recs[at].key ^= 1;
	return !gen_write_image(g, fd);
}

static bool mutjournal_key_range(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	g->recs[at].key |= 0x80000000u;
	return !gen_write_image(g, fd);
}

static bool mutjournal_kind(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	g->recs[at].op = g->recs[at].op == KV_PUT ? KV_APPEND : KV_PUT;
	return !gen_write_image(g, fd);
}

static bool mutjournal_twice(struct gen *g, int fd)
{
	size_t at;

	if (!mutjournal_pick(g, &at))
		return false;
	mutjournal_insert(g, at + gen_random(g, g->nrecs - at), &g->recs[at]);
	return !gen_write_image(g, fd);
}

/* Two acknowledged writes of one key change places. */
static bool mutjournal_swap(struct gen *g, int fd)
{
	for (unsigned tries = 0; tries < 20000; tries++) {
		struct kv_record t;
		size_t i, j;

		if (!mutjournal_pick(g, &i) || !mutjournal_pick(g, &j))
			return false;
		if (i == j || g->recs[i].key != g->recs[j].key || g->recs[i].op != g->recs[j].op)
			continue;
		t = g->recs[i];
		g->recs[i] = g->recs[j];
		g->recs[j] = t;
		return !gen_write_image(g, fd);
	}
	return false;
}

/* The first write of a key, acknowledged, comes after one of another key that began later. */
static bool mutjournal_order(struct gen *g, int fd)
{
	for (size_t i = 0; i + 1 < g->nrecs; i++) {
		const struct history_rec *a = mutjournal_op(g, i), *b = mutjournal_op(g, i + 1);
		struct kv_record t = g->recs[i];

		if (a->key == b->key || a->complete >= b->invoke)
			continue;
		g->recs[i] = g->recs[i + 1];
		g->recs[i + 1] = t;
		return !gen_write_image(g, fd);
	}
	return false;
}

static bool mutjournal_foreign(struct gen *g, int fd)
{
	struct kv_record rec = {.id = 77ull << 40, .a = 1, .op = KV_PUT};

	mutjournal_insert(g, g->nrecs, &rec);
	return !gen_write_image(g, fd);
}

/* A write that was refused is in the journal. */
static bool mutjournal_refused(struct gen *g, int fd)
{
	struct history_rec r = gen_later(g, KV_PUT, 0);
	struct kv_record rec = {.id = r.id, .op = KV_PUT};

	rec.a = r.a = g->next_id++;
	r.result = HISTORY_FAIL;
	r.status = KV_FULL;
	if (gen_add(g, &r, NULL))
		return false;
	mutjournal_insert(g, g->nrecs, &rec);
	return !gen_write_image(g, fd);
}

/* Change one sector that holds an acknowledged write; recovery would stop there. */
static bool mutjournal_sector(struct gen *g, int fd, void (*change)(struct kv_sector *s))
{
	for (off_t at = 0;; at += 512) {
		struct kv_sector s;
		bool acked = false;

		if (pread(fd, &s, sizeof(s), at) != sizeof(s) || s.magic != KV_JOURNAL_MAGIC)
			return false;
		for (uint32_t i = 0; i < s.nrecs; i++)
			for (size_t j = 0; j < g->h.n; j++)
				acked |= g->h.recs[j].id == s.recs[i].id &&
					 g->h.recs[j].result == HISTORY_OK;
		if (!acked || gen_random(g, 3))
			continue;
		change(&s);
		return pwrite(fd, &s, sizeof(s), at) == sizeof(s);
	}
}

static void mutjournal_set_sum(struct kv_sector *s)
{
	s->sum ^= 1;
}

static void mutjournal_set_seq(struct kv_sector *s)
{
	s->seq++;
	s->sum = kv_sum(s);
}

static void mutjournal_set_torn(struct kv_sector *s)
{
	memset((uint8_t *)s + 64, 0, 448);
}

static void mutjournal_set_count(struct kv_sector *s)
{
	s->nrecs = KV_JOURNAL_RECS + 1;
	s->sum = kv_sum(s);
}

static void mutjournal_set_zero(struct kv_sector *s)
{
	memset(s, 0, sizeof(*s));
}

static bool mutjournal_sum(struct gen *g, int fd)
{
	return mutjournal_sector(g, fd, mutjournal_set_sum);
}

static bool mutjournal_seq(struct gen *g, int fd)
{
	return mutjournal_sector(g, fd, mutjournal_set_seq);
}

static bool mutjournal_torn(struct gen *g, int fd)
{
	return mutjournal_sector(g, fd, mutjournal_set_torn);
}

static bool mutjournal_count(struct gen *g, int fd)
{
	return mutjournal_sector(g, fd, mutjournal_set_count);
}

static bool mutjournal_zero(struct gen *g, int fd)
{
	return mutjournal_sector(g, fd, mutjournal_set_zero);
}

const struct gen_image_mutation gen_journal_mutations[] = {
	{"record missing", mutjournal_missing},
	{"end missing", mutjournal_cut},
	{"record with another value", mutjournal_value},
	{"record of another key", mutjournal_key},
	{"record of an impossible key", mutjournal_key_range},
	{"record of another kind", mutjournal_kind},
	{"record twice", mutjournal_twice},
	{"records of a key swapped", mutjournal_swap},
	{"records against time", mutjournal_order},
	{"record nobody asked for", mutjournal_foreign},
	{"record of a refused write", mutjournal_refused},
	{"sector with a wrong sum", mutjournal_sum},
	{"sector with a wrong number", mutjournal_seq},
	{"sector torn", mutjournal_torn},
	{"sector with a wrong count", mutjournal_count},
	{"sector empty", mutjournal_zero},
	{NULL, NULL},
};
