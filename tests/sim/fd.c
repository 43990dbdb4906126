/* The table of descriptors; events, polls. */
#define _GNU_SOURCE
#include "tests/sim/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/file.h"
#include "tests/sim/memory.h"
#include "tests/sim/real.h"

#define FDS_MAX 65536

static struct fd *fds[FDS_MAX];
static int nfds;

int fail(int error)
{
	errno = error;
	return -1;
}

ssize_t result(ssize_t n)
{
	if (n >= 0)
		return n;
	errno = (int)-n;
	return -1;
}

/* --- the table -------------------------------------------------------------------------------- */

int fd_new(const struct fd_ops *ops, void *of)
{
	struct fd *f = calloc(1, sizeof(*f));

	if (nfds == FDS_MAX)
		abort();
	*f = (struct fd){.ops = ops, .proc = proc_now(), .number = FD_FIRST + nfds, .of = of};
	fds[nfds++] = f;
	world_changes++;
	return f->number;
}

struct fd *fd_find(int number)
{
	return number >= FD_FIRST && number < FD_FIRST + nfds ? fds[number - FD_FIRST] : NULL;
}

struct fd *fd_of(int number, const struct fd_ops *ops)
{
	struct fd *f = fd_find(number);

	return f && f->ops == ops ? f : NULL;
}

static void end(struct fd *f)
{
	fds[f->number - FD_FIRST] = NULL;
	world_changes++;
	if (f->ops->close)
		f->ops->close(f);
	free(f);
}

int __wrap_close(int number)
{
	struct fd *f = fd_find(number);

	if (number < FD_FIRST) {
		struct proc *p = proc_now();

		for (unsigned i = 0; p && i < p->nmemory; i++)
			if (p->memory[i] == number)
				p->memory[i] = p->memory[--p->nmemory];
		return memory_close(number) ? 0 : REAL(close)(number);
	}
	if (!f)
		return fail(EBADF);
	end(f);
	return 0;
}

void fd_close_all(struct proc *p)
{
	for (int i = 0; i < nfds; i++)
		if (fds[i] && fds[i]->proc == p)
			end(fds[i]);
	memory_leave(p);
}

/* --- reading and writing ---------------------------------------------------------------------- */

uint32_t fd_ready(struct fd *f)
{
	return f->ops->ready ? f->ops->ready(f) : POLLIN | POLLOUT;
}

ssize_t fd_read(struct fd *f, void *buf, size_t len)
{
	world_changes++;
	return f->ops->read ? f->ops->read(f, buf, len) : -EINVAL;
}

ssize_t fd_write(struct fd *f, const struct iovec *iov, int niov)
{
	world_changes++;
	return f->ops->write ? f->ops->write(f, iov, niov) : -EINVAL;
}

ssize_t __wrap_read(int number, void *buf, size_t len)
{
	struct fd *f = fd_find(number);

	if (number < FD_FIRST)
		return REAL(read)(number, buf, len);
	fiber_maybe(8);
	return f ? result(fd_read(f, buf, len)) : fail(EBADF);
}

ssize_t __wrap_recv(int number, void *buf, size_t len, int flags)
{
	return __wrap_read(number, buf, len);
}

ssize_t __wrap_writev(int number, const struct iovec *iov, int niov)
{
	struct fd *f = fd_find(number);

	fiber_maybe(8);
	return f ? result(fd_write(f, iov, niov)) : fail(EBADF);
}

ssize_t __wrap_write(int number, const void *buf, size_t len)
{
	struct iovec iov = {(void *)buf, len};

	if (number < FD_FIRST)
		return REAL(write)(number, buf, len);
	return __wrap_writev(number, &iov, 1);
}

int __wrap_fcntl(int number, int cmd, ...)
{
	struct fd *f = fd_find(number);
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (number == STDOUT_FILENO && cmd == F_DUPFD_CLOEXEC)
		return fd_new(&stdout_ops, NULL);
	if (cmd == F_ADD_SEALS && memory_seal(number))
		return 0;
	if (number < FD_FIRST)
		return REAL(fcntl)(number, cmd, arg);
	if (!f)
		return fail(EBADF);
	switch (cmd) {
	case F_GETFL:
		return f->blocking ? O_RDWR : O_RDWR | O_NONBLOCK;
	case F_SETFL:
		return 0;
	case F_DUPFD_CLOEXEC:
		return f->ops == &file_ops ? file_dup(f) : fail(EINVAL);
	case F_OFD_SETLK:
	case F_OFD_GETLK:
		return (int)result(file_lock(f, cmd, arg));
	default:
		return fail(EINVAL);
	}
}

/* --- events ----------------------------------------------------------------------------------- */

static ssize_t event_read(struct fd *f, void *buf, size_t len)
{
	uint64_t *n = f->of;

	if (len < sizeof(*n))
		return -EINVAL;
	if (!*n)
		return -EAGAIN;
	memcpy(buf, n, sizeof(*n));
	*n = 0;
	return sizeof(*n);
}

static ssize_t event_write(struct fd *f, const struct iovec *iov, int niov)
{
	uint64_t add;

	memcpy(&add, iov->iov_base, sizeof(add));
	*(uint64_t *)f->of += add;
	return sizeof(add);
}

static uint32_t event_ready(struct fd *f)
{
	return *(uint64_t *)f->of ? POLLIN | POLLOUT : POLLOUT;
}

