/*
 * Which blocks of a disk are in its overlay, and where: a tree of 64-way nodes, as deep as the disk
 * needs. In the place of a node stands nothing, a node, or "all zeros", so that a discard of a
 * whole disk costs a few words. Nodes are in memory of the map's own, up to a limit, and an empty
 * map is one store away, however much was in it. Owner: the loop.
 */
#ifndef DEVICES_OVERLAY_MAP_H
#define DEVICES_OVERLAY_MAP_H

#include <stdbool.h>
#include <stdint.h>

#define OVERLAY_BLOCK 4096u /* bytes */
#define OVERLAY_FAN   64u   /* blocks of a leaf */

/* Masks of its 512-byte sectors; none is in two of them. What is in none is not in the overlay. */
struct overlay_block {
	uint32_t page; /* of memory, when mem is not 0 */
	uint32_t slot; /* of the spill file, when spill is not 0 */
	uint8_t mem, spill, zero;
};

struct overlay_node {
	union {
		struct overlay_node *child[OVERLAY_FAN];
		struct overlay_block block[OVERLAY_FAN]; /* of a leaf */
	};
};

struct overlay_map {
	struct overlay_node *nodes; /* memory for max of them */
	uint32_t max, top, used;    /* those from top on were never used */
	struct overlay_node *free;
	struct overlay_node *root;
	struct overlay_node *last; /* leaf that was found last, or NULL */
	uint64_t last_at;	   /* its first block / OVERLAY_FAN */
	unsigned levels;	   /* of nodes above the leaves */
	struct overlay_node zeros; /* its address is the mark of zeros */
};

/* A part of the map, of one leaf or all zeros. */
struct overlay_part {
	uint64_t first, count; /* blocks */
	bool zeros;
};

/* Lets go of what a block has, before it becomes zeros. */
typedef void overlay_release_fn(void *arg, struct overlay_block *b);

/* For a disk of so many blocks, with at most max nodes. -ENOMEM, or 0. */
int overlay_map_init(struct overlay_map *m, uint64_t blocks, uint32_t max);
void overlay_map_done(struct overlay_map *m);
/* Empty; of the memory it had, keep nodes stay. */
void overlay_map_reset(struct overlay_map *m, uint32_t keep);
/* How many nodes a change of so many blocks (data) or of any number of them (zeros) may need. */
uint32_t overlay_map_need(const struct overlay_map *m, uint64_t blocks, bool zeros);
/* NULL: nothing of it is here. Good until the next change of the map. */
const struct overlay_block *overlay_map_find(struct overlay_map *m, uint64_t block);
/* The same to be changed, and there if it was not. The nodes that it needs are left. */
struct overlay_block *overlay_map_make(struct overlay_map *m, uint64_t block);
/* Whole blocks become zeros. The same holds. */
void overlay_map_zero(struct overlay_map *m, uint64_t first, uint64_t count, overlay_release_fn *fn,
		      void *arg);
/* The first part from a block on. False: there is none. */
bool overlay_map_next(struct overlay_map *m, uint64_t from, struct overlay_part *ret);

#endif
