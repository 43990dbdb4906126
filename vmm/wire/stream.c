/* Framing: writing with one system call, reading without blocking and almost without copying. */
#include "vmm/wire/stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/hash.h"

#define SMALL_FRAME 512u	/* header and payload go out of one buffer */
#define READ_AHEAD  (64u << 10) /* asked for at once while frames are small */
#define FIRST_CAP   (128u << 10)
#define OUT_CAP	    (64u << 10)
#define DATA_MAX    ((1u << 20) + (64u << 10))

static const struct {
	const char *name;
	uint32_t max;
} types[FRAME_TYPE_MAX] = {
	[FRAME_HELLO] = {"hello", 256u << 10},
	[FRAME_WELCOME] = {"welcome", 4096},
	[FRAME_REFUSE] = {"refuse", 4096},
	[FRAME_HEART] = {"heart", 64},
	[FRAME_PAGES] = {"pages", DATA_MAX},
	[FRAME_DISK] = {"disk", DATA_MAX},
	[FRAME_DISKLOG] = {"disklog", DATA_MAX},
	[FRAME_STATE] = {"state", 1u << 20},
	[FRAME_EPOCH_BEGIN] = {"epoch-begin", 256},
	[FRAME_EPOCH_END] = {"epoch-end", 320},
	[FRAME_ACK] = {"ack", 64},
	[FRAME_BYE] = {"bye", 4096},
	[FRAME_HAND_OVER] = {"hand-over", 64},
	[FRAME_DONE] = {"done", 64},
	[FRAME_RUNS] = {"runs", 64},
	[FRAME_GONE] = {"gone", 64},
	[FRAME_GENERATION] = {"generation", 64},
	[FRAME_LEAVE] = {"leave", 64},
	[FRAME_OFFER] = {"offer", 256u << 10},
	[FRAME_SWITCH] = {"switch", 256},
	[FRAME_READY] = {"ready", 64},
	[FRAME_GO] = {"go", 64},
	[FRAME_ASK] = {"ask", 64},
	[FRAME_MAP] = {"map", 96u << 10},
	[FRAME_WANT] = {"want", 8u << 10},
	[FRAME_REMOVED] = {"removed", 16u << 10},
	[FRAME_EOS] = {"eos", 64},
	[FRAME_EOC] = {"eoc", 64},
	[FRAME_HAVE] = {"have", 64u << 10},
	[FRAME_MIRROR] = {"mirror", 64},
	[FRAME_INPUT] = {"input", 128u << 10},
	[FRAME_OUTPUT] = {"output", 128u << 10},
	[FRAME_LOADED] = {"loaded", 64},
	[FRAME_MAPPED] = {"mapped", 64},
	[FRAME_APART] = {"apart", 64},
	[FRAME_READ] = {"read", 4096},
	[FRAME_DISMISS] = {"dismiss", 64},
	[FRAME_SUMS] = {"sums", 8u << 10},
	[FRAME_DIFFER] = {"differ", 8u << 10},
};

_Static_assert(sizeof(struct frame_hdr) == 40, "the wire has no padding");
_Static_assert(sizeof(struct stream_preface) == 32, "the wire has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are copied as they lie");

uint32_t stream_max_length(uint16_t type)
{
	return type < FRAME_TYPE_MAX ? types[type].max : 0;
}

const char *stream_frame_name(uint16_t type)
{
	return stream_max_length(type) ? types[type].name : "unknown";
}

void stream_init_on(struct stream *s, const struct chan *c, enum stream_link link, uint64_t session)
{
	memset(s, 0, sizeof(*s));
	s->chan = *c;
	s->fd = c->fd;
	s->link = link;
	s->session = session;
	s->got_preface = session != 0;
}

void stream_init(struct stream *s, int fd, enum stream_link link, uint64_t session)
{
	struct chan c = chan_of(fd);

	stream_init_on(s, &c, link, session);
}

