#define _GNU_SOURCE
#include "ft/role/locking.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/job.h"

#define SILENT_NS 2000000000ull

struct locking_job {
	struct job job; /* first */
	struct locking *owner;
	unsigned n, failed; /* failed: whose lock this side does not have */
	struct {
		int fd; /* of the same open file, which may be closed meanwhile */
		char id[32];
	} images[MACHINE_MAX_DEVS];
};

bool locking_is_needed(const struct vm *vm)
{
	return machine_has_shared(&vm->machine);
}

/* --- on its thread ---------------------------------------------------------------------------- */

static void give_back(struct locking_job *j)
{
	struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	for (unsigned i = 0; i < j->n; i++)
		if (fcntl(j->images[i].fd, F_OFD_SETLK, &fl) < 0)
			return; /* with its last descriptor */
}

static int run(struct job *job)
{
	struct locking_job *j = (struct locking_job *)job;

	for (j->failed = 0; j->failed < j->n; j->failed++) {
		struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

		if (fcntl(j->images[j->failed].fd, F_OFD_SETLK, &fl) < 0)
			return errno == EACCES ? -EAGAIN : -errno;
	}
	if (atomic_load(&job->abandoned))
		give_back(j);
	return 0;
}

static void drop(struct job *job)
{
	struct locking_job *j = (struct locking_job *)job;

	for (unsigned i = 0; i < j->n; i++)
		close(j->images[i].fd);
	free(j);
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void say_why(const struct locking_job *j, int code, struct err *e)
{
	const char *id = j->images[j->failed < j->n ? j->failed : 0].id;

	if (code == -ETIMEDOUT)
		err_set(e, code, "disk '%s': the storage does not say whether the image is locked",
			j->images[0].id);
	else if (code == -EAGAIN)
		err_set(e, -EBUSY,
			"disk '%s': the other side has the image locked, so it may still write; "
			"stop it there, or see to it that its host is off",
			id);
	else
		err_set(e, code, "disk '%s': lock of the image: %s", id, strerror(-code));
}

static void told(struct job *job, int result)
{
	struct locking_job *j = (struct locking_job *)job;
	struct locking *l = j->owner;
	struct err e = {0};

	if (result)
		say_why(j, result, &e);
	if (result != -ETIMEDOUT) { /* else it is at it still */
		l->job = NULL;
		drop(job);
	}
	l->has = !result;
	l->tries = result ? l->tries + 1 : 0;
	l->answered(l->arg, &e);
}

static int add_images(struct locking_job *j, const struct vm *vm)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct disk *d = &vm->devices.disks[i];
		int fd;

		if (!machine_is_shared(&vm->machine.devs[i]))
			continue;
		fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		j->images[j->n].fd = fd;
		memcpy(j->images[j->n++].id, d->id, sizeof(d->id));
	}
	return 0;
}

int locking_ask(struct locking *l, struct vm *vm, struct err *e)
{
	struct locking_job *j;
	int r;

	if (l->job)
		return job_expect(&l->job->job, SILENT_NS);
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_set(e, -ENOMEM, "locks of the images: out of memory");
	j->owner = l;
	j->job.run = run;
	j->job.told = told;
	j->job.drop = drop;
	r = add_images(j, vm);
	if (!r)
		r = job_start_on(&j->job, vm->loop, SILENT_NS);
	if (r) {
		drop(&j->job);
		return err_set(e, r, "locks of the images: %s", strerror(-r));
	}
	l->job = j;
	return 0;
}

void locking_forget(struct locking *l, struct vm *vm)
{
	if (l->job)
		job_abandon(&l->job->job);
	for (unsigned i = 0; i < vm->machine.ndevs && (l->job || l->has); i++)
		if (machine_is_shared(&vm->machine.devs[i]))
			disk_unlock(&vm->devices.disks[i]);
	l->job = NULL;
	l->has = false;
	l->tries = 0;
}
