/* An overlay, case by case: where requests go, what waits for what, limits, drop and merge. */
#define _GNU_SOURCE
#include "tests/unit/liboverlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/liblog.h"

#define MB (1u << 20)

static int setup(void **state)
{
	struct ov_rig *r = malloc(sizeof(*r));

	ov_open(r, 7);
	ov_attach(r, OVERLAY_MEM_MIN, 4 * MB);
	logged_reset();
	*state = r;
	return 0;
}

static int setup_no_file(void **state)
{
	struct ov_rig *r = malloc(sizeof(*r));

	ov_open(r, 7);
	ov_attach(r, OVERLAY_MEM_MIN, 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	ov_close(*state);
	free(*state);
	return 0;
}

static struct ov_req *submit(struct ov_rig *r, enum disk_op kind, uint64_t off, uint32_t len)
{
	struct ov_req *q = ov_free_req(r);

	assert_non_null(q);
	ov_submit(r, q, kind, off, len);
	return q;
}

static void merged(struct ov_rig *r)
{
	ov_merge(r);
	ov_until(r, r->merges);
	assert_int_equal(r->merge_err, 0);
	ov_check_image(r, r->ref);
}

static struct overlay_stats stats(const struct ov_rig *r)
{
	struct overlay_stats s;

	overlay_get_stats(r->ov, &s);
	return s;
}

static void the_image_stays(void **state)
{
	struct ov_rig *r = *state;

	assert_int_equal(ov_run(r, DISK_READ, 0, MB), 0);
	assert_int_equal(stats(r).reads, 0);
	assert_int_equal(ov_run(r, DISK_WRITE, 512, 8192), 0);
	assert_int_equal(ov_run(r, DISK_ZERO, 1024, 512), 0);
	assert_int_equal(ov_run(r, DISK_DISCARD, 3 * MB - 512, 2 * MB + 1024), 0);
	assert_int_equal(ov_run(r, DISK_WRITE, OV_IMAGE - 512, 512), 0);
	assert_int_equal(ov_run(r, DISK_READ, 0, MB), 0);
	assert_int_equal(stats(r).reads, 1);
	assert_int_equal(stats(r).sectors, 16);
	assert_int_equal(stats(r).blocks, 4);
	assert_int_equal(ov_run(r, DISK_READ, 2 * MB, 1 * MB), 0);
	assert_int_equal(ov_run(r, DISK_READ, OV_IMAGE - 4096, 4096), 0);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), 0);
	assert_int_equal(ov_syncs, 0);
	ov_check_image(r, r->image);
	ov_drop(r);
	assert_int_equal(stats(r).blocks, 0);
	assert_int_equal(stats(r).bytes, 0);
	for (uint64_t at = 0; at + MB <= OV_IMAGE; at += MB)
		assert_int_equal(ov_run(r, DISK_READ, at, MB), 0);
	assert_int_equal(stats(r).reads, 3);
	ov_check_image(r, r->image);
	assert_int_equal(ov_run(r, DISK_WRITE, 0, MB + 512), -EINVAL);
}

/* A block that was found last is not found after a drop. */
static void nothing_leaks_over_a_drop(void **state)
{
	struct ov_rig *r = *state;

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ov_run(r, DISK_WRITE, i * 4096, 4096), 0);
		ov_drop(r);
		assert_int_equal(ov_run(r, DISK_READ, i * 4096, 4096), 0);
	}
	assert_int_equal(stats(r).drops, 3);
}

/* A write that comes while the image is read for one before it waits; others do not. */
static void reads_are_as_of_submit(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *read, *write, *other;

	ov_park = 1000;
	read = submit(r, DISK_READ, 0, 65536);
	other = submit(r, DISK_WRITE, 65536, 4096);
	write = submit(r, DISK_WRITE, 4096, 4096);
	ov_settle(r);
	assert_true(other->done);
	assert_true(!read->done && !write->done);
	ov_release_all();
	ov_until(r, write->done);
	assert_true(read->done);
	ov_park = 0;
	assert_int_equal(ov_run(r, DISK_READ, 0, 65536), 0);
}

/* Nothing of the overlay waits for the image. */
static void served_while_the_image_hangs(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *read, *flush;

	assert_int_equal(ov_run(r, DISK_WRITE, 0, 8192), 0);
	ov_park = 1000;
	submit(r, DISK_READ, MB, 4096);
	read = submit(r, DISK_READ, 512, 4096);
	flush = submit(r, DISK_FLUSH, 0, 0);
	ov_settle(r);
	assert_true(read->done && flush->done);
	assert_int_equal(ov_parked, 1);
}

