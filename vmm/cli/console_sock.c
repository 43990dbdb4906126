#define _GNU_SOURCE /* accept4 */
#include "vmm/cli/console_sock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/cli/ctl_sock.h"
#include "vmm/base/log.h"

#define CLIENTS_MAX 4
#define IN_MAX	    512u
#define OUT_MAX	    65536u
#define RETRY_NS    10000000ull /* until bytes that the guest had no room for are offered again */

struct client {
	struct console_sock *owner;
	int fd; /* -1: free */
	struct loop_op op, retry_op;
	uint32_t polled; /* events asked of the loop */
	uint8_t in[IN_MAX], *out;
	uint32_t in_len, out_len;
};

struct console_sock {
	struct loop *loop;
	int fd;
	struct loop_op op;
	console_input_fn *input;
	void *arg;
	struct sockaddr_un addr;
	struct client clients[CLIENTS_MAX];
};

static void drop(struct client *c)
{
	if (c->fd < 0)
		return;
	loop_poll_del(c->owner->loop, &c->op);
	loop_timer_del(c->owner->loop, &c->retry_op);
	/* The loop may hold the file a little longer; the client is to see the end now. */
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	free(c->out);
	c->fd = -1;
	c->out = NULL;
}

/* Nothing is read while the guest has no room for what was. */
static void repoll(struct client *c)
{
	uint32_t want = (c->in_len ? 0 : POLLIN) | (c->out_len ? POLLOUT : 0);

	if (want == c->polled)
		return;
	loop_poll_del(c->owner->loop, &c->op);
	c->polled = want;
	if (want && loop_poll_add(c->owner->loop, &c->op, c->fd, want) < 0)
		drop(c);
}

static void flush(struct client *c)
{
	ssize_t n = c->out_len ? send(c->fd, c->out, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		drop(c);
		return;
	}
	if (n > 0) {
		c->out_len -= (uint32_t)n;
		memmove(c->out, c->out + n, c->out_len);
	}
	repoll(c);
}

static void type(struct client *c)
{
	struct console_sock *s = c->owner;
	int n = s->input(s->arg, c->in, c->in_len);

	if (n < 0) {
		drop(c);
		return;
	}
	c->in_len -= (uint32_t)n;
	memmove(c->in, c->in + n, c->in_len);
	if (c->in_len && loop_timer_set(s->loop, &c->retry_op, RETRY_NS) < 0)
		c->in_len = 0; /* lost, as on a line without flow control */
	repoll(c);
}

static void on_retry(struct loop_op *op, int res)
{
	type(op->arg);
}

static void on_client(struct loop_op *op, int res)
{
	struct client *c = op->arg;
	ssize_t n;

	if (res < 0) {
		drop(c);
		return;
	}
	if (c->out_len) {
		flush(c);
		if (c->fd < 0)
			return;
	}
	if (c->in_len || !(res & (POLLIN | POLLHUP | POLLERR)))
		return;
	n = recv(c->fd, c->in, IN_MAX, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(c);
		return;
	}
	c->in_len = (uint32_t)n;
	type(c);
}

void console_sock_put(void *arg, const void *data, uint32_t len)
{
	struct console_sock *s = arg;

	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *c = &s->clients[i];

		if (c->fd < 0)
			continue;
		if (len > OUT_MAX - c->out_len)
			flush(c);
		if (c->fd >= 0 && len > OUT_MAX - c->out_len) {
			log_warn("console: a client does not read; dropped");
			drop(c);
		}
		if (c->fd < 0)
			continue;
		memcpy(c->out + c->out_len, data, len);
		c->out_len += len;
		flush(c);
	}
}

/* Not noticed while it is not read from: it has typed more than the guest has taken. */
static bool has_left(const struct client *c)
{
	struct pollfd p = {.fd = c->fd};

	return poll(&p, 1, 0) == 1;
}

static struct client *free_client(struct console_sock *s)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (s->clients[i].fd < 0)
			return &s->clients[i];
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (has_left(&s->clients[i])) {
			drop(&s->clients[i]);
			return &s->clients[i];
		}
	return NULL;
}

static void add_client(struct console_sock *s, int fd)
{
	struct client *c = free_client(s);

	if (!c) {
		ctl_sock_refuse(fd, "ftvmm: 4 clients are at this console already\r\n");
		return;
	}
	memset(c, 0, sizeof(*c));
	c->owner = s;
	c->fd = fd;
	c->op = (struct loop_op){.fn = on_client, .arg = c};
	c->retry_op = (struct loop_op){.fn = on_retry, .arg = c};
	c->out = malloc(OUT_MAX);
	if (c->out)
		repoll(c);
	else
		drop(c);
}

static void on_accept(struct loop_op *op, int res)
{
	struct console_sock *s = op->arg;
	int fd = res < 0 ? -1 : accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (!ctl_sock_peer_allowed(fd))
		ctl_sock_refuse(fd, "ftvmm: only the owner of this VM or root may connect\r\n");
	else if (s->input(s->arg, "", 0) < 0)
		ctl_sock_refuse(fd, "ftvmm: this side does not run the VM\r\n");
	else
		add_client(s, fd);
}

int console_sock_open(struct console_sock **ret, struct loop *l, const char *name,
		      console_input_fn *input, void *arg, struct err *e)
{
	struct console_sock *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(e, -ENOMEM, "console socket: out of memory");
	*s = (struct console_sock){.loop = l, .fd = -1, .input = input, .arg = arg};
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		s->clients[i].fd = -1;
	r = ctl_sock_console_addr(name, &s->addr, e);
	if (!r) {
		unlink(s->addr.sun_path);
		r = s->fd = ctl_sock_listen(&s->addr, CLIENTS_MAX, e);
	}
	if (r >= 0) {
		s->op = (struct loop_op){.fn = on_accept, .arg = s};
		r = loop_poll_add(l, &s->op, s->fd, POLLIN);
		if (r < 0)
			err_set(e, r, "console socket: too many operations in the event loop");
	}
	if (r < 0)
		console_sock_close(s);
	else
		*ret = s;
	return r < 0 ? r : 0;
}

void console_sock_close(struct console_sock *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		drop(&s->clients[i]);
	if (s->fd >= 0) {
		loop_poll_del(s->loop, &s->op);
		unlink(s->addr.sun_path);
		close(s->fd);
	}
	free(s);
}
