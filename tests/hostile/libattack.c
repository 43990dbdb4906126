/*
 * A primary that breaks the rules. Each attack is a number of sessions; a session is judged by the
 * acks it got, and by the next one being welcomed: the secondary lives and listens again.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/hostile/hostile.h"
#include "vmm/base/hash.h"
#include "vmm/base/loop.h"

#define SAMPLES 16 /* random sessions of an attack, times scale */

void attack_fail(struct attack *a, const char *fmt, ...)
{
	va_list ap;

	printf("  %s, session %u: ", a->name, a->sessions);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	a->failed = true;
}

/*
 * A secondary that still tidies up after the session before drops the connection without a word:
 * then again, until it listens.
 */
static bool play_when_ready(struct attack *a, const struct bytes *b, bool must_welcome,
			    bool in_turns, struct call *c)
{
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS;

	do {
		if (!call_play(a->uri, b, a->tape.preface.session, tape_first_epoch(&a->tape),
			       in_turns, c))
			return false;
	} while (must_welcome && !c->welcomed && !c->refusal[0] && loop_now_ns() < until);
	return true;
}

void attack_play(struct attack *a, const struct bytes *b, unsigned max_acks, bool exact,
		 bool must_welcome)
{
	struct call c;

	a->sessions++;
	if (!play_when_ready(a, b, must_welcome, exact, &c)) {
		attack_fail(a, "the secondary does not end the session");
		return;
	}
	a->acks += c.acks;
	if (must_welcome && !c.welcomed)
		attack_fail(a, "not welcomed: %s", c.refusal);
	if (!must_welcome && c.welcomed)
		attack_fail(a, "welcomed");
	if (!c.acks_in_order)
		attack_fail(a, "acks of wrong epochs");
	if (c.acks > max_acks || (exact && c.acks != max_acks))
		attack_fail(a, "%u acks, %s%u expected: %s", c.acks, exact ? "" : "at most ",
			    max_acks, c.refusal);
}

void attack_tape(struct attack *a, const struct tape *t, unsigned max_acks, bool exact)
{
	struct bytes b = {0};

	tape_write(t, &b);
	attack_play(a, &b, max_acks, exact, true);
	bytes_free(&b);
}

/* The right session, to the end: whatever was before, this secondary can still protect. */
void attack_golden(struct attack *a)
{
	attack_tape(a, &a->tape, tape_epochs(&a->tape, a->tape.n), true);
}

/* Cut behind each frame (behind some of them, when there are many). */
static void attack_prefix(struct attack *a)
{
	unsigned step = a->tape.n / (40 * a->scale) + 1;

	for (unsigned n = 1; n < a->tape.n; n += step) {
		struct tape t;

		tape_copy(&t, &a->tape);
		while (t.n > n)
			tape_remove(&t, t.n - 1);
		attack_tape(a, &t, tape_epochs(&t, t.n), true);
		tape_free(&t);
	}
}

/* The frame in which byte `at` lies; tape.n behind the last. */
static unsigned frame_of(const struct tape *t, size_t at)
{
	size_t end = sizeof(t->preface);
	unsigned i = 0;

	for (; i < t->n; i++) {
		end += sizeof(t->f[i].h) + t->f[i].h.length;
		if (at < end)
			break;
	}
	return i;
}

static size_t hello_end(const struct tape *t)
{
	return sizeof(t->preface) + sizeof(t->f[0].h) + t->f[0].h.length;
}

static size_t random_byte(const struct tape *t, size_t len)
{
	return hello_end(t) + random_below(len - hello_end(t));
}

static void attack_cut(struct attack *a)
{
	struct bytes b = {0};
	size_t whole;

	tape_write(&a->tape, &b);
	whole = b.len;
	for (unsigned i = 0; i < SAMPLES * a->scale; i++) {
		b.len = random_byte(&a->tape, whole);
		attack_play(a, &b, tape_epochs(&a->tape, frame_of(&a->tape, b.len)), true, true);
	}
	for (b.len = 0; b.len < hello_end(&a->tape); b.len += 1 + b.len / 3)
		attack_play(a, &b, 0, true, false);
	bytes_free(&b);
}

