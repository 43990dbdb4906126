/*
 * An arbiter over a cell: a text that can be read, and replaced in one step if it is still the one
 * that was read. So claims and ends of a VM have one order, and the cell holds the last record.
 */
#ifndef FT_ARBITER_CELL_H
#define FT_ARBITER_CELL_H

#include "ft/common/arbiter_record.h"

/* For all steps of one question; then there is no answer, and the reason is known before the
 * arbiter's own deadline. */
#define ARBITER_CELL_MS (ARBITER_DEADLINE_MS - 200)

struct arbiter_text {
	char text[ARBITER_RECORD_MAX]; /* ends with a NUL */
	size_t len;		       /* 0: nobody ever wrote it */
	int64_t revision;	       /* the cell's own */
};

/* First in whatever it is a part of. Until: CLOCK_MONOTONIC, ns. */
struct arbiter_cell {
	int (*read)(struct arbiter_cell *c, uint64_t until, struct arbiter_text *ret,
		    struct err *e);
	/*
	 * 0: replaced, for good. -ESTALE: it was another one, is has it now. With any other code
	 * it may have been replaced, or still be as long as it does not change.
	 */
	int (*swap)(struct arbiter_cell *c, uint64_t until, struct arbiter_text *is,
		    const char *text, struct err *e);
	void (*close)(struct arbiter_cell *c);
	bool unsure; /* a text that had no answer may still come */
	struct arbiter_place place;
	char vm[64];
	char name[600]; /* place.name, and how errors name the record */
};

/* ret: asks c from then on, whose owner it is. */
void arbiter_cell_backend(struct arbiter_backend *ret, struct arbiter_cell *c);
/* What was read from outside, which may be too long. */
int arbiter_text_set(struct arbiter_cell *c, struct arbiter_text *t, const char *text, size_t len,
		     struct err *e);

#endif
