/* Links: accepting, connecting, epoll interest, and their end. */
#define _GNU_SOURCE
#include "tests/wire/proxy.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t proxy_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

uint64_t proxy_random(struct proxy *p, uint64_t below)
{
	uint64_t x = p->rng += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	x ^= x >> 31;
	return below ? x % below : 0;
}

void proxy_init(struct proxy *p, uint64_t seed)
{
	memset(p, 0, sizeof(*p));
	p->rng = seed;
	p->dir[PROXY_A].flip_at = PROXY_NEVER;
	p->dir[PROXY_B].flip_at = PROXY_NEVER;
	p->ep = epoll_create1(EPOLL_CLOEXEC);
}

int proxy_listen(struct proxy *p, const struct sockaddr_in *at, const struct sockaddr_in *to)
{
	/* Edges: what waits in the backlog of a black hole must not keep us awake. */
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = &p->tag_listener};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, rc;
	struct sockaddr_in bound;
	socklen_t len = sizeof(bound);

	if (fd < 0 || p->nlisteners == PROXY_LISTENERS)
		return fd < 0 ? -errno : -ENOSPC;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) || listen(fd, 128) ||
	    getsockname(fd, (struct sockaddr *)&bound, &len) ||
	    epoll_ctl(p->ep, EPOLL_CTL_ADD, fd, &ev)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	p->listener[p->nlisteners].fd = fd;
	p->listener[p->nlisteners++].to = *to;
	return ntohs(bound.sin_port);
}

/* A close that the peer sees as a reset. */
static void proxy_close_hard(int fd)
{
	struct linger now = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* Over in both directions, or truncated: close in peace. Anything else: reset both sides. */
static void link_close(struct link *l)
{
	struct proxy *p = l->proxy;
	bool peace = (l->flow[PROXY_A].finished && l->flow[PROXY_B].finished &&
		      !l->flow[PROXY_A].dead && !l->flow[PROXY_B].dead) ||
		     (l->flow[PROXY_A].finished && l->flow[PROXY_A].close_after) ||
		     (l->flow[PROXY_B].finished && l->flow[PROXY_B].close_after);

	for (int s = PROXY_A; s <= PROXY_B; s++) {
		if (peace)
			close(l->end[s].fd);
		else
			proxy_close_hard(l->end[s].fd);
		flow_free(&l->flow[s]);
	}
	if (l->prev)
		l->prev->next = l->next;
	else
		p->links = l->next;
	if (l->next)
		l->next->prev = l->prev;
	p->nlinks--;
	free(l);
}

/* Ask epoll for exactly what can be acted on: a hang-up that is to be held must not wake us. */
static void link_update(struct link *l)
{
	for (int s = PROXY_A; s <= PROXY_B; s++) {
		struct proxy_end *e = &l->end[s];
		struct epoll_event ev = {.data.ptr = e};
		int op;

		if (flow_wants_read(l, s))
			ev.events |= EPOLLIN;
		if (l->flow[!s].blocked || (l->connecting && s == PROXY_B))
			ev.events |= EPOLLOUT;
		if (ev.events == e->events)
			continue;
		op = !e->events ? EPOLL_CTL_ADD : ev.events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
		if (epoll_ctl(l->proxy->ep, op, e->fd, &ev))
			l->gone = true;
		e->events = ev.events;
	}
}

static int link_open(struct proxy *p, int a, const struct sockaddr_in *to)
{
	int b = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	struct link *l = calloc(1, sizeof(*l));

	if (b < 0 || !l ||
	    (connect(b, (const struct sockaddr *)to, sizeof(*to)) && errno != EINPROGRESS)) {
		int rc = l ? -errno : -ENOMEM;

		if (b >= 0)
			close(b);
		free(l);
		return rc;
	}
	setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	l->proxy = p;
	l->connecting = true;
	l->end[PROXY_A] = (struct proxy_end){.link = l, .side = PROXY_A, .fd = a};
	l->end[PROXY_B] = (struct proxy_end){.link = l, .side = PROXY_B, .fd = b};
	l->next = p->links;
	if (l->next)
		l->next->prev = l;
	p->links = l;
	p->nlinks++;
	p->accepted++;
	return 0;
}

void proxy_accept(struct proxy *p)
{
	for (unsigned i = 0; i < p->nlisteners; i++) {
		/* In a black hole no handshake would end: newcomers stay in the backlog. */
		while (!p->dir[PROXY_A].hole && !p->dir[PROXY_B].hole) {
			int fd = accept4(p->listener[i].fd, NULL, NULL,
					 SOCK_NONBLOCK | SOCK_CLOEXEC);

			if (fd < 0)
				break;
			if (!p->refuse && !link_open(p, fd, &p->listener[i].to))
				continue;
			p->refused++;
			proxy_close_hard(fd);
		}
	}
}

static void link_connected(struct link *l)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(l->end[PROXY_B].fd, SOL_SOCKET, SO_ERROR, &err, &len) || err)
		l->gone = true;
	l->connecting = false;
}

void proxy_event(struct proxy_end *e, uint32_t events)
{
	struct link *l = e->link;

	if (l->connecting) {
		if (e->side == PROXY_B)
			link_connected(l);
		return;
	}
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		l->flow[!e->side].blocked = false;
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		flow_read(l, e->side, proxy_now());
}

/* With a rate limit, every link gets its turn to be the first. */
static uint64_t proxy_pump(struct proxy *p, uint64_t now)
{
	unsigned first = p->rate && p->nlinks ? p->turn++ % p->nlinks : 0;
	uint64_t again = PROXY_NEVER;

	for (unsigned pass = 0; pass < 2; pass++) {
		unsigned i = 0;

		for (struct link *l = p->links; l; l = l->next, i++) {
			for (int s = PROXY_A; s <= PROXY_B && (i < first) == pass; s++) {
				uint64_t t = flow_pump(l, s, now);

				again = t < again ? t : again;
			}
		}
	}
	return again;
}

uint64_t proxy_run(struct proxy *p)
{
	uint64_t again = proxy_pump(p, proxy_now());

	for (struct link *l = p->links; l; l = l->next) {
		if (l->flow[PROXY_A].finished && l->flow[PROXY_B].finished)
			l->gone = true;
		if (!l->gone)
			link_update(l);
	}
	/* Last, as a command that waited for a byte count may have ended any of them. */
	for (struct link *l = p->links, *next; l; l = next) {
		next = l->next;
		if (l->gone)
			link_close(l);
	}
	return again;
}

void proxy_reset_all(struct proxy *p)
{
	for (struct link *l = p->links; l; l = l->next)
		l->gone = true;
}

void proxy_free(struct proxy *p)
{
	while (p->links)
		link_close(p->links);
	for (unsigned i = 0; i < p->nlisteners; i++)
		close(p->listener[i].fd);
	close(p->ep);
}
