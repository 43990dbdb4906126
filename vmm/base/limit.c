#include "vmm/base/limit.h"

#define NS_PER_S 1000000000ull
#define LOOK_NS	 1000000000ull /* it is looked at again, however long the wait */

static void over(struct loop_op *op, int res)
{
	struct limit *l = op->arg;

	l->waits = false;
	l->held_ns += l->loop->clock() - l->since_ns;
	l->go(l->arg);
}

void limit_init(struct limit *l, struct loop *loop, void (*go)(void *arg), void *arg)
{
	l->loop = loop;
	l->go = go;
	l->arg = arg;
	l->timer = (struct loop_op){.fn = over, .arg = l};
}

void limit_done(struct limit *l)
{
	if (l->waits)
		loop_timer_del(l->loop, &l->timer);
	l->waits = false;
}

/* Two tokens at least: of a bucket that is full no part of one is kept. */
static uint64_t burst_of(uint64_t rate)
{
	return rate / (NS_PER_S / LIMIT_BURST_NS) + 2;
}

void limit_set(struct limit *l, const struct limit_rates *r)
{
	uint64_t now = l->loop->clock();

	bucket_set(&l->bytes, r->bytes, burst_of(r->bytes), now);
	bucket_set(&l->ops, r->ops, burst_of(r->ops), now);
	if (l->waits)
		loop_timer_set(l->loop, &l->timer, 0);
}

bool limit_holds(struct limit *l)
{
	uint64_t now, ns, ops_ns;

	if (!limit_is_set(l))
		return false;
	if (l->waits)
		return true;
	now = l->loop->clock();
	ns = bucket_wait_ns(&l->bytes, now);
	ops_ns = bucket_wait_ns(&l->ops, now);
	if (ops_ns > ns)
		ns = ops_ns;
	if (!ns)
		return false;
	ns = ns < LIMIT_WAIT_NS ? LIMIT_WAIT_NS : ns > LOOK_NS ? LOOK_NS : ns;
	/* Without a timer nobody would say when: better too fast than never. */
	if (loop_timer_set(l->loop, &l->timer, ns))
		return false;
	l->since_ns = now;
	l->waits = true;
	return true;
}

void limit_take(struct limit *l, uint64_t bytes)
{
	bucket_take(&l->bytes, bytes);
	bucket_take(&l->ops, 1);
}

uint64_t limit_held_ns(const struct limit *l)
{
	return l->held_ns + (l->waits ? l->loop->clock() - l->since_ns : 0);
}
