/*
 * The state engine: one table of fields per device, one code path for checkpoint, snapshot and
 * migration, load limits, divergence hash, dump and docs.
 *
 * A device keeps what must survive in a plain struct (its POD); the table names each field of it
 * by a stable numeric id. Encoding is little-endian type-length-value, so a reader refuses what it
 * does not know by name, and never depends on struct layout. Loading decodes into a scratch POD,
 * applies the limits of the table, runs check(), and only then is the scratch handed over.
 */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"

enum field_type {
	FIELD_U8 = 1,
	FIELD_U16,
	FIELD_U32,
	FIELD_U64,
	FIELD_BYTES,  /* fixed number of raw bytes */
	FIELD_STRUCT, /* one nested struct, described by sub */
	FIELD_ARRAY,  /* counted array of structs described by sub; count is a u32 in the parent */
};

enum field_flag {
	FIELD_UNSTABLE = 1, /* not part of the divergence hash (clocks, counters of the host) */
	FIELD_OPTIONAL = 2, /* may be absent in a stream of an older version: stays zero */
};

struct field {
	uint16_t id; /* stable for ever, unique in its table, > 0 */
	uint8_t type;
	uint8_t flags;
	uint16_t since; /* first version of the table that has it; 0: the first one */
	uint32_t offset;
	uint32_t size;	   /* bytes of the field; of one element for FIELD_ARRAY */
	uint64_t min, max; /* inclusive limits for integers; max 0: none but the width */
	const struct field *sub;
	uint16_t nsub;
	uint32_t count_offset, max_count; /* FIELD_ARRAY */
	const char *name, *doc;
};

#define STATE_FIELD_(s, f, ty, i, ...)                                                             \
	{                                                                                          \
		.id = (i), .type = (ty), .offset = offsetof(s, f), .size = sizeof(((s *)0)->f),    \
		.name = #f, __VA_ARGS__                                                            \
	}
/* F_U8(struct serial_state, lcr, 3, "line control", .max = 0x7f) */
#define F_U8(s, f, i, d, ...)	 STATE_FIELD_(s, f, FIELD_U8, i, .doc = d, ##__VA_ARGS__)
#define F_U16(s, f, i, d, ...)	 STATE_FIELD_(s, f, FIELD_U16, i, .doc = d, ##__VA_ARGS__)
#define F_U32(s, f, i, d, ...)	 STATE_FIELD_(s, f, FIELD_U32, i, .doc = d, ##__VA_ARGS__)
#define F_U64(s, f, i, d, ...)	 STATE_FIELD_(s, f, FIELD_U64, i, .doc = d, ##__VA_ARGS__)
#define F_BYTES(s, f, i, d, ...) STATE_FIELD_(s, f, FIELD_BYTES, i, .doc = d, ##__VA_ARGS__)
#define F_STRUCT(s, f, i, table, d, ...)                                                           \
	STATE_FIELD_(s, f, FIELD_STRUCT, i, .sub = table,                                          \
		     .nsub = sizeof(table) / sizeof(table[0]), .doc = d, ##__VA_ARGS__)
/* F_ARRAY(struct s, elems, nelems, 7, elem_fields, "doc"): elems is a fixed C array, nelems a u32
 */
#define F_ARRAY(s, f, cnt, i, table, d, ...)                                                       \
	{                                                                                          \
		.id = (i), .type = FIELD_ARRAY, .offset = offsetof(s, f),                          \
		.size = sizeof(((s *)0)->f[0]), .count_offset = offsetof(s, cnt),                  \
		.max_count = sizeof(((s *)0)->f) / sizeof(((s *)0)->f[0]), .sub = table,           \
		.nsub = sizeof(table) / sizeof(table[0]), .name = #f, .doc = d, ##__VA_ARGS__      \
	}

struct state_desc {
	const char *name;
	uint16_t id; /* stable, unique over all tables */
	uint16_t version;
	uint32_t size; /* sizeof the POD */
	const struct field *fields;
	uint16_t nfields;
	/* Relations between fields, after the limits held. pod is scratch. May be NULL. */
	int (*check)(const void *pod, struct err *e);
};

/* One thing with state in a VM: the n-th instance of a table. pod is owned by the caller. */
struct state_item {
	const struct state_desc *desc;
	uint16_t instance;
	void *pod;
};

/* Most bytes one item can encode to. */
size_t state_bound(const struct state_desc *desc);
size_t state_bound_all(const struct state_item *items, unsigned n);
/*
 * Encode all items into buf; returns bytes, -ENOSPC when cap is too small, -ERANGE when a pod holds
 * a count above its table's limit (a bug of whoever filled it). No allocation, no system call.
 */
int64_t state_encode_all(const struct state_item *items, unsigned n, void *buf, size_t cap);
/*
 * Decode into the items' PODs, which must be scratch copies: on error they hold garbage and must
 * not be used. Every item must be present exactly once, and nothing else. Never fails after the
 * first check: 0, or -EBADMSG with table, instance, field and limit named in e.
 */
int state_decode_all(const struct state_item *items, unsigned n, const void *buf, size_t len,
		     struct err *e);
/* Hash of all stable fields of one item; equal state gives an equal hash on every host. */
uint64_t state_hash(const struct state_item *item);
/* Name of the first stable field that differs ("virtio-blk.queues[1].last_avail"), or false. */
bool state_diff(const struct state_desc *desc, const void *a, const void *b, char *ret_name,
		size_t cap);
/*
 * Every field that differs, those that are not stable, too: fn gets its path below the item
 * ("queues[1].last_avail", "xsave[0x10..0x1f]", "msrs.count") and both values, of which neither
 * holds a blank. a or b may be NULL: there is none, all that the other has differs, and the value
 * that is not there is "-". Returns how often fn was called.
 */
typedef void state_differ_fn(void *arg, const char *path, const char *a, const char *b);
unsigned state_compare(const struct state_desc *desc, const void *a, const void *b,
		       state_differ_fn *fn, void *arg);
/* Write "table[instance].field = value" lines, for people. fn may be called many times. */
void state_dump(const struct state_item *item, void (*fn)(void *arg, const char *line), void *arg);
/* Table self-check for tests: unique ids, sizes that fit the type, limits that make sense. */
int state_desc_check(const struct state_desc *desc, struct err *e);

#endif
