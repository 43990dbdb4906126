#include "vmm/vm/console_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/job.h"

#define LATE_NS 10000000000ull

struct console_file {
	struct job job;
	char path[PATH_MAX];
	int old_fd; /* a copy: its owner may close the console */
	int new_fd;
	void (*told)(void *arg, int fd);
	void *arg;
};

static int failed(void)
{
	return errno == ETIMEDOUT ? -EIO : -errno; /* the job's own word */
}

static int run(struct job *job)
{
	struct console_file *f = (struct console_file *)job;
	char aside[PATH_MAX + 2];
	struct stat have, named;

	snprintf(aside, sizeof(aside), "%s.1", f->path);
	if (!fstat(f->old_fd, &have) && !lstat(f->path, &named) && have.st_dev == named.st_dev &&
	    have.st_ino == named.st_ino && rename(f->path, aside) < 0)
		return failed();
	f->new_fd = open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->new_fd < 0)
		return failed();
	/* Who could read the one before can read this one, if the file system lets them. */
	if (!fstat(f->old_fd, &have))
		fchmod(f->new_fd, have.st_mode & 0777);
	return 0;
}

static void release(struct console_file *f)
{
	close(f->old_fd);
	free(f);
}

static void told(struct job *job, int result)
{
	struct console_file *f = (struct console_file *)job;

	if (result == -ETIMEDOUT) /* what is printed meanwhile waits, as it would for the file */
		return;
	f->told(f->arg, result ? result : f->new_fd);
	release(f);
}

/* Whoever wanted it is gone. */
static void drop(struct job *job)
{
	struct console_file *f = (struct console_file *)job;

	if (f->new_fd >= 0)
		close(f->new_fd);
	release(f);
}

struct console_file *console_file_next(struct loop *l, const char *path, int fd,
				       void (*tell)(void *arg, int fd), void *arg)
{
	struct console_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->job = (struct job){.run = run, .told = told, .drop = drop};
	f->told = tell;
	f->arg = arg;
	f->new_fd = -1;
	snprintf(f->path, sizeof(f->path), "%s", path);
	f->old_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (f->old_fd >= 0 && !job_start_on(&f->job, l, LATE_NS))
		return f;
	if (f->old_fd >= 0)
		close(f->old_fd);
	free(f);
	return NULL;
}

void console_file_forget(struct console_file *f)
{
	job_abandon(&f->job);
}
