#include "ft/common/arbiter.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ft/common/arbiter_file.h"
#include "vmm/base/deadline.h"
#include "vmm/base/loop.h"

#define DEADLINE_NS (ARBITER_DEADLINE_MS * 1000000ull)

/* One call to the file back end, in its own thread; all it touches is in here. */
struct job {
	struct deadline_job base;
	enum { JOB_READ, JOB_CLAIM, JOB_END } what;
	enum arbiter_why why;
	struct arbiter_file file;
	uint64_t from;
	struct arbiter_record as;     /* the question of an end */
	struct arbiter_record record; /* the answer; the thread's until the wait has ended */
	uint64_t done_ns;
	struct err err;
};

struct arbiter {
	bool is_file;
	char uri[600];
	struct arbiter_file file;
	struct arbiter_record last;
	struct job *pending; /* the storage still has it: no second thread waits beside it */
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
		r = arbiter_file_claim(&j->file, j->from, j->why, &base->abandoned, &j->record,
				       &j->err);
		break;
	case JOB_END:
		r = arbiter_file_end(&j->file, &j->as, &j->record, &j->err);
		break;
	}
	j->done_ns = loop_now_ns();
	/* The file system's own timeout is a failure like others; -ETIMEDOUT says: not finished. */
	return r == -ETIMEDOUT ? -EIO : r;
}

static void job_drop(struct deadline_job *base)
{
	free(job_of(base));
}

/* Of what was read, only a new answer counts; a claim or an end that came late is as good. */
static bool same_question(const struct job *a, const struct job *b)
{
	return a->what == b->what && a->what != JOB_READ && a->from == b->from &&
	       a->why == b->why && a->file.token == b->file.token &&
	       a->as.generation == b->as.generation && a->as.end == b->as.end;
}

static int start_job(struct arbiter *a, const struct job *ask, struct err *e)
{
	struct job *j = malloc(sizeof(*j));
	int r;

	if (!j)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	*j = *ask;
	j->base.run = job_run;
	j->base.drop = job_drop;
	r = deadline_start(&j->base);
	if (r) {
		free(j);
		return err_set(e, r, "arbiter: thread: %s", strerror(-r));
	}
	a->pending = j;
	return 0;
}

/* The pending job's result; it is over and still in a->pending, or -ETIMEDOUT. */
static int wait_job(struct arbiter *a, uint64_t until, struct err *e)
{
	uint64_t now = loop_now_ns();
	int r = deadline_wait(&a->pending->base, now < until ? (int)((until - now) / 1000000) : 0);

	if (r != -ETIMEDOUT)
		return r;
	return err_set(e, r,
		       "arbiter '%s' did not answer within %d ms; nobody goes on without it (is "
		       "the shared storage reachable?)",
		       a->uri, ARBITER_DEADLINE_MS);
}

static void forget_job(struct arbiter *a)
{
	free(a->pending);
	a->pending = NULL;
}

/* An answer that nobody fetched for so long is asked for again: others acted meanwhile. */
static bool is_fresh(const struct job *j)
{
	return loop_now_ns() - j->done_ns < DEADLINE_NS;
}

/* Of the pending job, which has ended. */
static int take_answer(struct arbiter *a, int r, struct err *e)
{
	if (r == 0 || r == -ESTALE || r == -ECANCELED)
		a->last = a->pending->record;
	if (r)
		err_set(e, r, "%s", a->pending->err.msg[0] ? a->pending->err.msg : strerror(-r));
	forget_job(a);
	return r;
}

static int call_file(struct arbiter *a, struct job *ask, struct err *e)
{
	uint64_t until = loop_now_ns() + DEADLINE_NS;
	int r;

	ask->file = a->file;
	if (a->pending) {
		bool same = same_question(a->pending, ask);

		r = wait_job(a, until, e);
		if (r == -ETIMEDOUT)
			return r;
		if (same && is_fresh(a->pending))
			return take_answer(a, r, e);
		forget_job(a);
	}
	r = start_job(a, ask, e);
	if (r)
		return r;
	r = wait_job(a, until, e);
	return r == -ETIMEDOUT ? r : take_answer(a, r, e);
}

int arbiter_open(struct arbiter **ret, const char *uri, const char *vm, const char *holder,
		 struct err *e)
{
	struct arbiter *a = calloc(1, sizeof(*a));
	int r = 0;

	if (!a)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	if (getrandom(&a->file.claim, sizeof(a->file.claim), 0) != sizeof(a->file.claim))
		r = err_sys(e, "arbiter: random number");
	a->file.claim |= 1; /* not 0, which is nobody's */
	snprintf(a->uri, sizeof(a->uri), "%s", uri);
	snprintf(a->file.holder, sizeof(a->file.holder), "%s", holder);
	a->is_file = !strncmp(uri, "file:", 5);
	if (!r && a->is_file)
		r = arbiter_file_init(&a->file, uri + 5, vm, holder, e);
	else if (!r && strcmp(uri, "none"))
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
	if (a && a->pending)
		deadline_abandon(&a->pending->base);
	free(a);
}

void arbiter_set_side(struct arbiter *a, uint64_t side)
{
	a->file.side = side;
}

uint64_t arbiter_side(const struct arbiter *a)
{
	return a->file.side;
}

void arbiter_set_token(struct arbiter *a, uint64_t token)
{
	a->file.token = token;
}

int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e)
{
	struct job ask = {.what = JOB_READ};
	int r = a->is_file ? call_file(a, &ask, e) : 0;

	if (!r)
		*ret = a->last;
	return r;
}

int arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret_generation,
		  struct err *e)
{
	struct job ask = {.what = JOB_CLAIM, .from = from, .why = why};
	int r = 0;

	if (from >= INT64_MAX - 1)
		return err_set(e, -ERANGE, "arbiter: generation %llu is out of range",
			       (unsigned long long)from);
	if (a->is_file) {
		r = call_file(a, &ask, e);
	} else {
		a->last = (struct arbiter_record){.generation = from + 1};
		snprintf(a->last.holder, sizeof(a->last.holder), "%s", a->file.holder);
	}
	if (!r)
		*ret_generation = from + 1;
	return r;
}

static int end_as(struct arbiter *a, const struct arbiter_record *as, struct err *e)
{
	struct job ask = {.what = JOB_END, .as = *as};

	if (a->is_file)
		return call_file(a, &ask, e);
	if (a->last.generation != as->generation)
		return err_set(e, -ESTALE, "generation %llu is not the current one",
			       (unsigned long long)as->generation);
	a->last.end = as->end;
	return 0;
}

int arbiter_end(struct arbiter *a, uint64_t generation, enum arbiter_end end, struct err *e)
{
	struct arbiter_record as = {.generation = generation, .end = end, .side = a->file.side};

	snprintf(as.holder, sizeof(as.holder), "%s", a->file.holder);
	return end_as(a, &as, e);
}

int arbiter_put_back(struct arbiter *a, uint64_t generation, const struct arbiter_record *before,
		     struct err *e)
{
	struct arbiter_record as = *before;

	as.generation = generation;
	if (!before->generation)
		as.end = ARBITER_RELEASED;
	return end_as(a, &as, e);
}

bool arbiter_is_shared(const struct arbiter *a)
{
	return a->is_file;
}

const struct arbiter_record *arbiter_last(const struct arbiter *a)
{
	return &a->last;
}
