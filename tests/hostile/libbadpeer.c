/*
 * A secondary that breaks the rules: one way per connection, and the primary's reaction. Prints
 * "WAY sealed T" when an epoch that is not acknowledged has begun, "WAY acts T" right before it
 * breaks a rule, "WAY over T" when the link is gone; T is CLOCK_REALTIME in ns. Between "sealed"
 * and "acts" nothing may come out of the guest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ft/common/wire.h"
#include "tests/hostile/badpeer.h"
#include "tests/hostile/hostile.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"
#include "vmm/base/loop.h"

#define BEAT_NS	    15000000ull
#define FLOOD_NS    800000000ull
#define FLOOD_BYTES (1u << 20)

void bad_say(const struct peer *p, const char *what)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	printf("%s %s %lld\n", p->way, what, (long long)ts.tv_sec * 1000000000 + ts.tv_nsec);
}

uint64_t bad_soon(void)
{
	return loop_now_ns() + HOSTILE_WAIT_NS;
}

bool bad_answer(struct peer *p, enum frame_type type, uint64_t epoch, const void *data, size_t n)
{
	struct iovec iov = {(void *)data, n};

	return stream_send(&p->main, type, epoch, &iov, n ? 1 : 0, bad_soon()) == 0;
}

void bad_put(int fd, const void *data, size_t n)
{
	struct iovec iov = {(void *)data, n};
	struct chan c = chan_of(fd);

	/* The primary may have gone already, which is what it should do. */
	(void)chan_write(&c, &iov, 1, bad_soon());
}

static void beat(struct peer *p)
{
	struct wire_heart w = {.nonce = ++p->nonce, .echo = p->echo};
	struct iovec iov = {&w, sizeof(w)};

	stream_send(&p->heart, FRAME_HEART, 0, &iov, 1, bad_soon());
	p->beat_ns = loop_now_ns();
}

static void hear(struct peer *p)
{
	struct wire_heart w;
	struct frame f;

	while (stream_recv(&p->heart, &f) == 1)
		if (f.type == FRAME_HEART && f.length == sizeof(w)) {
			memcpy(&w, f.data, sizeof(w));
			p->beats += w.nonce != p->echo;
			p->echo = w.nonce;
		}
}

/* The next frame of the main link within ms, beating meanwhile. False when none came. */
bool bad_next_frame(struct peer *p, unsigned ms)
{
	uint64_t until = loop_now_ns() + ms * 1000000ull;
	struct frame f;

	while (!p->over) {
		struct pollfd fds[2] = {{.fd = p->main.fd, .events = POLLIN},
					{.fd = p->has_heart ? p->heart.fd : -1, .events = POLLIN}};
		int r = stream_recv(&p->main, &f);

		if (p->has_heart && loop_now_ns() - p->beat_ns > BEAT_NS)
			beat(p);
		if (r == 1) {
			p->type = f.type;
			if (f.type == FRAME_EPOCH_BEGIN)
				p->epoch = f.epoch;
			if (f.type == FRAME_EPOCH_END && f.length >= sizeof(p->end))
				memcpy(&p->end, f.data, sizeof(p->end));
			return true;
		}
		p->over = r < 0;
		if (p->over || loop_now_ns() >= until)
			break;
		poll(fds, 2, 5);
		if (p->has_heart && fds[1].revents)
			hear(p);
	}
	return false;
}

bool bad_wait_type(struct peer *p, uint16_t type)
{
	uint64_t until = bad_soon();

	while (!p->over && loop_now_ns() < until)
		if (bad_next_frame(p, 1000) && p->type == type)
			return true;
	return false;
}

/* Take whatever comes for so long. */
void bad_hold(struct peer *p, unsigned ms)
{
	uint64_t until = loop_now_ns() + ms * 1000000ull;

	while (!p->over && loop_now_ns() < until)
		bad_next_frame(p, 5);
}

int bad_accept_one(struct peer *p)
{
	uint64_t until = bad_soon();

	while (loop_now_ns() < until) {
		struct pollfd fds = {.fd = p->lfd, .events = POLLIN};
		int fd = poll(&fds, 1, 1000) > 0 ? chan_accept(p->lfd, NULL) : -1;

		if (fd >= 0)
			return fd;
	}
	return -1;
}

