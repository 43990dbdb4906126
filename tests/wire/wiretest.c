/*
 * wiretest: every command of wire, over loopback. usage: wiretest PATH-OF-WIRE
 * One scenario = one fresh proxy. Waiting is always for an event, with a generous deadline; only
 * lower bounds of times are checked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE 20000 /* ms: only a broken proxy gets there */
#define QUIET	 60    /* ms in which nothing may arrive */

struct rig {
	const char *wire;
	char dir[64], path[96];
	pid_t pid;
	int listener, ctl, out;
	uint16_t port;
	int a, b; /* the connection under test */
	bool failed;
};

#define CHECK(rig, cond)                                                                           \
	do {                                                                                       \
		if (!(cond) && !(rig)->failed) {                                                   \
			printf("  line %d: %s\n", __LINE__, #cond);                                \
			(rig)->failed = true;                                                      \
		}                                                                                  \
	} while (0)

static uint64_t rig_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool rig_wait(int fd, short events, int ms)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, ms) > 0;
}

static int rig_listen(uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 128) ||
	    getsockname(fd, (struct sockaddr *)&a, &len))
		exit(2);
	*port = ntohs(a.sin_port);
	return fd;
}

static void rig_start(struct rig *r, const char *seed)
{
	char to[32], text[16] = "";
	uint16_t port;
	int out[2];

	r->listener = rig_listen(&port);
	snprintf(to, sizeof(to), "127.0.0.1:%u", port);
	if (pipe2(out, O_CLOEXEC))
		exit(2);
	r->pid = fork();
	if (!r->pid) {
		dup2(out[1], 1);
		execl(r->wire, r->wire, "--listen", "127.0.0.1:0", "--to", to, "--ctl", r->path,
		      "--seed", seed, NULL);
		_exit(127);
	}
	close(out[1]);
	r->out = out[0];
	for (size_t n = 0; n < sizeof(text) - 1 && !strchr(text, '\n'); n++)
		if (read(r->out, text + n, 1) != 1)
			exit(2);
	r->port = (uint16_t)atoi(text);
	r->ctl = -1;
}

