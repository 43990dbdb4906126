/*
 * The key-value protocol and journal format of the `kv` guest, shared by the guest, the test
 * clients and the image checker. All integers are little-endian; structs have no padding holes.
 */
#ifndef GUESTS_KV_PROTO_H
#define GUESTS_KV_PROTO_H

#include <stdint.h>

#define KV_PORT		7000 /* UDP and TCP */
#define KV_ECHO_PORT	7    /* TCP byte echo, in the same guest */
#define KV_REQ_MAGIC	0x71766b66u
#define KV_REP_MAGIC	0x72766b66u
#define KV_KEYS		256 /* registers: keys 0..255, initial value 0, version 0 */
#define KV_LISTS	16  /* append lists: keys 0..15, their own name space */
#define KV_LIST_CAP	32768
#define KV_LIST_PER_REP 64

enum kv_op {
	KV_GET = 1,    /* value, version */
	KV_PUT = 2,    /* value := a; reply value = a, version after */
	KV_CAS = 3,    /* if value == a then value := b; reply value = value after */
	KV_APPEND = 4, /* list := list + [a]; reply value = index of the new element */
	KV_LIST = 5,   /* elements from index a; reply value = total length, n elements */
};

enum kv_status {
	KV_OK = 0,
	KV_MISMATCH = 1, /* CAS: value was not a; reply value = the current value */
	KV_FULL = 2,	 /* list or journal full: the operation had no effect */
	KV_BAD = 3,	 /* malformed request: no effect */
};

/* One request: a UDP datagram, or back to back on a TCP stream. */
struct kv_req {
	uint32_t magic;
	uint8_t op;
	uint8_t pad[3];
	uint64_t id; /* chosen by the client, unique over all clients; echoed and journalled */
	uint32_t key;
	uint32_t pad2;
	uint64_t a;
	uint64_t b;
};

/* One reply, followed by n list elements of 8 bytes (n <= KV_LIST_PER_REP). */
struct kv_rep {
	uint32_t magic;
	uint8_t op;
	uint8_t status;
	uint16_t n;
	uint64_t id;
	uint32_t key;
	uint32_t pad;
	uint64_t value;
	uint64_t version; /* of the register: +1 by every PUT and successful CAS */
};

/*
 * Journal: 512-byte sectors from sector 0 of the first disk. A sector holds 1..15 records that
 * were committed together. A mutating operation is acknowledged only after its sector was
 * written and a flush completed. Recovery reads sectors 0,1,2... while magic, seq (= sector
 * number) and checksum hold, and stops at the first that does not.
 */
#define KV_JOURNAL_MAGIC 0x6a766b66u
#define KV_JOURNAL_RECS	 15

struct kv_record {
	uint64_t id;
	uint64_t a; /* new value, or list element */
	uint32_t key;
	uint8_t op; /* KV_PUT (also for a CAS that succeeded) or KV_APPEND */
	uint8_t pad[11];
};

struct kv_sector {
	uint32_t magic;
	uint32_t nrecs;
	uint64_t seq;
	uint64_t sum; /* kv_sum() over the sector with sum = 0 */
	uint64_t pad;
	struct kv_record recs[KV_JOURNAL_RECS];
};

_Static_assert(sizeof(struct kv_req) == 40, "kv_req");
_Static_assert(sizeof(struct kv_rep) == 40, "kv_rep");
_Static_assert(sizeof(struct kv_record) == 32, "kv_record");
_Static_assert(sizeof(struct kv_sector) == 512, "kv_sector");

/* FNV-1a over 8-byte words: cheap in an emulated guest, strong enough against torn sectors. */
static inline uint64_t kv_sum(const struct kv_sector *s)
{
	uint64_t h = 0xcbf29ce484222325ull, w;

	for (unsigned i = 0; i < sizeof(*s) / 8; i++) {
		__builtin_memcpy(&w, (const uint8_t *)s + 8 * i, 8);
		h = (h ^ (i == 2 ? 0 : w)) * 0x100000001b3ull;
	}
	return h;
}

#endif