/* A primary that says hello. Connections that a test before left behind are passed over. */
static bool take_hello(struct peer *p)
{
	for (int tries = 0; tries < 8; tries++) {
		int fd = bad_accept_one(p);

		if (fd < 0)
			return false;
		stream_init(&p->main, fd, STREAM_ANY, 0);
		if (bad_next_frame(p, 2000) && p->main.link == STREAM_MAIN &&
		    p->type == FRAME_HELLO)
			return true;
		stream_done(&p->main);
		p->over = false;
	}
	return false;
}

static bool take_heart(struct peer *p)
{
	int fd = bad_accept_one(p);

	if (fd < 0)
		return false;
	stream_init(&p->heart, fd, STREAM_HEART, p->main.session);
	p->heart.got_preface = false; /* it sends one */
	p->has_heart = true;
	return true;
}

bool bad_welcome(struct peer *p)
{
	return bad_answer(p, FRAME_WELCOME, 0, NULL, 0) && take_heart(p);
}

/* In step, an epoch is open and stays without its ack for a while. */
static bool sealed(struct peer *p)
{
	if (!bad_welcome(p) || !bad_wait_type(p, FRAME_EPOCH_BEGIN))
		return false;
	bad_say(p, "sealed");
	bad_hold(p, p->hold_ms);
	bad_say(p, "acts");
	return !p->over;
}

/* An ack as the header h makes it, checksum right. */
static void raw_ack(struct peer *p, struct frame_hdr h)
{
	struct bytes b = {0};

	bytes_frame(&b, h, NULL, 0);
	bad_put(p->main.fd, b.p, b.len);
	bytes_free(&b);
}

static struct frame_hdr ack_header(const struct peer *p)
{
	return (struct frame_hdr){.type = FRAME_ACK,
				  .seq = p->main.send_seq,
				  .epoch = p->epoch,
				  .session = p->main.session};
}

/* --- the ways: false when the primary did not come so far ----------------------------------------
 */

static bool way_honest(struct peer *p)
{
	if (!bad_welcome(p))
		return false;
	for (unsigned n = 0; n < 6; n++)
		if (!bad_wait_type(p, FRAME_EPOCH_END) ||
		    !bad_answer(p, FRAME_ACK, p->epoch, NULL, 0))
			return false;
	stream_done(&p->main);
	p->over = true;
	return true;
}

/*
 * Good for a while; then an epoch with output in it waits for its ack. What is let out with the ack
 * before is out long before the seal, unless the primary was late: then once more.
 */
static bool way_withhold(struct peer *p)
{
	uint64_t acked, took = UINT64_MAX;

	if (!bad_welcome(p))
		return false;
	for (unsigned n = 0; n < 4 || (n < 40 && took > p->epoch_ms * 1100000ull); n++) {
		if (!bad_wait_type(p, FRAME_EPOCH_END) ||
		    !bad_answer(p, FRAME_ACK, p->epoch, NULL, 0))
			return false;
		acked = loop_now_ns();
		if (!bad_wait_type(p, FRAME_EPOCH_BEGIN))
			return false;
		took = loop_now_ns() - acked;
	}
	bad_say(p, "sealed");
	bad_hold(p, p->epoch_ms * 4);
	bad_say(p, "acts");
	if (p->over || !bad_answer(p, FRAME_ACK, p->epoch, NULL, 0) ||
	    !bad_wait_type(p, FRAME_EPOCH_BEGIN))
		return false;
	stream_done(&p->main);
	p->over = true;
	return true;
}

/* The right ack, and once it has been acted on, the same again. */
static bool way_ack_twice_slowly(struct peer *p)
{
	uint64_t epoch;

	if (!sealed(p) || !bad_answer(p, FRAME_ACK, p->epoch, NULL, 0))
		return false;
	epoch = p->epoch;
	bad_hold(p, p->epoch_ms / 4);
	return bad_answer(p, FRAME_ACK, epoch, NULL, 0);
}

static bool way_refuse_binary(struct peer *p)
{
	uint8_t text[4096];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i % 7 ? (char)random_next() : "\033[2J\n\r\0"[i / 7 % 7]);
	return bad_answer(p, FRAME_REFUSE, 0, text, sizeof(text));
}

static bool way_refuse_late(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_REFUSE, 0, "changed my mind", 15);
}

