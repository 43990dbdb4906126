/*
 * The marks (ft/common/mark.h) of all images that one side of a VM has for itself, written on a
 * thread of its own: storage may take its time. Before a first sync is begun its mark is waited
 * for; all others are written behind what they say. Owner: the loop.
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
	/* Of marks_ask_first(), until it is answered. */
	void (*told)(void *arg, const struct err *e);
	void *arg;
};

/* Soon, of the images that vm has now. A trouble is logged. */
void marks_ask(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation);
/*
 * The same, and told is called once, within 5 s, perhaps from in here: with {0}, or what is wrong;
 * it is not known then whether they are written. A negative errno: it will not be.
 */
int marks_ask_first(struct marks *m, const struct vm *vm, enum mark_word word, uint64_t generation,
		    void (*told)(void *arg, const struct err *e), void *arg);
/* Whoever is to be told need not be any more. */
void marks_forget(struct marks *m);
/* No word any more, now. Before the loop. */
int marks_take_off(const struct vm *vm, struct err *e);
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
