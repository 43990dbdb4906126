/* Acknowledgements of many threads: count, longest gap, latency percentiles. All in nanoseconds. */
#ifndef TESTS_LIN_STATS_H
#define TESTS_LIN_STATS_H

#include <pthread.h>
#include <stdint.h>

#define STATS_SUB     32 /* buckets per power of two: percentiles are right within 3 % */
#define STATS_BUCKETS (STATS_SUB * 60)

struct stats {
	pthread_mutex_t lock;
	uint64_t acked;
	uint64_t last;	 /* time of the last acknowledgement, 0 before the first */
	uint64_t gap;	 /* longest time between two successive ones, over all threads */
	uint64_t gap_at; /* when that gap began */
	uint64_t max;
	uint64_t bucket[STATS_BUCKETS];
};

void stats_init(struct stats *s);
/* Any thread. now: time of the acknowledgement. */
void stats_ack(struct stats *s, uint64_t now, uint64_t latency);
/* The silence from the last acknowledgement to the end of the load is a gap, too. */
void stats_end(struct stats *s, uint64_t now);
/* Upper bound of the latency of that share (0..1) of all acknowledgements. */
uint64_t stats_percentile(struct stats *s, double share);
/* Count and longest gap so far. Any thread. */
void stats_read(struct stats *s, uint64_t *acked, uint64_t *gap);

#endif