/* One bit on the wire: the checksum sees it. */
static void attack_flip(struct attack *a)
{
	struct bytes b = {0};

	tape_write(&a->tape, &b);
	for (unsigned i = 0; i < SAMPLES * 2 * a->scale; i++) {
		size_t at = i % 2 ? random_byte(&a->tape, b.len) : 0;
		unsigned bit = (unsigned)random_below(8), f;

		if (!at) { /* in a header */
			f = 1 + (unsigned)random_below(a->tape.n - 1);
			for (at = sizeof(a->tape.preface); f; f--)
				at += sizeof(struct frame_hdr) + a->tape.f[f - 1].h.length;
			at += random_below(sizeof(struct frame_hdr));
		}
		b.p[at] ^= (uint8_t)(1u << bit);
		attack_play(a, &b, tape_epochs(&a->tape, frame_of(&a->tape, at)), true, true);
		b.p[at] ^= (uint8_t)(1u << bit);
	}
	bytes_free(&b);
}

static void change_bytes(struct shot *s)
{
	static const uint64_t special[] = {0,	       1,	   1ull << 31, 1ull << 32,
					   1ull << 63, UINT32_MAX, UINT64_MAX};
	uint32_t at = (uint32_t)random_below(random_below(2) ? s->h.length : 48);

	if (at >= s->h.length)
		return;
	if (random_below(3))
		s->data[at] ^= (uint8_t)(1u << random_below(8));
	else if (s->h.length - at >= 8)
		memcpy(s->data + at, &special[random_below(7)], 1ull << random_below(4));
}

/* Content changed and signed again: refused, or another session that is as good. */
static void attack_resign(struct attack *a)
{
	for (unsigned i = 0; i < SAMPLES * 4 * a->scale; i++) {
		struct tape t;

		tape_copy(&t, &a->tape);
		for (uint64_t n = 1 + random_below(3); n; n--) {
			struct shot *s = &t.f[1 + random_below(t.n - 1)];

			if (random_below(8) == 0)
				tape_resize(s, (uint32_t)random_below(s->h.length + 100));
			else
				change_bytes(s);
		}
		attack_tape(a, &t, tape_epochs(&t, t.n), false);
		tape_free(&t);
	}
}

/* One thing wrong inside an epoch, the rest of the session right. */
static void attack_parts(struct attack *a)
{
	static const char *const kinds[] = {"page", "log",     "state",	 "count", "skip", "type",
					    "end",  "session", "before", "after", "early"};

	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		unsigned end = tape_find(&a->tape, 0, FRAME_EPOCH_END), epoch = 1;
		bool done = false;

		/* Not every epoch has frames of every kind. */
		for (; !done && epoch < tape_epochs(&a->tape, a->tape.n); epoch++) {
			unsigned begin = tape_find(&a->tape, end, FRAME_EPOCH_BEGIN);
			struct tape t;

			end = tape_find(&a->tape, begin, FRAME_EPOCH_END);
			tape_copy(&t, &a->tape);
			done = tape_damage(&t, kinds[k], begin, end);
			if (done)
				attack_tape(a, &t, epoch + !strcmp(kinds[k], "after"), true);
			tape_free(&t);
		}
		if (!done)
			attack_fail(a, "the recording has no frame for '%s'", kinds[k]);
	}
}

/* An end without a state before it is at the wrong place, whatever else the epoch has. */
static void attack_stateless(struct attack *a)
{
	struct tape t;

	tape_copy(&t, &a->tape);
	tape_remove(&t, tape_find(&t, 1, FRAME_STATE));
	attack_tape(a, &t, 0, true);
	tape_free(&t);
}

/* Frames missing, doubled, exchanged; numbered anew, or as they were. */
static void attack_order(struct attack *a)
{
	attack_stateless(a);
	for (unsigned i = 0; i < SAMPLES * 3 * a->scale; i++) {
		unsigned at = 1 + (unsigned)random_below(a->tape.n - 2), with = at + 1, intact;
		bool raw = i / 3 % 2;
		struct tape t;

		tape_copy(&t, &a->tape);
		for (unsigned f = 0; raw && f < t.n; f++)
			t.f[f].raw = true;
		if (i % 3 == 0)
			tape_remove(&t, at);
		else if (i % 3 == 1)
			tape_insert(&t, at, &a->tape.f[at]);
		else
			tape_swap(&t, at, with = at + 1 + (unsigned)random_below(t.n - at - 1));
		intact = tape_epochs(&a->tape, at);
		/* Numbered as they were: not one frame more is taken. */
		attack_tape(a, &t,
			    raw ? intact + (i % 3 == 1 && t.f[at].h.type == FRAME_EPOCH_END)
				: tape_epochs(&t, t.n),
			    raw);
		tape_free(&t);
	}
}

