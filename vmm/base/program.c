#define _GNU_SOURCE
#include "vmm/base/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/base/loop.h"

struct running {
	const char *path;
	pid_t pid;
	int pidfd, out, err; /* out, err: what we read of it */
};

static bool is_urgent(void)
{
	int policy = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;

	return policy == SCHED_FIFO || policy == SCHED_RR;
}

/* As if it were started from a shell: no blocked signals, no priority of ours, no descriptors. */
static int spawn(struct running *p, char *const argv[], int out, int err)
{
	static const struct sched_param ordinary;
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
						POSIX_SPAWN_SETSIGDEF |
						(is_urgent() ? POSIX_SPAWN_SETSCHEDULER : 0));
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setschedpolicy(&attr, SCHED_OTHER);
	posix_spawnattr_setschedparam(&attr, &ordinary);
	posix_spawn_file_actions_init(&files);
	r = posix_spawn_file_actions_adddup2(&files, out, 1);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&files, err, 2);
	if (!r)
		r = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(&files, 3);
	if (!r)
		r = posix_spawn(&p->pid, argv[0], &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return -r;
}

/* Also what it has left behind; the group is its own until it is waited for. */
static int end(struct running *p)
{
	int status = 0;

	kill(-p->pid, SIGKILL);
	kill(p->pid, SIGKILL); /* it may have left its group */
	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(p->pidfd);
	close(p->out);
	close(p->err);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int start(struct running *p, char *const argv[], struct err *e)
{
	int out[2], err[2], r;

	p->path = argv[0];
	if (pipe2(out, O_CLOEXEC) < 0)
		return err_sys(e, "program '%s': pipe", p->path);
	if (pipe2(err, O_CLOEXEC) < 0) {
		r = err_sys(e, "program '%s': pipe", p->path);
		close(out[0]);
		close(out[1]);
		return r;
	}
	p->out = out[0];
	p->err = err[0];
	fcntl(p->out, F_SETFL, O_NONBLOCK);
	fcntl(p->err, F_SETFL, O_NONBLOCK);
	r = spawn(p, argv, out[1], err[1]);
	close(out[1]);
	close(err[1]);
	if (r) {
		close(p->out);
		close(p->err);
		return err_set(e, r, "program '%s': %s", p->path, strerror(-r));
	}
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (p->pidfd >= 0)
		return 0;
	r = err_sys(e, "program '%s': pidfd", p->path);
	end(p);
	return r;
}

/* What there is now. false: there is nothing more to come. */
static bool take(int fd, char *buf, size_t cap, size_t *len)
{
	char rest[512];
	bool full = *len == cap;
	ssize_t n = read(fd, full ? rest : buf + *len, full ? sizeof(rest) : cap - *len);

	if (n > 0 && !full)
		*len += n;
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void first_line(char *text, size_t len)
{
	text[len] = 0;
	text[strcspn(text, "\n")] = 0;
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
			*text = '?';
}

/* Until it has ended, in time, and said no more than fits: 0. */
static int watch(struct running *p, uint64_t until, struct program_end *ret, struct err *e)
{
	struct pollfd fds[] = {{.fd = p->pidfd, .events = POLLIN},
			       {.fd = p->out, .events = POLLIN},
			       {.fd = p->err, .events = POLLIN}};
	size_t complaint = 0;
	bool ended = false;

	while (!ended) {
		uint64_t now = loop_now_ns();
		int left = now < until ? (int)((until - now) / 1000000) + 1 : 0;

		if (!left)
			return err_set(e, -EIO, "program '%s' did not end in time; it was killed",
				       p->path);
		if (poll(fds, 3, left) < 0 && errno != EINTR)
			return err_sys(e, "program '%s': poll", p->path);
		/* Looked at first: what it had said when it ended is there. */
		ended = fds[0].revents;
		if ((ended || fds[1].revents) &&
		    !take(p->out, ret->out, sizeof(ret->out), &ret->len))
			fds[1].fd = -1;
		if (ret->len == sizeof(ret->out))
			return err_set(e, -EMSGSIZE, "program '%s' said more than %zu bytes",
				       p->path, sizeof(ret->out) - 1);
		if ((ended || fds[2].revents) &&
		    !take(p->err, ret->complaint, sizeof(ret->complaint) - 1, &complaint))
			fds[2].fd = -1;
	}
	ret->out[ret->len] = 0;
	first_line(ret->complaint, complaint);
	return 0;
}

int program_run(char *const argv[], uint64_t until, struct program_end *ret, struct err *e)
{
	struct running p;
	int r = start(&p, argv, e);

	if (r)
		return r;
	memset(ret, 0, sizeof(*ret));
	r = watch(&p, until, ret, e);
	ret->code = end(&p);
	return r;
}
