/*
 * Random streams against a model that knows of each byte which side has put it out, and of each
 * output of ours what it needs: what is released after each step is exactly what the model allows.
 * Both sides cut, coalesce, lose, repeat in their own way, begin with numbers of their own, and run
 * ahead of each other; there are checkpoints in between, and times in which nobody compares. And
 * one wrong byte anywhere is found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tests/unit/libcompare.h"

#define CONNS  7u
#define STREAM 400000u /* bytes of a connection; beside them SYN and FIN */
#define OPEN   90000u  /* unacknowledged at most */
#define LOST   4u
#define MS     1000000ull

enum { P, S };

struct out {
	struct conn *conn;
	uint32_t from, to, ack;
	bool has_ack, bad;
	uint8_t frame[];
};

struct conn {
	uint16_t port;
	int version;
	uint32_t isn[2], before[2];	  /* before: of the connection that had the port */
	uint32_t client_isn, client_sent; /* bytes, with its SYN */
	uint8_t *bytes;			  /* by position */
	uint8_t *have[2];
	uint32_t nxt[2], ack[2], said[2]; /* ack: what it could say; said: 0 if nothing */
	struct {
		uint32_t from, to;
	} lost[2][LOST];
	unsigned nlost[2];
	uint32_t una, delivered; /* acknowledged; without a gap at the client */
	uint8_t *got;		 /* by position, at the client */
	struct out **outs;
	unsigned nouts, released, room;
};

/* One wrong byte: in the n-th segment of a side that has bytes for the first time, or repeats. */
struct flip {
	bool on, repeats;
	int side, where; /* 0 first, 1 last, 2 any byte */
	unsigned after;
	bool done;
	struct conn *conn;
	uint32_t pos;
};

struct world {
	struct compare c;
	uint64_t seed, now;
	struct conn conns[CONNS];
	struct flip flip;
	bool alone; /* nobody compares, until the next checkpoint */
	unsigned differs, segments[2], fresh, quiet, mapped;
	uint8_t buf[65536 + LIBCOMPARE_ROOM];
};

static const struct compare_limits limits = {
	.bytes = 64u << 20,
	.flow_bytes = 1u << 20,
	.history_bytes = 256u << 10,
	.flows = 64,
	.overdue_ns = 100 * MS,
	.idle_ns = 1000 * MS,
};

static uint32_t rnd(struct world *w, uint32_t below)
{
	return (uint32_t)(libcompare_random(&w->seed) % below);
}

static bool has_all(const uint8_t *have, uint32_t from, uint32_t to)
{
	return from == to || !memchr(have + from, 0, to - from);
}

static bool allowed(const struct conn *n, const struct out *o)
{
	return has_all(n->have[S], o->from, o->to) &&
	       (!o->has_ack || (n->said[S] && n->said[S] >= o->ack));
}

static void deliver(struct conn *n, const struct out *o)
{
	memset(n->got + o->from, 1, o->to - o->from);
	while (n->delivered < STREAM + 2 && n->got[n->delivered])
		n->delivered++;
}

static void on_release(void *arg, void *cookie)
{
	struct world *w = arg;
	struct out *o = cookie;
	struct conn *n = o->conn;

	assert_int_equal(w->differs + w->alone, 0);
	assert_ptr_equal(n->outs[n->released], o); /* each once, in order */
	assert_true(allowed(n, o));
	assert_false(o->bad);
	if (w->flip.done && w->flip.conn == n && w->flip.side == S && !w->flip.repeats)
		assert_false(o->from <= w->flip.pos && w->flip.pos < o->to);
	n->released++;
	deliver(n, o);
	free(o); /* it is not looked at any more */
}

static void on_differ(void *arg, const struct compare_verdict *v)
{
	struct world *w = arg;
	char text[400];

	compare_describe(v, text, sizeof(text));
	if (!w->flip.done)
		fail_msg("nothing differs: %s", text);
	assert_int_equal(v->why, COMPARE_BYTES);
	assert_int_equal(v->offset, w->flip.pos);
	assert_true(v->nours && v->ntheirs && v->ours[0] != v->theirs[0]);
	w->differs++;
}

static void on_mapped(void *arg, const struct packet_key *flow, const struct compare_mapping *m)
{
	struct world *w = arg;
	struct conn *n = &w->conns[flow->dport - 1000];

	assert_int_equal(m->delta, n->isn[S] - n->isn[P]);
	w->mapped++;
}

