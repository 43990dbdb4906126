/*
 * A mutex that an urgent thread shares with ordinary ones: whoever holds it runs with the priority
 * of whoever waits for it. Without that a busy process of the host could keep an ordinary thread
 * from its processor inside the lock, and the loop would wait for that process.
 *
 * Used as any mutex; pthread_mutex_destroy() ends it.
 */
#ifndef VMM_LOCK_H
#define VMM_LOCK_H

#include <pthread.h>

void lock_init(pthread_mutex_t *lock);

#endif
