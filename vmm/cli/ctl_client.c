#include "vmm/cli/ctl_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/cli/ctl_sock.h"
#include "vmm/base/loop.h"

/* When a wait of timeout_ms ends; 0 never. */
static uint64_t deadline_of(int timeout_ms)
{
	return timeout_ms < 0 ? 0 : loop_now_ns() + timeout_ms * 1000000ull;
}

static int wait_fd(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	int r;

	do {
		uint64_t now = loop_now_ns();

		if (deadline && now >= deadline)
			return -ETIMEDOUT;
		/* Rounded up: the deadline itself decides, not the millisecond. */
		r = poll(&p, 1, deadline ? (int)((deadline - now) / 1000000 + 1) : -1);
	} while (r == 0 || (r < 0 && errno == EINTR));
	return r < 0 ? -errno : 0;
}

int ctl_client_open(struct ctl_client **ret, const char *name, int timeout_ms, struct err *e)
{
	struct ctl_client *c;
	struct sockaddr_un sa;
	int fd, r = ctl_sock_addr(name, &sa, e);

	if (r)
		return r;
	fd = ctl_sock_connect(&sa, timeout_ms);
	if (fd == -ECONNREFUSED)
		ctl_sock_reap(&sa);
	if (fd == -ECONNREFUSED || fd == -ENOENT)
		return err_set(e, -ENOENT,
			       "no VM named '%s' runs here: nobody listens on '%s' "
			       "(XDG_RUNTIME_DIR as where it was started?)",
			       name, sa.sun_path);
	if (fd == -EACCES)
		return err_set(e, fd,
			       "control socket '%s': %s; only the user who started the VM and root "
			       "may use it",
			       sa.sun_path, strerror(-fd));
	if (fd < 0)
		return err_set(e, fd, "control socket '%s': %s", sa.sun_path, strerror(-fd));
	c = malloc(sizeof(*c));
	if (!c) {
		close(fd);
		return err_set(e, -ENOMEM, "out of memory");
	}
	c->fd = fd;
	c->name = name;
	c->greeted = false;
	c->len = c->used = 0;
	*ret = c;
	return 0;
}

void ctl_client_close(struct ctl_client *c)
{
	if (!c)
		return;
	close(c->fd);
	free(c);
}

int ctl_client_line(struct ctl_client *c, int timeout_ms, char **ret, struct err *e)
{
	uint64_t deadline = deadline_of(timeout_ms);
	char *end;

	c->len -= c->used;
	memmove(c->buf, c->buf + c->used, c->len);
	c->used = 0;
	*ret = NULL;
	while (!(end = memchr(c->buf, '\n', c->len))) {
		int r = wait_fd(c->fd, POLLIN, deadline);
		ssize_t n;

		if (r)
			return err_set(e, r, "VM '%s' did not answer within %d ms", c->name,
				       timeout_ms);
		if (c->len == sizeof(c->buf))
			return err_set(e, -EMSGSIZE, "VM '%s' sent a line that is too long",
				       c->name);
		n = recv(c->fd, c->buf + c->len, sizeof(c->buf) - c->len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0 && errno != ECONNRESET)
			return err_sys(e, "VM '%s'", c->name);
		if (n <= 0)
			return 0;
		c->len += n;
	}
	*end = 0;
	c->used = end - c->buf + 1;
	*ret = c->buf;
	return 0;
}

static int send_request(struct ctl_client *c, json_t *request, int timeout_ms, struct err *e)
{
	uint64_t deadline = deadline_of(timeout_ms);
	char *text = json_dumps(request, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0, sent = 0;
	int r = 0;

	json_decref(request);
	if (!text)
		return err_set(e, -EINVAL, "the request is not valid UTF-8");
	text[len++] = '\n'; /* in place of the final NUL */
	while (!r && sent < len) {
		ssize_t n = send(c->fd, text + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0)
			sent += n;
		else if (errno == EAGAIN)
			r = wait_fd(c->fd, POLLOUT, deadline);
		else if (errno == EPIPE)
			break; /* refused us; its reason may still be there to read */
		else if (errno != EINTR)
			r = -errno;
	}
	free(text);
	return r ? err_set(e, r, "VM '%s': %s", c->name, strerror(-r)) : 0;
}

/* Not there when it has no place for us, and says that instead. */
static int look_at_greeting(struct ctl_client *c, json_t *reply, struct err *e)
{
	json_t *version = json_object_get(json_object_get(reply, "greeting"), "control");

	c->greeted = true;
	if (!json_is_integer(version) || json_integer_value(version) == CTL_VERSION)
		return 0;
	return err_set(e, -EPROTONOSUPPORT,
		       "VM '%s': its control socket speaks version %lld, and this ftvmm version "
		       "%d: use the ftvmm that started it",
		       c->name, (long long)json_integer_value(version), CTL_VERSION);
}

/* The next line, as JSON; a greeting is looked at, and is none. NULL with e. */
static json_t *next_object(struct ctl_client *c, int timeout_ms, struct err *e)
{
	json_t *reply;
	char *line;

	if (ctl_client_line(c, timeout_ms, &line, e))
		return NULL;
	if (!line) {
		err_set(e, -ECONNRESET, "VM '%s' closed the connection", c->name);
		return NULL;
	}
	reply = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	if (!reply)
		err_set(e, -EPROTO, "VM '%s' answered with something else than JSON", c->name);
	if (!c->greeted && json_object_get(reply, "greeting")) {
		int r = look_at_greeting(c, reply, e);

		json_decref(reply);
		return r ? NULL : next_object(c, timeout_ms, e);
	}
	return reply;
}

static json_t *next_reply(struct ctl_client *c, int timeout_ms, struct err *e)
{
	json_t *o = next_object(c, timeout_ms, e);

	while (json_object_get(o, "event")) {
		json_decref(o);
		o = next_object(c, timeout_ms, e);
	}
	return o;
}

json_t *ctl_client_call(struct ctl_client *c, json_t *request, int timeout_ms, struct err *e)
{
	json_t *reply, *ok;
	const char *error;

	json_object_set_new(request, "id", json_integer(1));
	json_object_set_new(request, "version", json_integer(CTL_VERSION));
	if (send_request(c, request, timeout_ms, e))
		return NULL;
	reply = next_reply(c, timeout_ms, e);
	if (!reply)
		return NULL;
	ok = json_incref(json_object_get(reply, "ok"));
	error = json_string_value(json_object_get(reply, "error"));
	if (!ok && error)
		err_set(e, -EREMOTEIO, "%s", error);
	else if (!ok)
		err_set(e, -EPROTO, "VM '%s' answered with something else than JSON", c->name);
	json_decref(reply);
	return ok;
}

json_t *ctl_call(const char *name, json_t *request, int timeout_ms, struct err *e)
{
	struct ctl_client *c = NULL;
	json_t *ok;

	if (ctl_client_open(&c, name, timeout_ms, e)) {
		json_decref(request);
		return NULL;
	}
	ok = ctl_client_call(c, request, timeout_ms, e);
	ctl_client_close(c);
	return ok;
}