static const struct compare_ops ops = {on_release, on_differ, on_mapped};

/* --- the machines ----------------------------------------------------------------------------- */

/* By the last two that had the port: numbers do not come again so soon. */
static bool is_used(const struct conn *was, uint32_t isn)
{
	return isn == was->isn[P] || isn == was->isn[S] || isn == was->before[P] ||
	       isn == was->before[S];
}

static void begin_conn(struct world *w, struct conn *n, uint16_t port)
{
	static const uint32_t edges[] = {
		0,	    1,		UINT32_MAX,	    UINT32_MAX - 1000, UINT32_MAX - 70000,
		0x7fffffff, 0x80000000, UINT32_MAX - 300000};
	const struct conn was = *n;

	memset(n, 0, sizeof(*n));
	memcpy(n->before, was.isn, sizeof(n->before));
	n->port = port;
	n->version = port & 1 ? 6 : 4;
	for (int s = 0; s < 2; s++) {
		do
			n->isn[s] = rnd(w, 2) ? edges[rnd(w, 8)] : rnd(w, UINT32_MAX);
		while (is_used(&was, n->isn[s]));
		n->have[s] = calloc(1, STREAM + 2);
		n->ack[s] = 1;
	}
	n->client_isn = rnd(w, 2) ? edges[rnd(w, 8)] : rnd(w, UINT32_MAX);
	n->client_sent = 1;
	n->got = calloc(1, STREAM + 2);
	n->bytes = calloc(1, STREAM + 2);
	for (uint32_t i = 0; i + 6 <= STREAM + 2; i += 6) {
		uint64_t v = libcompare_random(&w->seed);

		memcpy(n->bytes + i, &v, 6);
	}
}

static void end_conn(struct conn *n)
{
	for (unsigned i = n->released; i < n->nouts; i++)
		free(n->outs[i]);
	free(n->have[P]);
	free(n->have[S]);
	free(n->got);
	free(n->bytes);
	free(n->outs);
}

static uint8_t flags_of(uint32_t from, uint32_t to)
{
	return (uint8_t)((from == 0 && to ? PACKET_SYN : 0) |
			 (to == STREAM + 2 && from < to ? PACKET_FIN : 0) | PACKET_ACK);
}

/* The wrong byte, if it is this segment's turn. true: it is in there. */
static bool maybe_flip(struct world *w, struct conn *n, int side, uint32_t from, uint32_t to,
		       uint8_t *payload)
{
	struct flip *f = &w->flip;
	uint32_t first = from ? from : 1, last = to == STREAM + 2 ? to - 1 : to;
	bool repeats;

	if (!f->on || f->done || f->side != side || last <= first)
		return false;
	f->pos = f->where == 0 ? first : f->where == 1 ? last - 1 : first + rnd(w, last - first);
	repeats = n->have[side][f->pos];
	if (repeats != f->repeats || w->segments[side] < f->after)
		return false;
	f->done = true;
	f->conn = n;
	payload[f->pos - first] ^= (uint8_t)(1u << rnd(w, 8));
	return true;
}

static uint32_t make_frame(struct world *w, struct conn *n, int side, uint32_t from, uint32_t to)
{
	uint32_t first = from ? from : 1, last = to == STREAM + 2 ? to - 1 : to;
	struct libcompare_segment s = {
		.version = n->version,
		.port = n->port,
		.flags = flags_of(from, to),
		.seq = n->isn[side] + from,
		.ack = n->client_isn + n->ack[side],
		.data = n->bytes + first,
		.len = last > first ? last - first : 0,
		.noise = rnd(w, UINT32_MAX),
	};

	return libcompare_tcp(w->buf, &s);
}

static void keep_out(struct conn *n, struct out *o)
{
	if (n->nouts == n->room) {
		n->room = n->room ? 2 * n->room : 64;
		n->outs = realloc(n->outs, n->room * sizeof(n->outs[0]));
	}
	n->outs[n->nouts++] = o;
}

