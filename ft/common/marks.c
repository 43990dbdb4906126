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
	bool waited_for;
	unsigned n, failed; /* failed: whose mark is not written */
	struct {
		int fd; /* the image may be closed meanwhile; see let_lock_go() */
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

int marks_take_off(const struct vm *vm, struct err *e)
{
	static const struct mark none;

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		int r = has_mark(&vm->machine.devs[i]) ? mark_write(vm->devices.disks[i].fd, &none)
						       : 0;

		if (r && r != -EOPNOTSUPP)
			return err_set(e, r, "disk '%s': attribute " MARK_ATTRIBUTE ": %s",
				       vm->machine.devs[i].id, strerror(-r));
	}
	return 0;
}

/* --- on a thread ------------------------------------------------------------------------------ */

/*
 * The image stays locked as long as the same open file is here, and who builds the VM anew would
 * take that for another process's.
 */
static void let_lock_go(struct marks_job *j)
{
	for (unsigned i = 0; i < j->n; i++) {
		char path[32];
		int fd;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", j->images[i].fd);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		close(j->images[i].fd);
		j->images[i].fd = fd;
	}
}

static int run(struct job *job)
{
	struct marks_job *j = (struct marks_job *)job;

	let_lock_go(j);
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

static void say(const struct marks_job *j, int r, struct err *e)
{
	if (r)
		err_set(e, r, "disk '%s': attribute " MARK_ATTRIBUTE " of its image, '%s': %s",
			j->images[j->failed < j->n ? j->failed : 0].id,
			mark_word_name(j->mark.word),
			r == -ETIMEDOUT ? "the storage does not answer" : strerror(-r));
}

/* Whoever waits, or else the log. */
static void answer(struct marks *m, const struct marks_job *j, int r)
{
	void (*told)(void *arg, const struct err *e) = j->waited_for ? m->told : NULL;
	struct err e = {0};

	say(j, r, &e);
	if (told) {
		m->told = NULL;
		told(m->arg, &e);
	} else if (r) {
		log_warn("%s", e.msg);
	}
}

static void start(struct marks *m, struct marks_job *j, struct loop *l);

static void told(struct job *job, int result)
{
	struct marks_job *j = (struct marks_job *)job;
	struct marks *m = j->owner;
	struct loop *l = job->loop;

	answer(m, j, result);
	if (result == -ETIMEDOUT) { /* at it still, and told of once more */
		if (m->next)
			answer(m, m->next, result);
		return;
	}
	drop(job);
	m->job = NULL;
	if (m->next)
		start(m, m->next, l);
}

static void start(struct marks *m, struct marks_job *j, struct loop *l)
{
	int r = job_start_on(&j->job, l, LATE_NS);

	m->next = NULL;
	if (!r) {
		m->job = j;
		return;
	}
	answer(m, j, r);
	drop(&j->job);
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

static int ask(struct marks *m, const struct vm *vm, const struct mark *mark, bool waited_for)
{
	struct marks_job *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->owner = m;
	j->mark = *mark;
	j->waited_for = waited_for;
	j->job.run = run;
	j->job.told = told;
	j->job.drop = drop;
	r = add_images(j, vm);
	if (r) {
		drop(&j->job);
		return r;
	}
	if (m->next)
		drop(&m->next->job);
	m->next = j;
	if (!m->job)
		start(m, j, vm->loop);
	else
		job_expect(&m->job->job, LATE_NS); /* if it is late: told of again */
	return 0;
}

void marks_ask(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation)
{
	struct mark mark = mark_of(vm, word, generation);
	int r = ask(m, vm, &mark, false);

	if (r)
		log_warn("marks of the images, '%s': %s", mark_word_name(word), strerror(-r));
}

int marks_ask_first(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation,
		    void (*told_fn)(void *arg, const struct err *e), void *arg)
{
	struct mark mark = mark_of(vm, word, generation);

	m->told = told_fn;
	m->arg = arg;
	return ask(m, vm, &mark, true);
}

void marks_forget(struct marks *m)
{
	m->told = NULL;
	if (m->job)
		m->job->waited_for = false;
	if (m->next)
		m->next->waited_for = false;
}

/* --- at the end: no loop ---------------------------------------------------------------------- */

static bool wait_for(struct marks_job *j)
{
	int r = job_wait(&j->job, END_MS);

	answer(j->owner, j, r);
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

	marks_forget(m);
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
