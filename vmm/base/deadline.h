/*
 * Run something that may block for ever (a file on a dead network file system) with a deadline: a
 * thread does it, the caller waits. One that is late goes on, and can be waited for again.
 */
#ifndef FT_DEADLINE_H
#define FT_DEADLINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* Embedded in the caller's own heap struct, which nobody else touches until the wait has ended. */
struct deadline_job {
	int (*run)(struct deadline_job *job); /* in the thread; must not return -ETIMEDOUT */
	/* In the thread, when a wait will end at once; not once abandoned. NULL: nobody is told. */
	void (*ended)(struct deadline_job *job);
	void (*drop)(struct deadline_job *job);
	atomic_bool abandoned; /* run() may look before a step that cannot be undone */
	/* private to deadline.c */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int result;
};

/* 0, or a negative errno: no thread could be had, and the job stays the caller's. */
int deadline_start(struct deadline_job *job);
/* The result of run(), once; -ETIMEDOUT: it is still at it, wait again or abandon it. */
int deadline_wait(struct deadline_job *job, int timeout_ms);
/* Instead of a wait that ends: drop() is called when run() has ended, by whichever thread. */
void deadline_abandon(struct deadline_job *job);

#endif
