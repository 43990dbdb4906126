/* Outputs of two machines compared: what each kind of output needs to leave, limits, deadlines. */
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

#define MS  1000000ull
#define SYN PACKET_SYN
#define FIN PACKET_FIN
#define RST PACKET_RST
#define ACK PACKET_ACK

enum { NET, CONSOLE, ORDERS };

/* A letter each: what was released, in order. */
struct fix {
	struct compare c;
	struct compare_verdict v;
	unsigned differs, mapped;
	uint32_t delta;
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

static void on_mapped(void *arg, const struct packet_key *flow, uint32_t delta)
{
	struct fix *f = arg;

	f->mapped++;
	f->delta = delta;
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

static int setup(void **state)
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

static int teardown(void **state)
{
	struct fix *f = *state;

	compare_done(&f->c);
	assert_int_equal(f->c.bytes, 0);
	for (unsigned i = 0; i < f->nmem; i++)
		free(f->mem[i]);
	free(f);
	return 0;
}

static void ours(struct fix *f, char letter, int sink, const void *data, uint32_t len)
{
	struct held *h = malloc(sizeof(*h) + len);

	assert_true(f->nmem < sizeof(f->mem) / sizeof(f->mem[0]));
	*h = (struct held){f, letter, f->nmem};
	memcpy(h->data, data, len);
	f->mem[f->nmem++] = h;
	compare_ours(&f->c, sink, h->data, len, h, f->now);
}

/* In memory that ends there, and is gone afterwards. */
static int theirs(struct fix *f, int sink, const void *data, uint32_t len)
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

static void assert_differs(struct fix *f, enum compare_why why)
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

static void p(struct fix *f, char letter, struct seg s)
{
	uint8_t buf[2048];

	ours(f, letter, NET, buf, frame(buf, s));
}

static void s(struct fix *f, struct seg s)
{
	uint8_t buf[2048];

	assert_int_equal(theirs(f, NET, buf, frame(buf, s)), 0);
}

static void input(struct fix *f, struct seg s)
{
	uint8_t buf[2048];

	s.from_client = true;
	compare_input(&f->c, NET, buf, frame(buf, s));
}

/* A connection that both have begun, theirs with numbers that are 5000 more; up to byte 1. */
static void connect_both(struct fix *f)
{
	p(f, 'S', SEG(100, SYN | ACK, 50));
	s(f, SEG(5100, SYN | ACK, 50));
	assert_out(f, "S");
	f->nout = 0;
}

static void whatever_the_cuts(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	assert_int_equal(f->delta, 5000);
	p(f, 'a', SEG(101, ACK, 50, "hello "));
	p(f, 'b', SEG(107, ACK, 50, "world"));
	s(f, SEG(5101, ACK, 50, "hel"));
	assert_out(f, "");
	s(f, SEG(5104, ACK, 50, "lo wor"));
	assert_out(f, "a");
	s(f, SEG(5110, ACK, 50, "ld and more"));
	assert_out(f, "ab");
	p(f, 'c', SEG(112, ACK, 50, " and"));
	assert_out(f, "abc");
	p(f, 'd', SEG(116, ACK, 50, " more."));
	assert_out(f, "abc");
	assert_int_equal(f->differs, 0);
}

static void acks_are_promises(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, ACK, 80));
	p(f, 'b', SEG(101, ACK, 90, "x"));
	s(f, SEG(5101, ACK, 85));
	assert_out(f, "a");
	s(f, SEG(5101, ACK, 85, "x"));
	assert_out(f, "a");
	s(f, SEG(5102, ACK, 95));
	assert_out(f, "ab");
	p(f, 'c', SEG(102, ACK, 95)); /* the same again, and a window */
	p(f, 'd', SEG(102, ACK, 95));
	assert_out(f, "abcd");
	assert_int_equal(compare_due(&f->c),
			 UINT64_MAX); /* their acks are no output on their own */
}