static void fill_up(struct ov_rig *r)
{
	while (!r->fulls) {
		struct ov_req *q = submit(r, DISK_WRITE, r->seq % 11 * MB, MB);

		ov_until(r, q->done || r->fulls);
	}
}

static void full_until_a_drop(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *w, *read;

	for (unsigned i = 0; i < 2; i++) {
		fill_up(r);
		w = submit(r, DISK_WRITE, 0, 512);
		read = submit(r, DISK_READ, MB, 512);
		ov_settle(r);
		assert_int_equal(r->fulls, 1); /* once */
		assert_true(!w->done && !read->done);
		ov_check_image(r, r->image);
		assert_true(stats(r).bytes <= OVERLAY_MEM_MIN);
		assert_true(stats(r).spilled <= 1024);
		ov_drop(r);
		assert_int_equal(w->res, -ECANCELED);
		assert_int_equal(read->res, -ECANCELED);
		assert_int_equal(ov_run(r, DISK_READ, 0, MB), 0);
		assert_int_equal(stats(r).blocks, 0);
		assert_int_equal(ov_run(r, DISK_WRITE, 0, MB), 0);
		assert_int_equal(ov_run(r, DISK_READ, 0, MB), 0);
		ov_drop(r);
	}
}

static void full_until_a_merge(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *a, *b;

	fill_up(r);
	a = submit(r, DISK_WRITE, 0, MB);
	b = submit(r, DISK_WRITE, 512, 4096);
	ov_settle(r);
	assert_true(!a->done && !b->done);
	merged(r);
	ov_until(r, a->done && b->done);
	assert_int_equal(a->res, 0);
	assert_int_equal(b->res, 0);
	ov_check_image(r, r->ref);
}

static void a_file_that_fails(void **state)
{
	struct ov_rig *r = *state;

	ov_fail_spill = true;
	fill_up(r);
	assert_int_equal(stats(r).spilled, 0);
	assert_int_equal(logged("memory is all it has until the next checkpoint"), 1);
	ov_drop(r);
	ov_fail_spill = false;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, i * MB, MB), 0);
	ov_until(r, stats(r).spilled);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(ov_run(r, DISK_READ, i * MB, MB), 0);
	merged(r);
}

/* Old pages that are on their way to the file at a drop do not meet new ones there. */
static void a_drop_while_pages_are_written(void **state)
{
	struct ov_rig *r = *state;

	ov_park = 1000;
	for (unsigned i = 0; i < 3; i++)
		submit(r, DISK_WRITE, i * MB, MB);
	ov_settle(r);
	assert_true(ov_parked);
	ov_drop(r);
	ov_park = 0;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, (4 + i) * MB, MB), 0);
	ov_release_all();
	ov_settle(r);
	for (unsigned i = 0; i < 11; i++)
		assert_int_equal(ov_run(r, DISK_READ, i * MB, MB), 0);
}

static void what_the_file_is(void **state)
{
	struct overlay_limits l = {.mem_bytes = 4 * MB, .spill_bytes = MB, .dir = "/nowhere"};
	struct ov_rig *r = *state;
	struct err e = {0};

	assert_null(overlay_attach(&r->d, &l, &e));
	assert_int_equal(e.code, -EBUSY);
	overlay_free(r->ov);
	e = (struct err){0};
	assert_null(overlay_attach(&r->d, &l, &e));
	assert_non_null(strstr(e.msg, "no file for its overlay in /nowhere"));
	assert_null(r->d.layer);
	l.dir = NULL;
	e = (struct err){0};
	assert_null(overlay_attach(&r->d, &l, &e));
	assert_int_equal(e.code, -EINVAL);
	l.mem_bytes = 4 * MB - 1;
	e = (struct err){0};
	assert_null(overlay_attach(&r->d, &l, &e));
	assert_non_null(strstr(e.msg, "4194304 to"));
	logged_reset();
	ov_no_tmpfile = true;
	ov_attach(r, 4 * MB, MB);
	l = (struct overlay_limits){.mem_bytes = 4 * MB, .spill_bytes = MB, .dir = "/dev/shm"};
	overlay_free(r->ov);
	r->ov = overlay_attach(&r->d, &l, NULL);
	assert_non_null(r->ov);
	assert_int_equal(logged("is memory, too; name a directory of a disk"), 1);
}

static void on_zeroed(struct disk_req *r, int res)
{
	assert_int_equal(res, 0);
	*(bool *)r->arg = true;
}

