/* Shared parts of a run of load: time, randomness, stopping, waiting, connecting. */
#define _GNU_SOURCE
#include "tests/lin/load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LOAD_RETRY_NS (50 * 1000 * 1000ull)

uint64_t load_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t load_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

uint64_t load_random(uint64_t *state)
{
	return load_mix(*state += 0x9e3779b97f4a7c15ull);
}

uint8_t load_byte(uint64_t seed, uint64_t offset)
{
	uint64_t word = load_mix(seed + (offset / 8 + 1) * 0x9e3779b97f4a7c15ull);

	return (uint8_t)(word >> (offset % 8 * 8));
}

void load_stop(struct load *l)
{
	uint64_t none = 0, one = 1;

	if (!atomic_compare_exchange_strong(&l->stop_ns, &none, load_now()))
		return;
	while (write(l->stopfd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

bool load_take(struct load *l)
{
	if (load_stopping(l))
		return false;
	if (l->cfg.ops && atomic_fetch_add(&l->taken, 1) >= l->cfg.ops) {
		load_stop(l);
		return false;
	}
	return true;
}

int load_wait(struct load *l, int fd, short events, uint64_t until, bool is_op)
{
	for (;;) {
		uint64_t now = load_now(), stop = atomic_load(&l->stop_ns), end = until;
		struct pollfd p[2] = {{.fd = fd, .events = events},
				      {.fd = stop ? -1 : l->stopfd, .events = POLLIN}};
		struct timespec ts;
		int n;

		if (stop && stop + (is_op ? l->cfg.drain : 0) < end)
			end = stop + (is_op ? l->cfg.drain : 0);
		end = now < end ? end - now : 0;
		ts.tv_sec = end / 1000000000ull > 3600 ? 3600 : (time_t)(end / 1000000000ull);
		ts.tv_nsec = (long)(end % 1000000000ull);
		n = ppoll(p, 2, &ts, NULL);
		if (n > 0 && p[0].revents)
			return p[0].revents;
		if (n == 0 && end < 3600 * 1000000000ull)
			return 0;
	}
}

uint64_t load_pace(struct load_client *c, double rate)
{
	uint64_t now = load_now();

	/* After a pause the lost time is not made up for: no burst follows a failover. */
	c->next = c->next + (uint64_t)(1e9 / rate);
	if (c->next < now)
		c->next = now;
	return c->next;
}

void load_ready(struct load *l)
{
	const struct load_config *cfg = &l->cfg;

	if (atomic_fetch_add(&l->ready, 1) + 1 == cfg->udp + cfg->tcp + cfg->echo + cfg->stream)
		fputs("kvclient: ready\n", stderr);
}

static int load_connect_once(struct load *l, uint16_t port, int rcvbuf, uint64_t until)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, err = 0;
	struct sockaddr_in to = l->cfg.server;
	socklen_t len = sizeof(err);

	if (fd < 0)
		return -errno;
	to.sin_port = htons(port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (rcvbuf)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		err = errno;
		if (err == EINPROGRESS && load_wait(l, fd, POLLOUT, until, false))
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
		else if (err == EINPROGRESS)
			err = load_stopping(l) ? ECANCELED : ETIMEDOUT;
	}
	if (!err)
		return fd;
	close(fd);
	return -err;
}

int load_connect(struct load *l, uint16_t port, int rcvbuf)
{
	uint64_t until = load_now() + l->cfg.connect;
	int fd;

	for (;;) {
		fd = load_connect_once(l, port, rcvbuf, until);
		if (fd >= 0 || load_now() >= until || fd == -ECANCELED)
			return fd;
		load_wait(l, -1, 0, load_now() + LOAD_RETRY_NS, false);
		if (load_stopping(l))
			return -ECANCELED;
	}
}

void load_lost(struct load_client *c, uint16_t port, uint64_t received)
{
	struct history_rec r = {.client = c->number,
				.op = HISTORY_CONN_LOST,
				.flags = HISTORY_TCP,
				.key = port,
				.a = received,
				.invoke = load_now()};

	r.complete = r.invoke;
	atomic_fetch_add(&c->load->tcp_lost, 1);
	history_write(c->load->history, &r, NULL);
}

int load_open_stream(struct load_client *c, uint16_t port, int rcvbuf)
{
	int fd;

	atomic_fetch_add(&c->load->tcp_total, 1);
	fd = load_connect(c->load, port, rcvbuf);
	if (fd >= 0) {
		load_ready(c->load);
		return fd;
	}
	if (fd != -ECANCELED)
		atomic_store(&c->load->broken, true);
	load_stop(c->load);
	return fd;
}

void load_end_stream(struct load_client *c, uint16_t port, const struct load_stream *s)
{
	struct history_rec r = {.client = c->number,
				.op = HISTORY_STREAM,
				.result = s->bad ? HISTORY_FAIL : HISTORY_OK,
				.flags = HISTORY_TCP,
				.key = port,
				.a = s->sent,
				.b = s->verified,
				.invoke = s->start,
				.value = s->verified};

	r.complete = load_now();
	if (s->lost)
		load_lost(c, port, s->verified);
	history_write(c->load->history, &r, NULL);
}

void load_done(struct load_client *c)
{
	uint64_t one = 1;

	while (write(c->load->donefd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}
