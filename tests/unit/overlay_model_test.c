/*
 * An overlay against a model, at random: requests that overlap, blocks that spill, drops and merges
 * in the middle of everything, images that fail; I/O of files ends late and in any order.
 */
#define _GNU_SOURCE
#include "tests/unit/liboverlay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define ROUNDS 4u
#else
#define ROUNDS 16u
#endif
#define STEPS 1500u

static enum disk_op any_kind(struct ov_rig *r)
{
	uint64_t n = ov_random(r, 100);

	if (n < 50)
		return DISK_WRITE;
	if (n < 80)
		return DISK_READ;
	if (n < 88)
		return DISK_ZERO;
	return n < 94 ? DISK_DISCARD : DISK_FLUSH;
}

/* Small ones that meet, streams, and large ones. */
static void submit_any(struct ov_rig *r)
{
	enum disk_op kind = any_kind(r);
	struct ov_req *q = ov_free_req(r);
	uint64_t sectors = OV_IMAGE / OV_SECTOR, n, at;

	if (!q)
		return;
	if (kind == DISK_FLUSH) {
		ov_submit(r, q, kind, 0, 0);
		return;
	}
	switch (ov_random(r, 4)) {
	case 0:
		n = 1 + ov_random(r, 20);
		at = sectors - 100 + ov_random(r, 80);
		break;
	case 1:
		n = 8;
		at = ov_random(r, sectors / 8) * 8;
		break;
	case 2:
		n = 1 + ov_random(r, kind == DISK_ZERO || kind == DISK_DISCARD ? 4096 : 2048);
		at = ov_random(r, sectors - n);
		break;
	default:
		n = 1 + ov_random(r, 128);
		at = ov_random(r, 1024);
	}
	ov_submit(r, q, kind, at * OV_SECTOR, (uint32_t)n * OV_SECTOR);
}

static void step(struct ov_rig *r)
{
	uint64_t n = ov_random(r, 10);

	if (n < 5)
		submit_any(r);
	else if (n < 8)
		ov_release(r);
	else
		loop_run_once(&r->loop, 0);
}

static void steps(struct ov_rig *r, uint64_t n)
{
	while (n--)
		step(r);
}

/* Or what is left waits for a drop. */
static void all_done(struct ov_rig *r)
{
	unsigned park = ov_park;

	ov_park = 0;
	ov_release_all();
	for (unsigned i = 0; i < OV_REQS; i++)
		ov_until(r, !r->reqs[i].under_way || (r->ov && r->fulls));
	ov_park = park;
}

/* What the primary wrote comes into the image by an alias. */
static void primary_writes(struct ov_rig *r)
{
	uint64_t off = ov_random(r, OV_IMAGE / OV_SECTOR - 256) * OV_SECTOR;
	uint32_t len = (uint32_t)(1 + ov_random(r, 256)) * OV_SECTOR;
	uint8_t c = (uint8_t)ov_random(r, 256);

	memset(r->image + off, c, len);
	memset(r->ref + off, c, len);
	assert_int_equal(pwrite(r->d.fd, r->image + off, len, (off_t)off), len);
}

static void drop(struct ov_rig *r)
{
	bool under_way = ov_random(r, 2);

	if (!under_way)
		all_done(r);
	ov_drop(r);
	/* Reads that were under way are over before the image changes. */
	if (ov_random(r, 2)) {
		all_done(r);
		ov_check_image(r, r->image);
		primary_writes(r);
	}
}

/* However long the file of a busy host takes for it. */
static void merged(struct ov_rig *r)
{
	uint64_t late = loop_now_ns() + 60 * 1000000000ull;

	while (!r->merges && loop_now_ns() < late)
		step(r);
	assert_int_equal(r->merges, 1);
}

static void failing_merge(struct ov_rig *r)
{
	ov_fail_from = ov_random(r, OV_IMAGE);
	r->fulls = 0;
	ov_merge(r);
	merged(r);
	ov_fail_from = UINT64_MAX;
	if (!r->merge_err) /* nothing was written there */
		return;
	assert_int_equal(r->merge_err, -ENOSPC);
	all_done(r);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), -ENOSPC);
	for (uint64_t at = 0; at + (1 << 20) <= OV_IMAGE; at += 1 << 20)
		assert_int_equal(ov_run(r, DISK_READ, at, 1 << 20), 0);
	steps(r, ov_random(r, 300));
	r->merges = 0;
}

static void one_round(uint64_t seed)
{
	static const uint64_t spill[] = {0, 1 << 20, 4 << 20, 64 << 20};
	struct ov_rig rig, *r = &rig;

	ov_open(r, seed);
	ov_attach(r, OVERLAY_MEM_MIN, spill[seed % 4]);
	ov_park = 100 + (unsigned)ov_random(r, 800);
	for (unsigned i = 0; i < STEPS; i++) {
		step(r);
		if (!ov_random(r, r->fulls ? 50 : 400))
			drop(r);
	}
	steps(r, ov_random(r, 400));
	if (seed % 3 == 0)
		failing_merge(r);
	r->fulls = 0;
	if (r->ov)
		ov_merge(r);
	merged(r);
	assert_int_equal(r->merge_err, 0);
	assert_null(r->d.layer);
	all_done(r);
	ov_check_image(r, r->ref);
	assert_int_equal(ov_run(r, DISK_WRITE, 512, 8192), 0);
	assert_int_equal(ov_run(r, DISK_FLUSH, 0, 0), 0);
	ov_check_image(r, r->ref);
	assert_true(r->checked > 1 << 20);
	ov_close(r);
}

static void as_the_model(void **state)
{
	const char *s = getenv("FT_SEED");
	uint64_t first = s ? strtoull(s, NULL, 0) : 1;

	for (uint64_t seed = first; seed < first + ROUNDS; seed++) {
		print_message("seed %llu\n", (unsigned long long)seed);
		one_round(seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