static void numbers_wrap(void **state)
{
	struct fix *f = *state;

	p(f, 'S', SEG(0xfffffffe, SYN | ACK, 0xffffffff));
	s(f, SEG(0x7ffffffe, SYN | ACK, 0xffffffff));
	assert_int_equal(f->delta, 0x80000000);
	p(f, 'a', SEG(0xffffffff, ACK, 3, "abc"));
	s(f, SEG(0x7fffffff, ACK, 3, "abc"));
	p(f, 'b', SEG(2, ACK, 3, "d"));
	s(f, SEG(0x80000002, ACK, 3, "e"));
	assert_out(f, "Sa");
	assert_differs(f, COMPARE_BYTES);
	assert_int_equal(f->v.offset, 4);
	assert_memory_equal(f->v.ours, "d", 1);
	assert_memory_equal(f->v.theirs, "e", 1);
	assert_string_equal(f->v.flow, "tcp 10.0.0.2:80 > 10.0.0.99:1000");
}

static void ends(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, FIN | ACK, 50, "bye"));
	s(f, SEG(5101, ACK, 50, "bye"));
	assert_out(f, "");
	s(f, SEG(5104, FIN | ACK, 50));
	assert_out(f, "a");
	p(f, 'b', SEG(104, FIN | ACK, 50)); /* once more */
	assert_out(f, "ab");
	input(f, SEG(50, FIN | ACK, 105));
	p(f, 'c', SEG(105, ACK, 51));
	s(f, SEG(5105, ACK, 51));
	assert_out(f, "abc");
	assert_int_equal(f->differs, 0);
	/* The same ends meet again. */
	p(f, 'd', SEG(7000, SYN | ACK, 999));
	s(f, SEG(8000, SYN | ACK, 999));
	assert_out(f, "abcd");
	assert_int_equal(f->delta, 1000);
}

static void an_end_is_not_a_byte(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, FIN | ACK, 50, "bye"));
	s(f, SEG(5101, ACK, 50, "bye"));
	s(f, SEG(5104, ACK, 50, "!"));
	assert_out(f, "");
	assert_differs(f, COMPARE_FLAGS);
}

static void bytes_before_an_end(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	s(f, SEG(5101, ACK, 50, "abc"));
	p(f, 'a', SEG(101, FIN | ACK, 50, "ab"));
	assert_out(f, "");
	assert_differs(f, COMPARE_FLAGS);
}

static void resets_come_from_both(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, RST));
	assert_out(f, "");
	s(f, SEG(5101, RST));
	assert_out(f, "a");
	/* Nobody listens there: no number of ours is in it. */
	s(f, SEG(0, RST | ACK, 777, NULL, 2000));
	assert_int_equal(compare_due(&f->c), f->now + 100 * MS);
	p(f, 'b', SEG(0, RST | ACK, 777, NULL, 2000));
	assert_out(f, "ab");
	assert_int_equal(compare_due(&f->c), UINT64_MAX);
	s(f, SEG(0, RST, 0, NULL, 2001));
	f->now += 100 * MS;
	compare_overdue(&f->c, f->now);
	assert_differs(f, COMPARE_EXTRA);
}

static void repeated_bytes(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, ACK, 50, "abcdef"));
	s(f, SEG(5101, ACK, 50, "abcdef"));
	p(f, 'b', SEG(102, ACK, 50, "bcd")); /* ours alone repeats */
	s(f, SEG(5103, ACK, 50, "cde"));
	p(f, 'c', SEG(105, ACK, 50, "efgh"));
	s(f, SEG(5104, ACK, 50, "defgh"));
	assert_out(f, "abc");
	assert_int_equal(f->differs, 0);
	p(f, 'd', SEG(106, ACK, 50, "fgX"));
	assert_out(f, "abc");
	assert_differs(f, COMPARE_BYTES);
	assert_int_equal(f->v.offset, 8);
}

