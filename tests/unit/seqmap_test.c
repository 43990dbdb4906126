/* Translated frames are those of translated numbers, with the checksums of these. */
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

#define DELTA	 0xfffff123u /* about every number wraps */
#define TS_DELTA 0x80000005u

static struct seqmap map;
static uint8_t frame[SEGMENT_FRAME_MAX], expected[SEGMENT_FRAME_MAX];

/* Both versions' connection. */
static int make(void **state)
{
	struct seqmap_flow v4 = segment_flow(4, 0), v6 = segment_flow(6, 0);

	seqmap_init(&map, 100);
	assert_int_equal(seqmap_set(&map, &v4, DELTA, TS_DELTA), 0);
	assert_int_equal(seqmap_set(&map, &v6, DELTA, TS_DELTA), 0);
	return 0;
}

static int done(void **state)
{
	seqmap_done(&map);
	return 0;
}

static struct made_segment translated(struct made_segment d)
{
	if (d.from_guest) {
		d.seq -= DELTA;
		d.ts_val += TS_DELTA;
		return d;
	}
	if (!(d.flags & 0x10))
		return d;
	d.ack += DELTA;
	d.ts_ecr -= TS_DELTA;
	for (unsigned i = 0; i < d.nedges; i++)
		d.edges[i] += DELTA;
	return d;
}

static bool pass(bool out, uint8_t *f, uint32_t len)
{
	return out ? seqmap_out(&map, f, len) : seqmap_in(&map, f, len);
}

static void check(struct made_segment d)
{
	struct made_segment to = translated(d);
	uint32_t len = segment_make(&d, frame);

	assert_int_equal(segment_make(&to, expected), len);
	assert_int_equal(pass(d.from_guest, frame, len), d.from_guest || (d.flags & 0x10));
	assert_memory_equal(frame, expected, len);
}

static void check_untouched(const struct made_segment *d, bool out, uint32_t len)
{
	segment_make(d, frame);
	memcpy(expected, frame, sizeof(frame));
	assert_false(pass(out, frame, len));
	assert_memory_equal(frame, expected, sizeof(frame));
}

static void plain(void **state)
{
	for (uint8_t version = 4; version <= 6; version += 2)
		for (int out = 0; out < 2; out++)
			check((struct made_segment){.version = version,
						    .from_guest = out,
						    .flags = 0x10,
						    .seq = 1000,
						    .ack = 2000,
						    .payload = 1001});
}

static void every_checksum(void **state)
{
	struct made_segment d = {.version = 4, .flags = 0x10, .nedges = 2};

	for (d.ack = 0; d.ack < 0x10000; d.ack++)
		check(d);
}

/* At each alignment, as a checksum has words of two bytes. */
static void timestamps_and_sack(void **state)
{
	for (uint8_t nops = 0; nops < 4; nops++)
		for (uint8_t nedges = 0; nedges <= 6; nedges += 2)
			for (int out = 0; out < 2; out++)
				check((struct made_segment){.version = 4,
							    .from_guest = out,
							    .flags = 0x10,
							    .nops = nops,
							    .timestamps = nops != 3,
							    .ts_val = 5,
							    .ts_ecr = 6,
							    .nedges = nedges,
							    .edges = {1, 2, 3, 4, 5, 6}});
}

static void vlans_and_headers_between(void **state)
{
	struct made_segment d = {.version = 4, .flags = 0x18, .payload = 10, .padding = 6};

	for (d.vlans = 0; d.vlans <= 2; d.vlans++)
		for (d.ip_options = 0; d.ip_options <= 10; d.ip_options++)
			check(d);
	d.version = 6;
	for (d.vlans = 0; d.vlans <= 2; d.vlans++)
		for (d.extensions = 0; d.extensions < 16; d.extensions++)
			check(d);
}

