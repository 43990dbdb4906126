/*
 * One append list. Every acknowledged append names its index and every read the length, so the
 * order of operations is forced: reads of length 0, append 0, reads of length 1, append 1, ...
 * The history is linearizable if and only if no operation in that order is over before an earlier
 * one began; only who filled a hole (an append without a reply) has to be chosen, and choosing
 * the earliest for the earliest hole is optimal. So this check is exact, in O(n log n).
 */
#include "tests/lin/check.h"

#include <inttypes.h>
#include <stdlib.h>

#include "guests/kv_proto.h"

struct list_slot {
	const struct history_rec *append; /* who wrote it, if known */
	const struct history_rec *seen;	  /* a read that saw the element */
	uint64_t value;
};

struct list_write {
	uint64_t value;
	const struct history_rec *e;
	bool used;
};

struct list_state {
	const struct history *h;
	struct check_report *r;
	struct list_slot *slot; /* KV_LIST_CAP */
	size_t len;		/* one past the highest slot anybody saw */
	struct list_write *writes;
	size_t nwrites;
	const struct history_rec **reads; /* by length */
	size_t nreads;
};

static int list_write_cmp(const void *a, const void *b)
{
	const struct list_write *x = a, *y = b;

	return x->value < y->value ? -1 : x->value > y->value;
}

static int list_invoke_cmp(const void *a, const void *b)
{
	const struct list_write *x = a, *y = b;

	return x->e->invoke < y->e->invoke ? -1 : x->e->invoke > y->e->invoke;
}

static int list_read_cmp(const void *a, const void *b)
{
	const struct history_rec *x = *(const struct history_rec *const *)a;
	const struct history_rec *y = *(const struct history_rec *const *)b;

	return x->value < y->value ? -1 : x->value > y->value;
}

static void list_take_append(struct list_state *s, const struct history_rec *e)
{
	struct list_slot *slot;

	if (e->value >= KV_LIST_CAP) {
		check_fail(s->r, CHECK_VIOLATION, s->h, e, NULL, "append beyond the list's size");
		return;
	}
	slot = &s->slot[e->value];
	if (slot->append)
		check_fail(s->r, CHECK_VIOLATION, s->h, slot->append, e,
			   "two appends acknowledged at index %" PRIu64, e->value);
	slot->append = e;
	slot->value = e->a;
	if (e->value >= s->len)
		s->len = e->value + 1;
}

static void list_take_read(struct list_state *s, const struct history_rec *e, const uint64_t *el)
{
	uint64_t left = e->a < e->value ? e->value - e->a : 0;

	if (e->value > KV_LIST_CAP || e->n != (left < KV_LIST_PER_REP ? left : KV_LIST_PER_REP)) {
		check_fail(s->r, CHECK_VIOLATION, s->h, e, NULL,
			   "list read with a wrong number of elements");
		return;
	}
	if (e->value > s->len)
		s->len = e->value;
	for (uint32_t i = 0; i < e->n; i++) {
		struct list_slot *slot = &s->slot[e->a + i];
		const struct history_rec *who = slot->seen ? slot->seen : slot->append;

		if (who && slot->value != el[i])
			check_fail(s->r, CHECK_VIOLATION, s->h, who, e,
				   "element %" PRIu64 " is %" PRIx64 " and %" PRIx64, e->a + i,
				   slot->value, el[i]);
		if (!slot->seen || e->complete < slot->seen->complete)
			slot->seen = e;
		slot->value = el[i];
	}
	s->reads[s->nreads++] = e;
}

/* Every element somebody saw was appended once, by somebody who could have. */
static void list_check_elements(struct list_state *s)
{
	for (size_t i = 0; i < s->len && !s->r->verdict; i++) {
		struct list_slot *slot = &s->slot[i];
		struct list_write key = {.value = slot->value}, *w;

		if (!slot->append && !slot->seen)
			continue; /* a hole: see list_fill_holes */
		w = bsearch(&key, s->writes, s->nwrites, sizeof(*w), list_write_cmp);
		if (!w || (!slot->append && w->e->invoke > slot->seen->complete))
			check_fail(s->r, CHECK_VIOLATION, s->h, slot->seen, w ? w->e : NULL,
				   "element %zu, %" PRIx64 ", was never appended by then", i,
				   slot->value);
		else if (w->used || (w->e->result == HISTORY_OK && w->e->value != i))
			check_fail(s->r, CHECK_VIOLATION, s->h, w->e, slot->seen,
				   "appended once, but again at index %zu", i);
		else
			w->used = true;
		if (w)
			slot->append = w->e;
	}
}

/*
 * limit[i] = end of the first operation that must come after append i. An append without a reply
 * can fill hole i if it began by then. Limits never fall with i, so earliest goes to earliest.
 */