static void event_close(struct fd *f)
{
	free(f->of);
}

const struct fd_ops eventfd_ops = {"eventfd", event_read, event_write, event_ready, event_close};

int __wrap_eventfd(unsigned n, int flags)
{
	uint64_t *count = calloc(1, sizeof(*count));

	*count = n;
	return fd_new(&eventfd_ops, count);
}

bool eventfd_add(int number, uint64_t n)
{
	struct fd *f = fd_of(number, &eventfd_ops);

	world_changes++;
	if (f)
		*(uint64_t *)f->of += n;
	return f;
}

int __wrap_eventfd_write(int number, eventfd_t n)
{
	fiber_maybe(8);
	return eventfd_add(number, n) ? 0 : fail(EBADF);
}

int __wrap_eventfd_read(int number, eventfd_t *n)
{
	return __wrap_read(number, n, sizeof(*n)) == sizeof(*n) ? 0 : -1;
}

/* --- signals, standard output ----------------------------------------------------------------- */

static ssize_t signal_read(struct fd *f, void *buf, size_t len)
{
	struct signalfd_siginfo si = {.ssi_signo = 15};

	if (!f->proc->terms)
		return -EAGAIN;
	f->proc->terms--;
	memcpy(buf, &si, sizeof(si));
	return sizeof(si);
}

static uint32_t signal_ready(struct fd *f)
{
	return f->proc->terms ? POLLIN : 0;
}

static const struct fd_ops signal_ops = {"signalfd", signal_read, NULL, signal_ready, NULL};

int __wrap_signalfd(int fd, const sigset_t *set, int flags)
{
	return fd_new(&signal_ops, NULL);
}

static ssize_t stdout_write(struct fd *f, const struct iovec *iov, int niov)
{
	return (ssize_t)iov->iov_len;
}

const struct fd_ops stdout_ops = {.name = "stdout", .write = stdout_write};

/* --- polls ------------------------------------------------------------------------------------ */

struct polled {
	struct pollfd *p;
	nfds_t n;
};

static int look(const struct polled *q)
{
	int found = 0;

	for (nfds_t i = 0; i < q->n; i++) {
		struct fd *f = fd_find(q->p[i].fd);

		q->p[i].revents = 0;
		if (q->p[i].fd < 0)
			continue;
		if (f)
			q->p[i].revents = (short)(fd_ready(f) &
						  ((uint32_t)q->p[i].events | POLLHUP | POLLERR));
		else
			q->p[i].revents = POLLNVAL;
		found += q->p[i].revents != 0;
	}
	return found;
}

static bool any(void *arg)
{
	return look(arg) > 0;
}

int __wrap_ppoll(struct pollfd *p, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	struct polled q = {p, n};
	uint64_t ns = ts ? (uint64_t)ts->tv_sec * SEC + (uint64_t)ts->tv_nsec : 0;

	fiber_maybe(4);
	fiber_wait(any, &q, ts ? world_now() + ns : NEVER);
	return look(&q);
}

int __wrap_poll(struct pollfd *p, nfds_t n, int timeout_ms)
{
	struct timespec ts = {timeout_ms / 1000, timeout_ms % 1000 * 1000000l};

	return __wrap_ppoll(p, n, timeout_ms < 0 ? NULL : &ts, NULL);
}

struct watched {
	int number;
	uint32_t events;
	epoll_data_t data;
	struct watched *next;
};

static int epoll_look(struct fd *f, struct epoll_event *ev, int max)
{
	int n = 0;

	for (struct watched *w = *(struct watched **)f->of; w && n < max; w = w->next) {
		struct fd *of = fd_find(w->number);
		uint32_t is = of ? fd_ready(of) & (w->events | POLLHUP | POLLERR) : 0;

		if (is)
			ev[n++] = (struct epoll_event){.events = is, .data = w->data};
	}
	return n;
}

static uint32_t epoll_ready(struct fd *f)
{
	struct epoll_event ev;

	return epoll_look(f, &ev, 1) ? POLLIN : 0;
}

static void epoll_close(struct fd *f)
{
	struct watched **list = f->of;

	while (*list) {
		struct watched *w = *list;

		*list = w->next;
		free(w);
	}
	free(list);
}

static const struct fd_ops epoll_ops = {"epoll", NULL, NULL, epoll_ready, epoll_close};

int __wrap_epoll_create1(int flags)
{
	return fd_new(&epoll_ops, calloc(1, sizeof(struct watched *)));
}

int __wrap_epoll_ctl(int number, int op, int fd, struct epoll_event *ev)
{
	struct watched **at = fd_of(number, &epoll_ops)->of, *w;

	if (fd < FD_FIRST)
		return fail(EPERM);
	world_changes++;
	while (*at && (*at)->number != fd)
		at = &(*at)->next;
	if (op == EPOLL_CTL_ADD) {
		if (*at)
			return fail(EEXIST);
		w = calloc(1, sizeof(*w));
		*w = (struct watched){fd, ev->events, ev->data, NULL};
		*at = w;
	} else if (op == EPOLL_CTL_DEL) {
		w = *at;
		if (!w)
			return fail(ENOENT);
		*at = w->next;
		free(w);
	} else {
		return fail(EINVAL);
	}
	return 0;
}

int __wrap_epoll_wait(int number, struct epoll_event *ev, int max, int timeout)
{
	return epoll_look(fd_of(number, &epoll_ops), ev, max);
}
