/* A change of a disk on the wire, and a part of an image: little-endian, without padding holes. */
#ifndef VMM_DISK_WIRE_H
#define VMM_DISK_WIRE_H

#include <stdint.h>

/* FRAME_DISK (a copy of an image) and entries of FRAME_DISKLOG; `data` bytes follow. */
struct wire_disk {
	uint32_t disk; /* index in machine.devs */
	uint32_t kind; /* enum disk_op; in a copy: DISK_WRITE, DISK_ZERO or DISK_FLUSH */
	uint64_t off;
	uint32_t len;  /* bytes concerned */
	uint32_t data; /* bytes that follow: len for a write, else 0 */
};

#define WIRE_SUMS_MAX 512u /* of blocks, in one frame */
#define WIRE_ZEROS_MAX                                                                             \
	(1u << 14) /* blocks of zeros, likewise: 1 GiB, which the receiver may have to read */
#define WIRE_DIFFER_MAX 256u

/* Blocks of an image, of BLOCK_MAP_BYTES; the last one may be shorter. */
struct wire_blocks {
	uint64_t block; /* the first */
	uint64_t blocks;
};

/* FRAME_SUMS: what the sender's image has there; `count` sums of 8 bytes follow. */
struct wire_sums {
	uint32_t disk;	/* index in machine.devs */
	uint32_t count; /* one for each block, or 0: they are zeros */
	struct wire_blocks where;
};

/* FRAME_DIFFER: the answer to each; `count` struct wire_blocks follow, inside of where. */
struct wire_differ {
	uint32_t disk;
	uint32_t count;
	struct wire_blocks where;
};

#endif
