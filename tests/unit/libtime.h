/*
 * Time that goes on when a test says so: it stands in for loop_now_ns() and for the loop's timers.
 * Timers fire in the test's thread.
 */
#ifndef TESTS_LIBTIME_H
#define TESTS_LIBTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/loop.h"

#define MS 1000000ull
#define S  1000000000ull

/*
 * No timers; the time is some time. The test that begins here has two minutes of real time: one
 * that hangs, by a timer that is set to now for ever, say, is killed.
 */
void time_reset(void);
/* So much time passes: timers fire in order, and the loop has its turns after each. */
void time_pass(struct loop *l, uint64_t ns);
/* It is as late as this timer says, and it fires, with no turn of the loop: nothing came before. */
void time_fire(struct loop_op *op);
/* The time goes on while the loop is away. */
void time_jump(uint64_t ns);
/* Until the timer fires; -1: it is not set. */
int64_t time_left(const struct loop_op *op);
/* Those that are due now fire. */
void time_due(void);
/* What is ready now. */
void loop_turns(struct loop *l);
/* Real time, for what another thread does meanwhile: false when it took more than 20 s. */
bool real_time_left(uint64_t *began);

/* Turns of the loop until something has come true; timers that are due fire. */
#define loop_until(l, cond)                                                                        \
	do {                                                                                       \
		uint64_t began_ = 0;                                                               \
		while (!(cond)) {                                                                  \
			assert_true(real_time_left(&began_));                                      \
			loop_run_once(l, 200000);                                                  \
			if (!(cond))                                                               \
				time_due();                                                        \
		}                                                                                  \
	} while (0)

#endif