void stream_done(struct stream *s)
{
	if (s->chan.ops)
		chan_close(&s->chan);
	free(s->buf);
	free(s->out);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

void stream_shallow(struct stream *s)
{
	if (s->chan.ops)
		chan_shallow(&s->chan);
}

/* After a failed write nobody knows how much of it the peer has: never write again. */
static int write_out(struct stream *s, const struct iovec *iov, int niov, size_t bytes,
		     uint64_t deadline_ns)
{
	int r = chan_write(&s->chan, iov, niov, deadline_ns);

	if (r)
		s->send_error = r;
	else
		s->sent_bytes += bytes;
	return r;
}

static int write_gathered(struct stream *s, uint64_t deadline_ns)
{
	struct iovec iov = {s->out, s->out_len};

	if (!s->out_len)
		return 0;
	s->out_len = 0;
	return write_out(s, &iov, 1, iov.iov_len, deadline_ns);
}

static void gather(struct stream *s, const struct iovec *iov, int niov)
{
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len)
			memcpy(s->out + s->out_len, iov[i].iov_base, iov[i].iov_len);
		s->out_len += iov[i].iov_len;
	}
}

/* A frame that finds no room goes with what waits, by one write. */
static int send_raw(struct stream *s, const struct iovec *iov, int niov, size_t bytes,
		    uint64_t deadline_ns)
{
	struct iovec all[STREAM_MAX_IOV + 2];
	int n = 0;

	if (s->gathers && s->out_len + bytes <= OUT_CAP) {
		gather(s, iov, niov);
		return 0;
	}
	if (s->out_len)
		all[n++] = (struct iovec){s->out, s->out_len};
	memcpy(all + n, iov, (size_t)niov * sizeof(*iov));
	bytes += s->out_len;
	s->out_len = 0;
	return write_out(s, all, n + niov, bytes, deadline_ns);
}

void stream_gather(struct stream *s)
{
	if (!s->out)
		s->out = malloc(OUT_CAP);
	s->gathers = s->out != NULL; /* else each frame by a write of its own */
}

int stream_flush(struct stream *s, uint64_t deadline_ns)
{
	s->gathers = false;
	return s->send_error ? s->send_error : write_gathered(s, deadline_ns);
}

int stream_send_preface(struct stream *s, uint64_t deadline_ns)
{
	struct stream_preface p = {.magic = STREAM_MAGIC,
				   .version = STREAM_VERSION,
				   .link = s->link,
				   .session = s->session};
	struct iovec iov = {&p, sizeof(p)};

	if (s->send_error)
		return s->send_error;
	if (!s->session || s->sent_bytes || !s->link)
		return -EINVAL;
	p.sum = XXH3_64bits(&p, offsetof(struct stream_preface, sum));
	return send_raw(s, &iov, 1, sizeof(p), deadline_ns);
}

static int send_small(struct stream *s, struct frame_hdr *h, const struct iovec *iov, int niov,
		      uint64_t deadline_ns)
{
	uint8_t buf[SMALL_FRAME];
	struct iovec out = {buf, sizeof(*h)};

	memcpy(buf, h, sizeof(*h));
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len)
			memcpy(buf + out.iov_len, iov[i].iov_base, iov[i].iov_len);
		out.iov_len += iov[i].iov_len;
	}
	h->sum = XXH3_64bits(buf, out.iov_len);
	memcpy(buf, h, sizeof(*h));
	return send_raw(s, &out, 1, out.iov_len, deadline_ns);
}

static int send_large(struct stream *s, struct frame_hdr *h, const struct iovec *iov, int niov,
		      uint64_t deadline_ns)
{
	struct iovec out[STREAM_MAX_IOV + 1];
	XXH3_state_t x;

	XXH3_64bits_reset(&x);
	XXH3_64bits_update(&x, h, sizeof(*h));
	out[0] = (struct iovec){h, sizeof(*h)};
	for (int i = 0; i < niov; i++) {
		XXH3_64bits_update(&x, iov[i].iov_base, iov[i].iov_len);
		out[i + 1] = iov[i];
	}
	h->sum = XXH3_64bits_digest(&x);
	return send_raw(s, out, niov + 1, sizeof(*h) + h->length, deadline_ns);
}

