/* Streams on a channel that splits, stalls, fails and ends in every place. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/libmockchan.h"
#include "tests/unit/libwire.h"
#include "vmm/base/loop.h"

#define FRAMES 5

/* Small frames, which are one write, and large ones of several parts, around the limit of 512. */
static const struct {
	uint16_t type;
	uint32_t length;
} frames[FRAMES] = {{FRAME_EPOCH_BEGIN, 0},
		    {FRAME_PAGES, 472},
		    {FRAME_PAGES, 473},
		    {FRAME_STATE, 1500},
		    {FRAME_ACK, 8}};

static uint8_t data[1500];
static struct mock_chan mock;

struct golden {
	struct wire w;
	size_t ends[FRAMES + 1]; /* of the preface, of each frame */
};

static void golden_init(struct golden *g)
{
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 131 + (i >> 8) + 7);
	memset(g, 0, sizeof(*g));
	wire_preface(&g->w, STREAM_VERSION, STREAM_MAIN, WIRE_SESSION);
	g->ends[0] = g->w.len;
	for (unsigned i = 0; i < FRAMES; i++) {
		wire_frame(&g->w, frames[i].type, data, frames[i].length);
		g->ends[i + 1] = g->w.len;
	}
}

/* --- reading ---------------------------------------------------------------------------------- */

/* All that comes, and how often there was nothing; until anything but a frame or nothing. */
static int receive(struct stream *s, unsigned *ret_frames, unsigned *ret_idle)
{
	struct frame f;
	int r;

	*ret_frames = *ret_idle = 0;
	while ((r = stream_recv(s, &f)) >= 0 && *ret_idle < 10000) {
		if (!r) {
			(*ret_idle)++;
			continue;
		}
		assert_true(*ret_frames < FRAMES);
		assert_int_equal(f.type, frames[*ret_frames].type);
		assert_int_equal(f.length, frames[*ret_frames].length);
		assert_memory_equal(f.data, data, f.length);
		(*ret_frames)++;
	}
	return r;
}

static void begin_reading(struct stream *s, const struct golden *g, bool blocking)
{
	struct chan c = mock_chan_open(&mock);

	c.blocking = blocking;
	mock_chan_feed(&mock, g->w.p, g->w.len);
	mock.read_error = 0;
	stream_init_on(s, &c, STREAM_MAIN, 0);
}

static void end(struct stream *s)
{
	assert_int_equal(mock.closed, 0);
	stream_done(s);
	assert_int_equal(mock.closed, 1);
	stream_done(s);
	assert_int_equal(mock.closed, 1);
	mock_chan_done(&mock);
}

static void every_split_is_read(void **state)
{
	struct golden g;
	struct stream s;
	unsigned n, idle;

	golden_init(&g);
	for (size_t at = 0; at <= g.w.len; at++) {
		begin_reading(&s, &g, false);
		mock.stop_at = at;
		assert_int_equal(receive(&s, &n, &idle), -EPIPE);
		assert_int_equal(n, FRAMES);
		assert_true(idle >= 1);
		end(&s);
	}
	for (size_t piece = 1; piece <= g.w.len; piece++)
		for (int blocking = 0; blocking < 2; blocking++) {
			begin_reading(&s, &g, blocking);
			mock.give = piece;
			assert_int_equal(receive(&s, &n, &idle), -EPIPE);
			assert_int_equal(n, FRAMES);
			/* A short read says that there is no more; a blocking one says nothing. */
			assert_int_equal(idle > 0, !blocking);
			end(&s);
		}
	wire_free(&g.w);
}

