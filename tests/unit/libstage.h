/*
 * A secondary without /dev/kvm: memory, real devices with their tables, disks on files, a staging
 * area; and epochs made by hand, frame by frame, to be damaged in every way.
 */
#ifndef TESTS_LIBSTAGE_H
#define TESTS_LIBSTAGE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ft/epoch/stage.h"

#define RIG_MEM	       (2ull << 20)
#define RIG_PAGES      (RIG_MEM / MEM_PAGE_SIZE)
#define RIG_DISK       (1u << 20)
#define RIG_DISKLOG    (64u << 10) /* what the primary announced */
#define RIG_MAX_FRAMES 32

/* By index of machine.devs. */
enum { RIG_MIRROR, RIG_SHARED, RIG_RNG, RIG_MIRROR2, RIG_DEVS };

uint64_t rig_random(uint64_t *s);

/* One frame as it would come out of the stream. */
struct part {
	uint16_t type;
	uint64_t epoch;
	uint32_t length;
	uint8_t *data;
};

struct parts {
	unsigned n;
	struct part p[RIG_MAX_FRAMES];
};

/* All that a rejected message must leave as it was. */
struct image {
	uint8_t *ram, *pods, *disk[RIG_DEVS];
	size_t pods_len;
};

struct srig {
	struct loop loop;
	struct vm vm;
	struct diskapply disks;
	struct stage stage;
	struct machine *m;
	unsigned moved;
	char dir[64];
	struct image before;
};

/* For diskapply.moved; arg is the rig. */
void rig_moved(void *arg);
/* With RIG_MEM of memory, or as much as is said. What it needs and does not get aborts. */
void rig_start(struct srig *r);
void rig_start_with(struct srig *r, uint64_t mem_bytes);
void rig_end(struct srig *r);
/* Until the images have all. */
void rig_settle(struct srig *r);

/* --- what is now, and what was -----------------------------------------------------------------
 */

uint8_t *rig_read_disk(struct srig *r, unsigned i);
/* Remember everything. */
void rig_mark(struct srig *r);
/* Memory and state are as at rig_mark(), byte for byte, and nothing waits for an image. */
bool rig_has_old_state(struct srig *r);
/* So are the images. */
bool rig_is_unchanged(struct srig *r);

#define rig_check_ram_and_pods(r) assert_true(rig_has_old_state(r))
#define rig_check_unchanged(r)	  assert_true(rig_is_unchanged(r))

/* --- frames ------------------------------------------------------------------------------------
 */

struct part part_make(uint16_t type, uint64_t epoch, const void *data, size_t len);
struct part *parts_add(struct parts *ps, uint16_t type, uint64_t epoch, const void *data,
		       size_t len);
void parts_free(struct parts *ps);
void parts_copy(struct parts *to, const struct parts *from);
void parts_remove(struct parts *ps, unsigned at);
/* A copy of frame `from` right behind frame `at`. */
void parts_repeat(struct parts *ps, unsigned from, unsigned at);
void parts_swap(struct parts *ps, unsigned a, unsigned b);
/* First frame of a type. */
unsigned parts_find(const struct parts *ps, uint16_t type);
/*
 * Feed frames until one is not simply taken. Each lies in memory of exactly its size, so that
 * sanitizers see every byte read beyond it. The result of the last; *ret_at says which.
 */
int rig_feed(struct srig *r, const struct parts *ps, unsigned *ret_at, struct err *e);

/* The whole is refused with a reason, and nothing of it counts. */
#define rig_refuses(r, ps)                                                                         \
	do {                                                                                       \
		struct err e_;                                                                     \
		int res_ = rig_feed(r, ps, NULL, &e_);                                             \
                                                                                                   \
		if (res_ >= 0)                                                                     \
			print_error("%s:%d: not refused\n", __FILE__, __LINE__);                   \
		assert_int_equal(res_, -EBADMSG);                                                  \
		assert_true(e_.code == -EBADMSG && strlen(e_.msg) > 8);                            \
		stage_abort(&(r)->stage);                                                          \
		rig_check_ram_and_pods(r);                                                         \
	} while (0)
/* The same with these words in the reason. */
#define rig_refuses_with(r, ps, words)                                                             \
	do {                                                                                       \
		struct err why_;                                                                   \
                                                                                                   \
		assert_int_equal(rig_feed(r, ps, NULL, &why_), -EBADMSG);                          \
		if (!strstr(why_.msg, words))                                                      \
			fail_msg("'%s' without '%s'", why_.msg, words);                            \
		stage_abort(&(r)->stage);                                                          \
		rig_check_ram_and_pods(r);                                                         \
	} while (0)

/* --- a good epoch ------------------------------------------------------------------------------
 */

/* What an epoch does: pages [first, first + n) get new content, the disks a few changes. */
struct golden {
	uint64_t epoch, first, n;
	uint64_t seed;
};

void golden_page(const struct golden *g, uint64_t i, const uint8_t *old, uint8_t *out);
/* base: does the receiver hold the page (an epoch), or not (the first sync)? */
void golden_pages(struct srig *r, const struct golden *g, uint64_t epoch, bool base,
		  struct parts *ps);
void golden_disk_op(struct parts *ps, uint16_t type, uint64_t epoch, struct wire_disk w,
		    uint8_t fill);

#define GOLDEN_OPS 6u /* changes of disks */

/* The state of a primary whose registers are g->seed, encoded from the receiver's own pods. */
size_t golden_state(struct srig *r, const struct golden *g, uint8_t *buf, size_t cap);
void golden_epoch(struct srig *r, const struct golden *g, struct parts *ps);
/* Sync and first epoch, committed; the mark is set behind them. */
void rig_first_epoch(struct srig *r, uint64_t epoch);

#endif
