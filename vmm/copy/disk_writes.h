/*
 * Changes of disks in the order in which they were made, as they travel and wait: the primary's log
 * of an epoch, the secondary's epoch in staging, what waits for its images.
 *
 * Owner: one thread at a time.
 */
#ifndef VMM_DISK_WRITES_H
#define VMM_DISK_WRITES_H

#include <stdint.h>

#include "vmm/copy/disk_wire.h"

/* One allocation of about the size that is counted: many small writes must not cost a page each. */
struct disk_write {
	struct disk_write *next;
	struct wire_disk wire;
	uint8_t data[]; /* wire.data bytes */
};

/* {0} is an empty one. */
struct disk_writes {
	struct disk_write *head, *last;
	uint64_t count, bytes; /* of memory */
};

static inline uint64_t disk_write_bytes(const struct disk_write *w)
{
	return sizeof(*w) + w->wire.data;
}

/* Append a copy; data: wire->data bytes. -ENOMEM, or 0. */
int disk_writes_add(struct disk_writes *l, const struct wire_disk *wire, const void *data);
/* Append all of `from`, which is empty then. */
void disk_writes_move(struct disk_writes *l, struct disk_writes *from);
/* Take the first one off, to be freed by the caller; there must be one. */
struct disk_write *disk_writes_pop(struct disk_writes *l);
void disk_writes_free(struct disk_writes *l);

#endif
