/*
 * How long faults took, and how long each vCPU was blocked by them: for status, events and log.
 * From the moment at which the pager's thread hears of a fault until the page is there. Any thread.
 *
 * Not all are of a vCPU's thread: KVM may leave the wait to a worker of the kernel's, and the guest
 * does something else meanwhile, or its vCPU stands (asynchronous page faults). Whose that was
 * nobody says.
 */
#ifndef POSTCOPY_FAULTS_H
#define POSTCOPY_FAULTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/machine.h"

#define FAULTS_OTHERS  MACHINE_MAX_VCPUS /* those of no vCPU's thread */
#define FAULTS_WAITS   256u		 /* at once; those beyond are counted, and take no time */
#define FAULTS_OCTAVES 24u /* from 1 us on: 2^n us, up to the next; the last has the rest */
#define FAULTS_STEPS   16u /* of each */
/* The first steps are below 1 us. */
#define FAULTS_BUCKETS (FAULTS_STEPS * (FAULTS_OCTAVES + 1))

struct faults_wait {
	uint32_t tid;
	unsigned whose; /* a vCPU's number, or FAULTS_OTHERS */
	uint64_t page, since_ns;
};

struct faults_sum {
	uint64_t count;	     /* faults */
	uint64_t ended;	     /* of these, the page has come */
	uint64_t blocked_ns; /* by these */
	uint64_t max_ns;     /* the longest */
};

/* What there is to tell: a copy. */
struct faults_stats {
	struct faults_sum sum[MACHINE_MAX_VCPUS + 1];
	struct faults_sum all;
	uint64_t all_blocked_ns;       /* all vCPUs at once */
	uint64_t most;		       /* threads that waited at once */
	uint64_t took[FAULTS_BUCKETS]; /* how many so long */
};

struct faults {
	pthread_mutex_t lock; /* of what is not atomic; a leaf */
	/* Set by faults_of_vcpus(). */
	int (*find)(void *arg, uint32_t tid); /* the vCPU with this thread; -1: none */
	void *arg;
	unsigned vcpus;
	uint64_t waiting; /* atomic: threads that wait now */
	uint64_t blocked; /* vCPUs among them, and since when it is all of them */
	uint64_t blocked_since_ns;
	struct faults_wait waits[FAULTS_WAITS];
	unsigned nwaits;
	struct faults_stats stats;
};

void faults_init(struct faults *f);
/* Who is who, before the first fault; else all are others. find(): any thread. */
void faults_of_vcpus(struct faults *f, unsigned vcpus, int (*find)(void *arg, uint32_t tid),
		     void *arg);
void faults_begin(struct faults *f, uint32_t tid, uint64_t page, uint64_t now_ns);
/* The page is there: everybody who waits for it goes on. */
void faults_end(struct faults *f, uint64_t page, uint64_t now_ns);
/* vCPUs that wait now: bit i, vCPU i. */
uint32_t faults_vcpus(struct faults *f);

void faults_get(struct faults *f, struct faults_stats *ret);
/* What `percent` of 100 did not take longer than, to a sixteenth. 0: there were none. */
uint64_t faults_percentile_ns(const struct faults_stats *s, unsigned percent);

#endif
