/* The primary's disks: marks while syncing, the switch, the log in its order and within its bound.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "ft/epoch/disklog.h"

#define BLOCKS 65 /* one more than a word of marks has */
#define IMAGE  (BLOCKS * BLOCK_MAP_BYTES)
#define LIMIT  ((64u << 10) + 2 * sizeof(struct disk_write))
#define REQS   32u

enum { MIRROR, SHARED, MIRROR2, DISKS };

struct req {
	struct disk_req req;
	uint8_t *buf;
	bool done;
};

static struct loop loop;
static struct machine machine;
static struct disk disks[MACHINE_MAX_DEVS];
static struct disklog dl;
static struct req reqs[REQS];
static unsigned nreqs, switched;

static int setup(void **state)
{
	static const enum disk_ft ft[DISKS] = {DISK_FT_MIRROR, DISK_FT_SHARED, DISK_FT_MIRROR};

	assert_int_equal(loop_init(&loop, NULL), 0);
	memset(&machine, 0, sizeof(machine));
	machine.ndevs = DISKS;
	for (unsigned i = 0; i < DISKS; i++) {
		char path[] = "/tmp/disklog-test-XXXXXX";
		int fd = mkstemp(path);

		assert_true(fd >= 0 && !ftruncate(fd, IMAGE));
		close(fd);
		machine.devs[i] = (struct mdev){.kind = MDEV_BLK, .bytes = IMAGE, .ft = ft[i]};
		assert_int_equal(disk_open(&disks[i], &loop, "d", path, 0, NULL), 0);
		unlink(path);
	}
	for (unsigned i = 0; i < REQS; i++)
		reqs[i].buf = aligned_alloc(4096, 4 * BLOCK_MAP_BYTES);
	nreqs = switched = 0;
	assert_int_equal(disklog_start(&dl, &loop, &machine, disks, LIMIT, NULL), 0);
	return 0;
}

static void turn(void)
{
	loop_run_once(&loop, 1000000);
}

static void settle(void)
{
	for (unsigned i = 0; i < nreqs; i++)
		for (int left = 10000; !reqs[i].done && left; left--)
			turn();
}

static int teardown(void **state)
{
	disklog_stop(&dl);
	disklog_stop(&dl);
	settle();
	for (unsigned i = 0; i < DISKS; i++)
		disk_close(&disks[i]);
	for (unsigned i = 0; i < REQS; i++)
		free(reqs[i].buf);
	loop_done(&loop);
	return 0;
}

static void req_done(struct disk_req *r, int res)
{
	((struct req *)r->arg)->done = true;
	assert_true(res == 0 || res == -ECANCELED);
}

static struct req *submit(unsigned disk, enum disk_op kind, uint64_t off, uint32_t len)
{
	struct req *r = &reqs[nreqs++];

	assert_true(nreqs <= REQS);
	memset(r->buf, (int)nreqs, kind == DISK_WRITE ? len : 0);
	r->done = false;
	r->req = (struct disk_req){
		.kind = kind, .off = off, .len = len, .buf = r->buf, .done = req_done, .arg = r};
	disk_submit(&disks[disk], &r->req);
	return r;
}

static void is_on(void *arg)
{
	switched++;
	assert_int_equal(dl.mode, DISKLOG_LOG);
}

static void switch_on(void)
{
	disklog_switch(&dl, is_on, NULL);
	for (int left = 10000; !switched && left; left--)
		turn();
	assert_int_equal(switched, 1);
}

/* The marks of a disk, from block 0 on, as digits; they are taken. */
static const char *marks(unsigned disk, unsigned n)
{
	static char text[BLOCKS + 1];

	for (unsigned b = 0; b < n; b++)
		text[b] = block_map_take(&dl.maps[disk], b) ? '1' : '0';
	text[n] = 0;
	return text;
}

/* --- marks ------------------------------------------------------------------------------------ */

