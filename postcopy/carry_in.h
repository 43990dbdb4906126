/*
 * Pages that were carried over by hand (postcopy/carry_out.h) come in: a thread reads the file,
 * checks that it is whole and of this migration, frame by frame, and passes its frames on. To the
 * destination it is a peer at the other end of a pair of sockets: what that checks of a source's
 * frames it checks of these.
 *
 * The thread has one frame in hand, touches no guest memory, and may hang at storage. Owner: the
 * loop.
 */
#ifndef POSTCOPY_CARRY_IN_H
#define POSTCOPY_CARRY_IN_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

struct carry_in;

struct carry_in_plan {
	const char *path;
	struct loop *loop;
	uint64_t session;
	/* Once: e NULL, the destination has said that it is complete; or what was wrong. */
	void (*told)(void *arg, const struct err *e);
	void *arg;
};

/*
 * *slot is NULL while none is read. *ret_fd: the destination's end, to be closed by it when it
 * wants no more. -EBUSY: one is read, or hangs at its storage.
 */
int carry_in_start(struct carry_in **slot, const struct carry_in_plan *plan, int *ret_fd,
		   struct err *e);
/* Is told() still to come? NULL is fine. */
bool carry_in_is_owed(const struct carry_in *c);
/* When the other end is closed: nobody is told, and *slot is NULL. */
void carry_in_stop(struct carry_in **slot);

#endif
