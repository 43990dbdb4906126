/*
 * The marks (ft/common/mark.h) of all images that one side of a VM has for itself. What the other
 * side relies on, that an image is being overwritten, is on the medium before that begins. All
 * others may come late, or be lost with a host: an image then says that it is less than it is, and
 * is not started unasked. So they are written on a thread of its own. Owner: the loop.
 */
#ifndef FT_MARKS_H
#define FT_MARKS_H

#include "ft/common/arbiter.h"
#include "ft/common/mark.h"
#include "vmm/vm/vm.h"

struct marks_job;

struct marks {
	struct marks_job *job;	/* under way, or NULL */
	struct marks_job *next; /* the last one asked for meanwhile, or NULL */
};

/* Now, and on the medium when it returns; images that can have none are left alone. */
int marks_put(const struct vm *vm, enum mark_word word, uint64_t generation, struct err *e);
/* Soon, of the images that vm has now. A trouble is logged. */
void marks_ask(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation);
/* Waits for what was asked last, 2 s at most. No loop runs any more. */
void marks_stop(struct marks *m);

/*
 * May this image be used as cfg says, by what it says of itself? -ESTALE: not without --claim.
 * known: the arbiter's record, or NULL.
 */
int mark_allows(const struct config *cfg, const struct config_disk *cd,
		const struct arbiter_record *known, struct err *e);
/* May all? */
int marks_allow(const struct config *cfg, const struct arbiter_record *known, struct err *e);

#endif