/* Asking whether the client is there: a byte before what it has acknowledged, or none. */
static void probes(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, ACK, 50, "abc"));
	s(f, SEG(5101, ACK, 50, "abc"));
	input(f, SEG(50, ACK, 104));
	p(f, 'b', SEG(103, ACK, 50));
	p(f, 'c', SEG(103, ACK, 50, "?"));
	s(f, SEG(5103, ACK, 50, "!"));
	assert_out(f, "abc");
	assert_int_equal(f->differs, 0);
	assert_int_equal(compare_due(&f->c), UINT64_MAX);
}

/* More than is remembered, and the client has not said that it has it. */
static void unknown_bytes_stay(void **state)
{
	struct fix *f = *state;
	char text[1001] = {0};

	memset(text, 'x', 1000);
	connect_both(f);
	for (uint32_t i = 0; i < 200; i++) {
		p(f, '.', SEG(101 + i * 1000, ACK, 50, text));
		s(f, SEG(5101 + i * 1000, ACK, 50, text));
	}
	assert_int_equal(f->nout, 200);
	assert_true(f->c.bytes < 80000);
	p(f, 'a', SEG(101, ACK, 50, text));
	p(f, 'b', SEG(101 + 200000, ACK, 50, "y"));
	s(f, SEG(5101, ACK, 50, text));
	s(f, SEG(5101 + 200000, ACK, 50, "y"));
	assert_int_equal(f->nout, 200);
	f->now += 100 * MS;
	compare_overdue(&f->c, f->now);
	assert_differs(f, COMPARE_OVERDUE);
	compare_reset(&f->c);
	p(f, 'c', SEG(101 + 200000, ACK, 50, "y")); /* what waited has left: known */
	assert_int_equal(f->nout, 201);
}

static void a_connection_that_was_there(void **state)
{
	struct fix *f = *state;

	s(f, SEG(900, ACK, 50, "abc"));
	p(f, 'a', SEG(900, ACK, 50, "ab"));
	p(f, 'b', SEG(902, ACK, 50, "cd"));
	assert_out(f, "a");
	s(f, SEG(903, ACK, 50, "d"));
	assert_out(f, "ab");
	assert_int_equal(f->mapped, 0);
}

/* After a difference nothing leaves; after the checkpoint theirs is ours, also what ours said last.
 */
static void a_checkpoint_makes_them_one(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	p(f, 'a', SEG(101, ACK, 50, "abc"));
	s(f, SEG(5101, ACK, 50, "abX"));
	assert_differs(f, COMPARE_BYTES);
	p(f, 'b', SEG(104, ACK, 60, "def"));
	s(f, SEG(5104, ACK, 60, "def"));
	assert_int_equal(compare_due(&f->c), UINT64_MAX);
	assert_out(f, "");
	compare_reset(&f->c);
	assert_out(f, "");		/* whoever holds it knows */
	s(f, SEG(107, ACK, 60, "ghi")); /* in our numbers */
	p(f, 'c', SEG(107, ACK, 60, "ghi"));
	p(f, 'd', SEG(101, ACK, 60, "abcdef"));
	assert_out(f, "cd");
	p(f, 'e', SEG(101, ACK, 60, "abX"));
	assert_int_equal(f->differs, 2);
	assert_out(f, "cd");
}

/* A connection that only theirs had begun never was. */
static void a_checkpoint_forgets_theirs(void **state)
{
	struct fix *f = *state;

	s(f, SEG(5100, SYN | ACK, 50));
	s(f, SEG(77, ACK, 50, "zzz", 2000));
	assert_int_equal(compare_due(&f->c), f->now + 100 * MS);
	compare_reset(&f->c);
	assert_int_equal(compare_due(&f->c), UINT64_MAX);
	assert_int_equal(f->c.nflows, 0);
	p(f, 'a', SEG(100, SYN | ACK, 50));
	assert_out(f, "");
	s(f, SEG(200, SYN | ACK, 50));
	assert_out(f, "a");
	assert_int_equal(f->delta, 100);
}

