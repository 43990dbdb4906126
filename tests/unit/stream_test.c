/* Frames: whatever way the bytes arrive, and whatever was done to them on the way. */
#define _GNU_SOURCE /* memfd_create */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/libwire.h"
#include "vmm/base/loop.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static uint64_t seed = 0x2545f4914f6cdd1dull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t soon(void)
{
	return loop_now_ns() + 20000000000ull;
}

static void fill_random(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)next_random();
}

/* A few small frames of every kind behind a preface; ends[] are the places where one may stop. */
#define GOLDEN_FRAMES 8

struct golden {
	struct wire w;
	size_t ends[GOLDEN_FRAMES + 1]; /* of the preface, of each frame */
};

static void golden_init(struct golden *g)
{
	static const uint16_t types[GOLDEN_FRAMES] = {FRAME_HELLO, FRAME_EPOCH_BEGIN, FRAME_PAGES,
						      FRAME_STATE, FRAME_EPOCH_END,   FRAME_HEART,
						      FRAME_ACK,   FRAME_BYE};
	uint8_t data[64];

	memset(g, 0, sizeof(*g));
	wire_preface(&g->w, STREAM_VERSION, STREAM_MAIN, WIRE_SESSION);
	g->ends[0] = g->w.len;
	for (unsigned i = 0; i < GOLDEN_FRAMES; i++) {
		fill_random(data, sizeof(data));
		wire_frame(&g->w, types[i], data, i * 7);
		g->ends[i + 1] = g->w.len;
	}
}

/* What a receiver made of bytes that end after len. */
struct result {
	int last; /* what stream_recv() said in the end */
	unsigned frames;
	size_t cap;
	char why[160];
};

static int file_of(const uint8_t *p, size_t len)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, len), len);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* Receive until the end; each frame must be the next one of `expect`, when given. */
static struct result receive(const uint8_t *p, size_t len, const struct golden *expect)
{
	struct result res = {0};
	struct stream s;
	struct frame f;

	stream_init(&s, file_of(p, len), STREAM_ANY, 0);
	while ((res.last = stream_recv(&s, &f)) == 1) {
		if (expect) {
			const uint8_t *at = expect->w.p + expect->ends[res.frames];

			assert_true(res.frames < GOLDEN_FRAMES);
			assert_memory_equal(f.data, at + sizeof(struct frame_hdr), f.length);
			assert_int_equal(f.length, res.frames * 7);
			assert_int_equal(f.epoch, 1000 + f.type);
		}
		res.frames++;
	}
	assert_int_equal(stream_recv(&s, &f), res.last); /* it stays so */
	memcpy(res.why, s.why, sizeof(res.why));
	res.cap = s.cap;
	stream_done(&s);
	return res;
}

static void assert_refused(const struct wire *w, unsigned frames, const char *why)
{
	struct result r = receive(w->p, w->len, NULL);

	assert_int_equal(r.last, -EBADMSG);
	assert_int_equal(r.frames, frames);
	if (!strstr(r.why, why))
		fail_msg("'%s' does not say '%s'", r.why, why);
}

static void golden_stream_is_read(void **state)
{
	struct golden g;
	struct result r;

	golden_init(&g);
	r = receive(g.w.p, g.w.len, &g);
	assert_int_equal(r.last, -EPIPE);
	assert_int_equal(r.frames, GOLDEN_FRAMES);
	wire_free(&g.w);
}

static void every_truncation_is_told_from_the_end(void **state)
{
	struct golden g;

	golden_init(&g);
	for (size_t len = 0; len < g.w.len; len++) {
		struct result r = receive(g.w.p, len, &g);
		unsigned whole = 0;
		bool edge = len == 0 || len == g.ends[0];

		for (unsigned i = 1; i <= GOLDEN_FRAMES; i++) {
			whole += g.ends[i] <= len;
			edge |= g.ends[i] == len;
		}
		assert_int_equal(r.frames, whole);
		assert_int_equal(r.last, edge ? -EPIPE : -EBADMSG);
		assert_true(edge || strstr(r.why, "truncated"));
	}
	wire_free(&g.w);
}

static void every_bit_flip_is_refused(void **state)
{
	struct golden g;

	golden_init(&g);
	for (size_t bit = 0; bit < g.w.len * 8; bit++) {
		struct wire w = {0};
		struct result r;

		wire_add(&w, g.w.p, g.w.len);
		w.p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		r = receive(w.p, w.len, &g);
		assert_int_equal(r.last, -EBADMSG);
		assert_true(r.why[0]);
		wire_free(&w);
	}
	wire_free(&g.w);
}

