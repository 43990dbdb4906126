#define _GNU_SOURCE
#include "tests/unit/liboverlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTORS	   (OV_IMAGE / OV_SECTOR)
#define PARKED_MAX 512u

unsigned ov_park, ov_parked;
uint64_t ov_syncs, ov_fail_from;
bool ov_fail_spill, ov_fail_sync, ov_no_tmpfile;

/* --- I/O of files ----------------------------------------------------------------------------- */

struct parked {
	struct loop *l;
	struct loop_op *op;
	int fd;
	void *buf;
	uint32_t len;
	uint64_t off;
	bool write;
	bool early; /* what it reads is read, and not told of */
	int res;
};

static struct parked parked[PARKED_MAX];
static struct ov_rig *rig;
static int full_fd = -1, no_sync_fd[2] = {-1, -1};

int __real_loop_read(struct loop *l, struct loop_op *op, int fd, void *buf, uint32_t len,
		     uint64_t off);
int __real_loop_write(struct loop *l, struct loop_op *op, int fd, const void *buf, uint32_t len,
		      uint64_t off);
int __real_loop_fdatasync(struct loop *l, struct loop_op *op, int fd);
int __wrap_loop_read(struct loop *l, struct loop_op *op, int fd, void *buf, uint32_t len,
		     uint64_t off);
int __wrap_loop_write(struct loop *l, struct loop_op *op, int fd, const void *buf, uint32_t len,
		      uint64_t off);
int __wrap_loop_fdatasync(struct loop *l, struct loop_op *op, int fd);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, int mode);

int __wrap_open(const char *path, int flags, int mode)
{
	if (ov_no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return __real_open(path, flags, mode);
}

static bool park(struct parked p)
{
	if (!rig || ov_parked == PARKED_MAX || ov_random(rig, 1000) >= ov_park)
		return false;
	p.early = !p.write && ov_random(rig, 2);
	if (p.early)
		p.res = (int)pread(p.fd, p.buf, p.len, (off_t)p.off);
	parked[ov_parked++] = p;
	return true;
}

static bool is_of_merge(const void *buf)
{
	const uint8_t *p = buf;

	for (unsigned i = 0; i < MERGE_RUNS && rig->ov; i++) {
		const uint8_t *have = rig->ov->merge.runs[i].buf;

		if (have && p >= have && p < have + OVERLAY_FAN * OVERLAY_BLOCK)
			return true;
	}
	return false;
}

int __wrap_loop_read(struct loop *l, struct loop_op *op, int fd, void *buf, uint32_t len,
		     uint64_t off)
{
	/* A part of it, now and then. */
	if (rig && len > OV_SECTOR && ov_park && !ov_random(rig, 20))
		len = OV_SECTOR * (1 + (uint32_t)ov_random(rig, len / OV_SECTOR - 1));
	if (park((struct parked){l, op, fd, buf, len, off, .write = false}))
		return 0;
	return __real_loop_read(l, op, fd, buf, len, off);
}

int __wrap_loop_write(struct loop *l, struct loop_op *op, int fd, const void *buf, uint32_t len,
		      uint64_t off)
{
	if (rig && rig->ov && fd == rig->ov->store.fd && ov_fail_spill)
		fd = full_fd;
	if (rig && fd == rig->d.fd && off + len > ov_fail_from && is_of_merge(buf))
		fd = full_fd;
	if (rig && len > OV_SECTOR && ov_park && !ov_random(rig, 20))
		len = OV_SECTOR * (1 + (uint32_t)ov_random(rig, len / OV_SECTOR - 1));
	if (park((struct parked){l, op, fd, (void *)buf, len, off, .write = true}))
		return 0;
	return __real_loop_write(l, op, fd, buf, len, off);
}

int __wrap_loop_fdatasync(struct loop *l, struct loop_op *op, int fd)
{
	ov_syncs++;
	return __real_loop_fdatasync(l, op, ov_fail_sync ? no_sync_fd[0] : fd);
}

static void release(unsigned i)
{
	struct parked p = parked[i];

	parked[i] = parked[--ov_parked];
	if (p.early)
		p.op->fn(p.op, p.res);
	else if (p.write)
		assert_int_equal(__real_loop_write(p.l, p.op, p.fd, p.buf, p.len, p.off), 0);
	else
		assert_int_equal(__real_loop_read(p.l, p.op, p.fd, p.buf, p.len, p.off), 0);
}

void ov_release(struct ov_rig *r)
{
	if (ov_parked)
		release((unsigned)ov_random(r, ov_parked));
}

void ov_release_all(void)
{
	while (ov_parked)
		release(0);
}

/* --- the rig ---------------------------------------------------------------------------------- */

uint64_t ov_random(struct ov_rig *r, uint64_t n)
{
	r->seed ^= r->seed << 13;
	r->seed ^= r->seed >> 7;
	r->seed ^= r->seed << 17;
	return r->seed % n;
}

static void fill(struct ov_rig *r, uint8_t *p, uint32_t len)
{
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t v = ov_random(r, UINT64_MAX);

		memcpy(p + i, &v, 8);
	}
}