/* Whoever takes the mark of the submission may read the block before the data is there. */
static void marked_when_begun_and_when_done(void **state)
{
	static const enum disk_op kinds[] = {DISK_WRITE, DISK_ZERO, DISK_DISCARD};

	for (unsigned i = 0; i < 3; i++) {
		submit(MIRROR, kinds[i], 0, 4096);
		assert_true(block_map_take(&dl.maps[MIRROR], 0));
		assert_false(block_map_take(&dl.maps[MIRROR], 0));
		settle();
		assert_true(block_map_take(&dl.maps[MIRROR], 0));
		assert_false(block_map_take(&dl.maps[MIRROR], 0));
	}
}

static void every_block_that_is_touched(void **state)
{
	submit(MIRROR, DISK_WRITE, BLOCK_MAP_BYTES - 512, 1024);	      /* 0, 1 */
	submit(MIRROR, DISK_WRITE, 3 * BLOCK_MAP_BYTES, 3 * BLOCK_MAP_BYTES); /* 3 to 5 */
	submit(MIRROR, DISK_WRITE, 8 * BLOCK_MAP_BYTES - 512, 512);	      /* 7 */
	submit(MIRROR, DISK_FLUSH, 0, 0);				      /* none */
	submit(MIRROR, DISK_READ, 10 * BLOCK_MAP_BYTES, 512);		      /* none */
	submit(MIRROR2, DISK_WRITE, IMAGE - 512, 512);			      /* the other's last */
	submit(SHARED, DISK_WRITE, 0, 512);				      /* nobody's */
	assert_string_equal(marks(MIRROR, 12), "110111010000");
	assert_string_equal(strchr(marks(MIRROR2, BLOCKS), '1'), "1");
	settle();
	assert_string_equal(marks(MIRROR, 12), "110111010000");
	assert_null(dl.disks[SHARED]);
	assert_int_equal(dl.open.count, 0);
}

/* Marks are set by words of 64. */
static void every_block_of_a_long_one(void **state)
{
	char all[BLOCKS + 1] = {0};

	submit(MIRROR, DISK_DISCARD, 62 * BLOCK_MAP_BYTES + 512, 3 * BLOCK_MAP_BYTES - 512);
	assert_string_equal(marks(MIRROR, BLOCKS) + 60, "00111");
	settle();
	marks(MIRROR, BLOCKS);
	submit(MIRROR, DISK_DISCARD, 0, 64 * BLOCK_MAP_BYTES);
	assert_string_equal(marks(MIRROR, BLOCKS) + 60, "11110");
	submit(MIRROR2, DISK_ZERO, 0, IMAGE);
	assert_string_equal(marks(MIRROR2, BLOCKS), memset(all, '1', BLOCKS));
	settle();
}

/* --- the switch ------------------------------------------------------------------------------- */

/* Each write is wholly before it, and marked, or wholly after it, and logged. */
static void nothing_is_in_flight_at_the_switch(void **state)
{
	struct req *before = submit(MIRROR, DISK_WRITE, 0, 512), *after;

	disklog_switch(&dl, is_on, NULL);
	after = submit(MIRROR, DISK_WRITE, 2 * BLOCK_MAP_BYTES, 512);
	submit(MIRROR2, DISK_WRITE, 0, 512);
	assert_int_equal(disks[MIRROR].inflight, 1);
	assert_int_equal(disks[MIRROR2].inflight, 0);
	for (int left = 10000; !switched && left; left--) {
		assert_int_equal(dl.mode, DISKLOG_BITMAP);
		assert_false(after->done);
		turn();
	}
	assert_int_equal(switched, 1);
	assert_true(before->done);
	settle();
	assert_true(after->done);
	assert_string_equal(marks(MIRROR, 4), "1000");
	assert_string_equal(marks(MIRROR2, 4), "0000");
	assert_int_equal(dl.open.count, 2);
	/* Not said twice. */
	turn();
	assert_int_equal(switched, 1);
}