/* One VLAN's connection is not that of another, nor of two; a tag with no number is none. */
static void vlans_count(void **state)
{
	struct made_segment d = {.version = 4, .flags = 0x10, .vlans = 2};
	struct seqmap_flow f = segment_flow(4, 0);
	uint32_t len = segment_make(&d, frame);

	f.vlan[0] = 7;
	assert_int_equal(seqmap_set(&map, &f, DELTA, TS_DELTA), 0);
	d.vlan[1] = 5;
	check_untouched(&d, false, len);
	d.vlan[1] = 7;
	check(d);
	d.vlan[0] = 5;
	check_untouched(&d, false, len);
	d.vlan[1] = 0;
	check_untouched(&d, false, len);
	d.vlan[0] = 7;
	check(d);
	seqmap_clear(&map);
	d.vlan[1] = 5;
	f.vlan[0] = 5;
	f.vlan[1] = 7;
	assert_int_equal(seqmap_set(&map, &f, DELTA, TS_DELTA), 0);
	check(d);
	d.vlans = 1;
	check_untouched(&d, false, segment_make(&d, frame));
}

static void the_host_completes_the_checksum(void **state)
{
	for (uint8_t version = 4; version <= 6; version += 2)
		for (int tso = 0; tso < 2; tso++)
			for (int out = 0; out < 2; out++)
				check((struct made_segment){.version = version,
							    .from_guest = out,
							    .flags = 0x18,
							    .partial = true,
							    .gso_size = tso ? 1448 : 0,
							    .timestamps = true,
							    .payload = tso ? 65000 : 7});
}

/* One that asks for the checksum of something else has a whole one in its TCP header. */
static void another_checksum_is_asked_for(void **state)
{
	struct made_segment d = {.version = 4, .from_guest = true, .flags = 0x10};
	struct made_segment to = translated(d);
	uint32_t len = segment_make(&to, expected);

	segment_make(&d, frame);
	frame[0] = expected[0] = 1;
	frame[6] = expected[6] = 33;
	frame[8] = expected[8] = 16;
	assert_true(seqmap_out(&map, frame, len));
	assert_memory_equal(frame, expected, len);
}

static void fragments(void **state)
{
	struct made_segment d = {.version = 4,
				 .flags = 0x10,
				 .first_of_more = true,
				 .payload = 1000,
				 .timestamps = true};

	check(d);
	d.where = 5;
	check_untouched(&d, false, segment_make(&d, frame));
	d.first_of_more = false;
	check_untouched(&d, false, segment_make(&d, frame));
	d = (struct made_segment){.version = 6,
				  .flags = 0x10,
				  .first_of_more = true,
				  .payload = 1000,
				  .extensions = EXT_FRAGMENT | EXT_DEST};
	check(d);
	d.where = 5;
	check_untouched(&d, false, segment_make(&d, frame));
}

/* Without the flag there is no acknowledgment to change. */
static void what_has_no_ack(void **state)
{
	struct made_segment d = {.version = 4, .flags = 2, .seq = 7, .timestamps = true};

	check(d);
	d.from_guest = true;
	check(d);
}

static void other_connections(void **state)
{
	struct made_segment d = {.version = 4, .flags = 0x10}, out = d;
	uint32_t len = segment_make(&d, frame);

	out.from_guest = true;
	check_untouched(&d, true, len); /* not from the guest */
	check_untouched(&out, false, len);
	d.port = 1;
	check_untouched(&d, false, len);
	seqmap_clear(&map);
	d.port = 0;
	check_untouched(&d, false, len);
}

/* Each byte of addresses, ports and protocols counts. */
static void bytes_that_count(void **state)
{
	for (uint8_t version = 4; version <= 6; version += 2) {
		struct made_segment d = {.version = version, .flags = 0x10};
		uint32_t ip = 12 + 14, len = segment_make(&d, expected);
		uint32_t addrs = ip + (version == 4 ? 12 : 8), tcp = len - 20;

		for (uint32_t i = 0; i < len; i++) {
			bool type = i == ip - 2 || i == ip - 1 || i == ip + (version == 4 ? 9 : 6);

			if (!type && (i < addrs || i >= tcp + 4))
				continue;
			memcpy(frame, expected, len);
			frame[i] ^= 0x20;
			assert_false(seqmap_in(&map, frame, len));
			frame[i] ^= 0x20;
			assert_memory_equal(frame, expected, len);
		}
	}
}

