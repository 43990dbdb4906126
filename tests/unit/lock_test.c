/* A lock's holder is as urgent as who waits for it. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/base/lock.h"
#include "vmm/base/loop.h"

#define BUSY_NS 400000000ull /* less than what the kernel leaves for ordinary threads */

/* All on one processor: who holds the lock, who wants it, and who is busy, in this order. */
struct scene {
	pthread_mutex_t lock;
	int go[2];
	atomic_bool held, wanted, had;
	bool had_in_time;
};

static int be_urgent(int priority)
{
	struct sched_param p = {.sched_priority = priority};

	return sched_setscheduler(0, SCHED_FIFO, &p);
}

static void *holder(void *arg)
{
	struct scene *s = arg;
	char byte;

	pthread_mutex_lock(&s->lock);
	atomic_store(&s->held, true);
	if (read(s->go[0], &byte, 1) != 1)
		abort();
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void *wanter(void *arg)
{
	struct scene *s = arg;

	if (be_urgent(3))
		return NULL;
	atomic_store(&s->wanted, true);
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->had, true);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Above the holder, below the one who wants it: nobody but a lent priority gets past this one. */
static void *busy(void *arg)
{
	struct scene *s = arg;
	uint64_t until;

	if (be_urgent(2))
		return NULL;
	until = loop_now_ns() + BUSY_NS;
	if (write(s->go[1], "", 1) != 1)
		abort();
	while (!atomic_load(&s->had) && loop_now_ns() < until)
		;
	s->had_in_time = atomic_load(&s->had);
	return NULL;
}

static void holder_is_as_urgent(void **state)
{
	static struct scene s;
	cpu_set_t all, one;
	pthread_t t[3];
	int cpu = sched_getcpu();

	if (be_urgent(1)) {
		print_message("skipped: this user may not set a real-time priority\n");
		skip();
	}
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(pipe(s.go), 0);
	lock_init(&s.lock);
	assert_int_equal(pthread_create(&t[0], NULL, holder, &s), 0);
	while (!atomic_load(&s.held))
		sched_yield();
	assert_int_equal(pthread_create(&t[1], NULL, wanter, &s), 0);
	while (!atomic_load(&s.wanted))
		sched_yield();
	assert_int_equal(pthread_create(&t[2], NULL, busy, &s), 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	sched_setaffinity(0, sizeof(all), &all);
	pthread_mutex_destroy(&s.lock);
	close(s.go[0]);
	close(s.go[1]);
	assert_true(s.had);
	assert_true(s.had_in_time);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holder_is_as_urgent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