/* "Nothing now" is said when there is nothing behind, and of a full read nobody knows. */
static void a_full_read_may_have_more_behind_it(void **state)
{
	const unsigned many = 10000; /* small ones, more than is read at once */
	unsigned n = 0, idle = 0;
	struct wire w = {0};
	struct golden g;
	struct stream s;
	struct frame f;
	int r;

	wire_preface(&w, STREAM_VERSION, STREAM_MAIN, WIRE_SESSION);
	for (unsigned i = 0; i < many; i++)
		wire_frame(&w, FRAME_ACK, &i, sizeof(i));
	g.w = w;
	begin_reading(&s, &g, false);
	for (; (r = stream_recv(&s, &f)) >= 0; n += r) {
		assert_int_equal(n == many, !r);
		idle += !r;
	}
	assert_int_equal(r, -EPIPE);
	assert_int_equal(n, many);
	assert_int_equal(idle, 1);
	assert_true(mock.reads > 5);
	end(&s);
	wire_free(&w);
}

static void nothing_there_is_not_an_end(void **state)
{
	struct golden g;
	struct stream s;
	struct frame f;

	golden_init(&g);
	begin_reading(&s, &g, false);
	mock.nin = g.ends[1] - 1;
	mock.read_error = -EAGAIN;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(stream_recv(&s, &f), 0);
	mock.nin = g.w.len;
	mock.read_error = 0;
	assert_int_equal(stream_recv(&s, &f), 1);
	end(&s);
	wire_free(&g.w);
}

/* What was whole before is told first; the end of a stream is one only between frames. */
static void every_place_may_be_the_last(void **state)
{
	struct golden g;
	struct stream s;
	unsigned n, idle, whole = 0;
	struct frame f;

	golden_init(&g);
	for (size_t at = 0; at < g.w.len; at++) {
		bool between = at == 0 || at == g.ends[whole];

		while (whole < FRAMES && g.ends[whole + 1] <= at)
			whole++;
		between |= at == g.ends[whole];
		begin_reading(&s, &g, false);
		mock.fail_read_at = at;
		assert_int_equal(receive(&s, &n, &idle), between ? -EPIPE : -EBADMSG);
		assert_int_equal(n, whole);
		assert_int_equal(stream_recv(&s, &f), between ? -EPIPE : -EBADMSG);
		end(&s);
		begin_reading(&s, &g, false);
		mock.fail_read_at = at;
		mock.read_error = -ECONNRESET;
		assert_int_equal(receive(&s, &n, &idle), -ECONNRESET);
		assert_int_equal(n, whole);
		end(&s);
	}
	wire_free(&g.w);
}

/* --- writing ---------------------------------------------------------------------------------- */

static int send_frame(struct stream *s, unsigned i, uint64_t deadline_ns)
{
	uint32_t a = frames[i].length / 3, b = frames[i].length - a;
	struct iovec iov[4] = {{data, a}, {NULL, 0}, {data + a, b}, {data, 0}};

	return stream_send(s, frames[i].type, 1000 + frames[i].type, iov, 4, deadline_ns);
}

/* Until one fails. */
static int send_all(struct stream *s, uint64_t deadline_ns)
{
	int r = stream_send_preface(s, deadline_ns);

	for (unsigned i = 0; i < FRAMES && !r; i++)
		r = send_frame(s, i, deadline_ns);
	return r;
}

static void begin_writing(struct stream *s)
{
	struct chan c = mock_chan_open(&mock);

	stream_init_on(s, &c, STREAM_MAIN, WIRE_SESSION);
}

static uint64_t soon(void)
{
	return mock.now_ns + 20000000000ull;
}

static void sent_as(const struct golden *g, size_t len)
{
	assert_int_equal(mock.nsent, len);
	assert_memory_equal(mock.sent, g->w.p, len);
}

static void every_split_is_written(void **state)
{
	struct golden g;
	struct stream s;

	golden_init(&g);
	begin_writing(&s);
	assert_int_equal(send_all(&s, soon()), 0);
	sent_as(&g, g.w.len);
	assert_int_equal(mock.writes, FRAMES + 1);
	assert_int_equal(mock.waits, 0);
	end(&s);
	for (size_t n = 1; n <= g.w.len; n++) {
		begin_writing(&s);
		mock.take = n; /* pieces */
		assert_int_equal(send_all(&s, soon()), 0);
		sent_as(&g, g.w.len);
		assert_int_equal(mock.waits, 0);
		end(&s);
		begin_writing(&s);
		mock.room = n; /* one stall */
		mock.stall_ns = 1000;
		assert_int_equal(send_all(&s, soon()), 0);
		sent_as(&g, g.w.len);
		assert_int_equal(mock.waits, n < g.w.len);
		assert_int_equal(s.sent_bytes, g.w.len);
		end(&s);
	}
	wire_free(&g.w);
}