/* Of a large disk, all of it is discarded. The model knows nothing of it. */
static void zeros_take_no_memory(void **state)
{
	struct ov_rig *r = *state;
	const uint64_t size = 16ull << 30;

	overlay_free(r->ov);
	assert_int_equal(ftruncate(r->d.fd, (off_t)size), 0);
	r->d.bytes = size;
	ov_attach(r, OVERLAY_MEM_MIN, 0);
	for (uint64_t at = 0; at < size; at += 1ull << 30) {
		bool done = false;
		struct disk_req q = {.kind = DISK_DISCARD,
				     .off = at ? at - 512 : 0,
				     .len = 1u << 30,
				     .done = on_zeroed,
				     .arg = &done};

		disk_submit(&r->d, &q);
		ov_until(r, done);
	}
	assert_true(stats(r).bytes < 200000);
	memset(r->ref, 0, OV_IMAGE);
	assert_int_equal(ov_run(r, DISK_WRITE, 3 * MB, MB), 0);
	assert_int_equal(ov_run(r, DISK_READ, 2 * MB, MB), 0);
	assert_int_equal(ov_run(r, DISK_READ, 3 * MB, MB), 0);
	merged(r);
}

static bool is_kept(const struct ov_rig *r, uint64_t off)
{
	unsigned char there = 0;

	assert_int_equal(mincore(r->ov->store.mem + off, 4096, &there), 0);
	return there & 1;
}

static void memory_is_kept_up_to_a_bound(void **state)
{
	struct ov_rig *r = *state;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, i * MB, MB), 0);
	assert_true(is_kept(r, 0) && is_kept(r, 2 * MB));
	ov_drop(r);
	assert_true(is_kept(r, 0) && is_kept(r, MB - 4096));
	assert_true(!is_kept(r, MB) && !is_kept(r, 3 * MB - 4096));
}

/* As the primary's writes come: below the overlay. */
static void an_alias_is_below(void **state)
{
	struct ov_rig *r = *state;
	struct disk alias;
	bool done = false;
	struct disk_req q = {.kind = DISK_ZERO, .len = 65536, .done = on_zeroed, .arg = &done};

	assert_int_equal(ov_run(r, DISK_WRITE, 4096, 4096), 0);
	disk_alias(&alias, &r->d);
	disk_submit(&alias, &q);
	ov_until(r, done);
	memset(r->image, 0, 65536);
	memset(r->ref, 0, 4096);
	memset(r->ref + 8192, 0, 65536 - 8192);
	ov_check_image(r, r->image);
	assert_int_equal(ov_run(r, DISK_READ, 0, 65536), 0);
}

static void a_flush_waits_for_the_merge(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *f;

	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, i * MB, MB), 0);
	ov_park = 1000;
	ov_merge(r);
	ov_settle(r);
	f = submit(r, DISK_FLUSH, 0, 0);
	ov_settle(r);
	assert_true(!f->done && !r->merges);
	assert_int_equal(ov_syncs, 0);
	ov_park = 0;
	ov_release_all();
	ov_until(r, f->done);
	assert_int_equal(f->res, 0);
	ov_until(r, r->merges);
	assert_true(ov_syncs >= 2);
	ov_check_image(r, r->ref);
}

/* New data for what is on its way to the image, for what is there, and for what is to come. */
static void writes_during_a_merge(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *under, *ahead, *other;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, 2 * i * MB, MB), 0);
	ov_park = 1000;
	ov_merge(r);
	ov_settle(r);
	assert_int_equal(ov_parked, MERGE_RUNS);
	ahead = submit(r, DISK_WRITE, 4 * MB, 4096);
	other = submit(r, DISK_READ, 4 * MB, 4096);
	under = submit(r, DISK_WRITE, 4096, 4096);
	ov_settle(r);
	assert_true(ahead->done && other->done && !under->done);
	ov_park = 0;
	ov_release_all();
	ov_until(r, r->merges && under->done);
	assert_int_equal(r->merge_err, 0);
	ov_check_image(r, r->ref);
}

/* The image gave them what is old soon: the overlay keeps what is new until they have it. */
static void reads_when_a_merge_comes(void **state)
{
	struct ov_rig *r = *state;

	assert_int_equal(ov_run(r, DISK_WRITE, 0, 4096), 0);
	ov_park = 1000;
	for (unsigned i = 0; i < 16; i++)
		submit(r, DISK_READ, 0, 8192);
	ov_park = 0;
	ov_merge(r);
	ov_settle(r);
	assert_int_equal(r->merges, 0);
	ov_release_all();
	ov_until(r, r->merges);
	ov_check_image(r, r->ref);
}