static void rig_stop(struct rig *r)
{
	int status = 0;

	kill(r->pid, SIGTERM);
	waitpid(r->pid, &status, 0);
	CHECK(r, WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(r->listener);
	close(r->out);
	if (r->ctl >= 0)
		close(r->ctl);
}

static void rig_ask(struct rig *r, const char *line, char *reply, size_t len)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	size_t used = 0;
	ssize_t n = 1;

	if (r->ctl < 0) {
		r->ctl = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		snprintf(a.sun_path, sizeof(a.sun_path), "%s", r->path);
		CHECK(r, !connect(r->ctl, (struct sockaddr *)&a, sizeof(a)));
	}
	CHECK(r, dprintf(r->ctl, "%s\n", line) > 0);
	memset(reply, 0, len);
	while (used < len - 1 && n > 0 && !strchr(reply, '\n')) {
		n = read(r->ctl, reply + used, len - 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
}

static void rig_do(struct rig *r, const char *line)
{
	char reply[512];

	rig_ask(r, line, reply, sizeof(reply));
	if (strcmp(reply, "ok\n") != 0)
		printf("  %s: %s", line, reply);
	CHECK(r, strcmp(reply, "ok\n") == 0);
}

static long rig_stat(struct rig *r, const char *name)
{
	char reply[512], key[40], *at;

	rig_ask(r, "stats", reply, sizeof(reply));
	snprintf(key, sizeof(key), "\"%s\":", name);
	at = strstr(reply, key);
	CHECK(r, at);
	return at ? strtol(at + strlen(key), NULL, 10) : -1;
}

/* The client's end of a new connection. */
static int rig_dial(struct rig *r)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(r->port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(r, !connect(fd, (struct sockaddr *)&a, sizeof(a)));
	return fd;
}

static void rig_connect(struct rig *r)
{
	r->a = rig_dial(r);
	CHECK(r, rig_wait(r->listener, POLLIN, DEADLINE));
	r->b = r->failed ? -1 : accept(r->listener, NULL, NULL);
}

static void rig_hang_up(struct rig *r)
{
	close(r->a);
	close(r->b);
}

static uint8_t rig_byte(size_t i)
{
	return (uint8_t)((i * 2654435761u) >> 13);
}

/* Send n bytes of the pattern from one end and receive them at the other; how many arrived well. */
static size_t rig_transfer(int from, int to, size_t n)
{
	size_t sent = 0, got = 0;
	uint8_t buf[8192];

	while (got < n) {
		struct pollfd p[2] = {{.fd = sent < n ? from : -1, .events = POLLOUT},
				      {.fd = to, .events = POLLIN}};
		ssize_t k;

		if (poll(p, 2, DEADLINE) <= 0)
			break;
		if (p[0].revents) {
			size_t want = n - sent < sizeof(buf) ? n - sent : sizeof(buf);

			for (size_t i = 0; i < want; i++)
				buf[i] = rig_byte(sent + i);
			k = send(from, buf, want, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (k < 0)
				break;
			sent += (size_t)k;
		}
		if (p[1].revents) {
			k = recv(to, buf, sizeof(buf), 0);
			if (k <= 0)
				break;
			for (ssize_t i = 0; i < k; i++)
				if (buf[i] != rig_byte(got++))
					return got - 1;
		}
	}
	return got;
}

/* Read until the end: 0 for a FIN, ECONNRESET for a reset, -1 if there is none. */
static int rig_end_of(int fd, size_t *got)
{
	uint8_t buf[4096];
	size_t n = 0;

	for (;;) {
		ssize_t k;

		if (!rig_wait(fd, POLLIN, DEADLINE))
			return -1;
		k = recv(fd, buf, sizeof(buf), 0);
		if (k <= 0) {
			if (got)
				*got = n;
			return k ? errno : 0;
		}
		n += (size_t)k;
	}
}

static void test_forward(struct rig *r)
{
	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1 << 20) == 1 << 20);
	CHECK(r, rig_transfer(r->b, r->a, 1 << 20) == 1 << 20);
	shutdown(r->a, SHUT_WR);
	CHECK(r, rig_end_of(r->b, NULL) == 0);
	CHECK(r, rig_transfer(r->b, r->a, 100000) == 100000); /* the other half still works */
	CHECK(r, rig_stat(r, "connections") == 1);
	CHECK(r, rig_stat(r, "a2b_bytes") == 1 << 20);
	CHECK(r, rig_stat(r, "b2a_bytes") == (1 << 20) + 100000);
	close(r->b);
	CHECK(r, rig_end_of(r->a, NULL) == 0);
	close(r->a);
}

static void test_many(struct rig *r)
{
	int a[50], b[50];

	for (int i = 0; i < 50; i++) {
		rig_connect(r);
		a[i] = r->a;
		b[i] = r->b;
	}
	for (int i = 0; i < 50; i++)
		CHECK(r, rig_transfer(a[i], b[i], 5000 + (size_t)i) == 5000 + (size_t)i);
	CHECK(r, rig_stat(r, "connections") == 50);
	for (int i = 0; i < 50; i++) {
		close(a[i]);
		CHECK(r, rig_end_of(b[i], NULL) == 0);
		close(b[i]);
	}
	CHECK(r, rig_stat(r, "accepted") == 50);
}

static void test_delay(struct rig *r)
{
	uint64_t start = rig_ms();

	rig_do(r, "delay 60");
	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 10) == 10);
	CHECK(r, rig_transfer(r->b, r->a, 10) == 10);
	CHECK(r, rig_ms() - start >= 119);
	rig_do(r, "delay 5 jitter 20");
	for (int i = 0; i < 20 && !r->failed; i++)
		CHECK(r, rig_transfer(r->a, r->b, 3000) == 3000);
	rig_do(r, "delay 30");
	start = rig_ms();
	shutdown(r->a, SHUT_WR);
	CHECK(r, rig_end_of(r->b, NULL) == 0); /* ends travel as slowly as data */
	CHECK(r, rig_ms() - start >= 29);
	rig_hang_up(r);
}

