#include "ft/arbiter.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/arbiter_file.h"
#include "ft/deadline.h"

struct arbiter {
	bool is_file;
	char uri[600];
	struct arbiter_file file;
	struct arbiter_record last;
};

/* One call to the file back end, in its own thread; all it touches is in here. */
struct job {
	struct deadline_job base;
	enum { JOB_READ, JOB_CLAIM, JOB_RELEASE } what;
	struct arbiter_file file;
	uint64_t generation;
	struct arbiter_record record;
	struct err err;
};

static struct job *job_of(struct deadline_job *base)
{
	return (struct job *)((char *)base - offsetof(struct job, base));
}

static int job_run(struct deadline_job *base)
{
	struct job *j = job_of(base);
	int r = -EINVAL;

	switch (j->what) {
	case JOB_READ:
		r = arbiter_file_read(&j->file, &j->record, &j->err);
		break;
	case JOB_CLAIM:
		r = arbiter_file_claim(&j->file, j->generation, &base->abandoned, &j->record,
				       &j->err);
		break;
	case JOB_RELEASE:
		r = arbiter_file_release(&j->file, j->generation, &j->record, &j->err);
		break;
	}
	/* The file system's own timeout is a failure like others; -ETIMEDOUT says: not finished. */
	return r == -ETIMEDOUT ? -EIO : r;
}

/* Nobody runs under a claim that was given up; say so to whoever looks next. */
static void job_late(struct deadline_job *base, int result)
{
	struct job *j = job_of(base);

	if (j->what == JOB_CLAIM && result == 0)
		arbiter_file_release(&j->file, j->generation + 1, &j->record, NULL);
}

static void job_drop(struct deadline_job *base)
{
	free(job_of(base));
}

static int call_file(struct arbiter *a, int what, uint64_t generation, struct err *e)
{
	struct job *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	j->base.run = job_run;
	j->base.late = job_late;
	j->base.drop = job_drop;
	j->what = what;
	j->file = a->file;
	j->generation = generation;
	r = deadline_run(&j->base, ARBITER_DEADLINE_MS);
	if (r == -ETIMEDOUT)
		return err_set(e, r,
			       "arbiter '%s' did not answer within %d ms; nobody goes on without "
			       "it (is the "
			       "shared storage reachable?)",
			       a->uri, ARBITER_DEADLINE_MS);
	if (r == 0 || r == -ESTALE)
		a->last = j->record;
	if (r)
		err_set(e, r, "%s", j->err.msg[0] ? j->err.msg : strerror(-r));
	free(j);
	return r;
}

int arbiter_open(struct arbiter **ret, const char *uri, const char *vm, const char *holder,
		 struct err *e)
{
	struct arbiter *a = calloc(1, sizeof(*a));
	int r = 0;

	if (!a)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	snprintf(a->uri, sizeof(a->uri), "%s", uri);
	snprintf(a->file.holder, sizeof(a->file.holder), "%s", holder);
	a->is_file = !strncmp(uri, "file:", 5);
	if (a->is_file)
		r = arbiter_file_init(&a->file, uri + 5, vm, holder, e);
	else if (strcmp(uri, "none"))
		r = err_set(e, -EINVAL, "arbiter '%.80s': must be none or file:PATH", uri);
	if (r) {
		free(a);
		return r;
	}
	*ret = a;
	return 0;
}

void arbiter_close(struct arbiter *a)
{
	free(a);
}

int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e)
{
	int r = a->is_file ? call_file(a, JOB_READ, 0, e) : 0;

	if (!r)
		*ret = a->last;
	return r;
}

int arbiter_claim(struct arbiter *a, uint64_t from, uint64_t *ret_generation, struct err *e)
{
	int r = 0;

	if (from >= INT64_MAX - 1)
		return err_set(e, -ERANGE, "arbiter: generation %llu is out of range",
			       (unsigned long long)from);
	if (a->is_file) {
		r = call_file(a, JOB_CLAIM, from, e);
	} else {
		a->last.generation = from + 1;
		a->last.released = false;
		snprintf(a->last.holder, sizeof(a->last.holder), "%s", a->file.holder);
	}
	if (!r)
		*ret_generation = from + 1;
	return r;
}

int arbiter_release(struct arbiter *a, uint64_t generation, struct err *e)
{
	if (a->is_file)
		return call_file(a, JOB_RELEASE, generation, e);
	if (a->last.generation != generation)
		return err_set(e, -ESTALE, "generation %llu is not the current one",
			       (unsigned long long)generation);
	a->last.released = true;
	return 0;
}

bool arbiter_is_shared(const struct arbiter *a)
{
	return a->is_file;
}

const struct arbiter_record *arbiter_last(const struct arbiter *a)
{
	return &a->last;
}
