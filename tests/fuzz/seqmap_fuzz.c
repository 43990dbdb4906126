/*
 * Translated sequence numbers. First byte even: the rest is a map as bytes; what decodes encodes to
 * the same, what does not changes nothing. Odd: the rest are commands: frames from a description
 * with edits, or any bytes, connections that come, time that goes by. A second map has the opposite
 * of each connection: behind both, a frame is as it was, and both end at once. A checksum makes up
 * for what changed; what a map says with edits is refused, or said again.
 */
#include <errno.h>

#include "tests/fuzz/fuzz.h"

#include "net/seqmap.h"
#include "tests/unit/libsegment.h"

#define LIMIT 8u

static struct seqmap map, opposite, edited;
static uint8_t made[SEGMENT_FRAME_MAX];

static void start(void)
{
	struct seqmap_flow f = segment_flow(4, 0, 0);
	struct made_segment d = {.version = 4, .from_guest = true, .seq = 7};
	uint32_t len = segment_make(&d, made);

	require(!seqmap_init(&map, LIMIT) && !seqmap_init(&opposite, LIMIT) &&
		!seqmap_init(&edited, LIMIT));
	require(!seqmap_add(&map, &f, 5, 6) && seqmap_out(&map, 0, made, len));
	require(made[12 + 14 + 20 + 7] == 2);
	seqmap_clear(&map);
}

static void check_said(const struct seqmap *m, const uint8_t *p, size_t len)
{
	uint8_t *again = malloc(seqmap_wire_bytes(m));

	require(again && seqmap_wire_bytes(m) == len && seqmap_encode(m, again) == len);
	require(!memcmp(again, p, len));
	free(again);
}

static void decode(const struct input *in)
{
	struct seqmap_flow f = segment_flow(6, 1, 1);
	uint8_t *copy = malloc(in->left ? in->left : 1);
	int code;

	require(copy && !seqmap_add(&map, &f, 1, 2));
	memcpy(copy, in->p, in->left);
	code = seqmap_decode(&map, copy, in->left);
	if (!code)
		check_said(&map, copy, in->left);
	else
		require(map.count == 1 && seqmap_find(&map, &f) &&
			(code == -EBADMSG || code == -ENOSPC));
	free(copy);
}

static bool pass(struct seqmap *m, bool out, uint8_t nic, uint8_t *frame, uint32_t len)
{
	return out ? seqmap_out(m, nic, frame, len) : seqmap_in(m, nic, frame, len);
}

/* The same, but for a checksum of ffff, which is one of 0 that nobody computes. */
static void check_same(const uint8_t *was, const uint8_t *is, uint32_t len)
{
	uint32_t at = 0;

	while (at < len && was[at] == is[at])
		at++;
	if (at == len)
		return;
	require(at + 1 < len && was[at] == 0xff && was[at + 1] == 0xff && !is[at] && !is[at + 1]);
	require(!memcmp(was + at + 2, is + at + 2, len - at - 2));
}

/* One's complement, as checksums are; they begin at even bytes. */
static uint32_t sum_of(const uint8_t *p, uint32_t len)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return (uint32_t)(sum % 0xffff);
}

/* Both maps, in memory that ends with the frame. */
static void send_frame(bool out, uint8_t nic, uint32_t len)
{
	uint8_t *frame = malloc(len ? len : 1);
	bool changed;

	require(frame != NULL);
	memcpy(frame, made, len);
	changed = pass(&map, out, nic, frame, len);
	if (!changed)
		require(!memcmp(frame, made, len));
	else if (!(made[0] & 1)) /* the checksum makes up for what changed */
		require(sum_of(frame, len) == sum_of(made, len));
	require(pass(&opposite, out, nic, frame, len) == changed);
	check_same(made, frame, len);
	free(frame);
}

