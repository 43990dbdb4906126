#define _GNU_SOURCE
#include "net/vsock_sock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void ready(struct loop_op *op, int res);

struct vsock_sock *vsock_sock_new(struct vsock_host *h, uint64_t id, enum vsock_phase phase)
{
	for (unsigned i = 0; i < VSOCK_MAX_SOCKS; i++) {
		struct vsock_sock *s = &h->socks[i];

		if (s->phase != VSOCK_FREE)
			continue;
		*s = (struct vsock_sock){.host = h, .phase = phase, .id = id, .fd = -1};
		return s;
	}
	return NULL;
}

struct vsock_sock *vsock_sock_find(struct vsock_host *h, uint64_t id)
{
	for (unsigned i = 0; i < VSOCK_MAX_SOCKS; i++)
		if (h->socks[i].phase != VSOCK_FREE && h->socks[i].id == id)
			return &h->socks[i];
	return NULL;
}

void vsock_sock_note(struct vsock_sock *s, uint32_t note)
{
	s->notes |= note;
	if (s->host->wake)
		s->host->wake(s->host->arg);
}

static void poll_stop(struct vsock_sock *s)
{
	if (s->polled)
		loop_poll_del(s->host->loop, &s->poll_op);
	s->polled = 0;
}

static void release(struct vsock_sock *s)
{
	poll_stop(s);
	loop_timer_del(s->host->loop, &s->timer_op);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	free(s->out);
	s->out = NULL;
	s->out_len = 0;
}

void vsock_sock_free(struct vsock_sock *s)
{
	release(s);
	s->phase = VSOCK_FREE;
	s->id = 0;
}

void vsock_sock_die(struct vsock_sock *s)
{
	release(s);
	s->phase = VSOCK_DEAD;
	vsock_sock_note(s, VSOCK_GONE);
}

void vsock_sock_repoll(struct vsock_sock *s)
{
	uint32_t want = (s->want_read ? POLLIN : 0) | (s->out_len ? POLLOUT : 0);

	/* Its end is told again and again: nothing is left to wait for. */
	if (s->hung_up || s->fd < 0) {
		poll_stop(s);
		return;
	}
	if (s->polled == want + 1)
		return;
	poll_stop(s);
	s->poll_op = (struct loop_op){.fn = ready, .arg = s};
	if (loop_poll_add(s->host->loop, &s->poll_op, s->fd, want) < 0)
		vsock_sock_die(s);
	else
		s->polled = want + 1;
}

/*
 * Write what the socket takes; returns how much. A program that reads no more may have sent
 * something before: bytes for it are thrown away, and the connection ends when it is read.
 */
static uint32_t push(struct vsock_sock *s, const uint8_t *data, uint32_t len)
{
	uint32_t done = 0;

	while (done < len && !s->sinking) {
		ssize_t n = send(s->fd, data + done, len - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			s->sinking = true;
			vsock_sock_note(s, VSOCK_READABLE);
			break;
		}
		done += (uint32_t)n;
	}
	if (s->sinking)
		done = len;
	if (done) {
		s->written += done;
		vsock_sock_note(s, VSOCK_WRITTEN);
	}
	return done;
}

/* What the guest shut down takes effect once all bytes before it are out. */
static void settle(struct vsock_sock *s)
{
	if (s->out_len)
		return;
	if (s->shut == VSOCK_SHUT_BOTH)
		vsock_sock_die(s);
	else if (s->shut & VSOCK_SHUT_SEND)
		shutdown(s->fd, SHUT_WR);
}

static void flush(struct vsock_sock *s)
{
	uint32_t n = push(s, s->out + s->out_at, s->out_len);

	s->out_at += n;
	s->out_len -= n;
	settle(s);
}

/* Keep the rest. The guest's credit is what bounds it; more is this program's mistake. */
static bool keep(struct vsock_sock *s, const uint8_t *data, uint32_t len)
{
	if (!s->out)
		s->out = malloc(VSOCK_BUF_BYTES);
	if (!s->out || len > VSOCK_BUF_BYTES - s->out_len)
		return false;
	if (!s->out_len)
		s->out_at = 0;
	if (s->out_at + s->out_len + len > VSOCK_BUF_BYTES) {
		memmove(s->out, s->out + s->out_at, s->out_len);
		s->out_at = 0;
	}
	memcpy(s->out + s->out_at + s->out_len, data, len);
	s->out_len += len;
	return true;
}

void vsock_sock_write(struct vsock_sock *s, const uint8_t *data, uint32_t len)
{
	uint32_t n = s->out_len ? 0 : push(s, data, len);

	if (n < len && !keep(s, data + n, len - n))
		vsock_sock_die(s);
	else
		vsock_sock_repoll(s);
}

void vsock_sock_shutdown(struct vsock_sock *s, uint32_t flags)
{
	s->shut |= flags & VSOCK_SHUT_BOTH;
	if (s->shut & VSOCK_SHUT_RCV)
		shutdown(s->fd, SHUT_RD);
	settle(s);
	if (s->phase == VSOCK_OPEN)
		vsock_sock_repoll(s);
}

void vsock_sock_open(struct vsock_sock *s)
{
	s->phase = VSOCK_OPEN;
	s->want_read = true;
	vsock_sock_repoll(s);
}

/* The loop may not have said so yet. */
static bool has_closed(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

ssize_t vsock_sock_read(struct vsock_sock *s, void *buf, uint32_t cap)
{
	ssize_t n;

	do
		n = recv(s->fd, buf, cap, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n == 0)
		return s->hung_up || has_closed(s->fd) ? -EPIPE : 0;
	if (errno != EAGAIN) {
		s->hung_up = true;
		vsock_sock_repoll(s);
		return -EPIPE;
	}
	s->want_read = true;
	vsock_sock_repoll(s);
	return s->phase == VSOCK_OPEN ? -EAGAIN : -EPIPE;
}

/* Only what is open, or waits for the guest, is polled here. */
static void ready(struct loop_op *op, int res)
{
	struct vsock_sock *s = op->arg;

	if (res < 0 || res & (POLLHUP | POLLERR)) {
		if (s->phase == VSOCK_WAITING) {
			vsock_sock_die(s);
			return;
		}
		s->hung_up = true;
	}
	if (res & (POLLIN | POLLHUP | POLLERR)) {
		s->want_read = false;
		vsock_sock_note(s, VSOCK_READABLE);
	}
	if (s->out_len)
		flush(s);
	if (s->phase == VSOCK_OPEN)
		vsock_sock_repoll(s);
}
