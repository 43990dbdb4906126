/*
 * Linearizability of one register: the search of Wing and Gong (1993) with Lowe's memo (2017).
 *
 * Calls and returns of acknowledged operations form a doubly linked list in time order. A step
 * takes an operation whose call comes before the first return, applies it to the model and lifts
 * it out of the list; a return at the head that cannot be lifted means: go back. Operations
 * without a reply have no return; they are candidates from their call on, and need not be taken.
 *
 * The model's state is (value, version), and replies carry versions, which decides most steps:
 *  - a candidate below the current version, or at it but not applicable, can never be taken any
 *    more: versions only grow;
 *  - a read that applies now can be taken now without loss; so can a write that its reply places
 *    at this version, as nobody else may take that place. Neither leaves a choice behind.
 * What remains is the choice of an operation without a reply. Configurations reached by a choice
 * are memoised as (set taken, state) in a 128-bit fingerprint, each operation contributing a
 * random word pair. Two configurations could share one with probability about 2^-128 per pair;
 * only a violation could be a false one, so it is confirmed with other random words.
 */
#include "tests/lin/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "guests/kv_proto.h"

#define SEARCH_NONE UINT32_MAX

struct search_hash {
	uint64_t lo, hi;
};

struct search_state {
	uint64_t value, version;
};

/* List entries: 2i is the call of op i, 2i+1 its return; unknown ops are in their own list. */
struct search_entry {
	uint32_t next, prev;
};

struct search_frame {
	uint32_t op;
	bool choice; /* other operations without a reply are still to be tried here */
	struct search_state before;
	struct search_hash hash;
};

/* What a reply says about a place in the order of writes. */
struct search_fact {
	uint64_t version, value;
};

struct search {
	const struct history *h;
	const struct history_rec **op; /* acknowledged ones first, both groups by invocation */
	uint32_t nok, n;
	struct search_entry *ok;  /* 2 * nok + 1 entries; the last is the head */
	struct search_entry *unk; /* n - nok + 1 */
	struct search_frame *stack;
	uint32_t depth;
	struct search_state state;
	struct search_hash hash;
	struct search_hash *memo; /* open addressing, {0,0} is free */
	size_t memo_size, memo_used, memo_max;
	struct search_fact *by_version, *by_value;
	size_t nfacts;
	bool unique; /* no value is written by two operations */
	uint64_t salt, steps, max_steps;
	uint32_t best;	/* depth of the longest attempt, */
	uint32_t after; /* the last operation it placed, */
	uint32_t stuck; /* and the one that could not be placed any more */
};

static uint64_t search_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static struct search_hash search_hash_op(const struct search *s, uint32_t op)
{
	return (struct search_hash){search_mix(s->salt + 2 * (uint64_t)op),
				    search_mix(~s->salt + 2 * (uint64_t)op + 1)};
}

static struct search_hash search_hash_xor(struct search_hash a, struct search_hash b)
{
	return (struct search_hash){a.lo ^ b.lo, a.hi ^ b.hi};
}

/* True if the configuration is new. A full memo only costs time: the step limit ends the search. */
static bool search_memo_add(struct search *s)
{
	struct search_hash k = s->hash;
	size_t i;

	k.lo ^= search_mix(s->state.value ^ s->salt);
	k.hi ^= search_mix(s->state.version + search_mix(s->state.value));
	k.lo |= !(k.lo | k.hi);
	if (s->memo_used * 4 >= s->memo_size * 3 && s->memo_size < s->memo_max) {
		size_t size = s->memo_size * 2;
		struct search_hash *old = s->memo, *memo = calloc(size, sizeof(*memo));

		if (memo) {
			for (size_t j = 0; j < s->memo_size; j++) {
				if (!(old[j].lo | old[j].hi))
					continue;
				for (i = old[j].lo & (size - 1); memo[i].lo | memo[i].hi;)
					i = (i + 1) & (size - 1);
				memo[i] = old[j];
			}
			free(old);
			s->memo = memo;
			s->memo_size = size;
		}
	}
	for (i = k.lo & (s->memo_size - 1); s->memo[i].lo | s->memo[i].hi;
	     i = (i + 1) & (s->memo_size - 1))
		if (s->memo[i].lo == k.lo && s->memo[i].hi == k.hi)
			return false;
	if (s->memo_used * 8 < s->memo_size * 7) {
		s->memo[i] = k;
		s->memo_used++;
	}
	return true;
}

