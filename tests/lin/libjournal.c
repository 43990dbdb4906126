/*
 * The kv journal in a raw disk image, against a history: every acknowledged write is there, with
 * its contents, once, in the order clients saw; and nothing is there that no client asked for.
 */
#include "tests/lin/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guests/kv_proto.h"

struct journal_id {
	uint64_t id;
	size_t rec; /* index in the history */
	bool found;
};

struct journal {
	const struct history *h;
	const struct check_options *o;
	struct check_report *r;
	struct journal_id *ids; /* all mutating operations, by id */
	size_t nids;
	uint64_t *seen; /* every id of the journal, for duplicates */
	size_t nseen, seen_cap;
	uint64_t version[KV_KEYS], length[KV_LISTS];
	const struct history_rec *latest; /* the latest start among the records so far */
};

static int journal_id_cmp(const void *a, const void *b)
{
	const struct journal_id *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int journal_u64_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool journal_index(struct journal *j)
{
	j->ids = calloc(j->h->n + 1, sizeof(*j->ids));
	if (!j->ids)
		return false;
	for (size_t i = 0; i < j->h->n; i++) {
		unsigned op = j->h->recs[i].op;

		if (op == KV_PUT || op == KV_CAS || op == KV_APPEND)
			j->ids[j->nids++] = (struct journal_id){j->h->recs[i].id, i, false};
	}
	qsort(j->ids, j->nids, sizeof(*j->ids), journal_id_cmp);
	return true;
}

/* The operation that a record belongs to, if it may be there with these contents. */
static const struct history_rec *journal_match(struct journal *j, const struct kv_record *rec,
					       uint64_t at)
{
	struct journal_id key = {.id = rec->id}, *id;
	const struct history_rec *e;

	id = bsearch(&key, j->ids, j->nids, sizeof(key), journal_id_cmp);
	if (!id) {
		if (!j->o->allow_foreign)
			check_fail(j->r, CHECK_VIOLATION, j->h, NULL, NULL,
				   "journal record %" PRIu64 ", id %" PRIx64
				   ", was asked for by no client",
				   at, rec->id);
		return NULL;
	}
	e = &j->h->recs[id->rec];
	id->found = true;
	if (e->result == HISTORY_FAIL || (e->result == HISTORY_OK && e->status == KV_MISMATCH))
		check_fail(j->r, CHECK_VIOLATION, j->h, e, NULL,
			   "journal record %" PRIu64 " is of an operation without effect", at);
	if (rec->op != (e->op == KV_APPEND ? KV_APPEND : KV_PUT) || rec->key != e->key ||
	    rec->a != (e->op == KV_CAS ? e->b : e->a))
		check_fail(j->r, CHECK_VIOLATION, j->h, e, NULL,
			   "journal record %" PRIu64 " (op %u key %u value %" PRIx64
			   ") is not what was asked",
			   at, rec->op, rec->key, rec->a);
	return e;
}

static void journal_take(struct journal *j, const struct kv_record *rec)
{
	uint64_t at = j->r->records++, place;
	const struct history_rec *e;

	if ((rec->op != KV_PUT && rec->op != KV_APPEND) ||
	    rec->key >= (rec->op == KV_PUT ? KV_KEYS : KV_LISTS)) {
		check_fail(j->r, CHECK_VIOLATION, j->h, NULL, NULL,
			   "journal record %" PRIu64 " has op %u, key %u", at, rec->op, rec->key);
		return;
	}
	place = rec->op == KV_PUT ? ++j->version[rec->key] : j->length[rec->key]++;
	e = journal_match(j, rec, at);
	if (!e)
		return;
	if (e->result == HISTORY_OK && place != (rec->op == KV_PUT ? e->version : e->value))
		check_fail(j->r, CHECK_VIOLATION, j->h, e, NULL,
			   "journal has it as number %" PRIu64 " of its key", place);
	if (j->latest && e->complete < j->latest->invoke)
		check_fail(j->r, CHECK_VIOLATION, j->h, e, j->latest,
			   "journal order: the first was acknowledged before the second began");
	if (!j->latest || e->invoke > j->latest->invoke)
		j->latest = e;
}

static bool journal_valid(const struct kv_sector *s, uint64_t seq)
{
	return s->magic == KV_JOURNAL_MAGIC && s->seq == seq && s->nrecs >= 1 &&
	       s->nrecs <= KV_JOURNAL_RECS && s->sum == kv_sum(s);
}

static bool journal_remember(struct journal *j, uint64_t id)
{
	if (j->nseen == j->seen_cap) {
		size_t cap = j->seen_cap ? j->seen_cap * 2 : 4096;
		uint64_t *p = realloc(j->seen, cap * sizeof(*p));

		if (!p)
			return false;
		j->seen = p;
		j->seen_cap = cap;
	}
	j->seen[j->nseen++] = id;
	return true;
}

/*
 * Recovery stops at the first sector that does not hold. A later one that does would then be an
 * acknowledged write that recovery loses.
 */
static int journal_scan(struct journal *j, int fd)
{
	uint64_t stop = UINT64_MAX;
	struct kv_sector s;

	for (uint64_t seq = 0;; seq++) {
		ssize_t n = pread(fd, &s, sizeof(s), (off_t)(seq * sizeof(s)));

		if (n < 0)
			return -errno;
		if (n < (ssize_t)sizeof(s))
			return 0;
		if (!journal_valid(&s, seq)) {
			stop = stop < seq ? stop : seq;
			continue;
		}
		if (stop != UINT64_MAX) {
			check_fail(j->r, CHECK_VIOLATION, j->h, NULL, NULL,
				   "journal sector %" PRIu64 " is damaged, but sector %" PRIu64
				   " after it holds",
				   stop, seq);
			return 0;
		}
		for (uint32_t i = 0; i < s.nrecs; i++) {
			if (!journal_remember(j, s.recs[i].id))
				return -ENOMEM;
			journal_take(j, &s.recs[i]);
		}
	}
}

static void journal_check_all(struct journal *j)
{
	for (size_t i = 0; i < j->nids; i++) {
		const struct history_rec *e = &j->h->recs[j->ids[i].rec];

		if (!j->ids[i].found && e->result == HISTORY_OK && e->status == KV_OK)
			check_fail(j->r, CHECK_VIOLATION, j->h, e, NULL,
				   "acknowledged, but not in the journal of %" PRIu64 " records",
				   j->r->records);
	}
	if (j->nseen)
		qsort(j->seen, j->nseen, sizeof(*j->seen), journal_u64_cmp);
	for (size_t i = 1; i < j->nseen; i++)
		if (j->seen[i] == j->seen[i - 1])
			check_fail(j->r, CHECK_VIOLATION, j->h, NULL, NULL,
				   "operation %" PRIx64 " is in the journal twice", j->seen[i]);
}

void journal_check(const struct history *h, const char *path, const struct check_options *o,
		   struct check_report *r)
{
	struct journal j = {.h = h, .o = o, .r = r};
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;

	if (!rc && !journal_index(&j))
		rc = -ENOMEM;
	if (!rc)
		rc = journal_scan(&j, fd);
	if (rc)
		check_fail(r, rc == -ENOMEM ? CHECK_UNDECIDED : CHECK_BAD_INPUT, h, NULL, NULL,
			   "image %s: %s", path, strerror(-rc));
	else
		journal_check_all(&j);
	if (fd >= 0)
		close(fd);
	free(j.ids);
	free(j.seen);
}
