#define _GNU_SOURCE
#include "tests/sim/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/sim/real.h"

#define BACKLOG	   16
#define RESEND_MAX (50 * MS)

struct segment {
	struct segment *next;
	uint64_t arrives;  /* NEVER: it was sent into a cut direction */
	size_t len, taken; /* 0: the end of the stream */
	uint8_t data[];
};

enum sock_state { FRESH, LISTENS, CONNECTING, CONNECTED, FAILED };

struct sock {
	enum sock_state state;
	unsigned host;
	int error;
	uint32_t ip;
	uint16_t port;
	struct sock *peer; /* NULL: it is gone */
	bool closed, silent, peer_reset;
	uint64_t patience_ns; /* TCP_USER_TIMEOUT, and its probes */
	/* What comes in. */
	struct segment *first, **last;
	uint64_t last_arrives;
	size_t waiting;
	/* Of a listener. */
	struct sock *backlog[BACKLOG];
	unsigned nbacklog;
	struct sock *next;
};

struct direction directions[HOSTS];
static struct sock *socks;

static const struct fd_ops sock_ops;

static struct sock *new_sock(unsigned host)
{
	struct sock *s = calloc(1, sizeof(*s));

	s->host = host;
	s->patience_ns = 60 * SEC;
	s->last = &s->first;
	s->next = socks;
	socks = s;
	return s;
}

static struct sock *sock_of(int number)
{
	struct fd *f = fd_of(number, &sock_ops);

	return f ? f->of : NULL;
}

/* --- what is under way ------------------------------------------------------------------------ */

static uint64_t travel(unsigned from, size_t len)
{
	const struct direction *d = &directions[from];

	return d->delay_ns + rnd_below(d->jitter_ns + 1) + d->ns_per_kib * len / 1024;
}

/* To s, from its peer. */
static void put(struct sock *s, unsigned from, const struct iovec *iov, size_t len)
{
	struct segment *g = malloc(sizeof(*g) + len);

	for (size_t n = 0; n < len; iov++) {
		size_t part = iov->iov_len < len - n ? iov->iov_len : len - n;

		memcpy(g->data + n, iov->iov_base, part);
		n += part;
	}
	g->next = NULL;
	g->len = len;
	g->taken = 0;
	if (directions[from].cut || (s->first && s->last_arrives == NEVER))
		g->arrives = NEVER;
	else
		g->arrives = world_now() + travel(from, len);
	if (s->first && g->arrives < s->last_arrives)
		g->arrives = s->last_arrives;
	s->last_arrives = g->arrives;
	*s->last = g;
	s->last = &g->next;
	s->waiting += len;
	if (g->arrives != NEVER)
		world_at(g->arrives, NULL, NULL);
}

/* When the last segment for s arrives. */
static uint64_t *end_of(struct sock *s)
{
	struct segment *g = s->first;

	while (g->next)
		g = g->next;
	return &g->arrives;
}

static struct segment *arrived(const struct sock *s)
{
	return s->first && s->first->arrives <= world_now() ? s->first : NULL;
}

void net_cut(unsigned from, bool cut)
{
	directions[from].cut = cut;
	if (cut)
		return;
	for (struct sock *s = socks; s; s = s->next) {
		uint64_t at = world_now() + rnd_below(RESEND_MAX);

		if (s->host == from)
			continue;
		at += travel(from, 0);
		for (struct segment *g = s->first; g; g = g->next)
			if (g->arrives == NEVER)
				g->arrives = at;
		if (s->first && s->last_arrives == NEVER)
			s->last_arrives = at;
		world_at(at, NULL, NULL);
	}
}

void net_break(void)
{
	for (struct sock *s = socks; s; s = s->next) {
		struct sock *p = s->peer;

		if (!p || p->state != CONNECTED || s->state != CONNECTED || rnd_one_in(3))
			continue;
		s->peer = p->peer = NULL;
		s->peer_reset = p->peer_reset = true;
		put(s, p->host, NULL, 0);
		put(p, s->host, NULL, 0);
	}
}

void net_silence(const struct proc *p)
{
	for (int i = 0; i < 65536; i++) {
		struct fd *f = fd_find(FD_FIRST + i);

		if (f && f->proc == p && f->ops == &sock_ops)
			((struct sock *)f->of)->silent = true;
	}
}

