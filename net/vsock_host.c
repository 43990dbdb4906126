#define _GNU_SOURCE
#include "net/vsock_host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/vsock_sock.h"
#include "vmm/base/lockfile.h"
#include "vmm/base/log.h"

#define LINE_NS	     2000000000ull /* a program says what it wants within this time */
#define CONNECT_NS   2000000000ull /* a program that listens has room within this time */
#define TRY_NS	     10000000ull
#define RETRY_NS     100000000ull /* when no connection can be accepted */
#define BACKLOG	     64
#define LOCK_WAIT_MS 200

/* Something that a program or the guest can do all day: log less and less of it. */
static void complain(uint64_t n, const char *what)
{
	if (n <= 4 || !(n & (n - 1)))
		log_warn("vsock: %s (%" PRIu64 " so far)", what, n);
}

/* --- the socket that programs connect to -------------------------------------------------------
 */

static void make_addr(struct sockaddr_un *sa, const char *path)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	snprintf(sa->sun_path, sizeof(sa->sun_path), "%s", path);
}

/* Whoever finds a stale socket removes it, so only one process at a time looks. */
static int lock_name(const char *path, char lock[VSOCK_PATH_MAX + 8], struct err *e)
{
	int fd;

	snprintf(lock, VSOCK_PATH_MAX + 8, "%s.lock", path);
	fd = lockfile_take(lock, geteuid(), LOCK_WAIT_MS, e);
	return fd < 0 ? err_wrap(e, "vsock") : fd;
}

/* Remove what nobody listens on. Connecting to a file that is no socket is refused, too. */
static int remove_stale(const char *path, struct err *e)
{
	struct sockaddr_un sa;
	struct stat st;
	int fd, r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(e, "vsock: '%s'", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "vsock: '%s' is there and is no socket; remove it",
			       path);
	make_addr(&sa, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, "vsock: socket");
	r = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? errno : 0;
	close(fd);
	if (r != ECONNREFUSED)
		return err_set(e, -EADDRINUSE,
			       "vsock: another process listens on '%s'; give this VM another path",
			       path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_sys(e, "vsock: removing the old '%s'", path);
	return 0;
}

static int bind_socket(struct vsock_host *h, struct err *e)
{
	struct sockaddr_un sa;
	struct stat st;
	int r = remove_stale(h->path, e), fd;

	if (r)
		return r;
	make_addr(&sa, h->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, "vsock: socket");
	/* The mode of the socket before it has a name is the mode of the name. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    listen(fd, BACKLOG) < 0 || lstat(h->path, &st) < 0) {
		r = err_sys(e, "vsock: '%s'", h->path);
		close(fd);
		return r;
	}
	h->listen_fd = fd;
	h->dev = st.st_dev;
	h->ino = st.st_ino;
	return 0;
}

static void take_line(struct loop_op *op, int res);

/* The program took too long. */
static void line_late(struct loop_op *op, int res)
{
	struct vsock_sock *s = op->arg;

	complain(++s->host->stats.refused, "a program did not say which port it wants");
	vsock_sock_free(s);
}

/* Connections that the device has not heard of: they must leave it room for those it makes. */
static unsigned count_new(const struct vsock_host *h)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_MAX_SOCKS; i++)
		n += h->socks[i].phase == VSOCK_LINE || h->socks[i].notes & VSOCK_REQUEST;
	return n;
}

static void take_program(struct vsock_host *h, int fd)
{
	struct vsock_sock *s = NULL;

	h->stats.accepted++;
	if (count_new(h) < VSOCK_MAX_NEW)
		s = vsock_sock_new(h, h->last_id += 2, VSOCK_LINE);
	if (!s) {
		complain(++h->stats.refused, "more connections than there is room for");
		close(fd);
		return;
	}
	s->fd = fd;
	s->timer_op = (struct loop_op){.fn = line_late, .arg = s};
	s->poll_op = (struct loop_op){.fn = take_line, .arg = s};
	if (loop_poll_add(h->loop, &s->poll_op, fd, POLLIN) < 0) {
		vsock_sock_free(s);
		return;
	}
	s->polled = POLLIN + 1;
	if (loop_timer_set(h->loop, &s->timer_op, LINE_NS) < 0)
		vsock_sock_free(s);
}

static void listen_again(struct loop_op *op, int res);

static void accept_one(struct loop_op *op, int res)
{
	struct vsock_host *h = op->arg;
	int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		take_program(h, fd);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		/* Out of descriptors: the connection stays in the queue, and poll says so at once.
		 */
		log_warn("vsock: accepting a connection: %s", strerror(errno));
		loop_poll_del(h->loop, &h->listen_op);
		h->retry_op = (struct loop_op){.fn = listen_again, .arg = h};
		loop_timer_set(h->loop, &h->retry_op, RETRY_NS);
	}
}