static void list_fill_holes(struct list_state *s, uint64_t *limit)
{
	uint64_t min = HISTORY_NEVER;
	size_t w = 0, r = s->nreads;

	for (size_t i = s->len; i-- > 0;) {
		while (r > 0 && s->reads[r - 1]->value > i) {
			r--;
			min = s->reads[r]->complete < min ? s->reads[r]->complete : min;
		}
		limit[i] = min;
		if (s->slot[i].append && s->slot[i].append->complete < min)
			min = s->slot[i].append->complete;
	}
	qsort(s->writes, s->nwrites, sizeof(*s->writes), list_invoke_cmp);
	for (size_t i = 0; i < s->len && !s->r->verdict; i++) {
		if (s->slot[i].append)
			continue;
		while (w < s->nwrites &&
		       (s->writes[w].used || s->writes[w].e->result == HISTORY_OK))
			w++;
		if (w == s->nwrites || s->writes[w].e->invoke > limit[i])
			check_fail(s->r, CHECK_VIOLATION, s->h, NULL, NULL,
				   "list element %zu exists but nobody can have appended it", i);
		else
			s->slot[i].append = s->writes[w++].e;
	}
}

/* max = the latest start so far: whoever is over before it is out of order. */
static void list_order_step(struct list_state *s, const struct history_rec *max,
			    const struct history_rec *e)
{
	if (max && e->complete < max->invoke)
		check_fail(
			s->r, CHECK_VIOLATION, s->h, e, max,
			e->op == KV_APPEND
				? "appends out of order: the first was over before the second began"
				: "list read shows what was appended or seen only later");
}

static const struct history_rec *list_later(const struct history_rec *max,
					    const struct history_rec *e)
{
	return !max || e->invoke > max->invoke ? e : max;
}

static void list_check_order(struct list_state *s)
{
	const struct history_rec *max = NULL;
	size_t r = 0;

	for (size_t len = 0; len <= s->len && !s->r->verdict; len++) {
		size_t first = r;

		for (; r < s->nreads && s->reads[r]->value == len; r++)
			list_order_step(s, max, s->reads[r]);
		for (; first < r; first++)
			max = list_later(max, s->reads[first]);
		if (len == s->len)
			break;
		list_order_step(s, max, s->slot[len].append);
		max = list_later(max, s->slot[len].append);
	}
}

static void list_run(struct list_state *s, const size_t *ops, size_t n, uint64_t *limit)
{
	for (size_t i = 0; i < n; i++) {
		const struct history_rec *e = &s->h->recs[ops[i]];

		if (e->op == KV_APPEND)
			s->writes[s->nwrites++] = (struct list_write){.value = e->a, .e = e};
		if (e->op == KV_APPEND && e->result == HISTORY_OK)
			list_take_append(s, e);
	}
	for (size_t i = 0; i < n && !s->r->verdict; i++)
		if (s->h->recs[ops[i]].op == KV_LIST)
			list_take_read(s, &s->h->recs[ops[i]], history_list(s->h, ops[i]));
	qsort(s->writes, s->nwrites, sizeof(*s->writes), list_write_cmp);
	for (size_t i = 1; i < s->nwrites; i++)
		if (s->writes[i].value == s->writes[i - 1].value)
			check_fail(s->r, CHECK_BAD_INPUT, s->h, s->writes[i - 1].e, s->writes[i].e,
				   "two appends of one value: the load must use unique values");
	qsort(s->reads, s->nreads, sizeof(*s->reads), list_read_cmp);
	if (!s->r->verdict)
		list_check_elements(s);
	if (!s->r->verdict)
		list_fill_holes(s, limit);
	if (!s->r->verdict)
		list_check_order(s);
}

void list_check(const struct history *h, const size_t *ops, size_t n, struct check_report *r)
{
	struct check_report mine = {0};
	struct list_state s = {.h = h, .r = &mine};
	uint64_t *limit = calloc(KV_LIST_CAP + 1, sizeof(*limit));

	s.slot = calloc(KV_LIST_CAP, sizeof(*s.slot));
	s.writes = calloc(n + 1, sizeof(*s.writes));
	s.reads = calloc(n + 1, sizeof(*s.reads));
	if (s.slot && s.writes && s.reads && limit)
		list_run(&s, ops, n, limit);
	else
		check_fail(&mine, CHECK_UNDECIDED, h, NULL, NULL, "not enough memory");
	free(s.slot);
	free(s.writes);
	free(s.reads);
	free(limit);
	if (!mine.verdict || r->verdict == CHECK_VIOLATION)
		return;
	mine.keys = r->keys;
	mine.ops = r->ops;
	mine.steps = r->steps;
	mine.records = r->records;
	*r = mine;
}
