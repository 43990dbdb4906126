#include "tests/unit/libtime.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIMERS	256
#define PATIENT 120 /* s */

uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);
int __wrap_loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns);
void __wrap_loop_timer_del(struct loop *l, struct loop_op *op);

/* Other threads look at the clock, too. */
static atomic_ullong now = 1000 * S;

static struct {
	struct loop_op *op;
	uint64_t due;
} timers[TIMERS];
static unsigned ntimers;

uint64_t __wrap_loop_now_ns(void)
{
	return now;
}

void __wrap_loop_timer_del(struct loop *l, struct loop_op *op)
{
	for (unsigned i = 0; i < ntimers; i++) {
		if (timers[i].op != op)
			continue;
		ntimers--;
		memmove(&timers[i], &timers[i + 1], (ntimers - i) * sizeof(timers[0]));
		return;
	}
}

int __wrap_loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns)
{
	__wrap_loop_timer_del(l, op);
	if (ntimers == TIMERS)
		abort();
	timers[ntimers].op = op;
	timers[ntimers++].due = now + delay_ns;
	return 0;
}

void time_reset(void)
{
	ntimers = 0;
	now = 1000 * S;
	alarm(PATIENT);
}

void time_jump(uint64_t ns)
{
	now += ns;
}

int64_t time_left(const struct loop_op *op)
{
	for (unsigned i = 0; i < ntimers; i++)
		if (timers[i].op == op)
			return (int64_t)(timers[i].due - now);
	return -1;
}

static void fire(unsigned i)
{
	struct loop_op *op = timers[i].op;

	if (timers[i].due > now)
		now = timers[i].due;
	__wrap_loop_timer_del(NULL, op);
	op->fn(op, -ETIME);
}

void time_fire(struct loop_op *op)
{
	for (unsigned i = 0; i < ntimers; i++) {
		if (timers[i].op != op)
			continue;
		fire(i);
		return;
	}
	abort();
}

/* The next one that fires by then, of equal ones the first that was set; ntimers: none. */
static unsigned next_by(uint64_t then)
{
	unsigned best = ntimers;

	for (unsigned i = 0; i < ntimers; i++)
		if (timers[i].due <= then && (best == ntimers || timers[i].due < timers[best].due))
			best = i;
	return best;
}

void loop_turns(struct loop *l)
{
	for (unsigned i = 0; i < 4; i++)
		loop_run_once(l, 0);
}

void time_due(void)
{
	for (unsigned i; (i = next_by(now)) < ntimers;)
		fire(i);
}

void time_pass(struct loop *l, uint64_t ns)
{
	uint64_t then = now + ns;

	for (unsigned i; (i = next_by(then)) < ntimers;) {
		fire(i);
		loop_turns(l);
	}
	if (now < then)
		now = then;
	loop_turns(l);
}

bool real_time_left(uint64_t *began)
{
	uint64_t real = __real_loop_now_ns();

	if (!*began)
		*began = real;
	return real - *began < 20 * S;
}
