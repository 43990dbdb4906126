/*
 * passt as a back end: user networking without privileges. A unix stream socket; before each
 * Ethernet frame goes its length, 32 bits, big-endian. There is no virtio_net_hdr, so nothing can
 * be left to the other side: no checksum, no segmentation.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/netdev.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"

#define LENGTH	  4u	 /* bytes before a frame */
#define FRAME_MAX 65535u /* what passt takes itself */
#define IN_BYTES  (2 * (LENGTH + FRAME_MAX))
#define RETRY_NS  1000000000ull

_Static_assert(FRAME_MAX <= NET_FRAME_MAX, "fits the buffers of virtio-net");

struct passt {
	struct netdev *nd;
	struct loop *loop;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool up;
	bool told; /* that it is away */
	struct loop_op retry, writable;
	bool waiting; /* writable is armed */
	uint32_t in_at, in_end;
	uint32_t out_at, out_end; /* rest of a frame that was taken in part */
	uint8_t in[IN_BYTES];
	uint8_t out[LENGTH + FRAME_MAX];
};

static void change(struct netdev *nd)
{
	if (nd->changed)
		nd->changed(nd->changed_arg);
}

static void wait_writable(struct passt *p, bool on);

/* Half a frame either way goes with its connection. */
static void disconnect(struct passt *p)
{
	struct netdev *nd = p->nd;
	int fd = nd->fd;

	if (fd < 0)
		return;
	wait_writable(p, false);
	nd->fd = -1;
	change(nd);
	close(fd);
	p->in_at = p->in_end = p->out_at = p->out_end = 0;
}

static int connect_now(struct passt *p, struct err *e)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_sys(e, "net '%s': socket", p->nd->id);
	memcpy(sun.sun_path, p->path, sizeof(sun.sun_path));
	/* A unix socket connects at once or not at all. */
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		int code = -errno;

		close(fd);
		return err_set(e, code,
			       "net '%s': passt at '%s': %s; start it first: passt --socket %s",
			       p->nd->id, p->path, strerror(-code), p->path);
	}
	p->nd->fd = fd;
	if (p->told)
		log_info("net '%s': passt at '%s' is back", p->nd->id, p->path);
	p->told = false;
	change(p->nd);
	return 0;
}

static void on_retry(struct loop_op *op, int res);

static void try_again(struct passt *p, const char *why)
{
	if (!p->told)
		log_warn("net '%s': passt at '%s': %s; the guest has no network until it is back",
			 p->nd->id, p->path, why);
	p->told = true;
	p->retry = (struct loop_op){.fn = on_retry, .arg = p};
	if (loop_timer_set(p->loop, &p->retry, RETRY_NS) < 0)
		log_error("net '%s': no timer: it stays unplugged", p->nd->id);
}

static void on_retry(struct loop_op *op, int res)
{
	struct passt *p = op->arg;
	struct err e = {0};

	if (res != -ECANCELED && p->up && p->nd->fd < 0 && connect_now(p, &e))
		try_again(p, e.msg);
}

static void lost(struct passt *p, const char *why)
{
	disconnect(p);
	try_again(p, why);
}

/* Output: at most one frame is under way; what comes while it is, is lost, as on a full tap. */

/* Returns bytes that the socket took, 0 for none, negative when the connection is gone. */
static ssize_t put(struct passt *p, struct iovec *iov, int n)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
	ssize_t r = sendmsg(p->nd->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (r >= 0 || errno == EAGAIN || errno == EINTR)
		return r < 0 ? 0 : r;
	lost(p, strerror(errno));
	return -1;
}

static void flush(struct passt *p)
{
	struct iovec iov = {p->out + p->out_at, p->out_end - p->out_at};
	ssize_t r = iov.iov_len ? put(p, &iov, 1) : 0;

	if (r < 0)
		return;
	p->out_at += (uint32_t)r;
	wait_writable(p, p->out_at < p->out_end);
}

static void on_writable(struct loop_op *op, int res)
{
	struct passt *p = op->arg;

	if (res < 0)
		p->waiting = false;
	else
		flush(p);
}

static void wait_writable(struct passt *p, bool on)
{
	if (on == p->waiting)
		return;
	p->waiting = on;
	if (!on) {
		loop_poll_del(p->loop, &p->writable);
		return;
	}
	p->writable = (struct loop_op){.fn = on_writable, .arg = p};
	if (loop_poll_add(p->loop, &p->writable, p->nd->fd, POLLOUT) < 0)
		p->waiting = false; /* the next frame tries again */
}

/* Keep what the socket did not take of iov. */
static void keep_rest(struct passt *p, const struct iovec *iov, int n, size_t taken)
{
	p->out_at = p->out_end = 0;
	for (int i = 0; i < n; i++) {
		size_t skip = taken < iov[i].iov_len ? taken : iov[i].iov_len;
		size_t rest = iov[i].iov_len - skip;

		taken -= skip;
		memcpy(p->out + p->out_end, (const uint8_t *)iov[i].iov_base + skip, rest);
		p->out_end += (uint32_t)rest;
	}
	wait_writable(p, true);
}

