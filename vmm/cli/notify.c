#include "vmm/cli/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/log.h"

#define WATCHDOG_MAX_US 86400000000ull

static void say(struct notify *n, const char *text)
{
	if (n->fd >= 0 && send(n->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("systemd: %s", strerror(errno));
}

/* All that is so now: one that was lost is made up for by the next. */
static void say_all(struct notify *n)
{
	char text[sizeof(n->state) + 64];

	snprintf(text, sizeof(text), "%s%s%s", n->ready ? "READY=1\n" : "",
		 n->state[0] ? "STATUS=" : "", n->state);
	if (text[0])
		say(n, text);
}

/* --- watchdog --------------------------------------------------------------------------------- */

static void watchdog(struct loop_op *op, int res)
{
	struct notify *n = op->arg;

	say(n, "WATCHDOG=1");
	loop_timer_set(n->loop, &n->watchdog_op, n->watchdog_ns);
}

/* Twice in the time that it waits. 0: nobody does. */
static uint64_t watchdog_interval(void)
{
	const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	char *end;
	unsigned long long n = us ? strtoull(us, &end, 10) : 0;

	if (!us || *end || end == us || n > WATCHDOG_MAX_US)
		return 0;
	return pid && atoi(pid) != getpid() ? 0 : n * 1000 / 2;
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

void notify_open(struct notify *n, struct loop *l)
{
	const char *path = getenv("NOTIFY_SOCKET");

	*n = (struct notify){.fd = -1, .loop = l};
	if (path)
		n->fd = connect_to(path);
	if (path && n->fd < 0)
		log_warn("NOTIFY_SOCKET '%s': %s; systemd is not told of the VM", path,
			 strerror(-n->fd));
	if (n->fd >= 0)
		n->watchdog_ns = watchdog_interval();
	n->watchdog_op = (struct loop_op){.fn = watchdog, .arg = n};
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_ready(struct notify *n)
{
	n->ready = true;
	say_all(n);
	if (n->watchdog_ns)
		loop_timer_set(n->loop, &n->watchdog_op, n->watchdog_ns);
}

void notify_state(struct notify *n, const char *word, const char *note)
{
	bool has_note = note && *note;

	snprintf(n->state, sizeof(n->state), "%s%s%s", word, has_note ? ": " : "",
		 has_note ? note : "");
	/* It is one line, and a note may have what a peer said. */
	for (char *p = n->state; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	say_all(n);
}

void notify_close(struct notify *n)
{
	if (!n->loop)
		return;
	loop_timer_del(n->loop, &n->watchdog_op);
	say(n, "STOPPING=1");
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
	n->loop = NULL;
}
