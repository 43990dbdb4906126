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
	bool lost, bad;
	uint64_t seed, sent, verified, bad_at;
	uint64_t sent_at; /* when the oldest byte without an echo was sent, about */
};

static void echoload_send(struct echoload *e)
{
	uint64_t room = e->l->cfg.window - (e->sent - e->verified);
	size_t want = 1 + load_random(&e->c->rng) % ECHO_CHUNK;
	uint8_t buf[ECHO_CHUNK];
	ssize_t n;

	want = want < room ? want : room;
	for (size_t i = 0; i < want; i++)
		buf[i] = load_byte(e->seed, e->sent + i);
	n = send(e->fd, buf, want, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		e->lost = true;
	if (n <= 0)
		return;
	if (e->sent == e->verified)
		e->sent_at = load_now();
	e->sent += (uint64_t)n;
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
		e->lost = true;
		return;
	}
	for (ssize_t i = 0; i < n && !e->bad; i++) {
		if (e->verified == e->sent || buf[i] != load_byte(e->seed, e->verified)) {
			e->bad = true;
			e->bad_at = e->verified;
		} else {
			e->verified++;
		}
	}
	stats_ack(&e->l->bytes, now, now - e->sent_at);
	e->sent_at = now;
}

static void echoload_loop(struct echoload *e)
{
	while (!e->lost && !e->bad && !load_stopping(e->l)) {
		uint64_t until = e->l->cfg.echo_rate > 0 ? e->c->next : 0;
		bool room = e->sent - e->verified < e->l->cfg.window;
		bool due = room && load_now() >= until;
		int ev = load_wait(e->l, e->fd, due ? POLLIN | POLLOUT : POLLIN,
				   room && !due ? until : LOAD_NEVER, false);

		if (ev & (POLLIN | POLLERR | POLLHUP))
			echoload_recv(e);
		else if (due && (ev & POLLOUT))
			echoload_send(e);
	}
	while (!e->lost && !e->bad && e->verified < e->sent &&
	       load_wait(e->l, e->fd, POLLIN, LOAD_NEVER, true))
		echoload_recv(e);
}

static void echoload_record(struct echoload *e, uint64_t start)
{
	struct history_rec r = {.client = e->c->number,
				.op = HISTORY_STREAM,
				.result = e->bad ? HISTORY_FAIL : HISTORY_OK,
				.flags = HISTORY_TCP,
				.key = e->l->cfg.echo_port,
				.a = e->sent,
				.b = e->verified,
				.invoke = start,
				.value = e->bad_at};

	r.complete = load_now();
	if (e->lost)
		load_lost(e->c, e->l->cfg.echo_port, e->verified);
	history_write(e->l->history, &r, NULL);
	atomic_fetch_add(&e->l->echo_bytes, e->verified);
	if (!e->bad && !e->lost)
		atomic_fetch_add(&e->l->echo_ok, 1);
}

void *echoload_run(void *arg)
{
	struct load_client *c = arg;
	struct echoload e = {.c = c, .l = c->load};
	uint64_t start = load_now();

	e.seed = load_random(&c->rng);
	atomic_fetch_add(&e.l->echo_total, 1);
	atomic_fetch_add(&e.l->tcp_total, 1);
	e.fd = load_connect(e.l, e.l->cfg.echo_port);
	if (e.fd < 0) {
		if (e.fd != -ECANCELED)
			atomic_store(&e.l->broken, true);
		load_stop(e.l);
	} else {
		echoload_loop(&e);
		echoload_record(&e, start);
		close(e.fd);
	}
	load_done(c);
	return NULL;
}
