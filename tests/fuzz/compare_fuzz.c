/*
 * Two machines' outputs, one after the other, with inputs, checkpoints and deadlines in between.
 * Commands make segments of two connections, short ones at places near each other, where sequence
 * numbers wrap; or the input has whole frames, console bytes and messages. What is released was
 * waiting, each once and in order, nothing of it between a difference and a checkpoint; and as long
 * as there are segments only, each of its bytes is one that theirs has said at that place, or that
 * ours had before a checkpoint, or that the client has acknowledged.
 */
#include "tests/fuzz/fuzz.h"

#include "net/compare.h"
#include "tests/unit/libcompare.h"
#include "vmm/base/log.h"

#define FLOWS  2
#define PLACES 320u
#define ZERO   0xffffff80u
#define OUTS   512u

struct out {
	int flow; /* -1: its bytes are not followed */
	uint32_t at, len;
	uint64_t number;
	uint8_t *data, *payload;
};

static struct compare c;
static struct out *waiting[OUTS];
static bool differs, followed;
static uint64_t numbers, last[FLOWS];
static uint32_t acked[FLOWS];
/* A bit for each value of a byte. */
static uint64_t theirs_said[FLOWS][PLACES][4], ours_said[FLOWS][PLACES][4];

static const struct compare_limits limits = {
	.bytes = 1u << 20,
	.flow_bytes = 128u << 10,
	.history_bytes = 4096,
	.flows = 8,
	.overdue_ns = 1000,
	.idle_ns = 10000,
};

static bool said(const uint64_t bits[4], uint8_t byte)
{
	return bits[byte / 64] >> byte % 64 & 1;
}

static void say(uint64_t bits[4], uint8_t byte)
{
	bits[byte / 64] |= 1ull << byte % 64;
}

static void drop(unsigned i)
{
	free(waiting[i]->data);
	free(waiting[i]);
	waiting[i] = NULL;
}

static void on_release(void *arg, void *cookie)
{
	unsigned i = (unsigned)(uintptr_t)cookie - 1;
	struct out *o;

	require(!differs && i < OUTS && waiting[i]);
	o = waiting[i];
	if (o->flow >= 0 && followed) {
		require(o->number > last[o->flow]);
		last[o->flow] = o->number;
		for (uint32_t n = 0; n < o->len; n++)
			require(o->at + n < acked[o->flow] ||
				said(theirs_said[o->flow][o->at + n], o->payload[n]));
	}
	drop(i);
}

static void on_differ(void *arg, const struct compare_verdict *v)
{
	char text[300];

	require(!differs && v->why != COMPARE_EQUAL);
	require(v->nours <= COMPARE_SHOWN && v->ntheirs <= COMPARE_SHOWN);
	compare_describe(v, text, sizeof(text));
	differs = true;
}

static const struct compare_ops ops = {.release = on_release, .differ = on_differ};

static void reset(void)
{
	compare_reset(&c);
	require(compare_due(&c) == UINT64_MAX);
	differs = false;
	for (unsigned i = 0; i < OUTS; i++)
		if (waiting[i])
			drop(i);
	for (size_t i = 0; i < sizeof(ours_said) / 8; i++)
		(&theirs_said[0][0][0])[i] |= (&ours_said[0][0][0])[i];
}

/* Takes data over. */
static void put_ours(int sink, uint8_t *data, uint32_t len, struct out o, uint64_t now)
{
	unsigned i = 0;

	while (i < OUTS && waiting[i])
		i++;
	if (i == OUTS) {
		free(data);
		return;
	}
	waiting[i] = malloc(sizeof(o));
	require(waiting[i] != NULL);
	o.data = data;
	o.number = ++numbers;
	o.payload = data + len - o.len;
	*waiting[i] = o;
	for (uint32_t n = 0; o.flow >= 0 && n < o.len; n++)
		say(ours_said[o.flow][o.at + n], o.payload[n]);
	compare_ours(&c, sink, data, len, (void *)(uintptr_t)(i + 1), now);
}