/* --- descriptors ------------------------------------------------------------------------------ */

static ssize_t sock_read(struct fd *f, void *buf, size_t len)
{
	struct sock *s = f->of;
	struct segment *g = arrived(s);
	size_t n;

	if (s->state != CONNECTED)
		return s->error ? -s->error : -ENOTCONN;
	if (s->closed)
		return 0;
	if (!g)
		return -EAGAIN;
	if (!g->len)
		return s->peer_reset ? -ECONNRESET : 0;
	n = g->len - g->taken < len ? g->len - g->taken : len;
	memcpy(buf, g->data + g->taken, n);
	g->taken += n;
	s->waiting -= n;
	if (g->taken == g->len) {
		s->first = g->next;
		if (!s->first)
			s->last = &s->first;
		free(g);
	}
	return (ssize_t)n;
}

static size_t room(const struct sock *s)
{
	unsigned window = directions[s->host].window;

	return s->peer && s->peer->waiting < window ? window - s->peer->waiting : 0;
}

static bool is_over(const struct sock *s)
{
	const struct segment *g = arrived(s);

	return g && !g->len;
}

static ssize_t sock_write(struct fd *f, const struct iovec *iov, int niov)
{
	struct sock *s = f->of;
	size_t len = 0, max = room(s);

	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	if (s->state != CONNECTED || s->closed || is_over(s))
		return -EPIPE;
	if (!s->peer) /* gone, which is not known yet */
		return (ssize_t)len;
	if (!max)
		return -EAGAIN;
	len = len < max ? len : max;
	if (directions[s->host].splits && len > 1)
		len = rnd_in(1, len);
	put(s->peer, s->host, iov, len);
	return (ssize_t)len;
}

static uint32_t sock_ready(struct fd *f)
{
	const struct sock *s = f->of;
	uint32_t is = 0;

	if (s->state == LISTENS)
		return s->nbacklog ? POLLIN : 0;
	if (s->state == FAILED)
		return POLLIN | POLLOUT | POLLERR | POLLHUP;
	if (s->state != CONNECTED)
		return s->state == FRESH ? POLLHUP | POLLOUT : 0;
	if (arrived(s) || s->closed)
		is |= POLLIN;
	if (is_over(s) || s->closed)
		is |= POLLHUP | POLLOUT;
	if (!s->peer || room(s))
		is |= POLLOUT;
	return is;
}

/* What a host without power has not got through a hole, nobody sends again. */
static void forget_unsent(struct sock *s)
{
	struct segment **at = &s->first;

	while (*at && (*at)->arrives != NEVER)
		at = &(*at)->next;
	s->last = at;
	for (struct segment *g = *at, *next; g; g = next) {
		next = g->next;
		s->waiting -= g->len - g->taken;
		free(g);
	}
	*at = NULL;
	if (s->last_arrives == NEVER)
		s->last_arrives = world_now();
}

static void leave(struct sock *s)
{
	struct sock *p = s->peer;

	s->closed = true;
	world_changes++;
	if (!p)
		return;
	s->peer = p->peer = NULL;
	p->peer_reset = s->silent || s->waiting > 0;
	if (s->silent)
		forget_unsent(p);
	put(p, s->host, NULL, 0);
	if (!s->silent)
		return;
	p->last_arrives = world_now() + p->patience_ns;
	*end_of(p) = p->last_arrives;
	world_at(p->last_arrives, NULL, NULL);
}

static void free_sock(struct sock *s)
{
	struct sock **at = &socks;

	leave(s);
	for (unsigned i = 0; i < s->nbacklog; i++)
		free_sock(s->backlog[i]);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	while (s->first) {
		struct segment *g = s->first;

		s->first = g->next;
		free(g);
	}
	if (s->state != CONNECTING)
		free(s); /* else its answer is still to come */
	else
		s->state = FAILED;
}

static void sock_close(struct fd *f)
{
	free_sock(f->of);
}

static const struct fd_ops sock_ops = {"socket", sock_read, sock_write, sock_ready, sock_close};

/* --- calls ------------------------------------------------------------------------------------ */

int __wrap_socket(int family, int type, int protocol)
{
	if (family != AF_INET)
		return fail(EAFNOSUPPORT);
	return fd_new(&sock_ops, new_sock(proc_now()->host->index));
}

