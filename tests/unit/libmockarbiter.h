/*
 * An arbiter that does what the test says, in a thread as those with storage do, or at once. Claims
 * win and ends are believed, unless another answer is set; each answer may be held back.
 */
#ifndef TESTS_LIBMOCKARBITER_H
#define TESTS_LIBMOCKARBITER_H

#include <pthread.h>
#include <stdbool.h>

#include "ft/common/arbiter_ops.h"

struct mock_arbiter {
	struct arbiter_ops ops;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool hold; /* no answer until told */
	int code;  /* of all answers */
	struct arbiter_record record;
	atomic_uint asked, answered, closed;
	struct arbiter_question question; /* the last one */
};

/* deadline_ms 0: at once. The mock must stay until its arbiter is closed and no answer is held. */
struct arbiter *mock_arbiter_open(struct mock_arbiter *m, struct loop *l, unsigned deadline_ms);
/* Slow and silent storage; what is held goes on when this is taken back. */
void mock_arbiter_hold(struct mock_arbiter *m, bool hold);
/* From now on, e.g. -ESTALE and the record of the one who won. NULL: the record stays. */
void mock_arbiter_set(struct mock_arbiter *m, int code, const struct arbiter_record *record);
/* Wait until so many questions have reached it, have been answered, and it was closed. */
void mock_arbiter_wait(struct mock_arbiter *m, const atomic_uint *counter, unsigned n);

#endif