static void random_damage_is_refused(void **state)
{
	struct golden g;

	golden_init(&g);
	for (unsigned n = 0; n < 2000; n++) {
		struct wire w = {0};
		size_t at = next_random() % g.w.len, len = 1 + next_random() % 64;

		wire_add(&w, g.w.p, at);
		for (size_t i = 0; i < len; i++)
			wire_add(&w, &(uint8_t){(uint8_t)next_random()}, 1);
		if (receive(w.p, w.len, &g).last != -EBADMSG)
			fail_msg("%zu random bytes at %zu were accepted", len, at);
		wire_free(&w);
	}
	wire_free(&g.w);
}

static void start_signed(struct wire *w, unsigned frames)
{
	wire_preface(w, STREAM_VERSION, STREAM_MAIN, WIRE_SESSION);
	for (unsigned i = 0; i < frames; i++)
		wire_frame(w, FRAME_HEART, "beat", 4);
}

static void signed_lies_are_refused(void **state)
{
	static const struct {
		const char *why;
		uint16_t type, flags;
		uint32_t length;
		int64_t seq;
		uint64_t session;
	} cases[] = {
		{"type 0 does not exist", 0, 0, 4, 0, 0},
		{"does not exist", FRAME_TYPE_MAX, 0, 4, 0, 0},
		{"type 65535 does not exist", 0xffff, 0, 4, 0, 0},
		{"flags 0x1", FRAME_HEART, 1, 4, 0, 0},
		{"flags 0x8000", FRAME_HEART, 0x8000, 4, 0, 0},
		{"says it is frame 4", FRAME_HEART, 0, 4, 1, 0},
		{"says it is frame 2", FRAME_HEART, 0, 4, -1, 0},
		{"says it is frame 0", FRAME_HEART, 0, 4, -3, 0},
		{"says it is frame", FRAME_HEART, 0, 4, INT64_MIN, 0},
		{"is of session", FRAME_HEART, 0, 4, 0, 1},
		{"is of session", FRAME_HEART, 0, 4, 0, WIRE_SESSION},
		{"length 65 is above the limit 64", FRAME_HEART, 0, 65, 0, 0},
		{"is above the limit", FRAME_HEART, 0, 0xffffffff, 0, 0},
		{"is above the limit", FRAME_PAGES, 0, 0xffffffff, 0, 0},
		{"is above the limit", FRAME_PAGES, 0, 0x80000000, 0, 0},
		{"is above the limit", FRAME_STATE, 0, (1 << 20) + 1, 0, 0},
		{"truncated", FRAME_HEART, 0, 5, 0, 0},
		{"truncated", FRAME_PAGES, 0, 1 << 20, 0, 0},
	};

	for (unsigned i = 0; i < COUNT(cases); i++) {
		struct wire w = {0};
		struct frame_hdr h;

		start_signed(&w, 3);
		h = wire_header(&w, cases[i].type, cases[i].length);
		h.flags = cases[i].flags;
		h.seq += (uint64_t)cases[i].seq;
		h.session ^= cases[i].session;
		wire_signed(&w, h, "beat", 4);
		assert_refused(&w, 3, cases[i].why);
		wire_free(&w);
	}
}

/* A length above the cap must be refused before room for it is made, and before it arrived. */
static void hostile_lengths_allocate_nothing(void **state)
{
	for (uint16_t type = 0; type <= FRAME_TYPE_MAX; type++) {
		struct wire w = {0};
		struct frame_hdr h;
		struct result r;

		start_signed(&w, 0);
		h = wire_header(&w, type, 0);
		h.length = stream_max_length(type) + 1;
		wire_signed(&w, h, NULL, 0);
		r = receive(w.p, w.len, NULL);
		assert_int_equal(r.last, -EBADMSG);
		assert_true(strstr(r.why, "limit") || strstr(r.why, "does not exist"));
		assert_true(r.cap <= 128u << 10);
		wire_free(&w);
	}
}

