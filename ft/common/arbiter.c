#include "ft/common/arbiter.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "ft/common/arbiter_etcd.h"
#include "ft/common/arbiter_exec.h"
#include "ft/common/arbiter_file.h"
#include "ft/common/arbiter_ops.h"
#include "vmm/base/job.h"

/* One question to a back end that may block, in a thread of its own. */
struct asking {
	struct job base;
	struct arbiter_backend backend;
	int wake_fd;
	struct arbiter_question question;
	struct arbiter_record record; /* the answer; the thread's until the wait has ended */
	uint64_t done_ns;
	struct err err;
	int at_once; /* the result, of a back end that never blocks */
};

struct arbiter {
	struct arbiter_backend backend;
	char name[600];
	struct arbiter_record self; /* who claims */
	struct arbiter_record last;
	struct asking *pending; /* the storage still has it: no second thread waits beside it */
	bool is_for_asked;	/* the pending job was begun for the present question */
	struct arbiter_question asked;
	/* Through the loop; done is NULL when no question is without its answer. */
	struct loop *loop;
	struct loop_op wake_op, late_op;
	int wake_fd; /* eventfd: a job has ended, or is to be looked at */
	arbiter_done *done;
	void *arg;
};

/* --- one job ---------------------------------------------------------------------------------- */

static struct asking *asking_of(struct job *base)
{
	return (struct asking *)((char *)base - offsetof(struct asking, base));
}

static void wake(int fd)
{
	uint64_t one = 1;

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is at its maximum: somebody will look anyway */
}

static int ask_backend(struct asking *j)
{
	const struct arbiter_question *q = &j->question;

	if (q->what == ARBITER_CLAIM && q->record.generation - 1 >= INT64_MAX - 1)
		return err_set(&j->err, -ERANGE, "arbiter: generation %llu is out of range",
			       (unsigned long long)q->record.generation - 1);
	return j->backend.ops->answer(j->backend.self, q, &j->record, &j->err);
}

static int asking_run(struct job *base)
{
	struct asking *j = asking_of(base);
	int r = ask_backend(j);

	j->done_ns = loop_now_ns();
	/* The file system's own timeout is a failure like others; -ETIMEDOUT says: not finished. */
	return r == -ETIMEDOUT ? -EIO : r;
}

static void asking_ended(struct job *base)
{
	wake(asking_of(base)->wake_fd);
}

/* Abandoned, as its arbiter was closed: the back end was left to it. */
static void asking_drop(struct job *base)
{
	struct asking *j = asking_of(base);

	j->backend.ops->close(j->backend.self);
	free(j);
}

static bool blocks(const struct arbiter *a)
{
	return a->backend.ops->deadline_ms > 0;
}

static uint64_t deadline_ns(const struct arbiter *a)
{
	return a->backend.ops->deadline_ms * 1000000ull;
}

static int start_job(struct arbiter *a, struct err *e)
{
	struct asking *j = calloc(1, sizeof(*j));
	int r = 0;

	if (!j)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	j->base.run = asking_run;
	j->base.ended = asking_ended;
	j->base.drop = asking_drop;
	j->backend = a->backend;
	j->wake_fd = a->wake_fd;
	j->question = a->asked;
	j->question.abandoned = &j->base.abandoned;
	if (blocks(a))
		r = job_start(&j->base);
	else
		j->at_once = asking_run(&j->base);
	if (r) {
		free(j);
		return err_set(e, r, "arbiter: thread: %s", strerror(-r));
	}
	a->pending = j;
	a->is_for_asked = true;
	return 0;
}

/* The pending job's result; it is over and still in a->pending, or -ETIMEDOUT. */
static int wait_job(struct arbiter *a, uint64_t until)
{
	uint64_t now = loop_now_ns();

	if (!blocks(a))
		return a->pending->at_once;
	return job_wait(&a->pending->base, now < until ? (int)((until - now) / 1000000) : 0);
}

static void forget_job(struct arbiter *a)
{
	free(a->pending);
	a->pending = NULL;
}

/* --- one question ----------------------------------------------------------------------------- */

/*
 * Of what was read, only a new answer counts; a claim or an end that came late is as good. But when
 * nobody fetched the answer for so long it is asked for again: others acted meanwhile.
 */
