/*
 * An image to a receiver that has an older one, or another: a sum of each block goes out, and what
 * differs there is marked when it says so (vmm/copy/disk_compare.h). The marks then go out as any.
 *
 * The sums are XXH3-64 with a secret made of the session's number, which the guest does not know:
 * else it could make two blocks that are taken for equal, and harm itself.
 */
#ifndef VMM_DISK_SUMS_H
#define VMM_DISK_SUMS_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/copy/disk_pass.h"
#include "vmm/copy/disk_wire.h"
#include "vmm/wire/stream.h"

struct disk_sum_key {
	uint8_t secret[192];
};

void disk_sum_key_make(struct disk_sum_key *key, uint64_t session);
uint64_t disk_sum(const struct disk_sum_key *key, const void *block, size_t len);

/*
 * Sums of the whole image, each block's mark taken before it is read. Sender thread. *asked,
 * atomic, counts the frames: each is answered. p->between() is to keep the number of those that are
 * not answered yet small.
 */
int disk_sums_send(const struct disk_pass *p, uint64_t *asked);

/* A FRAME_DIFFER, checked; marks what it names in maps[of its disk]. -EBADMSG with e, or 0. */
int disk_sums_answer(const struct frame *f, struct block_map *maps, unsigned nmaps, struct err *e);

#endif
