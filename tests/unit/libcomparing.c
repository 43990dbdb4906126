#include "tests/unit/libcomparing.h"

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

const struct compare_ops comparing_ops = {on_release, on_differ, on_mapped};

const struct compare_limits comparing_limits = {
	.bytes = 8u << 20,
	.flow_bytes = 256u << 10,
	.history_bytes = 64u << 10,
	.flows = 16,
	.overdue_ns = 100 * MS,
	.idle_ns = 1000 * MS,
};

int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(compare_init(&f->c, &comparing_limits, &comparing_ops, f), 0);
	compare_add_sink(&f->c, NET, COMPARE_FRAMES);
	compare_add_sink(&f->c, CONSOLE, COMPARE_STREAM);
	compare_add_sink(&f->c, ORDERS, COMPARE_MESSAGES);
	f->now = 1000 * MS;
	*state = f;
	return 0;
}

int teardown(void **state)
{
	struct fix *f = *state;

	compare_done(&f->c);
	assert_int_equal(f->c.bytes, 0);
	for (unsigned i = 0; i < f->nmem; i++)
		free(f->mem[i]);
	free(f);
	return 0;
}

void ours(struct fix *f, char letter, int sink, const void *data, uint32_t len)
{
	struct held *h = malloc(sizeof(*h) + len);

	assert_true(f->nmem < sizeof(f->mem) / sizeof(f->mem[0]));
	*h = (struct held){f, letter, f->nmem};
	memcpy(h->data, data, len);
	f->mem[f->nmem++] = h;
	compare_ours(&f->c, sink, h->data, len, h, f->now);
}

int theirs(struct fix *f, int sink, const void *data, uint32_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, data, len);
	r = compare_theirs(&f->c, sink, copy, len, f->now);
	free(copy);
	return r;
}

void assert_differs(struct fix *f, enum compare_why why)
{
	char text[400];

	assert_int_equal(f->differs, 1);
	assert_int_equal(f->v.why, why);
	compare_describe(&f->v, text, sizeof(text));
	assert_non_null(strstr(text, "sink"));
}

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

void p(struct fix *f, char letter, struct seg s)
{
	uint8_t buf[65536];

	ours(f, letter, NET, buf, frame(buf, s));
}

void s(struct fix *f, struct seg s)
{
	uint8_t buf[65536];

	assert_int_equal(theirs(f, NET, buf, frame(buf, s)), 0);
}

void input(struct fix *f, struct seg s)
{
	uint8_t buf[65536];

	s.from_client = true;
	compare_input(&f->c, NET, buf, frame(buf, s));
}
