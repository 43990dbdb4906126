#include "tests/unit/liblocks.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __real_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a);
int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

static __thread unsigned held;

unsigned locks_held(void)
{
	return held;
}

static void must(const char *what, int r)
{
	if (!r)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(r));
	abort();
}

int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a)
{
	pthread_mutexattr_t check;

	if (a) /* it is of a kind that was chosen */
		return __real_pthread_mutex_init(m, a);
	must("attributes of a lock", pthread_mutexattr_init(&check));
	must("kind of a lock", pthread_mutexattr_settype(&check, PTHREAD_MUTEX_ERRORCHECK));
	must("a new lock", __real_pthread_mutex_init(m, &check));
	pthread_mutexattr_destroy(&check);
	return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	must("a lock that is taken", __real_pthread_mutex_lock(m));
	held++;
	return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	must("a lock that is given back", __real_pthread_mutex_unlock(m));
	held--;
	return 0;
}