static void flows_do_not_wait_for_each_other(void **state)
{
	struct fix *f = *state;

	p(f, 'a', SEG(100, ACK, 50, "x", 2000));
	p(f, 'b', SEG(100, ACK, 50, "y", 2001));
	s(f, SEG(100, ACK, 50, "y", 2001));
	assert_out(f, "b");
	s(f, SEG(100, ACK, 50, "x", 2000));
	assert_out(f, "ba");
}

static void who_is_late(void **state)
{
	struct fix *f = *state;

	p(f, 'a', SEG(100, ACK, 50, "abc"));
	f->now += 10 * MS;
	s(f, SEG(100, ACK, 50, "ab"));
	s(f, SEG(500, ACK, 50, "zz", 2000));
	assert_int_equal(compare_due(&f->c), f->now + 90 * MS);
	compare_overdue(&f->c, f->now + 90 * MS - 1);
	assert_int_equal(f->differs, 0);
	compare_overdue(&f->c, f->now + 90 * MS);
	assert_differs(f, COMPARE_OVERDUE);
	assert_int_equal(f->v.offset, 2);
	assert_int_equal(f->v.nours, 1);
	assert_int_equal(f->v.ours[0], 'c');
	compare_reset(&f->c);
	s(f, SEG(500, ACK, 50, "zz", 2000));
	compare_overdue(&f->c, f->now + 200 * MS);
	assert_int_equal(f->differs, 2);
	assert_int_equal(f->v.why, COMPARE_EXTRA);
	assert_memory_equal(f->v.theirs, "zz", 2);
}

/* A client that went away: what theirs still said to it does not matter. */
static void a_client_that_reset(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	s(f, SEG(5101, ACK, 50, "abc"));
	input(f, SEG(50, RST, 0));
	assert_int_equal(compare_due(&f->c), UINT64_MAX);
}

/* --- other flows --------------------------------------------------------------------------------
 */

static uint32_t udp(uint8_t *buf, uint16_t port, const char *text, uint32_t noise)
{
	struct libcompare_segment t = {.version = port & 1 ? 6 : 4,
				       .port = port,
				       .data = text,
				       .len = (uint32_t)strlen(text),
				       .noise = noise};

	return libcompare_udp(buf, &t);
}

static void datagrams(void **state)
{
	struct fix *f = *state;
	uint8_t buf[500];

	for (uint16_t port = 1000; port < 1002; port++) {
		f->nout = 0;
		ours(f, 'a', NET, buf, udp(buf, port, "one", 1));
		theirs(f, NET, buf, udp(buf, port, "one", 12345));
		theirs(f, NET, buf, udp(buf, port, "two", 77));
		theirs(f, NET, buf, udp(buf, port, "three", 0));
		assert_out(f, "a");
		ours(f, 'b', NET, buf, udp(buf, port, "two", 3));
		ours(f, 'c', NET, buf, udp(buf, port, "three", 4));
		assert_out(f, "abc");
		assert_int_equal(compare_due(&f->c), UINT64_MAX);
	}
	ours(f, 'd', NET, buf, udp(buf, 1000, "four", 3));
	theirs(f, NET, buf, udp(buf, 1002, "four", 3)); /* to another port */
	assert_out(f, "abc");
	theirs(f, NET, buf, udp(buf, 1000, "fouR", 3));
	assert_differs(f, COMPARE_BYTES);
	assert_int_equal(f->v.offset, 3);
	assert_out(f, "abc");
}

static void lengths_count(void **state)
{
	struct fix *f = *state;
	uint8_t buf[500];

	theirs(f, NET, buf, udp(buf, 1000, "ab", 1));
	ours(f, 'a', NET, buf, udp(buf, 1000, "abc", 1));
	assert_out(f, "");
	assert_differs(f, COMPARE_BYTES);
	assert_int_equal(f->v.offset, 2);
	assert_int_equal(f->v.ntheirs, 0);
}