static int start_accepting(struct vsock_host *h)
{
	h->listen_op = (struct loop_op){.fn = accept_one, .arg = h};
	return loop_poll_add(h->loop, &h->listen_op, h->listen_fd, POLLIN);
}

static void listen_again(struct loop_op *op, int res)
{
	if (start_accepting(op->arg) < 0)
		log_error("vsock: no more connections are accepted: the event loop is full");
}

/* --- the line that says which port -------------------------------------------------------------
 */

/* "CONNECT <port>" without its end. */
static bool parse_line(const char *text, size_t n, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	size_t at = strlen(word);
	uint64_t port = 0;

	if (n <= at || memcmp(text, word, at))
		return false;
	for (; at < n; at++) {
		if (text[at] < '0' || text[at] > '9')
			return false;
		port = port * 10 + (unsigned)(text[at] - '0');
		if (port >= UINT32_MAX) /* VMADDR_PORT_ANY is no port */
			return false;
	}
	*ret_port = (uint32_t)port;
	return true;
}

/* Byte by byte: what follows the line is the guest's. 1 whole, 0 not yet, -EBADMSG. */
static int read_line(struct vsock_sock *s, uint32_t *ret_port)
{
	while (s->line_len < VSOCK_LINE_MAX) {
		char *c = &s->line[s->line_len];
		ssize_t n = recv(s->fd, c, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return -EBADMSG;
		if (*c == '\n')
			return parse_line(s->line, s->line_len, ret_port) ? 1 : -EBADMSG;
		s->line_len++;
	}
	return -EBADMSG;
}

static void take_line(struct loop_op *op, int res)
{
	struct vsock_sock *s = op->arg;
	uint32_t port = 0;
	int r = read_line(s, &port);

	if (r == 0)
		return;
	if (r < 0) {
		complain(++s->host->stats.refused, "a program did not begin with CONNECT <port>");
		vsock_sock_free(s);
		return;
	}
	loop_timer_del(s->host->loop, &s->timer_op);
	s->port = port;
	s->phase = VSOCK_WAITING;
	vsock_sock_note(s, VSOCK_REQUEST);
	vsock_sock_repoll(s);
}

/* --- connections of the guest ------------------------------------------------------------------
 */

static int connect_once(struct vsock_sock *s)
{
	struct sockaddr_un sa;
	char path[sizeof(sa.sun_path)];
	int r;

	snprintf(path, sizeof(path), "%s_%u", s->host->path, s->port);
	make_addr(&sa, path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	if (connect(s->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return 0;
	r = -errno;
	close(s->fd);
	s->fd = -1;
	return r;
}

static void try_again(struct loop_op *op, int res);

static void try_connect(struct vsock_sock *s)
{
	struct vsock_host *h = s->host;
	int r = connect_once(s);

	if (r == 0) {
		vsock_sock_open(s);
		if (s->phase == VSOCK_OPEN)
			vsock_sock_note(s, VSOCK_CONNECTED);
		return;
	}
	/* EAGAIN: its queue of connections is full. There is no way to poll for room. */
	s->timer_op = (struct loop_op){.fn = try_again, .arg = s};
	if (r == -EAGAIN && loop_now_ns() < s->deadline_ns &&
	    loop_timer_set(h->loop, &s->timer_op, TRY_NS) == 0)
		return;
	h->stats.failed++;
	log_debug("vsock: '%s_%u': %s", h->path, s->port, strerror(-r));
	vsock_sock_die(s);
}

static void try_again(struct loop_op *op, int res)
{
	try_connect(op->arg);
}

static void order_connect(struct vsock_host *h, uint64_t id, uint32_t port)
{
	struct vsock_sock *s = vsock_sock_new(h, id, VSOCK_TRYING);

	h->stats.connected++;
	/* Cannot be: the device has no more than VSOCK_MAX_CONNS. If so, its deadline ends it. */
	if (!s) {
		complain(++h->stats.failed, "no room for a connection of the guest");
		return;
	}
	s->port = port;
	s->deadline_ns = loop_now_ns() + CONNECT_NS;
	try_connect(s);
}

/* --- orders and events -------------------------------------------------------------------------
 */

/* A fresh socket takes so few bytes. The line must be the first thing that the program reads. */
static void order_accept(struct vsock_sock *s, uint32_t port)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %u\n", port);

	if (s->phase != VSOCK_WAITING)
		return;
	if (send(s->fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
		vsock_sock_die(s);
	else
		vsock_sock_open(s);
}

/* The device may have taken up one of them since it gave the order: it hears of the end. */
static void close_until(struct vsock_host *h, uint64_t id)
{
	for (unsigned i = 0; i < VSOCK_MAX_SOCKS; i++)
		if (h->socks[i].phase > VSOCK_LINE && h->socks[i].id <= id &&
		    vsock_id_is_guests(h->socks[i].id) == vsock_id_is_guests(id))
			vsock_sock_die(&h->socks[i]);
}

void vsock_host_deliver(struct vsock_host *h, const void *entry, uint32_t len)
{
	const uint8_t *data = (const uint8_t *)entry + sizeof(struct vsock_order);
	struct vsock_order o;
	struct vsock_sock *s;

	VMM_BUG_ON(len < sizeof(o));
	memcpy(&o, entry, sizeof(o));
	s = vsock_sock_find(h, o.id);
	if (o.op == VSOCK_CONNECT)
		order_connect(h, o.id, o.arg);
	else if (o.op == VSOCK_CLOSE_ALL)
		close_until(h, o.id);
	else if (s && o.op == VSOCK_CLOSE)
		vsock_sock_free(s);
	else if (s && o.op == VSOCK_ACCEPT)
		order_accept(s, o.arg);
	else if (s && s->phase == VSOCK_OPEN && o.op == VSOCK_DATA)
		vsock_sock_write(s, data, len - sizeof(o));
	else if (s && s->phase == VSOCK_OPEN && o.op == VSOCK_SHUTDOWN)
		vsock_sock_shutdown(s, o.arg);
}

bool vsock_host_event(struct vsock_host *h, struct vsock_event *ret)
{
	for (unsigned n = 0; n < VSOCK_MAX_SOCKS; n++) {
		struct vsock_sock *s = &h->socks[h->next_event];

		h->next_event = (h->next_event + 1) % VSOCK_MAX_SOCKS;
		if (s->phase == VSOCK_FREE || !s->notes)
			continue;
		*ret = (struct vsock_event){s->id, s->notes, s->port, s->written};
		s->notes = s->written = 0;
		if (s->phase == VSOCK_DEAD)
			vsock_sock_free(s);
		return true;
	}
	return false;
}

ssize_t vsock_host_read(struct vsock_host *h, uint64_t id, void *buf, uint32_t cap)
{
	struct vsock_sock *s = vsock_sock_find(h, id);

	if (!s || s->phase != VSOCK_OPEN)
		return -ENOENT;
	return vsock_sock_read(s, buf, cap);
}

void vsock_host_refuse(struct vsock_host *h, uint64_t id)
{
	struct vsock_sock *s = vsock_sock_find(h, id);

	if (s && s->phase == VSOCK_WAITING) {
		complain(++h->stats.refused, "no room for a connection, or no guest that takes it");
		vsock_sock_free(s);
	}
}

/* --- set-up ------------------------------------------------------------------------------------
 */

int vsock_host_init(struct vsock_host *h, struct loop *l, const char *path, struct err *e)
{
	memset(h, 0, sizeof(*h));
	h->listen_fd = -1;
	if (!*path || strlen(path) > VSOCK_PATH_MAX)
		return err_set(e, -EINVAL, "vsock: the path must have 1 to %d characters",
			       VSOCK_PATH_MAX);
	snprintf(h->path, sizeof(h->path), "%s", path);
	h->loop = l;
	return 0;
}

int vsock_host_listen(struct vsock_host *h, struct err *e)
{
	char name[VSOCK_PATH_MAX + 8];
	int lock, r;

	if (!h->loop || h->listen_fd >= 0)
		return 0;
	lock = lock_name(h->path, name, e);
	if (lock < 0)
		return lock;
	r = bind_socket(h, e);
	lockfile_drop(lock, name);
	if (!r)
		r = start_accepting(h);
	return r < 0 && e && !e->code ? err_set(e, r, "vsock: the event loop is full") : r;
}

/* Only the socket file that is ours: another process may have replaced it. */
static void remove_own(struct vsock_host *h)
{
	char name[VSOCK_PATH_MAX + 8];
	struct err e = {0};
	struct stat st;
	int lock = lock_name(h->path, name, &e);

	if (lock < 0)
		return;
	if (lstat(h->path, &st) == 0 && st.st_dev == h->dev && st.st_ino == h->ino)
		unlink(h->path);
	lockfile_drop(lock, name);
}

void vsock_host_done(struct vsock_host *h)
{
	if (!h->loop)
		return;
	for (unsigned i = 0; i < VSOCK_MAX_SOCKS; i++)
		if (h->socks[i].phase != VSOCK_FREE)
			vsock_sock_free(&h->socks[i]);
	if (h->listen_fd >= 0) {
		loop_timer_del(h->loop, &h->retry_op);
		loop_poll_del(h->loop, &h->listen_op);
		remove_own(h);
		close(h->listen_fd);
	}
	h->listen_fd = -1;
	h->loop = NULL;
}