static bool way_welcome_twice(struct peer *p)
{
	return bad_answer(p, FRAME_WELCOME, 0, NULL, 0) && bad_answer(p, FRAME_WELCOME, 0, NULL, 0);
}

static bool way_welcome_late(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_WELCOME, 0, NULL, 0);
}

static bool way_ack_for_hello(struct peer *p)
{
	return bad_answer(p, FRAME_ACK, 1, NULL, 0);
}

static bool way_hello_back(struct peer *p)
{
	uint8_t data[512] = {0};

	return bad_answer(p, FRAME_HELLO, 0, data, sizeof(data));
}

/* The epoch that comes next is known; it has not even begun. */
static bool way_ack_in_sync(struct peer *p)
{
	return bad_welcome(p) && bad_answer(p, FRAME_ACK, 1, NULL, 0);
}

static bool ack_off(struct peer *p, uint64_t by)
{
	return sealed(p) && bad_answer(p, FRAME_ACK, p->epoch + by, NULL, 0);
}

static bool way_ack_next(struct peer *p)
{
	return ack_off(p, 1);
}

static bool way_ack_last(struct peer *p)
{
	return ack_off(p, UINT64_MAX);
}

static bool way_ack_zero(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_ACK, 0, NULL, 0);
}

static bool way_ack_max(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_ACK, UINT64_MAX, NULL, 0);
}

static bool way_ack_high(struct peer *p)
{
	return ack_off(p, 1ull << 32);
}

static bool way_ack_twice(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_ACK, p->epoch, NULL, 0) &&
	       bad_answer(p, FRAME_ACK, p->epoch, NULL, 0);
}

/*
 * The right ack and the one after it, in one piece: between them the next epoch could be sent
 * whole, and nobody could tell that its ack was written before that.
 */
static bool way_ack_ahead(struct peer *p)
{
	struct bytes b = {0};
	struct frame_hdr h;

	if (!sealed(p))
		return false;
	h = ack_header(p);
	bytes_frame(&b, h, NULL, 0);
	h.seq++;
	h.epoch++;
	bytes_frame(&b, h, NULL, 0);
	bad_put(p->main.fd, b.p, b.len);
	bytes_free(&b);
	return true;
}

/* The right ack; in the next epoch the same once more. */
static bool way_ack_again(struct peer *p)
{
	uint64_t old;

	if (!bad_welcome(p) || !bad_wait_type(p, FRAME_EPOCH_END))
		return false;
	old = p->epoch;
	if (!bad_answer(p, FRAME_ACK, old, NULL, 0) || !bad_wait_type(p, FRAME_EPOCH_BEGIN))
		return false;
	bad_say(p, "sealed");
	bad_hold(p, p->hold_ms);
	bad_say(p, "acts");
	return bad_answer(p, FRAME_ACK, old, NULL, 0);
}

static bool way_ack_session(struct peer *p)
{
	if (!sealed(p))
		return false;

	struct frame_hdr h = ack_header(p);

	h.session ^= 1;
	raw_ack(p, h);
	return true;
}

static bool way_ack_sequence(struct peer *p)
{
	if (!sealed(p))
		return false;

	struct frame_hdr h = ack_header(p);

	h.seq++;
	raw_ack(p, h);
	return true;
}

static bool way_ack_checksum(struct peer *p)
{
	if (!sealed(p))
		return false;

	struct frame_hdr h = ack_header(p);

	h.sum = 42;
	bad_put(p->main.fd, &h, sizeof(h));
	return true;
}

static bool way_ack_length(struct peer *p)
{
	if (!sealed(p))
		return false;

	struct frame_hdr h = ack_header(p);

	h.length = UINT32_MAX;
	bad_put(p->main.fd, &h, sizeof(h));
	return true;
}

static bool way_ack_half(struct peer *p)
{
	if (!sealed(p))
		return false;

	struct bytes b = {0};

	bytes_frame(&b, ack_header(p), NULL, 0);
	bad_put(p->main.fd, b.p, b.len - 1);
	bytes_free(&b);
	stream_done(&p->main);
	p->over = true;
	return true;
}

/* Every type that a primary sends, sent back. */
static bool way_echo(struct peer *p)
{
	uint8_t data[64] = {0};

	return sealed(p) && bad_answer(p, FRAME_EPOCH_BEGIN, p->epoch, NULL, 0) &&
	       bad_answer(p, FRAME_EPOCH_END, p->epoch, data, sizeof(struct wire_end));
}