/* All frames from the second epoch on say another number. */
static void attack_epochs(struct attack *a)
{
	static const uint64_t by[] = {1, 2, UINT64_MAX, 1ull << 32, 1ull << 63};
	uint64_t first = tape_first_epoch(&a->tape);

	for (unsigned i = 0; i < sizeof(by) / sizeof(by[0]); i++) {
		struct tape t;

		tape_copy(&t, &a->tape);
		for (unsigned f = 0; f < t.n; f++)
			if (t.f[f].h.epoch > first)
				t.f[f].h.epoch += by[i];
		attack_tape(a, &t, 1, true);
		tape_free(&t);
	}
}

/* The first epoch over again at the end: its numbers, or the next ones, which make it another one.
 */
static void attack_replay(struct attack *a)
{
	unsigned begin = tape_find(&a->tape, 0, FRAME_EPOCH_BEGIN);
	unsigned end = tape_find(&a->tape, begin, FRAME_EPOCH_END);
	unsigned total = tape_epochs(&a->tape, a->tape.n);
	struct tape t;

	tape_copy(&t, &a->tape);
	while (t.f[t.n - 1].h.type != FRAME_EPOCH_END)
		tape_remove(&t, t.n - 1);
	for (unsigned i = begin; i <= end; i++)
		tape_insert(&t, t.n, &a->tape.f[i]);
	attack_tape(a, &t, total, true);
	for (unsigned i = 0; i < t.n; i++)
		t.f[i].raw = true; /* the very bytes */
	attack_tape(a, &t, total, true);
	tape_free(&t);
}

/* Frames of another session, a session that is none, and one that the preface does not name. */
static void attack_session(struct attack *a)
{
	unsigned epochs = tape_epochs(&a->tape, a->tape.n);
	struct bytes b = {0};
	struct tape t;

	tape_copy(&t, &a->tape);
	for (unsigned i = 0; i < SAMPLES / 2; i++) {
		unsigned at = 1 + (unsigned)random_below(t.n - 1);

		t.f[at].h.session = random_next();
		attack_tape(a, &t, tape_epochs(&t, at), true);
		t.f[at].h.session = t.preface.session;
	}
	for (unsigned i = 0; i < 3; i++) { /* preface of one, frames of another */
		b.len = 0;
		bytes_preface(&b, STREAM_MAIN, i ? random_next() | 1 : 0);
		for (unsigned f = 0; f < 3; f++)
			bytes_frame(&b, t.f[f].h, t.f[f].data, t.f[f].h.length);
		attack_play(a, &b, 0, true, false);
	}
	for (unsigned link = 0; link < 6; link++) {
		if (link == STREAM_MAIN)
			continue;
		b.len = 0;
		bytes_preface(&b, link, t.preface.session);
		bytes_frame(&b, t.f[0].h, t.f[0].data, t.f[0].h.length);
		attack_play(a, &b, 0, true, false);
	}
	attack_tape(a, &t, epochs, true);
	bytes_free(&b);
	tape_free(&t);
}

/* Headers that are wrong where a right checksum does not help. */
static void attack_header(struct attack *a)
{
	static const uint32_t lengths[] = {UINT32_MAX, 1u << 31, STREAM_MAX_FRAME + 1, 4u << 20,
					   2u << 20};
	static const uint16_t types[] = {0, FRAME_TYPE_MAX, FRAME_TYPE_MAX + 1, 255, 65535};
	size_t hello = hello_end(&a->tape);
	struct bytes b = {0}, out = {0};

	tape_write(&a->tape, &b);
	for (unsigned i = 0; i < 15; i++) {
		struct frame_hdr h = a->tape.f[1].h;
		size_t at;

		h.seq = 1;
		if (i < 5)
			h.length = lengths[i];
		else if (i < 10)
			h.type = types[i - 5];
		else
			h.flags = (uint16_t)(1u << (i - 10) * 3);
		h.sum = 0;
		out.len = 0;
		bytes_add(&out, b.p, hello);
		at = out.len;
		bytes_add(&out, &h, sizeof(h));
		bytes_add(&out, a->tape.f[1].data, a->tape.f[1].h.length);
		h.sum = XXH3_64bits(out.p + at, out.len - at);
		memcpy(out.p + at, &h, sizeof(h));
		attack_play(a, &out, 0, true, true);
	}
	bytes_free(&b);
	bytes_free(&out);
}

