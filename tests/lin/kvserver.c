/*
 * kvserver: the kv guest's protocol as a host process, to test the client and the checker with.
 * Correct unless a bug is planted; UDP replies can be lost, doubled or delayed, which is correct.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "guests/stream_proto.h"
#include "tests/lin/load.h"
#include "tests/lin/store.h"

#define CONN_MAX    256
#define ECHO_BUF    4096
#define STREAM_SKIP 1460
#define LATE_MAX    256

static const char usage[] =
	"usage: kvserver [options]; prints its kv, echo and stream ports, ends at SIGTERM\n"
	"  --journal FILE  --bug NAME  --bug-every N (default 50)  --seed S\n"
	"  --loss N --double N --late N    per mille of UDP exchanges\n"
	"  --late-ms MS                    how late (default 50)\n";

struct conn {
	int fd;
	int listener; /* whose service it gets */
	uint64_t sent;
	uint8_t buf[ECHO_BUF];
	size_t used, requests;
};

struct packet { /* one reply on its way */
	struct sockaddr_in to;
	struct kv_rep rep;
	uint64_t list[KV_LIST_PER_REP];
	uint64_t due;
};

struct server {
	struct store store;
	int ep, udp, tcp, echo, stream, sig;
	uint64_t seed, late_ns;
	unsigned loss, twice, late;
	struct packet queue[LATE_MAX];
	unsigned nqueue;
	struct conn conn[CONN_MAX];
};

static size_t packet_len(const struct packet *p)
{
	return sizeof(p->rep) + 8 * (size_t)p->rep.n;
}

static void packet_pack(const struct packet *p, uint8_t *buf)
{
	memcpy(buf, &p->rep, sizeof(p->rep));
	memcpy(buf + sizeof(p->rep), p->list, 8 * (size_t)p->rep.n);
}

static void server_send_udp(struct server *s, const struct packet *p)
{
	uint8_t buf[sizeof(p->rep) + sizeof(p->list)];

	packet_pack(p, buf);
	if (sendto(s->udp, buf, packet_len(p), 0, (const struct sockaddr *)&p->to, sizeof(p->to)) <
	    0)
		return; /* UDP: a reply may get lost */
}

static bool server_dice(struct server *s, unsigned per_mille)
{
	return per_mille && load_random(&s->seed) % 1000 < per_mille;
}

static int server_execute(struct server *s, const struct kv_req *q, struct packet *p)
{
	int rc = store_apply(&s->store, q, &p->rep, p->list);

	if (rc)
		fprintf(stderr, "kvserver: journal: %s\n", strerror(-rc));
	return rc;
}

static int server_read_udp(struct server *s)
{
	struct packet p;
	struct kv_req q;
	socklen_t len = sizeof(p.to);
	ssize_t n = recvfrom(s->udp, &q, sizeof(q), MSG_TRUNC, (struct sockaddr *)&p.to, &len);
	int rc;

	if (n != sizeof(q) || server_dice(s, s->loss / 2)) /* the request is lost */
		return 0;
	rc = server_execute(s, &q, &p);
	if (rc || server_dice(s, s->loss / 2)) /* the reply is lost */
		return rc;
	if (server_dice(s, s->late) && s->nqueue < LATE_MAX) {
		p.due = load_now() + s->late_ns;
		s->queue[s->nqueue++] = p;
		return 0;
	}
	server_send_udp(s, &p);
	if (server_dice(s, s->twice))
		server_send_udp(s, &p);
	if (q.op == KV_PUT && store_bug_now(&s->store, STORE_DUP_EXEC)) {
		rc = server_execute(s, &q, &p);
		server_send_udp(s, &p);
	}
	return rc;
}

static void server_accept(struct server *s, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	for (unsigned i = 0; fd >= 0 && i < CONN_MAX; i++) {
		struct conn *c = &s->conn[i];
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

		if (c->fd >= 0)
			continue;
		if (listener == s->stream)
			ev.events = EPOLLOUT;
		*c = (struct conn){.fd = fd, .listener = listener};
		if (!epoll_ctl(s->ep, EPOLL_CTL_ADD, fd, &ev))
			return;
		c->fd = -1;
		break;
	}
	if (fd >= 0)
		close(fd);
}

