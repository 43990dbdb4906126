/*
 * A disk with an overlay over a file, and a model of what its guest sees: requests that overlap are
 * served in the order of submit, so what a read gets is known when it is submitted. All I/O of
 * files may be parked, and let go of in any order, or fail.
 */
#ifndef TESTS_LIBOVERLAY_H
#define TESTS_LIBOVERLAY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/overlay_int.h"

#define OV_SECTOR 512u
#define OV_IMAGE  ((12u << 20) + 3 * OV_SECTOR) /* the last block is a part of one */
#define OV_REQS	  24u

struct ov_rig;

struct ov_req {
	struct disk_req r;
	struct ov_rig *rig;
	uint8_t *want; /* READ: what it is to get */
	bool *quiet;   /* FLUSH: sectors of which no change was under way */
	bool done, under_way, dropped;
	int res;
	uint64_t seq, synced;
};

struct ov_rig {
	struct loop loop;
	char path[64];
	struct disk d;
	struct overlay *ov;
	uint8_t *ref, *image; /* what the guest sees, and what was in the image at the last drop */
	uint64_t *changed;    /* for each sector: the change that was submitted last */
	bool *unknown;	      /* a change failed */
	struct ov_req reqs[OV_REQS];
	uint64_t seq, checked;
	unsigned fulls, merges;
	unsigned owns, own_sectors; /* reads, and their sectors, that were told to be its own */
	unsigned own_wrong;	    /* of these, with other bytes than it wrote */
	int merge_err;
	uint64_t seed;
};

/* Of 1000 reads and writes of files so many are parked. */
extern unsigned ov_park;
extern unsigned ov_parked;
extern uint64_t ov_syncs;
/* Writes of merges at or behind this byte fail, and writes to the spill file, and flushes. */
extern uint64_t ov_fail_from;
extern bool ov_fail_spill, ov_fail_sync;
extern bool ov_no_tmpfile; /* as where the file system knows none */

uint64_t ov_random(struct ov_rig *r, uint64_t n);
void ov_open(struct ov_rig *r, uint64_t seed);
/* Limits in bytes. */
void ov_attach(struct ov_rig *r, uint64_t mem, uint64_t spill);
void ov_close(struct ov_rig *r);
/* Let go of one parked operation, or of all of them. */
void ov_release(struct ov_rig *r);
void ov_release_all(void);
/* A free request, or NULL. */
struct ov_req *ov_free_req(struct ov_rig *r);
/* As the model has it; a write of random bytes. */
void ov_submit(struct ov_rig *r, struct ov_req *q, enum disk_op kind, uint64_t off, uint32_t len);
void ov_forget(struct ov_req *q);
int ov_run(struct ov_rig *r, enum disk_op kind, uint64_t off, uint32_t len);
void ov_drop(struct ov_rig *r);
void ov_merge(struct ov_rig *r);
/* The image has what the guest sees, or had at the last drop. */
void ov_check_image(struct ov_rig *r, const uint8_t *want);

#define ov_until(r, cond)                                                                          \
	do {                                                                                       \
		for (int left_ = 9000; !(cond) && left_; left_--)                                  \
			loop_run_once(&(r)->loop, 10000000);                                       \
		assert_true(cond);                                                                 \
	} while (0)

/* What is ready is done, and what that makes ready. */
void ov_settle(struct ov_rig *r);

#endif
