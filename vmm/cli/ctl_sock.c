#define _GNU_SOURCE /* struct ucred */
#include "vmm/cli/ctl_sock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/lockfile.h"
#include "vmm/base/log.h"

#define LOCK_WAIT_MS 2000
#define STEP_MS	     10

int ctl_sock_dir(char *ret, size_t cap, struct err *e)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (!runtime || !*runtime) {
		if (geteuid())
			return err_set(e, -ENOENT,
				       "control socket: XDG_RUNTIME_DIR is not set; set it "
				       "to a folder of yours");
		runtime = "/run";
	}
	n = snprintf(ret, cap, "%s/ftvmm", runtime);
	if (n < 0 || (size_t)n >= cap)
		return err_set(e, -ENAMETOOLONG, "control socket: XDG_RUNTIME_DIR is too long");
	return 0;
}

static int path_of(const char *name, const char *suffix, char *ret, size_t cap, struct err *e)
{
	char dir[192];
	int n, r = ctl_sock_dir(dir, sizeof(dir), e);

	if (r)
		return r;
	if (!*name || *name == '.' || strchr(name, '/'))
		return err_set(e, -EINVAL, "'%.40s' is not a name of a VM", name);
	if (strlen(name) > CTL_NAME_MAX)
		return err_set(e, -EINVAL,
			       "'%.20s...' is not a name of a VM: %zu characters, at most %d", name,
			       strlen(name), CTL_NAME_MAX);
	n = snprintf(ret, cap, "%s/%s.%s", dir, name, suffix);
	if (n < 0 || (size_t)n >= cap)
		return err_set(e, -ENAMETOOLONG,
			       "control socket '%s/%.63s.%s': %d characters, at most %zu; give a "
			       "shorter --name or XDG_RUNTIME_DIR",
			       dir, name, suffix, n, cap - 1);
	return 0;
}

int ctl_sock_path(const char *name, char *ret, size_t cap, struct err *e)
{
	return path_of(name, "sock", ret, cap, e);
}

int ctl_sock_names(void (*fn)(void *arg, const char *name), void *arg, struct err *e)
{
	char dir[192];
	struct dirent *d;
	DIR *folder;
	int r = ctl_sock_dir(dir, sizeof(dir), e);

	if (r)
		return r;
	folder = opendir(dir);
	if (!folder)
		return errno == ENOENT ? 0 : err_sys(e, "'%s'", dir);
	while ((d = readdir(folder))) {
		size_t len = strlen(d->d_name);

		if (len < 6 || strcmp(d->d_name + len - 5, ".sock") || d->d_name[0] == '.')
			continue;
		d->d_name[len - 5] = 0;
		fn(arg, d->d_name);
	}
	closedir(folder);
	return 0;
}

int ctl_sock_addr(const char *name, struct sockaddr_un *sa, struct err *e)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	return ctl_sock_path(name, sa->sun_path, sizeof(sa->sun_path), e);
}

int ctl_sock_console_addr(const char *name, struct sockaddr_un *sa, struct err *e)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	return path_of(name, "console", sa->sun_path, sizeof(sa->sun_path), e);
}

int ctl_sock_listen(const struct sockaddr_un *sa, int backlog, struct err *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	/* The mode of the socket before it has a name is the mode of the name. */
	if (fd >= 0 && !fchmod(fd, 0600) && !bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) &&
	    !listen(fd, backlog))
		return fd;
	r = err_sys(e, "control socket '%s'", sa->sun_path);
	if (fd >= 0)
		close(fd);
	return r;
}

bool ctl_sock_peer_allowed(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
	       (cred.uid == geteuid() || cred.uid == 0);
}

void ctl_sock_refuse(int fd, const char *line)
{
	/* A fresh socket has room for one line; if not, the end of file says enough. */
	if (send(fd, line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("control: refused a client without a word");
	close(fd);
}

static int lock_path(char *ret, size_t cap, struct err *e)
{
	char dir[192];
	int r = ctl_sock_dir(dir, sizeof(dir), e);

	snprintf(ret, cap, "%s/.lock", r ? "" : dir);
	return r;
}

int ctl_sock_lock(struct err *e)
{
	char dir[192], path[200];
	struct stat st;
	int r = ctl_sock_dir(dir, sizeof(dir), e);

	if (!r)
		r = lock_path(path, sizeof(path), e);
	if (r)
		return r;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(e, "control socket: cannot make '%s'", dir);
	if (lstat(dir, &st) < 0)
		return err_sys(e, "control socket: '%s'", dir);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, "control socket: '%s' is no folder", dir);
	if (st.st_uid != geteuid() && geteuid() != 0)
		return err_set(e, -EPERM, "control socket: '%s' belongs to another user", dir);
	r = lockfile_take(path, st.st_uid, LOCK_WAIT_MS, e);
	return r < 0 ? err_wrap(e, "control socket") : r;
}

void ctl_sock_unlock(int lock)
{
	char path[200];

	if (!lock_path(path, sizeof(path), NULL))
		lockfile_drop(lock, path);
	else
		close(lock);
}

int ctl_sock_connect(const struct sockaddr_un *sa, int timeout_ms)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = 0;

	if (fd < 0)
		return -errno;
	/* EAGAIN: its queue of connections is full. There is no way to poll for room. */
	while (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0) {
		r = -errno;
		if (r != -EAGAIN || timeout_ms <= 0)
			break;
		poll(NULL, 0, STEP_MS);
		timeout_ms -= STEP_MS;
		r = 0;
	}
	if (!r)
		return fd;
	close(fd);
	return r == -EAGAIN ? -ETIMEDOUT : r;
}

void ctl_sock_reap(const struct sockaddr_un *sa)
{
	int lock = ctl_sock_lock(NULL), fd;

	if (lock < 0)
		return;
	fd = ctl_sock_connect(sa, 0);
	if (fd >= 0)
		close(fd);
	else if (fd == -ECONNREFUSED)
		unlink(sa->sun_path);
	ctl_sock_unlock(lock);
}
