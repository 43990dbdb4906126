/* Splits a history by key and runs the checks; keeps the first problem and its evidence. */
#include "tests/lin/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guests/kv_proto.h"

const struct check_options check_defaults = {
	.steps = 20 * 1000 * 1000,
	.memo_bytes = 256u << 20,
};

void check_fail(struct check_report *r, enum check_verdict v, const struct history *h,
		const struct history_rec *a, const struct history_rec *b, const char *fmt, ...)
{
	const struct history_rec *rec[2] = {a, b};
	va_list ap;

	/* A violation replaces "undecided"; otherwise the first problem stays. */
	if (r->verdict == CHECK_VIOLATION || (r->verdict && v != CHECK_VIOLATION))
		return;
	r->verdict = v;
	va_start(ap, fmt);
	vsnprintf(r->why, sizeof(r->why), fmt, ap);
	va_end(ap);
	r->nevidence = 0;
	for (unsigned i = 0; i < 2; i++)
		if (rec[i])
			history_print(rec[i], h->start_ns, r->evidence[r->nevidence++],
				      sizeof(r->evidence[0]));
}

static void check_events(const struct history *h, const struct check_options *o,
			 struct check_report *r)
{
	for (size_t i = 0; i < h->n; i++) {
		const struct history_rec *e = &h->recs[i];

		if (e->op == HISTORY_CONN_LOST && !o->allow_conn_lost)
			check_fail(r, CHECK_VIOLATION, h, e, NULL,
				   "client %u lost its TCP connection to port %u after %" PRIu64
				   " bytes",
				   e->client, e->key, e->a);
		if (e->op == HISTORY_STREAM && e->result == HISTORY_FAIL)
			check_fail(r, CHECK_VIOLATION, h, e, NULL,
				   "byte stream of client %u on port %u differs at offset %" PRIu64,
				   e->client, e->key, e->value);
		if (e->op == HISTORY_DUP_DIFF)
			check_fail(r, CHECK_VIOLATION, h, e, NULL,
				   "operation %" PRIx64 " was answered twice, differently", e->id);
		if (e->op == HISTORY_BAD_REPLY)
			check_fail(r, CHECK_VIOLATION, h, e, NULL,
				   "client %u got a reply that does not fit its request",
				   e->client);
	}
}

struct check_id {
	uint64_t id;
	size_t rec;
};

static int check_id_cmp(const void *a, const void *b)
{
	const struct check_id *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

/* Two records of one id mean that files overlap: any verdict on them would be worthless. */
static void check_ids(const struct history *h, struct check_report *r)
{
	struct check_id *ids = calloc(h->n + 1, sizeof(*ids));
	size_t n = 0;

	if (!ids) {
		check_fail(r, CHECK_UNDECIDED, h, NULL, NULL, "not enough memory");
		return;
	}
	for (size_t i = 0; i < h->n; i++)
		if (h->recs[i].op <= KV_LIST)
			ids[n++] = (struct check_id){h->recs[i].id, i};
	qsort(ids, n, sizeof(*ids), check_id_cmp);
	for (size_t i = 1; i < n; i++)
		if (ids[i].id == ids[i - 1].id)
			check_fail(r, CHECK_BAD_INPUT, h, &h->recs[ids[i - 1].rec],
				   &h->recs[ids[i].rec], "operation id %" PRIx64 " used twice",
				   ids[i].id);
	free(ids);
}

/* An operation without a result that cannot have changed anything proves nothing. */
static bool check_matters(const struct history_rec *e)
{
	bool mutates = e->op == KV_PUT || e->op == KV_CAS || e->op == KV_APPEND;

	return e->result == HISTORY_OK || (e->result == HISTORY_UNKNOWN && mutates);
}

static void check_key(const struct history *h, const size_t *ops, size_t n, bool list,
		      const struct check_options *o, struct check_report *r)
{
	struct check_report invariants = {0};

	if (!n)
		return;
	r->keys++;
	r->ops += n;
	if (list) {
		list_check(h, ops, n, r);
		return;
	}
	if (!o->search_only)
		register_check(h, ops, n, &invariants);
	if (!invariants.verdict) {
		search_check(h, ops, n, o, r);
	} else if (r->verdict != CHECK_VIOLATION) {
		r->verdict = invariants.verdict;
		memcpy(r->why, invariants.why, sizeof(r->why));
		memcpy(r->evidence, invariants.evidence, sizeof(r->evidence));
		r->nevidence = invariants.nevidence;
	}
}

/* Counting sort of the record indices into one run per register and list. */
static void check_partition(const struct history *h, const struct check_options *o,
			    struct check_report *r)
{
	enum { SLOTS = KV_KEYS + KV_LISTS };
	size_t at[SLOTS + 1] = {0}, fill[SLOTS];
	size_t *ops = calloc(h->n + 1, sizeof(*ops));

	if (!ops) {
		check_fail(r, CHECK_UNDECIDED, h, NULL, NULL, "not enough memory");
		return;
	}
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < h->n; i++) {
			const struct history_rec *e = &h->recs[i];
			unsigned slot;

			if (e->op > KV_LIST || !check_matters(e))
				continue;
			slot = e->key + (e->op >= KV_APPEND ? KV_KEYS : 0);
			if (pass)
				ops[fill[slot]++] = i;
			else
				at[slot + 1]++;
		}
		for (unsigned s = 0; !pass && s < SLOTS; s++) {
			at[s + 1] += at[s];
			fill[s] = at[s];
		}
	}
	for (unsigned s = 0; s < SLOTS && r->verdict != CHECK_VIOLATION; s++)
		check_key(h, ops + at[s], at[s + 1] - at[s], s >= KV_KEYS, o, r);
	free(ops);
}

void check_history(const struct history *h, const struct check_options *o, struct check_report *r)
{
	check_ids(h, r);
	if (r->verdict)
		return;
	check_events(h, o, r);
	if (!r->verdict)
		check_partition(h, o, r);
}
