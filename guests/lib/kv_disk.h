/* The journal of the kv guest on its first disk: recovery, and group commit in the background. */
#ifndef GUESTS_LIB_KV_DISK_H
#define GUESTS_LIB_KV_DISK_H

#include "guests/lib/guest.h"
#include "guests/lib/kv_store.h"

enum kv_disk_state { KV_DISK_IDLE, KV_DISK_WRITE, KV_DISK_FLUSH };

struct kv_disk {
	struct blk *blk; /* NULL: no disk */
	struct kv_store *store;
	enum kv_disk_state state;
	bool submitted; /* req is with the device */
	bool complained;
	uint64_t next; /* sector being written, then the first that is not in this commit */
	uint64_t end;  /* of the commit */
	struct blk_req req;
};

/* Opens the disk if there is one, sets up the store and replays the journal; says so. */
void kv_disk_open(struct kv_disk *d, struct kv_store *store);
/*
 * Moves the commit on: sectors one after the other, so that a crash leaves a prefix, then one
 * flush, then store->durable. Returns whether it has to be called again without an event.
 */
bool kv_disk_poll(struct kv_disk *d);

#endif
