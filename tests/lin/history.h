/*
 * Client histories: what kvclient saw, as kvcheck reads it.
 *
 * A file is one struct history_file, then records in order of completion, then one HISTORY_END
 * record. A record is a struct history_rec and rec.n list elements of 8 bytes. Everything is in
 * host order (little-endian). Times are CLOCK_MONOTONIC nanoseconds of one boot of one host. A
 * file without its end record is refused: missing operations would look like violations.
 */
#ifndef TESTS_LIN_HISTORY_H
#define TESTS_LIN_HISTORY_H

#include <stddef.h>
#include <stdint.h>

#define HISTORY_MAGIC	 0x3174736968767466ull /* "ftvhist1" */
#define HISTORY_NEVER	 UINT64_MAX
#define HISTORY_LIST_MAX 64

enum history_result {
	HISTORY_OK = 1,	     /* acknowledged; a CAS mismatch is ok too: it observed a value */
	HISTORY_FAIL = 2,    /* refused by the server, so without effect */
	HISTORY_UNKNOWN = 3, /* no reply: may take effect at any later time, or never */
};

/* rec.op is an enum kv_op, or one of these. */
enum history_event {
	HISTORY_CONN_LOST = 0x80, /* key: port, a: bytes received before */
	HISTORY_STREAM = 0x81,	  /* key: port, a: sent, b, value: bytes verified */
	HISTORY_DUP_DIFF = 0x82,  /* id was answered twice, differently; value/version: second */
	HISTORY_BAD_REPLY = 0x83, /* a reply that does not belong to its request */
	HISTORY_END = 0xff,	  /* a: number of records before this one */
};

enum history_flag {
	HISTORY_TCP = 1,
	HISTORY_LATE = 2, /* the reply came after the client had given up waiting */
};

struct history_file {
	uint64_t magic;
	uint64_t seed;
	uint64_t start_ns;
	uint8_t boot[40]; /* kernel boot id: histories of two boots share no clock */
};

struct history_rec {
	uint32_t client;
	uint8_t op;
	uint8_t result;
	uint8_t status; /* enum kv_status */
	uint8_t flags;
	uint64_t id;
	uint32_t key;
	uint32_t n;
	uint64_t a;
	uint64_t b;
	uint64_t invoke;
	uint64_t complete; /* HISTORY_NEVER when unknown */
	uint64_t value;
	uint64_t version;
};

_Static_assert(sizeof(struct history_file) == 64, "history_file");
_Static_assert(sizeof(struct history_rec) == 72, "history_rec");

/* Histories in memory. Owned by the caller; history_free releases the arrays. */
struct history {
	struct history_rec *recs;
	size_t n, cap;
	size_t *list_at; /* per record: where its elements begin in elems */
	uint64_t *elems;
	size_t nelems, elems_cap;
	uint8_t boot[40];
	uint64_t start_ns; /* earliest of all files loaded */
};

/* Add one record (rec->n elements from list). 0 or -ENOMEM. */
int history_add(struct history *h, const struct history_rec *rec, const uint64_t *list);
/* Add all records of a file. Negative errno with a sentence in why on anything wrong with it. */
int history_load(struct history *h, const char *path, char *why, size_t whylen);
const uint64_t *history_list(const struct history *h, size_t i);
void history_free(struct history *h);
/* One record in words, times in milliseconds since start_ns. */
void history_print(const struct history_rec *r, uint64_t start_ns, char *buf, size_t len);
const char *history_op_name(unsigned op);

/* Writing: any thread may call history_write; errors stick and come back from history_close. */
struct history_writer;
int history_create(struct history_writer **w, const char *path, uint64_t seed, uint64_t start_ns);
void history_write(struct history_writer *w, const struct history_rec *rec, const uint64_t *list);
int history_close(struct history_writer *w); /* writes the end record; frees w */

#endif
