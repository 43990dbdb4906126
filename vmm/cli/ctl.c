#define _GNU_SOURCE /* accept4 */
#include "vmm/cli/ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli/ctl_sock.h"
#include "vmm/base/log.h"
#include "vmm/base/log_line.h"
#include "vmm/base/utf8.h"

#define CLIENTS_MAX 16
/* A client that leaves more than this unread is dropped; the longest answer is CTL_CLIENT_MAX. */
#define OUT_MAX (8 * CTL_LINE_MAX)

struct client {
	struct ctl *ctl;
	int fd; /* -1: free */
	struct loop_op op;
	struct loop_work work; /* the lines that came */
	uint32_t polled;       /* events asked of the loop */
	uint64_t serial;       /* which client this is: slots are used again */
	bool wants_events;
	bool closing;		 /* no more input; goes once its output is out */
	struct ctl_later *later; /* the answer that it waits for, or NULL */
	json_t *id;		 /* of the request that is being answered, */
	bool put_off;		 /* and is that later? */
	char *in, *out;
	size_t in_len, out_len;
};

/* Which client it was, too: dropped since, its slot is free, or another's. */
struct asker {
	struct client *client;
	uint64_t serial;
};

struct ctl {
	struct loop *loop;
	int fd;
	struct loop_op op;
	ctl_fn *fn;
	void *arg;
	char name[CTL_NAME_MAX + 1];
	uint64_t serial;
	struct asker asking; /* whose request is being answered */
	struct sockaddr_un addr;
	struct client clients[CLIENTS_MAX];
};

/* Nobody waits for that answer any more. */
static void forget_later(struct client *c)
{
	struct ctl_later *l = c->later;

	if (!l)
		return;
	c->later = NULL;
	json_decref(l->id);
	l->id = NULL;
	l->client = NULL;
	if (l->left)
		l->left(l->arg);
}

static void drop(struct client *c)
{
	if (c->fd < 0)
		return;
	loop_poll_del(c->ctl->loop, &c->op);
	loop_work_del(c->ctl->loop, &c->work);
	/* The loop may hold the file a little longer; the client is to see the end now. */
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	free(c->in);
	free(c->out);
	c->fd = -1;
	c->in = c->out = NULL;
	c->serial = 0;
	forget_later(c);
}

/* A whole line came, the client does not owe us reading, nor we an answer. */
static bool has_line(const struct client *c)
{
	return !c->closing && !c->out_len && !c->later && memchr(c->in, '\n', c->in_len);
}

static bool has_room(const struct client *c)
{
	return c->in_len < CTL_LINE_MAX;
}

/* Ask the loop for what we can use now: nothing is read before what came has had its turns. */
static void repoll(struct client *c)
{
	bool line = has_line(c);
	uint32_t want = c->out_len ? POLLOUT : line || !has_room(c) ? 0 : POLLIN;

	if (line)
		loop_work_add(c->ctl->loop, &c->work);
	if (want == c->polled)
		return;
	loop_poll_del(c->ctl->loop, &c->op);
	c->polled = want;
	if (want && loop_poll_add(c->ctl->loop, &c->op, c->fd, want) < 0)
		drop(c);
}

static void flush(struct client *c)
{
	ssize_t n = 0;

	if (c->out_len)
		n = send(c->fd, c->out, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		drop(c);
		return;
	}
	if (n > 0) {
		c->out_len -= n;
		memmove(c->out, c->out + n, c->out_len);
	}
	if (c->closing && !c->out_len)
		drop(c);
	else
		repoll(c);
}

/* Queue one line; the client may be gone afterwards. Steals the reference. */
static void put(struct client *c, json_t *line)
{
	size_t room = OUT_MAX - c->out_len, n;

	if (c->fd < 0 || !line) {
		json_decref(line);
		return;
	}
	n = json_dumpb(line, c->out + c->out_len, room, JSON_COMPACT);
	json_decref(line);
	if (!n || n + 1 > room) {
		log_warn("control: a client does not read; dropped");
		drop(c);
		return;
	}
	c->out[c->out_len + n] = '\n';
	c->out_len += n + 1;
	flush(c);
}

static void put_error(struct client *c, json_t *id, const char *text)
{
	char mended[sizeof(((struct err *)0)->msg)];

	snprintf(mended, sizeof(mended), "%s", text);
	utf8_mend(mended); /* from a path for instance */
	put(c, json_pack("{sO*ss}", "id", id, "error", mended));
}

/* Brackets outside strings; a cheap bound before the recursive parser sees the line. */
static unsigned line_depth(const char *s, size_t n)
{
	unsigned depth = 0, most = 0;
	bool in_string = false;

	for (size_t i = 0; i < n; i++) {
		if (in_string) {
			if (s[i] == '\\')
				i++;
			else if (s[i] == '"')
				in_string = false;
		} else if (s[i] == '"') {
			in_string = true;
		} else if (s[i] == '{' || s[i] == '[') {
			if (++depth > most)
				most = depth;
		} else if ((s[i] == '}' || s[i] == ']') && depth) {
			depth--;
		}
	}
	return most;
}

