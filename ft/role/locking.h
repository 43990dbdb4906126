/*
 * The locks of images that both hosts have. Who has them may still write: what it let go before it
 * was lost, a moment or, when it was frozen, hours ago. So nobody claims, or writes here, without
 * them. A host that is dead loses them, as soon as the storage knows.
 *
 * They are asked for on a thread of its own: storage may take its time. Owner: the loop.
 */
#ifndef FT_LOCKING_H
#define FT_LOCKING_H

#include <stdbool.h>

#include "vmm/base/err.h"
#include "vmm/vm/vm.h"

struct locking_job;

struct locking {
	struct locking_job *job; /* under way, or NULL */
	bool has;		 /* all locks are this side's */
	unsigned tries;		 /* since locking_forget(), that failed */
	/* What came of it: 0, or why not; never from within locking_ask(). */
	void (*answered)(void *arg, const struct err *e);
	void *arg;
};

/* Has vm an image that both hosts have, and the guest writes? */
bool locking_is_needed(const struct vm *vm);
/* 0: answered() comes, with an error after 2 s in which the storage does not say anything. */
int locking_ask(struct locking *l, struct vm *vm, struct err *e);
/* Nobody waits any more; what this side has it gives back. Safe on a zeroed one, and twice. */
void locking_forget(struct locking *l, struct vm *vm);

#endif