static void test_rate(struct rig *r)
{
	uint64_t start;

	rig_connect(r);
	rig_do(r, "rate 1000000");
	start = rig_ms();
	CHECK(r, rig_transfer(r->a, r->b, 200000) == 200000);
	CHECK(r, rig_ms() - start >= 180);
	rig_do(r, "rate 0");
	CHECK(r, rig_transfer(r->a, r->b, 1 << 20) == 1 << 20);
	rig_hang_up(r);
}

static void test_cut(struct rig *r)
{
	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	rig_do(r, "cut");
	CHECK(r, rig_end_of(r->a, NULL) == ECONNRESET);
	CHECK(r, rig_end_of(r->b, NULL) == ECONNRESET);
	rig_hang_up(r);
	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	rig_hang_up(r);
}

static void test_blackhole(struct rig *r)
{
	int late;

	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	rig_do(r, "blackhole both");
	CHECK(r, send(r->a, "hello", 5, 0) == 5);
	CHECK(r, send(r->b, "world", 5, 0) == 5);
	late = rig_dial(r); /* the kernel answers, but nobody is there */
	CHECK(r, !rig_wait(r->b, POLLIN, QUIET) && !rig_wait(r->a, POLLIN, 0));
	CHECK(r, !rig_wait(r->listener, POLLIN, 0));
	shutdown(r->a, SHUT_WR);
	CHECK(r, !rig_wait(r->b, POLLIN, QUIET));
	rig_do(r, "heal");
	CHECK(r, rig_wait(r->listener, POLLIN, DEADLINE));
	size_t got = 0;

	CHECK(r, rig_end_of(r->b, &got) == 0 && got == 5);
	close(r->b);
	CHECK(r, rig_end_of(r->a, &got) == 0 && got == 5);
	close(r->a);
	close(late);
}