static void answer(struct client *c, json_t *id, json_t *ok, const struct err *e)
{
	if (ok)
		put(c, json_pack("{sO*so}", "id", id, "ok", ok));
	else
		put_error(c, id, e->msg[0] ? e->msg : "failed");
}

/* Who says none takes it as it is: a person at a terminal. */
static bool is_our_version(json_t *request, struct err *e)
{
	json_t *version = json_object_get(request, "version");

	if (!version || (json_is_integer(version) && json_integer_value(version) == CTL_VERSION))
		return true;
	err_set(e, -EPROTONOSUPPORT,
		"this VM's control socket speaks version %d, and the request is of another: use "
		"the ftvmm that started the VM",
		CTL_VERSION);
	return false;
}

static void run_request(struct client *c, json_t *request)
{
	json_t *id = json_object_get(request, "id"), *ok;
	const char *cmd = json_string_value(json_object_get(request, "cmd"));
	struct asker before = c->ctl->asking; /* a command may come back here through the loop */
	uint64_t serial = c->serial;
	struct err e = {0};

	if (id && !json_is_integer(id) && !json_is_string(id)) {
		put_error(c, NULL, "id must be a whole number or a string");
		return;
	}
	if (!cmd) {
		put_error(c, id, "cmd is missing or no string");
		return;
	}
	if (!is_our_version(request, &e)) {
		put_error(c, id, e.msg);
		return;
	}
	c->ctl->asking = (struct asker){c, serial};
	c->id = id;
	c->put_off = false;
	ok = c->ctl->fn(c->ctl->arg, cmd, request, &e);
	c->ctl->asking = before;
	if (c->serial != serial) /* dropped by an event the command caused */
		json_decref(ok);
	else if (!c->put_off)
		answer(c, id, ok, &e);
}

/* The request in a line, or NULL and why not. */
static json_t *parse_line(const char *line, size_t n, char *why, size_t cap)
{
	json_error_t je;
	json_t *request;

	if (line_depth(line, n) > CTL_DEPTH_MAX) {
		snprintf(why, cap, "nested more than %u deep", CTL_DEPTH_MAX);
		return NULL;
	}
	request = json_loadb(line, n, JSON_REJECT_DUPLICATES, &je);
	/* Not je.text: it repeats the client's bytes. */
	if (!request)
		snprintf(why, cap, "not JSON (column %d)", je.column);
	else if (!json_is_object(request))
		snprintf(why, cap, "a request is a JSON object");
	else
		return request;
	json_decref(request);
	return NULL;
}

static void consume(struct client *c, size_t n)
{
	c->in_len -= n;
	memmove(c->in, c->in + n, c->in_len);
}

static void run_line(struct client *c)
{
	json_t *request;
	size_t n = 0;
	char why[80];

	while (n < c->in_len && c->in[n] == '\n') /* people at a terminal */
		n++;
	consume(c, n);
	if (!has_line(c))
		return;
	n = (char *)memchr(c->in, '\n', c->in_len) - c->in;
	request = parse_line(c->in, n, why, sizeof(why));
	/* Consumed before it runs: a command may come back here through the loop. */
	consume(c, n + 1);
	if (request)
		run_request(c, request);
	else
		put_error(c, NULL, why);
	json_decref(request);
}

/* In turn: whoever asks much at once does not hold the loop. */
static bool run_lines(struct loop_work *w)
{
	struct client *c = w->arg;
	uint64_t serial = c->serial;

	do
		run_line(c);
	while (c->serial == serial && has_line(c) && !loop_should_yield(c->ctl->loop));
	if (c->serial == serial)
		repoll(c);
	return false; /* unless that has asked for another turn */
}

static void receive(struct client *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_len, CTL_LINE_MAX - c->in_len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(c);
		return;
	}
	c->in_len += n;
	if (!has_room(c) && !memchr(c->in, '\n', c->in_len)) {
		c->closing = true;
		put_error(c, NULL, "line longer than 65536 bytes");
	}
}

static void on_client(struct loop_op *op, int res)
{
	struct client *c = op->arg;
	uint64_t serial = c->serial;

	if (res < 0)
		drop(c);
	else if (res & POLLOUT)
		flush(c);
	else
		receive(c);
	if (c->serial == serial)
		repoll(c);
}

static void greet(struct client *c)
{
	put(c,
	    json_pack("{s:{s:i, s:s}}", "greeting", "control", CTL_VERSION, "name", c->ctl->name));
	if (c->fd >= 0)
		repoll(c);
}

static void add_client(struct ctl *ctl, int fd)
{
	struct client *c = ctl->clients;

	while (c < ctl->clients + CLIENTS_MAX && c->fd >= 0)
		c++;
	if (c == ctl->clients + CLIENTS_MAX) {
		ctl_sock_refuse(fd,
				"{\"error\":\"16 clients are connected already; close one\"}\n");
		return;
	}
	memset(c, 0, sizeof(*c));
	c->ctl = ctl;
	c->fd = fd;
	c->serial = ++ctl->serial;
	c->op = (struct loop_op){.fn = on_client, .arg = c};
	c->work = (struct loop_work){.fn = run_lines, .arg = c};
	c->in = malloc(CTL_LINE_MAX);
	c->out = malloc(OUT_MAX);
	if (!c->in || !c->out)
		drop(c);
	else
		greet(c);
}

