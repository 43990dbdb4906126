/* Reading and writing client histories: see history.h for the format. */
#include "tests/lin/history.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guests/kv_proto.h"

#define HISTORY_BUF (256 * 1024)

struct history_writer {
	pthread_mutex_t lock;
	int fd;
	int err; /* first failure; nothing is written after it */
	uint64_t count;
	size_t used;
	uint8_t buf[HISTORY_BUF];
};

static int history_grow(void **p, size_t *cap, size_t need, size_t size)
{
	size_t want = *cap ? *cap : 1024;
	void *q;

	while (want < need)
		want *= 2;
	if (want == *cap)
		return 0;
	q = realloc(*p, want * size);
	if (!q)
		return -ENOMEM;
	*p = q;
	*cap = want;
	return 0;
}

int history_add(struct history *h, const struct history_rec *rec, const uint64_t *list)
{
	size_t cap = h->cap;

	if (history_grow((void **)&h->recs, &cap, h->n + 1, sizeof(*h->recs)))
		return -ENOMEM;
	if (history_grow((void **)&h->list_at, &h->cap, h->n + 1, sizeof(*h->list_at)))
		return -ENOMEM;
	if (history_grow((void **)&h->elems, &h->elems_cap, h->nelems + rec->n, 8))
		return -ENOMEM;
	h->recs[h->n] = *rec;
	h->list_at[h->n++] = h->nelems;
	if (rec->n)
		memcpy(h->elems + h->nelems, list, (size_t)rec->n * 8);
	h->nelems += rec->n;
	return 0;
}

const uint64_t *history_list(const struct history *h, size_t i)
{
	return h->elems + h->list_at[i];
}

void history_free(struct history *h)
{
	free(h->recs);
	free(h->list_at);
	free(h->elems);
	memset(h, 0, sizeof(*h));
}

static const char *history_check_rec(const struct history_rec *r)
{
	bool known = (r->op >= KV_GET && r->op <= KV_LIST) ||
		     (r->op >= HISTORY_CONN_LOST && r->op <= HISTORY_BAD_REPLY) ||
		     r->op == HISTORY_END;

	if (!known)
		return "unknown record type";
	if (r->n > HISTORY_LIST_MAX || (r->n && r->op != KV_LIST))
		return "list too long";
	if (r->op > KV_LIST)
		return NULL;
	if (r->result < HISTORY_OK || r->result > HISTORY_UNKNOWN)
		return "unknown result";
	if (r->key >= (r->op >= KV_APPEND ? KV_LISTS : KV_KEYS))
		return "key out of range";
	if ((r->result == HISTORY_UNKNOWN) != (r->complete == HISTORY_NEVER))
		return "result and completion time disagree";
	if (r->complete < r->invoke)
		return "completed before it was invoked";
	if (r->result == HISTORY_OK && r->status != KV_OK &&
	    (r->op != KV_CAS || r->status != KV_MISMATCH))
		return "result and status disagree";
	return NULL;
}

static int history_load_recs(struct history *h, FILE *f, const char **bad)
{
	uint64_t list[HISTORY_LIST_MAX], count = 0;
	struct history_rec r;
	int rc;

	for (;; count++) {
		if (fread(&r, sizeof(r), 1, f) != 1) {
			*bad = "cut off: it has no end record";
			return -EINVAL;
		}
		*bad = history_check_rec(&r);
		if (*bad)
			return -EINVAL;
		if (r.op == HISTORY_END)
			break;
		if (r.n && fread(list, 8, r.n, f) != r.n) {
			*bad = "cut off inside a list";
			return -EINVAL;
		}
		rc = history_add(h, &r, list);
		if (rc) {
			*bad = "not enough memory";
			return rc;
		}
	}
	if (r.a != count || fgetc(f) != EOF) {
		*bad = "the end record does not match";
		return -EINVAL;
	}
	return 0;
}

int history_load(struct history *h, const char *path, char *why, size_t whylen)
{
	const char *bad = "not a history file";
	FILE *f = fopen(path, "rbe");
	struct history_file hdr;
	int rc = -EINVAL;

	if (!f) {
		rc = -errno;
		snprintf(why, whylen, "%s: %s", path, strerror(-rc));
		return rc;
	}
	if (fread(&hdr, sizeof(hdr), 1, f) != 1 || hdr.magic != HISTORY_MAGIC)
		goto out;
	bad = "recorded in another boot than the first file";
	if (h->start_ns && memcmp(h->boot, hdr.boot, sizeof(h->boot)) != 0)
		goto out;
	memcpy(h->boot, hdr.boot, sizeof(h->boot));
	if (!h->start_ns || hdr.start_ns < h->start_ns)
		h->start_ns = hdr.start_ns;
	rc = history_load_recs(h, f, &bad);
out:
	fclose(f);
	if (rc)
		snprintf(why, whylen, "%s: %s", path, bad);
	return rc;
}

