#include "vmm/vm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/*
 * A reader that is stuck must not stop the VM: after this long the rest is dropped and counted, and
 * what follows is not waited for until there is room again.
 */
#define WRITE_DEADLINE_MS 20

void console_deliver(void *arg, const void *data, uint32_t len)
{
	struct console *c = arg;
	const uint8_t *p = data;

	if (c->tee)
		c->tee(c->tee_arg, data, len);
	while (len && c->out_fd >= 0) {
		struct pollfd pfd = {.fd = c->out_fd, .events = POLLOUT};
		ssize_t n;

		c->stuck = poll(&pfd, 1, c->stuck ? 0 : WRITE_DEADLINE_MS) <= 0;
		if (c->stuck)
			break;
		/* A pipe that polls writable takes PIPE_BUF bytes without blocking. */
		n = write(c->out_fd, p, len < 512 ? len : 512);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			break;
		p += n;
		len -= n;
	}
	c->dropped += len;
}

int console_open(struct console *c, const char *spec, struct err *e)
{
	c->out_fd = -1;
	c->dropped = 0;
	c->stuck = false;
	if (!strcmp(spec, "stdio"))
		c->out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	else if (strcmp(spec, "none")) {
		c->out_fd = open(spec, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
		if (c->out_fd < 0)
			return err_sys(e, "console file '%s'", spec);
	}
	return 0;
}

void console_close(struct console *c)
{
	if (c->out_fd >= 0)
		close(c->out_fd);
	c->out_fd = -1;
}
