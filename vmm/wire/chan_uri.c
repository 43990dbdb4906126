/* Parsing of addresses. */
#include "vmm/wire/chan.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define FORMS "tls:HOST:PORT, tcp:HOST:PORT, unix:PATH, fd:N or file:PATH"

const char *chan_scheme(enum chan_kind kind)
{
	static const char *const schemes[] = {[CHAN_TCP] = "tcp",
					      [CHAN_TLS] = "tls",
					      [CHAN_UNIX] = "unix",
					      [CHAN_FD] = "fd",
					      [CHAN_FILE] = "file"};

	return schemes[kind];
}

/* Decimal digits only, at most max; -1 when it is anything else. */
static long parse_number(const char *s, long max)
{
	long v = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -1;
		v = v * 10 + (*s - '0');
		if (v > max)
			return -1;
	}
	return v;
}

static int parse_tcp(const char *text, const char *rest, struct chan_uri *u, struct err *e)
{
	const char *host = rest, *end, *port, *scheme = chan_scheme(u->kind);

	if (*rest == '[') {
		host = rest + 1;
		end = strchr(host, ']');
		if (!end || end[1] != ':')
			return err_set(e, -EINVAL,
				       "'%s': ] and a port are missing; write %s:[ADDRESS]:PORT",
				       text, scheme);
		port = end + 2;
	} else {
		end = strrchr(rest, ':');
		if (!end)
			return err_set(e, -EINVAL, "'%s': port is missing; write %s:HOST:PORT",
				       text, scheme);
		if (memchr(rest, ':', (size_t)(end - rest)))
			return err_set(
				e, -EINVAL,
				"'%s': an IPv6 address needs brackets; write %s:[ADDRESS]:PORT",
				text, scheme);
		port = end + 1;
	}
	if (end == host)
		return err_set(
			e, -EINVAL,
			"'%s': host is missing; write %s:HOST:PORT, 0.0.0.0 for every address",
			text, scheme);
	if ((size_t)(end - host) >= sizeof(u->host))
		return err_set(e, -EINVAL, "'%.40s...': host is longer than %zu bytes", text,
			       sizeof(u->host) - 1);
	if (parse_number(port, 65535) < 0)
		return err_set(e, -EINVAL,
			       "'%s': port '%s' is not a number of 0..65535; write %s:HOST:PORT",
			       text, port, scheme);
	memcpy(u->host, host, (size_t)(end - host));
	snprintf(u->port, sizeof(u->port), "%ld", parse_number(port, 65535));
	return 0;
}

static int parse_path(const char *text, const char *rest, size_t max, struct chan_uri *u,
		      struct err *e)
{
	if (!*rest)
		return err_set(e, -EINVAL, "'%s': path is missing; write %sPATH", text, text);
	if (strlen(rest) > max)
		return err_set(e, -EINVAL,
			       "'%.40s...': path of %zu bytes, at most %zu are possible", text,
			       strlen(rest), max);
	strncpy(u->path, rest, sizeof(u->path) - 1);
	return 0;
}

static int parse_kind(const char *text, struct chan_uri *u, struct err *e)
{
	long fd;

	if (!strncmp(text, "tcp:", 4)) {
		u->kind = CHAN_TCP;
		return parse_tcp(text, text + 4, u, e);
	}
	if (!strncmp(text, "tls:", 4)) {
		u->kind = CHAN_TLS;
		return parse_tcp(text, text + 4, u, e);
	}
	if (!strncmp(text, "unix:", 5)) {
		u->kind = CHAN_UNIX;
		return parse_path(text, text + 5, sizeof(((struct sockaddr_un *)0)->sun_path) - 1,
				  u, e);
	}
	if (!strncmp(text, "file:", 5)) {
		u->kind = CHAN_FILE;
		return parse_path(text, text + 5, CHAN_FILE_PATH_MAX, u, e);
	}
	if (!strncmp(text, "fd:", 3)) {
		fd = parse_number(text + 3, 1 << 20);
		if (fd < 0)
			return err_set(e, -EINVAL,
				       "'%.40s': '%.20s' is not a file descriptor; write fd:N",
				       text, text + 3);
		u->kind = CHAN_FD;
		u->fd = (int)fd;
		return 0;
	}
	return err_set(e, -EINVAL, "'%.80s' is not an address; write " FORMS, text);
}

int chan_parse(const char *text, struct chan_uri *ret, struct err *e)
{
	struct chan_uri u = {.fd = -1};
	int r = parse_kind(text, &u, e);

	if (!r)
		*ret = u;
	return r;
}

static bool v4_leaves(struct in_addr a)
{
	return ntohl(a.s_addr) >> 24 != IN_LOOPBACKNET;
}

static bool v6_leaves(struct in6_addr a)
{
	return !IN6_IS_ADDR_LOOPBACK(&a);
}

static bool socket_is_open(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_storage room;
	} at;
	socklen_t len = sizeof(at);

	if (getsockname(fd, &at.any, &len) < 0)
		return false; /* its use will say so */
	return at.any.sa_family == AF_INET    ? v4_leaves(at.v4.sin_addr)
	       : at.any.sa_family == AF_INET6 ? v6_leaves(at.v6.sin6_addr)
					      : false;
}

bool chan_is_open(const struct chan_uri *u)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (u->kind == CHAN_FD)
		return socket_is_open(u->fd);
	if (u->kind != CHAN_TCP || !strcmp(u->host, "localhost"))
		return false;
	if (inet_pton(AF_INET, u->host, &v4) == 1)
		return v4_leaves(v4);
	return inet_pton(AF_INET6, u->host, &v6) != 1 || v6_leaves(v6);
}