/* The length that its IP header says, if the frame has that much of it. */
static void set_length(const struct made_segment *d, uint8_t *f, uint32_t len)
{
	uint32_t ip = 12 + 14 + 4u * d->vlans, at = ip + (d->version == 4 ? 2 : 4);
	uint32_t bytes = len - ip - (d->version == 4 ? 0 : 40);

	if (len < ip + 40)
		return;
	f[at] = (uint8_t)(bytes >> 8);
	f[at + 1] = (uint8_t)bytes;
}

/* Cut at each byte, in memory that ends there, for the sanitizers; the IP header knows or not. */
static void cut_off(void **state)
{
	unsigned seed = 1;

	for (int n = 0; n < 100; n++) {
		struct made_segment d = segment_random(&seed);
		uint32_t len;

		d.padding = d.payload = d.gso_size = d.first_of_more = 0;
		len = segment_make(&d, expected);
		for (uint32_t cut = 0; cut < len; cut++) {
			uint8_t *f = malloc(cut ? cut : 1);

			memcpy(f, expected, cut);
			assert_false(pass(d.from_guest, f, cut));
			assert_memory_equal(f, expected, cut);
			set_length(&d, f, cut);
			assert_false(pass(d.from_guest, f, cut));
			free(f);
		}
	}
}

/* A length in a header that is wrong: nothing is read or changed behind it. */
static void wrong_lengths(void **state)
{
	struct made_segment d = {.version = 4, .flags = 0x10, .payload = 50, .timestamps = true};
	uint32_t len = segment_make(&d, expected), ip = 12 + 14;

	for (unsigned v = 0; v < 256; v++) {
		memcpy(frame, expected, len);
		frame[ip + 3] = (uint8_t)v; /* all of the packet: 20 + 32 + 50 */
		assert_int_equal(seqmap_in(&map, frame, len), v >= 52 && v <= 102);
		memcpy(frame, expected, len);
		frame[ip] = (uint8_t)v; /* version, and words of the header */
		assert_int_equal(seqmap_in(&map, frame, len), v == 0x45);
		memcpy(frame, expected, len);
		frame[ip + 20 + 12] = (uint8_t)v; /* words of TCP's */
		assert_int_equal(seqmap_in(&map, frame, len), v / 16 >= 5);
	}
	d.version = 6;
	len = segment_make(&d, expected);
	for (unsigned v = 0; v < 256; v++) {
		memcpy(frame, expected, len);
		frame[ip + 5] = (uint8_t)v;
		assert_int_equal(seqmap_in(&map, frame, len), v >= 32 && v <= 82);
	}
}

/* Options that end, or say what cannot be: those before them count, those behind do not. */
static void broken_options(void **state)
{
	static const struct {
		uint8_t at, value;
		bool changed; /* the edges behind */
	} rows[] = {{20, 0, false},   {21, 0, false}, {21, 1, false},  {21, 21, false},
		    {21, 255, false}, {21, 3, false}, {31, 17, false}, {31, 26, false},
		    {31, 250, false}, {31, 2, false}, {31, 10, true},  {30, 5, true}};
	struct made_segment d = {.version = 4,
				 .flags = 0x10,
				 .timestamps = true,
				 .nedges = 4,
				 .edges = {10, 20, 30, 40}};
	uint32_t len = segment_make(&d, expected), tcp = 12 + 14 + 20;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memcpy(frame, expected, len);
		frame[tcp + rows[i].at] = rows[i].value;
		assert_true(seqmap_in(&map, frame, len));
		assert_int_equal(!!memcmp(frame + tcp + 32, expected + tcp + 32, 8),
				 rows[i].changed);
		assert_memory_not_equal(frame + tcp + 8, expected + tcp + 8, 4);
	}
}

