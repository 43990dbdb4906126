/*
 * vsockcat: what busybox's nc is, for AF_VSOCK.
 *
 *   vsockcat [-t SECONDS] CID PORT     connects
 *   vsockcat [-t SECONDS] -l PORT      takes one call
 *
 * Copies stdin to the socket, which it then half-closes, and the socket to stdout until its end.
 * Exit code: 0, or 1 with a line that says why. Static, no library but libc: it runs in an
 * initramfs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static int fail(const char *what)
{
	fprintf(stderr, "vsockcat: %s: %s\n", what, strerror(errno));
	return 1;
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 0);

	if (!*text || *end || n > 0xffffffffUL) {
		fprintf(stderr, "vsockcat: '%s' is not a number\n", text);
		exit(1);
	}
	return (unsigned int)n;
}

static int call(unsigned int cid, unsigned int port)
{
	struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
	int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s >= 0 && connect(s, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(s);
		return -1;
	}
	return s;
}

static int answer(unsigned int port)
{
	struct sockaddr_vm at = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	int l = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), s = -1;

	if (l < 0)
		return -1;
	if (bind(l, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(l, 1) == 0) {
		fprintf(stderr, "vsockcat: listening\n");
		s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	}
	close(l);
	return s;
}

/* Writes all of it; 0 or -1 with errno. */
static int put(int fd, const char *from, size_t len)
{
	while (len) {
		ssize_t n = write(fd, from, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

static int relay(int s)
{
	static char buf[65536];
	struct pollfd p[2] = {{.fd = s, .events = POLLIN}, {.fd = 0, .events = POLLIN}};

	for (;;) {
		ssize_t n;

		if (poll(p, 2, -1) < 0)
			return fail("poll");
		if (p[1].revents) {
			n = read(0, buf, sizeof(buf));
			if (n < 0)
				return fail("stdin");
			if (n == 0) {
				p[1].fd = -1;
				shutdown(s, SHUT_WR);
			} else if (put(s, buf, (size_t)n)) {
				return fail("send");
			}
		}
		if (p[0].revents) {
			n = read(s, buf, sizeof(buf));
			if (n < 0)
				return fail("receive");
			if (n == 0)
				return 0;
			if (put(1, buf, (size_t)n))
				return fail("stdout");
		}
	}
}

int main(int argc, char **argv)
{
	int opt, s, take = 0;

	while ((opt = getopt(argc, argv, "t:l")) != -1) {
		if (opt == 't')
			alarm(number(optarg)); /* SIGALRM ends it */
		else if (opt == 'l')
			take = 1;
		else
			return 1;
	}
	if (argc - optind != (take ? 1 : 2)) {
		fprintf(stderr, "usage: vsockcat [-t SECONDS] CID PORT | -l PORT\n");
		return 1;
	}
	s = take ? answer(number(argv[optind]))
		 : call(number(argv[optind]), number(argv[optind + 1]));
	return s < 0 ? fail(take ? "listen" : "connect") : relay(s);
}
