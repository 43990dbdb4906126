/* A map as bytes: there and back, and what is no map changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/seqmap.h"
#include "tests/unit/libsegment.h"

#define CONNS 20

static struct seqmap map, other;
static uint8_t wire[SEQMAP_WIRE_MAX + SEQMAP_WIRE_CONN], again[SEQMAP_WIRE_MAX];
static size_t len;

static void add(struct seqmap *m, uint8_t version, uint16_t port, uint32_t delta)
{
	struct seqmap_flow f = segment_flow(version, (uint8_t)(port % 8), port);

	assert_int_equal(seqmap_add(m, &f, delta, delta / 2), 0);
}

/* Frames of the connection, so that there is something to say of its end. */
static void talk(struct seqmap *m, uint8_t version, uint16_t port, const uint8_t *flags, int n)
{
	static uint8_t frame[SEGMENT_FRAME_MAX];
	struct made_segment d = {.version = version, .port = port, .ack = 8};

	for (int i = 0; i < n; i++) {
		d.from_guest = !d.from_guest;
		d.flags = flags[i];
		d.seq = d.from_guest ? 7 + 0x77777777u * (port + 1u) : 7;
		if (d.from_guest)
			seqmap_out(m, (uint8_t)(port % 8), frame, segment_make(&d, frame));
		else
			seqmap_in(m, (uint8_t)(port % 8), frame, segment_make(&d, frame));
	}
}

static int make(void **state)
{
	static const uint8_t fins[] = {0x11, 0x11, 0x10}, reset[] = {0x04};

	assert_int_equal(seqmap_init(&map, CONNS), 0);
	assert_int_equal(seqmap_init(&other, CONNS), 0);
	for (uint16_t i = 0; i < CONNS; i++)
		add(&map, i % 2 ? 4 : 6, i, 0x77777777u * (i + 1u));
	talk(&map, 4, 3, fins, 3);
	talk(&map, 6, 4, reset, 1);
	add(&other, 4, 500, 5);
	assert_int_equal(seqmap_wire_bytes(&map), 4 + CONNS * SEQMAP_WIRE_CONN);
	len = seqmap_encode(&map, wire);
	assert_int_equal(len, seqmap_wire_bytes(&map));
	return 0;
}

static int done(void **state)
{
	seqmap_done(&map);
	seqmap_done(&other);
	return 0;
}

static void check_same(void)
{
	struct seqmap_flow old = segment_flow(4, 500 % 8, 500);

	assert_int_equal(other.count, map.count);
	assert_null(seqmap_find(&other, &old));
	for (uint16_t i = 0; i < CONNS; i++) {
		struct seqmap_flow f = segment_flow(i % 2 ? 4 : 6, (uint8_t)(i % 8), i);
		struct seqmap_conn *a = seqmap_find(&map, &f), *b = seqmap_find(&other, &f);

		assert_non_null(b);
		assert_int_equal(a->delta, b->delta);
		assert_int_equal(a->ts_delta, b->ts_delta);
		assert_int_equal(a->seen, b->seen);
		assert_int_equal(a->acked, b->acked);
		assert_int_equal(a->fin_out, b->fin_out);
		assert_int_equal(a->fin_in, b->fin_in);
	}
}

static void there_and_back(void **state)
{
	assert_int_equal(seqmap_decode(&other, wire, len), 0);
	check_same();
	assert_int_equal(seqmap_encode(&other, again), len);
	assert_memory_equal(wire, again, len);
	assert_int_equal(seqmap_decode(&other, wire, len), 0); /* in place of what there is */
	check_same();
}

