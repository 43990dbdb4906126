#include "vmm/base/lockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_MS 1

static int check_owner(const struct stat *st, uid_t owner, const char *path, struct err *e)
{
	if (S_ISREG(st->st_mode) && !(st->st_mode & 077) &&
	    (st->st_uid == owner || st->st_uid == geteuid()))
		return 0;
	return err_set(e, -EPERM,
		       "'%s' is not this user's alone, so others may hold it; remove it, or use a "
		       "folder in which only this user makes files",
		       path);
}

/* 0: not now. The holder removes the file before it lets go: what was opened may be of no use. */
static int try_lock(const char *path, uid_t owner, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600), r;
	struct stat mine, named;

	if (fd < 0 && errno == EACCES && !lstat(path, &named)) /* root holds it for a moment? */
		return named.st_uid ? check_owner(&named, owner, path, e) : 0;
	if (fd < 0)
		return err_sys(e, "lock '%s'", path);
	r = fstat(fd, &mine) < 0 ? err_sys(e, "lock '%s'", path)
				 : check_owner(&mine, owner, path, e);
	if (!r && !flock(fd, LOCK_EX | LOCK_NB) && !lstat(path, &named) &&
	    named.st_dev == mine.st_dev && named.st_ino == mine.st_ino)
		return fd;
	close(fd);
	return r;
}

int lockfile_take(const char *path, uid_t owner, unsigned wait_ms, struct err *e)
{
	int r;

	for (unsigned waited = 0; !(r = try_lock(path, owner, e)); waited += STEP_MS) {
		if (waited >= wait_ms)
			return err_set(e, -EBUSY, "'%s' stays locked by another process", path);
		poll(NULL, 0, STEP_MS);
	}
	return r;
}

void lockfile_drop(int fd, const char *path)
{
	unlink(path);
	close(fd);
}
