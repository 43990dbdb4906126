/* Snapshot files: written beside their final name, synced, then renamed; never seen half-written.
 */
#define _GNU_SOURCE /* F_OFD_GETLK */
#include "vmm/wire/chan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TMP_NAME_MAX (CHAN_FILE_PATH_MAX + sizeof(".tmp"))

static int tmp_name(const char *path, char *to, struct err *e)
{
	if (!*path || strlen(path) > CHAN_FILE_PATH_MAX)
		return err_set(e, -ENAMETOOLONG, "file '%.40s': the path must have 1 to %d bytes",
			       path, CHAN_FILE_PATH_MAX);
	snprintf(to, TMP_NAME_MAX, "%s.tmp", path);
	return 0;
}

/* --- what may be replaced --------------------------------------------------------------------- */

/* By this process: a disk, a log, a console. */
static bool is_open_here(const struct stat *st)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *ent;
	struct stat is;
	bool found = false;

	while (d && !found && (ent = readdir(d)))
		found = !fstat(atoi(ent->d_name), &is) && is.st_dev == st->st_dev &&
			is.st_ino == st->st_ino;
	if (d)
		closedir(d);
	return found;
}

/* By any: the image of another VM. Who may not read it may replace it all the same. */
static bool is_locked(const char *path)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	bool locked = fd >= 0 && !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;

	if (fd >= 0)
		close(fd);
	return locked;
}

static int may_replace(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : err_sys(e, "file %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EEXIST,
			       "file %s: exists, and is no regular file; use another name", path);
	if (is_open_here(&st) || is_locked(path))
		return err_set(e, -EBUSY,
			       "file %s: is in use, by this VM or another process (see `lslocks`, "
			       "`fuser`); use another name",
			       path);
	return 0;
}

/* --- a new one -------------------------------------------------------------------------------- */

int chan_file_create(const char *path, struct err *e)
{
	char tmp[TMP_NAME_MAX];
	int fd, r = tmp_name(path, tmp, e);

	r = r ? r : may_replace(path, e);
	if (r)
		return r;
	if (is_locked(tmp))
		return err_set(e, -EBUSY,
			       "file %s: is in use (see `lslocks`), and would be replaced; "
			       "use another name",
			       tmp);
	if (unlink(tmp) && errno != ENOENT) /* left by a writer that was killed */
		return err_sys(e, "file %s: cannot remove", tmp);
	fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(e, "file %s: cannot create", tmp);
	return fd;
}

/* The rename is durable only when its directory is. */
static int sync_dir(const char *path, struct err *e)
{
	char dir[TMP_NAME_MAX];
	char *slash;
	int fd, r = 0;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash)
		strcpy(dir, ".");
	else
		slash[slash == dir] = 0;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, "directory %s: cannot open", dir);
	if (fsync(fd) && errno != EINVAL) /* some file systems cannot sync a directory */
		r = err_sys(e, "directory %s: cannot sync", dir);
	close(fd);
	return r;
}

int chan_file_commit(int fd, const char *path, struct err *e)
{
	char tmp[TMP_NAME_MAX];
	struct stat ours, named;
	int r = tmp_name(path, tmp, e);

	if (r)
		return r;
	if (fsync(fd))
		return err_sys(e, "file %s: cannot sync", tmp);
	if (fstat(fd, &ours) || lstat(tmp, &named))
		return err_sys(e, "file %s: is gone", tmp);
	if (ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
		return err_set(e, -ESTALE, "file %s: replaced by another writer; use another name",
			       tmp);
	r = may_replace(path, e);
	if (r)
		return r;
	if (rename(tmp, path))
		return err_sys(e, "file %s: cannot rename %s to it", path, tmp);
	return sync_dir(path, e);
}

void chan_file_drop(int fd, const char *path)
{
	char tmp[TMP_NAME_MAX];
	struct stat ours, named;

	if (!tmp_name(path, tmp, NULL) && !fstat(fd, &ours) && !lstat(tmp, &named) &&
	    ours.st_ino == named.st_ino && ours.st_dev == named.st_dev)
		unlink(tmp);
}

int chan_file_open(const char *path, struct err *e)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us here */

	if (fd < 0)
		return err_sys(e, "file %s: cannot open", path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(e, -EINVAL, "file %s: is not a regular file", path);
	}
	if (fcntl(fd, F_SETFL, 0)) {
		close(fd);
		return err_sys(e, "file %s: fcntl", path);
	}
	return fd;
}
