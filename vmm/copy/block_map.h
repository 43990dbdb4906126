/*
 * Which blocks of an image were changed since they were sent. Whoever changes the image marks when
 * the change is in it (the loop, as disk_hook.done); whoever sends takes the mark first, then
 * reads: what comes after the read has its mark still. Any threads.
 */
#ifndef VMM_BLOCK_MAP_H
#define VMM_BLOCK_MAP_H

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_MAP_BYTES 65536u

/* {0} is none. */
struct block_map {
	uint64_t *bits; /* atomic */
	uint64_t nblocks;
};

/* For an image of so many bytes, nothing marked. -ENOMEM, or 0. */
int block_map_init(struct block_map *m, uint64_t bytes);
void block_map_done(struct block_map *m);
/* All blocks of a range inside the image, len > 0. */
void block_map_mark(struct block_map *m, uint64_t off, uint64_t len);
/* True when it was marked; it is not any more. */
bool block_map_take(struct block_map *m, uint64_t block);
/* The first marked one from there on, or nblocks. */
uint64_t block_map_next(const struct block_map *m, uint64_t block);
uint64_t block_map_count(const struct block_map *m);

#endif