static bool way_bye(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_BYE, 0, NULL, 0);
}

static bool way_hand_over(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_HAND_OVER, 0, NULL, 0);
}

/* Nobody has said goodbye. */
static bool way_done(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_DONE, 0, NULL, 0);
}

/* Nobody has handed over. */
static bool way_runs(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_RUNS, 0, NULL, 0);
}

static bool way_gone(struct peer *p)
{
	return sealed(p) && bad_answer(p, FRAME_GONE, 0, NULL, 0);
}

static bool way_done_in_sync(struct peer *p)
{
	return bad_welcome(p) && bad_answer(p, FRAME_DONE, 0, NULL, 0);
}

static bool way_garbage(struct peer *p)
{
	uint64_t junk[8192];

	if (!sealed(p))
		return false;
	for (unsigned i = 0; i < 8192; i++)
		junk[i] = random_next();
	bad_put(p->main.fd, junk, sizeof(junk));
	return true;
}

void bad_hang_up(struct peer *p)
{
	stream_done(&p->main);
	p->over = true;
}

static bool way_close_at_hello(struct peer *p)
{
	bad_hang_up(p);
	return true;
}

static bool way_close_at_welcome(struct peer *p)
{
	bool r = bad_answer(p, FRAME_WELCOME, 0, NULL, 0);

	bad_hang_up(p);
	return r;
}

static bool way_close_in_sync(struct peer *p)
{
	bool r = bad_welcome(p);

	bad_hang_up(p);
	return r;
}

static bool way_close_in_epoch(struct peer *p)
{
	bool r = sealed(p);

	bad_hang_up(p);
	return r;
}

static bool way_heart_close(struct peer *p)
{
	if (!sealed(p))
		return false;
	stream_done(&p->heart);
	p->has_heart = false;
	return true;
}

static bool heart_says(struct peer *p, enum frame_type type, size_t n)
{
	uint8_t data[4096] = {0};
	struct iovec iov = {data, n};

	return sealed(p) && !stream_send(&p->heart, type, p->epoch, &iov, n ? 1 : 0, bad_soon());
}

static bool way_heart_ack(struct peer *p)
{
	return heart_says(p, FRAME_ACK, 0);
}

static bool way_heart_pages(struct peer *p)
{
	return heart_says(p, FRAME_PAGES, 4096);
}

static bool way_heart_short(struct peer *p)
{
	return heart_says(p, FRAME_HEART, 8);
}

static bool way_heart_garbage(struct peer *p)
{
	uint64_t junk[64];

	if (!sealed(p))
		return false;
	for (unsigned i = 0; i < 64; i++)
		junk[i] = random_next();
	bad_put(p->heart.fd, junk, sizeof(junk));
	return true;
}

/*
 * As fast as it goes, with echoes of everything; then the link ends. Meanwhile the primary's own
 * heart must beat: its loop has more to do than to listen to this one.
 */
static bool way_heart_flood(struct peer *p)
{
	struct frame_hdr h = {.type = FRAME_HEART, .session = p->main.session};
	struct wire_heart w = {0};
	struct bytes b = {0};
	unsigned first;
	uint64_t until;

	if (!sealed(p))
		return false;
	h.seq = p->heart.send_seq;
	hear(p);
	first = p->beats;
	for (until = loop_now_ns() + FLOOD_NS; loop_now_ns() < until;) {
		for (b.len = 0; b.len < FLOOD_BYTES; h.seq++) {
			w = (struct wire_heart){.nonce = h.seq, .echo = h.seq * 77};
			bytes_frame(&b, h, &w, sizeof(w));
		}
		bad_put(p->heart.fd, b.p, b.len);
		hear(p);
	}
	bytes_free(&b);
	if (p->beats - first < 3)
		printf("%s: %u beats of the primary meanwhile\n", p->way, p->beats - first);
	bad_hang_up(p);
	return p->beats - first >= 3;
}

/* It reads and acknowledges nothing any more, and no heart beats. */
static bool way_silent(struct peer *p)
{
	if (!sealed(p))
		return false;
	p->has_heart = false; /* stays open */
	return true;
}

static bool way_no_heart(struct peer *p)
{
	/* The kernel accepts the second connection; nobody is behind it. */
	return bad_answer(p, FRAME_WELCOME, 0, NULL, 0);
}

