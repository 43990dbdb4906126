/*
 * Pages that are written to a file, as no network is left. A source carries those over of which it
 * does not know that the destination has them: what was sent and never confirmed is among them, and
 * the destination drops what it has (postcopy/carry_in.h). A destination whose source is dead saves
 * what there is.
 *
 * The file is a stream: PAGES, MAP for memory that was never touched, and EOS, without which it is
 * not whole; when it is the destination's, HELLO before them, and MAP for pages that are missing.
 * A thread writes it (vmm/copy/file_out.h).
 *
 * Owner: the loop.
 */
#ifndef POSTCOPY_CARRY_OUT_H
#define POSTCOPY_CARRY_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/machine/mem.h"

struct carry_out;

struct carry_out_plan {
	const char *path;
	struct loop *loop;
	const struct mem *mem; /* what a guest changes meanwhile is as it was or as it is */
	uint64_t *pages;       /* a bit each: these are written. Taken over, also on failure */
	uint64_t session;
	/* Of a destination, else NULL: what lacks is listed, too. Likewise taken over. */
	uint8_t *machine;
	size_t machine_len;
	/* Once: e NULL, the file is on disk; or why there is none. */
	void (*told)(void *arg, const struct err *e);
	void *arg;
};

/* *slot is NULL while none is written. -EBUSY: one is, or hangs at its storage. */
int carry_out_start(struct carry_out **slot, const struct carry_out_plan *plan, struct err *e);
/* Is told() still to come? NULL is fine. */
bool carry_out_is_owed(const struct carry_out *c);
/* The file is not to be: memory is let go, told() says why, and *slot is NULL when storage lets go.
 */
void carry_out_give_up(struct carry_out *c, const char *why);
/* Memory is let go, nobody is told, and *slot is NULL. */
void carry_out_stop(struct carry_out **slot);

#endif