const char *history_op_name(unsigned op)
{
	static const char *const name[] = {"?", "get", "put", "cas", "append", "list"};

	switch (op) {
	case HISTORY_CONN_LOST:
		return "connection-lost";
	case HISTORY_STREAM:
		return "byte-stream";
	case HISTORY_DUP_DIFF:
		return "answered-twice";
	case HISTORY_BAD_REPLY:
		return "bad-reply";
	}
	return op <= KV_LIST ? name[op] : name[0];
}

static double history_ms(uint64_t t, uint64_t start)
{
	return ((double)t - (double)start) / 1e6;
}

void history_print(const struct history_rec *r, uint64_t start_ns, char *buf, size_t len)
{
	static const char *const result[] = {"?", "ok", "fail", "unknown"};
	static const char *const status[] = {"", " mismatch", " full", " bad"};
	char end[32] = "never", arg[64] = "", rep[96] = "";

	if (r->complete != HISTORY_NEVER)
		snprintf(end, sizeof(end), "%.3f", history_ms(r->complete, start_ns));
	if (r->op == KV_CAS)
		snprintf(arg, sizeof(arg), " %" PRIx64 "->%" PRIx64, r->a, r->b);
	else if (r->op != KV_GET)
		snprintf(arg, sizeof(arg), " %" PRIx64, r->a);
	if (r->result == HISTORY_OK && r->op >= KV_APPEND)
		snprintf(rep, sizeof(rep), " value=%" PRIu64 " n=%u", r->value, r->n);
	else if (r->result == HISTORY_OK)
		snprintf(rep, sizeof(rep), " value=%" PRIx64 " version=%" PRIu64, r->value,
			 r->version);
	snprintf(buf, len, "client %u%s %s id=%" PRIx64 " key=%u%s => %s%s%s%s [%.3f..%s ms]",
		 r->client, r->flags & HISTORY_TCP ? "/tcp" : "/udp", history_op_name(r->op), r->id,
		 r->key, arg, result[r->result & 3], status[r->status & 3], rep,
		 r->flags & HISTORY_LATE ? " late" : "", history_ms(r->invoke, start_ns), end);
}

/* Caller holds the lock. */
static void history_flush(struct history_writer *w)
{
	size_t done = 0;

	while (!w->err && done < w->used) {
		ssize_t n = write(w->fd, w->buf + done, w->used - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno != EINTR)
			w->err = -errno;
	}
	w->used = 0;
}

static void history_put(struct history_writer *w, const void *data, size_t len)
{
	if (w->used + len > sizeof(w->buf))
		history_flush(w);
	memcpy(w->buf + w->used, data, len);
	w->used += len;
}

int history_create(struct history_writer **out, const char *path, uint64_t seed, uint64_t start_ns)
{
	struct history_file hdr = {.magic = HISTORY_MAGIC, .seed = seed, .start_ns = start_ns};
	struct history_writer *w = malloc(sizeof(*w));
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (f) {
		if (!fread(hdr.boot, 1, 36, f))
			hdr.boot[0] = 0;
		fclose(f);
	}
	if (!w)
		return -ENOMEM;
	w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (w->fd < 0) {
		int rc = -errno;

		free(w);
		return rc;
	}
	pthread_mutex_init(&w->lock, NULL);
	w->err = 0;
	w->count = 0;
	w->used = 0;
	history_put(w, &hdr, sizeof(hdr));
	*out = w;
	return 0;
}

void history_write(struct history_writer *w, const struct history_rec *rec, const uint64_t *list)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	history_put(w, rec, sizeof(*rec));
	if (rec->n)
		history_put(w, list, (size_t)rec->n * 8);
	w->count++;
	pthread_mutex_unlock(&w->lock);
}

int history_close(struct history_writer *w)
{
	struct history_rec end = {.op = HISTORY_END};
	int rc;

	if (!w)
		return 0;
	end.a = w->count;
	history_put(w, &end, sizeof(end));
	history_flush(w);
	if (close(w->fd) && !w->err)
		w->err = -errno;
	rc = w->err;
	pthread_mutex_destroy(&w->lock);
	free(w);
	return rc;
}
