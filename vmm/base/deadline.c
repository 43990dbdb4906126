#define _GNU_SOURCE
#include "vmm/base/deadline.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

static void done_with(struct deadline_job *job)
{
	pthread_cond_destroy(&job->cond);
	pthread_mutex_destroy(&job->lock);
}

static void *thread_main(void *arg)
{
	struct deadline_job *job = arg;
	int result = job->run(job);
	bool abandoned;

	/* One lock decides who of the two is the last. */
	pthread_mutex_lock(&job->lock);
	abandoned = atomic_load(&job->abandoned);
	job->done = true;
	job->result = result;
	pthread_cond_signal(&job->cond);
	if (job->ended && !abandoned)
		job->ended(job);
	pthread_mutex_unlock(&job->lock);
	if (abandoned) {
		done_with(job);
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

static int start_thread(struct deadline_job *job)
{
	sigset_t all, old;
	int r;

	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&job->thread, NULL, thread_main, job);
	if (!r)
		inherit_priority(job->thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int deadline_start(struct deadline_job *job)
{
	pthread_condattr_t attr;
	int r;

	atomic_init(&job->abandoned, false);
	job->done = false;
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->cond, &attr);
	pthread_condattr_destroy(&attr);
	r = start_thread(job);
	if (r)
		done_with(job);
	return r;
}

int deadline_wait(struct deadline_job *job, int timeout_ms)
{
	struct timespec until;
	bool done;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000l) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000l;
	}
	pthread_mutex_lock(&job->lock);
	while (!job->done && !pthread_cond_timedwait(&job->cond, &job->lock, &until))
		;
	done = job->done;
	pthread_mutex_unlock(&job->lock);
	if (!done)
		return -ETIMEDOUT;
	pthread_join(job->thread, NULL);
	done_with(job);
	return job->result;
}

void deadline_abandon(struct deadline_job *job)
{
	bool done;

	pthread_detach(job->thread);
	pthread_mutex_lock(&job->lock);
	atomic_store(&job->abandoned, true);
	done = job->done;
	pthread_mutex_unlock(&job->lock);
	if (done) {
		done_with(job);
		job->drop(job);
	}
}
