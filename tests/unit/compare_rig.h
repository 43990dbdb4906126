/* What the tests of net/compare.c share: a comparison that writes down what it says. */
#ifndef TESTS_COMPARE_RIG_H
#define TESTS_COMPARE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/libcompare.h"

#define RIG_UNUSED __attribute__((unused))
#define MS	   1000000ull
#define SYN	   PACKET_SYN
#define FIN	   PACKET_FIN
#define RST	   PACKET_RST
#define ACK	   PACKET_ACK

enum { NET, CONSOLE, ORDERS };

/* A letter each: what was released, in order. */
struct fix {
	struct compare c;
	struct compare_verdict v;
	unsigned differs, mapped;
	struct compare_mapping mapping;
	char out[65536];
	unsigned nout;
	uint64_t now;
	void *mem[512]; /* of ours, until it is released; asan sees it read later */
	unsigned nmem;
};

struct held {
	struct fix *f;
	char letter;
	unsigned at;
	uint8_t data[];
};

static void on_release(void *arg, void *cookie)
{
	struct fix *f = arg;
	struct held *h = cookie;

	assert_ptr_equal(f->mem[h->at], h);
	f->mem[h->at] = NULL;
	f->out[f->nout++] = h->letter;
	free(h);
}

static void on_differ(void *arg, const struct compare_verdict *v)
{
	struct fix *f = arg;

	f->differs++;
	f->v = *v;
}

static void on_mapped(void *arg, const struct packet_key *flow, const struct compare_mapping *m)
{
	struct fix *f = arg;

	f->mapped++;
	f->mapping = *m;
}

static const struct compare_ops ops = {on_release, on_differ, on_mapped};

static const struct compare_limits limits = {
	.bytes = 8u << 20,
	.flow_bytes = 256u << 10,
	.history_bytes = 64u << 10,
	.flows = 16,
	.overdue_ns = 100 * MS,
	.idle_ns = 1000 * MS,
};

static RIG_UNUSED int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(compare_init(&f->c, &limits, &ops, f), 0);
	compare_add_sink(&f->c, NET, COMPARE_FRAMES);
	compare_add_sink(&f->c, CONSOLE, COMPARE_STREAM);
	compare_add_sink(&f->c, ORDERS, COMPARE_MESSAGES);
	f->now = 1000 * MS;
	*state = f;
	return 0;
}

static RIG_UNUSED int teardown(void **state)
{
	struct fix *f = *state;

	compare_done(&f->c);
	assert_int_equal(f->c.bytes, 0);
	for (unsigned i = 0; i < f->nmem; i++)
		free(f->mem[i]);
	free(f);
	return 0;
}

static RIG_UNUSED void ours(struct fix *f, char letter, int sink, const void *data, uint32_t len)
{
	struct held *h = malloc(sizeof(*h) + len);

	assert_true(f->nmem < sizeof(f->mem) / sizeof(f->mem[0]));
	*h = (struct held){f, letter, f->nmem};
	memcpy(h->data, data, len);
	f->mem[f->nmem++] = h;
	compare_ours(&f->c, sink, h->data, len, h, f->now);
}

/* In memory that ends there, and is gone afterwards. */
static RIG_UNUSED int theirs(struct fix *f, int sink, const void *data, uint32_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, data, len);
	r = compare_theirs(&f->c, sink, copy, len, f->now);
	free(copy);
	return r;
}

#define assert_out(f, s)                                                                           \
	do {                                                                                       \
		(f)->out[(f)->nout] = 0;                                                           \
		assert_string_equal((f)->out, s);                                                  \
	} while (0)

static RIG_UNUSED void assert_differs(struct fix *f, enum compare_why why)
{
	char text[400];

	assert_int_equal(f->differs, 1);
	assert_int_equal(f->v.why, why);
	compare_describe(&f->v, text, sizeof(text));
	assert_non_null(strstr(text, "sink"));
}

struct seg {
	uint32_t seq;
	uint8_t flags;
	uint32_t ack;
	const char *text;
	uint16_t port;
	bool from_client;
};

/* From the start, so far as is not nothing. */
#define SEG(...) ((struct seg){.seq = __VA_ARGS__})

static uint32_t frame(uint8_t *buf, struct seg s)
{
	static uint32_t noise;
	struct libcompare_segment t = {.version = 4,
				       .port = s.port ? s.port : 1000,
				       .from_client = s.from_client,
				       .flags = s.flags,
				       .seq = s.seq,
				       .ack = s.ack,
				       .data = s.text,
				       .len = s.text ? (uint32_t)strlen(s.text) : 0,
				       .noise = noise += 7919};

	return libcompare_tcp(buf, &t);
}

static RIG_UNUSED void p(struct fix *f, char letter, struct seg s)
{
	uint8_t buf[2048];

	ours(f, letter, NET, buf, frame(buf, s));
}

static RIG_UNUSED void s(struct fix *f, struct seg s)
{
	uint8_t buf[2048];

	assert_int_equal(theirs(f, NET, buf, frame(buf, s)), 0);
}

static RIG_UNUSED void input(struct fix *f, struct seg s)
{
	uint8_t buf[2048];

	s.from_client = true;
	compare_input(&f->c, NET, buf, frame(buf, s));
}

#endif
