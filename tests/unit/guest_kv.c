/*
 * The kv guest's store on the host: random operations, a disk that crashes between any two steps,
 * and the promise that nothing which was told to a client is ever taken back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guests/lib/kv_store.c"

#define SECTORS	 4096
#define VERSIONS 8192
#define KEYS	 3 /* few: operations shall depend on each other */
#define WAITING	 4096

struct answer {
	struct kv_req req;
	struct kv_rep rep;
	uint64_t need;
};

struct sim {
	uint64_t rng, seed, next_id;
	struct kv_store *store;
	struct kv_sector disk[SECTORS];
	uint64_t written; /* sectors below are on the disk, not all flushed */
	struct answer waiting[WAITING];
	unsigned nwaiting;
	/* the history of every register and list, and how much of it was told */
	uint64_t value[KEYS][VERSIONS], version[KEYS], told[KEYS];
	uint64_t elem[KEYS][VERSIONS], len[KEYS], told_len[KEYS];
};

#define check(s, cond)                                                                             \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("seed %llu: %s\n", (unsigned long long)(s)->seed, #cond);           \
			fail();                                                                    \
		}                                                                                  \
	} while (0)

static uint64_t rnd(struct sim *s, uint64_t n)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return (s->rng >> 11) % n;
}

static void tell(struct sim *s, const struct answer *a)
{
	uint32_t key = a->req.key;

	if (a->req.op == KV_LIST || a->req.op == KV_APPEND) {
		uint64_t len = a->rep.value + (a->req.op == KV_APPEND && a->rep.status == KV_OK);

		if (len > s->told_len[key])
			s->told_len[key] = len;
	} else if (a->rep.version > s->told[key]) {
		s->told[key] = a->rep.version;
	}
}

static void release(struct sim *s)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < s->nwaiting; i++) {
		if (s->waiting[i].need <= s->store->durable)
			tell(s, &s->waiting[i]);
		else
			s->waiting[kept++] = s->waiting[i];
	}
	s->nwaiting = kept;
}

/* What the answer has to be, from the model. */
static void expect(struct sim *s, const struct answer *a)
{
	uint32_t key = a->req.key;
	uint64_t *ver = &s->version[key], now = s->value[key][*ver];
	bool cas = a->req.op == KV_CAS, miss = cas && now != a->req.a;

	check(s, a->rep.magic == KV_REP_MAGIC && a->rep.id == a->req.id && a->rep.key == key);
	check(s, a->rep.status == (miss ? KV_MISMATCH : KV_OK));
	switch (a->req.op) {
	case KV_PUT:
	case KV_CAS:
		if (!miss)
			s->value[key][++*ver] = cas ? a->req.b : a->req.a;
		break;
	case KV_APPEND:
		check(s, a->rep.value == s->len[key]);
		s->elem[key][s->len[key]++] = a->req.a;
		return;
	case KV_LIST:
		check(s, a->rep.value == s->len[key]);
		for (unsigned i = 0; i < a->rep.n; i++)
			check(s, s->store->list[key][a->req.a + i] == s->elem[key][a->req.a + i]);
		return;
	}
	check(s, a->rep.version == *ver && a->rep.value == s->value[key][*ver]);
}

static void operate(struct sim *s)
{
	struct answer a = {.req = {.magic = KV_REQ_MAGIC, .id = ++s->next_id}}, again;

	if (s->nwaiting == WAITING)
		return;
	a.req.op = (uint8_t)(KV_GET + rnd(s, 5));
	a.req.key = (uint32_t)rnd(s, KEYS);
	a.req.a = rnd(s, 4);
	a.req.b = rnd(s, 4);
	if (!kv_store_apply(s->store, &a.req, &a.rep, &a.need)) {
		check(s, s->store->open - s->store->durable == KV_STORE_OPEN - 1);
		return;
	}
	expect(s, &a);
	s->waiting[s->nwaiting++] = a;
	if (rnd(s, 4) == 0 && a.req.op != KV_GET && a.req.op != KV_LIST) {
		/* repeated: the same answer, and no effect */
		check(s, kv_store_apply(s->store, &a.req, &again.rep, &again.need));
		check(s, !memcmp(&again.rep, &a.rep, sizeof(a.rep)) && again.need == a.need);
	}
}