static void icmp_and_fragments(void **state)
{
	struct fix *f = *state;
	uint8_t buf[500];

	ours(f, 'a', NET, buf, libcompare_ip4(buf, 1, 0, "\0\0\1\2ping", 8, 1));
	theirs(f, NET, buf, libcompare_ip4(buf, 1, 0, "\0\0\7\7ping", 8, 500)); /* checksum */
	ours(f, 'b', NET, buf, libcompare_ip4(buf, 17, 0x2000, "12345678", 8, 1));
	theirs(f, NET, buf, libcompare_ip4(buf, 17, 0x2000, "12345678", 8, 900)); /* id */
	ours(f, 'c', NET, buf, libcompare_ip4(buf, 89, 0, "ospf", 4, 1));
	theirs(f, NET, buf, libcompare_ip4(buf, 89, 0, "ospf", 4, 900));
	assert_out(f, "abc");
	ours(f, 'd', NET, buf, libcompare_ip4(buf, 17, 0x2001, "12345678", 8, 1));
	theirs(f, NET, buf, libcompare_ip4(buf, 17, 0x2002, "12345678", 8, 1));
	assert_out(f, "abc");
	assert_differs(f, COMPARE_FLAGS);
	compare_reset(&f->c);
	ours(f, 'd', NET, buf, libcompare_ip4(buf, 1, 0, "\0\0\1\2ping", 8, 1));
	theirs(f, NET, buf, libcompare_ip4(buf, 1, 0, "\x8\0\1\2ping", 8, 1)); /* type */
	assert_out(f, "abc");
	assert_int_equal(f->differs, 2);
}

/* Not IP, or not as it should be: every byte behind the virtio header. */
static void whole_frames(void **state)
{
	struct fix *f = *state;
	uint8_t arp[60] = {0}, bad[40] = {0};
	struct packet k;

	arp[24] = 8;
	arp[25] = 6;
	arp[0] = 1; /* of the virtio header */
	ours(f, 'a', NET, arp, sizeof(arp));
	arp[0] = 2;
	theirs(f, NET, arp, sizeof(arp));
	assert_out(f, "a");
	bad[24] = 8;
	bad[26] = 0x45;
	bad[29] = 200; /* longer than the frame */
	packet_parse(bad, sizeof(bad), &k);
	assert_int_equal(k.key.kind, PACKET_RAW);
	ours(f, 'b', NET, bad, sizeof(bad));
	theirs(f, NET, bad, sizeof(bad));
	ours(f, 'c', NET, bad, 7); /* not even a header */
	theirs(f, NET, bad, 7);
	assert_out(f, "abc");
	ours(f, 'd', NET, arp, sizeof(arp));
	arp[59] = 1;
	theirs(f, NET, arp, sizeof(arp));
	assert_out(f, "abc");
	assert_differs(f, COMPARE_BYTES);
	assert_int_equal(f->v.offset, 47);
}

static void consoles(void **state)
{
	struct fix *f = *state;

	ours(f, 'a', CONSOLE, "login: ", 7);
	theirs(f, CONSOLE, "log", 3);
	theirs(f, CONSOLE, "in: # ls", 8);
	assert_out(f, "a");
	ours(f, 'b', CONSOLE, "# ", 2);
	ours(f, 'c', CONSOLE, "ls\n", 3);
	assert_out(f, "ab");
	theirs(f, CONSOLE, "\n...", 4);
	assert_out(f, "abc");
	compare_reset(&f->c); /* and its dots are none */
	theirs(f, CONSOLE, "README\n", 7);
	ours(f, 'd', CONSOLE, "README\n", 7);
	assert_out(f, "abcd");
	ours(f, 'e', CONSOLE, "x", 1);
	theirs(f, CONSOLE, "y", 1);
	assert_out(f, "abcd");
	assert_differs(f, COMPARE_BYTES);
	ours(f, 'f', CONSOLE, "z", 1);
	compare_reset(&f->c);
	theirs(f, CONSOLE, "z", 1);
	ours(f, 'g', CONSOLE, "z", 1);
	assert_out(f, "abcdg");
	assert_true(f->c.bytes < 8192);
}

