/* pthreads, clocks, chance and names of the simulated processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/proc.h"
#include "tests/sim/real.h"

/* What lies in the program's pthread_mutex_t and pthread_cond_t; all zeros is a new one. */
struct mutex {
	struct fiber *owner;
};

struct cond {
	uint64_t turns;
};

/* --- threads ---------------------------------------------------------------------------------- */

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg)
{
	struct fiber *f = fiber_start(proc_now(), fn, arg);

	*ret = (pthread_t)f;
	fiber_maybe(4);
	return 0;
}

static bool is_dead(void *arg)
{
	const struct fiber *f = arg;

	return f->dead;
}

int __wrap_pthread_join(pthread_t thread, void **ret)
{
	struct fiber *f = (struct fiber *)thread;

	fiber_wait(is_dead, f, NEVER);
	if (ret)
		*ret = f->result;
	return 0;
}

int __wrap_pthread_clockjoin_np(pthread_t thread, void **ret, clockid_t clock,
				const struct timespec *until)
{
	uint64_t ns = (uint64_t)until->tv_sec * SEC + (uint64_t)until->tv_nsec;

	if (!fiber_wait(is_dead, (struct fiber *)thread, proc_world_time(proc_now(), ns)))
		return ETIMEDOUT;
	return __wrap_pthread_join(thread, ret);
}

int __wrap_pthread_detach(pthread_t thread)
{
	return 0;
}

pthread_t __wrap_pthread_self(void)
{
	return (pthread_t)fiber_now;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
	struct fiber *f = (struct fiber *)thread;

	strncpy(f->name, name, sizeof(f->name) - 1);
	return 0;
}

int __wrap_pthread_kill(pthread_t thread, int sig)
{
	((struct fiber *)thread)->signalled = true;
	return 0;
}

int __wrap_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *p)
{
	return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return 0;
}

int __wrap_sigaction(int sig, const struct sigaction *sa, struct sigaction *old)
{
	return 0;
}

void (*__wrap_signal(int sig, void (*fn)(int)))(int)
{
	return SIG_DFL;
}

int __wrap_sched_setscheduler(pid_t pid, int policy, const struct sched_param *p)
{
	return 0;
}

int __wrap_sched_getscheduler(pid_t pid)
{
	return SCHED_OTHER;
}

int __wrap_sched_yield(void)
{
	fiber_yield();
	return 0;
}

/* --- locks ------------------------------------------------------------------------------------ */

static bool is_free(void *arg)
{
	const struct mutex *m = arg;

	return !m->owner;
}

int __wrap_pthread_mutex_init(pthread_mutex_t *lock, const pthread_mutexattr_t *attr)
{
	memset(lock, 0, sizeof(*lock));
	return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *lock)
{
	return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	struct mutex *m = (struct mutex *)lock;

	fiber_maybe(16);
	while (m->owner)
		fiber_wait(is_free, m, NEVER);
	m->owner = fiber_now;
	return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
	((struct mutex *)lock)->owner = NULL;
	fiber_maybe(16);
	return 0;
}

struct turn {
	const struct cond *cond;
	uint64_t seen;
};

static bool is_told(void *arg)
{
	const struct turn *t = arg;

	return t->cond->turns != t->seen;
}

static int wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until)
{
	struct cond *c = (struct cond *)cond;
	struct turn t = {c, c->turns};
	bool told;

	((struct mutex *)lock)->owner = NULL;
	told = fiber_wait(is_told, &t, until);
	__wrap_pthread_mutex_lock(lock);
	return told || world_now() < until ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr)
{
	memset(cond, 0, sizeof(*cond));
	return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *cond)
{
	return 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	return wait_until(cond, lock, NEVER);
}

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * SEC + (uint64_t)t->tv_nsec;
}

/* All of the program's have CLOCK_MONOTONIC. */
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
				  const struct timespec *until)
{
	return wait_until(cond, lock, proc_world_time(proc_now(), ns_of(until)));
}

int __wrap_pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *lock, clockid_t clock,
				  const struct timespec *until)
{
	return wait_until(cond, lock, proc_world_time(proc_now(), ns_of(until)));
}

/* A wake-up without a cause is allowed: so one is as good as all. */
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
	((struct cond *)cond)->turns++;
	fiber_maybe(16);
	return 0;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
	return __wrap_pthread_cond_broadcast(cond);
}

/* --- clocks, chance, names -------------------------------------------------------------------- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	uint64_t ns;

	world_spend(40);
	fiber_maybe(32);
	ns = proc_clock(proc_now());
	*ts = (struct timespec){(time_t)(ns / SEC), (long)(ns % SEC)};
	return 0;
}

time_t __wrap_time(time_t *t)
{
	time_t s = 1700000000 + (time_t)(proc_clock(proc_now()) / SEC);

	if (t)
		*t = s;
	return s;
}

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned flags)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)rnd();
	return (ssize_t)len;
}

int __wrap_gethostname(char *name, size_t len)
{
	strncpy(name, (char[]){'h', 'o', 's', 't', proc_now()->host->name, 0}, len);
	return 0;
}

pid_t __wrap_getpid(void)
{
	return (pid_t)proc_now()->id;
}

pid_t __wrap_gettid(void)
{
	return (pid_t)fiber_now->id;
}
