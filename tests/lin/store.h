/*
 * The kv server's state machine and journal on the host: the reference that the checker is tested
 * against, correct or with one planted bug.
 */
#ifndef TESTS_LIN_STORE_H
#define TESTS_LIN_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "guests/kv_proto.h"

enum store_bug {
	STORE_CORRECT,
	STORE_LOSE_ACK,	     /* a put is acknowledged and forgotten */
	STORE_STALE_READ,    /* a get answers with the value before */
	STORE_ROLLBACK,	     /* everything goes back to an older state, as after a bad failover */
	STORE_CAS_ALWAYS,    /* a cas does not compare */
	STORE_PHANTOM_READ,  /* a get answers with a value nobody wrote */
	STORE_VERSION_SKIP,  /* a put counts twice */
	STORE_LATE_APPLY,    /* a put is acknowledged before it is visible */
	STORE_VANISH_APPEND, /* an append is acknowledged and forgotten */
	STORE_DUP_APPEND,    /* an append happens twice */
	STORE_REORDER_LIST,  /* two elements change places */
	STORE_DUP_EXEC,	     /* a put is executed and answered twice */
	STORE_WRONG_ID,	     /* a reply carries another operation's id */
	STORE_JOURNAL_SKIP,  /* a record is not written */
	STORE_JOURNAL_TORN,  /* a sector's checksum is wrong */
	STORE_JOURNAL_DUP,   /* a record is written twice */
	STORE_JOURNAL_VALUE, /* a record holds another value */
	STORE_JOURNAL_ORDER, /* two records change places */
	STORE_CONN_DROP,     /* a TCP connection is closed */
	STORE_ECHO_FLIP,     /* a byte comes back changed */
	STORE_ECHO_LOSE,     /* a byte does not come back */
	STORE_STREAM_FLIP,   /* a byte of the pattern is changed */
	STORE_STREAM_SKIP,   /* a block of the pattern is missing */
	STORE_BUGS,
};

struct store_reg {
	uint64_t value, version, old_value, old_version;
};

struct store_data {
	struct store_reg reg[KV_KEYS];
	uint64_t list[KV_LISTS][KV_LIST_CAP];
	uint64_t len[KV_LISTS];
};

struct store {
	struct store_data now, old; /* old: what STORE_ROLLBACK goes back to */
	struct kv_req held;	    /* STORE_LATE_APPLY: not visible yet */
	struct kv_record delayed;   /* STORE_JOURNAL_ORDER */
	enum store_bug bug;
	unsigned every;	 /* the bug shows at every so many chances */
	uint64_t chance; /* so far */
	int journal;	 /* file, or -1 */
	uint64_t seq;	 /* next sector */
};

const char *store_bug_name(enum store_bug bug);
enum store_bug store_bug_find(const char *name); /* STORE_BUGS if there is none */
void store_init(struct store *s, enum store_bug bug, unsigned every, int journal);
/* Is this chance for the bug one where it shows? */
bool store_bug_now(struct store *s, enum store_bug bug);
/* Execute, journal and answer; list has room for KV_LIST_PER_REP. Negative errno of the journal. */
int store_apply(struct store *s, const struct kv_req *q, struct kv_rep *p, uint64_t *list);

#endif