int stream_send(struct stream *s, enum frame_type type, uint64_t epoch, const struct iovec *iov,
		int niov, uint64_t deadline_ns)
{
	struct frame_hdr h = {
		.type = (uint16_t)type, .seq = s->send_seq, .epoch = epoch, .session = s->session};
	uint64_t length = 0;
	int r;

	if (s->send_error)
		return s->send_error;
	if (!s->session || niov < 0 || niov > STREAM_MAX_IOV || !stream_max_length(h.type))
		return -EINVAL;
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len > STREAM_MAX_FRAME)
			return -EMSGSIZE;
		length += iov[i].iov_len;
	}
	if (length > stream_max_length(h.type))
		return -EMSGSIZE;
	h.length = (uint32_t)length;
	if (sizeof(h) + length <= SMALL_FRAME)
		r = send_small(s, &h, iov, niov, deadline_ns);
	else
		r = send_large(s, &h, iov, niov, deadline_ns);
	if (!r)
		s->send_seq++;
	return r;
}

/* Every rule that a peer breaks ends here; the stream stays refused. */
static __attribute__((format(printf, 2, 3))) int refuse(struct stream *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

/* parse_* return 1 when a unit is complete, 0 and *ret_need its whole size, or -EBADMSG. */
static int parse_preface(struct stream *s, size_t *ret_need)
{
	struct stream_preface p;

	*ret_need = sizeof(p);
	if (s->have - s->used < sizeof(p))
		return 0;
	memcpy(&p, s->buf + s->used, sizeof(p));
	if (memcmp(p.magic, STREAM_MAGIC, sizeof(p.magic)))
		return refuse(s, "preface: this is not an ftvmm stream");
	if (p.version != STREAM_VERSION)
		return refuse(s, "preface: stream version %u, only %u is known here", p.version,
			      STREAM_VERSION);
	if (p.sum != XXH3_64bits(&p, offsetof(struct stream_preface, sum)))
		return refuse(s, "preface: checksum is wrong");
	if (p.link < STREAM_MAIN || p.link >= STREAM_LINK_MAX)
		return refuse(s, "preface: link kind %u does not exist", p.link);
	if (s->link != STREAM_ANY && p.link != s->link)
		return refuse(s, "preface: link kind %u, %u is needed", p.link, s->link);
	if (!p.session)
		return refuse(s, "preface: session is 0");
	s->link = p.link;
	s->session = p.session;
	s->got_preface = true;
	s->used += sizeof(p);
	return 1;
}

static int check_header(struct stream *s, const struct frame_hdr *h)
{
	uint32_t max = stream_max_length(h->type);
	unsigned long long seq = s->recv_seq;

	if (!max)
		return refuse(s, "frame %llu: type %u does not exist", seq, h->type);
	if (h->length > max)
		return refuse(s, "frame %llu (%s): length %u is above the limit %u", seq,
			      types[h->type].name, h->length, max);
	if (h->flags)
		return refuse(s, "frame %llu (%s): flags 0x%x are not known", seq,
			      types[h->type].name, h->flags);
	if (h->session != s->session)
		return refuse(s, "frame %llu (%s): is of session %llx, not of %llx", seq,
			      types[h->type].name, (unsigned long long)h->session,
			      (unsigned long long)s->session);
	if (h->seq != s->recv_seq)
		return refuse(s, "frame %llu (%s): says it is frame %llu", seq, types[h->type].name,
			      (unsigned long long)h->seq);
	return 0;
}

static int parse_frame(struct stream *s, struct frame *f, size_t *ret_need)
{
	struct frame_hdr h;
	uint8_t *at;

	*ret_need = sizeof(h);
	if (s->have - s->used < sizeof(h))
		return 0;
	at = s->buf + s->used;
	memcpy(&h, at, sizeof(h));
	if (check_header(s, &h))
		return -EBADMSG;
	*ret_need = sizeof(h) + h.length;
	if (s->have - s->used < *ret_need)
		return 0;
	memset(at + offsetof(struct frame_hdr, sum), 0, sizeof(h.sum));
	if (h.sum != XXH3_64bits(at, *ret_need))
		return refuse(s, "frame %llu (%s): checksum is wrong", (unsigned long long)h.seq,
			      types[h.type].name);
	*f = (struct frame){.type = h.type,
			    .flags = h.flags,
			    .epoch = h.epoch,
			    .length = h.length,
			    .data = at + sizeof(h)};
	s->used += *ret_need;
	s->recv_seq++;
	return 1;
}

static int grow(struct stream *s, size_t cap)
{
	size_t keep = s->have - s->used;
	uint8_t *buf = malloc(cap);

	if (!buf)
		return -ENOMEM;
	if (keep)
		memcpy(buf, s->buf + s->used, keep);
	free(s->buf);
	s->buf = buf;
	s->cap = cap;
	s->used = 0;
	s->have = keep;
	return 0;
}

/*
 * Make room for a unit of `need` bytes and return how much to ask for. A large frame is read up to
 * its end and no further, so that the next one starts at the front of the buffer: nothing is moved.
 */
static int make_room(struct stream *s, size_t need, size_t *ret_ask)
{
	size_t keep = s->have - s->used, rest = need - keep;
	bool large = rest >= READ_AHEAD;

	if (!keep)
		s->used = s->have = 0;
	if (need > s->cap) {
		int r = grow(s, need > READ_AHEAD ? need + READ_AHEAD : FIRST_CAP);

		if (r)
			return r;
	} else if (s->used + need > s->cap ||
		   (!large && s->used && s->cap - s->have < READ_AHEAD / 4)) {
		memmove(s->buf, s->buf + s->used, keep);
		s->used = 0;
		s->have = keep;
	}
	*ret_ask = large ? rest : s->cap - s->have;
	if (!large && *ret_ask > READ_AHEAD && *ret_ask > rest)
		*ret_ask = READ_AHEAD;
	return 0;
}

/* 1 when bytes (or the end) came, 0 when there are none now. */
static int fill(struct stream *s, size_t need)
{
	size_t ask;
	ssize_t n;
	int r = make_room(s, need, &ask);

	if (r)
		return r;
	n = s->chan.ops->read(&s->chan, s->buf + s->have, ask);
	if (n == -EBADMSG && s->chan.ops->why)
		return refuse(s, "%s", chan_why(&s->chan));
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	if (!n)
		s->eof = true;
	/* A short read has emptied the channel: no need to ask again just to be told so. */
	s->drained = n && (size_t)n < ask && !s->chan.blocking;
	s->have += (size_t)n;
	s->recv_bytes += (size_t)n;
	return 1;
}

static int at_end(struct stream *s)
{
	if (s->have == s->used)
		return -EPIPE;
	return refuse(s, "truncated: the stream ends %zu bytes into %s %llu", s->have - s->used,
		      s->got_preface ? "frame" : "preface", (unsigned long long)s->recv_seq);
}

int stream_recv(struct stream *s, struct frame *f)
{
	size_t need;
	int r;

	if (s->why[0])
		return -EBADMSG;
	for (;;) {
		if (!s->got_preface) {
			r = parse_preface(s, &need);
			if (r > 0)
				continue;
		} else {
			r = parse_frame(s, f, &need);
		}
		if (r)
			return r;
		if (s->eof)
			return at_end(s);
		if (s->drained) {
			s->drained = false;
			return 0;
		}
		r = fill(s, need);
		if (r <= 0)
			return r;
	}
}

uint64_t stream_read_bytes(const struct stream *s)
{
	return s->recv_bytes - (s->have - s->used);
}

void stream_seek(struct stream *s, uint64_t seq)
{
	s->have = s->used = 0;
	s->recv_seq = seq;
	s->eof = s->drained = false;
	s->why[0] = 0;
}

const char *stream_trouble(const struct stream *s, int error)
{
	return error == -EBADMSG && s->why[0] ? s->why
	       : error == -EPIPE	      ? "connection closed"
					      : strerror(-error);
}

void stream_text(const struct frame *f, const char *before, char *to, size_t cap)
{
	size_t at = (size_t)snprintf(to, cap, "%s", before);

	for (uint32_t i = 0; i < f->length && at + 1 < cap; i++)
		to[at++] = f->data[i] >= ' ' && f->data[i] < 127 ? (char)f->data[i] : '?';
	to[at < cap ? at : cap - 1] = 0;
}