static uint64_t search_needs(const struct history_rec *e)
{
	return e->version - (check_is_write(e) ? 1 : 0);
}

/* The model: does e apply in state st, and what is the state after it? */
static bool search_apply(const struct history_rec *e, struct search_state *st)
{
	bool known = e->result == HISTORY_OK;

	if (e->op == KV_CAS && (st->value == e->a) != (!known || e->status == KV_OK))
		return false;
	if (!known || check_is_write(e)) {
		st->value = e->op == KV_CAS ? e->b : e->a;
		st->version++;
	}
	return !known || (st->value == e->value && st->version == e->version);
}

static int search_fact_version(const void *a, const void *b)
{
	const struct search_fact *x = a, *y = b;

	return x->version < y->version ? -1 : x->version > y->version;
}

static int search_fact_value(const void *a, const void *b)
{
	const struct search_fact *x = a, *y = b;

	return x->value < y->value ? -1 : x->value > y->value;
}

/* May unknown operation e be the write after the current version, as far as replies tell? */
static bool search_plausible(const struct search *s, const struct history_rec *e)
{
	struct search_fact key = {s->state.version + 1, e->op == KV_CAS ? e->b : e->a}, *f;

	f = bsearch(&key, s->by_version, s->nfacts, sizeof(key), search_fact_version);
	if (f)
		return f->value == key.value;
	return !s->unique || !bsearch(&key, s->by_value, s->nfacts, sizeof(key), search_fact_value);
}

static void search_lift(struct search_entry *l, uint32_t i)
{
	l[l[i].prev].next = l[i].next;
	l[l[i].next].prev = l[i].prev;
}

static void search_unlift(struct search_entry *l, uint32_t i)
{
	l[l[i].prev].next = i;
	l[l[i].next].prev = i;
}

static void search_take(struct search *s, uint32_t op, bool choice)
{
	s->stack[s->depth++] = (struct search_frame){op, choice, s->state, s->hash};
	search_apply(s->op[op], &s->state);
	s->hash = search_hash_xor(s->hash, search_hash_op(s, op));
	if (op < s->nok) {
		search_lift(s->ok, 2 * op);
		search_lift(s->ok, 2 * op + 1);
	} else {
		search_lift(s->unk, op - s->nok);
	}
}

static uint32_t search_untake(struct search *s)
{
	const struct search_frame *f = &s->stack[--s->depth];

	if (f->op < s->nok) {
		search_unlift(s->ok, 2 * f->op + 1);
		search_unlift(s->ok, 2 * f->op);
	} else {
		search_unlift(s->unk, f->op - s->nok);
	}
	s->state = f->before;
	s->hash = f->hash;
	return f->op;
}

/* Remember how far an attempt came, as evidence. */
static void search_note(struct search *s, uint32_t op)
{
	if (s->depth < s->best)
		return;
	s->best = s->depth;
	s->stuck = op;
	s->after = s->depth ? s->stack[s->depth - 1].op : SEARCH_NONE;
}

/*
 * Look at the acknowledged candidates. Returns one to take without a choice, or SEARCH_NONE with
 * *dead (nothing can continue from here) or with *limit, the time of the first return.
 */
static uint32_t search_forced(struct search *s, bool *dead, uint64_t *limit)
{
	uint32_t head = 2 * s->nok, i, write = SEARCH_NONE, read = SEARCH_NONE;

	*dead = false;
	for (i = s->ok[head].next; !(i & 1); i = s->ok[i].next) {
		const struct history_rec *e = s->op[i / 2];
		struct search_state after = s->state;
		uint64_t needs = search_needs(e);

		s->steps++;
		if (needs > s->state.version && e->version)
			continue;
		if (needs < s->state.version || !search_apply(e, &after) ||
		    (check_is_write(e) && write != SEARCH_NONE)) {
			*dead = true;
			search_note(s, i / 2);
			return SEARCH_NONE;
		}
		if (check_is_write(e))
			write = i / 2;
		else if (read == SEARCH_NONE)
			read = i / 2;
	}
	*limit = s->op[i / 2]->complete;
	search_note(s, i / 2);
	return read != SEARCH_NONE ? read : write;
}

