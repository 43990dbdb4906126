/*
 * Simulation of concurrent clients and one correct server. Every operation takes effect at a
 * moment between its call and its return; operations without a reply at any later one, or never.
 */
#include "tests/lin/gen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lin/load.h"

#define GEN_STEP 1000

struct gen_op {
	struct history_rec r;
	uint64_t effect; /* HISTORY_NEVER: none */
};

uint64_t gen_random(struct gen *g, uint64_t below)
{
	return below ? load_random(&g->rng) % below : 0;
}

static int gen_by_effect(const void *a, const void *b)
{
	const struct gen_op *x = a, *y = b;

	if (x->effect != y->effect)
		return x->effect < y->effect ? -1 : 1;
	return x->r.id < y->r.id ? -1 : x->r.id > y->r.id;
}

static void gen_times(struct gen *g, const struct gen_params *p, struct gen_op *ops)
{
	uint64_t clock[64];

	for (unsigned c = 0; c < p->clients; c++)
		clock[c] = g->start + gen_random(g, GEN_STEP);
	for (unsigned i = 0; i < p->ops; i++) {
		unsigned c = i % p->clients;
		uint64_t took = 2 + gen_random(g, GEN_STEP * p->spread / 100 + 1);
		struct history_rec *r = &ops[i].r;

		*r = (struct history_rec){.client = c + 1, .result = HISTORY_OK};
		r->id = (uint64_t)(c + 1) << 40 | (i + 1);
		r->invoke = clock[c];
		r->complete = clock[c] + took;
		ops[i].effect = clock[c] + 1 + gen_random(g, took - 1);
		clock[c] = r->complete + 1 + gen_random(g, GEN_STEP);
		if (gen_random(g, 1000) < p->unknown) {
			r->result = HISTORY_UNKNOWN;
			ops[i].effect = gen_random(g, 3)
						? ops[i].effect + gen_random(g, 20 * GEN_STEP)
						: HISTORY_NEVER;
			r->complete = HISTORY_NEVER;
		}
		g->end = clock[c] > g->end ? clock[c] : g->end;
	}
}

static void gen_choose(struct gen *g, const struct gen_params *p, struct history_rec *r)
{
	uint64_t dice = gen_random(g, 100), fresh = g->next_id++;

	r->key = (uint32_t)gen_random(g, p->keys);
	r->op = dice < 35   ? KV_GET
		: dice < 55 ? KV_PUT
		: dice < 75 ? KV_CAS
		: dice < 90 ? KV_APPEND
			    : KV_LIST;
	if (r->op == KV_PUT || r->op == KV_APPEND)
		r->a = fresh;
	if (r->op == KV_CAS) {
		r->a = gen_random(g, 3) ? g->value[r->key] : gen_random(g, fresh);
		r->b = fresh;
	}
	if (r->op == KV_LIST)
		r->a = gen_random(g, g->len[r->key] + 2);
}

static void gen_journal(struct gen *g, const struct history_rec *r)
{
	struct kv_record rec = {.id = r->id, .key = r->key};

	rec.op = r->op == KV_APPEND ? KV_APPEND : KV_PUT;
	rec.a = r->op == KV_CAS ? r->b : r->a;
	g->recs[g->nrecs++] = rec;
}

/* The model, written down a second time; returns how many list elements the reply carries. */
static void gen_execute(struct gen *g, struct history_rec *r)
{
	uint32_t k = r->key;

	if (r->op == KV_APPEND) {
		r->value = g->len[k];
		g->list[k][g->len[k]++] = r->a;
	} else if (r->op == KV_LIST) {
		uint64_t left = r->a < g->len[k] ? g->len[k] - r->a : 0;

		r->value = g->len[k];
		r->n = left < KV_LIST_PER_REP ? (uint32_t)left : KV_LIST_PER_REP;
	} else {
		if (r->op == KV_CAS && g->value[k] != r->a)
			r->status = KV_MISMATCH;
		else if (r->op != KV_GET)
			g->value[k] = r->op == KV_CAS ? r->b : r->a;
		g->version[k] += r->op != KV_GET && r->status == KV_OK;
		r->value = g->value[k];
		r->version = g->version[k];
	}
	if ((r->op == KV_PUT || r->op == KV_CAS || r->op == KV_APPEND) && r->status == KV_OK)
		gen_journal(g, r);
}

int gen_run(struct gen *g, const struct gen_params *p)
{
	struct gen_op *ops = calloc(p->ops, sizeof(*ops));
	int rc = ops ? 0 : -ENOMEM;

	memset(g, 0, sizeof(*g));
	g->rng = p->seed * 0x9e3779b97f4a7c15ull;
	g->start = 1000000;
	g->next_id = 1;
	g->recs = calloc(p->ops + 64, sizeof(*g->recs));
	for (unsigned k = 0; k < KV_LISTS; k++) {
		g->list[k] = calloc(p->ops + 64, sizeof(uint64_t));
		rc = g->list[k] ? rc : -ENOMEM;
	}
	if (rc || !g->recs) {
		free(ops);
		return -ENOMEM;
	}
	g->h.start_ns = g->start;
	gen_times(g, p, ops);
	qsort(ops, p->ops, sizeof(*ops), gen_by_effect);
	for (unsigned i = 0; i < p->ops && !rc; i++) {
		struct history_rec *r = &ops[i].r;
		const uint64_t *list;

		gen_choose(g, p, r);
		list = g->list[r->key % KV_LISTS] + (r->op == KV_LIST ? r->a : 0);
		if (ops[i].effect != HISTORY_NEVER)
			gen_execute(g, r);
		if (r->result == HISTORY_UNKNOWN) {
			r->status = 0;
			r->n = 0;
			r->value = 0;
			r->version = 0;
		}
		rc = history_add(&g->h, r, list);
	}
	free(ops);
	return rc;
}

void gen_free(struct gen *g)
{
	history_free(&g->h);
	free(g->recs);
	for (unsigned k = 0; k < KV_LISTS; k++)
		free(g->list[k]);
}

struct history_rec gen_later(struct gen *g, unsigned op, uint32_t key)
{
	struct history_rec r = {.client = 99, .op = (uint8_t)op, .result = HISTORY_OK};

	r.id = 99ull << 40 | g->next_id++;
	r.key = key;
	r.invoke = g->end + 10;
	r.complete = g->end + 20;
	g->end += 30;
	return r;
}

int gen_add(struct gen *g, const struct history_rec *r, const uint64_t *list)
{
	return history_add(&g->h, r, list);
}

int gen_write_image(struct gen *g, int fd)
{
	uint64_t seq = 0;

	if (ftruncate(fd, 0) || ftruncate(fd, (off_t)(g->nrecs + 8) * 512))
		return -errno;
	for (size_t i = 0; i < g->nrecs; seq++) {
		struct kv_sector s = {.magic = KV_JOURNAL_MAGIC, .seq = seq};

		s.nrecs = 1 + (uint32_t)gen_random(g, KV_JOURNAL_RECS);
		s.nrecs = s.nrecs < g->nrecs - i ? s.nrecs : (uint32_t)(g->nrecs - i);
		memcpy(s.recs, g->recs + i, s.nrecs * sizeof(*g->recs));
		i += s.nrecs;
		s.sum = kv_sum(&s);
		if (pwrite(fd, &s, sizeof(s), (off_t)(seq * sizeof(s))) != sizeof(s))
			return -EIO;
	}
	return 0;
}
