/* The disk below virtio-blk: ranges, locks, hold, hooks, and files that change under it. */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include "devices/disk.h"

#define BYTES (1u << 20)

struct req {
	struct disk_req r;
	struct fix *f;
	int res;
	bool done;
	unsigned order;
};

struct fix {
	bool hold; /* the hook says */
	struct rig rig;
	char path[64];
	struct disk d;
	uint8_t *buf;
	unsigned count;
	char log[256];
};

static void on_done(struct disk_req *r, int res)
{
	struct req *q = r->arg;

	assert_false(q->done);
	q->done = true;
	q->res = res;
	q->order = q->f->count++;
}

static enum disk_verdict hook_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	struct fix *f = arg;

	(void)d;
	if (f->hold) {
		strcat(f->log, "h");
		return DISK_HOLD;
	}
	strcat(f->log, "s");
	strncat(f->log, disk_op_name(r->kind), 1);
	return DISK_GO;
}

static void hook_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	struct fix *f = arg;

	(void)d;
	strcat(f->log, res ? "e" : "d");
	strncat(f->log, disk_op_name(r->kind), 1);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	int fd;

	rig_init(&f->rig, 0);
	strcpy(f->path, "/tmp/ftvmm-disk-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	assert_int_equal(disk_open(&f->d, &f->rig.loop, "d0", f->path, 0, NULL), 0);
	f->d.hook = (struct disk_hook){hook_submit, hook_done, f, NULL};
	f->buf = aligned_alloc(4096, BYTES);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_until(&f->rig, !f->d.inflight);
	disk_close(&f->d);
	rig_done(&f->rig);
	unlink(f->path);
	free(f->buf);
	free(f);
	return 0;
}

static void submit(struct fix *f, struct req *q, enum disk_op kind, uint64_t off, uint32_t len)
{
	*q = (struct req){.f = f};
	q->r = (struct disk_req){
		.kind = kind, .off = off, .len = len, .buf = f->buf, .done = on_done, .arg = q};
	disk_submit(&f->d, &q->r);
	assert_false(q->done); /* never from inside */
}

static int run(struct fix *f, enum disk_op kind, uint64_t off, uint32_t len)
{
	struct req q;

	submit(f, &q, kind, off, len);
	rig_until(&f->rig, q.done);
	return q.res;
}

static void moves_bytes(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < BYTES; i++)
		f->buf[i] = (uint8_t)(i * 13 + i / 512);
	assert_int_equal(run(f, DISK_WRITE, 0, BYTES), 0);
	memset(f->buf, 0, BYTES);
	assert_int_equal(run(f, DISK_READ, 512, BYTES - 512), 0);
	for (unsigned i = 512; i < BYTES; i++)
		assert_int_equal(f->buf[i - 512], (uint8_t)(i * 13 + i / 512));
	assert_int_equal(run(f, DISK_FLUSH, 0, 0), 0);
	assert_int_equal(run(f, DISK_ZERO, 4096, 8192), 0);
	assert_int_equal(run(f, DISK_DISCARD, 65536, 4096), 0);
	assert_int_equal(run(f, DISK_READ, 0, BYTES), 0);
	for (unsigned i = 0; i < 65536; i++) {
		bool zero = i >= 4096 && i < 4096 + 8192;

		assert_int_equal(f->buf[i], zero ? 0 : (uint8_t)(i * 13 + i / 512));
	}
	assert_string_equal(f->log, "swdwsfdfszdzsddd");
}

static loop_fn *real_step;
static unsigned refusals;

/* Stands between the loop and the disk: the kernel "refuses" some operations. */
static void refusing_step(struct loop_op *op, int res)
{
	real_step(op, refusals ? (refusals--, -EOPNOTSUPP) : res);
}

