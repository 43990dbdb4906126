#include <stddef.h>
#include <string.h>

#include "guests/lib/kv_store.h"

void kv_store_init(struct kv_store *s, uint64_t sectors)
{
	memset(s, 0, offsetof(struct kv_store, done));
	s->sectors = sectors;
	if (!sectors)
		s->durable = UINT64_MAX;
}

static struct kv_sector *kv_store_slot(struct kv_store *s, uint64_t seq)
{
	return &s->sector[seq % KV_STORE_OPEN];
}

const struct kv_sector *kv_store_sector(const struct kv_store *s, uint64_t seq)
{
	return &s->sector[seq % KV_STORE_OPEN];
}

static bool kv_store_replay_record(struct kv_store *s, const struct kv_record *r)
{
	if (r->op == KV_PUT && r->key < KV_KEYS) {
		s->reg[r->key].value = r->a;
		s->reg[r->key].version++;
		return true;
	}
	if (r->op == KV_APPEND && r->key < KV_LISTS && s->len[r->key] < KV_LIST_CAP) {
		s->list[r->key][s->len[r->key]++] = r->a;
		return true;
	}
	return false;
}

bool kv_store_replay(struct kv_store *s, const struct kv_sector *sec)
{
	if (s->open >= s->sectors || sec->magic != KV_JOURNAL_MAGIC || sec->seq != s->open ||
	    !sec->nrecs || sec->nrecs > KV_JOURNAL_RECS || sec->sum != kv_sum(sec))
		return false;
	for (uint32_t i = 0; i < sec->nrecs; i++)
		s->records += kv_store_replay_record(s, &sec->recs[i]);
	s->open++;
	s->durable = s->open;
	return true;
}

void kv_store_seal(struct kv_store *s)
{
	struct kv_sector *sec = kv_store_slot(s, s->open);

	if (!sec->nrecs)
		return;
	sec->magic = KV_JOURNAL_MAGIC;
	sec->seq = s->open;
	sec->sum = kv_sum(sec);
	s->open++;
	/* Free: the caller of kv_store_room() left one slot beyond those that wait. */
	memset(kv_store_slot(s, s->open), 0, sizeof(*sec));
}

/* Whether the disk is not too far behind to take one more record. */
static bool kv_store_room(const struct kv_store *s)
{
	return !s->sectors || s->open - s->durable < KV_STORE_OPEN - 1;
}

static bool kv_store_is_full(const struct kv_store *s)
{
	return s->sectors && s->open >= s->sectors;
}

/* Records a change; the result is what has to be durable before anybody sees it. */
static uint64_t kv_store_log(struct kv_store *s, const struct kv_req *req, uint8_t op, uint64_t a)
{
	struct kv_sector *sec = kv_store_slot(s, s->open);

	if (!s->sectors)
		return 0;
	sec->recs[sec->nrecs++] =
		(struct kv_record){.id = req->id, .a = a, .key = req->key, .op = op};
	s->records++;
	if (sec->nrecs < KV_JOURNAL_RECS)
		return s->open + 1;
	kv_store_seal(s);
	return s->open;
}

static uint64_t kv_store_set(struct kv_store *s, const struct kv_req *req, struct kv_rep *rep)
{
	struct kv_reg *r = &s->reg[req->key];

	if (req->op == KV_CAS && r->value != req->a) {
		rep->status = KV_MISMATCH;
	} else if (req->op != KV_GET && kv_store_is_full(s)) {
		rep->status = KV_FULL;
	} else if (req->op != KV_GET) {
		r->value = req->op == KV_CAS ? req->b : req->a;
		r->version++;
		r->need = kv_store_log(s, req, KV_PUT, r->value);
	}
	rep->value = r->value;
	rep->version = r->version;
	return r->need;
}

static uint64_t kv_store_append(struct kv_store *s, const struct kv_req *req, struct kv_rep *rep)
{
	uint64_t *len = &s->len[req->key];

	rep->value = *len;
	if (*len == KV_LIST_CAP || kv_store_is_full(s)) {
		rep->status = KV_FULL;
	} else {
		s->list[req->key][(*len)++] = req->a;
		s->list_need[req->key] = kv_store_log(s, req, KV_APPEND, req->a);
	}
	return s->list_need[req->key];
}

static uint64_t kv_store_list(const struct kv_store *s, const struct kv_req *req,
			      struct kv_rep *rep)
{
	uint64_t len = s->len[req->key], left = req->a < len ? len - req->a : 0;

	rep->value = len;
	rep->n = (uint16_t)(left < KV_LIST_PER_REP ? left : KV_LIST_PER_REP);
	return s->list_need[req->key];
}

static const struct kv_done *kv_store_find_done(const struct kv_store *s, const struct kv_req *req)
{
	for (unsigned i = 0; i < KV_STORE_RECENT && i < s->ndone; i++)
		if (s->done_id[i] == req->id && !memcmp(&s->done[i].req, req, sizeof(*req)))
			return &s->done[i];
	return NULL;
}

static bool kv_store_is_valid(const struct kv_req *req)
{
	if (req->magic != KV_REQ_MAGIC || req->op < KV_GET || req->op > KV_LIST)
		return false;
	return req->key < (req->op == KV_APPEND || req->op == KV_LIST ? KV_LISTS : KV_KEYS);
}

bool kv_store_apply(struct kv_store *s, const struct kv_req *req, struct kv_rep *rep,
		    uint64_t *ret_need)
{
	bool changes = req->op == KV_PUT || req->op == KV_CAS || req->op == KV_APPEND;
	const struct kv_done *old;
	unsigned at;

	*rep = (struct kv_rep){
		.magic = KV_REP_MAGIC, .op = req->op, .id = req->id, .key = req->key};
	*ret_need = 0;
	if (!kv_store_is_valid(req)) {
		rep->status = KV_BAD;
		return true;
	}
	old = changes ? kv_store_find_done(s, req) : NULL;
	if (old) {
		*rep = old->rep;
		*ret_need = old->need;
		return true;
	}
	if (changes && !kv_store_room(s))
		return false;
	if (req->op == KV_APPEND)
		*ret_need = kv_store_append(s, req, rep);
	else if (req->op == KV_LIST)
		*ret_need = kv_store_list(s, req, rep);
	else
		*ret_need = kv_store_set(s, req, rep);
	if (changes) {
		at = (unsigned)(s->ndone++ % KV_STORE_RECENT);
		s->done_id[at] = req->id;
		s->done[at] = (struct kv_done){*req, *rep, *ret_need};
	}
	return true;
}
