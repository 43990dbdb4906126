#define _GNU_SOURCE
#include "vmm/base/job.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/lock.h"

static void done_with(struct job *job)
{
	if (job->loop)
		close(job->done_fd);
	pthread_cond_destroy(&job->cond);
	pthread_mutex_destroy(&job->lock);
}

static void *thread_main(void *arg)
{
	struct job *job = arg;
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

void job_be_ordinary(void)
{
	struct sched_param p = {0};

	sched_setscheduler(0, SCHED_OTHER, &p);
}

static int start_thread(struct job *job)
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

static void prepare(struct job *job)
{
	pthread_condattr_t attr;

	atomic_init(&job->abandoned, false);
	job->done = job->late = false;
	job->loop = NULL;
	lock_init(&job->lock);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->cond, &attr);
	pthread_condattr_destroy(&attr);
}

int job_start(struct job *job)
{
	int r;

	prepare(job);
	r = start_thread(job);
	if (r)
		done_with(job);
	return r;
}

static void leave_loop(struct job *job)
{
	loop_poll_del(job->loop, &job->done_op);
	loop_timer_del(job->loop, &job->late_op);
}

int job_wait(struct job *job, int timeout_ms)
{
	struct timespec until;
	bool done;

	if (job->loop)
		leave_loop(job);
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

/* --- told on the loop ------------------------------------------------------------------------- */

/* In the thread. */
static void wake_loop(struct job *job)
{
	uint64_t one = 1;

	if (write(job->done_fd, &one, sizeof(one)) < 0)
		return; /* cannot be: the counter is 0 */
}

static void is_over(struct loop_op *op, int res)
{
	struct job *job = op->arg;

	leave_loop(job);
	pthread_join(job->thread, NULL);
	done_with(job);
	job->told(job, job->result);
}

static void is_late(struct loop_op *op, int res)
{
	struct job *job = op->arg;

	job->late = true;
	job->told(job, -ETIMEDOUT);
}

int job_start_on(struct job *job, struct loop *l, uint64_t deadline_ns)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), r;

	if (fd < 0)
		return -errno;
	prepare(job);
	job->ended = wake_loop;
	job->loop = l;
	job->done_fd = fd;
	job->done_op = (struct loop_op){.fn = is_over, .arg = job};
	job->late_op = (struct loop_op){.fn = is_late, .arg = job};
	r = loop_poll_add(l, &job->done_op, fd, POLLIN);
	if (!r)
		r = loop_timer_set(l, &job->late_op, deadline_ns);
	if (!r)
		r = start_thread(job);
	if (r) {
		leave_loop(job);
		done_with(job);
	}
	return r;
}

int job_expect(struct job *job, uint64_t deadline_ns)
{
	int r = job->late ? loop_timer_set(job->loop, &job->late_op, deadline_ns) : 0;

	job->late = job->late && r;
	return r;
}

void job_abandon(struct job *job)
{
	pthread_t thread = job->thread; /* the job may be gone any time after the unlock */
	bool done;

	if (job->loop)
		leave_loop(job);
	pthread_mutex_lock(&job->lock);
	atomic_store(&job->abandoned, true);
	done = job->done;
	pthread_mutex_unlock(&job->lock);
	if (!done) {
		pthread_detach(thread);
		return;
	}
	pthread_join(thread, NULL);
	done_with(job);
	job->drop(job);
}
