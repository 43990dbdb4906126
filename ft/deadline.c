#define _GNU_SOURCE
#include "ft/deadline.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

static void *thread_main(void *arg)
{
	struct deadline_job *job = arg;
	int result = job->run(job);
	bool late;

	/* One lock decides whether it was in time, so both sides agree. */
	pthread_mutex_lock(&job->lock);
	late = atomic_load(&job->abandoned);
	job->done = true;
	job->result = result;
	pthread_cond_signal(&job->cond);
	pthread_mutex_unlock(&job->lock);
	if (late) {
		if (job->late)
			job->late(job, result);
		pthread_cond_destroy(&job->cond);
		pthread_mutex_destroy(&job->lock);
		job->drop(job);
	}
	return NULL;
}

/* A job that an urgent thread waits for is as urgent; threads do not inherit that by themselves. */
static void inherit_priority(pthread_t thread)
{
	int policy = sched_getscheduler(0);
	struct sched_param p;

	if (policy > 0 && policy & SCHED_RESET_ON_FORK && !sched_getparam(0, &p))
		pthread_setschedparam(thread, policy & ~SCHED_RESET_ON_FORK, &p);
}

static int start_thread(struct deadline_job *job, pthread_t *ret)
{
	sigset_t all, old;
	int r;

	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(ret, NULL, thread_main, job);
	if (!r)
		inherit_priority(*ret);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int deadline_run(struct deadline_job *job, int timeout_ms)
{
	pthread_condattr_t attr;
	struct timespec until;
	pthread_t thread;
	bool done;
	int r;

	atomic_init(&job->abandoned, false);
	job->done = false;
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->cond, &attr);
	pthread_condattr_destroy(&attr);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000l) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000l;
	}
	r = start_thread(job, &thread);
	if (r)
		goto out;
	pthread_mutex_lock(&job->lock);
	while (!job->done && !pthread_cond_timedwait(&job->cond, &job->lock, &until))
		;
	done = job->done;
	if (!done) {
		atomic_store(&job->abandoned, true);
		pthread_detach(thread);
	}
	pthread_mutex_unlock(&job->lock);
	if (!done)
		return -ETIMEDOUT;
	pthread_join(thread, NULL);
	r = job->result;
out:
	pthread_cond_destroy(&job->cond);
	pthread_mutex_destroy(&job->lock);
	return r;
}