static void messages(void **state)
{
	struct fix *f = *state;

	ours(f, 'a', ORDERS, "open", 4);
	ours(f, 'b', ORDERS, "close", 5);
	theirs(f, ORDERS, "open", 4);
	assert_out(f, "a");
	theirs(f, ORDERS, "clo", 3);
	assert_out(f, "a");
	assert_differs(f, COMPARE_BYTES);
}

/* --- limits -------------------------------------------------------------------------------------
 */

static void who_is_ahead_too_far(void **state)
{
	struct fix *f = *state;
	static char text[60001];

	memset(text, 'x', 60000);
	for (unsigned i = 0; i < 5 && !f->differs; i++)
		assert_int_equal(theirs(f, CONSOLE, text, 60000), 0);
	assert_differs(f, COMPARE_FULL);
	assert_true(f->c.bytes < 600u << 10);
	compare_reset(&f->c);
	for (unsigned i = 0; i < 5; i++)
		ours(f, 'a', CONSOLE, text, 60000);
	assert_int_equal(f->differs, 2);
	assert_int_equal(f->v.why, COMPARE_FULL);
	compare_reset(&f->c);
	/* Far off: no memory for what may be between. */
	s(f, SEG(100, ACK, 50, "a"));
	s(f, SEG(100 + (300u << 10), ACK, 50, "b"));
	assert_int_equal(f->differs, 3);
	assert_int_equal(f->v.why, COMPARE_FULL);
}

static void too_many_gaps(void **state)
{
	struct fix *f = *state;

	for (uint32_t i = 0; i < 9; i++)
		s(f, SEG(100 + 10 * i, ACK, 50, "a"));
	assert_int_equal(f->differs, 0);
	s(f, SEG(100 + 90, ACK, 50, "a"));
	assert_differs(f, COMPARE_FULL);
}

static void small_ones_are_bounded(void **state)
{
	struct fix *f = *state;
	unsigned n = 0;

	while (!f->differs && n++ < 100000)
		theirs(f, ORDERS, "x", 1);
	assert_differs(f, COMPARE_FULL);
	assert_true(f->c.bytes <= limits.flow_bytes * 2);
}

static void flows_are_bounded(void **state)
{
	struct fix *f = *state;

	/* Those that nothing waits in make room, */
	for (uint16_t i = 0; i < 100; i++) {
		p(f, 'a', SEG(100, ACK, 50, "x", 2000 + i));
		s(f, SEG(100, ACK, 50, "x", 2000 + i));
	}
	assert_int_equal(f->nout, 100);
	assert_int_equal(f->c.nflows, 16);
	/* the others do not, */
	for (uint16_t i = 0; i < 16; i++)
		s(f, SEG(100, ACK, 50, "x", 3000 + i));
	assert_int_equal(f->differs, 0);
	p(f, 'a', SEG(100, ACK, 50, "x", 4000));
	assert_differs(f, COMPARE_FULL);
	compare_reset(&f->c);
	/* nor those whose numbers are only known here. */
	for (uint16_t i = 0; i < 16; i++) {
		p(f, 'a', SEG(100, SYN | ACK, 50, NULL, 5000 + i));
		s(f, SEG(200, SYN | ACK, 50, NULL, 5000 + i));
	}
	assert_int_equal(f->differs, 1);
	s(f, SEG(100, ACK, 50, "x", 4001));
	assert_int_equal(f->differs, 2);
}

