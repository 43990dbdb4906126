/*
 * One client of the stream port: the server sends a known pattern for ever, as fast as it is read;
 * every byte is checked. Reading slowly fills the server's send buffer, so that a failover finds
 * segments in every state: sent, acknowledged, waiting.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guests/stream_proto.h"
#include "tests/lin/load.h"

#define STREAM_CHUNK 4096
/* If it has no end; small, so that a silence or a lost connection is noticed soon, not after what
 * is buffered. */
#define STREAM_RCVBUF 8192
#define STREAM_LAST   (1u << 20)

struct streamload {
	struct load_client *c;
	struct load *l;
	int fd;
	struct load_stream s;
	uint64_t last; /* when bytes came last */
};

static void streamload_recv(struct streamload *e)
{
	uint8_t buf[STREAM_CHUNK];
	uint64_t left = load_bytes_left(e->l, e->s.verified);
	ssize_t n = recv(e->fd, buf, left < sizeof(buf) ? left : sizeof(buf), 0);
	uint64_t now = load_now();

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		e->s.lost = true;
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] != stream_byte(e->s.verified)) {
			e->s.bad = true;
			return;
		}
		e->s.verified++;
	}
	stats_ack(&e->l->bytes, now, now - e->last);
	e->last = now;
	if (e->l->cfg.stream_rate > 0)
		load_pace(e->c, e->l->cfg.stream_rate / (double)n);
}

static void streamload_loop(struct streamload *e)
{
	uint64_t had, end;

	e->last = load_now();
	while (!e->s.lost && !e->s.bad && !load_stopping(e->l) &&
	       load_bytes_left(e->l, e->s.verified)) {
		if (e->l->cfg.stream_rate > 0 && load_now() < e->c->next)
			load_wait(e->l, -1, 0, e->c->next, false);
		else if (load_wait(e->l, e->fd, POLLIN, LOAD_NEVER, false))
			streamload_recv(e);
	}
	if (!load_bytes_left(e->l, e->s.verified))
		return;
	/* What is buffered may hide that the connection is gone. */
	had = e->s.verified;
	end = had + STREAM_LAST;
	while (!e->s.lost && !e->s.bad && e->s.verified < end &&
	       load_bytes_left(e->l, e->s.verified) &&
	       load_wait(e->l, e->fd, POLLIN, e->s.verified == had ? LOAD_NEVER : 0, true))
		streamload_recv(e);
	atomic_fetch_add(&e->l->silent, !e->s.lost && e->s.verified == had);
}

void *streamload_run(void *arg)
{
	struct load_client *c = arg;
	struct streamload e = {.c = c, .l = c->load};

	e.s.start = load_now();
	atomic_fetch_add(&e.l->stream_total, 1);
	e.fd = load_open_stream(c, e.l->cfg.stream_port, e.l->cfg.bytes ? 0 : STREAM_RCVBUF);
	if (e.fd >= 0) {
		streamload_loop(&e);
		load_end_stream(c, e.l->cfg.stream_port, &e.s);
		close(e.fd);
		atomic_fetch_add(&e.l->stream_bytes, e.s.verified);
		atomic_fetch_add(&e.l->stream_ok, !e.s.bad && !e.s.lost);
	}
	load_done(c);
	return NULL;
}
