/*
 * A token bucket: `rate` tokens a second come in, up to `burst` are kept, and whoever finds one may
 * go on, whatever that costs: what is taken above the level is owed, and waited for afterwards. So
 * the cost need not be known before, none is too large, and over any time no more than rate, a
 * burst and one cost go out.
 *
 * Pure: the caller says what time it is. No time is too long and no rate too high; parts of tokens
 * are kept, so that it is right however often it is looked at.
 */
#ifndef VMM_BUCKET_H
#define VMM_BUCKET_H

#include <stdint.h>

struct bucket {
	uint64_t rate;	/* tokens a second; 0: there is no limit */
	uint64_t burst; /* at most INT64_MAX */
	int64_t level;	/* below 0: owed */
	uint64_t at_ns; /* what came until then is in level, */
	uint64_t part;	/* and so many billionths of one more */
};

/* New numbers, for a zeroed bucket, too: a new limit begins full, one that was there keeps its
 * level. */
void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns);
/* 0: go on, and bucket_take(); else ns until then. */
uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns);
/* After a wait of 0: n tokens. */
void bucket_take(struct bucket *b, uint64_t n);

#endif
