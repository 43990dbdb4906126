/*
 * Run something that may block for ever (a file on a dead network file system) with a deadline: a
 * short-lived thread does it, the caller waits. What comes too late never counts as done.
 */
#ifndef FT_DEADLINE_H
#define FT_DEADLINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/*
 * Embedded in the caller's own heap struct. run() is called in the helper thread. After a timeout
 * the job belongs to that thread: when run() does end, late() gets its result, then drop() frees
 * the job. In time, only run() is called and the job stays the caller's.
 */
struct deadline_job {
	int (*run)(struct deadline_job *job);
	void (*late)(struct deadline_job *job, int result); /* may be NULL */
	void (*drop)(struct deadline_job *job);
	atomic_bool abandoned; /* run() may look before a step that cannot be undone */
	/* private to deadline.c */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int result;
};

/*
 * Returns the result of run(), which must not be -ETIMEDOUT; -ETIMEDOUT when it took longer (the
 * job is no longer the caller's); other negative errno when no thread could be had.
 */
int deadline_run(struct deadline_job *job, int timeout_ms);

#endif
