/* Attacks that need more than one connection, or one that stays open. */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ft/common/wire.h"
#include "tests/hostile/hostile.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"
#include "vmm/base/loop.h"

static void put(int fd, const struct bytes *b)
{
	struct iovec iov = {b->p, b->len};
	struct chan c = chan_of(fd);

	/* It may be closed already: that is what these attacks are about. */
	(void)chan_write(&c, &iov, 1, loop_now_ns() + HOSTILE_WAIT_NS);
}

/* A connection with a preface and one frame. */
static int open_with(struct attack *a, uint32_t link, uint64_t session, uint16_t type,
		     const void *data, uint32_t n)
{
	struct bytes b = {0};
	int fd = call_connect(a->uri);

	if (fd < 0)
		return -1;
	bytes_preface(&b, link, session);
	if (type)
		bytes_frame(&b, (struct frame_hdr){.type = type, .session = session}, data, n);
	put(fd, &b);
	bytes_free(&b);
	return fd;
}

/* The other side closes; what it says before goes to c. */
static bool wait_end(int fd, uint64_t session, struct call *c)
{
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS;
	struct stream st;
	struct frame f;
	int r = 0;

	memset(c, 0, sizeof(*c));
	stream_init(&st, fd, STREAM_MAIN, session);
	while (r >= 0 && loop_now_ns() < until) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		poll(&p, 1, 1000);
		while ((r = stream_recv(&st, &f)) == 1)
			c->welcomed |= f.type == FRAME_WELCOME;
	}
	stream_done(&st);
	return r < 0;
}

/* A heartbeat link comes first, or belongs to nobody. */
void attack_heart(struct attack *a)
{
	struct wire_heart w = {.nonce = 1};
	struct call c;

	for (unsigned i = 0; i < 6; i++) {
		int fd = open_with(a, STREAM_HEART, a->tape.preface.session,
				   i % 2 ? FRAME_HEART : FRAME_PAGES, &w, i < 4 ? sizeof(w) : 0);

		a->sessions++;
		if (fd < 0 || !wait_end(fd, a->tape.preface.session, &c) || c.welcomed)
			attack_fail(a, "a heartbeat link before the main one was not dropped");
	}
	attack_golden(a);
}

/* Frames [from, to) of the tape, as bytes. */
static void put_frames(int fd, struct tape *t, unsigned from, unsigned to)
{
	struct bytes b = {0};

	if (!from)
		bytes_add(&b, &t->preface, sizeof(t->preface));
	for (unsigned i = from; i < to; i++) {
		t->f[i].h.seq = i;
		bytes_frame(&b, t->f[i].h, t->f[i].data, t->f[i].h.length);
	}
	put(fd, &b);
	bytes_free(&b);
}

/* Count acks until there are so many, or the other side closes (false). */
static bool wait_acks(struct stream *st, unsigned *acks, unsigned want)
{
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS;
	struct frame f;
	int r = 0;

	while (*acks < want && r >= 0 && loop_now_ns() < until) {
		struct pollfd p = {.fd = st->fd, .events = POLLIN};

		poll(&p, 1, 1000);
		while ((r = stream_recv(st, &f)) == 1)
			*acks += f.type == FRAME_ACK;
	}
	return *acks >= want;
}

static void crowd(struct attack *a)
{
	const struct shot *hello = &a->tape.f[0];
	struct wire_heart w = {.nonce = 1};
	struct call c;

	for (unsigned i = 0; i < 6; i++) {
		int fd = i < 3 ? open_with(a, STREAM_MAIN, random_next() | 1, FRAME_HELLO,
					   hello->data, hello->h.length)
			       : open_with(a, STREAM_HEART, i == 3 ? random_next() | 1 : 99,
					   FRAME_HEART, &w, sizeof(w));

		if (fd < 0 || !wait_end(fd, 99, &c) || c.welcomed)
			attack_fail(a, "a second primary was not sent away");
	}
}

/* While one primary is served, others come; they are sent away, and it is not disturbed. */
void attack_second(struct attack *a)
{
	struct tape *t = &a->tape;
	unsigned end = tape_find(t, 0, FRAME_EPOCH_END) + 1, acks = 0;
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS;
	struct stream st;

	a->sessions++;
	/* Again when the session before was still being tidied up. */
	do {
		int fd = call_connect(a->uri);

		if (fd < 0) {
			attack_fail(a, "not listening");
			return;
		}
		stream_init(&st, fd, STREAM_MAIN, t->preface.session);
		put_frames(fd, t, 0, end);
		if (!wait_acks(&st, &acks, 1))
			stream_done(&st);
	} while (!acks && loop_now_ns() < until);
	if (acks) {
		crowd(a);
		put_frames(st.fd, t, end, t->n);
		wait_acks(&st, &acks, tape_epochs(t, t->n));
	}
	if (acks != tape_epochs(t, t->n))
		attack_fail(a, "%u acks of %u with others at the door", acks, tape_epochs(t, t->n));
	stream_done(&st);
}

/* Connections that say nothing, or half a word, and stay: the right primary still gets in. */
void attack_silent(struct attack *a)
{
	enum { SILENT = 64 };
	int fd[SILENT];
	struct bytes b = {0};

	for (unsigned i = 0; i < SILENT; i++) {
		fd[i] = call_connect(a->uri);
		b.len = 0;
		bytes_preface(&b, STREAM_MAIN, random_next() | 1);
		b.len = i % (sizeof(a->tape.preface) + 1);
		if (fd[i] >= 0 && b.len)
			put(fd[i], &b);
	}
	attack_golden(a);
	for (unsigned i = 0; i < SILENT; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	attack_golden(a);
	bytes_free(&b);
}

/* A hello, and nothing more, not even heartbeats: it does not keep the place for ever. */
void attack_lone_hello(struct attack *a)
{
	const struct shot *hello = &a->tape.f[0];
	uint64_t until = loop_now_ns() + HOSTILE_WAIT_NS;
	struct call c;

	a->sessions++;
	/* Again when the session before was still being tidied up. */
	do {
		int fd = open_with(a, STREAM_MAIN, a->tape.preface.session, FRAME_HELLO,
				   hello->data, hello->h.length);

		if (fd < 0 || !wait_end(fd, a->tape.preface.session, &c)) {
			attack_fail(a, "still waiting for a primary that said only hello");
			return;
		}
	} while (!c.welcomed && loop_now_ns() < until);
	if (!c.welcomed)
		attack_fail(a, "not welcomed");
	attack_golden(a);
}