static void disk_step(struct sim *s)
{
	if (s->written < s->store->open) {
		s->disk[s->written] = *kv_store_sector(s->store, s->written);
		s->written++;
	} else if (s->store->durable < s->written) {
		s->store->durable = s->written;
	} else {
		kv_store_seal(s->store);
	}
}

/* Sectors that were not flushed survive up to one of them, which may be torn. */
static void crash(struct sim *s)
{
	uint64_t lost = s->store->durable + rnd(s, s->written - s->store->durable + 1);

	if (lost < s->written)
		memset((uint8_t *)&s->disk[lost] + rnd(s, 512), 0xee, 1);
	for (uint64_t i = lost + 1; i < s->written; i++)
		memset(&s->disk[i], 0, sizeof(s->disk[i]));
	memset(s->store, 0x5a, sizeof(*s->store));
	kv_store_init(s->store, SECTORS);
	while (kv_store_replay(s->store, &s->disk[s->store->open]))
		;
	s->written = s->store->open;
	s->nwaiting = 0;
	for (uint32_t k = 0; k < KEYS; k++) {
		const struct kv_reg *r = &s->store->reg[k];

		check(s, r->version >= s->told[k] && r->version <= s->version[k]);
		check(s, r->value == s->value[k][r->version]);
		s->version[k] = r->version;
		check(s, s->store->len[k] >= s->told_len[k] && s->store->len[k] <= s->len[k]);
		check(s, !memcmp(s->store->list[k], s->elem[k], s->store->len[k] * 8));
		s->len[k] = s->store->len[k];
	}
}

static void test_crash(void **state)
{
	struct sim *s = malloc(sizeof(*s));

	for (uint64_t seed = 1; seed <= 60; seed++) {
		memset(s, 0, sizeof(*s));
		s->seed = seed;
		s->rng = seed * 0x9e3779b97f4a7c15ull;
		s->store = malloc(sizeof(*s->store));
		kv_store_init(s->store, SECTORS);
		for (int i = 0; i < 8000; i++) {
			if (rnd(s, 1 + seed % 40) == 0)
				disk_step(s);
			else
				operate(s);
			release(s);
			if (rnd(s, 500) == 0)
				crash(s);
		}
		free(s->store);
	}
	free(s);
}

static uint8_t status_of(struct kv_store *s, uint8_t op, uint64_t id, uint32_t key)
{
	struct kv_req req = {.magic = KV_REQ_MAGIC, .op = op, .id = id, .key = key};
	struct kv_rep rep;
	uint64_t need;

	assert_true(kv_store_apply(s, &req, &rep, &need));
	return rep.status;
}

static void test_limits(void **state)
{
	struct kv_store *s = malloc(sizeof(*s));
	uint64_t id = 0;

	kv_store_init(s, 0);
	assert_int_equal(status_of(s, KV_PUT, ++id, KV_KEYS - 1), KV_OK);
	assert_int_equal(status_of(s, KV_PUT, ++id, KV_KEYS), KV_BAD);
	assert_int_equal(status_of(s, KV_LIST, ++id, KV_LISTS), KV_BAD);
	assert_int_equal(status_of(s, 0, ++id, 0), KV_BAD);
	assert_int_equal(status_of(s, 6, ++id, 0), KV_BAD);
	for (int i = 0; i < KV_LIST_CAP; i++)
		assert_int_equal(status_of(s, KV_APPEND, ++id, 1), KV_OK);
	assert_int_equal(status_of(s, KV_APPEND, ++id, 1), KV_FULL);
	assert_int_equal(status_of(s, KV_LIST, ++id, 1), KV_OK);

	kv_store_init(s, 2); /* two sectors hold 30 records */
	for (int i = 0; i < 30; i++)
		assert_int_equal(status_of(s, KV_PUT, ++id, 1), KV_OK);
	assert_int_equal(status_of(s, KV_PUT, ++id, 1), KV_FULL);
	assert_int_equal(status_of(s, KV_GET, ++id, 1), KV_OK);
	assert_int_equal(s->reg[1].version, 30);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
