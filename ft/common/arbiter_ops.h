/*
 * What stands behind an arbiter: whatever answers the four questions about the records of one VM.
 * With 0, -ESTALE and -ECANCELED goes the record that it saw or made last; any other code says that
 * there is no answer.
 *
 * It may block for as long as its storage does, and is called in a thread of its own, never two at
 * a time. What it did after its deadline counts all the same: a claim that is asked for again has
 * the same identity, by which it is to be recognised, and won.
 */
#ifndef FT_ARBITER_OPS_H
#define FT_ARBITER_OPS_H

#include <errno.h>
#include <stdatomic.h>

#include "ft/common/arbiter.h"

enum arbiter_what { ARBITER_READ, ARBITER_CLAIM, ARBITER_END, ARBITER_PUT_BACK };

struct arbiter_question {
	enum arbiter_what what;
	enum arbiter_why why; /* of a claim */
	/*
	 * As it is to be, but for its time. A claim follows the generation before it; the record
	 * that an end replaces, or a claim that is put back, must be ours and the current one.
	 */
	struct arbiter_record record;
	/* When it turns true nobody waits any more, and what is not claimed yet is not to be. */
	const atomic_bool *abandoned;
};

struct arbiter_ops {
	int (*answer)(void *self, const struct arbiter_question *q, struct arbiter_record *ret,
		      struct err *e);
	void (*close)(void *self);
	unsigned deadline_ms; /* for an answer; 0: it never blocks, and needs no thread */
	bool shared;	      /* others see the records, too */
};

struct arbiter_backend {
	const struct arbiter_ops *ops;
	void *self;
};

/* The code of a failed call, which is no judgement of a record. */
static inline int arbiter_no_answer(int code)
{
	return code == -ESTALE || code == -ECANCELED ? -EIO : code;
}

/*
 * An arbiter that asks a back end, whose owner it is from then on (not after an error). name: what
 * people know it by.
 */
int arbiter_open_on(struct arbiter **ret, struct loop *l, const struct arbiter_backend *b,
		    const char *name, const char *holder, struct err *e);

#endif
