/*
 * Ways to lie on the mirror, the connection of a twin (--ft colo). The main link and the heart are
 * good all the while: the primary must end the mirror alone, or do without a twin, and epochs go
 * on. Then this side hangs up.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "tests/hostile/badpeer.h"
#include "tests/hostile/hostile.h"
#include "vmm/base/loop.h"
#include "vmm/wire/chan.h"

#define REFUSE_MS 8000u /* the primary has ended the mirror, or does without a twin, by then */
#define FLOOD_NS  800000000ull
#define MUTE_MS	  120000u /* its input is too much for it by then, on the slowest machine */

/* --- a good secondary but for the mirror ------------------------------------------------------ */

static void take_mirror(struct peer *p)
{
	struct pollfd fds = {.fd = p->lfd, .events = POLLIN};
	int fd = poll(&fds, 1, 0) > 0 ? chan_accept(p->lfd, NULL) : -1;

	if (fd < 0)
		return;
	stream_done(&p->mirror);
	stream_init(&p->mirror, fd, STREAM_MIRROR, p->main.session);
	p->mirror.got_preface = false;
	p->has_mirror = true;
}

static void read_mirror(struct peer *p)
{
	struct frame f;
	int r = 0;

	while (p->has_mirror && (r = stream_recv(&p->mirror, &f)) == 1)
		;
	if (r < 0) {
		stream_done(&p->mirror);
		p->has_mirror = false;
	}
}

typedef bool until_fn(struct peer *p);

/* Acks, heartbeats, and the mirror read if it is to be, until that is so. */
static bool serve(struct peer *p, unsigned ms, bool reads, until_fn *until)
{
	uint64_t end = loop_now_ns() + ms * 1000000ull;

	while (!p->over && loop_now_ns() < end) {
		if (bad_next_frame(p, 2) && p->type == FRAME_EPOCH_END &&
		    !bad_answer(p, FRAME_ACK, p->epoch, NULL, 0))
			return false;
		if (!p->has_mirror)
			take_mirror(p);
		else if (reads)
			read_mirror(p);
		if (until && until(p))
			return true;
	}
	return !until && !p->over;
}

static bool has_twin(struct peer *p)
{
	return p->has_mirror && p->type == FRAME_EPOCH_END && p->end.runs;
}

static bool has_none(struct peer *p)
{
	return p->type == FRAME_EPOCH_END && !p->end.runs;
}

static bool is_refused(struct peer *p)
{
	return !p->has_mirror;
}

static bool say(struct peer *p, enum frame_type type, uint64_t epoch, const void *data, size_t n)
{
	struct iovec iov = {(void *)data, n};

	return stream_send(&p->mirror, type, epoch, &iov, n ? 1 : 0, bad_soon()) == 0;
}

/* A twin is to run, and does, it says. */
static bool loaded(struct peer *p)
{
	if (!bad_welcome(p) || !serve(p, 30000, true, has_twin) ||
	    !say(p, FRAME_LOADED, p->epoch, NULL, 0))
		return false;
	bad_say(p, "acts");
	return true;
}

/* Epochs with this secondary as ever; then it goes. */
static bool unharmed(struct peer *p)
{
	uint64_t epoch = p->epoch;
	bool ok = serve(p, 2000, true, NULL);

	ok = ok && p->epoch > epoch;
	if (!ok)
		printf("%s: epoch %llu, %llu before\n", p->way, (unsigned long long)p->epoch,
		       (unsigned long long)epoch);
	bad_hang_up(p);
	return ok;
}

static bool refused(struct peer *p)
{
	if (serve(p, REFUSE_MS, true, is_refused))
		return unharmed(p);
	printf("%s: the primary keeps the mirror\n", p->way);
	return false;
}

/* --- the ways --------------------------------------------------------------------------------- */

static bool way_load(struct peer *p)
{
	if (!bad_welcome(p) || !serve(p, 30000, true, has_twin))
		return false;
	bad_say(p, "acts");
	p->type = 0;
	if (serve(p, REFUSE_MS, true, has_none))
		return unharmed(p);
	printf("%s: the primary waits for a twin\n", p->way);
	return false;
}

/* Its twin runs from each epoch on, as it says at once, but whatever that is given waits. */
static bool says_loaded(struct peer *p)
{
	if (has_twin(p) && p->epoch != p->loaded)
		say(p, FRAME_LOADED, p->loaded = p->epoch, NULL, 0);
	return has_none(p);
}

static bool way_mute(struct peer *p)
{
	if (!loaded(p))
		return false;
	p->loaded = p->epoch;
	if (serve(p, MUTE_MS, false, says_loaded))
		return unharmed(p);
	printf("%s: the primary keeps a twin that takes nothing\n", p->way);
	return false;
}

static bool output(struct peer *p, uint64_t epoch, uint32_t sink, size_t n)
{
	struct {
		struct wire_output w;
		uint8_t data[4096];
	} out = {.w.sink = sink};

	memset(out.data, 'x', sizeof(out.data));
	return say(p, FRAME_OUTPUT, epoch, &out, n);
}

static bool way_ahead(struct peer *p)
{
	return loaded(p) && output(p, p->epoch + 2, 0, 100) && refused(p);
}

static bool way_ahead_far(struct peer *p)
{
	return loaded(p) && output(p, UINT64_MAX, 0, 100) && refused(p);
}

static bool way_loaded_ahead(struct peer *p)
{
	return loaded(p) && say(p, FRAME_LOADED, p->epoch + 1, NULL, 0) && refused(p);
}

