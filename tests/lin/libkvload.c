/*
 * One kv client: one socket, one operation at a time.
 *
 * UDP: an operation without a reply in time is given up, never repeated. Its reply may still come;
 * that proves that it took effect, so it is recorded as acknowledged at that later time, which is
 * all that is known. What never comes is unknown at the end.
 * TCP: a reply is waited for as long as the connection lives. The connection is never renewed.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guests/kv_proto.h"
#include "tests/lin/load.h"

#define KVLOAD_LATE_MAX 65536
#define KVLOAD_RECENT	64
#define KVLOAD_REP_MAX	(sizeof(struct kv_rep) + 8 * KV_LIST_PER_REP)

struct kvload_reply {
	struct kv_rep rep;
	uint64_t list[KV_LIST_PER_REP];
};

struct kvload {
	struct load_client *c;
	struct load *l;
	int fd;
	bool lost, ready; /* ready: acknowledged at least once */
	uint64_t n;	  /* operations so far */
	uint64_t received;
	uint64_t value[KV_KEYS], len[KV_LISTS]; /* as last seen */
	struct history_rec *late;		/* given up, but a reply may still come */
	size_t nlate, late_cap;
	struct kv_rep recent[KVLOAD_RECENT]; /* last replies, to notice differing repetitions */
	uint64_t nrecent;
	uint8_t buf[2 * KVLOAD_REP_MAX];
	size_t used;
};

static void kvload_event(struct kvload *k, enum history_event op, const struct kv_rep *rep)
{
	struct history_rec r = {.client = k->c->number,
				.op = (uint8_t)op,
				.flags = k->c->tcp ? HISTORY_TCP : 0,
				.id = rep->id,
				.key = rep->key,
				.invoke = load_now(),
				.value = rep->value,
				.version = rep->version};

	r.complete = r.invoke;
	atomic_fetch_add(&k->l->bad_replies, 1);
	history_write(k->l->history, &r, NULL);
}

/* Values are unique over all clients and writes, so a reader knows who wrote what it saw. */
static void kvload_choose(struct kvload *k, struct history_rec *r)
{
	const struct load_config *cfg = &k->l->cfg;
	uint64_t rnd = load_random(&k->c->rng), dice = rnd % 100, fresh;
	uint32_t key = (uint32_t)(rnd >> 32);

	*r = (struct history_rec){.client = k->c->number, .flags = k->c->tcp ? HISTORY_TCP : 0};
	k->n++;
	r->id = (uint64_t)k->c->number << 40 | k->n;
	fresh = k->n << 20 | k->c->number;
	r->key = key % (dice < 80 ? cfg->keys : cfg->lists);
	if (dice < 35 || !k->ready) { /* a lost read costs the checker nothing */
		r->op = KV_GET;
		r->key = key % cfg->keys;
	} else if (dice < 60) {
		r->op = KV_PUT;
		r->a = fresh;
	} else if (dice < 80) {
		r->op = KV_CAS;
		r->a = k->value[r->key];
		r->b = fresh;
	} else if (dice < 95) {
		r->op = KV_APPEND;
		r->a = fresh;
	} else {
		uint64_t len = k->len[r->key];

		r->op = KV_LIST; /* mostly the end, where things happen */
		r->a = rnd & 0x3000000 ? (len > 40 ? len - 40 : 0) : (rnd >> 40) % (len + 1);
	}
}

/* Does the reply answer this operation at all? */
static bool kvload_fits(const struct history_rec *r, const struct kv_rep *rep)
{
	if (rep->id != r->id || rep->op != r->op || rep->key != r->key)
		return false;
	if (rep->status > KV_BAD || (rep->status == KV_MISMATCH && rep->op != KV_CAS))
		return false;
	return rep->n <= KV_LIST_PER_REP && (!rep->n || rep->op == KV_LIST);
}

