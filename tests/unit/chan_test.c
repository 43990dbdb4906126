/* Addresses, sockets and snapshot files. Nothing leaves the loopback device or a directory of its
 * own. */
#define _GNU_SOURCE /* pipe2 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"
#include "vmm/base/loop.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char dir[64];

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/chan_test.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return rmdir(dir); /* fails when a test left something behind */
}

static const char *in_dir(const char *prefix, const char *name)
{
	static char buf[256];

	snprintf(buf, sizeof(buf), "%s%s/%s", prefix, dir, name);
	return buf;
}

static int write_fd(int fd, const struct iovec *iov, int niov, uint64_t deadline_ns)
{
	struct chan c = chan_of(fd);

	return chan_write(&c, iov, niov, deadline_ns);
}

static struct chan_uri parse(const char *text)
{
	struct chan_uri u;
	struct err e = {0};

	if (chan_parse(text, &u, &e))
		fail_msg("%s: %s", text, e.msg);
	return u;
}

static void good_addresses_are_parsed(void **state)
{
	struct chan_uri u = parse("tcp:10.0.0.1:4444");

	assert_int_equal(u.kind, CHAN_TCP);
	assert_string_equal(u.host, "10.0.0.1");
	assert_string_equal(u.port, "4444");
	u = parse("tcp:[fe80::1%eth0]:65535");
	assert_string_equal(u.host, "fe80::1%eth0");
	assert_string_equal(u.port, "65535");
	u = parse("tcp:host-b.example:0000000000080");
	assert_string_equal(u.host, "host-b.example");
	assert_string_equal(u.port, "80");
	u = parse("tls:[::1]:7000");
	assert_int_equal(u.kind, CHAN_TLS);
	assert_string_equal(u.host, "::1");
	u = parse("unix:/run/a:b");
	assert_int_equal(u.kind, CHAN_UNIX);
	assert_string_equal(u.path, "/run/a:b");
	u = parse("fd:7");
	assert_int_equal(u.kind, CHAN_FD);
	assert_int_equal(u.fd, 7);
	u = parse("file:snap");
	assert_int_equal(u.kind, CHAN_FILE);
	assert_string_equal(u.path, "snap");
}

static void bad_addresses_show_the_right_form(void **state)
{
	static const char *const cases[][2] = {
		{"", "tls:HOST:PORT, tcp:HOST:PORT, unix:PATH, fd:N or file:PATH"},
		{"tls:a", "write tls:HOST:PORT"},
		{"tls:::1", "write tls:[ADDRESS]:PORT"},
		{"10.0.0.1:4444", "tcp:HOST:PORT"},
		{"TCP:a:1", "tcp:HOST:PORT"},
		{"tcp", "tcp:HOST:PORT"},
		{"tcp:", "port is missing; write tcp:HOST:PORT"},
		{"tcp:host", "port is missing"},
		{"tcp::4444", "host is missing"},
		{"tcp:[]:4444", "host is missing"},
		{"tcp:host:", "not a number of 0..65535"},
		{"tls:host:65536", "not a number of 0..65535; write tls:HOST:PORT"},
		{"tcp:host:99999999999999999999", "not a number"},
		{"tcp:host:-1", "not a number"},
		{"tcp:host:+1", "not a number"},
		{"tcp:host: 1", "not a number"},
		{"tcp:host:1x", "not a number"},
		{"tcp:host:http", "not a number"},
		{"tcp:fe80::1:4444", "write tcp:[ADDRESS]:PORT"},
		{"tcp:[fe80::1", "write tcp:[ADDRESS]:PORT"},
		{"tcp:[fe80::1]", "write tcp:[ADDRESS]:PORT"},
		{"tcp:[fe80::1]4444", "write tcp:[ADDRESS]:PORT"},
		{"unix:", "path is missing; write unix:PATH"},
		{"file:", "path is missing; write file:PATH"},
		{"fd:", "write fd:N"},
		{"fd:x", "write fd:N"},
		{"fd:-1", "write fd:N"},
		{"fd:99999999999", "write fd:N"},
	};

	for (unsigned i = 0; i < COUNT(cases); i++) {
		struct chan_uri u = {.fd = 12345};
		struct err e = {0};

		assert_int_equal(chan_parse(cases[i][0], &u, &e), -EINVAL);
		assert_int_equal(u.fd, 12345); /* untouched */
		if (!strstr(e.msg, cases[i][1]))
			fail_msg("%s: '%s' does not say '%s'", cases[i][0], e.msg, cases[i][1]);
	}
}

