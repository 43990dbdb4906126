#include "vmm/cli/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/base/utf8.h"

#define WATCHDOG_MAX_US 86400000000ull
#define AGAIN_NS	5000000000ull
#define AGAIN_MIN_NS	1000000ull

/* All that is so now: one that was lost is made up for by the next. */
static void say_all(struct notify *n)
{
	char state[520], text[sizeof(state) + 40];

	if (n->fd < 0)
		return;
	n->state(n->arg, state, sizeof(state));
	/* It is one line of UTF-8, and a note may have what a peer or a path said. */
	utf8_mend(state);
	for (char *p = state; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	snprintf(text, sizeof(text), "%s%sSTATUS=%s", n->phase, n->watched ? "WATCHDOG=1\n" : "",
		 state);
	if (send(n->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("systemd: %s", strerror(errno));
}

static void again(struct loop_op *op, int res)
{
	struct notify *n = op->arg;

	say_all(n);
	loop_timer_set(n->loop, &n->again_op, n->again_ns);
}

/* 0: none. */
static uint64_t watchdog_ns(void)
{
	const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	char *end;
	unsigned long long n = us ? strtoull(us, &end, 10) : 0;

	if (!us || *end || end == us || n > WATCHDOG_MAX_US)
		return 0;
	return pid && atoi(pid) != getpid() ? 0 : n * 1000;
}

/* --- interface -------------------------------------------------------------------------------- */

static int connect_to(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	int fd, code;

	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(sun.sun_path))
		return -EINVAL;
	memcpy(sun.sun_path, path, len);
	if (path[0] == '@')
		sun.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (struct sockaddr *)&sun, offsetof(struct sockaddr_un, sun_path) + len))
		return fd;
	code = -errno;
	close(fd);
	return code;
}

void notify_open(struct notify *n, struct loop *l, void (*state)(void *arg, char *ret, size_t cap),
		 void *arg)
{
	const char *path = getenv("NOTIFY_SOCKET");
	uint64_t watchdog = watchdog_ns();

	*n = (struct notify){
		.fd = -1, .loop = l, .again_ns = AGAIN_NS, .phase = "", .state = state, .arg = arg};
	if (path)
		n->fd = connect_to(path);
	if (path && n->fd < 0)
		log_warn("NOTIFY_SOCKET '%s': %s; systemd is not told of the VM", path,
			 strerror(-n->fd));
	n->watched = watchdog != 0;
	if (watchdog && watchdog / 2 < n->again_ns)
		n->again_ns = watchdog / 2 > AGAIN_MIN_NS ? watchdog / 2 : AGAIN_MIN_NS;
	n->again_op = (struct loop_op){.fn = again, .arg = n};
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_ready(struct notify *n)
{
	n->phase = "READY=1\n";
	if (n->fd >= 0)
		again(&n->again_op, 0);
}

void notify_changed(struct notify *n)
{
	if (n->loop)
		say_all(n);
}

void notify_stopping(struct notify *n)
{
	n->phase = "STOPPING=1\n";
	notify_changed(n);
}

void notify_close(struct notify *n)
{
	if (!n->loop)
		return;
	loop_timer_del(n->loop, &n->again_op);
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
	n->loop = NULL;
}
