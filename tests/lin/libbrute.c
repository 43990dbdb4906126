/* All orders of a few operations, tried one by one, with no cleverness to be wrong about. */
#include "tests/lin/gen.h"

#include <string.h>

#define BRUTE_MAX 12

struct brute {
	const struct history *h;
	bool taken[BRUTE_MAX];
	uint64_t value, version;
	uint64_t list[BRUTE_MAX];
	uint64_t len;
};

/* May i come next: is nothing left out that was over before it began? */
static bool brute_may_be_next(const struct brute *b, size_t i)
{
	for (size_t j = 0; j < b->h->n; j++)
		if (!b->taken[j] && b->h->recs[j].complete < b->h->recs[i].invoke)
			return false;
	return true;
}

static bool brute_step_list(struct brute *b, size_t i)
{
	const struct history_rec *r = &b->h->recs[i];
	uint64_t left;

	if (r->op == KV_APPEND) {
		b->list[b->len] = r->a;
		return r->result == HISTORY_UNKNOWN ? ++b->len : r->value == b->len++;
	}
	if (r->result == HISTORY_UNKNOWN)
		return true;
	left = r->a < b->len ? b->len - r->a : 0;
	return r->value == b->len && r->n == left &&
	       memcmp(history_list(b->h, i), b->list + r->a, 8 * left) == 0;
}

static bool brute_step(struct brute *b, size_t i)
{
	const struct history_rec *r = &b->h->recs[i];
	bool set = r->op == KV_PUT || (r->op == KV_CAS && b->value == r->a);

	if (r->op >= KV_APPEND)
		return brute_step_list(b, i);
	if (set) {
		b->value = r->op == KV_CAS ? r->b : r->a;
		b->version++;
	}
	if (r->result == HISTORY_UNKNOWN)
		return true;
	if (r->op == KV_CAS && (r->status == KV_OK) != set)
		return false;
	return r->value == b->value && r->version == b->version;
}

static bool brute_rest(const struct brute *b)
{
	bool left = false;

	for (size_t i = 0; i < b->h->n; i++)
		left |= !b->taken[i] && b->h->recs[i].result == HISTORY_OK;
	if (!left)
		return true; /* those without a reply never took effect */
	for (size_t i = 0; i < b->h->n; i++) {
		struct brute next = *b;

		if (b->taken[i] || !brute_may_be_next(b, i))
			continue;
		next.taken[i] = true;
		if (brute_step(&next, i) && brute_rest(&next))
			return true;
	}
	return false;
}

bool brute_linearizable(const struct history *h)
{
	struct brute b = {.h = h};

	return h->n <= BRUTE_MAX && brute_rest(&b);
}