static bool answers_asked(const struct arbiter *a)
{
	const struct arbiter_question *is = &a->pending->question, *asked = &a->asked;

	if (a->is_for_asked)
		return true;
	return is->what == asked->what && is->what != ARBITER_READ && is->why == asked->why &&
	       is->record.generation == asked->record.generation &&
	       is->record.end == asked->record.end && is->record.token == asked->record.token &&
	       loop_now_ns() - a->pending->done_ns < deadline_ns(a);
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

/* Until then at most. The answer, or -ETIMEDOUT: there is none yet. */
static int go_on(struct arbiter *a, uint64_t until, struct err *e)
{
	for (;;) {
		int r = a->pending ? 0 : start_job(a, e);

		if (!r)
			r = wait_job(a, until);
		if (!a->pending || r == -ETIMEDOUT)
			return r;
		if (answers_asked(a))
			return take_answer(a, r, e);
		forget_job(a);
	}
}

static int too_late(const struct arbiter *a, struct err *e)
{
	return err_set(e, -ETIMEDOUT,
		       "arbiter '%s' did not answer within %u ms; nobody goes on without it (is it "
		       "reachable?)",
		       a->name, a->backend.ops->deadline_ms);
}

/* --- through the loop ------------------------------------------------------------------------- */

static void tell(struct arbiter *a, int code, const struct err *err)
{
	struct arbiter_answer answer = {.code = code, .last = a->last, .err = *err};
	arbiter_done *done = a->done;

	arbiter_forget(a);
	done(a->arg, &answer); /* may close it */
}

static void woken(struct loop_op *op, int res)
{
	struct arbiter *a = op->arg;
	struct err e = {0};
	uint64_t n;
	int r;

	if (read(a->wake_fd, &n, sizeof(n)) < 0 || !a->done)
		return; /* a question that was forgotten */
	r = go_on(a, 0, &e);
	if (r != -ETIMEDOUT)
		tell(a, r, &e);
}

/* After woken(), if both are due: an answer that waited for the loop counts. */
static void late(struct loop_op *op, int res)
{
	struct arbiter *a = op->arg;
	struct err e = {0};
	int r = too_late(a, &e);

	tell(a, r, &e);
}

static int ask(struct arbiter *a, const struct arbiter_question *q, arbiter_done *done, void *arg)
{
	int r = 0;

	if (a->done)
		return -EBUSY;
	if (a->loop)
		r = deadline_ns(a) ? loop_timer_set(a->loop, &a->late_op, deadline_ns(a)) : 0;
	if (r)
		return r;
	a->asked = *q;
	a->is_for_asked = false;
	a->done = done;
	a->arg = arg;
	/* What fails here is tried again and told from the loop. */
	if (!a->pending)
		start_job(a, NULL);
	wake(a->wake_fd);
	return 0;
}

void arbiter_forget(struct arbiter *a)
{
	a->done = NULL;
	if (a->loop)
		loop_timer_del(a->loop, &a->late_op);
}

/* --- the four questions ----------------------------------------------------------------------- */

int arbiter_ask_read(struct arbiter *a, arbiter_done *done, void *arg)
{
	return ask(a, &(struct arbiter_question){.what = ARBITER_READ}, done, arg);
}

int arbiter_ask_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, arbiter_done *done,
		      void *arg)
{
	struct arbiter_question q = {.what = ARBITER_CLAIM, .why = why, .record = a->self};

	q.record.generation = from + 1;
	return ask(a, &q, done, arg);
}

int arbiter_ask_end(struct arbiter *a, uint64_t generation, enum arbiter_end end,
		    arbiter_done *done, void *arg)
{
	struct arbiter_question q = {.what = ARBITER_END, .record = a->self};

	q.record.generation = generation;
	q.record.end = end;
	q.record.token = 0;
	return ask(a, &q, done, arg);
}

int arbiter_ask_put_back(struct arbiter *a, uint64_t generation,
			 const struct arbiter_record *before, arbiter_done *done, void *arg)
{
	struct arbiter_question q = {.what = ARBITER_PUT_BACK, .record = *before};

	q.record.generation = generation;
	q.record.claim = a->self.claim;
	if (!before->generation)
		q.record.end = ARBITER_RELEASED;
	return ask(a, &q, done, arg);
}

/* --- waiting for the answer ------------------------------------------------------------------- */

static void not_called(void *arg, const struct arbiter_answer *answer)
{
}

/* asked: what the question said. */
static int wait_answer(struct arbiter *a, int asked, struct err *e)
{
	int r;

	if (asked)
		return err_set(e, asked, "arbiter: cannot be asked now: %s", strerror(-asked));
	r = go_on(a, loop_now_ns() + deadline_ns(a), e);
	arbiter_forget(a);
	return r == -ETIMEDOUT ? too_late(a, e) : r;
}

int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e)
{
	int r = wait_answer(a, arbiter_ask_read(a, not_called, NULL), e);

	if (!r)
		*ret = a->last;
	return r;
}

int arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret_generation,
		  struct err *e)
{
	int r = wait_answer(a, arbiter_ask_claim(a, from, why, not_called, NULL), e);

	if (!r)
		*ret_generation = from + 1;
	return r;
}

int arbiter_end(struct arbiter *a, uint64_t generation, enum arbiter_end end, struct err *e)
{
	return wait_answer(a, arbiter_ask_end(a, generation, end, not_called, NULL), e);
}

