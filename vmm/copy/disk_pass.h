/*
 * A pass over the image of a disk: its blocks go out while the guest goes on writing. A block that
 * is torn by that is fine: the write marks it when it is done, and a later pass brings it again.
 * With nothing under way any more, one more pass makes the receiver's image the same.
 *
 * Owner: one thread, the sender.
 */
#ifndef VMM_DISK_PASS_H
#define VMM_DISK_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/disk.h"
#include "vmm/copy/block_map.h"
#include "vmm/wire/stream.h"

struct disk_pass {
	const struct disk *disk;
	uint32_t index; /* in machine.devs */
	struct block_map *map;
	struct stream *stream;
	uint64_t frame_ns; /* so long a frame may take */
	uint8_t *buf;	   /* BLOCK_MAP_BYTES, 4096-aligned */
	/* Between two blocks; if not 0, the pass ends with it. */
	int (*between)(void *arg);
	void *arg;
	uint64_t *bytes; /* atomic: counts those of frames */
	uint64_t *left;	 /* atomic: less by what is done of the image; or NULL */
	bool fresh;	 /* the receiver's image has zeros wherever nothing was sent */
	uint64_t from;	 /* the blocks before this one do not go out yet, and are marked */
};

/* Everything: what is neither a hole nor zeros, and unless `fresh` runs of these. */
int disk_pass_all(const struct disk_pass *p);
/* What is marked. *ret_count: so many blocks. */
int disk_pass_marked(const struct disk_pass *p, uint64_t *ret_count);

/* For those who read images as well: a block of one into an aligned buffer; 0 or a negative errno.
 */
int disk_pass_read(int fd, uint8_t *buf, uint64_t off, uint32_t len);
bool disk_pass_is_zero(const uint8_t *buf, size_t len);
/*
 * Where the next data is: at off, or a block behind it; bytes: there is none. Blocks that are
 * reserved but were never written, as in a mirror, are holes only as long as no one reads them.
 */
uint64_t disk_pass_data(int fd, uint64_t off, uint64_t bytes);

#endif