static void put_theirs(int sink, uint8_t *data, uint32_t len, struct out o, uint64_t now)
{
	const uint8_t *payload = data + len - o.len;

	for (uint32_t n = 0; o.flow >= 0 && !differs && n < o.len; n++)
		say(theirs_said[o.flow][o.at + n], payload[n]);
	compare_theirs(&c, sink, data, len, now);
	free(data);
}

static void segment(struct input *in, unsigned how, uint64_t now)
{
	static const uint8_t flags[] = {PACKET_ACK, PACKET_ACK, PACKET_ACK | PACKET_FIN,
					PACKET_ACK | PACKET_RST};
	struct out o = {.flow = how >> 3 & 1, .at = (uint32_t)take(in, 1)};
	size_t n = take(in, 1) % 64;
	uint8_t pattern[64], buf[300], *data;
	struct libcompare_segment s = {.version = 4,
				       .port = (uint16_t)(1000 + o.flow),
				       .flags = flags[how >> 4 & 3],
				       .seq = ZERO + o.at,
				       .ack = (uint32_t)take(in, 1),
				       .data = pattern};
	uint32_t len;

	/* As a stream would have it, with something wrong now and then. */
	for (uint32_t i = 0; i < n; i++)
		pattern[i] = (uint8_t)((o.at + i) * 7);
	if (how & 0x80 && n)
		pattern[take(in, 1) % n] ^= 1;
	s.len = o.len = (uint32_t)n;
	len = libcompare_tcp(buf, &s);
	data = malloc(len);
	require(data != NULL);
	memcpy(data, buf, len);
	if (how & 4)
		put_theirs(0, data, len, o, now);
	else
		put_ours(0, data, len, o, now);
}

static void client(struct input *in, unsigned how)
{
	struct libcompare_segment s = {.version = 4,
				       .port = 1000 + (how >> 3 & 1),
				       .from_client = true,
				       .flags = PACKET_ACK,
				       .ack = (uint32_t)take(in, 1)};
	uint8_t buf[300];

	if (acked[how >> 3 & 1] < s.ack)
		acked[how >> 3 & 1] = s.ack;
	if (how & 16)
		s.flags |= how & 32 ? PACKET_RST : PACKET_FIN;
	s.ack += ZERO;
	compare_input(&c, 0, buf, libcompare_tcp(buf, &s));
}

/* Anything, at any sink, from anywhere. */
static void raw(struct input *in, unsigned how, uint64_t now)
{
	size_t n = take(in, 1);
	int sink = how >> 3 & 3;
	const uint8_t *from = take_bytes(in, &n);
	uint8_t *data;

	if (!n)
		return;
	data = malloc(n);
	require(data != NULL);
	memcpy(data, from, n);
	followed = false;
	if (how & 32) {
		compare_input(&c, sink, data, (uint32_t)n);
		free(data);
	} else if (how & 4) {
		put_theirs(sink, data, (uint32_t)n, (struct out){.flow = -1}, now);
	} else {
		put_ours(sink, data, (uint32_t)n, (struct out){.flow = -1}, now);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint64_t now = 1;

	require(!compare_init(&c, &limits, &ops, NULL));
	compare_add_sink(&c, 0, COMPARE_FRAMES);
	compare_add_sink(&c, 1, COMPARE_STREAM);
	compare_add_sink(&c, 2, COMPARE_MESSAGES);
	compare_add_sink(&c, 3, COMPARE_ORDERS);
	memset(theirs_said, 0, sizeof(theirs_said));
	memset(ours_said, 0, sizeof(ours_said));
	memset(acked, 0, sizeof(acked));
	memset(last, 0, sizeof(last));
	differs = false;
	followed = true;
	for (unsigned n = 0; in.left && n < 400; n++) {
		unsigned how = (unsigned)take(&in, 1);

		if ((how & 3) < 2)
			segment(&in, how, now);
		else if ((how & 3) == 2)
			raw(&in, how, now);
		else if (how & 4)
			client(&in, how);
		else if (how & 64)
			reset();
		else
			compare_overdue(&c, now += take(&in, 1));
		require(c.bytes <= limits.bytes);
		require(c.nflows <= limits.flows);
	}
	reset();
	compare_done(&c);
	require(c.bytes == 0);
	return 0;
}