/* The next unknown operation worth trying, after entry i of the list. */
static uint32_t search_choice(struct search *s, uint32_t i, uint64_t limit)
{
	uint32_t head = s->n - s->nok;

	for (i = s->unk[i].next; i != head; i = s->unk[i].next) {
		const struct history_rec *e = s->op[s->nok + i];
		struct search_state after = s->state;

		s->steps++;
		if (e->invoke > limit)
			break;
		if (search_plausible(s, e) && search_apply(e, &after))
			return s->nok + i;
	}
	return SEARCH_NONE;
}

/* 1 linearizable, 0 not, -1 out of steps. */
static int search_run(struct search *s)
{
	uint32_t head = 2 * s->nok, from = s->n - s->nok, op;
	uint64_t limit = 0;
	bool dead = false;

	while (s->ok[head].next != head) {
		if (s->steps > s->max_steps)
			return -1;
		op = search_forced(s, &dead, &limit);
		if (op != SEARCH_NONE) {
			search_take(s, op, false);
			from = s->n - s->nok;
			continue;
		}
		while (!dead && (op = search_choice(s, from, limit)) != SEARCH_NONE) {
			search_take(s, op, true);
			from = s->n - s->nok;
			if (search_memo_add(s))
				break;
			from = search_untake(s) - s->nok;
		}
		if (!dead && op != SEARCH_NONE)
			continue;
		do {
			if (!s->depth)
				return 0;
			from = search_untake(s);
		} while (!s->stack[s->depth].choice);
		from -= s->nok;
	}
	return 1;
}

static int search_by_invoke(const void *a, const void *b)
{
	const struct history_rec *x = *(const struct history_rec *const *)a;
	const struct history_rec *y = *(const struct history_rec *const *)b;

	return x->invoke < y->invoke ? -1 : x->invoke > y->invoke;
}

struct search_time {
	uint64_t t;
	uint32_t entry;
};

/* Equal times count as concurrent: calls go before returns. */
static int search_time_cmp(const void *a, const void *b)
{
	const struct search_time *x = a, *y = b;

	if (x->t != y->t)
		return x->t < y->t ? -1 : 1;
	return (int)(x->entry & 1) - (int)(y->entry & 1);
}

static void search_link(struct search *s, struct search_time *times)
{
	uint32_t head = 2 * s->nok, last = head, unk = s->n - s->nok;

	for (uint32_t i = 0; i < s->nok; i++) {
		times[2 * i] = (struct search_time){s->op[i]->invoke, 2 * i};
		times[2 * i + 1] = (struct search_time){s->op[i]->complete, 2 * i + 1};
	}
	qsort(times, head, sizeof(*times), search_time_cmp);
	s->ok[head].next = head;
	for (uint32_t i = 0; i < head; last = times[i++].entry) {
		s->ok[last].next = times[i].entry;
		s->ok[times[i].entry].prev = last;
	}
	s->ok[last].next = head;
	s->ok[head].prev = last;
	for (uint32_t i = 0; i <= unk; i++)
		s->unk[i] = (struct search_entry){i == unk ? 0 : i + 1, i ? i - 1 : unk};
}

