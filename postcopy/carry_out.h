/*
 * Pages that are carried over by hand, when no network is left: the source writes a file of those
 * of which it does not know that the destination has them. What was sent and never confirmed is
 * among them: the destination drops what it has (postcopy/carry_in.h).
 *
 * The file is a stream of the migration's session: PAGES, MAP for memory that was never touched,
 * and EOS, without which it is not whole. A thread writes it (vmm/copy/file_out.h).
 *
 * Owner: the loop.
 */
#ifndef POSTCOPY_CARRY_OUT_H
#define POSTCOPY_CARRY_OUT_H

#include <stdint.h>

#include "postcopy/unsent.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/machine/mem.h"

struct carry_out;

struct carry_out_plan {
	const char *path;
	struct loop *loop;
	const struct mem *mem; /* nobody writes it */
	const struct unsent *unsent;
	uint64_t session;
	/* Once: e NULL, the file is on disk; or why there is none. */
	void (*told)(void *arg, const struct err *e);
	void *arg;
};

/* *slot is NULL while none is written. -EBUSY: one is, or hangs at its storage. */
int carry_out_start(struct carry_out **slot, const struct carry_out_plan *plan, struct err *e);
/* The file is not to be: memory is let go, told() says why, and *slot is NULL when storage lets go.
 */
void carry_out_give_up(struct carry_out *c, const char *why);
/* Memory is let go, nobody is told, and *slot is NULL. */
void carry_out_stop(struct carry_out **slot);

#endif
