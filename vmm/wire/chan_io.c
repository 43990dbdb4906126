#define _GNU_SOURCE /* ppoll */
#include "vmm/wire/chan_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define WRITE_IOV      64
#define SHALLOW_BYTES  (128u << 10)
#define SHALLOW_RTT_US 500

int chan_wait_fd(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		uint64_t now = loop_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
		struct timespec ts = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
		int n = ppoll(&p, fd >= 0, &ts, NULL);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n && (fd < 0 || loop_now_ns() >= deadline_ns))
			return -ETIMEDOUT;
	}
}

/* --- descriptors of all kinds ----------------------------------------------------------------- */

static ssize_t fd_read(struct chan *c, void *buf, size_t len)
{
	ssize_t n;

	do
		n = read(c->fd, buf, len);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static ssize_t fd_write(struct chan *c, const struct iovec *iov, int niov)
{
	ssize_t n;

	do
		n = writev(c->fd, iov, niov);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int fd_wait(struct chan *c, uint64_t deadline_ns)
{
	return chan_wait_fd(c->fd, POLLOUT, deadline_ns);
}

static void fd_close(struct chan *c)
{
	close(c->fd);
}

static const struct chan_ops fd_ops = {
	.read = fd_read, .write = fd_write, .wait = fd_wait, .close = fd_close};

/* --- sockets ---------------------------------------------------------------------------------- */

static ssize_t socket_write(struct chan *c, const struct iovec *iov, int niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)niov};
	ssize_t n;

	do
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static uint64_t socket_rate(const struct chan *c)
{
	struct tcp_info ti;
	socklen_t len = sizeof(ti);

	memset(&ti, 0, sizeof(ti));
	return getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &ti, &len) ? 0 : ti.tcpi_delivery_rate;
}

/*
 * TCP by itself lets tens of megabytes wait for a slow reader: 6 ms on a fast link. At the writer's
 * end only what is not sent is bounded, so that a long link is still filled; at the reader's the
 * window, unless it is for the length of the link.
 */
static void socket_shallow(struct chan *c)
{
	int bytes = SHALLOW_BYTES, window = 2 * SHALLOW_BYTES;
	struct tcp_info ti;
	socklen_t len = sizeof(ti);

	memset(&ti, 0, sizeof(ti));
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &ti, &len))
		return; /* a UNIX socket is no deeper than that */
	setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof(bytes));
	if (ti.tcpi_rtt < SHALLOW_RTT_US)
		setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window));
}

static void socket_shut(struct chan *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

const struct chan_ops chan_socket_ops = {.read = fd_read,
					 .write = socket_write,
					 .wait = fd_wait,
					 .close = fd_close,
					 .rate = socket_rate,
					 .shut = socket_shut,
					 .shallow = socket_shallow};

/* --- any channel ------------------------------------------------------------------------------ */

struct chan chan_of(int fd)
{
	int type, flags = fcntl(fd, F_GETFL);
	socklen_t len = sizeof(type);
	bool is_socket = !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);

	return (struct chan){.ops = is_socket ? &chan_socket_ops : &fd_ops,
			     .fd = fd,
			     .blocking = flags < 0 || !(flags & O_NONBLOCK)};
}

void chan_close(struct chan *c)
{
	c->ops->close(c);
}

int chan_ready(struct chan *c, struct err *e)
{
	return c->ops->ready ? c->ops->ready(c, e) : 0;
}

const char *chan_why(const struct chan *c)
{
	return c->ops->why ? c->ops->why(c) : strerror(EBADMSG);
}

/* Drop n written bytes from the front of the vector. */
static void skip(struct iovec **iov, int *niov, size_t n)
{
	while (*niov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*niov)--;
	}
	if (!n)
		return;
	(*iov)->iov_base = (char *)(*iov)->iov_base + n;
	(*iov)->iov_len -= n;
}

static int write_batch(struct chan *c, struct iovec *iov, int niov, uint64_t deadline_ns)
{
	while (niov) {
		ssize_t n = c->ops->write(c, iov, niov);
		int r = 0;

		if (n >= 0)
			skip(&iov, &niov, (size_t)n);
		else
			r = n == -EAGAIN ? c->ops->wait(c, deadline_ns) : (int)n;
		if (r)
			return r;
	}
	return 0;
}

int chan_write(struct chan *c, const struct iovec *iov, int niov, uint64_t deadline_ns)
{
	struct iovec part[WRITE_IOV];

	while (niov > 0) {
		int n = niov < WRITE_IOV ? niov : WRITE_IOV;
		int r;

		memcpy(part, iov, (size_t)n * sizeof(*iov));
		r = write_batch(c, part, n, deadline_ns);
		if (r)
			return r;
		iov += n;
		niov -= n;
	}
	return 0;
}

uint64_t chan_rate(const struct chan *c)
{
	return c->ops->rate ? c->ops->rate(c) : 0;
}

void chan_shallow(struct chan *c)
{
	if (c->ops->shallow)
		c->ops->shallow(c);
}

void chan_shut(struct chan *c)
{
	if (c->ops->shut)
		c->ops->shut(c);
}
