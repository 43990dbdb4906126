/*
 * Memory runs out, at each place in turn, while one of the parts of ft/ starts: -ENOMEM, with the
 * reason where there is one, nothing left behind (sanitizers), and the next start is a good one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "ft/common/arbiter.h"
#include "ft/common/ft.h"
#include "ft/epoch/capture.h"
#include "vmm/copy/diskapply.h"
#include "ft/epoch/disklog.h"
#include "ft/epoch/send.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/libnomem.h"

#define BYTES (2ull << 20)
#define DISKS 3

static struct {
	struct loop loop;
	struct mem mem;
	struct machine machine;
	struct disk disks[DISKS];
	struct arbiter *arbiter;
} lab;

static int setup(void **state)
{
	memset(&lab, 0, sizeof(lab));
	assert_int_equal(loop_init(&lab.loop, NULL), 0);
	assert_int_equal(mem_init(&lab.mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	kvm_model_start(&lab.mem);
	lab.machine.ndevs = DISKS;
	for (unsigned i = 0; i < DISKS; i++) {
		lab.disks[i].fd = -1;
		lab.disks[i].bytes = 1 << 20;
		lab.machine.devs[i].kind = MDEV_BLK;
		lab.machine.devs[i].ft = i == 1 ? DISK_FT_SHARED : DISK_FT_MIRROR;
	}
	return 0;
}

static int teardown(void **state)
{
	kvm_model_end();
	mem_done(&lab.mem);
	loop_done(&lab.loop);
	return 0;
}

/* It starts something, ends it if it did start, and returns what the start returned. */
typedef int start_fn(struct err *e);

/* Every one of n allocations fails once; silent: the caller has words for it. */
static void each_fails(start_fn *start, unsigned n, bool silent)
{
	struct err e;

	for (unsigned i = 1; i <= n; i++) {
		int r;

		memset(&e, 0, sizeof(e));
		nomem_at(i, 1);
		r = start(&e);
		assert_true(nomem_happened());
		assert_int_equal(r, -ENOMEM);
		if (!silent) {
			assert_int_equal(e.code, -ENOMEM);
			assert_non_null(strstr(e.msg, "out of memory"));
		}
	}
	nomem_at(n + 1, 1);
	assert_int_equal(start(&e), 0);
	assert_false(nomem_happened());
	nomem_at(0, 0);
}

static int start_capture(struct err *e)
{
	struct capture c;
	int r = capture_init(&c, &kvm_model.kvm, &lab.mem, BYTES, e);

	capture_done(&c);
	return r;
}

static void capture(void **state)
{
	each_fails(start_capture, 8, false);
}

static int start_disklog(struct err *e)
{
	struct disklog dl;
	int r = disklog_start(&dl, &lab.loop, &lab.machine, lab.disks, 1 << 20, e);

	if (r)
		for (unsigned i = 0; i < DISKS; i++)
			assert_null(lab.disks[i].hook.arg);
	disklog_stop(&dl);
	return r;
}

static void disklog(void **state)
{
	each_fails(start_disklog, 2, false);
}

static int start_diskapply(struct err *e)
{
	struct diskapply da;
	int r = diskapply_init(&da, &lab.machine, lab.disks, NULL, NULL);

	diskapply_done(&da);
	return r;
}

static void diskapply(void **state)
{
	each_fails(start_diskapply, 1, true);
}

/* All images are flushed, or none is. */
static void diskapply_flushes(void **state)
{
	struct diskapply da;

	assert_int_equal(diskapply_init(&da, &lab.machine, lab.disks, NULL, NULL), 0);
	for (unsigned i = 1; i <= 2; i++) {
		nomem_at(i, 1);
		assert_int_equal(diskapply_flush(&da), -ENOMEM);
		assert_true(nomem_happened());
		assert_true(diskapply_idle(&da));
	}
	diskapply_done(&da);
}

static void disk_writes(void **state)
{
	const struct wire_disk w = {.kind = DISK_FLUSH};
	struct disk_writes l = {0};

	assert_int_equal(disk_writes_add(&l, &w, NULL), 0);
	nomem_at(1, 1);
	assert_int_equal(disk_writes_add(&l, &w, NULL), -ENOMEM);
	assert_true(nomem_happened());
	assert_int_equal(l.count, 1);
	assert_ptr_equal(l.head, l.last);
	assert_null(l.head->next);
	disk_writes_free(&l);
}

/* It needs no peer to fail. */
static void sender(void **state)
{
	struct stream st = {0};
	struct capture c = {.nbufs = 64};
	struct err e;

	for (unsigned i = 1; i <= 1 + 2 * SEND_JOBS; i++) {
		struct send s = {.stream = &st, .capture = &c, .state_cap = 4096};

		memset(&e, 0, sizeof(e));
		nomem_at(i, 1);
		assert_int_equal(send_start(&s, &e), -ENOMEM);
		assert_true(nomem_happened());
		assert_int_equal(e.code, -ENOMEM);
		assert_non_null(strstr(e.msg, "out of memory"));
		assert_false(s.started);
		send_stop(&s);
		assert_null(s.stream);
	}
}

static int open_none(struct err *e)
{
	struct arbiter *a = NULL;
	int r = arbiter_open(&a, NULL, "none", "vm", "here", e);

	if (!r)
		arbiter_close(a);
	return r;
}

static int open_file(struct err *e)
{
	struct arbiter *a = NULL;
	int r = arbiter_open(&a, NULL, "file:/tmp/nomem-test", "vm", "here", e);

	if (!r)
		arbiter_close(a);
	return r;
}

static int ask(struct err *e)
{
	struct arbiter_record rec;

	return arbiter_read(lab.arbiter, &rec, e);
}

static void arbiters(void **state)
{
	struct err e = {0};

	each_fails(open_none, 2, false);
	each_fails(open_file, 2, false);
	assert_int_equal(arbiter_open(&lab.arbiter, NULL, "none", "vm", "here", NULL), 0);
	nomem_at(1, 1);
	assert_int_equal(ask(NULL), 0); /* it is tried again */
	assert_true(nomem_happened());
	nomem_at(1, 2);
	assert_int_equal(ask(&e), -ENOMEM);
	assert_int_equal(e.code, -ENOMEM);
	assert_non_null(strstr(e.msg, "out of memory"));
	assert_int_equal(ask(NULL), 0);
	arbiter_close(lab.arbiter);
}

/* Nobody is told a wrong figure, and nothing falls. */
static void figures(void **state)
{
	static const uint32_t samples[FT_SAMPLES] = {3, 1, 2};

	nomem_at(1, 1);
	assert_int_equal(ft_percentile(samples, 3, 100), 0);
	assert_true(nomem_happened());
	assert_int_equal(ft_percentile(samples, 3, 100), 3);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(capture),	T(disklog), T(diskapply), T(diskapply_flushes),
		T(disk_writes), T(sender),  T(arbiters),  T(figures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