static void conn_close(struct conn *c)
{
	close(c->fd);
	c->fd = -1;
}

static int conn_read_kv(struct server *s, struct conn *c)
{
	struct kv_req q;
	ssize_t n = read(c->fd, c->buf + c->used, sizeof(q) - c->used);
	struct packet p;
	uint8_t out[sizeof(p.rep) + sizeof(p.list)];
	int rc;

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			conn_close(c);
		return 0;
	}
	c->used += (size_t)n;
	if (c->used < sizeof(q))
		return 0;
	memcpy(&q, c->buf, sizeof(q));
	c->used = 0;
	rc = server_execute(s, &q, &p);
	packet_pack(&p, out);
	/* One request at a time per connection: its reply always fits the socket's buffer. */
	if (rc || store_bug_now(&s->store, STORE_CONN_DROP) ||
	    write(c->fd, out, packet_len(&p)) != (ssize_t)packet_len(&p))
		conn_close(c);
	return rc;
}

/* Reads again only when everything was sent, so a slow reader holds up nobody else. */
static void conn_run_echo(struct server *s, struct conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
	ssize_t n = 0;

	if (!c->used) {
		n = read(c->fd, c->buf, sizeof(c->buf));
		if (n <= 0 && !(n < 0 && errno == EAGAIN)) {
			conn_close(c);
			return;
		}
		c->used = n > 0 ? (size_t)n : 0;
		if (c->used && store_bug_now(&s->store, STORE_ECHO_FLIP))
			c->buf[c->used / 2] ^= 0x10;
		if (c->used && store_bug_now(&s->store, STORE_ECHO_LOSE))
			c->used--;
	}
	n = c->used ? send(c->fd, c->buf, c->used, MSG_NOSIGNAL) : 0;
	if (n < 0 && errno != EAGAIN) {
		conn_close(c);
		return;
	}
	if (n > 0) {
		c->used -= (size_t)n;
		memmove(c->buf, c->buf + n, c->used);
	}
	ev.events = c->used ? EPOLLOUT : EPOLLIN;
	epoll_ctl(s->ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_run_stream(struct server *s, struct conn *c)
{
	ssize_t n;

	if (c->sent && store_bug_now(&s->store, STORE_STREAM_SKIP))
		c->sent += STREAM_SKIP;
	for (size_t i = 0; i < sizeof(c->buf); i++)
		c->buf[i] = stream_byte(c->sent + i);
	if (store_bug_now(&s->store, STORE_STREAM_FLIP))
		c->buf[0] ^= 1;
	n = send(c->fd, c->buf, sizeof(c->buf), MSG_NOSIGNAL);
	if (n > 0)
		c->sent += (uint64_t)n;
	else if (n < 0 && errno != EAGAIN)
		conn_close(c);
}

static int server_event(struct server *s, void *ptr)
{
	struct conn *c = ptr;

	if (ptr == &s->udp)
		return server_read_udp(s);
	if (ptr == &s->tcp || ptr == &s->echo || ptr == &s->stream)
		server_accept(s, *(int *)ptr);
	else if (c->fd >= 0 && c->listener == s->tcp)
		return conn_read_kv(s, c);
	else if (c->fd >= 0 && c->listener == s->echo)
		conn_run_echo(s, c);
	else if (c->fd >= 0)
		conn_run_stream(s, c);
	return 0;
}

/* Send what is due; milliseconds until the next, -1 if nothing waits. */
static int server_run_queue(struct server *s)
{
	uint64_t now = load_now(), next = UINT64_MAX;

	for (unsigned i = 0; i < s->nqueue;) {
		if (s->queue[i].due > now) {
			next = s->queue[i].due < next ? s->queue[i].due : next;
			i++;
			continue;
		}
		server_send_udp(s, &s->queue[i]);
		s->queue[i] = s->queue[--s->nqueue];
	}
	return next == UINT64_MAX ? -1 : (int)((next - now) / 1000000) + 1;
}

static int server_loop(struct server *s)
{
	for (;;) {
		struct epoll_event ev[32];
		int n = epoll_wait(s->ep, ev, 32, server_run_queue(s));

		for (int i = 0; i < n; i++) {
			if (ev[i].data.ptr == &s->sig)
				return 0;
			if (server_event(s, ev[i].data.ptr))
				return 1;
		}
	}
}

static int server_bind(struct server *s, int *where, int type, uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(*port)};
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = where};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*where = fd;
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
	    getsockname(fd, (struct sockaddr *)&a, &len) ||
	    (type == SOCK_STREAM && listen(fd, 128)) || epoll_ctl(s->ep, EPOLL_CTL_ADD, fd, &ev))
		return -errno;
	*port = ntohs(a.sin_port);
	return 0;
}