static void long_addresses_are_refused(void **state)
{
	static const struct {
		const char *prefix, *suffix;
		size_t max;
	} cases[] = {{"tcp:", ":1", 255}, {"unix:", "", 107}, {"file:", "", 251}};
	char text[1024];

	for (unsigned i = 0; i < COUNT(cases); i++)
		for (size_t n = cases[i].max; n <= cases[i].max + 300;
		     n += n > cases[i].max ? 99 : 1) {
			struct chan_uri u;
			struct err e = {0};

			snprintf(text, sizeof(text), "%s%0*d%s", cases[i].prefix, (int)n, 0,
				 cases[i].suffix);
			assert_int_equal(chan_parse(text, &u, &e), n > cases[i].max ? -EINVAL : 0);
		}
}

/* Listen on a free port of host; *ret is where to connect to. */
static int listen_tcp(const char *host, struct chan_uri *ret)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	char text[64];
	int fd;

	snprintf(text, sizeof(text), "tcp:%s:0", host);
	*ret = parse(text);
	fd = chan_listen(ret, NULL);
	if (fd < 0)
		return fd;
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	/* the port is at the same place in both families */
	snprintf(ret->port, sizeof(ret->port), "%u", ntohs(((struct sockaddr_in *)&sa)->sin_port));
	return fd;
}

static int accept_wait(int lfd)
{
	struct pollfd p = {.fd = lfd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 20000), 1);
	return chan_accept(lfd, NULL);
}

static int option(int fd, int level, int name)
{
	int v = -1;
	socklen_t len = sizeof(v);

	assert_int_equal(getsockopt(fd, level, name, &v, &len), 0);
	return v;
}

static void check_pair(int a, int b)
{
	char buf[8] = {0};

	assert_true(fcntl(a, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(b, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(a, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(b, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write_fd(a, &(struct iovec){"ping", 4}, 1, loop_now_ns() + 20000000000ull),
			 0);
	assert_int_equal(poll(&(struct pollfd){.fd = b, .events = POLLIN}, 1, 20000), 1);
	assert_int_equal(read(b, buf, sizeof(buf)), 4);
	assert_string_equal(buf, "ping");
}

static void check_tcp(const char *host)
{
	struct chan_uri u;
	int lfd = listen_tcp(host, &u), a, b;

	if (lfd == -EADDRNOTAVAIL || lfd == -EAFNOSUPPORT || lfd == -EHOSTUNREACH)
		return; /* this machine has no such address */
	assert_true(lfd >= 0);
	assert_int_equal(chan_accept(lfd, NULL), -EAGAIN);
	a = chan_connect(&u, 20000, NULL);
	assert_true(a >= 0);
	b = accept_wait(lfd);
	assert_true(b >= 0);
	check_pair(a, b);
	for (int i = 0; i < 2; i++) {
		int fd = i ? a : b;

		assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
		assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), CHAN_USER_TIMEOUT_MS);
		assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
		assert_int_equal(chan_set_options(fd, 300), 0);
		assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 300);
	}
	close(a);
	close(b);
	close(lfd);
}

static void tcp_connects(void **state)
{
	check_tcp("127.0.0.1");
	check_tcp("[::1]");
	check_tcp("localhost");
}

/* The loop connects without a name server, which may take long. */
static void names_are_resolved_beforehand(void **state)
{
	struct chan_uri u = {.kind = CHAN_TCP, .host = "localhost", .port = "1"};
	struct err e = {0};
	char text[64] = "tcp:localhost:007";
	int fd;

	assert_int_equal(chan_connect_start(&u, &fd, &e), -EHOSTUNREACH);
	assert_int_equal(chan_check_address(text, NULL), -EHOSTUNREACH);
	assert_int_equal(chan_resolve(text, sizeof(text), NULL), 0);
	assert_true(!strcmp(text, "tcp:127.0.0.1:7") || !strcmp(text, "tcp:[::1]:7"));
	assert_int_equal(chan_check_address(text, NULL), 0);
	u = parse(text);
	strcpy(text, "tcp:[::1]:7000");
	assert_int_equal(chan_check_address(text, NULL), 0);
	assert_int_equal(chan_resolve(text, sizeof(text), NULL), 0);
	assert_string_equal(text, "tcp:[::1]:7000");
	strcpy(text, "unix:/x");
	assert_int_equal(chan_resolve(text, sizeof(text), NULL), 0);
	assert_string_equal(text, "unix:/x");
	assert_int_equal(chan_check_address(text, NULL), 0);
	strcpy(text, "tcp:no such host:1");
	e.code = 0;
	assert_int_equal(chan_resolve(text, sizeof(text), &e), -EHOSTUNREACH);
	assert_non_null(strstr(e.msg, "use an address"));
}

static void connect_can_be_started_and_finished_later(void **state)
{
	struct chan_uri u;
	struct err e = {0};
	int lfd = listen_tcp("127.0.0.1", &u), fd = -1, b;

	assert_true(lfd >= 0);
	assert_int_equal(chan_connect_start(&u, &fd, NULL), 0);
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 20000), 1);
	assert_int_equal(chan_connected(fd, NULL), 0);
	b = accept_wait(lfd);
	check_pair(fd, b);
	close(fd);
	close(b);
	close(lfd); /* now nobody listens there */
	assert_int_equal(chan_connect_start(&u, &fd, NULL), 0);
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 20000), 1);
	assert_int_equal(chan_connected(fd, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.msg, "refused"));
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(chan_connected(fd, NULL), -EINPROGRESS);
	close(fd);
}