static void every_type_takes_its_longest_frame(void **state)
{
	uint8_t *data = malloc(STREAM_MAX_FRAME);

	assert_non_null(data);
	fill_random(data, STREAM_MAX_FRAME);
	for (uint16_t type = 1; type < FRAME_TYPE_MAX; type++) {
		uint32_t max = stream_max_length(type);
		struct wire w = {0};
		struct result r;

		assert_true(max && max < STREAM_MAX_FRAME);
		start_signed(&w, 1);
		wire_frame(&w, type, data, max);
		wire_frame(&w, FRAME_BYE, NULL, 0);
		wire_frame(&w, type, data, max);
		r = receive(w.p, w.len, NULL);
		assert_int_equal(r.last, -EPIPE);
		assert_int_equal(r.frames, 4);
		wire_frame(&w, type, data, max + 1);
		assert_refused(&w, 4, "is above the limit");
		wire_free(&w);
	}
	free(data);
}

static void order_and_number_of_frames_are_checked(void **state)
{
	struct golden g;
	struct wire w = {0};

	golden_init(&g);
#define UP_TO(i) (w.len = 0, wire_add(&w, g.w.p, g.ends[i]))
#define PART(i)	 wire_add(&w, g.w.p + g.ends[i], g.ends[(i) + 1] - g.ends[i])
	UP_TO(2); /* the third one twice */
	PART(2);
	PART(2);
	assert_refused(&w, 3, "says it is frame 2");
	UP_TO(2); /* the third one is missing */
	PART(3);
	assert_refused(&w, 2, "says it is frame 3");
	UP_TO(2); /* two change places */
	PART(3);
	PART(2);
	assert_refused(&w, 2, "says it is frame 3");
	UP_TO(4); /* an old one again */
	PART(0);
	assert_refused(&w, 4, "says it is frame 0");
	UP_TO(3); /* the preface again */
	wire_add(&w, g.w.p, g.ends[0]);
	PART(3);
	assert_refused(&w, 3, "does not exist");
#undef PART
#undef UP_TO
	wire_free(&w);
	wire_free(&g.w);
}

/* A frame of another session with the right number is a replay, however well it is signed. */
static void other_sessions_are_refused(void **state)
{
	struct wire w = {0};
	struct frame_hdr h;

	start_signed(&w, 2);
	h = wire_header(&w, FRAME_ACK, 8);
	h.session = WIRE_SESSION - 1;
	wire_signed(&w, h, "12345678", 8);
	assert_refused(&w, 2, "not of 1122334455667788");
	wire_free(&w);
}

static void prefaces_are_checked(void **state)
{
	static const struct {
		uint32_t version, link;
		uint64_t session;
		const char *why;
	} cases[] = {
		{2, STREAM_MAIN, WIRE_SESSION, "stream version 2, only 1"},
		{0, STREAM_MAIN, WIRE_SESSION, "stream version 0"},
		{1, 0, WIRE_SESSION, "link kind 0 does not exist"},
		{1, 7, WIRE_SESSION, "link kind 7 does not exist"},
		{1, 0x80000001, WIRE_SESSION, "does not exist"},
		{1, STREAM_MAIN, 0, "session is 0"},
	};
	struct wire w = {0};

	for (unsigned i = 0; i < COUNT(cases); i++) {
		wire_preface(&w, cases[i].version, cases[i].link, cases[i].session);
		assert_refused(&w, 0, cases[i].why);
		wire_free(&w);
	}
	wire_frame(&w, FRAME_HEART, "beat", 4);
	assert_refused(&w, 0, "not an ftvmm stream");
	wire_free(&w);
}

static void link_kind_must_match(void **state)
{
	struct wire w = {0};
	struct stream s;
	struct frame f;

	wire_preface(&w, STREAM_VERSION, STREAM_HEART, WIRE_SESSION);
	wire_frame(&w, FRAME_HEART, NULL, 0);
	stream_init(&s, file_of(w.p, w.len), STREAM_MAIN, 0);
	assert_int_equal(stream_recv(&s, &f), -EBADMSG);
	assert_non_null(strstr(s.why, "link kind 2, 1 is needed"));
	stream_done(&s);
	stream_init(&s, file_of(w.p, w.len), STREAM_ANY, 0);
	assert_int_equal(stream_recv(&s, &f), 1);
	assert_int_equal(s.link, STREAM_HEART);
	assert_int_equal(s.session, WIRE_SESSION);
	stream_done(&s);
	wire_free(&w);
}

static void make_pair(struct stream *a, struct stream *b)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	stream_init(a, fds[0], STREAM_MAIN, WIRE_SESSION);
	stream_init(b, fds[1], STREAM_MAIN, 0);
}

