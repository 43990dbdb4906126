#include "vmm/base/bucket.h"

#define NS_PER_S 1000000000ull

typedef unsigned __int128 wide;

static void fill(struct bucket *b, uint64_t now_ns)
{
	/* Room is at most 2^64 - 1: from INT64_MIN to INT64_MAX. */
	uint64_t room = b->burst - (uint64_t)b->level;
	wide parts, tokens;

	if (now_ns <= b->at_ns)
		return;
	parts = (wide)(now_ns - b->at_ns) * b->rate + b->part;
	tokens = parts / NS_PER_S;
	b->at_ns = now_ns;
	if (tokens >= room) {
		b->level = (int64_t)b->burst;
		b->part = 0;
		return;
	}
	b->level = (int64_t)((uint64_t)b->level + (uint64_t)tokens);
	b->part = (uint64_t)(parts % NS_PER_S);
}

void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns)
{
	if (burst > INT64_MAX)
		burst = INT64_MAX;
	if (b->rate)
		fill(b, now_ns);
	if (!b->rate || b->level > (int64_t)burst) {
		b->level = (int64_t)burst;
		b->part = 0;
	}
	b->rate = rate;
	b->burst = burst;
	b->at_ns = now_ns;
}

uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns)
{
	wide ns;

	if (!b->rate)
		return 0;
	fill(b, now_ns);
	if (b->level > 0)
		return 0;
	ns = ((wide)(1 - (uint64_t)b->level) * NS_PER_S - b->part + b->rate - 1) / b->rate;
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

void bucket_take(struct bucket *b, uint64_t n)
{
	if (!b->rate)
		return;
	if (n > INT64_MAX)
		n = INT64_MAX;
	b->level = b->level < INT64_MIN + (int64_t)n ? INT64_MIN : b->level - (int64_t)n;
}