/* However long that one takes. */
static void the_switch_waits(void **state)
{
	disks[MIRROR2].inflight++;
	disklog_switch(&dl, is_on, NULL);
	for (int i = 0; i < 20; i++)
		turn();
	assert_int_equal(switched, 0);
	assert_true(disks[MIRROR].held && disks[MIRROR2].held);
	disks[MIRROR2].inflight--;
	for (int left = 10000; !switched && left; left--)
		turn();
	assert_int_equal(switched, 1);
	assert_false(disks[MIRROR].held || disks[MIRROR2].held);
}

static void stopped_in_the_middle_of_it(void **state)
{
	struct req *r;

	submit(MIRROR, DISK_WRITE, 0, 512);
	disklog_switch(&dl, is_on, NULL);
	r = submit(MIRROR, DISK_WRITE, BLOCK_MAP_BYTES, 512);
	disklog_stop(&dl);
	settle();
	assert_true(r->done);
	assert_int_equal(switched, 0);
	assert_null(disks[MIRROR].hook.submit);
}

/* --- the log ---------------------------------------------------------------------------------- */

static void the_log_is_in_order(void **state)
{
	static const struct wire_disk want[] = {
		{MIRROR, DISK_WRITE, 512, 1024, 1024},
		{MIRROR2, DISK_ZERO, 0, 4096, 0},
		{MIRROR, DISK_FLUSH, 0, 0, 0},
		{MIRROR, DISK_WRITE, 8192, 512, 512},
		{MIRROR2, DISK_DISCARD, 65536, 65536, 0},
	};
	struct disk_writes log;
	unsigned i = 0;

	switch_on();
	for (; i < 5; i++)
		submit(want[i].disk, (enum disk_op)want[i].kind, want[i].off, want[i].len);
	submit(SHARED, DISK_WRITE, 0, 512);
	memset(reqs[0].buf, 99, 1024); /* too late to change it */
	assert_int_equal(disklog_cut(&dl, &log), 0);
	assert_int_equal(log.count, 5);
	assert_int_equal(log.bytes, 5 * sizeof(struct disk_write) + 1024 + 512);
	i = 0;
	for (const struct disk_write *w = log.head; w; w = w->next, i++) {
		assert_memory_equal(&w->wire, &want[i], sizeof(w->wire));
		for (uint32_t b = 0; b < w->wire.data; b++)
			assert_int_equal(w->data[b], i + 1);
	}
	/* What comes now is the next one's; no block is marked any more. */
	submit(MIRROR, DISK_WRITE, 0, 512);
	assert_int_equal(dl.open.count, 1);
	settle();
	assert_string_equal(marks(MIRROR, 4), "0000");
	assert_int_equal(dl.bytes, log.bytes + dl.open.bytes);
	disklog_free(&dl, &log);
	turn();
	assert_int_equal(dl.bytes, dl.open.bytes);
	assert_int_equal(log.count | log.bytes, 0);
	assert_int_equal(disklog_cut(&dl, &log), 0);
	assert_int_equal(log.count, 1);
	disklog_free(&dl, &log);
	assert_int_equal(disklog_cut(&dl, &log), 0);
	assert_null(log.head);
}

static uint64_t slow_clock(void)
{
	static uint64_t now;

	return now += LOOP_BUDGET_NS; /* whatever was done, the turn is over */
}

/* However long it is, the loop looks at its events meanwhile. What is not free yet counts. */
static void a_log_is_freed_in_turns(void **state)
{
	struct disk_writes log, more;

	switch_on();
	for (unsigned i = 0; i < 3; i++)
		submit(MIRROR, DISK_WRITE, i * 512, 512);
	assert_int_equal(disklog_cut(&dl, &log), 0);
	submit(MIRROR, DISK_WRITE, 8192, 1024);
	assert_int_equal(disklog_cut(&dl, &more), 0);
	assert_int_equal(more.count, 1);
	settle();
	loop.clock = slow_clock;
	disklog_free(&dl, &log);
	assert_int_equal(log.count | log.bytes, 0);
	for (unsigned left = 3; left; left--) {
		assert_int_equal(dl.bytes, more.bytes + left * (sizeof(struct disk_write) + 512));
		turn();
	}
	assert_int_equal(dl.bytes, more.bytes);
	disklog_free(&dl, &more); /* a stop leaves nothing */
}