static void failed_connects_say_why(void **state)
{
	struct chan_uri u;
	struct err e = {0};
	int lfd = listen_tcp("127.0.0.1", &u);

	close(lfd);
	assert_int_equal(chan_connect(&u, 20000, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.msg, u.port));
	e.code = 0;
	u = parse(in_dir("unix:", "nobody"));
	assert_int_equal(chan_connect(&u, 20000, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "nobody"));
	e.code = 0;
	u = parse("tcp:0:1");
	strcpy(u.host, "no such host");
	assert_int_equal(chan_connect(&u, 20000, &e), -EHOSTUNREACH);
	e.code = 0;
	u = parse("fd:9999");
	assert_int_equal(chan_connect(&u, 20000, &e), -EBADF);
	assert_non_null(strstr(e.msg, "fd:9999"));
	u = parse("file:x");
	assert_int_equal(chan_connect(&u, 20000, NULL), -EINVAL);
	assert_int_equal(chan_listen(&u, NULL), -EINVAL);
}

static void unix_sockets_connect(void **state)
{
	struct chan_uri u = parse(in_dir("unix:", "sock"));
	struct stat st;
	int lfd = chan_listen(&u, NULL), a, b;

	assert_true(lfd >= 0);
	assert_int_equal(stat(u.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	a = chan_connect(&u, 20000, NULL);
	assert_true(a >= 0);
	b = chan_accept(lfd, NULL);
	assert_true(b >= 0);
	check_pair(a, b);
	assert_int_equal(chan_set_options(a, 100), 0);
	close(a);
	close(b);
	close(lfd);
	unlink(u.path);
}

static void only_stale_unix_sockets_are_replaced(void **state)
{
	struct chan_uri u = parse(in_dir("unix:", "sock"));
	struct err e = {0};
	int lfd = chan_listen(&u, NULL), second, fd;

	assert_true(lfd >= 0);
	assert_int_equal(chan_listen(&u, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "another process listens"));
	assert_int_equal(chan_try_listen(&u, NULL), -EADDRINUSE);
	for (int i = 0; i < 2; i++) {
		fd = chan_accept(lfd, NULL); /* a probe is no lasting guest */
		close(fd);
	}
	close(lfd); /* as after a crash: the name stays */
	assert_int_equal(chan_try_listen(&u, NULL), 0);
	assert_int_equal(access(u.path, F_OK), 0);
	second = chan_listen(&u, NULL);
	assert_true(second >= 0);
	fd = chan_connect(&u, 20000, NULL);
	assert_true(fd >= 0);
	close(fd);
	close(second);
	unlink(u.path);
	assert_int_equal(chan_try_listen(&u, NULL), 0);
	assert_int_equal(access(u.path, F_OK), -1);

	fd = open(u.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* somebody's file */
	close(fd);
	e.code = 0;
	assert_int_equal(chan_listen(&u, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "not a socket"));
	assert_int_equal(access(u.path, F_OK), 0);
	unlink(u.path);
}

static void full_backlogs_end_at_the_deadline(void **state)
{
	struct chan_uri u = parse(in_dir("unix:", "sock"));
	int lfd = chan_listen(&u, NULL), fds[64], n = 0;

	assert_true(lfd >= 0);
	while (n < 64 && (fds[n] = chan_connect(&u, 0, NULL)) >= 0)
		n++;
	assert_in_range(n, 1, 63);
	assert_int_equal(fds[n], -ETIMEDOUT);
	while (n--)
		close(fds[n]);
	close(lfd);
	unlink(u.path);
}

static void passed_fds_are_checked(void **state)
{
	struct chan_uri u = {.kind = CHAN_FD}, at;
	int p[2], lfd;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	u.fd = p[0];
	assert_int_equal(chan_connect(&u, 0, NULL), p[0]);
	assert_true(fcntl(p[0], F_GETFL) & O_NONBLOCK);
	assert_int_equal(chan_listen(&u, NULL), -EINVAL);
	close(p[0]);
	close(p[1]);
	lfd = listen_tcp("127.0.0.1", &at);
	u.fd = lfd;
	assert_int_equal(chan_listen(&u, NULL), lfd);
	close(lfd);
	u.fd = 9999;
	assert_int_equal(chan_listen(&u, NULL), -EBADF);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(chan_connected(p[1], NULL), 0);
	assert_int_equal(chan_set_options(p[1], 100), 0);
	close(p[0]);
	close(p[1]);
}

/* A socket that is handed in says where it is. */
static void passed_sockets_may_be_open(void **state)
{
	struct chan_uri u = {.kind = CHAN_FD}, at;

	u.fd = listen_tcp("127.0.0.1", &at);
	assert_false(chan_is_open(&u));
	close(u.fd);
	assert_false(chan_is_open(&u)); /* its use will say so */
	u.fd = listen_tcp("0.0.0.0", &at);
	assert_true(chan_is_open(&u));
	close(u.fd);
	u.fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_false(chan_is_open(&u));
	close(u.fd);
}

/* Many parts, more than a socket takes at once, to a reader that takes odd amounts. */
#define PARTS 150
#define BYTES 3000

struct reader {
	int fd;
	uint8_t *got;
	size_t have;
};

static void *read_odd(void *arg)
{
	struct reader *r = arg;
	ssize_t n;

	while (r->have < (size_t)PARTS * BYTES) {
		struct pollfd p = {.fd = r->fd, .events = POLLIN};

		n = read(r->fd, r->got + r->have, 1777);
		if (n > 0)
			r->have += (size_t)n;
		else if (!n || errno != EAGAIN)
			break;
		else
			poll(&p, 1, 20000);
	}
	return NULL;
}

static void check_write(int to, int from)
{
	uint8_t *data = malloc(PARTS * BYTES);
	struct reader r = {from, malloc(PARTS * BYTES), 0};
	struct iovec iov[PARTS + 2], copy[PARTS + 2];
	pthread_t t;

	assert_true(data && r.got);
	for (size_t i = 0; i < PARTS * BYTES; i++)
		data[i] = (uint8_t)(i * 31 + (i >> 8));
	iov[0] = iov[PARTS + 1] = (struct iovec){NULL, 0};
	for (size_t i = 0; i < PARTS; i++)
		iov[i + 1] = (struct iovec){data + i * BYTES, BYTES};
	memcpy(copy, iov, sizeof(iov));
	pthread_create(&t, NULL, read_odd, &r);
	assert_int_equal(write_fd(to, iov, PARTS + 2, loop_now_ns() + 20000000000ull), 0);
	pthread_join(t, NULL);
	assert_memory_equal(iov, copy, sizeof(iov)); /* the caller's vector is left alone */
	assert_int_equal(r.have, PARTS * BYTES);
	assert_memory_equal(r.got, data, PARTS * BYTES);
	free(data);
	free(r.got);
	close(to);
	close(from);
}

static void writes_are_whole(void **state)
{
	struct chan_uri u;
	int p[2], lfd, a;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p), 0);
	check_write(p[0], p[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	check_write(p[0], p[1]);
	assert_int_equal(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
	check_write(p[1], p[0]);
	lfd = listen_tcp("127.0.0.1", &u);
	a = chan_connect(&u, 20000, NULL);
	check_write(a, accept_wait(lfd));
	close(lfd);
}

static void writes_end_at_the_deadline(void **state)
{
	uint8_t *data = calloc(1, 1 << 20);
	struct iovec iov = {data, 1 << 20};

	assert_non_null(data);
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		int p[2];

		assert_int_equal(
			socketpair(AF_UNIX, SOCK_STREAM | (nonblock ? SOCK_NONBLOCK : 0), 0, p), 0);
		assert_int_equal(write_fd(p[0], &iov, 1, loop_now_ns() + 1000000), -ETIMEDOUT);
		assert_int_equal(write_fd(p[0], &iov, 1, 0), -ETIMEDOUT);
		close(p[1]);
		assert_int_equal(write_fd(p[0], &iov, 1, loop_now_ns() + 1000000), -EPIPE);
		close(p[0]);
	}
	assert_int_equal(write_fd(9999, &iov, 1, 0), -EBADF);
	free(data);
}

static void tcp_is_measured_and_shut(void **state)
{
	struct chan_uri u;
	int lfd = listen_tcp("127.0.0.1", &u);
	struct chan c = chan_of(chan_connect(&u, 20000, NULL));
	struct iovec iov = {(void *)"x", 1};
	int peer = accept_wait(lfd);
	char byte;

	assert_false(c.blocking);
	/* A round trip for every byte: enough for an estimate. */
	for (unsigned i = 0; i < 2000 && !chan_rate(&c); i++) {
		assert_int_equal(chan_write(&c, &iov, 1, loop_now_ns() + 20000000000ull), 0);
		poll(&(struct pollfd){.fd = peer, .events = POLLIN}, 1, 20000);
		assert_int_equal(read(peer, &byte, 1), 1);
	}
	assert_true(chan_rate(&c) > 0);
	assert_int_equal(c.ops->read(&c, &byte, 1), -EAGAIN);
	chan_shut(&c);
	assert_int_equal(c.ops->read(&c, &byte, 1), 0);
	assert_int_equal(chan_write(&c, &iov, 1, 0), -EPIPE);
	chan_close(&c);
	assert_int_equal(fcntl(c.fd, F_GETFD), -1);
	close(peer);
	close(lfd);
}

static void other_channels_are_not(void **state)
{
	int p[2], s[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct chan c = chan_of(i ? s[0] : p[1]);

		assert_int_equal(c.blocking, !i);
		assert_int_equal(chan_rate(&c), 0);
		chan_shut(&c);
		chan_close(&c);
	}
	close(p[0]);
	close(s[1]);
}

static void write_all(int fd, const char *text)
{
	assert_int_equal(write_fd(fd, &(struct iovec){(void *)(uintptr_t)text, strlen(text)}, 1, 0),
			 0);
}

static void check_file(const char *path, const char *text)
{
	char buf[64] = {0};
	int fd = chan_file_open(path, NULL);

	assert_true(fd >= 0);
	assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(read(fd, buf, sizeof(buf)), strlen(text));
	assert_string_equal(buf, text);
	close(fd);
}

/* A snapshot to a name that somebody mistyped is not the end of what was there. */
static void only_files_of_nobody_are_replaced(void **state)
{
	struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	struct err e = {0};
	struct stat st;
	char path[160], to[128];
	int fd, made, locked[2], ended[2];

	snprintf(path, sizeof(path), "%s/odd", dir);
	snprintf(to, sizeof(to), "%s/image.tmp", dir);
	fd = open(to, O_RDWR | O_CREAT, 0600);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(chan_file_create(path, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "another name"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(to, path), 0);
	assert_int_equal(chan_file_create(path, NULL), -EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(chan_file_create(dir, NULL), -EEXIST);
	assert_int_equal(chan_file_create(to, NULL), -EBUSY); /* open here */
	assert_int_equal(close(fd), 0);
	made = chan_file_create(to, NULL);
	assert_true(made >= 0);
	assert_int_equal(pipe(locked) | pipe(ended), 0);
	if (!fork()) { /* has it locked, for reading only, which is enough */
		fd = open(to, O_RDWR);
		if (fcntl(fd, F_OFD_SETLK, &fl) || write(locked[1], "", 1) != 1 ||
		    close(ended[1]) || read(ended[0], path, 1))
			_exit(1);
		_exit(0);
	}
	assert_int_equal(read(locked[0], path, 1), 1);
	assert_int_equal(chan_file_commit(made, to, NULL), -EBUSY);
	assert_int_equal(chan_file_create(to, NULL), -EBUSY);
	to[strlen(to) - strlen(".tmp")] = 0; /* of which it would be the part */
	assert_int_equal(chan_file_create(to, NULL), -EBUSY);
	assert_int_equal(close(ended[1]), 0);
	assert_true(wait(&fd) > 0 && !fd);
	close(made);
	strcat(to, ".tmp");
	assert_int_equal(stat(to, &st), 0);
	assert_int_equal(st.st_size, 0);
	for (unsigned i = 0; i < 3; i++)
		close((int[]){locked[0], locked[1], ended[0]}[i]);
	snprintf(path, sizeof(path), "%s.tmp", to);
	assert_int_equal(unlink(path) | unlink(to), 0);
}

static void files_appear_only_whole(void **state)
{
	char path[128], tmp[160];
	struct stat st;
	int fd, other;

	snprintf(path, sizeof(path), "%s/snap", dir);
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	fd = chan_file_create(path, NULL);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	write_all(fd, "first");
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(chan_file_commit(fd, path, NULL), 0);
	close(fd);
	check_file(path, "first");
	assert_int_equal(access(tmp, F_OK), -1);

	fd = chan_file_create(path, NULL); /* a writer that dies */
	write_all(fd, "half");
	close(fd);
	check_file(path, "first");
	fd = chan_file_create(path, NULL); /* and the next one, overtaken by another */
	other = chan_file_create(path, NULL);
	write_all(fd, "late");
	write_all(other, "second");
	assert_int_equal(chan_file_commit(fd, path, NULL), -ESTALE);
	assert_int_equal(chan_file_commit(other, path, NULL), 0);
	close(fd);
	close(other);
	check_file(path, "second");
	unlink(path);
}

static void odd_files_are_refused(void **state)
{
	char path[128], victim[128], tmp[160], longest[300];
	struct err e = {0};
	int fd;

	snprintf(path, sizeof(path), "%s/snap", dir);
	snprintf(victim, sizeof(victim), "%s/victim", dir);
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	assert_int_equal(chan_file_open(path, &e), -ENOENT);
	assert_int_equal(chan_file_open(dir, NULL), -EINVAL);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(chan_file_open(path, NULL), -EINVAL); /* and does not wait for a writer */
	unlink(path);
	/* a link in the place of the temporary file must not be followed */
	fd = open(victim, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	write_all(fd, "precious");
	close(fd);
	assert_int_equal(symlink(victim, tmp), 0);
	fd = chan_file_create(path, NULL);
	assert_true(fd >= 0);
	write_all(fd, "x");
	assert_int_equal(chan_file_commit(fd, path, NULL), 0);
	close(fd);
	check_file(victim, "precious");
	check_file(path, "x");
	unlink(victim);
	unlink(path);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_int_equal(chan_file_create(longest, NULL), -ENAMETOOLONG);
	assert_int_equal(chan_file_create("", NULL), -ENAMETOOLONG);
	assert_int_equal(chan_file_create("/nonexistent/x", NULL), -ENOENT);
}

/* However much a reader could be given in advance. */
static void tcp_can_be_shallow(void **state)
{
	static uint8_t block[64 << 10];
	struct chan_uri u;
	int lfd = listen_tcp("127.0.0.1", &u), a = chan_connect(&u, 20000, NULL);
	int b = accept_wait(lfd);
	struct chan out = chan_of(a), in = chan_of(b);
	uint64_t bytes = 0;
	ssize_t n;

	chan_shallow(&out);
	chan_shallow(&in);
	for (int waits = 0; waits < 5;) { /* until for a while no more goes in */
		struct iovec iov = {block, sizeof(block)};

		n = out.ops->write(&out, &iov, 1);
		waits = n > 0 ? 0 : waits + 1;
		bytes += n > 0 ? (uint64_t)n : 0;
		if (n < 0)
			out.ops->wait(&out, loop_now_ns() + 20000000);
	}
	assert_in_range(bytes, 64 << 10, 2 << 20);
	close(a);
	close(b);
	close(lfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_addresses_are_parsed),
		cmocka_unit_test(bad_addresses_show_the_right_form),
		cmocka_unit_test(long_addresses_are_refused),
		cmocka_unit_test(tcp_connects),
		cmocka_unit_test(connect_can_be_started_and_finished_later),
		cmocka_unit_test(names_are_resolved_beforehand),
		cmocka_unit_test(failed_connects_say_why),
		cmocka_unit_test(unix_sockets_connect),
		cmocka_unit_test(only_stale_unix_sockets_are_replaced),
		cmocka_unit_test(full_backlogs_end_at_the_deadline),
		cmocka_unit_test(passed_fds_are_checked),
		cmocka_unit_test(passed_sockets_may_be_open),
		cmocka_unit_test(writes_are_whole),
		cmocka_unit_test(writes_end_at_the_deadline),
		cmocka_unit_test(tcp_is_measured_and_shut),
		cmocka_unit_test(tcp_can_be_shallow),
		cmocka_unit_test(other_channels_are_not),
		cmocka_unit_test(only_files_of_nobody_are_replaced),
		cmocka_unit_test(files_appear_only_whole),
		cmocka_unit_test(odd_files_are_refused),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