static void bytes_may_arrive_one_by_one(void **state)
{
	struct golden g;
	unsigned frames = 0;
	struct stream a, b;
	struct frame f;

	golden_init(&g);
	make_pair(&a, &b);
	for (size_t i = 0; i < g.w.len; i++) {
		int r;

		assert_int_equal(write(a.fd, g.w.p + i, 1), 1);
		while ((r = stream_recv(&b, &f)) == 1) {
			assert_int_equal(g.ends[frames + 1], i + 1);
			assert_memory_equal(f.data, g.w.p + g.ends[frames] + 40, f.length);
			frames++;
		}
		assert_int_equal(r, 0);
	}
	assert_int_equal(frames, GOLDEN_FRAMES);
	stream_done(&a);
	assert_int_equal(stream_recv(&b, &f), -EPIPE);
	stream_done(&b);
	wire_free(&g.w);
}

/* Both directions of one stream at once; contents follow from the number of the frame. */
#define TRAFFIC 400

struct peer {
	struct stream *s;
	uint64_t seed;
	bool preface;
	int error;
};

static uint32_t traffic_frame(uint64_t *rnd, uint8_t *data, uint16_t *ret_type)
{
	uint64_t r = *rnd = *rnd * 6364136223846793005ull + 1442695040888963407ull;
	uint32_t max, len;

	*ret_type = (uint16_t)(1 + (r >> 60) % (FRAME_TYPE_MAX - 1));
	max = stream_max_length(*ret_type);
	len = (uint32_t)(r >> 20) % (max + 1);
	if (r >> 33 & 3)
		len %= 600; /* mostly small ones */
	if (!(r >> 35 & 15))
		len = max;
	for (uint32_t i = 0; i < len; i++) /* no two places alike */
		data[i] = (uint8_t)((r >> 40) + i * 131 + (i >> 8));
	return len;
}

static void *send_traffic(void *arg)
{
	struct peer *p = arg;
	uint8_t *data = malloc(STREAM_MAX_FRAME);

	if (!data)
		abort();
	if (p->preface)
		p->error = stream_send_preface(p->s, soon());
	for (unsigned i = 0; i < TRAFFIC && !p->error; i++) {
		uint16_t type;
		uint32_t len = traffic_frame(&p->seed, data, &type);
		struct iovec iov[3] = {
			{data, len / 3}, {data + len / 3, 0}, {data + len / 3, len - len / 3}};

		p->error = stream_send(p->s, type, i, iov, 3, soon());
	}
	free(data);
	return NULL;
}

static void receive_traffic(struct stream *s, uint64_t rnd, unsigned from)
{
	uint8_t *data = malloc(STREAM_MAX_FRAME);

	assert_non_null(data);
	for (unsigned i = 0; i < TRAFFIC; i++) {
		uint16_t type;
		uint32_t len = traffic_frame(&rnd, data, &type);
		struct pollfd p = {.fd = s->fd, .events = POLLIN};
		struct frame f;
		int r;

		if (i < from)
			continue;
		while (!(r = stream_recv(s, &f)))
			assert_int_equal(poll(&p, 1, 20000), 1);
		assert_int_equal(r, 1);
		assert_int_equal(f.type, type);
		assert_int_equal(f.epoch, i);
		assert_int_equal(f.length, len);
		assert_memory_equal(f.data, data, len);
	}
	free(data);
}

static void *receive_thread(void *arg)
{
	struct peer *p = arg;

	receive_traffic(p->s, p->seed, 0);
	return NULL;
}

static void traffic_flows_both_ways(void **state)
{
	struct stream a, b;
	struct peer there = {&a, 1, true, 0}, back = {&b, 2, false, 0}, get = {&a, 2, false, 0};
	uint64_t rnd = 1;
	uint8_t data[4096];
	pthread_t t[3];
	struct frame f;
	uint16_t type;
	int r;

	make_pair(&a, &b);
	pthread_create(&t[0], NULL, send_traffic, &there);
	while (!(r = stream_recv(&b, &f))) { /* the session is known with the first frame */
		struct pollfd p = {.fd = b.fd, .events = POLLIN};

		poll(&p, 1, 20000);
	}
	assert_int_equal(r, 1);
	assert_true(stream_max_length(f.type) > 4096 ||
		    traffic_frame(&rnd, data, &type) == f.length);
	pthread_create(&t[1], NULL, send_traffic, &back);
	pthread_create(&t[2], NULL, receive_thread, &get);
	receive_traffic(&b, 1, 1);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(there.error, 0);
	assert_int_equal(back.error, 0);
	assert_int_equal(a.sent_bytes, b.recv_bytes);
	assert_int_equal(b.sent_bytes, a.recv_bytes);
	assert_int_equal(b.recv_seq, TRAFFIC);
	assert_true(b.cap <= STREAM_MAX_FRAME);
	stream_done(&a);
	stream_done(&b);
}