/* It says the same however it came about: other hash, other order, some gone in between. */
static void one_way_to_say_it(void **state)
{
	seqmap_clear(&other);
	for (uint16_t i = CONNS; i-- > 0;)
		add(&other, i % 2 ? 4 : 6, i, 1);
	for (uint16_t i = 0; i < CONNS; i++) {
		struct seqmap_flow f = segment_flow(i % 2 ? 4 : 6, (uint8_t)(i % 8), i);

		assert_int_equal(seqmap_add(&other, &f, (uint32_t)-1, 0), 0);
		assert_int_equal(other.count, CONNS - 1u - i);
	}
	for (uint16_t i = CONNS; i-- > 0;)
		add(&other, i % 2 ? 4 : 6, i, 0x77777777u * (i + 1u));
	seqmap_clear(&map);
	for (uint16_t i = 0; i < CONNS; i++)
		add(&map, i % 2 ? 4 : 6, i, 0x77777777u * (i + 1u));
	len = seqmap_encode(&map, wire);
	assert_int_equal(seqmap_encode(&other, again), len);
	assert_memory_equal(wire, again, len);
}

static void none(void **state)
{
	seqmap_clear(&map);
	len = seqmap_encode(&map, wire);
	assert_int_equal(len, 4);
	assert_int_equal(seqmap_decode(&other, wire, len), 0);
	assert_int_equal(other.count, 0);
}

/* Of one that began on the addresses of another, nothing of that is said. */
static void what_is_over_is_not_said(void **state)
{
	static const uint8_t flags[] = {0x11, 0x11, 0x02};
	struct seqmap_flow f = segment_flow(4, 5, 5);

	talk(&map, 4, 5, flags, 3);
	assert_int_equal(seqmap_find(&map, &f)->seen, 0);
	len = seqmap_encode(&map, wire);
	assert_int_equal(seqmap_decode(&other, wire, len), 0);
	assert_int_equal(seqmap_find(&other, &f)->acked, 0);
	assert_int_equal(seqmap_find(&other, &f)->fin_in, 0);
}

/* A connection that ended is forgotten by the next side, too; its times begin anew. */
static void ends_are_carried(void **state)
{
	struct seqmap_flow fins = segment_flow(4, 3, 3), reset = segment_flow(6, 4, 4);

	seqmap_tick(&map, 1);
	assert_int_equal(seqmap_decode(&other, wire, len), 0);
	assert_int_equal(seqmap_tick(&other, 100 * SEQMAP_IDLE_NS), 0);
	assert_int_equal(seqmap_tick(&other, 100 * SEQMAP_IDLE_NS + SEQMAP_LINGER_NS), 2);
	assert_null(seqmap_find(&other, &fins));
	assert_null(seqmap_find(&other, &reset));
}

/* Refused as `code`, and `other` is as it was. */
static void check_refused(size_t bytes, int code)
{
	struct seqmap_flow f = segment_flow(4, 500 % 8, 500);
	uint8_t *copy = malloc(bytes ? bytes : 1);

	memcpy(copy, wire, bytes); /* its end is the memory's, for the sanitizers */
	assert_int_equal(seqmap_decode(&other, copy, bytes), code);
	free(copy);
	assert_int_equal(other.count, 1);
	assert_int_equal(seqmap_find(&other, &f)->delta, 5);
}

static void cut_off_or_too_long(void **state)
{
	for (size_t n = 0; n < len; n++)
		check_refused(n, -EBADMSG);
	check_refused(len + 1, -EBADMSG);
}

static void wrong_counts(void **state)
{
	static const uint32_t counts[] = {0, 1, CONNS - 1, CONNS + 1, 0x44444445, 0xffffffff};

	for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		memcpy(wire, &counts[i], 4);
		check_refused(len, -EBADMSG);
	}
}

static void more_than_it_takes(void **state)
{
	struct seqmap big;
	uint32_t count = SEQMAP_MAX + 1;

	assert_int_equal(seqmap_init(&big, SEQMAP_MAX), 0);
	for (uint32_t i = 0; i < SEQMAP_MAX; i++)
		add(&big, 6, (uint16_t)i, i + 1);
	len = seqmap_encode(&big, wire);
	assert_int_equal(len, SEQMAP_WIRE_MAX);
	check_refused(len, -ENOSPC);
	assert_int_equal(seqmap_decode(&big, wire, len), 0);
	assert_int_equal(big.count, SEQMAP_MAX);
	memcpy(wire, &count, 4);
	assert_int_equal(seqmap_decode(&big, wire, sizeof(wire)), -EBADMSG);
	assert_int_equal(big.count, SEQMAP_MAX);
	seqmap_done(&big);
}

