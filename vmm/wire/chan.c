/* Sockets of streams: connect, listen, accept. */
#define _GNU_SOURCE /* accept4 */
#include "vmm/wire/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/loop.h"
#include "vmm/wire/chan_io.h"

#define BACKLOG 16

static int set_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return -errno;
	return 0;
}

static int unix_address(const struct chan_uri *u, struct sockaddr_un *sa, struct err *e)
{
	size_t len = strlen(u->path);

	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (!len || len >= sizeof(sa->sun_path))
		return err_set(e, -EINVAL, "unix:%s: the path must have 1 to %zu bytes", u->path,
			       sizeof(sa->sun_path) - 1);
	memcpy(sa->sun_path, u->path, len);
	return 0;
}

static bool over_tcp(const struct chan_uri *u)
{
	return u->kind == CHAN_TCP || u->kind == CHAN_TLS;
}

/* Blocks in the resolver when host is a name: /etc/hosts or a numeric address does not. */
static int tcp_addresses(const struct chan_uri *u, int flags, struct addrinfo **ret, struct err *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
	int r = getaddrinfo(u->host, u->port, &hints, ret);

	if (r)
		return err_set(e, -EHOSTUNREACH, "%s:%s:%s: %s; check the name or use an address",
			       chan_scheme(u->kind), u->host, u->port, gai_strerror(r));
	return 0;
}

static int start_one(int family, const struct sockaddr *sa, socklen_t len)
{
	int r, fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	chan_set_options(fd, CHAN_USER_TIMEOUT_MS);
	if (!connect(fd, sa, len) || errno == EINPROGRESS)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static int start_unix(const struct chan_uri *u, int *ret_fd, struct err *e)
{
	struct sockaddr_un sa;
	int fd, r = unix_address(u, &sa, e);

	if (r)
		return r;
	fd = start_one(AF_UNIX, (struct sockaddr *)&sa, sizeof(sa));
	if (fd < 0)
		return err_set(e, fd, "unix:%s: cannot connect: %s", u->path, strerror(-fd));
	*ret_fd = fd;
	return 0;
}

static int start_fd(const struct chan_uri *u, int *ret_fd, struct err *e)
{
	int r = set_nonblock(u->fd);

	if (r)
		return err_set(e, r, "fd:%d: is not an open file descriptor", u->fd);
	chan_set_options(u->fd, CHAN_USER_TIMEOUT_MS);
	*ret_fd = u->fd;
	return 0;
}

int chan_resolve(char *text, size_t cap, struct err *e)
{
	struct addrinfo *list;
	struct chan_uri u;
	char host[256];
	bool six;
	int r = chan_parse(text, &u, e);

	if (r || !over_tcp(&u))
		return r;
	r = tcp_addresses(&u, 0, &list, e);
	if (r)
		return r;
	six = list->ai_family == AF_INET6;
	r = getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof(host), NULL, 0,
			NI_NUMERICHOST);
	freeaddrinfo(list);
	if (r)
		return err_set(e, -EHOSTUNREACH, "%s: %s", text, gai_strerror(r));
	snprintf(text, cap, six ? "%s:[%s]:%s" : "%s:%s:%s", chan_scheme(u.kind), host, u.port);
	return 0;
}

int chan_check_address(const char *text, struct err *e)
{
	struct addrinfo *list;
	struct chan_uri u;
	int r = chan_parse(text, &u, e);

	if (r || !over_tcp(&u))
		return r;
	r = tcp_addresses(&u, AI_NUMERICHOST, &list, e);
	if (!r)
		freeaddrinfo(list);
	return r;
}

static int start_tcp(const struct chan_uri *u, int *ret_fd, struct err *e)
{
	struct addrinfo *list;
	int fd = -EADDRNOTAVAIL, r = tcp_addresses(u, AI_NUMERICHOST, &list, e);

	if (r)
		return r;
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = start_one(a->ai_family, a->ai_addr, a->ai_addrlen);
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(e, fd, "%s:%s:%s: cannot connect: %s", chan_scheme(u->kind), u->host,
			       u->port, strerror(-fd));
	*ret_fd = fd;
	return 0;
}