static void small_frames_are_one_write(void **state)
{
	uint8_t got[512];
	struct stream s;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	stream_init(&s, fds[0], STREAM_MAIN, WIRE_SESSION);
	assert_int_equal(stream_send(&s, FRAME_ACK, 7, &(struct iovec){"12345678", 8}, 1, soon()),
			 0);
	assert_int_equal(read(fds[1], got, sizeof(got)), 48); /* a record is one write */
	assert_int_equal(stream_send(&s, FRAME_HEART, 7, NULL, 0, soon()), 0);
	assert_int_equal(read(fds[1], got, sizeof(got)), 40);
	close(fds[1]);
	stream_done(&s);
}

/* How many bytes a write had: a record is one. 0: there was none. */
static size_t written(int fd)
{
	static uint8_t got[256 << 10];
	ssize_t n = recv(fd, got, sizeof(got), MSG_DONTWAIT);

	return n < 0 ? 0 : (size_t)n;
}

static void gathered_frames_are_one_write(void **state)
{
	static uint8_t data[100 << 10];
	struct iovec small = {data, 1500}, large = {data, sizeof(data)};
	struct stream s;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	stream_init(&s, fds[0], STREAM_MIRROR, WIRE_SESSION);
	stream_gather(&s);
	for (int i = 0; i < 3; i++)
		assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), 0);
	assert_int_equal(written(fds[1]), 0);
	assert_int_equal(stream_flush(&s, soon()), 0);
	assert_int_equal(written(fds[1]), 3 * 1540);
	assert_int_equal(stream_flush(&s, soon()), 0);
	assert_int_equal(written(fds[1]), 0);
	/* What does not fit, and what never would, goes with what waits, and does not overtake. */
	stream_gather(&s);
	for (int i = 0; i < 43; i++)
		assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), 0);
	assert_int_equal(written(fds[1]), 43 * 1540);
	assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), 0);
	assert_int_equal(written(fds[1]), 0);
	assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &large, 1, soon()), 0);
	assert_int_equal(written(fds[1]), 1540 + sizeof(data) + 40);
	assert_int_equal(stream_flush(&s, soon()), 0);
	assert_int_equal(written(fds[1]), 0);
	/* After a flush each is a write again. */
	assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), 0);
	assert_int_equal(written(fds[1]), 1540);
	stream_gather(&s);
	assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), 0);
	close(fds[1]);
	assert_int_equal(stream_flush(&s, soon()), -EPIPE);
	assert_int_equal(stream_send(&s, FRAME_INPUT, 1, &small, 1, soon()), -EPIPE);
	assert_int_equal(stream_flush(&s, soon()), -EPIPE);
	stream_done(&s);
}

static void wrong_sends_write_nothing(void **state)
{
	struct iovec iov[STREAM_MAX_IOV + 1] = {{"x", 1}};
	struct stream a, b;
	struct frame f;

	make_pair(&a, &b);
	assert_int_equal(stream_send(&b, FRAME_ACK, 0, NULL, 0, soon()),
			 -EINVAL); /* no session yet */
	assert_int_equal(stream_send_preface(&b, soon()), -EINVAL);
	assert_int_equal(stream_send_preface(&a, soon()), 0);
	assert_int_equal(stream_send_preface(&a, soon()), -EINVAL); /* once */
	assert_int_equal(stream_send(&a, 0, 0, NULL, 0, soon()), -EINVAL);
	assert_int_equal(stream_send(&a, FRAME_TYPE_MAX, 0, NULL, 0, soon()), -EINVAL);
	assert_int_equal(stream_send(&a, FRAME_ACK, 0, iov, STREAM_MAX_IOV + 1, soon()), -EINVAL);
	assert_int_equal(stream_send(&a, FRAME_ACK, 0, iov, -1, soon()), -EINVAL);
	iov[0].iov_len = 65;
	assert_int_equal(stream_send(&a, FRAME_ACK, 0, iov, 1, soon()), -EMSGSIZE);
	iov[0].iov_len = SIZE_MAX;
	iov[1].iov_len = 2;
	assert_int_equal(stream_send(&a, FRAME_ACK, 0, iov, 2, soon()), -EMSGSIZE);
	iov[0].iov_len = 1;
	assert_int_equal(stream_send(&a, FRAME_ACK, 3, iov, 1, soon()), 0);
	assert_int_equal(stream_recv(&b, &f), 1);
	assert_int_equal(f.epoch, 3);
	assert_int_equal(stream_recv(&b, &f), 0);
	stream_done(&a);
	stream_done(&b);
}

