#include "net/compare_flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/base/hash.h"

#define LOOK_AT 64u /* flows, least used first, for one that can be forgotten */

int compare_flows_init(struct compare *c)
{
	uint32_t size = 16;

	TAILQ_INIT(&c->flows);
	TAILQ_INIT(&c->ahead);
	TAILQ_INIT(&c->waiting);
	if (getrandom(&c->seed, sizeof(c->seed), 0) != sizeof(c->seed))
		return -EIO;
	while (size < c->limits.flows)
		size *= 2;
	c->table = calloc(size, sizeof(struct compare_flow *));
	if (!c->table)
		return -ENOMEM;
	c->mask = size - 1;
	return 0;
}

void compare_flows_done(struct compare *c)
{
	if (!c->table)
		return;
	while (!TAILQ_EMPTY(&c->flows))
		compare_flow_forget(c, TAILQ_FIRST(&c->flows));
	while (c->spare) {
		struct compare_held *h = c->spare;

		c->spare = h->spare;
		free(h);
	}
	free(c->table);
	c->table = NULL;
}

static struct compare_flow **place_of(const struct compare *c, const struct packet_key *k)
{
	return &c->table[XXH3_64bits_withSeed(k, sizeof(*k), c->seed) & c->mask];
}

struct compare_flow *compare_flow_find(const struct compare *c, const struct packet_key *k)
{
	struct compare_flow *f = *place_of(c, k);

	while (f && memcmp(&f->key, k, sizeof(*k)))
		f = f->next;
	return f;
}

void compare_flow_forget(struct compare *c, struct compare_flow *f)
{
	struct compare_flow **at = place_of(c, &f->key);

	compare_flow_drop_held(c, f);
	compare_flow_set_ahead(c, f, false, false, 0);
	if (compare_flow_is_stream(f))
		window_free(&f->tcp.w);
	else
		compare_fifo_clear(c, f);
	c->bytes -= f->bytes;
	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	TAILQ_REMOVE(&c->flows, f, by_use);
	c->nflows--;
	free(f);
}

static bool is_idle(const struct compare_flow *f)
{
	return TAILQ_EMPTY(&f->waiting) && !f->ahead &&
	       (!compare_flow_is_stream(f) || compare_tcp_idle(f));
}

/* Forget one, but not that; false: all that were looked at are needed. */
static bool forget_idle(struct compare *c, const struct compare_flow *keep)
{
	struct compare_flow *f;
	unsigned n = 0;

	TAILQ_FOREACH(f, &c->flows, by_use)
	{
		if (f != keep && is_idle(f)) {
			compare_flow_forget(c, f);
			return true;
		}
		if (++n == LOOK_AT)
			break;
	}
	return false;
}

void compare_flows_expire(struct compare *c, uint64_t before_ns)
{
	struct compare_flow *f, *next;
	unsigned n = 0;

	for (f = TAILQ_FIRST(&c->flows); f && f->used_ns < before_ns && n++ < LOOK_AT; f = next) {
		next = TAILQ_NEXT(f, by_use);
		if (is_idle(f))
			compare_flow_forget(c, f);
	}
}

bool compare_flow_charge(struct compare *c, struct compare_flow *f, uint64_t bytes)
{
	if (f->bytes + bytes > 2ull * c->limits.flow_bytes)
		return false;
	while (c->bytes + bytes > c->limits.bytes)
		if (!forget_idle(c, f))
			return false;
	f->bytes += bytes;
	c->bytes += bytes;
	return true;
}

void compare_flow_uncharge(struct compare *c, struct compare_flow *f, uint64_t bytes)
{
	f->bytes -= bytes;
	c->bytes -= bytes;
}

static struct compare_flow *make_flow(struct compare *c, const struct packet_key *k)
{
	struct compare_flow *f, **at = place_of(c, k);

	while (c->nflows >= c->limits.flows)
		if (!forget_idle(c, NULL))
			return NULL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	if (!compare_flow_charge(c, f, sizeof(*f))) {
		free(f);
		return NULL;
	}
	f->key = *k;
	TAILQ_INIT(&f->waiting);
	f->next = *at;
	*at = f;
	TAILQ_INSERT_TAIL(&c->flows, f, by_use);
	c->nflows++;
	return f;
}

struct compare_flow *compare_flow_get(struct compare *c, const struct packet_key *k, uint64_t now)
{
	struct compare_flow *f = compare_flow_find(c, k);

	if (!f) {
		f = make_flow(c, k);
		if (!f)
			return NULL;
	} else if (TAILQ_NEXT(f, by_use)) {
		TAILQ_REMOVE(&c->flows, f, by_use);
		TAILQ_INSERT_TAIL(&c->flows, f, by_use);
	}
	f->used_ns = now;
	f->resets = c->resets;
	return f;
}

struct compare_held *compare_flow_hold(struct compare *c, struct compare_flow *f, void *cookie,
				       uint64_t now)
{
	struct compare_held *h;

	if (!compare_flow_charge(c, f, sizeof(*h)))
		return NULL;
	h = c->spare;
	if (h)
		c->spare = h->spare;
	else
		h = malloc(sizeof(*h));
	if (!h) {
		compare_flow_uncharge(c, f, sizeof(*h));
		return NULL;
	}
	h->flow = f;
	h->cookie = cookie;
	h->since_ns = now;
	TAILQ_INSERT_TAIL(&c->waiting, h, of_all);
	TAILQ_INSERT_TAIL(&f->waiting, h, of_flow);
	return h;
}

static void *drop_first(struct compare *c, struct compare_flow *f)
{
	struct compare_held *h = TAILQ_FIRST(&f->waiting);

	TAILQ_REMOVE(&f->waiting, h, of_flow);
	TAILQ_REMOVE(&c->waiting, h, of_all);
	compare_flow_uncharge(c, f, sizeof(*h));
	h->spare = c->spare;
	c->spare = h;
	return h->cookie;
}

void compare_flow_pass(struct compare *c, void *cookie)
{
	c->released++;
	c->ops->release(c->arg, cookie);
}

void compare_flow_let(struct compare *c, struct compare_flow *f)
{
	compare_flow_pass(c, drop_first(c, f));
}

void compare_flow_drop_held(struct compare *c, struct compare_flow *f)
{
	while (!TAILQ_EMPTY(&f->waiting))
		drop_first(c, f);
}

void compare_flow_set_ahead(struct compare *c, struct compare_flow *f, bool ahead, bool moved,
			    uint64_t now)
{
	if (f->ahead == ahead && !(ahead && moved))
		return;
	if (f->ahead)
		TAILQ_REMOVE(&c->ahead, f, by_ahead);
	f->ahead = ahead;
	f->ahead_ns = now;
	if (ahead)
		TAILQ_INSERT_TAIL(&c->ahead, f, by_ahead);
}
