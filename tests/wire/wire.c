/*
 * wire: a TCP proxy between two hosts under test that delays, squeezes, cuts, swallows and damages
 * on command. See README.md.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/wire/proxy.h"

#define CTL_MAX	   16
#define WIRE_BATCH 64

static const char usage[] =
	"usage: wire --listen IP:PORT --to IP:PORT [--listen IP:PORT --to IP:PORT]... [--ctl "
	"PATH]\n"
	"            [--seed S]\n"
	"Prints the port of each listener (port 0: any), then forwards until SIGTERM.\n"
	"Commands on the control socket, one per line: delay MS [jitter MS] | rate BYTES/S | cut "
	"|\n"
	"blackhole both|a2b|b2a | heal | refuse | accept | flip N [a2b|b2a] | truncate [a2b|b2a] "
	"|\n"
	"after BYTES a2b|b2a COMMAND | stats\n";

struct ctl {
	int fd; /* -1: free */
	size_t used;
	char line[PROXY_CTL_LINE];
};

struct wire {
	struct proxy proxy;
	int ctl, sig, timer;
	const char *path;
	struct ctl client[CTL_MAX];
};

static bool wire_parse_addr(const char *arg, struct sockaddr_in *a)
{
	const char *colon = strrchr(arg, ':');
	char host[64], *end;
	unsigned long port;

	if (!colon || (size_t)(colon - arg) >= sizeof(host))
		return false;
	memcpy(host, arg, (size_t)(colon - arg));
	host[colon - arg] = 0;
	port = strtoul(colon + 1, &end, 10);
	*a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return end != colon + 1 && !*end && port < 65536 &&
	       inet_pton(AF_INET, host, &a->sin_addr) == 1;
}

static int wire_watch(struct wire *w, int fd, void *tag)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};

	return fd < 0 || epoll_ctl(w->proxy.ep, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int wire_open_ctl(struct wire *w)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (!w->path)
		return 0;
	if (strlen(w->path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	memcpy(a.sun_path, w->path, strlen(w->path));
	w->ctl = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	unlink(w->path); /* of a run that was killed */
	if (w->ctl < 0 || bind(w->ctl, (struct sockaddr *)&a, sizeof(a)) || listen(w->ctl, 8))
		return -errno;
	return wire_watch(w, w->ctl, &w->ctl);
}

static int wire_open(struct wire *w)
{
	sigset_t set;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	w->sig = signalfd(-1, &set, SFD_CLOEXEC);
	w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	for (unsigned i = 0; i < CTL_MAX; i++)
		w->client[i].fd = -1;
	rc = wire_watch(w, w->sig, &w->sig);
	if (!rc)
		rc = wire_watch(w, w->timer, &w->timer);
	return rc ? rc : wire_open_ctl(w);
}

static void wire_accept_ctl(struct wire *w)
{
	int fd = accept4(w->ctl, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (unsigned i = 0; fd >= 0 && i < CTL_MAX; i++) {
		if (w->client[i].fd >= 0)
			continue;
		if (wire_watch(w, fd, &w->client[i]))
			break;
		w->client[i] = (struct ctl){.fd = fd};
		return;
	}
	if (fd >= 0)
		close(fd);
}

static void wire_close_ctl(struct ctl *c)
{
	close(c->fd);
	c->fd = -1;
}

static void wire_run_ctl(struct wire *w, struct ctl *c)
{
	ssize_t n = read(c->fd, c->line + c->used, sizeof(c->line) - c->used - 1);
	char reply[512], *end;

	if (n <= 0) {
		wire_close_ctl(c);
		return;
	}
	c->used += (size_t)n;
	c->line[c->used] = 0;
	while ((end = memchr(c->line, '\n', c->used))) {
		size_t len = (size_t)(end - c->line) + 1;

		*end = 0;
		proxy_command(&w->proxy, c->line, reply, sizeof(reply) - 1);
		strcat(reply, "\n");
		/* A reply fits the socket's buffer; a client that does not read them is cut off. */
		if (send(c->fd, reply, strlen(reply), MSG_NOSIGNAL) != (ssize_t)strlen(reply)) {
			wire_close_ctl(c);
			return;
		}
		c->used -= len;
		memmove(c->line, c->line + len, c->used);
	}
	if (c->used == sizeof(c->line) - 1)
		wire_close_ctl(c);
}

static void wire_arm(struct wire *w, uint64_t at)
{
	struct itimerspec t = {0};

	if (at != PROXY_NEVER) {
		t.it_value.tv_sec = (time_t)(at / 1000000000ull);
		t.it_value.tv_nsec = (long)(at % 1000000000ull);
	}
	timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* Which of our own sockets, or a link's end. False at SIGTERM. */
static bool wire_dispatch(struct wire *w, const struct epoll_event *ev)
{
	void *tag = ev->data.ptr;
	uint64_t count;

	if (tag == &w->sig)
		return false;
	if (tag == &w->timer) {
		if (read(w->timer, &count, sizeof(count)) < 0)
			return true; /* re-armed meanwhile */
	} else if (tag == &w->ctl) {
		wire_accept_ctl(w);
	} else if (tag == &w->proxy.tag_listener) {
		return true; /* proxy_accept runs after every batch */
	} else if ((char *)tag >= (char *)w->client &&
		   (char *)tag < (char *)(w->client + CTL_MAX)) {
		wire_run_ctl(w, tag);
	} else {
		proxy_event(tag, ev->events);
	}
	return true;
}

/* Links are freed only in proxy_run, so that no event of a batch points to a freed one. */
static int wire_loop(struct wire *w)
{
	for (;;) {
		struct epoll_event ev[WIRE_BATCH];
		int n;

		wire_arm(w, proxy_run(&w->proxy));
		n = epoll_wait(w->proxy.ep, ev, WIRE_BATCH, -1);
		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++)
			if (!wire_dispatch(w, &ev[i]))
				return 0;
		proxy_accept(&w->proxy);
	}
}

static int wire_parse(struct wire *w, int argc, char **argv)
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, 'l'},
		{"to", required_argument, NULL, 't'},
		{"ctl", required_argument, NULL, 'c'},
		{"seed", required_argument, NULL, 's'},
		{NULL, 0, NULL, 0},
	};
	struct sockaddr_in at, to;
	bool listening = false;
	int c, port;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's') {
			w->proxy.rng = strtoull(optarg, NULL, 0);
		} else if (c == 'c') {
			w->path = optarg;
		} else if (c == 'l' && !listening && wire_parse_addr(optarg, &at)) {
			listening = true;
		} else if (c == 't' && listening && wire_parse_addr(optarg, &to)) {
			listening = false;
			port = proxy_listen(&w->proxy, &at, &to);
			if (port < 0)
				return port;
			printf("%d\n", port);
		} else {
			return -EINVAL;
		}
	}
	return listening || optind != argc || !w->proxy.nlisteners ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
	struct wire *w = calloc(1, sizeof(*w));
	int rc = -ENOMEM;

	if (w) {
		proxy_init(&w->proxy, 1);
		rc = wire_parse(w, argc, argv);
	}
	if (rc == -EINVAL)
		fputs(usage, stderr);
	if (!rc)
		rc = wire_open(w);
	if (!rc) {
		fflush(stdout); /* the ports: everything is ready now */
		rc = wire_loop(w);
	}
	if (rc)
		fprintf(stderr, "wire: %s\n", strerror(-rc));
	if (w && w->path)
		unlink(w->path);
	if (w)
		proxy_free(&w->proxy);
	free(w);
	return rc ? 2 : 0;
}