static void test_one_way(struct rig *r)
{
	rig_connect(r);
	rig_do(r, "blackhole b2a");
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	CHECK(r, send(r->b, "lost", 4, 0) == 4);
	CHECK(r, !rig_wait(r->a, POLLIN, QUIET));
	rig_do(r, "heal");
	rig_do(r, "blackhole a2b");
	CHECK(r, rig_wait(r->a, POLLIN, DEADLINE));
	struct linger now = {.l_onoff = 1};

	setsockopt(r->a, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(r->a); /* a reset that does not get through */
	CHECK(r, send(r->b, "more", 4, 0) == 4);
	CHECK(r, !rig_wait(r->b, POLLIN, QUIET));
	rig_do(r, "heal");
	CHECK(r, rig_end_of(r->b, NULL) == ECONNRESET);
	close(r->b);
}

static void test_reset(struct rig *r)
{
	struct linger now = {.l_onoff = 1};

	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	setsockopt(r->a, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(r->a);
	CHECK(r, rig_end_of(r->b, NULL) == ECONNRESET);
	close(r->b);
	rig_connect(r);
	CHECK(r, rig_transfer(r->b, r->a, 1000) == 1000);
	setsockopt(r->b, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(r->b);
	CHECK(r, rig_end_of(r->a, NULL) == ECONNRESET);
	close(r->a);
}

static void test_refuse(struct rig *r)
{
	rig_connect(r);
	rig_do(r, "refuse");
	int late = rig_dial(r);

	CHECK(r, rig_end_of(late, NULL) == ECONNRESET);
	close(late);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000); /* the old one lives on */
	rig_hang_up(r);
	rig_do(r, "accept");
	rig_connect(r);
	CHECK(r, rig_transfer(r->a, r->b, 1000) == 1000);
	CHECK(r, rig_stat(r, "refused") == 1);
	rig_hang_up(r);
}

static size_t flip_once(struct rig *r, const char *command)
{
	size_t at;

	rig_connect(r);
	rig_do(r, command);
	at = rig_transfer(r->a, r->b, 8192);
	rig_hang_up(r);
	return at;
}

static void test_flip(struct rig *r)
{
	size_t first = flip_once(r, "flip 1"), third = flip_once(r, "flip 3 a2b");

	CHECK(r, first < 1024);
	CHECK(r, third >= 2048 && third < 3072);
	rig_connect(r);
	rig_do(r, "flip 1 b2a");
	CHECK(r, rig_transfer(r->a, r->b, 8192) == 8192);
	CHECK(r, rig_transfer(r->b, r->a, 8192) < 1024);
	CHECK(r, rig_stat(r, "flips") == 3);
	rig_hang_up(r);
	rig_stop(r);
	rig_start(r, "5");
	CHECK(r, flip_once(r, "flip 1") == first); /* the seed decides */
}

static void test_truncate(struct rig *r)
{
	uint8_t buf[4000] = {1};
	size_t got = 0;

	rig_connect(r);
	rig_do(r, "truncate");
	CHECK(r, send(r->a, buf, sizeof(buf), 0) == sizeof(buf));
	CHECK(r, rig_end_of(r->b, &got) == 0 && got < sizeof(buf));
	CHECK(r, rig_end_of(r->a, NULL) == 0);
	CHECK(r, rig_stat(r, "truncated") == 1);
	CHECK(r, rig_stat(r, "connections") == 0);
	rig_hang_up(r);
}

static void test_after(struct rig *r)
{
	uint8_t buf[5000] = {0};
	size_t got = 0;

	rig_connect(r);
	rig_do(r, "after 1234 a2b cut");
	rig_do(r, "after 1000 a2b delay 1");
	CHECK(r, send(r->a, buf, sizeof(buf), 0) == sizeof(buf));
	CHECK(r, rig_end_of(r->b, &got) == ECONNRESET && got == 1234);
	CHECK(r, rig_stat(r, "a2b_bytes") == 1234);
	rig_hang_up(r);
}

static void test_errors(struct rig *r)
{
	static const char *const bad[] = {"",	      "x",	     "delay",
					  "delay x",  "delay -1",    "delay 1 2",
					  "rate",     "flip",	     "flip 0",
					  "flip 1 x", "blackhole x", "truncate x",
					  "after 1",  "after 1 a2b", "after 1 a2b after 1 a2b cut"};
	char reply[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_ask(r, bad[i], reply, sizeof(reply));
		CHECK(r, strncmp(reply, "error: ", 7) == 0);
	}
	close(r->listener); /* nobody there: the client is reset */
	r->listener = -1;
	r->a = rig_dial(r);
	CHECK(r, rig_end_of(r->a, NULL) == ECONNRESET);
	close(r->a);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct rig *r);
	} tests[] = {
		{"forward", test_forward},   {"many connections", test_many},
		{"delay", test_delay},	     {"rate", test_rate},
		{"cut", test_cut},	     {"blackhole and heal", test_blackhole},
		{"one way", test_one_way},   {"reset", test_reset},
		{"refuse", test_refuse},     {"flip", test_flip},
		{"truncate", test_truncate}, {"after", test_after},
		{"errors", test_errors},
	};
	struct rig r = {.wire = argc > 1 ? argv[1] : "build/normal/tests/wire/wire"};
	unsigned failed = 0;

	snprintf(r.dir, sizeof(r.dir), "/tmp/wiretest.XXXXXX");
	if (!mkdtemp(r.dir))
		return 2;
	snprintf(r.path, sizeof(r.path), "%s/ctl", r.dir);
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		r.failed = false;
		rig_start(&r, "5");
		tests[i].run(&r);
		rig_stop(&r);
		printf("%s %s\n", r.failed ? "FAIL" : "ok  ", tests[i].name);
		failed += r.failed;
	}
	rmdir(r.dir);
	printf("wiretest: %s\n", failed ? "failed" : "all passed");
	return failed != 0;
}