static void on_accept(struct loop_op *op, int res)
{
	struct ctl *ctl = op->arg;
	int fd;

	if (res < 0)
		return;
	fd = accept4(ctl->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (ctl_sock_peer_allowed(fd))
		add_client(ctl, fd);
	else
		ctl_sock_refuse(fd,
				"{\"error\":\"only the owner of this VM or root may connect\"}\n");
}

/* With the folder locked: nobody else tests, unlinks or binds meanwhile. */
static int bind_socket(struct ctl *ctl, const char *name, struct err *e)
{
	int probe = ctl_sock_connect(&ctl->addr, 0);

	if (probe >= 0 || probe == -ETIMEDOUT) {
		if (probe >= 0)
			close(probe);
		return err_set(e, -EADDRINUSE,
			       "a VM named '%s' is running already; choose another --name, or "
			       "ftvmm stop %s",
			       name, name);
	}
	if (probe == -ECONNREFUSED)
		unlink(ctl->addr.sun_path);
	ctl->fd = ctl_sock_listen(&ctl->addr, CLIENTS_MAX, e);
	return ctl->fd < 0 ? ctl->fd : 0;
}

int ctl_open(struct ctl **ret, struct loop *l, const char *name, ctl_fn *fn, void *arg,
	     struct err *e)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));
	int lock, r;

	if (!ctl)
		return err_set(e, -ENOMEM, "control socket: out of memory");
	ctl->loop = l;
	ctl->fd = -1;
	ctl->fn = fn;
	snprintf(ctl->name, sizeof(ctl->name), "%s", name);
	ctl->arg = arg;
	for (int i = 0; i < CLIENTS_MAX; i++)
		ctl->clients[i].fd = -1;
	r = ctl_sock_addr(name, &ctl->addr, e);
	if (r)
		goto fail;
	r = lock = ctl_sock_lock(e);
	if (r < 0)
		goto fail;
	r = bind_socket(ctl, name, e);
	ctl_sock_unlock(lock);
	if (r)
		goto fail;
	ctl->op.fn = on_accept;
	ctl->op.arg = ctl;
	r = loop_poll_add(l, &ctl->op, ctl->fd, POLLIN);
	if (r) {
		unlink(ctl->addr.sun_path);
		err_set(e, r, "control socket: too many operations in the event loop");
		goto fail;
	}
	*ret = ctl;
	return 0;
fail:
	if (ctl->fd >= 0)
		close(ctl->fd);
	free(ctl);
	return r;
}

void ctl_close(struct ctl *ctl)
{
	if (!ctl)
		return;
	for (int i = 0; i < CLIENTS_MAX; i++)
		drop(&ctl->clients[i]);
	loop_poll_del(ctl->loop, &ctl->op);
	unlink(ctl->addr.sun_path);
	shutdown(ctl->fd, SHUT_RDWR);
	close(ctl->fd);
	free(ctl);
}

/* NULL: it has left, as an event showed that the command has caused. */
static struct client *who_asks(const struct ctl *ctl)
{
	VMM_BUG_ON(!ctl->asking.client);
	return ctl->asking.client->serial == ctl->asking.serial ? ctl->asking.client : NULL;
}

void ctl_follow(struct ctl *ctl)
{
	struct client *c = who_asks(ctl);

	if (c)
		c->wants_events = true;
}

void ctl_later(struct ctl *ctl, struct ctl_later *l)
{
	struct client *c = who_asks(ctl);

	VMM_BUG_ON(l->client);
	if (!c)
		return;
	VMM_BUG_ON(c->later);
	l->client = c;
	l->id = json_incref(c->id);
	c->later = l;
	c->put_off = true;
}

void ctl_answer(struct ctl_later *l, json_t *ok, const struct err *e)
{
	struct client *c = l->client;
	json_t *id = l->id;
	uint64_t serial;

	if (!c) {
		json_decref(ok);
		return;
	}
	serial = c->serial;
	c->later = NULL;
	l->client = NULL;
	l->id = NULL;
	answer(c, id, ok, e);
	json_decref(id);
	/* What it has asked for meanwhile. */
	if (c->serial == serial)
		repoll(c);
}

void ctl_stamp(json_t *event)
{
	char text[32];

	log_line_time(text, sizeof(text));
	json_object_set_new(event, "time", json_string(text));
}

void ctl_event(struct ctl *ctl, json_t *event)
{
	ctl_stamp(event);
	for (int i = 0; ctl && i < CLIENTS_MAX; i++)
		if (ctl->clients[i].fd >= 0 && ctl->clients[i].wants_events &&
		    !ctl->clients[i].closing)
			put(&ctl->clients[i], json_incref(event));
	json_decref(event);
}