int arbiter_put_back(struct arbiter *a, uint64_t generation, const struct arbiter_record *before,
		     struct err *e)
{
	return wait_answer(a, arbiter_ask_put_back(a, generation, before, not_called, NULL), e);
}

/* --- "none": a record that nobody else sees --------------------------------------------------- */

static int none_answer(void *self, const struct arbiter_question *q, struct arbiter_record *ret,
		       struct err *e)
{
	struct arbiter_record *now = self;
	uint64_t asked = q->record.generation;
	int r = 0;

	if (q->what == ARBITER_CLAIM)
		*now = q->record;
	else if (q->what != ARBITER_READ && now->generation != asked)
		r = err_set(e, -ESTALE, "generation %llu is not the current one",
			    (unsigned long long)asked);
	else if (q->what != ARBITER_READ)
		now->end = q->record.end;
	*ret = *now;
	return r;
}

static int open_none(struct arbiter_backend *ret, struct err *e)
{
	static const struct arbiter_ops ops = {.answer = none_answer, .close = free};

	ret->ops = &ops;
	ret->self = calloc(1, sizeof(struct arbiter_record));
	return ret->self ? 0 : err_set(e, -ENOMEM, "arbiter: out of memory");
}

/* --- a handle --------------------------------------------------------------------------------- */

/* The eventfd that ends of jobs are told through. */
static int join_loop(struct arbiter *a, struct err *e)
{
	int r;

	a->wake_fd = -1;
	if (!a->loop)
		return 0;
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake_fd < 0)
		return err_sys(e, "arbiter: eventfd");
	a->late_op = (struct loop_op){.fn = late, .arg = a};
	a->wake_op = (struct loop_op){.fn = woken, .arg = a};
	r = loop_poll_add(a->loop, &a->wake_op, a->wake_fd, POLLIN);
	if (!r)
		return 0;
	close(a->wake_fd);
	return err_set(e, r, "arbiter: event loop: %s", strerror(-r));
}

int arbiter_open_on(struct arbiter **ret, struct loop *l, const struct arbiter_backend *b,
		    const char *name, const char *holder, struct err *e)
{
	struct arbiter *a = calloc(1, sizeof(*a));
	int r = 0;

	if (!a)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	a->backend = *b;
	a->loop = l;
	snprintf(a->name, sizeof(a->name), "%s", name);
	snprintf(a->self.holder, sizeof(a->self.holder), "%s", holder);
	if (getrandom(&a->self.claim, sizeof(a->self.claim), 0) != sizeof(a->self.claim))
		r = err_sys(e, "arbiter: random number");
	a->self.claim |= 1; /* not 0, which is nobody's */
	if (!r)
		r = join_loop(a, e);
	if (r) {
		free(a);
		return r;
	}
	*ret = a;
	return 0;
}

int arbiter_open(struct arbiter **ret, struct loop *l, const char *uri, const char *vm,
		 const char *holder, struct err *e)
{
	struct arbiter_backend b;
	int r;

	if (!strncmp(uri, "file:", 5))
		r = arbiter_file_open(&b, uri + 5, vm, e);
	else if (!strncmp(uri, "etcd:", 5))
		r = arbiter_etcd_open(&b, uri + 5, vm, e);
	else if (!strncmp(uri, "exec:", 5))
		r = arbiter_exec_open(&b, uri + 5, vm, e);
	else if (!strcmp(uri, "none"))
		r = open_none(&b, e);
	else
		r = err_set(e, -EINVAL,
			    "arbiter '%.80s': must be none, file:PATH, etcd:http://HOST:PORT[,...] "
			    "or exec:PROGRAM",
			    uri);
	if (r)
		return r;
	r = arbiter_open_on(ret, l, &b, uri, holder, e);
	if (r)
		b.ops->close(b.self);
	return r;
}

void arbiter_close(struct arbiter *a)
{
	struct asking *j;

	if (!a)
		return;
	arbiter_forget(a);
	j = a->pending;
	if (j && blocks(a)) {
		job_abandon(&j->base);
	} else {
		free(j);
		a->backend.ops->close(a->backend.self);
	}
	/* No thread knows it any more. */
	if (a->loop) {
		loop_poll_del(a->loop, &a->wake_op);
		close(a->wake_fd);
	}
	free(a);
}

void arbiter_set_side(struct arbiter *a, uint64_t side)
{
	a->self.side = side;
}

uint64_t arbiter_side(const struct arbiter *a)
{
	return a->self.side;
}

void arbiter_set_peer(struct arbiter *a, uint64_t side)
{
	a->self.peer = side;
}

void arbiter_set_token(struct arbiter *a, uint64_t token)
{
	a->self.token = token;
}

bool arbiter_is_shared(const struct arbiter *a)
{
	return a->backend.ops->shared;
}

const struct arbiter_record *arbiter_last(const struct arbiter *a)
{
	return &a->last;
}