/* Nobody knows how much of it the peer has: not a byte more is written, whoever asks. */
static void every_write_may_fail(void **state)
{
	static const int errors[] = {-EPIPE, -ECONNRESET, -EIO};
	struct golden g;
	struct stream s;

	golden_init(&g);
	for (size_t at = 0; at < g.w.len; at++) {
		int error = errors[at % 3];

		begin_writing(&s);
		mock.fail_write_at = at;
		mock.write_error = error;
		assert_int_equal(send_all(&s, soon()), error);
		sent_as(&g, at);
		mock.fail_write_at = MOCK_NEVER;
		assert_int_equal(send_frame(&s, 0, soon()), error);
		assert_int_equal(stream_send_preface(&s, soon()), error);
		assert_int_equal(mock.nsent, at);
		end(&s);
	}
	wire_free(&g.w);
}

static void every_write_may_stall(void **state)
{
	struct golden g;
	struct stream s;

	golden_init(&g);
	for (size_t at = 0; at < g.w.len; at++) {
		begin_writing(&s);
		mock.room = at;
		mock.stall_ns = 30000000000ull;
		assert_int_equal(send_all(&s, soon()), -ETIMEDOUT);
		sent_as(&g, at);
		mock.room = MOCK_NEVER;
		assert_int_equal(send_frame(&s, 0, soon()), -ETIMEDOUT);
		assert_int_equal(mock.nsent, at);
		end(&s);
	}
	wire_free(&g.w);
}

/* However little it takes each time, a frame has one deadline. */
static void a_trickle_does_not_renew_the_deadline(void **state)
{
	struct stream s;
	uint64_t until;

	begin_writing(&s);
	mock.take = mock.room = mock.more = 1;
	mock.stall_ns = 10000000; /* 100 bytes a second */
	until = mock.now_ns + 1000000000;
	assert_int_equal(stream_send_preface(&s, until), 0);
	assert_int_equal(send_frame(&s, 3, until), -ETIMEDOUT);
	assert_true(mock.nsent <= 101);
	assert_true(mock.now_ns <= until);
	end(&s);
}

/* --- the rest --------------------------------------------------------------------------------- */

static void what_a_channel_cannot_is_left_out(void **state)
{
	struct chan c = mock_chan_open(&mock);
	const struct chan_ops few = {.read = c.ops->read,
				     .write = c.ops->write,
				     .wait = c.ops->wait,
				     .close = c.ops->close};

	mock.rate = 77;
	chan_shut(&c);
	assert_int_equal(chan_rate(&c), 77);
	assert_int_equal(mock.shut, 1);
	c.ops = &few;
	chan_shut(&c);
	assert_int_equal(chan_rate(&c), 0);
	assert_int_equal(mock.shut, 1);
	chan_close(&c);
	assert_int_equal(mock.closed, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_split_is_read),
		cmocka_unit_test(a_full_read_may_have_more_behind_it),
		cmocka_unit_test(nothing_there_is_not_an_end),
		cmocka_unit_test(every_place_may_be_the_last),
		cmocka_unit_test(every_split_is_written),
		cmocka_unit_test(every_write_may_fail),
		cmocka_unit_test(every_write_may_stall),
		cmocka_unit_test(a_trickle_does_not_renew_the_deadline),
		cmocka_unit_test(what_a_channel_cannot_is_left_out),
	};

	return cmocka_run_group_tests_name("stream_chan", tests, NULL, NULL);
}