static bool way_mute(struct peer *p)
{
	return true;
}

static const struct bad_way ways[] = {
	{"honest", way_honest},
	{"withhold", way_withhold},
	{"ack-twice-slowly", way_ack_twice_slowly},
	{"refuse-binary", way_refuse_binary},
	{"refuse-late", way_refuse_late},
	{"welcome-twice", way_welcome_twice},
	{"welcome-late", way_welcome_late},
	{"ack-for-hello", way_ack_for_hello},
	{"hello-back", way_hello_back},
	{"ack-in-sync", way_ack_in_sync},
	{"ack-next", way_ack_next},
	{"ack-last", way_ack_last},
	{"ack-zero", way_ack_zero},
	{"ack-max", way_ack_max},
	{"ack-high", way_ack_high},
	{"ack-twice", way_ack_twice},
	{"ack-ahead", way_ack_ahead},
	{"ack-again", way_ack_again},
	{"ack-session", way_ack_session},
	{"ack-sequence", way_ack_sequence},
	{"ack-checksum", way_ack_checksum},
	{"ack-length", way_ack_length},
	{"ack-half", way_ack_half},
	{"echo", way_echo},
	{"bye", way_bye},
	{"hand-over", way_hand_over},
	{"done", way_done},
	{"runs", way_runs},
	{"gone", way_gone},
	{"done-in-sync", way_done_in_sync},
	{"garbage", way_garbage},
	{"close-at-hello", way_close_at_hello},
	{"close-at-welcome", way_close_at_welcome},
	{"close-in-sync", way_close_in_sync},
	{"close-in-epoch", way_close_in_epoch},
	{"heart-close", way_heart_close},
	{"heart-ack", way_heart_ack},
	{"heart-pages", way_heart_pages},
	{"heart-short", way_heart_short},
	{"heart-garbage", way_heart_garbage},
	{"heart-flood", way_heart_flood},
	{"silent", way_silent},
	{"no-heart", way_no_heart},
	{"mute", way_mute},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* The n-th, or NULL. */
static const struct bad_way *way(unsigned n)
{
	return n < WAYS ? &ways[n] : n - WAYS < bad_ntwins ? &bad_twins[n - WAYS] : NULL;
}

int badpeer_list(void)
{
	for (unsigned i = 0; way(i); i++)
		printf("%s\n", way(i)->name);
	return 0;
}

/* One connection. The primary must be the one that ends it, unless the way did. */
static bool misbehave(struct peer *p, bool (*run)(struct peer *p))
{
	uint64_t until;
	bool ok;

	p->over = p->has_heart = false;
	p->nonce = p->echo = p->epoch = 0;
	if (!take_hello(p)) {
		printf("%s: no primary came\n", p->way);
		return false;
	}
	ok = run(p);
	if (!ok)
		printf("%s: the primary did not come so far\n", p->way);
	for (until = bad_soon(); !p->over && loop_now_ns() < until;)
		bad_next_frame(p, 100);
	if (!p->over)
		printf("%s: the primary keeps the link\n", p->way);
	else
		bad_say(p, "over");
	ok = ok && p->over;
	stream_done(&p->main);
	stream_done(&p->heart);
	stream_done(&p->mirror);
	p->has_heart = p->has_mirror = false;
	return ok;
}

int badpeer_run(const char *listen, unsigned hold_ms, unsigned epoch_ms, char **names, int n)
{
	struct peer p = {.hold_ms = hold_ms, .epoch_ms = epoch_ms};
	struct chan_uri u;
	struct err e = {0};
	bool ok = true;

	if (chan_parse(listen, &u, &e) || (p.lfd = chan_listen(&u, &e)) < 0) {
		fprintf(stderr, "hostile: %s\n", e.msg);
		return 2;
	}
	p.main.fd = p.heart.fd = p.mirror.fd = -1;
	printf("ready\n");
	for (int i = 0; i < n; i++) {
		unsigned w = 0;

		while (way(w) && strcmp(way(w)->name, names[i]))
			w++;
		if (!way(w)) {
			fprintf(stderr, "hostile: no way '%s'\n", names[i]);
			return 2;
		}
		p.way = way(w)->name;
		ok = misbehave(&p, way(w)->run) && ok;
	}
	return !ok;
}