static void describe(struct input *in, unsigned c)
{
	unsigned seed = (unsigned)take(in, 1), flags = (unsigned)take(in, 1);
	struct made_segment d = segment_random(&seed);
	uint32_t len;
	bool out;

	d.flags = (uint8_t)flags;
	d.port = c >> 6;
	d.payload %= 500;
	d.seq &= 3; /* so that ends meet */
	d.ack &= 3;
	out = d.from_guest;
	if (c & 8) {
		d.from_guest = true;
		len = segment_make_error(&d, flags % 64, made);
		out = false;
	} else {
		len = segment_make(&d, made);
	}
	for (unsigned edits = c & 16 ? 1 + (unsigned)take(in, 1) % 4 : 0; edits; edits--)
		made[take(in, 1) % len] = (uint8_t)take(in, 1);
	if (c & 32) {
		uint32_t ip = 12 + 14 + 4u * d.vlans, head = d.version == 4 ? 0 : 40;

		len = (uint32_t)take(in, 1) % (len + 1);
		if ((len & 1) && len >= ip + 40) { /* and the IP header says so */
			made[ip + (head ? 4 : 2)] = (uint8_t)((len - ip - head) >> 8);
			made[ip + (head ? 5 : 3)] = (uint8_t)(len - ip - head);
		}
	}
	send_frame(out, 0, len);
}

static void add(unsigned c, uint32_t delta, uint32_t ts_delta)
{
	struct seqmap_flow f = segment_flow(c & 8 ? 6 : 4, 0, (uint16_t)(c >> 4));
	uint32_t count = map.count;
	int code = seqmap_add(&map, &f, delta, ts_delta);

	require(code == 0 || (code == -ENOSPC && count == LIMIT));
	require(seqmap_add(&opposite, &f, -delta, -ts_delta) == code);
}

/* What the map says, with edits: a connection in place of another, a byte. */
static void decode_edited(struct input *in)
{
	uint8_t wire[SEQMAP_WIRE_HEADER + LIMIT * SEQMAP_WIRE_CONN];
	size_t n = seqmap_encode(&map, wire);
	unsigned edit = (unsigned)take(in, 1), to = edit & 7, from = edit >> 3 & 7;

	if (to < map.count && from < map.count)
		memmove(wire + SEQMAP_WIRE_HEADER + to * SEQMAP_WIRE_CONN,
			wire + SEQMAP_WIRE_HEADER + from * SEQMAP_WIRE_CONN, SEQMAP_WIRE_CONN);
	if (edit & 64)
		wire[take(in, 2) % n] = (uint8_t)take(in, 1);
	if (!seqmap_decode(&edited, wire, n))
		check_said(&edited, wire, n);
}

static void talk(struct input *in)
{
	uint8_t wire[SEQMAP_WIRE_HEADER + LIMIT * SEQMAP_WIRE_CONN];
	uint64_t now = 1;
	size_t n;

	while (in->left) {
		unsigned c = (unsigned)take(in, 1);
		uint32_t delta;

		switch (c & 7) {
		case 0:
			delta = (uint32_t)take(in, 4);
			add(c, delta, (uint32_t)take(in, 4));
			break;
		case 1:
			now += SEQMAP_LINGER_NS << (c >> 3);
			require(seqmap_tick(&map, now) == seqmap_tick(&opposite, now));
			break;
		case 2:
			n = (size_t)take(in, 1);
			memcpy(made, in->p, n < in->left ? n : in->left);
			take_bytes(in, &n);
			send_frame(c & 8, 0, (uint32_t)n);
			break;
		case 3:
			if (c & 8) {
				decode_edited(in);
				break;
			}
			n = seqmap_encode(&map, wire);
			require(!seqmap_decode(&map, wire, n));
			check_said(&map, wire, n);
			seqmap_tick(&map, now); /* both are quiet from here */
			seqmap_encode(&opposite, wire);
			require(!seqmap_decode(&opposite, wire, n));
			seqmap_tick(&opposite, now);
			break;
		default:
			describe(in, c);
		}
		require(map.count <= LIMIT && map.count == opposite.count);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	if (!map.limit)
		start();
	if (take(&in, 1) & 1)
		talk(&in);
	else
		decode(&in);
	seqmap_clear(&map);
	seqmap_clear(&opposite);
	return 0;
}