int chan_connect_start(const struct chan_uri *u, int *ret_fd, struct err *e)
{
	switch (u->kind) {
	case CHAN_TCP:
	case CHAN_TLS:
		return start_tcp(u, ret_fd, e);
	case CHAN_UNIX:
		return start_unix(u, ret_fd, e);
	case CHAN_FD:
		return start_fd(u, ret_fd, e);
	default:
		return err_set(e, -EINVAL, "file:%s: a file cannot be connected to", u->path);
	}
}

int chan_connected(int fd, struct err *e)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len))
		return errno == ENOTSOCK ? 0 : err_sys(e, "connection");
	if (error)
		return err_set(e, -error, "cannot connect: %s", strerror(error));
	len = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &len) && errno == ENOTCONN)
		return err_set(e, -EINPROGRESS, "still connecting");
	return 0;
}

/* Wait for a connect under way. The fd is closed when it fails. */
static int finish(int fd, uint64_t deadline_ns)
{
	int r = chan_wait_fd(fd, POLLOUT, deadline_ns);

	if (!r)
		r = chan_connected(fd, NULL);
	if (!r)
		return fd;
	close(fd);
	return r;
}

/* Every address of the name in turn; the deadline is for all of them together. */
static int connect_tcp(const struct chan_uri *u, uint64_t deadline_ns, struct err *e)
{
	struct addrinfo *list;
	int fd = -EADDRNOTAVAIL, r = tcp_addresses(u, 0, &list, e);

	if (r)
		return r;
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		fd = start_one(a->ai_family, a->ai_addr, a->ai_addrlen);
		if (fd >= 0)
			fd = finish(fd, deadline_ns);
	}
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(e, fd, "%s:%s:%s: cannot connect: %s", chan_scheme(u->kind), u->host,
			       u->port, strerror(-fd));
	return fd;
}

/* A listener with a full backlog says EAGAIN at once and cannot be polled for: look every 1 ms. */
static int connect_unix(const struct chan_uri *u, uint64_t deadline_ns, struct err *e)
{
	struct err inner;
	int fd, r;

	for (;;) {
		memset(&inner, 0, sizeof(inner));
		r = start_unix(u, &fd, &inner);
		if (!r)
			return fd;
		if (r != -EAGAIN || loop_now_ns() >= deadline_ns)
			return err_set(e, r == -EAGAIN ? -ETIMEDOUT : r, "%s", inner.msg);
		chan_wait_fd(-1, 0, loop_now_ns() + 1000000);
	}
}

int chan_connect(const struct chan_uri *u, int timeout_ms, struct err *e)
{
	uint64_t deadline_ns =
		loop_now_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
	int fd, r;

	if (u->kind == CHAN_TCP)
		return connect_tcp(u, deadline_ns, e);
	if (u->kind == CHAN_UNIX)
		return connect_unix(u, deadline_ns, e);
	r = chan_connect_start(u, &fd, e);
	return r ? r : fd;
}

static int bind_listen(int family, const struct sockaddr *sa, socklen_t len)
{
	int one = 1, r, fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (family == AF_UNIX)
		fchmod(fd, 0600); /* becomes the mode of the socket file */
	else
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!bind(fd, sa, len) && !listen(fd, BACKLOG))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static int listen_tcp(const struct chan_uri *u, struct err *e)
{
	struct addrinfo *list;
	int fd = -EADDRNOTAVAIL, r = tcp_addresses(u, AI_PASSIVE, &list, e);

	if (r)
		return r;
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = bind_listen(a->ai_family, a->ai_addr, a->ai_addrlen);
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(e, fd, "%s:%s:%s: cannot listen: %s%s", chan_scheme(u->kind),
			       u->host, u->port, strerror(-fd),
			       fd == -EADDRINUSE      ? "; `ss -tlnp` shows by whom"
			       : fd == -EADDRNOTAVAIL ? "; `ip address` shows those of this host"
						      : "");
	return fd;
}

