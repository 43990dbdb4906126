/*
 * Translated sequence numbers, by commands: frames from a description with edits, or any bytes,
 * connections that come, time that goes by. A second map has the opposite of each connection:
 * behind both, a frame is as it was, and both end at once. A checksum makes up for what changed. A
 * third is put together from what the first says.
 */
#include <errno.h>
#include <stddef.h>

#include "tests/fuzz/fuzz.h"

#include "net/seqmap.h"
#include "tests/unit/libsegment.h"

#define LIMIT 8u

static struct seqmap map, opposite, again;
static uint8_t made[SEGMENT_FRAME_MAX];

static void start(void)
{
	struct seqmap_flow f = segment_flow(4, 0);
	struct made_segment d = {.version = 4, .from_guest = true, .seq = 7};
	uint32_t len = segment_make(&d, made);

	seqmap_init(&map, LIMIT);
	seqmap_init(&opposite, LIMIT);
	seqmap_init(&again, LIMIT);
	require(!seqmap_set(&map, &f, 5, 6) && seqmap_out(&map, made, len));
	require(made[12 + 14 + 20 + 7] == 2);
	seqmap_clear(&map);
}

static void put_together(void)
{
	struct seqmap_conn said[LIMIT], repeated[LIMIT];
	uint32_t n = seqmap_list(&map, said);

	seqmap_clear(&again);
	for (uint32_t i = 0; i < n; i++)
		require(!seqmap_put(&again, &said[i]));
	require(n == map.count && seqmap_list(&again, repeated) == n);
	for (uint32_t i = 0; i < n; i++)
		require(!memcmp(&said[i], &repeated[i], offsetof(struct seqmap_conn, next)));
}

static bool pass(struct seqmap *m, bool out, uint8_t *frame, uint32_t len)
{
	return out ? seqmap_out(m, frame, len) : seqmap_in(m, frame, len);
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
static void send_frame(bool out, uint32_t len)
{
	uint8_t *frame = malloc(len ? len : 1);
	bool changed;

	require(frame != NULL);
	memcpy(frame, made, len);
	changed = pass(&map, out, frame, len);
	if (!changed)
		require(!memcmp(frame, made, len));
	else if (!(made[0] & 1)) /* the checksum makes up for what changed */
		require(sum_of(frame, len) == sum_of(made, len));
	require(pass(&opposite, out, frame, len) == changed);
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
	send_frame(out, len);
}

static void add(unsigned c, uint32_t delta, uint32_t ts_delta)
{
	struct seqmap_flow f = segment_flow(c & 8 ? 6 : 4, (uint16_t)(c >> 4));
	uint32_t count = map.count;
	int code = seqmap_set(&map, &f, delta, ts_delta);

	require(code == 0 || (code == -ENOSPC && count == LIMIT));
	require(seqmap_set(&opposite, &f, -delta, -ts_delta) == code);
}

static void talk(struct input *in)
{
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
			send_frame(c & 8, (uint32_t)n);
			break;
		case 3:
			put_together();
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
	talk(&in);
	seqmap_clear(&map);
	seqmap_clear(&opposite);
	return 0;
}