/* At the bound the guest waits, until half of it is free. */
static void at_the_bound_the_guest_waits(void **state)
{
	struct disk_writes first, second;
	struct req *held;

	switch_on();
	submit(MIRROR, DISK_WRITE, 0, 40 << 10);
	assert_int_equal(disklog_cut(&dl, &first), 0);
	submit(MIRROR2, DISK_WRITE, 0, 24 << 10);
	assert_int_equal(dl.bytes, LIMIT);
	assert_false(dl.full); /* not yet */
	submit(MIRROR, DISK_FLUSH, 0, 0);
	assert_true(dl.full);
	held = submit(MIRROR2, DISK_WRITE, 0, 512);
	for (int i = 0; i < 20; i++)
		turn();
	assert_false(held->done);
	assert_int_equal(disklog_cut(&dl, &second), 0);
	assert_int_equal(second.count, 2); /* what waits is not in it */
	disklog_free(&dl, &second);
	turn();
	assert_true(dl.full); /* 40 K of 64 K */
	disklog_free(&dl, &first);
	turn();
	assert_false(dl.full);
	settle();
	assert_true(held->done);
	assert_int_equal(dl.open.count, 1);
}

/* --- a peer that is behind -------------------------------------------------------------------- */

/* In log mode, too, it is told twice of each. */
static void what_another_peer_lacks(void **state)
{
	struct block_map lacks[MACHINE_MAX_DEVS] = {0};
	struct req *r;

	assert_int_equal(block_map_init(&lacks[MIRROR], IMAGE), 0);
	switch_on();
	dl.lacks = lacks;
	r = submit(MIRROR, DISK_WRITE, BLOCK_MAP_BYTES, 512);
	assert_true(block_map_take(&lacks[MIRROR], 1));
	assert_int_equal(block_map_count(&lacks[MIRROR]), 0);
	settle();
	assert_true(r->done);
	assert_true(block_map_take(&lacks[MIRROR], 1));
	submit(MIRROR, DISK_FLUSH, 0, 0);
	settle();
	assert_int_equal(block_map_count(&lacks[MIRROR]), 0);
	assert_int_equal(dl.open.count, 2);
	assert_string_equal(marks(MIRROR, 4), "0000"); /* nothing is left of the switch */
	dl.lacks = NULL;
	block_map_done(&lacks[MIRROR]);
}

static void count(void *arg)
{
	++*(unsigned *)arg;
}

/* Until it is told to go on, whoever else would let the disks go. */
static void held_as_long_as_it_is_wanted(void **state)
{
	unsigned still = 0;
	struct req *before, *after;
	struct disk_writes log;

	switch_on();
	before = submit(MIRROR, DISK_WRITE, 0, 2 * BLOCK_MAP_BYTES); /* above the bound */
	assert_true(dl.full);
	disklog_hold(&dl, count, &still);
	after = submit(MIRROR2, DISK_WRITE, 0, 512);
	for (int left = 10000; !still && left; left--)
		turn();
	assert_true(before->done);
	assert_int_equal(disklog_cut(&dl, &log), 0);
	disklog_free(&dl, &log);
	for (int i = 0; i < 20; i++)
		turn();
	assert_int_equal(still, 1);
	assert_false(dl.full || after->done);
	disklog_go_on(&dl);
	settle();
	assert_true(after->done);
}

