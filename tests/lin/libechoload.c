/*
 * One byte-stream client on the echo port: sends seeded pseudo-random bytes, a window ahead, and
 * checks that exactly they come back. A single lost, repeated or changed byte shows.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lin/load.h"

#define ECHO_CHUNK 1024

struct echoload {
	struct load_client *c;
	struct load *l;
	int fd;
	struct load_stream s;
	uint64_t seed;
	uint64_t sent_at; /* when the oldest byte without an echo was sent, about */
};

static uint64_t echoload_room(const struct echoload *e)
{
	uint64_t room = e->l->cfg.window - (e->s.sent - e->s.verified);
	uint64_t left = load_bytes_left(e->l, e->s.sent);

	return room < left ? room : left;
}

static void echoload_send(struct echoload *e)
{
	uint64_t room = echoload_room(e);
	size_t want = 1 + load_random(&e->c->rng) % ECHO_CHUNK;
	uint8_t buf[ECHO_CHUNK];
	ssize_t n;

	want = want < room ? want : room;
	for (size_t i = 0; i < want; i++)
		buf[i] = load_byte(e->seed, e->s.sent + i);
	n = send(e->fd, buf, want, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		e->s.lost = true;
	if (n <= 0)
		return;
	if (e->s.sent == e->s.verified)
		e->sent_at = load_now();
	e->s.sent += (uint64_t)n;
	if (e->l->cfg.echo_rate > 0)
		load_pace(e->c, e->l->cfg.echo_rate / (double)n);
}

static void echoload_recv(struct echoload *e)
{
	uint8_t buf[4 * ECHO_CHUNK];
	ssize_t n = recv(e->fd, buf, sizeof(buf), 0);
	uint64_t now = load_now();

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		e->s.lost = true;
		return;
	}
	for (ssize_t i = 0; i < n && !e->s.bad; i++) {
		if (e->s.verified == e->s.sent || buf[i] != load_byte(e->seed, e->s.verified))
			e->s.bad = true;
		else
			e->s.verified++;
	}
	stats_ack(&e->l->bytes, now, now - e->sent_at);
	e->sent_at = now;
}

static void echoload_loop(struct echoload *e)
{
	uint64_t had;

	while (!e->s.lost && !e->s.bad && !load_stopping(e->l) &&
	       load_bytes_left(e->l, e->s.verified)) {
		uint64_t until = e->l->cfg.echo_rate > 0 ? e->c->next : 0;
		bool room = echoload_room(e) > 0;
		bool due = room && load_now() >= until;
		int ev = load_wait(e->l, e->fd, due ? POLLIN | POLLOUT : POLLIN,
				   room && !due ? until : LOAD_NEVER, false);

		if (ev & (POLLIN | POLLERR | POLLHUP))
			echoload_recv(e);
		else if (due && (ev & POLLOUT))
			echoload_send(e);
	}
	had = e->s.verified;
	while (!e->s.lost && !e->s.bad && e->s.verified < e->s.sent &&
	       load_wait(e->l, e->fd, POLLIN, LOAD_NEVER, true))
		echoload_recv(e);
	atomic_fetch_add(&e->l->silent, !e->s.lost && had < e->s.sent && e->s.verified == had);
}

void *echoload_run(void *arg)
{
	struct load_client *c = arg;
	struct echoload e = {.c = c, .l = c->load};

	e.s.start = load_now();
	e.seed = load_random(&c->rng);
	atomic_fetch_add(&e.l->echo_total, 1);
	e.fd = load_open_stream(c, e.l->cfg.echo_port, 0);
	if (e.fd >= 0) {
		echoload_loop(&e);
		load_end_stream(c, e.l->cfg.echo_port, &e.s);
		close(e.fd);
		atomic_fetch_add(&e.l->echo_bytes, e.s.verified);
		atomic_fetch_add(&e.l->echo_ok, !e.s.bad && !e.s.lost);
	}
	load_done(c);
	return NULL;
}