static void emit(struct world *w, struct conn *n, int side, uint32_t from, uint32_t to)
{
	uint32_t len = make_frame(w, n, side, from, to), fin = to == STREAM + 2;
	uint32_t bytes = to - from - (from == 0 && to) - (fin && to > from);
	bool bad = maybe_flip(w, n, side, from, to, w->buf + len - bytes);
	struct out *o;

	memset(n->have[side] + from, 1, to - from);
	if (n->said[side] < n->ack[side])
		n->said[side] = n->ack[side];
	w->segments[side]++;
	if (side == S) {
		assert_int_equal(compare_theirs(&w->c, 0, w->buf, len, w->now), 0);
		return;
	}
	o = malloc(sizeof(*o) + len);
	*o = (struct out){n, from, to, n->ack[P], true, bad};
	memcpy(o->frame, w->buf, len);
	keep_out(n, o);
	if (w->alone)
		compare_learn(&w->c, 0, o->frame, len, w->now);
	else
		compare_ours(&w->c, 0, o->frame, len, o, w->now);
}

static uint32_t some_length(struct world *w)
{
	switch (rnd(w, 8)) {
	case 0:
		return 1;
	case 1:
		return 1 + rnd(w, 60000);
	case 2:
	case 3:
		return 1448;
	default:
		return 1 + rnd(w, 3000);
	}
}

static void send_new(struct world *w, struct conn *n, int side)
{
	uint32_t from = n->nxt[side], to = from + some_length(w);

	if (to > STREAM + 1)
		to = rnd(w, 2) ? STREAM + 1 : STREAM + 2;
	if (from == 0)
		to = 1;
	if (to <= from)
		to = STREAM + 2;
	if (from == STREAM + 2 || (int64_t)to - n->una > OPEN)
		return;
	n->nxt[side] = to;
	if (from && rnd(w, 30) == 0 && n->nlost[side] < LOST) {
		n->lost[side][n->nlost[side]].from = from;
		n->lost[side][n->nlost[side]++].to = to;
		return;
	}
	emit(w, n, side, from, to);
}

/* The client has not acknowledged it, and this side has put it out. */
static void repeat(struct world *w, struct conn *n, int side)
{
	uint32_t from, to;

	if (n->nxt[side] <= n->una)
		return;
	from = n->una + rnd(w, n->nxt[side] - n->una);
	to = from + some_length(w);
	if (to > n->nxt[side])
		to = n->nxt[side];
	if (from == 0)
		to = 1;
	if (has_all(n->have[side], from, to))
		emit(w, n, side, from, to);
}

static void mend(struct world *w, struct conn *n, int side)
{
	unsigned i = n->nlost[side] ? rnd(w, n->nlost[side]) : 0;
	uint32_t from = n->lost[side][i].from, to = n->lost[side][i].to;

	if (!n->nlost[side])
		return;
	n->lost[side][i] = n->lost[side][--n->nlost[side]];
	emit(w, n, side, from, to);
}

/* Nothing but an acknowledgement, or a question whether the client is there. */
static void answer(struct world *w, struct conn *n, int side)
{
	uint32_t at = n->nxt[side];

	if (!at || !n->have[side][0])
		return;
	if (rnd(w, 4) == 0 && n->una > 1)
		at = n->una - 1;
	emit(w, n, side, at, at);
}

static void client(struct world *w, struct conn *n)
{
	struct libcompare_segment s = {.version = n->version,
				       .port = n->port,
				       .from_client = true,
				       .flags = PACKET_ACK,
				       .noise = rnd(w, UINT32_MAX)};

	n->client_sent += rnd(w, 3000);
	if (n->delivered > n->una)
		n->una += 1 + rnd(w, n->delivered - n->una);
	if (!n->una)
		return;
	s.seq = n->client_isn + n->client_sent;
	s.ack = n->isn[P] + n->una;
	compare_input(&w->c, 0, w->buf, libcompare_tcp(w->buf, &s));
}

static void read_some(struct world *w, struct conn *n, int side)
{
	if (n->ack[side] < n->client_sent)
		n->ack[side] += 1 + rnd(w, n->client_sent - n->ack[side]);
}

/* --- */

/* Exactly what may leave has left. */
static void check(struct world *w, struct conn *n)
{
	if (w->flip.done && w->flip.conn == n && n->have[P][w->flip.pos] && n->have[S][w->flip.pos])
		assert_int_equal(w->differs, 1);
	if (w->flip.done || w->alone)
		return;
	if (n->released < n->nouts)
		assert_false(allowed(n, n->outs[n->released]));
}