static void kvload_finish(struct kvload *k, struct history_rec *r, const struct kvload_reply *rep)
{
	struct load *l = k->l;

	r->complete = load_now();
	r->status = rep->rep.status;
	r->result = r->status <= KV_MISMATCH ? HISTORY_OK : HISTORY_FAIL;
	r->value = rep->rep.value;
	r->version = rep->rep.version;
	r->n = rep->rep.n;
	k->recent[k->nrecent++ % KVLOAD_RECENT] = rep->rep;
	k->ready = true;
	history_write(l->history, r, rep->list);
	stats_ack(&l->kv, r->complete, r->complete - r->invoke);
	if (r->result == HISTORY_FAIL)
		atomic_fetch_add(&l->failed, 1);
	else if (r->op <= KV_CAS)
		k->value[r->key] = r->value;
	else if (r->op == KV_APPEND)
		k->len[r->key] = r->value + 1;
	else
		k->len[r->key] = r->value;
}

static void kvload_give_up(struct kvload *k, struct history_rec *r)
{
	r->result = HISTORY_UNKNOWN;
	r->complete = HISTORY_NEVER;
	atomic_fetch_add(&k->l->unknown, 1);
	history_write(k->l->history, r, NULL);
}

/* Keep it: the reply may come late. */
static void kvload_put_off(struct kvload *k, struct history_rec *r)
{
	atomic_fetch_add(&k->l->timeouts, 1);
	if (k->nlate == k->late_cap && k->nlate < KVLOAD_LATE_MAX) {
		size_t cap = k->late_cap ? 2 * k->late_cap : 64;
		void *p = realloc(k->late, cap * sizeof(*k->late));

		if (p) {
			k->late = p;
			k->late_cap = cap;
		}
	}
	if (k->nlate < k->late_cap)
		k->late[k->nlate++] = *r;
	else
		kvload_give_up(k, r);
}

/* A reply to something else than the operation in flight. */
static void kvload_other(struct kvload *k, const struct kvload_reply *rep)
{
	for (size_t i = k->nlate; i-- > 0;) {
		if (k->late[i].id != rep->rep.id)
			continue;
		if (!kvload_fits(&k->late[i], &rep->rep))
			break;
		k->late[i].flags |= HISTORY_LATE;
		kvload_finish(k, &k->late[i], rep);
		k->late[i] = k->late[--k->nlate];
		atomic_fetch_add(&k->l->late, 1);
		return;
	}
	for (unsigned i = 0; i < KVLOAD_RECENT && i < k->nrecent; i++) {
		if (k->recent[i].id != rep->rep.id)
			continue;
		atomic_fetch_add(&k->l->dups, 1);
		if (memcmp(&k->recent[i], &rep->rep, sizeof(rep->rep)) != 0)
			kvload_event(k, HISTORY_DUP_DIFF, &rep->rep);
		return;
	}
	if (rep->rep.id >> 40 == k->c->number && (rep->rep.id & 0xffffffffff) <= k->n)
		atomic_fetch_add(&k->l->strays, 1);
	else
		kvload_event(k, HISTORY_BAD_REPLY, &rep->rep);
}

/* One datagram, if there is one. True if it answers *r (NULL: nothing is in flight). */
static bool kvload_recv_udp(struct kvload *k, struct history_rec *r)
{
	struct kvload_reply rep = {0};
	ssize_t n = recv(k->fd, &rep, sizeof(rep), MSG_TRUNC);

	if (n < 0) /* nothing, or the port is closed: both mean to go on waiting */
		return false;
	if (n < (ssize_t)sizeof(rep.rep) || rep.rep.magic != KV_REP_MAGIC ||
	    (size_t)n != sizeof(rep.rep) + 8 * (size_t)rep.rep.n) {
		kvload_event(k, HISTORY_BAD_REPLY, &rep.rep);
		return false;
	}
	if (!r || rep.rep.id != r->id) {
		kvload_other(k, &rep);
		return false;
	}
	if (!kvload_fits(r, &rep.rep)) {
		kvload_event(k, HISTORY_BAD_REPLY, &rep.rep);
		return false;
	}
	kvload_finish(k, r, &rep);
	return true;
}

static void kvload_lose(struct kvload *k)
{
	k->lost = true;
	load_lost(k->c, ntohs(k->l->cfg.server.sin_port), k->received);
}