static void attack_garbage(struct attack *a)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct bytes b = {0};

	bytes_add(&b, http, sizeof(http));
	attack_play(a, &b, 0, true, false);
	for (unsigned i = 0; i < SAMPLES; i++) {
		size_t n = random_below(1u << 17);

		b.len = 0;
		if (i % 2)
			bytes_preface(&b, i % 4 == 1 ? STREAM_MAIN : STREAM_HEART,
				      random_next() | 1);
		for (size_t k = 0; k < n; k += 8) {
			uint64_t v = random_next();

			bytes_add(&b, &v, 8);
		}
		attack_play(a, &b, 0, true, false);
	}
	bytes_free(&b);
}

/* --- running them --------------------------------------------------------------------------------
 */

static const struct {
	const char *name;
	void (*run)(struct attack *a);
} attacks[] = {
	{"golden", attack_golden},   {"prefix", attack_prefix}, {"cut", attack_cut},
	{"flip", attack_flip},	     {"resign", attack_resign}, {"order", attack_order},
	{"parts", attack_parts},     {"epochs", attack_epochs}, {"replay", attack_replay},
	{"session", attack_session}, {"header", attack_header}, {"garbage", attack_garbage},
	{"hello", attack_hello},     {"fdt", attack_fdt},	{"heart", attack_heart},
	{"second", attack_second},   {"silent", attack_silent}, {"lone-hello", attack_lone_hello},
};

int attack_list(void)
{
	for (unsigned i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
		puts(attacks[i].name);
	return 0;
}

static bool is_named(const char *name, char **names, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return true;
	return n == 0;
}

int attack_run(const char *uri, const char *tape, unsigned scale, char **names, int n)
{
	struct attack a = {.uri = uri, .scale = scale ? scale : 1};
	bool failed = false;

	tape_load(&a.tape, tape);
	for (unsigned i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
		uint64_t begin = loop_now_ns();

		if (!is_named(attacks[i].name, names, n))
			continue;
		a.name = attacks[i].name;
		a.sessions = a.acks = 0;
		a.failed = false;
		attacks[i].run(&a);
		attack_golden(&a);
		printf("%s %s: %u sessions, %u acks, %.1f s\n", a.failed ? "not ok" : "ok", a.name,
		       a.sessions, a.acks, (double)(loop_now_ns() - begin) / 1e9);
		failed = failed || a.failed;
	}
	tape_free(&a.tape);
	return failed;
}

/* --- one session ---------------------------------------------------------------------------------
 */

/*
 * Damage the epoch of that number; when a guest that waited has left it without such a frame, the
 * next one that has it (of the first: its sync, as nothing is committed then either). Its end, or
 * t->n.
 */
static unsigned damage_epoch(struct tape *t, const char *kind, unsigned epoch)
{
	unsigned begin = 0, end;

	for (unsigned n = 0; n <= epoch; n++)
		begin = tape_find(t, begin + 1, FRAME_EPOCH_BEGIN);
	do {
		end = tape_find(t, begin, FRAME_EPOCH_END);
		if (end < t->n && tape_damage(t, kind, begin, end))
			return end;
		if (end < t->n && !epoch && tape_damage(t, kind, 0, begin))
			return end; /* a first epoch that brings no page: one of the sync's */
		begin = tape_find(t, begin + 1, FRAME_EPOCH_BEGIN);
	} while (epoch && begin < t->n);
	return t->n;
}

int attack_once(const char *uri, const char *path, const char *kind, unsigned epoch)
{
	struct tape t;
	struct bytes b = {0};
	unsigned end;
	struct call c;

	tape_load(&t, path);
	end = damage_epoch(&t, kind, epoch);
	if (end >= t.n) {
		fprintf(stderr, "hostile: no damage '%s' in epoch %u\n", kind, epoch);
		return 2;
	}
	while (t.n > end + 1)
		tape_remove(&t, t.n - 1);
	tape_write(&t, &b);
	if (!strcmp(kind, "cut"))
		b.len -= 20;
	if (!strcmp(kind, "flip"))
		b.p[b.len - 10] ^= 4;
	if (!call_play(uri, &b, t.preface.session, tape_first_epoch(&t), true, &c) ||
	    !c.acks_in_order)
		return 1;
	printf("%u acks, last epoch %llu, refusal '%s'\n", c.acks,
	       (unsigned long long)(tape_first_epoch(&t) + c.acks - 1), c.refusal);
	bytes_free(&b);
	tape_free(&t);
	return 0;
}
