/*
 * A stream from outside. The first byte picks: even, the rest is what the socket gives; odd, the
 * rest is a list of frames {u8 what is wrong, u8 type, u16 length, payload...} that are signed, to
 * get past the checksum. The second byte picks how much arrives at once.
 */
#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/libwire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WRONG_SEQ = 1, WRONG_SESSION = 2, WRONG_FLAGS = 4, WRONG_LENGTH = 8, WRONG_SUM = 16 };

/* Frames up to the first wrong one are right; returns how many those are. */
static unsigned build(struct wire *w, const uint8_t *p, size_t n, int *ret_wrong)
{
	unsigned good = 0;

	*ret_wrong = 0;
	wire_preface(w, STREAM_VERSION, STREAM_MAIN, WIRE_SESSION);
	while (n >= 4) {
		uint8_t wrong = p[0] & 0x80 ? p[0] & 0x1f : 0;
		uint16_t type = p[1], length = (uint16_t)(p[2] | p[3] << 8);
		struct frame_hdr h;

		p += 4;
		n -= 4;
		if (length > n)
			length = (uint16_t)n;
		h = wire_header(w, type, length);
		h.seq += wrong & WRONG_SEQ ? length + 1u : 0;
		h.session ^= wrong & WRONG_SESSION ? 1u << (length & 31) : 0;
		h.flags |= wrong & WRONG_FLAGS ? (uint16_t)(length | 1) : 0;
		h.length += wrong & WRONG_LENGTH ? 1u << (length & 31) : 0;
		wire_signed(w, h, p, length);
		if (wrong & WRONG_SUM)
			w->p[w->len - 1 - length % 8] ^= 1;
		if (wrong || !stream_max_length(type) || length > stream_max_length(type))
			*ret_wrong = 1;
		if (!*ret_wrong)
			good++;
		p += length;
		n -= length;
	}
	return good;
}

static unsigned drain(struct stream *s, int *ret_last)
{
	unsigned frames = 0;
	volatile uint8_t sink = 0;
	struct frame f;

	while ((*ret_last = stream_recv(s, &f)) == 1) {
		frames++;
		if (f.length > stream_max_length(f.type) || f.flags)
			abort();
		for (uint32_t i = 0; i < f.length; i++) /* all of it must be there */
			sink = (uint8_t)(sink + f.data[i]);
	}
	return frames;
}

/* Give the bytes in pieces; returns the frames that came out. */
static unsigned feed(const uint8_t *p, size_t n, size_t piece, int *ret_last)
{
	struct stream s;
	unsigned frames = 0;
	int fds[2];

	*ret_last = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds))
		abort();
	stream_init(&s, fds[0], STREAM_ANY, 0);
	while (n && *ret_last >= 0) {
		ssize_t done = write(fds[1], p, piece < n ? piece : n);

		if (done > 0) {
			p += done;
			n -= (size_t)done;
		}
		frames += drain(&s, ret_last);
	}
	/* The end, now: a close() waits for whoever looks at /proc/PID/fd. */
	if (shutdown(fds[1], SHUT_WR))
		abort();
	for (int i = 0; i < 3 && *ret_last >= 0; i++)
		frames += drain(&s, ret_last);
	if (*ret_last != -EPIPE && *ret_last != -EBADMSG)
		abort();
	if ((*ret_last == -EBADMSG) != (s.why[0] != 0) || s.cap > STREAM_MAX_FRAME)
		abort();
	close(fds[1]);
	stream_done(&s);
	return frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = {1 << 20, 1, 7, 40, 41, 100, 4096, 65536};
	struct wire w = {0};
	unsigned good, frames;
	int wrong, last;
	size_t piece;

	if (size < 2)
		return 0;
	piece = pieces[data[1] % 8];
	if (piece < 40 && size > 2048) /* a system call a byte */
		return 0;
	if (data[0] & 1) {
		good = build(&w, data + 2, size - 2, &wrong);
		frames = feed(w.p, w.len, piece, &last);
		if (frames != good || (last == -EPIPE) != !wrong)
			abort();
	} else {
		feed(data + 2, size - 2, piece, &last);
	}
	wire_free(&w);
	return 0;
}
