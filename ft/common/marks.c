#include "ft/common/marks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/job.h"
#include "vmm/base/log.h"

#define LATE_NS 5000000000ull
#define END_MS	2000

struct marks_job {
	struct job job; /* first */
	struct marks *owner;
	struct mark mark;
	unsigned n, failed; /* failed: whose mark is not written */
	struct {
		int fd; /* of the same open file, which may be closed meanwhile */
		char id[32];
	} images[MACHINE_MAX_DEVS];
};

static bool has_mark(const struct mdev *md)
{
	return md->kind == MDEV_BLK && md->ft != DISK_FT_SHARED && !md->readonly;
}

static struct mark mark_of(const struct vm *vm, enum mark_word word, uint64_t generation)
{
	struct mark m = {.word = word, .generation = generation};

	snprintf(m.vm, sizeof(m.vm), "%s", vm->machine.name);
	return m;
}

int marks_put(const struct vm *vm, enum mark_word word, uint64_t generation, struct err *e)
{
	struct mark m = mark_of(vm, word, generation);

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		int r = has_mark(&vm->machine.devs[i]) ? mark_write(vm->devices.disks[i].fd, &m)
						       : 0;

		if (r && r != -EOPNOTSUPP)
			return err_set(e, r, "disk '%s': attribute " MARK_ATTRIBUTE ": %s",
				       vm->machine.devs[i].id, strerror(-r));
	}
	return 0;
}

/* --- on a thread ------------------------------------------------------------------------------ */

static int run(struct job *job)
{
	struct marks_job *j = (struct marks_job *)job;

	job_be_ordinary();
	for (j->failed = 0; j->failed < j->n; j->failed++) {
		int r = mark_write(j->images[j->failed].fd, &j->mark);

		if (r && r != -EOPNOTSUPP)
			return r == -ETIMEDOUT ? -EIO : r;
	}
	return 0;
}

static void drop(struct job *job)
{
	struct marks_job *j = (struct marks_job *)job;

	for (unsigned i = 0; i < j->n; i++)
		close(j->images[i].fd);
	free(j);
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void say(const struct marks_job *j, int r)
{
	if (r)
		log_warn("disk '%s': its image does not say that it is '%s' of generation %llu: %s",
			 j->images[j->failed < j->n ? j->failed : 0].id,
			 mark_word_name(j->mark.word), (unsigned long long)j->mark.generation,
			 r == -ETIMEDOUT ? "the storage does not answer" : strerror(-r));
}

static void start(struct marks *m, struct marks_job *j, struct loop *l);

static void told(struct job *job, int result)
{
	struct marks_job *j = (struct marks_job *)job;
	struct marks *m = j->owner;
	struct loop *l = job->loop;

	say(j, result);
	if (result == -ETIMEDOUT)
		return; /* at it still, and told of once more */
	drop(job);
	m->job = NULL;
	if (m->next)
		start(m, m->next, l);
}

static void start(struct marks *m, struct marks_job *j, struct loop *l)
{
	int r = job_start_on(&j->job, l, LATE_NS);

	m->next = NULL;
	if (r) {
		say(j, r);
		drop(&j->job);
		return;
	}
	m->job = j;
}

static int add_images(struct marks_job *j, const struct vm *vm)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct disk *d = &vm->devices.disks[i];
		int fd;

		if (!has_mark(&vm->machine.devs[i]))
			continue;
		fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		j->images[j->n].fd = fd;
		memcpy(j->images[j->n++].id, d->id, sizeof(d->id));
	}
	return 0;
}

void marks_ask(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation)
{
	struct marks_job *j = calloc(1, sizeof(*j));
	int r;

	if (!j) {
		log_warn("marks of the images: out of memory");
		return;
	}
	j->owner = m;
	j->mark = mark_of(vm, word, generation);
	j->job.run = run;
	j->job.told = told;
	j->job.drop = drop;
	r = add_images(j, vm);
	if (r)
		say(j, r);
	if (r || !j->n) {
		drop(&j->job);
		return;
	}
	if (m->next)
		drop(&m->next->job);
	m->next = j;
	if (!m->job)
		start(m, j, vm->loop);
}