static void step(struct world *w, struct conn *n)
{
	int side = !w->alone && rnd(w, 2) ? S : P;

	w->now += rnd(w, 1000);
	switch (rnd(w, 20)) {
	case 0 ... 10:
		send_new(w, n, side);
		break;
	case 11:
		repeat(w, n, side);
		break;
	case 12:
		mend(w, n, side);
		break;
	case 13 ... 14:
		answer(w, n, side);
		break;
	case 15 ... 16:
		client(w, n);
		break;
	default:
		read_some(w, n, side);
	}
	check(w, n);
}

/* All of ours has left, and theirs is what ours is. */
static void checkpoint(struct world *w)
{
	compare_reset(&w->c);
	w->alone = false;
	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *n = &w->conns[i];

		for (; n->released < n->nouts; n->released++) {
			deliver(n, n->outs[n->released]);
			free(n->outs[n->released]);
		}
		memcpy(n->have[S], n->have[P], STREAM + 2);
		memcpy(n->lost[S], n->lost[P], sizeof(n->lost[S]));
		n->nlost[S] = n->nlost[P];
		n->nxt[S] = n->nxt[P];
		n->ack[S] = n->ack[P];
		n->said[S] = n->said[P];
		if (n->have[P][0])
			n->isn[S] = n->isn[P];
	}
}

static bool is_done(const struct conn *n)
{
	return n->delivered == STREAM + 2;
}

static void begin_world(struct world *w, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	assert_int_equal(compare_init(&w->c, &limits, &ops, w), 0);
	compare_add_sink(&w->c, 0, COMPARE_FRAMES);
	for (unsigned i = 0; i < CONNS; i++)
		begin_conn(w, &w->conns[i], (uint16_t)(1000 + i));
}

static void end_world(struct world *w)
{
	compare_done(&w->c);
	assert_int_equal(w->c.bytes, 0);
	for (unsigned i = 0; i < CONNS; i++)
		end_conn(&w->conns[i]);
}

/* Each connection to its end, and a new one in its place. */
static void nothing_differs(void **state)
{
	struct world *w = malloc(sizeof(*w));

	begin_world(w, *(uint64_t *)*state);
	while (w->segments[P] < 100000) {
		unsigned i = rnd(w, CONNS);

		step(w, &w->conns[i]);
		if (rnd(w, w->alone ? 500 : 5000) == 0)
			checkpoint(w);
		w->alone |= rnd(w, 5000) == 0;
		if (is_done(&w->conns[i]) && rnd(w, 100) == 0) {
			if (w->conns[i].released < w->conns[i].nouts)
				checkpoint(w);
			else
				w->quiet++;
			end_conn(&w->conns[i]);
			begin_conn(w, &w->conns[i], (uint16_t)(1000 + i));
			w->fresh++;
		}
	}
	assert_int_equal(w->differs, 0);
	assert_true(w->fresh > CONNS && w->mapped > 2 * CONNS && w->quiet > 2);
	checkpoint(w);
	assert_int_equal(compare_due(&w->c), UINT64_MAX);
	end_world(w);
	free(w);
}

/* A byte that is wrong once: nothing of it leaves, and it is told where. */
static void one_byte(struct world *w, uint64_t seed, struct flip f)
{
	begin_world(w, seed);
	w->flip = f;
	for (unsigned n = 0; !w->differs && n < 200000; n++)
		step(w, &w->conns[rnd(w, CONNS)]);
	assert_int_equal(w->differs, 1);
	for (unsigned n = 0; n < 2000; n++) /* and nothing leaves after it: see on_release() */
		step(w, &w->conns[rnd(w, CONNS)]);
	assert_int_equal(w->differs, 1);
	end_world(w);
}

static void one_byte_differs(void **state)
{
	struct world *w = malloc(sizeof(*w));
	uint64_t seed = *(uint64_t *)*state;

	for (unsigned i = 0; i < 120; i++) {
		struct flip f = {.on = true,
				 .side = i & 1 ? S : P,
				 .repeats = i & 2,
				 .where = (int)(i / 4 % 3),
				 .after = (unsigned)(libcompare_random(&seed) % 300)};

		one_byte(w, seed, f);
	}
	free(w);
}

int main(void)
{
	uint64_t seed = 0;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(nothing_differs, &seed),
		cmocka_unit_test_prestate(one_byte_differs, &seed),
	};
	const char *given = getenv("COMPARE_SEED");

	if (given)
		seed = strtoull(given, NULL, 10);
	if (!given && getrandom(&seed, 4, 0) != 4)
		return 2;
	seed += !seed;
	printf("# COMPARE_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
