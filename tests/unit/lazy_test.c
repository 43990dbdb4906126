/* Memory that comes from a snapshot's file while it is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "postcopy/lazy.h"
#include "postcopy/pager.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "vmm/base/log.h"
#include "vmm/copy/live_snapshot.h"
#include "vmm/copy/snapshot.h"

static char folder[64], path[80], image[80];
static struct loop loop;
static struct vm vm, other;
static struct machine machine;
static struct config cfg;
static struct live_snapshot *live;
static struct lazy *lazy;
static uint8_t *want;
static bool written, told_whole, told_lost;
static struct err told_err;

/* Pages of every kind; odd rounds change some of what is in the file already. */
static void change(unsigned round)
{
	for (uint64_t p = round; p < vm.mem.npages; p += 1 + 2 * round)
		for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
			guest_writes(
				&vm.mem, p, i,
				p % 7 == round ? 0 : (p * 512 + i + round) * 0x9e3779b97f4a7c15ull);
	assert_int_equal(mem_discard(&vm.mem, (32 + round) * MEM_PAGE_SIZE, 8 * MEM_PAGE_SIZE), 0);
}

static void saved(void *arg, enum live_snapshot_event ev, const struct err *e)
{
	static unsigned rounds;
	int r;

	written = ev == LIVE_WRITTEN;
	if (written) {
		rounds = 0;
		return;
	}
	assert_int_equal(ev, LIVE_REST);
	change(1 + rounds++ % 3);
	r = live_snapshot_take(live, NULL);
	assert_true(!r || r == -EAGAIN);
	if (!r)
		memcpy(want, vm.mem.base, vm.mem.bytes);
	assert_int_equal(r ? live_snapshot_pass(live, NULL) : live_snapshot_write(live, NULL), 0);
}

static void save(void)
{
	/* Room for what the third round changes, and not for the others. */
	const struct live_snapshot_plan plan = {
		.path = path, .copy_bytes = 100 * MEM_PAGE_SIZE, .told = saved};

	change(0);
	written = false;
	assert_int_equal(live_snapshot_new(&live, &vm, &plan, NULL), 0);
	assert_int_equal(live_snapshot_pass(live, NULL), 0);
	while (!written)
		assert_int_equal(loop_run_once(&loop, 1000000000ull), 0);
	live_snapshot_free(live);
	vm_destroy(&vm);
}

static int setup(void **state)
{
	struct err e = {0};

	log_init(LOG_ERROR, "test");
	strcpy(folder, "/tmp/lazy-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/snap", folder);
	snprintf(image, sizeof(image), "%s/image", folder);
	assert_int_equal(loop_init(&loop, NULL), 0);
	fake_vm_reset();
	fake_machine(&machine, &cfg, image);
	fake_vm_create(&vm, &loop, &machine, &cfg);
	kvm_model_start(&vm.mem);
	vm.kvm = kvm_model.kvm;
	want = malloc(vm.mem.bytes);
	assert_non_null(want);
	told_whole = told_lost = false;
	told_err = (struct err){0};
	save();
	if (lazy_new(&lazy, &e))
		printf("skipped: %s\n", e.msg);
	return 0;
}

static int teardown(void **state)
{
	lazy_free(lazy);
	lazy = NULL;
	vm_destroy(&other);
	free(want);
	kvm_model_end();
	loop_done(&loop);
	unlink(path);
	unlink(image);
	assert_int_equal(rmdir(folder), 0);
	return 0;
}

static void told(void *arg, const struct err *e)
{
	assert_false(told_whole || told_lost);
	told_whole = !e;
	told_lost = e;
	if (e)
		told_err = *e;
}

static int restore(struct err *e)
{
	struct snapshot_pages pages;
	struct backends b;

	if (!lazy)
		skip();
	pages = lazy_pages(lazy);
	config_to_backends(&cfg, &b);
	return snapshot_restore(&other, &loop, &b, path, &pages, e);
}

