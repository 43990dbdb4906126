/* What is kept of two machines' outputs is bounded, whatever either says. */
#include "tests/unit/libcompare.h"
#include "tests/unit/libcomparing.h"

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
	assert_true(f->c.bytes <= comparing_limits.flow_bytes * 2);
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

/* A frame of 60,000 bytes. */
static const uint8_t *big(uint16_t port, uint32_t *ret_len)
{
	static uint8_t buf[61000], text[60000];
	struct libcompare_segment t = {.version = 4, .port = port, .flags = ACK, .data = text};

	t.len = sizeof(text);
	*ret_len = libcompare_tcp(buf, &t);
	return buf;
}

static void all_bytes_are_bounded(void **state)
{
	struct fix *f = *state;
	struct compare_limits l = comparing_limits;
	const uint8_t *data;
	uint32_t len;

	compare_done(&f->c);
	l.bytes = 200u << 10;
	assert_int_equal(compare_init(&f->c, &l, &comparing_ops, f), 0);
	compare_add_sink(&f->c, NET, COMPARE_FRAMES);
	/* What is only remembered goes, */
	for (uint16_t i = 0; i < 20; i++) {
		data = big(2000 + i, &len);
		ours(f, 'a', NET, data, len);
		assert_true(f->c.bytes <= l.bytes);
		theirs(f, NET, data, len);
	}
	assert_int_equal(f->nout, 20);
	/* what waits does not. */
	for (uint16_t i = 0; i < 5; i++) {
		data = big(3000 + i, &len);
		theirs(f, NET, data, len);
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
	struct compare_limits l = comparing_limits;
	struct compare c;

	l.flow_bytes = 100000;
	assert_int_equal(compare_init(&c, &l, &comparing_ops, NULL), -EINVAL);
	l.flow_bytes = 64u << 10;
	assert_int_equal(compare_init(&c, &l, &comparing_ops, NULL), -EINVAL);
	l = comparing_limits;
	l.history_bytes = 512u << 10;
	assert_int_equal(compare_init(&c, &l, &comparing_ops, NULL), -EINVAL);
	memset(&c, 0, sizeof(c));
	compare_done(&c);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(who_is_ahead_too_far),   T(too_many_gaps),
					   T(small_ones_are_bounded), T(flows_are_bounded),
					   T(all_bytes_are_bounded),  T(idle_flows_are_forgotten),
					   T(what_a_peer_may_say),    T(limits_that_cannot_be)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