void ov_open(struct ov_rig *r, uint64_t seed)
{
	int fd;

	memset(r, 0, sizeof(*r));
	r->seed = seed * 0x9e3779b97f4a7c15ull + 1;
	ov_park = ov_parked = 0;
	ov_syncs = 0;
	ov_fail_from = UINT64_MAX;
	ov_fail_spill = ov_fail_sync = ov_no_tmpfile = false;
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	r->ref = malloc(OV_IMAGE);
	r->image = malloc(OV_IMAGE);
	r->changed = calloc(SECTORS, sizeof(*r->changed));
	r->unknown = calloc(SECTORS, sizeof(*r->unknown));
	assert_true(r->ref && r->image && r->changed && r->unknown);
	fill(r, r->image, OV_IMAGE);
	memcpy(r->ref, r->image, OV_IMAGE);
	strcpy(r->path, "/tmp/ftvmm-overlay-XXXXXX");
	fd = mkstemp(r->path);
	assert_int_equal(write(fd, r->image, OV_IMAGE), OV_IMAGE);
	close(fd);
	assert_int_equal(disk_open(&r->d, &r->loop, "d0", r->path, 0, NULL), 0);
	full_fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	assert_int_equal(pipe2(no_sync_fd, O_CLOEXEC), 0);
	rig = r;
}

static void on_full(void *arg)
{
	struct ov_rig *r = arg;

	r->fulls++;
}

/* With the bytes that it is about to get. */
static void on_own(void *arg, struct overlay *ov, const struct disk_req *r)
{
	struct ov_rig *to = arg;
	const struct ov_req *q = (const struct ov_req *)r;

	to->owns++;
	for (uint32_t at = 0; at < r->len; at += OV_SECTOR) {
		if (!overlay_has(ov, r->off + at))
			continue;
		to->own_sectors++;
		to->own_wrong += memcmp(r->buf + at, q->want + at, OV_SECTOR) != 0;
	}
}

void ov_attach(struct ov_rig *r, uint64_t mem, uint64_t spill)
{
	const struct overlay_limits limits = {.mem_bytes = mem,
					      .keep_bytes = 1 << 20,
					      .spill_bytes = spill,
					      .dir = "/tmp",
					      .full = on_full,
					      .own = on_own,
					      .arg = r};
	struct err e = {0};

	r->ov = overlay_attach(&r->d, &limits, &e);
	if (!r->ov)
		print_error("%s\n", e.msg);
	assert_non_null(r->ov);
}

void ov_close(struct ov_rig *r)
{
	ov_park = 0;
	ov_release_all();
	for (unsigned i = 0; i < OV_REQS; i++) {
		ov_until(r, !r->reqs[i].under_way);
		ov_forget(&r->reqs[i]);
	}
	ov_until(r, !r->d.inflight && (!r->ov || !store_is_writing(&r->ov->store)));
	overlay_free(r->ov);
	rig = NULL;
	disk_close(&r->d);
	loop_done(&r->loop);
	unlink(r->path);
	free(r->ref);
	free(r->image);
	free(r->changed);
	free(r->unknown);
	close(full_fd);
	close(no_sync_fd[0]);
	close(no_sync_fd[1]);
}

void ov_settle(struct ov_rig *r)
{
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&r->loop, 1000000);
}

/* --- requests --------------------------------------------------------------------------------- */

void ov_forget(struct ov_req *q)
{
	free(q->r.buf);
	free(q->want);
	free(q->quiet);
	memset(q, 0, sizeof(*q));
}

struct ov_req *ov_free_req(struct ov_rig *r)
{
	for (unsigned i = 0; i < OV_REQS; i++) {
		if (r->reqs[i].under_way)
			continue;
		ov_forget(&r->reqs[i]);
		return &r->reqs[i];
	}
	return NULL;
}

static bool is_change(const struct ov_req *q)
{
	return q->r.kind != DISK_READ && q->r.kind != DISK_FLUSH;
}

/* As with any disk, once the overlay is gone a read may see a change that was asked for later. */
static bool may_be_newer(const struct ov_req *q, uint64_t sector)
{
	return !q->rig->ov && q->rig->changed[sector] > q->seq;
}

static void check_read(const struct ov_req *q)
{
	for (uint32_t at = 0; at < q->r.len; at += OV_SECTOR) {
		uint64_t sector = (q->r.off + at) / OV_SECTOR;

		if (!q->rig->unknown[sector] && !may_be_newer(q, sector) &&
		    memcmp(q->r.buf + at, q->want + at, OV_SECTOR)) {
			print_error("read %llu of sector %llu\n", (unsigned long long)q->seq,
				    (unsigned long long)sector);
			assert_true(false);
		}
	}
	q->rig->checked += q->r.len;
}

