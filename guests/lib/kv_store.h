/*
 * The state machine of the kv guest and its journal, without disk and network.
 *
 * Operations take effect in the order of kv_store_apply(), at once. What they answer may be told
 * only when every sector they depend on is durable: each answer comes with the number of sectors
 * that must be flushed first. So no client ever sees a state that a crash could take back.
 */
#ifndef GUESTS_LIB_KV_STORE_H
#define GUESTS_LIB_KV_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "guests/kv_proto.h"

#define KV_STORE_OPEN	64   /* sectors that may wait for the disk */
#define KV_STORE_RECENT 1024 /* operations whose repetition gets the first answer */

struct kv_reg {
	uint64_t value;
	uint64_t version;
	uint64_t need; /* sectors to be durable before this may be seen */
};

/* An operation that was done: a repeated datagram must not do it again. */
struct kv_done {
	struct kv_req req;
	struct kv_rep rep;
	uint64_t need;
};

struct kv_store {
	uint64_t sectors; /* of the journal; 0: no journal */
	uint64_t open;	  /* the sector that takes records; those before it are complete */
	uint64_t durable; /* sectors below this are on stable storage */
	uint64_t records; /* in the journal */
	struct kv_sector sector[KV_STORE_OPEN]; /* sector n is at n % KV_STORE_OPEN */
	struct kv_reg reg[KV_KEYS];
	uint64_t len[KV_LISTS];
	uint64_t list_need[KV_LISTS];
	uint64_t ndone;
	uint64_t done_id[KV_STORE_RECENT];
	struct kv_done done[KV_STORE_RECENT];
	uint64_t list[KV_LISTS][KV_LIST_CAP];
};

/* Empty state; sectors = 0 means that nothing is journalled. Memory may be dirty. */
void kv_store_init(struct kv_store *s, uint64_t sectors);
/* Applies the next sector of a journal; false where it ends. Before any kv_store_apply(). */
bool kv_store_replay(struct kv_store *s, const struct kv_sector *sec);
/*
 * Does one request of any content. The answer may be sent once s->durable >= *ret_need. For
 * KV_LIST, the rep.n elements start at s->list[key][a]; they never change.
 * False: no room for a record until the disk has caught up; nothing was done.
 */
bool kv_store_apply(struct kv_store *s, const struct kv_req *req, struct kv_rep *rep,
		    uint64_t *ret_need);
/* Completes the open sector if it has records. Sectors durable..open-1 are then to be written. */
void kv_store_seal(struct kv_store *s);
/* The sector to write, sealed. */
const struct kv_sector *kv_store_sector(const struct kv_store *s, uint64_t seq);

#endif