/* 1: there is a socket that nobody listens on any more; 0: there is nothing. */
static int look_at_path(const struct chan_uri *u, const struct sockaddr_un *sa, struct err *e)
{
	struct stat st;
	int fd;

	if (lstat(u->path, &st))
		return errno == ENOENT ? 0 : err_sys(e, "unix:%s", u->path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "unix:%s: exists and is not a socket", u->path);
	fd = start_one(AF_UNIX, (const struct sockaddr *)sa, sizeof(*sa));
	if (fd >= 0)
		close(fd);
	if (fd >= 0 || fd == -EAGAIN)
		return err_set(e, -EADDRINUSE, "unix:%s: another process listens there", u->path);
	return fd == -ECONNREFUSED ? 1 : err_set(e, fd, "unix:%s: %s", u->path, strerror(-fd));
}

static int listen_unix(const struct chan_uri *u, struct err *e)
{
	struct sockaddr_un sa;
	int fd, r = unix_address(u, &sa, e);

	if (!r)
		r = look_at_path(u, &sa, e);
	if (r < 0)
		return r;
	if (r && unlink(u->path) && errno != ENOENT)
		return err_sys(e, "unix:%s: cannot remove the stale socket", u->path);
	fd = bind_listen(AF_UNIX, (struct sockaddr *)&sa, sizeof(sa));
	if (fd < 0)
		return err_set(e, fd, "unix:%s: cannot listen: %s", u->path, strerror(-fd));
	return fd;
}

static int try_unix(const struct chan_uri *u, struct err *e)
{
	char folder[sizeof(u->path)];
	struct sockaddr_un sa;
	int r = unix_address(u, &sa, e);

	if (!r)
		r = look_at_path(u, &sa, e);
	memcpy(folder, u->path, sizeof(folder));
	if (r >= 0 && access(dirname(folder), W_OK | X_OK))
		r = err_sys(e, "unix:%s: cannot be made", u->path);
	return r < 0 ? r : 0;
}

static int try_fd(const struct chan_uri *u, struct err *e)
{
	socklen_t len = sizeof(int);
	int listens = 0;

	if (fcntl(u->fd, F_GETFL) < 0)
		return err_set(e, -errno, "fd:%d: is not an open file descriptor", u->fd);
	if (getsockopt(u->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) || !listens)
		return err_set(e, -EINVAL, "fd:%d: is not a listening socket", u->fd);
	return 0;
}

static int listen_fd(const struct chan_uri *u, struct err *e)
{
	int r = try_fd(u, e);

	if (!r)
		r = set_nonblock(u->fd);
	return r < 0 ? err_set(e, r, "fd:%d: %s", u->fd, strerror(-r)) : u->fd;
}

int chan_listen(const struct chan_uri *u, struct err *e)
{
	switch (u->kind) {
	case CHAN_TCP:
	case CHAN_TLS:
		return listen_tcp(u, e);
	case CHAN_UNIX:
		return listen_unix(u, e);
	case CHAN_FD:
		return listen_fd(u, e);
	default:
		return err_set(e, -EINVAL, "file:%s: cannot listen on a file", u->path);
	}
}

int chan_try_listen(const struct chan_uri *u, struct err *e)
{
	int fd;

	if (u->kind == CHAN_UNIX)
		return try_unix(u, e);
	if (u->kind == CHAN_FD)
		return try_fd(u, e);
	fd = chan_listen(u, e);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

int chan_accept(int lfd, struct err *e)
{
	int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		chan_set_options(fd, CHAN_USER_TIMEOUT_MS);
		return fd;
	}
	/* Gone before we took it, or a signal: as if it never came (accept(2)). */
	if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR || errno == EPROTO)
		return -EAGAIN;
	return err_sys(e, "accept");
}

int chan_set_options(int fd, int user_timeout_ms)
{
	int one = 1, count = 3, seconds = user_timeout_ms / 4000 > 0 ? user_timeout_ms / 4000 : 1;
	unsigned timeout = user_timeout_ms > 0 ? (unsigned)user_timeout_ms : 0;
	int domain = 0;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return errno == ENOTSOCK ? 0 : -errno;
	if (domain != AF_INET && domain != AF_INET6)
		return 0;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout)) ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds)) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds)) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count)))
		return -errno;
	return 0;
}