static void an_image_that_fails(void **state)
{
	struct ov_rig *r = *state;
	struct ov_req *f;

	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(ov_run(r, DISK_WRITE, 2 * i * MB, MB), 0);
	ov_fail_from = 5 * MB;
	ov_merge(r);
	ov_settle(r);
	f = submit(r, DISK_FLUSH, 0, 0);
	ov_until(r, r->merges && f->done);
	assert_int_equal(r->merge_err, -ENOSPC);
	assert_non_null(r->d.layer);
	assert_int_equal(f->res, -ENOSPC);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), -ENOSPC);
	for (unsigned i = 0; i < 11; i++)
		assert_int_equal(ov_run(r, DISK_READ, i * MB, MB), 0);
	assert_int_equal(ov_run(r, DISK_WRITE, 0, 8192), 0); /* in the image */
	assert_int_equal(ov_run(r, DISK_WRITE, 8 * MB, 8192), 0);
	ov_fail_from = UINT64_MAX;
	r->merges = 0;
	merged(r);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), 0);
}

static void an_image_that_cannot_be_flushed(void **state)
{
	struct ov_rig *r = *state;

	assert_int_equal(ov_run(r, DISK_WRITE, 0, MB), 0);
	ov_fail_sync = true;
	ov_merge(r);
	ov_until(r, r->merges);
	assert_int_equal(r->merge_err, -EINVAL);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), -EINVAL);
	assert_int_equal(ov_run(r, DISK_WRITE, MB, MB), 0);
	assert_int_equal(ov_run(r, DISK_READ, 0, MB), 0);
	ov_fail_sync = false;
	r->merges = 0;
	merged(r);
}

static void a_merge_of_nothing(void **state)
{
	struct ov_rig *r = *state;

	merged(r);
	assert_true(ov_syncs == 1);
	assert_null(r->d.layer);
}

/* From memory, over the image, or from the file; not what was discarded, nor after a takeover. */
static void what_it_wrote_itself_is_told(void **state)
{
	struct ov_rig *r = *state;

	ov_run(r, DISK_READ, 0, 8 * OV_SECTOR);
	assert_int_equal(r->owns, 0);
	ov_run(r, DISK_WRITE, 2 * OV_SECTOR, 2 * OV_SECTOR);
	ov_run(r, DISK_DISCARD, 5 * OV_SECTOR, OV_SECTOR);
	ov_run(r, DISK_READ, 0, 8 * OV_SECTOR);
	assert_int_equal(r->own_sectors, 2);
	assert_int_equal(r->own_wrong, 0);
	ov_run(r, DISK_READ, 3 * OV_SECTOR, OV_SECTOR);
	assert_int_equal(r->own_sectors, 3);
	ov_run(r, DISK_READ, 4 * OV_SECTOR, OV_SECTOR);
	assert_int_equal(r->own_sectors, 3);
	for (unsigned i = 0; i < 7; i++)
		ov_run(r, DISK_WRITE, i * MB, MB);
	assert_true(stats(r).spilled > 0);
	r->own_sectors = 0;
	ov_run(r, DISK_READ, MB, MB);
	assert_int_equal(r->own_sectors, MB / OV_SECTOR);
	ov_drop(r);
	ov_run(r, DISK_READ, 0, MB);
	assert_int_equal(r->own_sectors, MB / OV_SECTOR);
	ov_run(r, DISK_WRITE, 0, OV_SECTOR);
	merged(r);
	ov_run(r, DISK_READ, 0, OV_SECTOR);
	assert_int_equal(r->own_sectors, MB / OV_SECTOR);
	assert_int_equal(r->own_wrong, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_image_stays),
		T(nothing_leaks_over_a_drop),
		T(reads_are_as_of_submit),
		T(served_while_the_image_hangs),
		T(full_until_a_drop),
		T(full_until_a_merge),
		cmocka_unit_test_setup_teardown(full_until_a_drop, setup_no_file, teardown),
		cmocka_unit_test_setup_teardown(full_until_a_merge, setup_no_file, teardown),
		T(a_file_that_fails),
		T(a_drop_while_pages_are_written),
		T(what_the_file_is),
		T(zeros_take_no_memory),
		cmocka_unit_test_setup_teardown(memory_is_kept_up_to_a_bound, setup_no_file,
						teardown),
		T(an_alias_is_below),
		T(a_flush_waits_for_the_merge),
		T(writes_during_a_merge),
		T(reads_when_a_merge_comes),
		T(an_image_that_fails),
		T(an_image_that_cannot_be_flushed),
		T(a_merge_of_nothing),
		cmocka_unit_test_setup_teardown(what_it_wrote_itself_is_told, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