/* Offsets in a connection. */
enum { NIC = 0, VERSION = 1, VLAN = 6, GUEST = 10, PEER = 26, SEEN = 42, PAD = 43, NUMBERS = 44 };

static void refuse_with(unsigned conn, unsigned at, uint8_t value)
{
	uint8_t *p = wire + 4 + conn * SEQMAP_WIRE_CONN + at, was = *p;

	*p = value;
	check_refused(len, -EBADMSG);
	*p = was;
}

static void wrong_connections(void **state)
{
	unsigned v4 = 0;

	while (wire[4 + v4 * SEQMAP_WIRE_CONN + VERSION] != 4)
		v4++;
	refuse_with(0, VERSION, 5);
	refuse_with(CONNS - 1, NIC, 8);
	refuse_with(CONNS - 1, NIC, 255);
	refuse_with(v4, GUEST + 4, 1);
	refuse_with(v4, PEER + 15, 1);
	refuse_with(CONNS - 1, VLAN + 1, 0x10);
	refuse_with(CONNS - 1, VLAN + 2, 1); /* an inner one alone */
	wire[4 + (CONNS - 1) * SEQMAP_WIRE_CONN + VLAN] = 1;
	refuse_with(CONNS - 1, VLAN + 3, 0x10);
	wire[4 + (CONNS - 1) * SEQMAP_WIRE_CONN + VLAN] = 0;
	refuse_with(0, PAD, 1);
	for (unsigned bit = 1; bit < 256; bit *= 2)
		if (bit != SEQMAP_ACKED && bit != SEQMAP_FIN_OUT && bit != SEQMAP_FIN_IN &&
		    bit != SEQMAP_RESET)
			refuse_with(0, SEEN, (uint8_t)bit);
	for (unsigned at = NUMBERS + 8; at < SEQMAP_WIRE_CONN; at++)
		refuse_with(0, at, 1); /* a number of what was not seen */
	memset(wire + 4 + NUMBERS, 0, 8);
	check_refused(len, -EBADMSG); /* nothing to translate */
}

static void twice_or_out_of_order(void **state)
{
	uint8_t *a = wire + 4, *b = a + SEQMAP_WIRE_CONN, was[SEQMAP_WIRE_CONN];

	memcpy(was, a, sizeof(was));
	memcpy(a, b, sizeof(was));
	check_refused(len, -EBADMSG);
	memcpy(b, was, sizeof(was));
	check_refused(len, -EBADMSG);
	memcpy(a, was, sizeof(was));
	memcpy(b, was, sizeof(was));
	b[NUMBERS] ^= 1;
	check_refused(len, -EBADMSG);
}

/* Any byte changed: refused, or a map that is said in these bytes. */
static void damaged(void **state)
{
	for (size_t at = 0; at < len; at++)
		for (unsigned bit = 1; bit < 256; bit *= 2) {
			wire[at] ^= (uint8_t)bit;
			if (!seqmap_decode(&other, wire, len)) {
				assert_int_equal(seqmap_encode(&other, again), len);
				assert_memory_equal(again, wire, len);
				seqmap_clear(&other);
				add(&other, 4, 500, 5);
			} else {
				check_refused(len, -EBADMSG);
			}
			wire[at] ^= (uint8_t)bit;
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, make, done)
		T(there_and_back),
		T(one_way_to_say_it),
		T(none),
		T(what_is_over_is_not_said),
		T(ends_are_carried),
		T(cut_off_or_too_long),
		T(wrong_counts),
		T(more_than_it_takes),
		T(wrong_connections),
		T(twice_or_out_of_order),
		T(damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