/* The file system knows neither ZERO_RANGE nor holes: zeros are written, in pieces. */
static void zeros_are_written_when_nothing_else_works(void **state)
{
	struct fix *f = *state;
	struct req q;

	for (unsigned n = 0; n < 3; n++) {
		memset(f->buf, 0xff, BYTES);
		assert_int_equal(run(f, DISK_WRITE, 0, BYTES), 0);
		submit(f, &q, DISK_ZERO, 512, 200 * 1024);
		real_step = q.r.io.fn;
		q.r.io.fn = refusing_step;
		refusals = n;
		rig_until(&f->rig, q.done);
		assert_int_equal(q.res, 0);
		assert_int_equal(q.r.how, n);
		assert_int_equal(run(f, DISK_READ, 0, BYTES), 0);
		assert_int_equal(f->buf[511], 0xff);
		for (unsigned i = 512; i < 512 + 200 * 1024; i++)
			assert_int_equal(f->buf[i], 0);
		assert_int_equal(f->buf[512 + 200 * 1024], 0xff);
	}
	submit(f, &q, DISK_DISCARD, 0, 4096);
	real_step = q.r.io.fn;
	q.r.io.fn = refusing_step;
	refusals = 1;
	rig_until(&f->rig, q.done);
	assert_int_equal(q.res, 0); /* only a hint */
}

/* Errors of the medium and short transfers. */
static int step_res[4];
static unsigned step_n;

static void scripted_step(struct loop_op *op, int res)
{
	int r = step_n < 4 ? step_res[step_n++] : 1;

	real_step(op, r != 1 ? r : res);
}

static int run_scripted(struct fix *f, enum disk_op kind, int r0, int r1)
{
	struct req q;

	submit(f, &q, kind, 0, 8192);
	real_step = q.r.io.fn;
	q.r.io.fn = scripted_step;
	step_n = 0;
	step_res[0] = r0;
	step_res[1] = r1;
	step_res[2] = step_res[3] = 1;
	rig_until(&f->rig, q.done);
	return q.res;
}

static void medium_errors_and_short_transfers(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < 8192; i++)
		f->buf[i] = (uint8_t)(i / 16);
	assert_int_equal(run_scripted(f, DISK_WRITE, -EIO, 1), -EIO);
	assert_int_equal(f->d.errors, 1);
	assert_int_equal(run_scripted(f, DISK_WRITE, -ENOSPC, 1), -ENOSPC);
	assert_int_equal(run_scripted(f, DISK_WRITE, 4096, -EIO), -EIO);
	assert_int_equal(run_scripted(f, DISK_WRITE, 0, 1), -EIO);
	assert_int_equal(run_scripted(f, DISK_WRITE, -EINTR, 512), 0);
	assert_int_equal(run_scripted(f, DISK_WRITE, -EAGAIN, 1), 0);
	memset(f->buf, 0, 8192);
	assert_int_equal(run_scripted(f, DISK_READ, 512, 1024), 0);
	for (unsigned i = 0; i < 8192; i++)
		assert_int_equal(f->buf[i], (uint8_t)(i / 16));
}

static struct disk_req *failed_one;

static bool keep_failed(void *arg, struct disk_req *r, int res)
{
	assert_int_equal(res, -ENOSPC);
	assert_null(failed_one);
	failed_one = r;
	return true;
}

