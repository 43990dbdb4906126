/* Outputs of two machines compared: what each kind of output needs to leave, and when it is late.
 */
#include "net/vsock_host.h"
#include "tests/unit/libcompare.h"
#include "tests/unit/libcomparing.h"

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
	assert_int_equal(f->mapping.delta, 5000);
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

/* A SYN with options, words of them. */
static uint32_t syn(uint8_t *buf, uint32_t seq, const char *options, uint8_t words)
{
	struct libcompare_segment t = {.version = 4,
				       .port = 1000,
				       .flags = SYN | ACK,
				       .seq = seq,
				       .ack = 50,
				       .options = options,
				       .option_words = words};

	return libcompare_tcp(buf, &t);
}

static void mapped_as(struct fix *f, uint32_t ts_delta, bool fixed)
{
	assert_int_equal(f->mapped, 1);
	assert_int_equal(f->mapping.delta, 7);
	assert_int_equal(f->mapping.ts_delta, ts_delta);
	assert_int_equal(f->mapping.fixed, fixed);
	assert_out(f, "S");
	f->nout = f->mapped = 0;
	compare_reset(&f->c);
}

static void both_begin(struct fix *f, const char *our_options, const char *their_options,
		       uint8_t words)
{
	static uint32_t seq;
	uint8_t buf[2048];

	seq += 100;
	theirs(f, NET, buf, syn(buf, seq + 7, their_options, words));
	assert_out(f, "");
	ours(f, 'S', NET, buf, syn(buf, seq, our_options, words));
}

static void timestamps_and_fixed_options(void **state)
{
	struct fix *f = *state;

	both_begin(f, "\1\1\10\12\377\0\0\5____", "\1\1\10\12\0\0\0\6____", 3);
	mapped_as(f, 0xfeffffff, false);
	both_begin(f, "\1\1\10\12\0\0\0\5____", "\1\1\10\11\0\0\0\6____", 3);
	mapped_as(f, 0, false); /* only one has one */
	both_begin(f, "\2\4\5\264\10\12\1\0\0\5____\0\0", "\2\4\5\264\10\12\0\0\0\4____\0\0", 4);
	mapped_as(f, 0x1000001, false);
	both_begin(f, "\0\1\10\12\377\0\0\5____", "\1\1\10\23\0\0\0\6____", 3);
	mapped_as(f, 0, false); /* behind the end, and longer than there is */
	both_begin(f, "\1\1\10\12\0\0\0\5____\35\4\1\1", "\1\1\10\12\0\0\100\6____\1\1\1\0", 4);
	mapped_as(f, (uint32_t)-0x4001, true);
	both_begin(f, "\1\1\1\0", "\23\4__", 1);
	mapped_as(f, 0, true);
}

/* A clock that both read, the twin a little later or earlier: connections have no offset of their
 * own. */
static void one_clock_read_twice(void **state)
{
	struct fix *f = *state;

	both_begin(f, "\1\1\10\12\0\0\77\377____", "\1\1\10\12\0\0\0\0____", 3);
	mapped_as(f, 0, false);
	both_begin(f, "\1\1\10\12\0\0\0\0____", "\1\1\10\12\0\0\77\377____", 3);
	mapped_as(f, 0, false);
	both_begin(f, "\1\1\10\12\0\0\0\1____", "\1\1\10\12\377\377\377\377____", 3);
	mapped_as(f, 0, false);
	both_begin(f, "\1\1\10\12\0\0\100\0____", "\1\1\10\12\0\0\0\0____", 3);
	mapped_as(f, 0x4000, false);
	both_begin(f, "\1\1\10\12\0\0\0\0____", "\1\1\10\12\0\0\100\0____", 3);
	mapped_as(f, (uint32_t)-0x4000, false);
}

/* The side that has not begun the new one still says the first word of the one before. */
static void a_late_syn_begins_nothing(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	f->mapped = 0;
	p(f, 'a', SEG(900, SYN | ACK, 950));
	s(f, SEG(5100, SYN | ACK, 50));
	assert_int_equal(f->mapped, 0);
	assert_out(f, "");
	s(f, SEG(7900, SYN | ACK, 950));
	assert_int_equal(f->mapped, 1);
	assert_int_equal(f->mapping.delta, 7000);
	assert_out(f, "a");
	s(f, SEG(5100, SYN | ACK, 50)); /* nor later */
	p(f, 'b', SEG(901, ACK, 950, "x"));
	s(f, SEG(7901, ACK, 950, "x"));
	assert_out(f, "ab");
	assert_int_equal(f->mapped, 1);
	assert_int_equal(f->differs, 0);
}