static void until_told(void)
{
	while (!told_whole && !told_lost)
		assert_int_equal(loop_run_once(&loop, 1000000000ull), 0);
}

/* Whoever touches a page has that of the snapshot, in whichever order it is asked for. */
static void each_page_is_the_last(void **state)
{
	struct err e = {0};

	assert_int_equal(restore(&e), 0);
	for (uint64_t i = 0, p; i < other.mem.npages; i++) {
		p = (i * 277 + 5) % other.mem.npages;
		assert_memory_equal(mem_page(&other.mem, p), want + p * MEM_PAGE_SIZE,
				    MEM_PAGE_SIZE);
	}
	assert_int_equal(lazy_go(lazy, &e), 0);
	assert_int_equal(lazy_watch(lazy, told, NULL, &e), 0);
	until_told();
	assert_true(told_whole);
}

/* Nobody asks: all of it comes by itself. What was written meanwhile stays. */
static void all_comes(void **state)
{
	struct err e = {0};
	uint64_t value = 0x1234;

	assert_int_equal(restore(&e), 0);
	assert_int_equal(lazy_go(lazy, &e), 0);
	assert_int_equal(lazy_watch(lazy, told, NULL, &e), 0);
	assert_int_equal(mem_write(&other.mem, 300 * MEM_PAGE_SIZE, &value, sizeof(value)), 0);
	memcpy(want + 300 * MEM_PAGE_SIZE, &value, sizeof(value));
	assert_int_equal(mem_discard(&other.mem, 400 * MEM_PAGE_SIZE, 9 * MEM_PAGE_SIZE), 0);
	memset(want + 400 * MEM_PAGE_SIZE, 0, 9 * MEM_PAGE_SIZE);
	until_told();
	assert_true(told_whole);
	lazy_free(lazy);
	lazy = NULL;
	assert_memory_equal(other.mem.base, want, other.mem.bytes);
}

static off_t file_size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* Between the first look at it and the second; in vm_try_load() there is a moment for that. */
static void damage(bool cut)
{
	off_t at = file_size() / 2;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	if (cut)
		assert_int_equal(ftruncate(fd, at), 0);
	else
		assert_int_equal(pwrite(fd, "damaged", 7, at), 7);
	close(fd);
}

/*
 * As the thread may be through before, only this holds: what is here is right, what is missing is
 * told of, and then the VM does not go.
 */
static void damaged(bool cut)
{
	struct err e = {0};
	int r = restore(&e);

	assert_int_equal(r, 0);
	damage(cut);
	r = lazy_watch(lazy, told, NULL, &e);
	assert_int_equal(r, 0);
	until_told();
	if (told_whole) {
		assert_memory_equal(other.mem.base, want, other.mem.bytes);
		return;
	}
	assert_non_null(strstr(told_err.msg, "the file is not what it was"));
	assert_int_equal(lazy_go(lazy, &e), -EIO);
}

static void cut_meanwhile(void **state)
{
	damaged(true);
}

static void changed_meanwhile(void **state)
{
	damaged(false);
}

/* A file that was bad from the beginning is refused as by an eager restore. */
static void bad_files(void **state)
{
	struct err e = {0};

	damage(false);
	assert_int_not_equal(restore(&e), 0);
	assert_non_null(strstr(e.msg, "checksum is wrong"));
	damage(true);
	e = (struct err){0};
	assert_int_not_equal(restore(&e), 0);
}

/* The host does not take the state: nothing is left of it, though pages were on their way. */
static void refused_state(void **state)
{
	struct err e = {0};

	fake_vm.refuses = true;
	assert_int_equal(restore(&e), -EINVAL);
	assert_non_null(strstr(e.msg, "this host refuses"));
	assert_null(other.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(each_page_is_the_last), T(all_comes), T(cut_meanwhile),
		T(changed_meanwhile),	  T(bad_files), T(refused_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