/* Given up before it came to that: not said any more. And at the bound they wait all the same. */
static void not_held_any_more(void **state)
{
	unsigned still = 0;
	struct req *after;

	switch_on();
	disks[MIRROR2].inflight++;
	disklog_hold(&dl, count, &still);
	submit(MIRROR, DISK_WRITE, 0, 512);
	disklog_go_on(&dl);
	disklog_go_on(&dl);
	disks[MIRROR2].inflight--;
	settle();
	assert_int_equal(still, 0);
	submit(MIRROR, DISK_WRITE, 0, 2 * BLOCK_MAP_BYTES);
	settle();
	disklog_hold(&dl, count, &still);
	after = submit(MIRROR, DISK_WRITE, 0, 512);
	disklog_go_on(&dl);
	for (int i = 0; i < 20; i++)
		turn();
	assert_true(dl.full);
	assert_false(after->done);
}

static void stopped_when_it_is_full(void **state)
{
	struct req *held;

	switch_on();
	submit(MIRROR, DISK_WRITE, 0, 2 * BLOCK_MAP_BYTES);
	held = submit(MIRROR, DISK_WRITE, 0, 512);
	assert_true(dl.full && disks[MIRROR].inflight == 1);
	disklog_stop(&dl);
	settle();
	assert_true(held->done);
}

/* A change that is not in the log is not acknowledged by anybody. */
static void without_memory_there_is_no_epoch(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip(); /* their allocators do not fail */
#else
	struct rlimit was, none;
	struct disk_writes log;
	struct req *r = &reqs[0];

	switch_on();
	free(r->buf);
	r->buf = aligned_alloc(4096, IMAGE); /* more than malloc() has without asking the kernel */
	assert_non_null(r->buf);
	assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
	none = (struct rlimit){0, was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	submit(MIRROR, DISK_WRITE, 0, IMAGE);
	assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
	submit(MIRROR, DISK_WRITE, 0, 512);
	assert_int_equal(disklog_cut(&dl, &log), -ENOMEM);
	assert_int_equal(disklog_cut(&dl, &log), -ENOMEM);
	settle();
#endif
}

/* --- lists ------------------------------------------------------------------------------------ */

static void lists(void **state)
{
	struct disk_writes a = {0}, b = {0};
	struct wire_disk w = {.disk = 1, .kind = DISK_WRITE, .len = 512, .data = 512};
	uint8_t data[512] = {5};
	struct disk_write *one;

	disk_writes_move(&a, &b); /* nothing to nothing */
	for (w.off = 0; w.off < 5 * 512; w.off += 512)
		assert_int_equal(disk_writes_add(w.off < 1024 ? &a : &b, &w, data), 0);
	assert_true(a.count == 2 && b.count == 3);
	disk_writes_move(&a, &b);
	assert_true(!b.head && !b.last && !b.count && !b.bytes);
	disk_writes_move(&a, &b);
	assert_int_equal(a.count, 5);
	assert_int_equal(a.bytes, 5 * (sizeof(*one) + 512));
	disk_writes_move(&b, &a);
	for (uint64_t off = 0; off < 5 * 512; off += 512) {
		one = disk_writes_pop(&b);
		assert_int_equal(one->wire.off, off);
		assert_memory_equal(one->data, data, 512);
		free(one);
	}
	assert_true(!b.head && !b.last && !b.count && !b.bytes);
	assert_int_equal(disk_writes_add(&b, &w, data), 0);
	disk_writes_free(&b);
	disk_writes_free(&b);
	assert_true(!b.head && !b.last && !b.count && !b.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(marked_when_begun_and_when_done),
		T(every_block_that_is_touched),
		T(every_block_of_a_long_one),
		T(nothing_is_in_flight_at_the_switch),
		T(the_switch_waits),
		T(stopped_in_the_middle_of_it),
		T(the_log_is_in_order),
		T(a_log_is_freed_in_turns),

		T(at_the_bound_the_guest_waits),
		T(what_another_peer_lacks),
		T(held_as_long_as_it_is_wanted),
		T(not_held_any_more),
		T(stopped_when_it_is_full),
		T(without_memory_there_is_no_epoch),
		T(lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