static bool send_frame(struct passt *p, const uint8_t *eth, uint32_t len)
{
	uint32_t length = htonl(len);
	struct iovec iov[2] = {{&length, LENGTH}, {(void *)eth, len}};
	ssize_t r;

	if (len < ETH_HLEN || len > FRAME_MAX)
		return false;
	if (p->out_at < p->out_end)
		flush(p);
	if (p->nd->fd < 0 || p->out_at < p->out_end)
		return false;
	r = put(p, iov, 2);
	if (r <= 0)
		return false;
	if ((size_t)r < LENGTH + len)
		keep_rest(p, iov, 2, (size_t)r);
	return true;
}

static void passt_send(struct netdev *nd, const void *frame, uint32_t len)
{
	const uint8_t *eth = (const uint8_t *)frame + NET_VNET_HDR;

	if (nd->fd >= 0 && len > NET_VNET_HDR && send_frame(nd->back, eth, len - NET_VNET_HDR))
		nd->tx_frames++;
	else
		nd->tx_dropped++;
}

/* Input. */

/* 1: more bytes came in, -EAGAIN: none, or the connection is gone. */
static int fill(struct passt *p)
{
	ssize_t n;

	memmove(p->in, p->in + p->in_at, p->in_end - p->in_at);
	p->in_end -= p->in_at;
	p->in_at = 0;
	n = recv(p->nd->fd, p->in + p->in_end, IN_BYTES - p->in_end, MSG_DONTWAIT);
	if (n > 0) {
		p->in_end += (uint32_t)n;
		return 1;
	}
	if (n == 0)
		lost(p, "it closed the connection");
	else if (errno != EAGAIN && errno != EINTR)
		lost(p, strerror(errno));
	return -EAGAIN;
}

/* Length of the frame that is in the buffer whole, 0 when it is not, -EBADMSG. */
static int whole_frame(const struct passt *p)
{
	uint32_t have = p->in_end - p->in_at, length;

	if (have < LENGTH)
		return 0;
	memcpy(&length, p->in + p->in_at, LENGTH);
	length = ntohl(length);
	if (length < ETH_HLEN || length > FRAME_MAX)
		return -EBADMSG;
	return have - LENGTH < length ? 0 : (int)length;
}

static int passt_recv(struct netdev *nd, void *buf, uint32_t cap)
{
	struct passt *p = nd->back;
	int len = 0;

	while (nd->fd >= 0 && !(len = whole_frame(p)))
		if (fill(p) < 0)
			return -EAGAIN;
	if (nd->fd < 0)
		return -EAGAIN;
	if (len < 0) {
		/* Where the next frame begins is not known any more. */
		lost(p, "it sent a frame of an impossible length");
		return -EAGAIN;
	}
	if (cap < NET_VNET_HDR + (uint32_t)len)
		return -EINVAL;
	memset(buf, 0, NET_VNET_HDR);
	memcpy((uint8_t *)buf + NET_VNET_HDR, p->in + p->in_at + LENGTH, (size_t)len);
	p->in_at += LENGTH + (uint32_t)len;
	nd->rx_frames++;
	return (int)NET_VNET_HDR + len;
}

/* The rest. */

static int passt_set_offloads(struct netdev *nd, uint64_t guest_features)
{
	(void)nd;
	(void)guest_features; /* none are offered: mdev.no_offload */
	return 0;
}

static int passt_link(struct netdev *nd, bool up, struct err *e)
{
	struct passt *p = nd->back;
	struct err first = {0};

	if (up == p->up)
		return 0;
	p->up = up;
	if (!up) {
		loop_timer_del(p->loop, &p->retry);
		disconnect(p);
		return 0;
	}
	if (!connect_now(p, &first))
		return 0;
	p->told = true; /* by the caller */
	try_again(p, first.msg);
	return err_set(e, first.code, "%s", first.msg);
}

static void passt_close(struct netdev *nd)
{
	struct passt *p = nd->back;

	if (!p)
		return;
	passt_link(nd, false, NULL);
	free(p);
	nd->back = NULL;
	nd->ops = NULL;
}

static const struct netdev_ops passt_ops = {
	.recv = passt_recv,
	.send = passt_send,
	.set_offloads = passt_set_offloads,
	.link = passt_link,
	.close = passt_close,
};

int netdev_open_passt(struct netdev *nd, struct loop *loop, const char *id, const char *path,
		      struct err *e)
{
	struct passt *p = calloc(1, sizeof(*p));

	memset(nd, 0, sizeof(*nd));
	nd->fd = -1;
	if (!p)
		return err_set(e, -ENOMEM, "net '%s': out of memory", id);
	if (!*path || strlen(path) >= sizeof(p->path)) {
		free(p);
		return err_set(e, -ENAMETOOLONG,
			       "net '%s': socket '%s' has no name of 1..%zu characters", id, path,
			       sizeof(p->path) - 1);
	}
	snprintf(nd->id, sizeof(nd->id), "%s", id);
	snprintf(p->path, sizeof(p->path), "%s", path);
	p->nd = nd;
	p->loop = loop;
	nd->ops = &passt_ops;
	nd->back = p;
	return 0;
}
