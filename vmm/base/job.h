/*
 * Something that may block for ever (a file on a dead network file system), on a thread of its own.
 * Whoever starts it waits for it, or is told on the loop; both with a deadline. A job that is late
 * goes on, since nothing ends a thread in such a call: it can be waited for again, or abandoned.
 *
 * An owner has one job at a time, and starts no other beside one that is late: storage that hangs
 * costs each owner one thread, however often it asks.
 */
#ifndef VMM_JOB_H
#define VMM_JOB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/loop.h"

/* Embedded in the owner's own heap struct, which nobody else touches until the job has ended. */
struct job {
	int (*run)(struct job *job); /* in the thread; must not return -ETIMEDOUT */
	/* In the thread, when a wait will end at once; not once abandoned. NULL: nobody is told. */
	void (*ended)(struct job *job);
	void (*told)(struct job *job, int result); /* of job_start_on(), which takes `ended` */
	void (*drop)(struct job *job);
	atomic_bool abandoned; /* run() may look before a step that cannot be undone */
	/* private to job.c */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int result;
	struct loop *loop; /* NULL: somebody waits */
	struct loop_op done_op, late_op;
	int done_fd;
	bool late;
};

/* 0, or a negative errno: no thread could be had, and the job stays the caller's. */
int job_start(struct job *job);
/*
 * The result of run(), once; -ETIMEDOUT: it is still at it, wait again or abandon it. One that the
 * loop was to tell of it does not tell of any more.
 */
int job_wait(struct job *job, int timeout_ms);

/* In run(), for long work that nobody waits for: without the loop's priority, which jobs inherit.
 */
void job_be_ordinary(void);

/*
 * Loop thread. told() gets the result of run() once, on the loop, and the job is over. Before that
 * it gets -ETIMEDOUT when the deadline has passed: the job goes on, and is still to be told of.
 */
int job_start_on(struct job *job, struct loop *l, uint64_t deadline_ns);
/* One that is late: told() gets -ETIMEDOUT again after so long. Any other: nothing is changed. */
int job_expect(struct job *job, uint64_t deadline_ns);

/* Nobody waits for it any more: drop() is called when run() has ended, by whichever thread. */
void job_abandon(struct job *job);

#endif