static int search_u64_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Sorted facts from replies, and whether written values are unique (scratch: n words). */
static void search_learn(struct search *s, uint64_t *scratch)
{
	uint32_t writes = 0;

	for (uint32_t i = 0; i < s->nok; i++)
		s->by_version[i] = (struct search_fact){s->op[i]->version, s->op[i]->value};
	s->nfacts = s->nok;
	memcpy(s->by_value, s->by_version, s->nok * sizeof(*s->by_value));
	qsort(s->by_version, s->nfacts, sizeof(*s->by_version), search_fact_version);
	qsort(s->by_value, s->nfacts, sizeof(*s->by_value), search_fact_value);
	for (uint32_t i = 0; i < s->n; i++)
		if (s->op[i]->result == HISTORY_UNKNOWN || check_is_write(s->op[i]))
			scratch[writes++] = s->op[i]->op == KV_CAS ? s->op[i]->b : s->op[i]->a;
	qsort(scratch, writes, sizeof(*scratch), search_u64_cmp);
	s->unique = true;
	for (uint32_t i = 0; i < writes; i++)
		if (!scratch[i] || (i && scratch[i] == scratch[i - 1]))
			s->unique = false;
}

static bool search_alloc(struct search *s, size_t n, const struct check_options *o)
{
	s->memo_max = 1024;
	while (s->memo_max * 2 * sizeof(*s->memo) <= o->memo_bytes)
		s->memo_max *= 2;
	s->memo_size = 1024;
	s->max_steps = o->steps;
	s->memo = calloc(s->memo_size, sizeof(*s->memo));
	s->op = calloc(n, sizeof(*s->op));
	s->ok = calloc(2 * n + 1, sizeof(*s->ok));
	s->unk = calloc(n + 1, sizeof(*s->unk));
	s->stack = calloc(n, sizeof(*s->stack));
	s->by_version = calloc(n, sizeof(*s->by_version));
	s->by_value = calloc(n, sizeof(*s->by_value));
	return s->memo && s->op && s->ok && s->unk && s->stack && s->by_version && s->by_value;
}

static void search_free(struct search *s)
{
	free(s->memo);
	free(s->op);
	free(s->ok);
	free(s->unk);
	free(s->stack);
	free(s->by_version);
	free(s->by_value);
}

static void search_order(struct search *s, const size_t *ops, size_t n)
{
	for (int unknown = 0; unknown < 2; unknown++) {
		uint32_t first = s->n;

		for (size_t i = 0; i < n; i++) {
			const struct history_rec *e = &s->h->recs[ops[i]];

			if ((e->result == HISTORY_UNKNOWN) == unknown)
				s->op[s->n++] = e;
		}
		qsort(s->op + first, s->n - first, sizeof(*s->op), search_by_invoke);
		s->nok = unknown ? s->nok : s->n;
	}
}

static int search_attempt(struct search *s, struct search_time *times, uint64_t salt)
{
	search_link(s, times);
	memset(s->memo, 0, s->memo_size * sizeof(*s->memo));
	s->memo_used = 0;
	s->depth = 0;
	s->best = 0;
	s->state = (struct search_state){0, 0};
	s->hash = (struct search_hash){0, 0};
	s->salt = salt;
	s->steps = 0;
	return search_run(s);
}

void search_check(const struct history *h, const size_t *ops, size_t n,
		  const struct check_options *o, struct check_report *r)
{
	struct search s = {.h = h};
	struct search_time *times = calloc(2 * n + 1, sizeof(*times));
	int rc = -2;

	if (search_alloc(&s, n, o) && times) {
		search_order(&s, ops, n);
		search_learn(&s, (uint64_t *)times);
		rc = search_attempt(&s, times, 1);
		r->steps += s.steps;
		if (rc == 0) {
			rc = search_attempt(&s, times, 0x5eed5eed);
			r->steps += s.steps;
		}
	}
	if (rc == 0)
		check_fail(r, CHECK_VIOLATION, h, s.after == SEARCH_NONE ? NULL : s.op[s.after],
			   s.op[s.stuck],
			   "register %u: no order of its %zu operations explains the replies",
			   s.op[s.stuck]->key, n);
	else if (rc < 0)
		check_fail(r, CHECK_UNDECIDED, h, NULL, NULL,
			   "register %u: %s after %" PRIu64 " steps", h->recs[ops[0]].key,
			   rc == -1 ? "gave up" : "not enough memory", s.steps);
	free(times);
	search_free(&s);
}
