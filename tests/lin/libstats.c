/* Acknowledgement statistics: a log-linear histogram and the longest gap. */
#include "tests/lin/stats.h"

#include <string.h>

void stats_init(struct stats *s)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
}

static unsigned stats_bucket(uint64_t v)
{
	unsigned shift;

	if (v < STATS_SUB)
		return (unsigned)v;
	shift = 63 - (unsigned)__builtin_clzll(v) - 5; /* v >> shift is in 32..63 */
	return (shift + 1) * STATS_SUB + (unsigned)((v >> shift) - STATS_SUB);
}

static uint64_t stats_bucket_top(unsigned b)
{
	unsigned shift = b / STATS_SUB;

	if (!shift)
		return b;
	return (((uint64_t)STATS_SUB + b % STATS_SUB + 1) << (shift - 1)) - 1;
}

static void stats_gap(struct stats *s, uint64_t now)
{
	if (s->last && now > s->last && now - s->last > s->gap) {
		s->gap = now - s->last;
		s->gap_at = s->last;
	}
}

void stats_ack(struct stats *s, uint64_t now, uint64_t latency)
{
	pthread_mutex_lock(&s->lock);
	stats_gap(s, now);
	s->acked++;
	s->last = now > s->last ? now : s->last;
	s->max = latency > s->max ? latency : s->max;
	s->bucket[stats_bucket(latency)]++;
	pthread_mutex_unlock(&s->lock);
}

void stats_end(struct stats *s, uint64_t now)
{
	pthread_mutex_lock(&s->lock);
	stats_gap(s, now);
	pthread_mutex_unlock(&s->lock);
}

uint64_t stats_percentile(struct stats *s, double share)
{
	uint64_t below = 0, top = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned b = 0; b < STATS_BUCKETS; b++) {
		below += s->bucket[b];
		if (below && (double)below >= share * (double)s->acked) {
			top = stats_bucket_top(b);
			break;
		}
	}
	top = top < s->max ? top : s->max;
	pthread_mutex_unlock(&s->lock);
	return top;
}

void stats_read(struct stats *s, uint64_t *acked, uint64_t *gap)
{
	pthread_mutex_lock(&s->lock);
	*acked = s->acked;
	*gap = s->gap;
	pthread_mutex_unlock(&s->lock);
}