/* Whoever takes an error keeps the request under way, and what overlaps waits behind it. */
static void an_error_may_be_kept(void **state)
{
	struct fix *f = *state;
	struct req q, behind, beside;

	f->d.failed = keep_failed;
	f->d.failed_arg = f;
	submit(f, &q, DISK_WRITE, 0, 8192);
	real_step = q.r.io.fn;
	q.r.io.fn = scripted_step;
	step_n = 0;
	step_res[0] = -ENOSPC;
	step_res[1] = step_res[2] = step_res[3] = 1;
	submit(f, &beside, DISK_READ, 16384, 512);
	submit(f, &behind, DISK_WRITE, 4096, 512);
	rig_until(&f->rig, failed_one && beside.done);
	assert_ptr_equal(failed_one, &q.r);
	assert_false(q.done || behind.done);
	assert_int_equal(f->d.inflight, 1);
	assert_string_equal(f->log, "sw");
	disk_fail(failed_one, -ENOSPC);
	assert_int_equal(q.res, -ENOSPC);
	rig_until(&f->rig, behind.done);
	assert_int_equal(behind.res, 0);
	assert_string_equal(f->log, "swewswdw");
	/* What is canceled did not fail; nor does an alias ask. */
	failed_one = NULL;
	submit(f, &q, DISK_WRITE, 0, 512);
	disk_cancel(&f->d);
	rig_until(&f->rig, q.done);
	assert_int_equal(q.res, -ECANCELED);
	assert_null(failed_one);
}