static int server_open(struct server *s)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s->sig};
	uint16_t port = 0, echo = 0, stream = 0;
	sigset_t set;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->sig = signalfd(-1, &set, SFD_CLOEXEC);
	s->ep = epoll_create1(EPOLL_CLOEXEC);
	if (s->sig < 0 || s->ep < 0 || epoll_ctl(s->ep, EPOLL_CTL_ADD, s->sig, &ev))
		return -errno;
	rc = server_bind(s, &s->tcp, SOCK_STREAM, &port);
	if (!rc)
		rc = server_bind(s, &s->udp, SOCK_DGRAM, &port);
	if (!rc)
		rc = server_bind(s, &s->echo, SOCK_STREAM, &echo);
	if (!rc)
		rc = server_bind(s, &s->stream, SOCK_STREAM, &stream);
	if (!rc) {
		printf("%u %u %u\n", port, echo, stream);
		fflush(stdout);
	}
	return rc;
}

static int server_parse(struct server *s, int argc, char **argv)
{
	static const struct option options[] = {
		{"journal", required_argument, NULL, 'j'},
		{"bug", required_argument, NULL, 'b'},
		{"bug-every", required_argument, NULL, 'e'},
		{"seed", required_argument, NULL, 's'},
		{"loss", required_argument, NULL, 'l'},
		{"double", required_argument, NULL, 'd'},
		{"late", required_argument, NULL, 'L'},
		{"late-ms", required_argument, NULL, 'm'},
		{NULL, 0, NULL, 0},
	};
	enum store_bug bug = STORE_CORRECT;
	unsigned every = 50;
	int journal = -1, c;

	s->late_ns = 50 * 1000000ull;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		unsigned long num = c == '?' ? 0 : strtoul(optarg, NULL, 0);

		if (c == 'j')
			journal = open(optarg, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		else if (c == 'b')
			bug = store_bug_find(optarg);
		else if (c == 'e')
			every = (unsigned)num;
		else if (c == 's')
			s->seed = num;
		else if (c == 'l' || c == 'd' || c == 'L')
			*(c == 'l' ? &s->loss : c == 'd' ? &s->twice : &s->late) = (unsigned)num;
		else if (c == 'm')
			s->late_ns = num * 1000000ull;
		else
			return -1;
		if (c == 'j' && journal < 0)
			return -1;
	}
	if (bug == STORE_BUGS || optind != argc)
		return -1;
	store_init(&s->store, bug, every, journal);
	return 0;
}

int main(int argc, char **argv)
{
	struct server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s || server_parse(s, argc, argv)) {
		fputs(usage, stderr);
		free(s);
		return 2;
	}
	for (unsigned i = 0; i < CONN_MAX; i++)
		s->conn[i].fd = -1;
	rc = server_open(s);
	if (rc)
		fprintf(stderr, "kvserver: cannot start: %s\n", strerror(-rc));
	else
		rc = server_loop(s);
	free(s);
	return rc ? 2 : 0;
}
