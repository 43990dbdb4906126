/*
 * Cheap invariants of one register, O(n log n). Every reply names the register's version, so an
 * acknowledged operation has a known place in the order of writes; most faults show up here, with
 * the two records that contradict each other. The search then covers what is left.
 */
#include "tests/lin/check.h"

#include <inttypes.h>
#include <stdlib.h>

#include "guests/kv_proto.h"

struct register_obs {
	const struct history_rec *e;
	bool write;
};

static int register_by_version(const void *a, const void *b)
{
	const struct register_obs *x = a, *y = b;

	if (x->e->version != y->e->version)
		return x->e->version < y->e->version ? -1 : 1;
	return (int)y->write - (int)x->write; /* the writer first */
}

static int register_by_invoke(const void *a, const void *b)
{
	const struct register_obs *x = a, *y = b;

	return x->e->invoke < y->e->invoke ? -1 : x->e->invoke > y->e->invoke;
}

static int register_by_complete(const void *a, const void *b)
{
	const struct register_obs *x = a, *y = b;

	return x->e->complete < y->e->complete ? -1 : x->e->complete > y->e->complete;
}

/* Does the reply agree with its own request? */
static void register_check_reply(const struct history *h, const struct history_rec *e,
				 struct check_report *r)
{
	if (e->op == KV_PUT && (e->value != e->a || !e->version))
		check_fail(r, CHECK_VIOLATION, h, e, NULL, "a put answered with another value");
	if (e->op == KV_CAS && e->status == KV_OK && (e->value != e->b || !e->version))
		check_fail(r, CHECK_VIOLATION, h, e, NULL, "a cas answered with another value");
	if (e->op == KV_CAS && e->status == KV_MISMATCH && e->value == e->a)
		check_fail(r, CHECK_VIOLATION, h, e, NULL,
			   "a cas refused although the value was the expected one");
	if (!e->version && e->value)
		check_fail(r, CHECK_VIOLATION, h, e, NULL, "version 0 with a value other than 0");
}

/* Somebody without a reply must have written what e saw, before e was over. */
static void register_check_writer(const struct history *h, const size_t *ops, size_t n,
				  const struct register_obs *first, const struct register_obs *end,
				  struct check_report *r)
{
	const struct history_rec *e = first->e;

	for (const struct register_obs *o = first; o < end; o++)
		if (o->e->complete < e->complete)
			e = o->e;
	for (size_t i = 0; i < n; i++) {
		const struct history_rec *u = &h->recs[ops[i]];
		uint64_t v = u->op == KV_CAS ? u->b : u->a;

		if (u->result == HISTORY_UNKNOWN && v == e->value && u->invoke <= e->complete)
			return;
	}
	check_fail(r, CHECK_VIOLATION, h, e, NULL,
		   "value %" PRIx64 " at version %" PRIu64 " was never written by then", e->value,
		   e->version);
}

static void register_check_versions(const struct history *h, const size_t *ops, size_t n,
				    const struct register_obs *obs, size_t nobs,
				    struct check_report *r)
{
	const struct register_obs *prev = NULL;

	for (size_t i = 0, j; i < nobs && !r->verdict; prev = &obs[i], i = j) {
		const struct history_rec *first = obs[i].e;

		for (j = i; j < nobs && obs[j].e->version == first->version; j++) {
			if (obs[j].e->value != first->value)
				check_fail(r, CHECK_VIOLATION, h, first, obs[j].e,
					   "version %" PRIu64 " with two values", first->version);
			if (j > i && obs[j].write)
				check_fail(r, CHECK_VIOLATION, h, first, obs[j].e,
					   "version %" PRIu64 " written twice", first->version);
		}
		if (!obs[i].write && first->version)
			register_check_writer(h, ops, n, obs + i, obs + j, r);
		if (obs[i].write && first->op == KV_CAS && prev &&
		    prev->e->version + 1 == first->version && prev->e->value != first->a)
			check_fail(r, CHECK_VIOLATION, h, prev->e, first,
				   "a cas succeeded on another value than the expected one");
		if (obs[i].write && first->op == KV_CAS && first->version == 1 && first->a)
			check_fail(r, CHECK_VIOLATION, h, first, NULL,
				   "a cas succeeded on the initial value, expecting another");
	}
}

/* Nothing may show less than what was acknowledged before it began. */
static void register_check_time(const struct history *h, struct register_obs *by_invoke,
				struct register_obs *by_complete, size_t n, struct check_report *r)
{
	const struct history_rec *max = NULL;

	qsort(by_invoke, n, sizeof(*by_invoke), register_by_invoke);
	qsort(by_complete, n, sizeof(*by_complete), register_by_complete);
	for (size_t i = 0, c = 0; i < n && !r->verdict; i++) {
		const struct history_rec *e = by_invoke[i].e;

		for (; c < n && by_complete[c].e->complete < e->invoke; c++)
			if (!max || by_complete[c].e->version > max->version)
				max = by_complete[c].e;
		if (max && e->version < max->version)
			check_fail(r, CHECK_VIOLATION, h, max, e,
				   "version went back from %" PRIu64 " to %" PRIu64, max->version,
				   e->version);
		else if (max && by_invoke[i].write && e->version == max->version)
			check_fail(r, CHECK_VIOLATION, h, max, e,
				   "version %" PRIu64 " seen before it was written", e->version);
	}
}

void register_check(const struct history *h, const size_t *ops, size_t n, struct check_report *r)
{
	struct register_obs *obs = calloc(2 * n + 1, sizeof(*obs));
	size_t nobs = 0;

	if (!obs) {
		check_fail(r, CHECK_UNDECIDED, h, NULL, NULL, "not enough memory");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		const struct history_rec *e = &h->recs[ops[i]];

		if (e->result != HISTORY_OK)
			continue;
		register_check_reply(h, e, r);
		obs[nobs].write = check_is_write(e);
		obs[nobs++].e = e;
	}
	for (size_t i = 0; i < nobs; i++)
		obs[nobs + i] = obs[i];
	register_check_time(h, obs, obs + nobs, nobs, r);
	qsort(obs, nobs, sizeof(*obs), register_by_version);
	register_check_versions(h, ops, n, obs, nobs, r);
	free(obs);
}
