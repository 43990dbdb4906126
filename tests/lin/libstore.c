/* The reference kv state machine, its journal, and the bugs that can be planted in it. */
#include "tests/lin/store.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char *const store_bug_names[STORE_BUGS] = {
	"none",		"lose-ack",	 "stale-read",	  "rollback",	   "cas-always",
	"phantom-read", "version-skip",	 "late-apply",	  "vanish-append", "dup-append",
	"reorder-list", "dup-exec",	 "wrong-id",	  "journal-skip",  "journal-torn",
	"journal-dup",	"journal-value", "journal-order", "conn-drop",	   "echo-flip",
	"echo-lose",	"stream-flip",	 "stream-skip",
};

const char *store_bug_name(enum store_bug bug)
{
	return bug < STORE_BUGS ? store_bug_names[bug] : "?";
}

enum store_bug store_bug_find(const char *name)
{
	enum store_bug bug = STORE_CORRECT;

	while (bug < STORE_BUGS && strcmp(store_bug_names[bug], name) != 0)
		bug++;
	return bug;
}

void store_init(struct store *s, enum store_bug bug, unsigned every, int journal)
{
	memset(s, 0, sizeof(*s));
	s->bug = bug;
	s->every = every ? every : 1;
	s->journal = journal;
}

bool store_bug_now(struct store *s, enum store_bug bug)
{
	return s->bug == bug && ++s->chance % s->every == 0;
}

static int store_write_sector(struct store *s, const struct kv_record *rec, bool torn)
{
	struct kv_sector sec = {.magic = KV_JOURNAL_MAGIC, .nrecs = 1, .seq = s->seq};

	sec.recs[0] = *rec;
	sec.sum = kv_sum(&sec) ^ torn;
	if (pwrite(s->journal, &sec, sizeof(sec), (off_t)(s->seq * sizeof(sec))) != sizeof(sec))
		return errno ? -errno : -ENOSPC;
	s->seq++;
	return 0;
}

static int store_journal(struct store *s, const struct kv_req *q, uint64_t value)
{
	struct kv_record rec = {.id = q->id, .a = value, .key = q->key};
	int rc = 0;

	rec.op = q->op == KV_APPEND ? KV_APPEND : KV_PUT;
	if (s->journal < 0 || store_bug_now(s, STORE_JOURNAL_SKIP))
		return 0;
	if (store_bug_now(s, STORE_JOURNAL_VALUE))
		rec.a ^= 1;
	if (store_bug_now(s, STORE_JOURNAL_DUP))
		rc = store_write_sector(s, &rec, false);
	if (store_bug_now(s, STORE_JOURNAL_ORDER)) {
		s->delayed = rec;
		return 0;
	}
	if (!rc)
		rc = store_write_sector(s, &rec, store_bug_now(s, STORE_JOURNAL_TORN));
	if (!rc && s->delayed.id) {
		rc = store_write_sector(s, &s->delayed, false);
		s->delayed.id = 0;
	}
	return rc;
}

static void store_set(struct store_reg *r, uint64_t value, uint64_t count)
{
	r->old_value = r->value;
	r->old_version = r->version;
	r->value = value;
	r->version += count;
}

static int store_put(struct store *s, const struct kv_req *q, struct kv_rep *p, uint64_t value)
{
	struct store_reg *r = &s->now.reg[q->key];

	p->value = value;
	p->version = r->version + 1;
	if (store_bug_now(s, STORE_LOSE_ACK))
		return 0;
	if (q->op == KV_PUT && store_bug_now(s, STORE_LATE_APPLY)) {
		s->held = *q; /* visible after the next operation on the key */
		return store_journal(s, q, value);
	}
	store_set(r, value, q->op == KV_PUT && store_bug_now(s, STORE_VERSION_SKIP) ? 2 : 1);
	p->version = r->version;
	return store_journal(s, q, value);
}

static int store_append(struct store *s, const struct kv_req *q, struct kv_rep *p)
{
	uint64_t *l = s->now.list[q->key], *len = &s->now.len[q->key];

	if (*len + 2 > KV_LIST_CAP) {
		p->status = KV_FULL;
		return 0;
	}
	p->value = *len;
	if (store_bug_now(s, STORE_VANISH_APPEND))
		return 0;
	l[(*len)++] = q->a;
	if (store_bug_now(s, STORE_DUP_APPEND))
		l[(*len)++] = q->a;
	if (*len > 1 && store_bug_now(s, STORE_REORDER_LIST)) {
		uint64_t t = l[*len - 1];

		l[*len - 1] = l[*len - 2];
		l[*len - 2] = t;
	}
	return store_journal(s, q, q->a);
}

static void store_get(struct store *s, const struct kv_req *q, struct kv_rep *p)
{
	const struct store_reg *r = &s->now.reg[q->key];
	bool stale = r->version > 1 && store_bug_now(s, STORE_STALE_READ);

	p->value = stale ? r->old_value : r->value;
	p->version = stale ? r->old_version : r->version;
	if (r->version && store_bug_now(s, STORE_PHANTOM_READ))
		p->value ^= 0x5555;
}

static int store_cas(struct store *s, const struct kv_req *q, struct kv_rep *p)
{
	const struct store_reg *r = &s->now.reg[q->key];

	if (r->value == q->a || (r->version && store_bug_now(s, STORE_CAS_ALWAYS)))
		return store_put(s, q, p, q->b);
	p->status = KV_MISMATCH;
	p->value = r->value;
	p->version = r->version;
	return 0;
}

/* Go back to the saved state, or save one half way between. */
static void store_roll(struct store *s)
{
	if (s->bug != STORE_ROLLBACK)
		return;
	if (++s->chance % s->every == 0)
		s->now = s->old;
	else if (s->chance % s->every == s->every / 2)
		s->old = s->now;
}

int store_apply(struct store *s, const struct kv_req *q, struct kv_rep *p, uint64_t *list)
{
	uint64_t len;
	int rc = 0;

	*p = (struct kv_rep){.magic = KV_REP_MAGIC, .op = q->op, .id = q->id, .key = q->key};
	if (q->op < KV_GET || q->op > KV_LIST || q->magic != KV_REQ_MAGIC ||
	    q->key >= (q->op >= KV_APPEND ? KV_LISTS : KV_KEYS)) {
		p->status = KV_BAD;
		return 0;
	}
	store_roll(s);
	if (q->op == KV_GET)
		store_get(s, q, p);
	else if (q->op == KV_PUT)
		rc = store_put(s, q, p, q->a);
	else if (q->op == KV_CAS)
		rc = store_cas(s, q, p);
	else if (q->op == KV_APPEND)
		rc = store_append(s, q, p);
	else
		p->value = s->now.len[q->key];
	if (s->held.id && s->held.id != q->id && s->held.key == q->key && q->op <= KV_CAS) {
		store_set(&s->now.reg[q->key], s->held.a, 1);
		s->held.id = 0;
	}
	len = q->op == KV_LIST && q->a < p->value ? p->value - q->a : 0;
	p->n = (uint16_t)(len < KV_LIST_PER_REP ? len : KV_LIST_PER_REP);
	for (unsigned i = 0; i < p->n; i++)
		list[i] = s->now.list[q->key][q->a + i];
	if (store_bug_now(s, STORE_WRONG_ID))
		p->id++;
	return rc;
}