/* One of ours has left, perhaps; what it asks for now is another's to say. */
static void a_late_syn_of_ours_waits(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	compare_reset(&f->c);
	f->mapped = 0;
	p(f, 'a', SEG(900, SYN | ACK, 950));
	s(f, SEG(100, SYN | ACK, 50)); /* theirs was ours */
	assert_int_equal(f->mapped, 0);
	s(f, SEG(7900, SYN | ACK, 950));
	assert_out(f, "a");
	p(f, 'b', SEG(100, SYN | ACK, 50));
	s(f, SEG(100, SYN | ACK, 50));
	assert_out(f, "a");
	assert_int_equal(f->mapped, 1);
	compare_reset(&f->c);
	p(f, 'c', SEG(901, ACK, 950, "x"));
	s(f, SEG(901, ACK, 950, "x"));
	assert_out(f, "ac");
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
	assert_int_equal(f->mapping.delta, 0x80000000);
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
	assert_int_equal(f->mapping.delta, 1000);
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

/* What was put out before anybody listened: the client has it, or it comes again. */
static void a_hole_from_before(void **state)
{
	struct fix *f = *state;
	char text[1001] = {0};

	memset(text, 'x', 1000);
	s(f, SEG(100, ACK, 50, "a"));
	p(f, 'a', SEG(100, ACK, 50, "a")); /* again */
	s(f, SEG(200, ACK, 50, "b"));
	p(f, 'b', SEG(200, ACK, 50, "b"));
	input(f, SEG(50, ACK, 201)); /* not known yet: it might be of what waits */
	compare_reset(&f->c);
	for (uint32_t seq = 201; seq < 400000; seq += 1000) {
		input(f, SEG(50, ACK, seq));
		p(f, '.', SEG(seq, ACK, 50, text));
		s(f, SEG(seq, ACK, 50, text));
	}
	assert_int_equal(f->differs, 0);
	assert_int_equal(f->nout, 402);
}

/* Behind 2^31 bytes what was sent at a checkpoint is no bound any more. */
static void a_number_that_has_come_round(void **state)
{
	static char text[60001];
	struct fix *f = *state;
	uint32_t seq = 101;

	memset(text, 'x', 60000);
	s(f, SEG(100, ACK, 50, "a"));
	p(f, 'a', SEG(100, ACK, 50, "a"));
	compare_reset(&f->c);
	for (unsigned i = 0; i < (1u << 31) / 60000 + 2; i++, seq += 60000) {
		f->nout = 0;
		while (f->nmem)
			free(f->mem[--f->nmem]);
		p(f, '.', SEG(seq, ACK, 50, text));
		s(f, SEG(seq, ACK, 50, text));
		assert_out(f, ".");
		input(f, SEG(50, ACK, seq + 60000));
	}
	f->nout = 0;
	input(f, SEG(50, ACK, seq + 1000)); /* of what there is not */
	s(f, SEG(seq - 1, ACK, 50, "x"));
	p(f, 'b', SEG(seq, ACK, 50, "only ours"));
	assert_out(f, "");
}

/* Theirs has begun another one, which ours never does: ours goes on behind the checkpoint. */
static void a_checkpoint_forgets_a_beginning(void **state)
{
	struct fix *f = *state;

	s(f, SEG(0x90000000, ACK, 50, "a"));
	p(f, 'a', SEG(0x90000000, ACK, 50, "a"));
	s(f, SEG(5100, SYN | ACK, 950));
	p(f, 'b', SEG(0x90000001, ACK, 50, "b"));
	f->now += 100 * MS;
	compare_overdue(&f->c, f->now);
	assert_int_equal(f->differs, 1);
	p(f, 'c', SEG(0x90000002, ACK, 50, "c"));
	compare_reset(&f->c);
	s(f, SEG(0x90000003, ACK, 50, "d"));
	p(f, 'd', SEG(0x90000003, ACK, 50, "d"));
	assert_out(f, "ad");
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
	assert_int_equal(f->mapping.delta, 100);
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

/* Somebody who does not know the numbers: the client is not gone. */
static void a_forged_reset(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	input(f, SEG(50 + (1u << 30), RST));
	input(f, SEG(49, RST));
	s(f, SEG(5101, ACK, 50, "abc"));
	assert_int_equal(compare_due(&f->c), f->now + 100 * MS);
	p(f, 'a', SEG(101, ACK, 50, "abc"));
	assert_out(f, "a");
}

/* The numbers may be; the guests ask whether it is true, and go on. */
static void a_reset_that_is_not_believed(void **state)
{
	struct fix *f = *state;

	connect_both(f);
	input(f, SEG(60, RST));
	s(f, SEG(5101, ACK, 50, "abc"));
	p(f, 'a', SEG(101, ACK, 50, "abc"));
	assert_out(f, "a");
	s(f, SEG(5104, ACK, 50, "def"));
	assert_int_equal(compare_due(&f->c), f->now + 100 * MS);
	p(f, 'b', SEG(104, ACK, 50, "def"));
	assert_out(f, "ab");
	input(f, SEG(60, RST));
	compare_reset(&f->c); /* it is over, or is not */
	s(f, SEG(107, ACK, 50, "ghi"));
	assert_int_equal(compare_due(&f->c), f->now + 100 * MS);
	p(f, 'c', SEG(107, ACK, 50, "ghi"));
	assert_out(f, "abc");
	assert_int_equal(f->differs, 0);
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

#define VSOCK 3

static struct {
	struct vsock_order o;
	char text[32];
} order;

static uint32_t make_order(uint32_t op, uint64_t id, const char *text)
{
	memset(&order, 0, sizeof(order));
	order.o = (struct vsock_order){.op = op, .arg = 7, .id = id};
	memcpy(order.text, text, strlen(text));
	return (uint32_t)(sizeof(order.o) + strlen(text));
}

static void we_order(struct fix *f, char letter, uint32_t op, uint64_t id, const char *text)
{
	ours(f, letter, VSOCK, &order, make_order(op, id, text));
}

static void they_order(struct fix *f, uint32_t op, uint64_t id, const char *text)
{
	theirs(f, VSOCK, &order, make_order(op, id, text));
}

/* Each connection for itself, and its bytes whatever the cuts; what else is ordered has its place.
 */
static void orders(void **state)
{
	struct fix *f = *state;

	compare_add_sink(&f->c, VSOCK, COMPARE_ORDERS);
	we_order(f, 'a', VSOCK_CONNECT, 3, "");
	we_order(f, 'b', VSOCK_DATA, 3, "hello ");
	we_order(f, 'c', VSOCK_DATA, 4, "other");
	they_order(f, VSOCK_DATA, 4, "other");
	assert_out(f, "c");
	they_order(f, VSOCK_CONNECT, 3, "");
	they_order(f, VSOCK_DATA, 3, "hel");
	assert_out(f, "ca");
	they_order(f, VSOCK_DATA, 3, "lo wor");
	assert_out(f, "cab");
	we_order(f, 'd', VSOCK_DATA, 3, "world");
	assert_out(f, "cab");
	they_order(f, VSOCK_DATA, 3, "ld");
	assert_out(f, "cabd");
	we_order(f, 'e', VSOCK_CLOSE, 4, "");
	they_order(f, VSOCK_CLOSE, 4, "");
	assert_out(f, "cabde");
	we_order(f, 'f', VSOCK_CLOSE, 3, "");
	they_order(f, VSOCK_DATA, 3, "!");
	assert_out(f, "cabde");
	assert_differs(f, COMPARE_BYTES);
	compare_reset(&f->c);
	theirs(f, VSOCK, "short", 5);
	they_order(f, VSOCK_DATA, 5, "");
	assert_out(f, "cabde");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(whatever_the_cuts),
		T(timestamps_and_fixed_options),
		T(one_clock_read_twice),
		T(a_late_syn_begins_nothing),
		T(a_late_syn_of_ours_waits),
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
		T(a_hole_from_before),
		T(a_number_that_has_come_round),
		T(a_checkpoint_forgets_a_beginning),
		T(flows_do_not_wait_for_each_other),
		T(who_is_late),
		T(a_client_that_reset),
		T(a_forged_reset),
		T(a_reset_that_is_not_believed),
		T(datagrams),
		T(lengths_count),
		T(icmp_and_fragments),
		T(whole_frames),
		T(consoles),
		T(messages),
		T(orders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