/* What was done before a flush of a merge is in the image. */
static void check_flush(const struct ov_req *q)
{
	struct ov_rig *r = q->rig;
	uint8_t *now;

	if (!q->quiet)
		return;
	assert_true(ov_syncs > q->synced);
	now = malloc(OV_IMAGE);
	assert_int_equal(pread(r->d.fd, now, OV_IMAGE, 0), OV_IMAGE);
	for (unsigned s = 0; s < SECTORS; s++)
		if (q->quiet[s] && r->changed[s] < q->seq && !r->unknown[s])
			assert_memory_equal(now + s * OV_SECTOR, r->ref + s * OV_SECTOR, OV_SECTOR);
	free(now);
}

static void on_done(struct disk_req *dr, int res)
{
	struct ov_req *q = dr->arg;

	assert_true(q->under_way);
	q->under_way = false;
	q->done = true;
	q->res = res;
	if (q->dropped) {
		assert_true(res == -ECANCELED || q->r.kind == DISK_FLUSH);
		return;
	}
	for (uint32_t at = 0; is_change(q) && at < q->r.len; at += OV_SECTOR)
		q->rig->unknown[(q->r.off + at) / OV_SECTOR] = res < 0;
	if (!res && q->r.kind == DISK_READ)
		check_read(q);
	if (!res && q->r.kind == DISK_FLUSH)
		check_flush(q);
}

static void plan_flush(struct ov_rig *r, struct ov_req *q)
{
	if (r->ov && r->ov->state == OVERLAY_COLLECT)
		return;
	q->synced = ov_syncs;
	q->quiet = malloc(SECTORS * sizeof(*q->quiet));
	memset(q->quiet, 1, SECTORS * sizeof(*q->quiet));
	for (unsigned i = 0; i < OV_REQS; i++) {
		const struct ov_req *o = &r->reqs[i];

		if (o->under_way && is_change(o))
			memset(&q->quiet[o->r.off / OV_SECTOR], 0, o->r.len / OV_SECTOR);
	}
}

static void plan(struct ov_rig *r, struct ov_req *q)
{
	uint64_t off = q->r.off;
	uint32_t len = q->r.len;

	if (q->r.kind == DISK_FLUSH)
		plan_flush(r, q);
	if (q->r.kind == DISK_READ) {
		q->want = malloc(len);
		memcpy(q->want, r->ref + off, len);
		memset(q->r.buf, 0xee, len);
	}
	if (q->r.kind == DISK_WRITE) {
		fill(r, q->r.buf, len);
		memcpy(r->ref + off, q->r.buf, len);
	}
	if (q->r.kind == DISK_ZERO || q->r.kind == DISK_DISCARD)
		memset(r->ref + off, 0, len);
	for (uint32_t at = 0; is_change(q) && at < len; at += OV_SECTOR)
		r->changed[(off + at) / OV_SECTOR] = q->seq;
}

void ov_submit(struct ov_rig *r, struct ov_req *q, enum disk_op kind, uint64_t off, uint32_t len)
{
	q->rig = r;
	q->seq = ++r->seq;
	q->r = (struct disk_req){.kind = kind, .off = off, .len = len, .done = on_done, .arg = q};
	q->r.buf = aligned_alloc(4096, (len + 4096) & ~4095u);
	plan(r, q);
	q->under_way = true;
	disk_submit(&r->d, &q->r);
	assert_true(q->under_way); /* never from inside */
}

int ov_run(struct ov_rig *r, enum disk_op kind, uint64_t off, uint32_t len)
{
	struct ov_req *q = ov_free_req(r);
	unsigned park_later = ov_park;

	assert_non_null(q);
	ov_park = 0;
	ov_release_all();
	ov_submit(r, q, kind, off, len);
	ov_until(r, q->done);
	ov_park = park_later;
	return q->res;
}

void ov_drop(struct ov_rig *r)
{
	for (unsigned i = 0; i < OV_REQS; i++)
		r->reqs[i].dropped |= r->reqs[i].under_way;
	memcpy(r->ref, r->image, OV_IMAGE);
	overlay_drop(r->ov);
	r->fulls = 0;
}

static void on_merged(void *arg, int err)
{
	struct ov_rig *r = arg;

	r->merges++;
	r->merge_err = err;
	if (err)
		return;
	overlay_free(r->ov);
	r->ov = NULL;
}

void ov_merge(struct ov_rig *r)
{
	overlay_merge(r->ov, on_merged, r);
}

void ov_check_image(struct ov_rig *r, const uint8_t *want)
{
	uint8_t *now = malloc(OV_IMAGE);

	assert_int_equal(pread(r->d.fd, now, OV_IMAGE, 0), OV_IMAGE);
	for (unsigned s = 0; s < SECTORS; s++) {
		if (r->unknown[s] || !memcmp(now + s * OV_SECTOR, want + s * OV_SECTOR, OV_SECTOR))
			continue;
		print_error("sector %u of the image\n", s);
		assert_true(false);
	}
	free(now);
}
