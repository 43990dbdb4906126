/*
 * In what blocks an image is read and written: what a guest is told of it, and what the kernel
 * takes. Any thread.
 */
#ifndef DEVICES_DISK_BLOCK_H
#define DEVICES_DISK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

struct disk_block {
	uint32_t logical;  /* a guest's unit: 512 of a file, of a block device its own */
	uint32_t physical; /* a write of less, or across, makes the medium read first */
	uint32_t align;	   /* requests of other multiples the kernel refuses; at least 512 */
};

/* fd: a file or block device, opened with O_DIRECT or not. Errors name path and what to do. */
int disk_block_of(int fd, bool direct, const char *path, struct disk_block *ret, struct err *e);
/* Is an image of so many bytes made of whole blocks, and of some? If not e says what to do. */
int disk_block_divides(const char *path, uint64_t bytes, uint32_t block, struct err *e);
/* Of an open() with O_DIRECT that failed with r, a negative errno: why, and what to do. */
int disk_block_no_direct(const char *path, int r, struct err *e);

#endif