/* The guest believes an ICMP error only about what it sent: its own numbers. */
static void errors_quote_the_guest(void **state)
{
	for (uint8_t version = 4; version <= 6; version += 2)
		for (uint32_t bytes = 0; bytes <= 60; bytes++) {
			struct made_segment d = {.version = version,
						 .from_guest = true,
						 .flags = 0x10,
						 .payload = 40,
						 .vlans = 1,
						 .seq = 0x8000};
			uint32_t len = segment_make_error(&d, bytes, frame);
			bool changed = seqmap_in(&map, frame, len);

			assert_int_equal(changed, bytes >= 8);
			if (!changed)
				continue;
			/* What it quotes of the checksum stays: nobody has all that it covers. */
			d.seq += DELTA;
			segment_make_error(&d, bytes < 16 ? bytes : 16, expected);
			assert_memory_equal(frame + 12 + 18 + (version == 4 ? 36 : 56),
					    expected + 12 + 18 + (version == 4 ? 36 : 56), 8);
			if (bytes <= 16)
				assert_memory_equal(frame, expected, len);
			assert_false(seqmap_out(&map, frame, len));
		}
}

static void any_frame(void **state)
{
	unsigned seed = 7;

	for (int n = 0; n < 5000; n++)
		check(segment_random(&seed));
}

/*
 * With a second side whose map is the opposite, what goes out of one and into the other is as it
 * was: numbers, options and checksum, also one that was wrong.
 */
static void there_and_back(void **state)
{
	struct seqmap_flow v4 = segment_flow(4, 0), v6 = segment_flow(6, 0);
	struct seqmap back;
	unsigned seed = 11;

	seqmap_init(&back, 2);
	assert_int_equal(seqmap_set(&back, &v4, -DELTA, -TS_DELTA), 0);
	assert_int_equal(seqmap_set(&back, &v6, -DELTA, -TS_DELTA), 0);
	for (int n = 0; n < 2000; n++) {
		struct made_segment d = segment_random(&seed);
		uint32_t len = segment_make(&d, frame);

		frame[len - 1 - d.padding] ^= (uint8_t)(n & 1); /* a wrong checksum stays wrong */
		memcpy(expected, frame, len);
		pass(d.from_guest, frame, len);
		if (d.from_guest)
			seqmap_out(&back, frame, len);
		else
			seqmap_in(&back, frame, len);
		assert_memory_equal(frame, expected, len);
	}
	seqmap_done(&back);
}

/* A client that has the other numbers hears its own back, whatever they are. */
static void a_client_sees_its_numbers(void **state)
{
	unsigned seed = 13;

	for (int n = 0; n < 1000; n++) {
		struct seqmap_flow f = segment_flow(4, 0);
		uint32_t delta = random32(&seed), isn = random32(&seed);
		struct made_segment d = {
			.version = 4, .from_guest = true, .flags = 0x12, .seq = isn + delta};
		uint32_t len;

		seqmap_clear(&map);
		assert_int_equal(seqmap_set(&map, &f, delta, 0), 0);
		len = segment_make(&d, frame);
		assert_true(seqmap_out(&map, frame, len));
		d.seq = isn;
		segment_make(&d, expected);
		assert_memory_equal(frame, expected, len);
		d = (struct made_segment){.version = 4, .flags = 0x10, .ack = isn + 1};
		segment_make(&d, frame);
		assert_true(seqmap_in(&map, frame, len));
		d.ack += delta;
		segment_make(&d, expected);
		assert_memory_equal(frame, expected, len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, make, done)
		T(plain),
		T(every_checksum),
		T(timestamps_and_sack),
		T(vlans_and_headers_between),
		T(vlans_count),
		T(the_host_completes_the_checksum),
		T(another_checksum_is_asked_for),
		T(fragments),
		T(what_has_no_ack),
		T(other_connections),
		T(bytes_that_count),
		T(cut_off),
		T(wrong_lengths),
		T(broken_options),
		T(errors_quote_the_guest),
		T(any_frame),
		T(there_and_back),
		T(a_client_sees_its_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
