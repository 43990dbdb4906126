/*
 * The history checker. A report starts as CHECK_OK; the first problem found is kept together with
 * the records that prove it. All functions are single-threaded and leave the history unchanged.
 */
#ifndef TESTS_LIN_CHECK_H
#define TESTS_LIN_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guests/kv_proto.h"
#include "tests/lin/history.h"

enum check_verdict { /* also the exit codes of kvcheck */
		     CHECK_OK = 0,
		     CHECK_VIOLATION = 1,
		     CHECK_BAD_INPUT = 2,
		     CHECK_UNDECIDED = 3,
};

struct check_options {
	uint64_t steps;	      /* search steps per key before CHECK_UNDECIDED */
	size_t memo_bytes;    /* memory of the search's memo */
	bool search_only;     /* registers: no cheap invariants first */
	bool allow_conn_lost; /* lost TCP connections are no violation */
	bool allow_foreign;   /* journal records of unknown clients are no violation */
};

struct check_report {
	enum check_verdict verdict;
	uint64_t keys, ops, steps, records; /* looked at */
	char why[160];			    /* the problem in one sentence */
	char evidence[4][320];		    /* records that prove it */
	unsigned nevidence;
};

extern const struct check_options check_defaults;

/* Everything about the history alone. */
void check_history(const struct history *h, const struct check_options *o, struct check_report *r);

/* One register; ops are indices of its get/put/cas records, in any order. */
void register_check(const struct history *h, const size_t *ops, size_t n, struct check_report *r);
void search_check(const struct history *h, const size_t *ops, size_t n,
		  const struct check_options *o, struct check_report *r);
/* One append list. */
void list_check(const struct history *h, const size_t *ops, size_t n, struct check_report *r);
/* The journal in a raw image, against the history. */
void journal_check(const struct history *h, const char *path, const struct check_options *o,
		   struct check_report *r);

/* Note the problem unless one is noted already; rec may be NULL-terminated early. */
void check_fail(struct check_report *r, enum check_verdict v, const struct history *h,
		const struct history_rec *a, const struct history_rec *b, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* A register operation that has a known place among the versions, seen as an observation. */
static inline bool check_is_write(const struct history_rec *r)
{
	return r->op == KV_PUT || (r->op == KV_CAS && r->status == KV_OK);
}

#endif
