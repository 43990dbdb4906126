#include "vmm/base/lock.h"

void lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	if (pthread_mutex_init(lock, &attr)) /* a kernel without priority inheritance */
		pthread_mutex_init(lock, NULL);
	pthread_mutexattr_destroy(&attr);
}
