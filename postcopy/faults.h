/*
 * How long faults took, and how long each thread was blocked by them: for status, events and log.
 * From the moment at which the pager's thread hears of a fault until the page is there. Any thread.
 */
#ifndef POSTCOPY_FAULTS_H
#define POSTCOPY_FAULTS_H

#include <pthread.h>
#include <stdint.h>

#define FAULTS_RING    1024u
#define FAULTS_THREADS 64u /* those beyond are counted in the last one */

struct faults_thread {
	uint32_t tid;
	uint64_t page, since_ns; /* waits for it since then; 0: does not wait */
	uint64_t count, blocked_ns;
};

struct faults {
	pthread_mutex_t lock; /* of ring and threads; a leaf */
	uint64_t count;	      /* atomic, as the next two */
	uint64_t max_ns;
	uint64_t waiting;	    /* threads that wait now */
	uint32_t ring[FAULTS_RING]; /* ns of the last ones, saturated */
	uint64_t done;		    /* ever put into the ring */
	unsigned nthreads;
	struct faults_thread threads[FAULTS_THREADS];
};

void faults_init(struct faults *f);
void faults_begin(struct faults *f, uint32_t tid, uint64_t page, uint64_t now_ns);
/* The page is there: everybody who waits for it goes on. */
void faults_end(struct faults *f, uint64_t page, uint64_t now_ns);
/* Of the last FAULTS_RING: the one that `percent` of 100 are not above. 0: there were none. */
uint64_t faults_percentile_ns(struct faults *f, unsigned percent);

#endif
