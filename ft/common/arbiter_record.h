/*
 * The record of an arbiter, and the one judge of it: what it is as a text, and who may follow it.
 * Whoever keeps records anywhere asks here.
 */
#ifndef FT_ARBITER_RECORD_H
#define FT_ARBITER_RECORD_H

#include <stddef.h>

#include "ft/common/arbiter_ops.h"

#define ARBITER_RECORD_MAX 4096

/* Where records are kept, for what an error says. */
struct arbiter_place {
	const char *vm;
	const char *name;  /* "arbiter folder '/srv/shared'" */
	const char *doubt; /* "is the shared storage mounted?" */
};

/* One line, the caller's to free; NULL, and why: no memory, or a name that is not UTF-8. */
char *arbiter_record_text(const struct arbiter_record *r, const char *vm, struct err *e);
/* Reads nothing behind len. where: names the record to people. -EBADMSG: damaged, or another VM's.
 */
int arbiter_record_parse(const char *text, size_t len, const char *vm, const char *where,
			 struct arbiter_record *ret, struct err *e);
int arbiter_record_damaged(const char *where, struct err *e);

/* Is the current record the claim that is asked for, which landed before its answer was had? */
bool arbiter_claim_landed(const struct arbiter_question *q, const struct arbiter_record *now);
/* May the current record be followed by the one asked for? 0, or why not. */
int arbiter_check_claim(const struct arbiter_question *q, const struct arbiter_record *now,
			const struct arbiter_place *p, struct err *e);
/* May the current record be replaced by its end? 0, or -ESTALE. */
int arbiter_check_end(const struct arbiter_question *q, const struct arbiter_record *now,
		      const struct arbiter_place *p, struct err *e);
/* -ESTALE and -ECANCELED, with the words for it. */
int arbiter_lost(const struct arbiter_record *now, const struct arbiter_place *p, struct err *e);
int arbiter_was_stopped(const struct arbiter_record *before, const struct arbiter_place *p,
			struct err *e);

#endif
