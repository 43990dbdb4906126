/*
 * Locks that are looked after: it stands in for pthread_mutex_init(), _lock() and _unlock(). A lock
 * that is taken twice, or given back by who does not hold it, aborts; a race would only show it now
 * and then.
 */
#ifndef TESTS_LIBLOCKS_H
#define TESTS_LIBLOCKS_H

/* How many this thread holds. */
unsigned locks_held(void);

#endif
