/*
 * The parts of an overlay: the map (overlay_map.h), the store of blocks (overlay_store.c), requests
 * (overlay.c), the merge (overlay_merge.c).
 */
#ifndef DEVICES_OVERLAY_INT_H
#define DEVICES_OVERLAY_INT_H

#include "devices/overlay.h"
#include "devices/overlay_map.h"

#define OVERLAY_SECTOR 512u
#define SPILL_OPS      4u  /* under way at once */
#define SPILL_PAGES    64u /* of one */
#define MERGE_RUNS     4u
#define MERGE_ZERO_MAX (64u << 20) /* bytes of one request */

/* Which of n things are in use. */
struct overlay_bits {
	uint64_t *words;
	uint32_t n, used, hint;
};

struct overlay_page {
	uint64_t block; /* OVERLAY_GONE: was let go of while it was written out */
	bool busy;	/* being written out */
	bool again;	/* changed meanwhile */
};

#define OVERLAY_GONE UINT64_MAX

struct spill_op {
	struct loop_op io;
	struct overlay *ov;
	uint32_t page, slot, n, pos; /* pos: bytes */
	bool busy;
	bool stale; /* of before a drop: only its slots count */
};

struct overlay_store {
	uint8_t *mem; /* a page for each bit of pages */
	struct overlay_page *page;
	struct overlay_bits pages, slots;
	int fd;				 /* of the spill file, or -1 */
	int error;			 /* it failed: nothing goes there until a drop */
	uint32_t hand, touched, leaving; /* page to look at next, pages ever used, being written */
	bool stuck; /* the hand went round and found nothing, since when nothing came */
	struct spill_op ops[SPILL_OPS];
};

enum overlay_state {
	OVERLAY_COLLECT,
	OVERLAY_MERGE,
	OVERLAY_FLUSH, /* all of it is in the image, which is being flushed */
	OVERLAY_FAILED,
	OVERLAY_END
};

enum run_state { RUN_FREE, RUN_ENTER, RUN_FETCH, RUN_WRITE, RUN_DONE };

/* A part of the map on its way to the image. Until it is there nobody else is in its range. */
struct merge_run {
	struct overlay *ov;
	enum run_state state;
	struct overlay_part part;
	struct disk_req range, io;
	struct loop_op op;
	uint8_t *buf;				      /* of a leaf */
	uint8_t data[OVERLAY_FAN], zero[OVERLAY_FAN]; /* masks: what of it goes there */
	uint32_t pos;
	int res;
};

/*
 * Of the blocks of the disk, those before `at` are in the image. From there to `cursor` they are
 * part of a run, or not here. The rest is here if the map says so.
 */
struct overlay_merge {
	uint64_t at, cursor;
	struct disk under; /* the image */
	struct merge_run runs[MERGE_RUNS];
	unsigned first, count; /* runs in use: a ring */
	struct disk_req flush;
	struct disk_req *waiting, **waiting_tail; /* flushes of the guest */
	struct loop_work work;
	bool flushed;
	int error;
	void (*done)(void *arg, int err);
	void *arg;
};

struct overlay {
	struct disk *disk;
	struct disk_layer layer;
	struct overlay_limits limits;
	struct overlay_map map;
	struct overlay_store store;
	struct overlay_merge merge;
	enum overlay_state state;
	bool waits; /* a request waits for room */
	bool full_told;
	struct loop_work full;
	uint64_t reads, sectors, writes, drops;
};

/* overlay_store.c */

int store_init(struct overlay *ov, struct err *e);
void store_reset(struct overlay *ov);
/* True: something is at the kernel, and the memory stays. */
bool store_done(struct overlay *ov);
bool store_is_writing(const struct overlay_store *st);
uint64_t store_bytes(const struct overlay *ov);
/* Do so many pages and nodes more fit? */
bool store_has_room(const struct overlay *ov, uint64_t pages, uint64_t nodes);
/* Have pages written out, as far as memory is short. */
void store_spill(struct overlay *ov);
static inline uint8_t *store_page(const struct overlay_store *st, uint32_t page)
{
	return st->mem + (uint64_t)page * OVERLAY_BLOCK;
}
/* Sectors that are in no other mask, of a block that is in the map; there is room. */
void store_put(struct overlay *ov, uint64_t block, struct overlay_block *b, uint8_t mask,
	       const uint8_t *bytes);
void store_forget(struct overlay *ov, struct overlay_block *b, uint8_t mask);

/* overlay_fetch.c */

const struct overlay_block *overlay_find(struct overlay *ov, uint64_t block);
/* How many sectors of a range are here. */
uint32_t overlay_count(struct overlay *ov, uint64_t off, uint32_t len);
/*
 * Copy what is here of a range over buf, from *pos on. 0: done. 1: op reads the spill file, and its
 * fn goes on with overlay_fetched(). Or a negative errno.
 */
int overlay_fetch(struct overlay *ov, uint64_t off, uint32_t len, uint8_t *buf, uint32_t *pos,
		  struct loop_op *op);
/* A negative errno, or 0: go on. */
int overlay_fetched(uint32_t *pos, int res);

/* overlay.c */

/* There may be room again, or the image takes what waits. */
void overlay_go_on(struct overlay *ov);

/* overlay_merge.c */

void merge_init(struct overlay *ov);
/* True: something is at the kernel, and the memory stays. */
bool merge_done(struct overlay *ov);
void merge_go_on(struct overlay *ov);
/* r, a flush of the guest during a merge, is answered at its end. */
void merge_wait(struct overlay *ov, struct disk_req *r);

#endif