static void failed_writes_stay_failed(void **state)
{
	uint8_t *data = calloc(1, 1 << 20);
	struct iovec iov = {data, 1 << 20};
	struct stream a, b;
	struct frame f;

	assert_non_null(data);
	make_pair(&a, &b); /* nobody reads: the socket fills up */
	assert_int_equal(stream_send_preface(&a, soon()), 0);
	assert_int_equal(stream_send(&a, FRAME_PAGES, 0, &iov, 1, loop_now_ns() + 1000000),
			 -ETIMEDOUT);
	assert_int_equal(stream_recv(&b, &f), 0); /* there is room again, but half a frame is out */
	assert_int_equal(stream_send(&a, FRAME_HEART, 0, NULL, 0, soon()), -ETIMEDOUT);
	stream_done(&a);
	while (stream_recv(&b, &f) == 0)
		;
	assert_int_equal(stream_recv(&b, &f), -EBADMSG);
	assert_non_null(strstr(b.why, "truncated"));
	stream_done(&b);

	make_pair(&a, &b); /* the peer is gone: an error, not a signal */
	stream_done(&b);
	assert_int_equal(stream_send_preface(&a, soon()), -EPIPE);
	assert_int_equal(stream_send(&a, FRAME_HEART, 0, NULL, 0, soon()), -EPIPE);
	stream_done(&a);
	free(data);
}

static void done_is_safe(void **state)
{
	struct stream s;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	memset(&s, 0, sizeof(s));
	stream_done(&s); /* must not close fd 0 */
	assert_true(fcntl(0, F_GETFD) >= 0 || fd == 0);
	stream_init(&s, fd, STREAM_MAIN, 0);
	stream_done(&s);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	stream_done(&s);
	assert_string_equal(stream_frame_name(FRAME_EPOCH_END), "epoch-end");
	assert_string_equal(stream_frame_name(0), "unknown");
	assert_string_equal(stream_frame_name(0xffff), "unknown");
}

/* It goes to logs and terminals. */
static void words_of_a_peer_are_cleaned_and_cut_off(void **state)
{
	struct frame f = {.length = 6, .data = (const uint8_t *)"a\n\x1b\xe9 z"};
	char text[16];

	stream_text(&f, "it: ", text, sizeof(text));
	assert_string_equal(text, "it: a??? z");
	stream_text(&f, "it: ", text, 8);
	assert_string_equal(text, "it: a??");
	stream_text(&f, "too long", text, 4);
	assert_string_equal(text, "too");
	f.length = 0;
	stream_text(&f, "", text, sizeof(text));
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_stream_is_read),
		cmocka_unit_test(words_of_a_peer_are_cleaned_and_cut_off),
		cmocka_unit_test(every_truncation_is_told_from_the_end),
		cmocka_unit_test(every_bit_flip_is_refused),
		cmocka_unit_test(random_damage_is_refused),
		cmocka_unit_test(signed_lies_are_refused),
		cmocka_unit_test(hostile_lengths_allocate_nothing),
		cmocka_unit_test(every_type_takes_its_longest_frame),
		cmocka_unit_test(order_and_number_of_frames_are_checked),
		cmocka_unit_test(other_sessions_are_refused),
		cmocka_unit_test(prefaces_are_checked),
		cmocka_unit_test(link_kind_must_match),
		cmocka_unit_test(bytes_may_arrive_one_by_one),
		cmocka_unit_test(traffic_flows_both_ways),
		cmocka_unit_test(small_frames_are_one_write),
		cmocka_unit_test(gathered_frames_are_one_write),
		cmocka_unit_test(wrong_sends_write_nothing),
		cmocka_unit_test(failed_writes_stay_failed),
		cmocka_unit_test(done_is_safe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