static void all_bytes_are_bounded(void **state)
{
	struct fix *f = *state;
	struct compare_limits l = limits;
	static char text[60001];

	memset(text, 'x', 60000);
	compare_done(&f->c);
	l.bytes = 200u << 10;
	assert_int_equal(compare_init(&f->c, &l, &ops, f), 0);
	compare_add_sink(&f->c, NET, COMPARE_FRAMES);
	/* What is only remembered goes, */
	for (uint16_t i = 0; i < 20; i++) {
		static uint8_t buf[61000];
		struct libcompare_segment t = {
			.version = 4, .port = 2000 + i, .flags = ACK, .data = text, .len = 60000};
		uint32_t len = libcompare_tcp(buf, &t);

		ours(f, 'a', NET, buf, len);
		assert_true(f->c.bytes <= l.bytes);
		theirs(f, NET, buf, len);
	}
	assert_int_equal(f->nout, 20);
	/* what waits does not. */
	for (uint16_t i = 0; i < 5; i++) {
		static uint8_t buf[61000];
		struct libcompare_segment t = {
			.version = 4, .port = 3000 + i, .flags = ACK, .data = text, .len = 60000};

		theirs(f, NET, buf, libcompare_tcp(buf, &t));
		assert_true(f->c.bytes <= l.bytes);
	}
	assert_differs(f, COMPARE_FULL);
}

static void idle_flows_are_forgotten(void **state)
{
	struct fix *f = *state;

	p(f, 'a', SEG(100, ACK, 50, "x"));
	s(f, SEG(100, ACK, 50, "x"));
	p(f, 'b', SEG(100, ACK, 50, "x", 2000));
	compare_overdue(&f->c, f->now + 50 * MS);
	assert_int_equal(f->c.nflows, 2);
	compare_overdue(&f->c, f->now + 1001 * MS); /* not the one that waits */
	assert_int_equal(f->c.nflows, 1);
	assert_differs(f, COMPARE_OVERDUE);
}

static void what_a_peer_may_say(void **state)
{
	struct fix *f = *state;
	static uint8_t big[70000];

	assert_int_equal(theirs(f, -1, "x", 1), -EBADMSG);
	assert_int_equal(theirs(f, COMPARE_MAX_SINKS, "x", 1), -EBADMSG);
	assert_int_equal(theirs(f, 7, "x", 1), -EBADMSG);
	assert_int_equal(theirs(f, ORDERS, "x", 0), -EBADMSG);
	assert_int_equal(theirs(f, NET, big, sizeof(big)), -EBADMSG);
	assert_int_equal(f->c.nflows, 0);
}

static void limits_that_cannot_be(void **state)
{
	struct compare_limits l = limits;
	struct compare c;

	l.flow_bytes = 100000;
	assert_int_equal(compare_init(&c, &l, &ops, NULL), -EINVAL);
	l.flow_bytes = 64u << 10;
	assert_int_equal(compare_init(&c, &l, &ops, NULL), -EINVAL);
	l = limits;
	l.history_bytes = 512u << 10;
	assert_int_equal(compare_init(&c, &l, &ops, NULL), -EINVAL);
	memset(&c, 0, sizeof(c));
	compare_done(&c);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(whatever_the_cuts),
		T(acks_are_promises),
		T(numbers_wrap),
		T(ends),
		T(an_end_is_not_a_byte),
		T(bytes_before_an_end),
		T(resets_come_from_both),
		T(repeated_bytes),
		T(probes),
		T(unknown_bytes_stay),
		T(a_connection_that_was_there),
		T(a_checkpoint_makes_them_one),
		T(a_checkpoint_forgets_theirs),
		T(flows_do_not_wait_for_each_other),
		T(who_is_late),
		T(a_client_that_reset),
		T(datagrams),
		T(lengths_count),
		T(icmp_and_fragments),
		T(whole_frames),
		T(consoles),
		T(messages),
		T(who_is_ahead_too_far),
		T(too_many_gaps),
		T(small_ones_are_bounded),
		T(flows_are_bounded),
		T(all_bytes_are_bounded),
		T(idle_flows_are_forgotten),
		T(what_a_peer_may_say),
		T(limits_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