/* Take bytes off the connection. True if the reply to *r is complete. */
static bool kvload_recv_tcp(struct kvload *k, struct history_rec *r)
{
	struct kvload_reply rep = {0};
	ssize_t n = recv(k->fd, k->buf + k->used, sizeof(k->buf) - k->used, 0);
	size_t need = sizeof(rep.rep);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		kvload_lose(k);
		return false;
	}
	k->received += (uint64_t)n;
	k->used += (size_t)n;
	if (k->used >= need) {
		memcpy(&rep.rep, k->buf, sizeof(rep.rep));
		need += 8 * (size_t)rep.rep.n;
	}
	if (k->used < need && (k->used < sizeof(rep.rep) || rep.rep.n <= KV_LIST_PER_REP))
		return false;
	/* Nothing is sent ahead, so a reply is all there can be. */
	if (!r || k->used != need || rep.rep.magic != KV_REP_MAGIC || !kvload_fits(r, &rep.rep)) {
		kvload_event(k, HISTORY_BAD_REPLY, &rep.rep);
		k->lost = true;
		return false;
	}
	memcpy(rep.list, k->buf + sizeof(rep.rep), 8 * (size_t)rep.rep.n);
	k->used = 0;
	kvload_finish(k, r, &rep);
	return true;
}

static bool kvload_recv(struct kvload *k, struct history_rec *r)
{
	return k->c->tcp ? kvload_recv_tcp(k, r) : kvload_recv_udp(k, r);
}

static void kvload_send(struct kvload *k, const struct history_rec *r)
{
	struct kv_req q = {.magic = KV_REQ_MAGIC, .op = r->op, .id = r->id, .key = r->key};
	size_t done = 0;

	q.a = r->a;
	q.b = r->b;
	do {
		ssize_t n = send(k->fd, (uint8_t *)&q + done, sizeof(q) - done, MSG_NOSIGNAL);

		if (n > 0) {
			done += (size_t)n;
		} else if (!k->c->tcp) {
			/* It may or may not be on its way: wait for a reply like for any other. */
			return;
		} else if (errno == EAGAIN) {
			if (!load_wait(k->l, k->fd, POLLOUT, LOAD_NEVER, true))
				return;
		} else if (errno != EINTR) {
			kvload_lose(k);
			return;
		}
	} while (done < sizeof(q));
}

static void kvload_step(struct kvload *k)
{
	struct history_rec r;
	uint64_t until;

	kvload_choose(k, &r);
	r.invoke = load_now();
	until = k->c->tcp ? LOAD_NEVER : r.invoke + k->l->cfg.timeout;
	kvload_send(k, &r);
	while (!k->lost && load_wait(k->l, k->fd, POLLIN, until, true))
		if (kvload_recv(k, &r))
			return;
	if (k->c->tcp) {
		atomic_fetch_add(&k->l->silent, !k->lost);
		kvload_give_up(k, &r);
	} else {
		kvload_put_off(k, &r);
	}
}

/* Replies that come late, and lost connections, are noticed in pauses, too. */
static void kvload_pause(struct kvload *k)
{
	uint64_t until = load_pace(k->c, k->l->cfg.rate);

	while (!k->lost && load_wait(k->l, k->fd, POLLIN, until, false))
		kvload_recv(k, NULL);
}

static int kvload_open(struct kvload *k)
{
	int fd;

	if (k->c->tcp) {
		atomic_fetch_add(&k->l->tcp_total, 1);
		return load_connect(k->l, ntohs(k->l->cfg.server.sin_port), 0);
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&k->l->cfg.server, sizeof(k->l->cfg.server))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

void *kvload_run(void *arg)
{
	struct load_client *c = arg;
	struct kvload *k = calloc(1, sizeof(*k));

	if (!k) {
		atomic_store(&c->load->broken, true);
		load_done(c);
		return NULL;
	}
	k->c = c;
	k->l = c->load;
	k->fd = kvload_open(k);
	if (k->fd < 0) {
		if (k->fd != -ECANCELED)
			atomic_store(&c->load->broken, true);
		load_stop(c->load);
	} else {
		load_ready(c->load);
	}
	while (k->fd >= 0 && !k->lost && load_take(k->l)) {
		kvload_step(k);
		if (k->l->cfg.rate > 0)
			kvload_pause(k);
	}
	while (k->nlate)
		kvload_give_up(k, &k->late[--k->nlate]);
	if (k->fd >= 0)
		close(k->fd);
	free(k->late);
	free(k);
	load_done(c);
	return NULL;
}