int __wrap_bind(int number, const struct sockaddr *sa, socklen_t len)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
	struct sock *s = sock_of(number);

	for (struct sock *o = socks; o; o = o->next)
		if (o->state == LISTENS && o->ip == ntohl(in->sin_addr.s_addr) &&
		    o->port == ntohs(in->sin_port))
			return fail(EADDRINUSE);
	s->ip = ntohl(in->sin_addr.s_addr);
	s->port = ntohs(in->sin_port);
	return 0;
}

int __wrap_listen(int number, int backlog)
{
	world_changes++;
	sock_of(number)->state = LISTENS;
	return 0;
}

int __wrap_accept4(int number, struct sockaddr *sa, socklen_t *len, int flags)
{
	struct sock *s = sock_of(number), *got;

	if (!s || !s->nbacklog)
		return fail(EAGAIN);
	got = s->backlog[0];
	memmove(s->backlog, s->backlog + 1, --s->nbacklog * sizeof(s->backlog[0]));
	return fd_new(&sock_ops, got);
}

/* The answer to a SYN has come back. */
static void answered(void *arg)
{
	struct sock *s = arg;

	if (s->state == FAILED) {
		free(s);
		return;
	}
	s->state = s->error ? FAILED : CONNECTED;
}

/* A SYN has come to the other host; while a direction is cut it is sent again. */
static void asked(void *arg)
{
	struct sock *s = arg, *l = socks, *new;

	if (s->state == FAILED) {
		free(s);
		return;
	}
	if (directions[0].cut || directions[1].cut || !hosts[!s->host].up) {
		world_at(world_now() + 200 * MS, asked, s);
		return;
	}
	while (l && !(l->state == LISTENS && l->ip == s->ip && l->port == s->port))
		l = l->next;
	if (!l || l->nbacklog == BACKLOG) {
		s->error = ECONNREFUSED;
	} else {
		new = new_sock(!s->host);
		new->state = CONNECTED;
		new->peer = s;
		s->peer = new;
		l->backlog[l->nbacklog++] = new;
	}
	world_at(world_now() + travel(!s->host, 0), answered, s);
}

int __wrap_connect(int number, const struct sockaddr *sa, socklen_t len)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
	struct sock *s = sock_of(number);

	s->ip = ntohl(in->sin_addr.s_addr);
	s->port = ntohs(in->sin_port);
	s->state = CONNECTING;
	world_changes++;
	world_at(world_now() + travel(s->host, 0), asked, s);
	return fail(EINPROGRESS);
}

int __wrap_getpeername(int number, struct sockaddr *sa, socklen_t *len)
{
	const struct sock *s = sock_of(number);

	return s && s->state == CONNECTED ? 0 : fail(ENOTCONN);
}

int __wrap_getsockopt(int number, int level, int option, void *value, socklen_t *len)
{
	struct sock *s = sock_of(number);

	if (!s)
		return fail(ENOTSOCK);
	memset(value, 0, *len);
	if (level != SOL_SOCKET || *len < sizeof(int))
		return 0;
	if (option == SO_ERROR) {
		memcpy(value, &s->error, sizeof(int));
		s->error = 0;
	} else if (option == SO_DOMAIN) {
		memcpy(value, &(int){AF_INET}, sizeof(int));
	} else if (option == SO_TYPE) {
		memcpy(value, &(int){SOCK_STREAM}, sizeof(int));
	}
	return 0;
}

int __wrap_setsockopt(int number, int level, int option, const void *value, socklen_t len)
{
	struct sock *s = sock_of(number);

	if (s && level == IPPROTO_TCP && option == TCP_USER_TIMEOUT)
		s->patience_ns = *(const unsigned *)value * MS;
	return s ? 0 : fail(ENOTSOCK);
}

int __wrap_shutdown(int number, int how)
{
	struct sock *s = sock_of(number);

	if (s)
		leave(s);
	return 0;
}

ssize_t __wrap_writev(int number, const struct iovec *iov, int niov);

ssize_t __wrap_sendmsg(int number, const struct msghdr *msg, int flags)
{
	return __wrap_writev(number, msg->msg_iov, (int)msg->msg_iovlen);
}
