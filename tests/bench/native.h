/*
 * What the native_*.c tools share. Each measures code of the program in rounds, floor and ours in
 * turns, and prints one JSON object a line: a figure with all of its samples. They need neither
 * /dev/kvm nor root.
 */
#ifndef TESTS_BENCH_NATIVE_H
#define TESTS_BENCH_NATIVE_H

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"
#include "vmm/base/loop.h"

#define NATIVE_UNUSED __attribute__((unused))
#define ROUNDS	      9u
#define SAMPLES_MAX   64u
#define CHUNK	      (256u << 10)
#define DEADLINE_NS   30000000000ull

struct figure {
	const char *name, *unit;
	unsigned n;
	double floor[SAMPLES_MAX], ours[SAMPLES_MAX];
};

static _Noreturn NATIVE_UNUSED void die(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(2);
}

static NATIVE_UNUSED void check(const char *what, int result)
{
	if (result < 0)
		die(what, result);
}

static NATIVE_UNUSED void *must(void *p)
{
	if (!p)
		die("memory", ENOMEM);
	return p;
}

static NATIVE_UNUSED void figure_add(struct figure *f, double floor, double ours)
{
	if (f->n == SAMPLES_MAX)
		die("too many samples", ERANGE);
	f->floor[f->n] = floor;
	f->ours[f->n++] = ours;
}

static inline void print_samples(const char *key, const double *v, unsigned n)
{
	printf(", \"%s\": [", key);
	for (unsigned i = 0; i < n; i++)
		printf("%s%.4g", i ? ", " : "", v[i]);
	printf("]");
}

static NATIVE_UNUSED void figure_print(const struct figure *f)
{
	printf("{\"name\": \"%s\", \"unit\": \"%s\"", f->name, f->unit);
	print_samples("floor", f->floor, f->n);
	print_samples("ours", f->ours, f->n);
	printf("}\n");
	fflush(stdout);
}

static inline uint64_t next_random(void)
{
	static uint64_t seed = 88172645463325252ull;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static NATIVE_UNUSED void fill_random(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = next_random();

		memcpy(p + i, &v, 8);
	}
}

static inline double mib_per_s(uint64_t bytes, uint64_t ns)
{
	return (double)bytes / 1048576 * 1e9 / (double)(ns ? ns : 1);
}

static inline void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	poll(&p, 1, 30000);
}

/* A connected pair over loopback TCP, with the options that the program gives its links. */
static NATIVE_UNUSED void tcp_pair(int fds[2])
{
	struct chan_uri u;
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	int lfd;

	check("loopback address", chan_parse("tcp:127.0.0.1:0", &u, NULL));
	lfd = chan_listen(&u, NULL);
	check("listen on loopback", lfd);
	getsockname(lfd, (struct sockaddr *)&sa, &len);
	snprintf(u.port, sizeof(u.port), "%u", ntohs(sa.sin_port));
	fds[0] = chan_connect(&u, 5000, NULL);
	check("connect", fds[0]);
	fds[1] = chan_accept(lfd, NULL);
	check("accept", fds[1]);
	close(lfd);
}

/* All of that many bytes are read and thrown away. */
static NATIVE_UNUSED void read_away(int fd, uint64_t bytes)
{
	uint8_t *buf = must(malloc(CHUNK));

	while (bytes) {
		ssize_t n = read(fd, buf, bytes < CHUNK ? bytes : CHUNK);

		if (n > 0)
			bytes -= (uint64_t)n;
		else if (n < 0 && errno == EAGAIN)
			wait_readable(fd);
		else
			die("read of plain TCP", n ? errno : EPIPE);
	}
	free(buf);
}

static NATIVE_UNUSED void write_plain(int fd, uint64_t bytes, size_t chunk)
{
	uint8_t *buf = must(calloc(1, chunk));
	struct chan c = chan_of(fd);

	while (bytes) {
		struct iovec iov = {buf, bytes < chunk ? bytes : chunk};

		check("write of plain TCP", chan_write(&c, &iov, 1, loop_now_ns() + DEADLINE_NS));
		bytes -= iov.iov_len;
	}
	free(buf);
}

struct plain_job {
	int fd;
	uint64_t bytes;
	size_t chunk;
};

static NATIVE_UNUSED void *plain_main(void *arg)
{
	struct plain_job *j = arg;

	write_plain(j->fd, j->bytes, j->chunk);
	return NULL;
}

/* The floor of a stream: so many bytes, so many at once, from one thread to another. ns. */
static NATIVE_UNUSED uint64_t run_plain_tcp(uint64_t bytes, size_t chunk)
{
	struct plain_job j = {.bytes = bytes, .chunk = chunk};
	pthread_t thread;
	uint64_t start;
	int fds[2];

	tcp_pair(fds);
	j.fd = fds[0];
	start = loop_now_ns();
	check("thread", -pthread_create(&thread, NULL, plain_main, &j));
	read_away(fds[1], bytes);
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	close(fds[0]);
	close(fds[1]);
	return start;
}

#endif