/* --- at the end: no loop ---------------------------------------------------------------------- */

static bool wait_for(struct marks_job *j)
{
	int r = job_wait(&j->job, END_MS);

	say(j, r);
	if (r == -ETIMEDOUT)
		job_abandon(&j->job);
	else
		drop(&j->job);
	return r != -ETIMEDOUT;
}

void marks_stop(struct marks *m)
{
	struct marks_job *last = m->next;
	int r = 0;

	/* An older mark must not be written after a newer one. */
	if (m->job && !wait_for(m->job))
		r = -ETIMEDOUT;
	if (last && !r)
		r = job_start(&last->job);
	if (last && !r)
		wait_for(last);
	else if (last)
		drop(&last->job);
	*m = (struct marks){0};
}

/* --- before a start --------------------------------------------------------------------------- */

static int for_secondary(const struct config *cfg, const struct config_disk *cd,
			 const struct mark *m, struct err *e)
{
	if (!strcmp(m->vm, cfg->name))
		return 0;
	return err_set(
		e, -ESTALE,
		"disk '%s': '%s' is an image of the VM '%s', and '%s' would overwrite it: is "
		"--name right? If nobody needs it any more, remove it",
		cd->id, cd->path, m->vm, cfg->name);
}

static int for_primary(const struct config *cfg, const struct config_disk *cd, const struct mark *m,
		       const struct arbiter_record *known, struct err *e)
{
	const char *name = cd->id;

	if (strcmp(m->vm, cfg->name))
		return err_set(e, -ESTALE,
			       "disk '%s': '%s' is an image of the VM '%s', not of '%s': is --name "
			       "right? --claim takes it",
			       name, cd->path, m->vm, cfg->name);
	if (m->word == MARK_HALF)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' is neither an old image nor a new one: its first sync "
			"was broken off. Start the other side with --primary, and this one with "
			"--secondary; --claim starts from what is here",
			name, cd->path);
	if (known && m->generation > known->generation)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' is of generation %llu, and the arbiter knows none after "
			"%llu: is its storage mounted, or an old copy? If it was made anew, and "
			"this image is the latest, add --claim",
			name, cd->path, (unsigned long long)m->generation,
			(unsigned long long)known->generation);
	if (!known && m->word == MARK_BEHIND)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' was a secondary's: the other side's image may be newer, "
			"and without --arbiter nobody knows. Start that side with --primary, and "
			"this one with --secondary; if it is lost, --claim starts from what is "
			"here",
			name, cd->path);
	return 0;
}

int mark_allows(const struct config *cfg, const struct config_disk *cd,
		const struct arbiter_record *known, struct err *e)
{
	struct mark m;
	int r;

	if (cfg->claim || cd->readonly || cd->ft == DISK_FT_SHARED)
		return 0;
	r = mark_read(cd->path, &m, e);
	if (r || m.word == MARK_NONE)
		return r ? err_wrap(e, "disk '%s'", cd->id) : 0;
	if (cfg->role == ROLE_SECONDARY)
		return for_secondary(cfg, cd, &m, e);
	if (cfg->role == ROLE_PRIMARY)
		return for_primary(cfg, cd, &m, known, e);
	return err_set(
		e, -ESTALE,
		"disk '%s': '%s' is one of the two images of the VM '%s' (generation %llu): the "
		"other side may be running it. Start it with --primary or --secondary; for a VM "
		"of its own, add --claim",
		cd->id, cd->path, m.vm, (unsigned long long)m.generation);
}

int marks_allow(const struct config *cfg, const struct arbiter_record *known, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < cfg->ndisks && !r; i++)
		r = mark_allows(cfg, &cfg->disks[i], known, e);
	return r;
}