static void refuses_what_is_out_of_range(void **state)
{
	struct fix *f = *state;
	static const struct {
		enum disk_op kind;
		uint64_t off;
		uint32_t len;
		int want;
	} table[] = {
		{DISK_READ, BYTES, 512, -ERANGE},
		{DISK_READ, BYTES - 512, 1024, -ERANGE},
		{DISK_WRITE, UINT64_MAX - 511, 512, -ERANGE},
		{DISK_WRITE, 1ull << 63, 512, -ERANGE},
		{DISK_ZERO, 512, BYTES, -ERANGE},
		{DISK_DISCARD, 0, 0xfffffe00, -ERANGE},
		{DISK_READ, 1, 512, -EINVAL},
		{DISK_READ, 0, 511, -EINVAL},
		{DISK_WRITE, 0, 0, -EINVAL},
		{(enum disk_op)17, 0, 512, -EINVAL},
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		assert_int_equal(run(f, table[i].kind, table[i].off, table[i].len), table[i].want);
	assert_string_equal(f->log, ""); /* the log of changes never saw them */
	assert_int_equal(run(f, DISK_READ, BYTES - 512, 512), 0);
}

/* F8: the file shrinks; that is an error of the medium, not of us. */
static void file_shrinks(void **state)
{
	struct fix *f = *state;

	assert_int_equal(truncate(f->path, 4096), 0);
	assert_int_equal(run(f, DISK_READ, 0, 4096), 0);
	assert_int_equal(run(f, DISK_READ, 0, 8192), -EIO);
	assert_int_equal(run(f, DISK_READ, 65536, 512), -EIO);
	assert_int_equal(run(f, DISK_WRITE, 65536, 512), 0); /* grows again */
}

static void hold_keeps_order(void **state)
{
	struct fix *f = *state;
	struct req q[5];

	disk_hold(&f->d, true);
	for (unsigned i = 0; i < 5; i++)
		submit(f, &q[i], i % 2 ? DISK_FLUSH : DISK_WRITE, i % 2 ? 0 : i * 512,
		       i % 2 ? 0 : 512);
	rig_settle(&f->rig);
	assert_int_equal(f->count, 0);
	assert_string_equal(f->log, ""); /* not logged before it goes out */
	rig_set_clock(&f->rig.loop, 0);	 /* all in one turn */
	disk_hold(&f->d, false);
	assert_memory_equal(f->log, "swsfswsfsw", 10);
	rig_until(&f->rig, f->count == 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(q[i].res, 0);
}

/* The kernel may reorder what it has at the same time; the image must end as the log says. */
static void overlapping_changes_go_one_by_one(void **state)
{
	struct fix *f = *state;
	struct req q[7];

	submit(f, &q[0], DISK_WRITE, 0, 4096);
	submit(f, &q[1], DISK_WRITE, 4096, 4096); /* beside it: at once */
	submit(f, &q[2], DISK_READ, 8192, 512);
	assert_string_equal(f->log, "swsw");
	assert_int_equal(f->d.inflight, 3);
	submit(f, &q[3], DISK_ZERO, 3584, 1024);
	submit(f, &q[4], DISK_READ, 512, 512); /* behind one that waits: order stays */
	submit(f, &q[5], DISK_WRITE, UINT64_MAX - 511, 512);
	submit(f, &q[6], DISK_DISCARD, 0, 65536);
	assert_string_equal(f->log, "swsw");
	assert_int_equal(f->d.inflight, 3);
	rig_until(&f->rig, f->count == 7);
	assert_string_equal(f->log, "swswdwdwszdzsddd");
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(q[i].res, i == 5 ? -ERANGE : 0);
	assert_null(f->d.ranges);
}

/* More requests than go to the kernel at once: all are done. */
static void many_requests(void **state)
{
	struct fix *f = *state;
	struct req *q = calloc(1000, sizeof(*q));

	f->d.hook = (struct disk_hook){0};
	for (unsigned i = 0; i < 1000; i++)
		submit(f, &q[i], i % 10 == 9 ? DISK_ZERO : DISK_READ, i % 100 * 512, 512);
	assert_true(f->d.inflight < 1000);
	rig_until(&f->rig, f->count == 1000);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(q[i].res, 0);
	free(q);
}

/* It is asked once, and again when the disk is let go; what is behind it waits, too, in order. */
static void the_hook_may_hold(void **state)
{
	struct fix *f = *state;
	struct req q[4] = {0};

	f->hold = true;
	submit(f, &q[0], DISK_READ, 0, 512);
	submit(f, &q[1], DISK_WRITE, 0, 512);
	submit(f, &q[2], DISK_READ, 512, 512);
	submit(f, &q[3], DISK_WRITE, BYTES, 512); /* refused: the hook does not see it */
	rig_until(&f->rig, q[0].done);
	assert_string_equal(f->log, "h");
	assert_true(f->d.held && !q[1].done && !q[2].done && !q[3].done);
	disk_hold(&f->d, false);
	assert_string_equal(f->log, "hh");
	f->hold = false;
	disk_hold(&f->d, false);
	rig_until(&f->rig, f->count == 4);
	assert_string_equal(f->log, "hhswdw");
	assert_int_equal(q[3].res, -ERANGE);
}

static void close_gives_held_requests_back(void **state)
{
	struct fix *f = *state;
	struct req q[3];

	disk_hold(&f->d, true);
	for (unsigned i = 0; i < 3; i++)
		submit(f, &q[i], DISK_WRITE, 0, 512);
	disk_close(&f->d);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(q[i].res, -ECANCELED);
	assert_string_equal(f->log, "");
}

static void lock_keeps_others_out(void **state)
{
	struct fix *f = *state;
	struct disk other, ro1, ro2;
	struct err e = {0};

	assert_int_equal(disk_open(&other, &f->rig.loop, "d1", f->path, 0, &e), -EBUSY);
	assert_non_null(strstr(e.msg, f->path));
	assert_non_null(strstr(e.msg, "in use"));
	assert_int_equal(other.fd, -1);
	assert_int_equal(disk_open(&other, &f->rig.loop, "d1", f->path, DISK_OPEN_RO, NULL),
			 -EBUSY);
	disk_close(&f->d);
	assert_int_equal(disk_open(&ro1, &f->rig.loop, "r", f->path, DISK_OPEN_RO, NULL), 0);
	assert_int_equal(disk_open(&ro2, &f->rig.loop, "r", f->path, DISK_OPEN_RO, NULL), 0);
	assert_int_equal(disk_open(&other, &f->rig.loop, "d1", f->path, 0, NULL), -EBUSY);
	disk_close(&ro1);
	disk_close(&ro2);
	assert_int_equal(disk_open(&f->d, &f->rig.loop, "d0", f->path, DISK_OPEN_RO, NULL), 0);
	assert_int_equal(run(f, DISK_WRITE, 0, 512), -EROFS);
	assert_int_equal(run(f, DISK_ZERO, 0, 512), -EROFS);
	assert_int_equal(run(f, DISK_READ, 0, 512), 0);
	assert_int_equal(run(f, DISK_FLUSH, 0, 0), 0);
}

/* An image that goes from one process to another, and back. */
/* What would do is said, and nothing is locked or made by that. */
static void a_lock_is_asked_for(void **state)
{
	static const int create = DISK_OPEN_TRY | DISK_OPEN_CREATE;
	static const int ro = DISK_OPEN_TRY | DISK_OPEN_RO;
	struct fix *f = *state;
	struct disk look, other;
	struct err e = {0};
	char path[80];

	assert_int_equal(disk_open(&look, NULL, "l", f->path, DISK_OPEN_TRY, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "in use"));
	assert_int_equal(disk_open(&look, NULL, "l", f->path, ro, NULL), -EBUSY);
	disk_unlock(&f->d);
	assert_int_equal(disk_open(&look, NULL, "l", f->path, DISK_OPEN_TRY, NULL), 0);
	assert_int_equal(disk_open(&other, NULL, "o", f->path, DISK_OPEN_RO, NULL), 0);
	disk_close(&look);
	assert_int_equal(disk_open(&look, NULL, "l", f->path, DISK_OPEN_TRY, NULL), -EBUSY);
	assert_int_equal(disk_open(&look, NULL, "l", f->path, ro, NULL), 0);
	disk_close(&look);
	disk_close(&other);
	snprintf(path, sizeof(path), "%s.new", f->path);
	assert_int_equal(disk_open(&look, NULL, "l", path, create, NULL), -ENOENT);
	assert_int_equal(access(path, F_OK), -1);
}

static void a_lock_is_given_up_and_taken(void **state)
{
	struct fix *f = *state;
	struct err e = {0};
	struct disk there;

	assert_int_equal(disk_open(&there, &f->rig.loop, "d0", f->path, DISK_OPEN_UNLOCKED, &e), 0);
	assert_true(disk_is_elsewhere(&there));
	assert_false(disk_is_elsewhere(&f->d));
	assert_int_equal(disk_lock(&there, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "in use"));
	disk_unlock(&f->d);
	assert_false(disk_is_elsewhere(&there));
	assert_int_equal(disk_lock(&there, NULL), 0);
	assert_true(disk_is_elsewhere(&f->d));
	assert_int_equal(disk_lock(&f->d, NULL), -EBUSY);
	disk_close(&there);
	assert_int_equal(disk_lock(&f->d, NULL), 0);
}

static void count_drained(void *arg)
{
	(*(unsigned *)arg)++;
}

/* What is under way ends, what comes waits, and only then it is drained; once. */
static void drained_when_nothing_is_under_way(void **state)
{
	struct fix *f = *state;
	struct req a = {0}, b = {0};
	unsigned drained = 0;

	disk_drain(&f->d, count_drained, &drained);
	assert_int_equal(drained, 1);
	disk_hold(&f->d, false);
	submit(f, &a, DISK_READ, 0, 4096);
	disk_drain(&f->d, count_drained, &drained);
	assert_int_equal(drained, 1);
	submit(f, &b, DISK_READ, 4096, 4096);
	rig_until(&f->rig, a.done);
	assert_int_equal(drained, 2);
	assert_false(b.done);
	disk_hold(&f->d, false);
	rig_until(&f->rig, b.done);
	assert_int_equal(drained, 2);
	/* The question is taken back. */
	a = b = (struct req){0};
	submit(f, &a, DISK_READ, 0, 4096);
	disk_drain(&f->d, count_drained, &drained);
	disk_hold(&f->d, false);
	rig_until(&f->rig, a.done);
	assert_int_equal(drained, 2);
}

static void open_errors_say_what_to_do(void **state)
{
	struct fix *f = *state;
	struct disk d;
	struct err e = {0};
	char path[80];

	assert_int_equal(disk_open(&d, &f->rig.loop, "x", "/nonexistent/disk", 0, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/disk"));
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", "/dev/null", 0, NULL), -EINVAL);
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", "/tmp", DISK_OPEN_RO, NULL), -EINVAL);
	snprintf(path, sizeof(path), "%s.new", f->path);
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", path, 0, NULL), -ENOENT);
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", path, DISK_OPEN_CREATE, NULL), 0);
	assert_int_equal(d.bytes, 0);
	assert_int_equal(disk_resize(&d, 1000, NULL), -EINVAL);
	assert_int_equal(disk_resize(&d, 65536, NULL), 0);
	assert_int_equal(disk_resize(&d, 65536, NULL), 0);
	assert_int_equal(disk_resize(&d, 131072, NULL), -EINVAL);
	disk_close(&d);
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", path, 0, NULL), -EINVAL);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(disk_open(&d, &f->rig.loop, "x", path, 0, NULL), -EINVAL);
	unlink(path);
}

/* A copy that did not come to its end is opened only by who fills it. */
static void a_part_is_not_started(void **state)
{
	static const struct {
		int flags, result;
	} rows[] = {{0, -EINVAL},
		    {DISK_OPEN_RO, -EINVAL},
		    {DISK_OPEN_DIRECT, -EINVAL},
		    {DISK_OPEN_UNLOCKED, 0},
		    {DISK_OPEN_CREATE, 0}};
	struct fix *f = *state;

	assert_false(disk_is_part(&f->d));
	disk_part_fill(f->buf);
	assert_int_equal(run(f, DISK_WRITE, 0, DISK_PART_BYTES), 0);
	assert_true(disk_is_part(&f->d));
	disk_unlock(&f->d);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err e = {0};
		struct disk d;
		int r = disk_open(&d, &f->rig.loop, "x", f->path, rows[i].flags, &e);

		assert_int_equal(r, rows[i].result);
		if (!r) {
			disk_close(&d);
			continue;
		}
		assert_non_null(strstr(e.msg, "a part of an image"));
		assert_non_null(strstr(e.msg, "bs=4096 count=1 conv=notrunc"));
	}
}

static uint64_t allocated(struct fix *f)
{
	struct stat st;

	assert_int_equal(fstat(f->d.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Zeros as holes, where that is asked for. */
static void zeros_that_take_no_space(void **state)
{
	struct fix *f = *state;
	uint64_t full;
	struct req q;

	memset(f->buf, 1, BYTES);
	assert_int_equal(run(f, DISK_WRITE, 0, BYTES), 0);
	full = allocated(f);
	q = (struct req){.f = f};
	q.r = (struct disk_req){
		.kind = DISK_ZERO, .len = 65536, .sparse = true, .done = on_done, .arg = &q};
	disk_submit(&f->d, &q.r);
	rig_until(&f->rig, q.done);
	assert_int_equal(q.res, 0);
	assert_true(allocated(f) <= full - 65536);
	assert_int_equal(run(f, DISK_READ, 0, 65536), 0);
	for (unsigned i = 0; i < 65536; i++)
		assert_int_equal(f->buf[i], 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(moves_bytes),
		T(zeros_are_written_when_nothing_else_works),
		T(medium_errors_and_short_transfers),
		T(an_error_may_be_kept),
		T(refuses_what_is_out_of_range),
		T(file_shrinks),
		T(hold_keeps_order),
		T(overlapping_changes_go_one_by_one),
		T(many_requests),
		T(the_hook_may_hold),
		T(close_gives_held_requests_back),
		T(lock_keeps_others_out),
		T(a_lock_is_asked_for),
		T(a_lock_is_given_up_and_taken),
		T(drained_when_nothing_is_under_way),
		T(open_errors_say_what_to_do),
		T(a_part_is_not_started),
		T(zeros_that_take_no_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