static bool way_loaded_twice(struct peer *p)
{
	return loaded(p) && say(p, FRAME_LOADED, p->epoch, NULL, 0) && refused(p);
}

static bool way_kind(struct peer *p)
{
	return loaded(p) && say(p, FRAME_ACK, p->epoch, NULL, 0) && refused(p);
}

static bool raw(struct peer *p, struct frame_hdr h, bool right_sum, size_t less)
{
	struct bytes b = {0};

	if (right_sum)
		bytes_frame(&b, h, NULL, 0);
	else
		bytes_add(&b, &h, sizeof(h));
	bad_put(p->mirror.fd, b.p, b.len - less);
	bytes_free(&b);
	return true;
}

static struct frame_hdr header(const struct peer *p)
{
	return (struct frame_hdr){.type = FRAME_LOADED,
				  .seq = p->mirror.send_seq,
				  .epoch = p->epoch,
				  .session = p->mirror.session};
}

static bool way_session(struct peer *p)
{
	struct frame_hdr h;

	if (!loaded(p))
		return false;
	h = header(p);
	h.session ^= 1;
	return raw(p, h, true, 0) && refused(p);
}

static bool way_sequence(struct peer *p)
{
	struct frame_hdr h;

	if (!loaded(p))
		return false;
	h = header(p);
	h.seq++;
	return raw(p, h, true, 0) && refused(p);
}

static bool way_length(struct peer *p)
{
	struct frame_hdr h;

	if (!loaded(p))
		return false;
	h = header(p);
	h.type = FRAME_OUTPUT;
	h.length = UINT32_MAX;
	return raw(p, h, false, 0) && refused(p);
}

/* Half a frame, and the end. */
static bool way_cut(struct peer *p)
{
	if (!loaded(p))
		return false;
	raw(p, header(p), true, 7);
	stream_done(&p->mirror);
	p->has_mirror = false;
	return unharmed(p);
}

/* Half a frame, and nothing more: what the primary waits for comes too late, and is given up. */
static bool way_half(struct peer *p)
{
	return loaded(p) && raw(p, header(p), true, 7) && unharmed(p);
}

static bool way_garbage(struct peer *p)
{
	uint64_t junk[4096];

	for (unsigned i = 0; i < 4096; i++)
		junk[i] = random_next();
	if (!loaded(p))
		return false;
	bad_put(p->mirror.fd, junk, sizeof(junk));
	return refused(p);
}

/* What is malformed inside is a difference, each time. */
static bool way_malformed(struct peer *p)
{
	struct wire_apart w = {.why = 99};

	for (unsigned i = 0; i < 5; i++) {
		if (!(i ? (p->type = 0, serve(p, 30000, true, has_twin)) &&
				      say(p, FRAME_LOADED, p->epoch, NULL, 0)
			: loaded(p)))
			return false;
		if (!(i == 0   ? output(p, p->epoch + 1, 0, 3)
		      : i == 1 ? output(p, p->epoch + 1, 99, 100)
		      : i == 2 ? say(p, FRAME_APART, p->epoch + 1, &w, sizeof(w))
		      : i == 3 ? say(p, FRAME_READ, p->epoch + 1, &w, 3)
			       : say(p, FRAME_MAPPED, p->epoch + 1, NULL, 0)))
			return false;
	}
	return unharmed(p);
}

/* Its own heart is to beat, whatever the primary takes. */
static bool takes(const struct peer *p)
{
	struct pollfd fds = {.fd = p->mirror.fd, .events = POLLOUT};

	return p->has_mirror && poll(&fds, 1, 0) > 0;
}

/* As fast as it goes; the primary's own heart beats meanwhile. */
static bool way_flood(struct peer *p)
{
	uint64_t keys[64], until;
	unsigned first;

	if (!loaded(p))
		return false;
	first = p->beats;
	for (unsigned i = 0; i < 64; i++)
		keys[i] = random_next();
	for (until = loop_now_ns() + FLOOD_NS; p->has_mirror && loop_now_ns() < until;) {
		for (unsigned i = 0; i < 100 && takes(p); i++)
			if (!(i % 2 ? output(p, p->epoch + 1, (uint32_t)random_below(4),
					     4 + random_below(2000))
				    : say(p, FRAME_READ, p->epoch + 1, keys, sizeof(keys))))
				break;
		serve(p, 1, true, NULL);
	}
	if (p->beats - first < 3)
		printf("%s: %u beats of the primary meanwhile\n", p->way, p->beats - first);
	return p->beats - first >= 3 && unharmed(p);
}

static bool way_close(struct peer *p)
{
	if (!loaded(p))
		return false;
	stream_done(&p->mirror);
	p->has_mirror = false;
	return unharmed(p);
}

const struct bad_way bad_twins[] = {
	{"twin-load", way_load},
	{"twin-ahead", way_ahead},
	{"twin-ahead-far", way_ahead_far},
	{"twin-loaded-ahead", way_loaded_ahead},
	{"twin-loaded-twice", way_loaded_twice},
	{"twin-kind", way_kind},
	{"twin-session", way_session},
	{"twin-sequence", way_sequence},
	{"twin-length", way_length},
	{"twin-cut", way_cut},
	{"twin-half", way_half},
	{"twin-garbage", way_garbage},
	{"twin-malformed", way_malformed},
	{"twin-flood", way_flood},
	{"twin-close", way_close},
	{"twin-mute", way_mute},
};
const unsigned bad_ntwins = sizeof(bad_twins) / sizeof(bad_twins[0]);
