/* A snapshot of a VM that goes on: what the file holds, and how it ends otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "vmm/base/log.h"
#include "vmm/copy/live_snapshot.h"
#include "vmm/copy/snapshot.h"

#define PAGES (2048u / 4)
#define COPY  16u /* pages, at most, while the VM stands */

ssize_t __wrap_writev(int fd, const struct iovec *iov, int n);
ssize_t __real_writev(int fd, const struct iovec *iov, int n);
int __wrap_loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns);

/* Storage that takes nothing while it is shut, after `open_for` writes. */
static struct storage {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool shut, blocks; /* blocks: a write waits */
	int open_for;
} storage = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static struct loop_op *minute;

static char folder[] = "/tmp/live-snapshot-XXXXXX", path[64], image[64];
static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct live_snapshot *live;
static struct {
	enum live_snapshot_event last;
	unsigned rests, lates, events;
	struct err err;
} seen;
/* What the guest and the host do when passes are over: before and after the VM stood. */
static void (*at_rest)(unsigned time), (*after_take)(void);
static int took;
static struct err take_err;

ssize_t __wrap_writev(int fd, const struct iovec *iov, int n)
{
	pthread_mutex_lock(&storage.lock);
	while (storage.shut && storage.open_for <= 0) {
		storage.blocks = true;
		pthread_cond_wait(&storage.cond, &storage.lock);
	}
	storage.open_for--;
	pthread_mutex_unlock(&storage.lock);
	return __real_writev(fd, iov, n);
}

/* Minutes pass when they are told to: a_minute(). */
int __wrap_loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns)
{
	assert_int_equal(delay_ns, LIVE_SNAPSHOT_IDLE_NS);
	minute = op;
	return 0;
}

static void shut_after(int writes)
{
	pthread_mutex_lock(&storage.lock);
	storage.shut = writes >= 0;
	storage.open_for = writes;
	storage.blocks = false;
	pthread_cond_broadcast(&storage.cond);
	pthread_mutex_unlock(&storage.lock);
}

static void told(void *arg, enum live_snapshot_event ev, const struct err *e)
{
	assert_ptr_equal(arg, &seen);
	seen.last = ev;
	seen.events++;
	seen.lates += ev == LIVE_LATE;
	if (ev == LIVE_FAILED)
		seen.err = *e;
	if (ev != LIVE_REST)
		return;
	if (at_rest)
		at_rest(seen.rests);
	seen.rests++;
	vm.running = true;
	take_err = (struct err){0};
	took = live_snapshot_take(live, &take_err);
	assert_true(vm.running);
	if (after_take)
		after_take();
	if (took == -EAGAIN)
		assert_int_equal(live_snapshot_pass(live, NULL), 0);
	else
		assert_int_equal(live_snapshot_write(live, NULL), 0);
}

static void run_until(enum live_snapshot_event a, enum live_snapshot_event b)
{
	uint64_t end = loop_now_ns() + 20000000000ull;

	while (!seen.events || (seen.last != a && seen.last != b)) {
		assert_true(loop_now_ns() < end);
		assert_int_equal(loop_run_once(&loop, 100000000ull), 0);
	}
}

static void word(uint64_t page, uint64_t value)
{
	guest_writes(&vm.mem, page, 7, value);
}

static int setup(void **state)
{
	log_init(LOG_ERROR, "test");
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/snap", folder);
	snprintf(image, sizeof(image), "%s/image", folder);
	assert_int_equal(loop_init(&loop, NULL), 0);
	fake_vm_reset();
	fake_machine(&machine, &cfg, image);
	fake_vm_create(&vm, &loop, &machine, &cfg);
	kvm_model_start(&vm.mem);
	vm.kvm = kvm_model.kvm;
	at_rest = NULL;
	after_take = NULL;
	took = 1;
	take_err = (struct err){0};
	shut_after(-1);
	for (uint64_t p = 0; p < PAGES; p += 2)
		word(p, p + 1);
	return 0;
}

static void gone(const char *suffix)
{
	char name[80];

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	assert_int_equal(access(name, F_OK), -1);
}

static int teardown(void **state)
{
	vm_destroy(&vm);
	kvm_model_end();
	loop_done(&loop);
	unlink(path);
	unlink(image);
	gone(".tmp");
	assert_int_equal(rmdir(folder), 0);
	return 0;
}

static void begin(void)
{
	const struct live_snapshot_plan plan = {
		.path = path, .copy_bytes = COPY * MEM_PAGE_SIZE, .told = told, .arg = &seen};

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(live_snapshot_new(&live, &vm, &plan, NULL), 0);
	assert_int_equal(live_snapshot_pass(live, NULL), 0);
}

/* The VM in the file is the one whose memory that was. */
static void check_restored(const uint8_t *want)
{
	static struct vm other;
	struct backends b;
	struct err e = {0};

	vm_destroy(&vm); /* which has the image */
	config_to_backends(&cfg, &b);
	assert_int_equal(snapshot_restore(&other, &loop, &b, path, NULL, &e), 0);
	assert_memory_equal(other.mem.base, want, other.mem.bytes);
	vm_destroy(&other);
}

static uint8_t *moment; /* memory when the VM stood */

static void keep_moment(void)
{
	memcpy(moment, vm.mem.base, vm.mem.bytes);
	/* What comes behind it is not in the file. */
	word(3, 333);
	word(100, 0x100);
	assert_int_equal(mem_zero(&vm.mem, 8 * MEM_PAGE_SIZE, MEM_PAGE_SIZE), 0);
}

/* By the guest, by a device, given back; of pages that the first pass has and of others. */
static void change_a_little(unsigned time)
{
	const char text[] = "a device was here";

	word(1, 11);
	word(2, 0);
	word(4, 44);
	assert_int_equal(mem_write(&vm.mem, 5 * MEM_PAGE_SIZE - 3, text, sizeof(text)), 0);
	assert_int_equal(mem_discard(&vm.mem, 64 * MEM_PAGE_SIZE, 4 * MEM_PAGE_SIZE), 0);
}

static void of_one_moment(void **state)
{
	struct live_snapshot_stats s;

	moment = malloc(vm.mem.bytes);
	assert_non_null(moment);
	at_rest = change_a_little;
	after_take = keep_moment;
	begin();
	run_until(LIVE_WRITTEN, LIVE_FAILED);
	assert_int_equal(seen.last, LIVE_WRITTEN);
	live_snapshot_stats(live, &s);
	assert_int_equal(s.passes, 1);
	assert_int_equal(s.copied, 3 + 2 + 4 - 1); /* page 4 twice */
	assert_true(s.pause_ns > 0);
	live_snapshot_free(live);
	check_restored(moment);
	free(moment);
}

/* More than may be copied, by the host, too; then less. */
static void change_much_once(unsigned time)
{
	for (uint64_t p = 0; !time && p <= COPY; p++)
		assert_int_equal(mem_write(&vm.mem, p * 2 * MEM_PAGE_SIZE, &p, sizeof(p)), 0);
	change_a_little(time);
}

static void keep_the_last_moment(void)
{
	if (!took)
		keep_moment();
}

static void another_pass(void **state)
{
	moment = malloc(vm.mem.bytes);
	assert_non_null(moment);
	at_rest = change_much_once;
	after_take = keep_the_last_moment;
	begin();
	run_until(LIVE_WRITTEN, LIVE_FAILED);
	assert_int_equal(seen.last, LIVE_WRITTEN);
	assert_int_equal(seen.rests, 2);
	live_snapshot_free(live);
	check_restored(moment);
	free(moment);
}

static void change_much(unsigned time)
{
	for (uint64_t p = 0; p <= COPY; p++)
		word(p * 3, time + p);
}

static void fails(const char *why)
{
	begin();
	run_until(LIVE_FAILED, LIVE_WRITTEN);
	assert_int_equal(seen.last, LIVE_FAILED);
	if (!strstr(seen.err.msg, why))
		fail_msg("not %s: %s", why, seen.err.msg);
	live_snapshot_free(live);
	gone("");
	gone(".tmp");
}

static void too_fast(void **state)
{
	at_rest = change_much;
	fails("staging=");
	assert_int_equal(took, -E2BIG);
	assert_int_equal(seen.rests, 2);
}

/* It gets less each time, and never little enough. */
static void change_less(unsigned time)
{
	for (uint64_t p = 0; p < PAGES >> time || p <= COPY; p++)
		word(p, time + p + 1);
}

static void too_slowly_less(void **state)
{
	at_rest = change_less;
	fails("staging=");
	assert_int_equal(seen.rests, 7); /* 512, 256, ... 32, 17, 17 pages */
}

/* The guest writes all of them as soon as they are protected: it does not get less. */
static void no_pass_without_end(void **state)
{
	struct live_snapshot_stats s;

	kvm_model.busy = PAGES;
	begin();
	run_until(LIVE_FAILED, LIVE_WRITTEN);
	live_snapshot_stats(live, &s);
	assert_int_equal(took, -E2BIG);
	assert_in_range(s.passes, 2, 4);
	live_snapshot_free(live);
}

static void one_log_one_owner(void **state)
{
	const struct live_snapshot_plan plan = {.path = path, .copy_bytes = MEM_PAGE_SIZE};
	struct live_snapshot *s;
	struct err e = {0};

	vm.kvm.tracked = true;
	assert_int_equal(live_snapshot_new(&s, &vm, &plan, &e), -EBUSY);
	assert_true(vm.kvm.tracked);
	vm.kvm.tracked = false;
}

static void what_fails(void **state)
{
	struct rlimit was, small = {4000, RLIM_INFINITY};

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	fails("File too large");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	kvm_model.fail = -EIO;
	fails("Input/output error");
	kvm_model.fail = 0;
	fake_vm.pause_error = -ETIMEDOUT;
	fails("vCPUs: only 0");
	fake_vm.pause_error = 0;
	fake_vm.save_error = -EIO;
	fails("state: ");
	fake_vm.save_error = 0;
	strcat(path, "/no/folder");
	fails("No such file or directory");
	*strstr(path, "/no/folder") = 0;
}

/* False: it is through. */
static bool until_blocked(void)
{
	bool blocks = false;

	while (!blocks && seen.last != LIVE_WRITTEN) {
		assert_int_equal(loop_run_once(&loop, 1000000ull), 0);
		pthread_mutex_lock(&storage.lock);
		blocks = storage.blocks;
		pthread_mutex_unlock(&storage.lock);
	}
	return blocks;
}

static void a_minute(void)
{
	minute->fn(minute, 0);
}

/* The first one may have brought something. */
static void minutes_until_late(void)
{
	for (int i = 0; i < 2 && !seen.lates; i++) {
		assert_true(until_blocked());
		a_minute();
	}
	assert_int_equal(seen.last, LIVE_LATE);
}

/*
 * Storage takes nothing any more, after so many writes; given up, the VM and its log are free at
 * once, and the thread touches neither again: it is gone by then.
 */
static void given_up_after(int writes)
{
	shut_after(writes);
	begin();
	minutes_until_late();
	live_snapshot_give_up(live);
	assert_false(vm.kvm.tracked);
	vm_destroy(&vm);
	shut_after(-1);
	run_until(LIVE_FAILED, LIVE_WRITTEN);
	assert_int_equal(seen.last, LIVE_FAILED);
	live_snapshot_free(live);
	gone("");
	gone(".tmp");
	fake_vm_create(&vm, &loop, &machine, &cfg);
	vm.kvm = kvm_model.kvm;
}

static void storage_is_away(void **state)
{
	for (int writes = 0; writes < 5; writes++) {
		/* Frames of the first pass come before, those of the copy behind. */
		for (uint64_t p = 0; p < PAGES; p++)
			for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
				guest_writes(&vm.mem, p, i, (p + i) * 0x9e3779b97f4a7c15ull);
		given_up_after(writes);
	}
}

/* In a pass over what is dirty the log is gone as well: not another look at that. */
static void given_up_in_a_dirty_pass(void **state)
{
	for (int writes = 9; writes < 12; writes++) {
		for (uint64_t p = 0; p < PAGES; p++)
			for (unsigned i = 0; i < (p % 7 ? MEM_PAGE_SIZE / 8 : 1); i++)
				guest_writes(&vm.mem, p, i, (p + i) * 0x9e3779b97f4a7c15ull);
		kvm_model.busy = PAGES;
		given_up_after(writes);
	}
}

/* Slow is not away: there is a deadline for each piece, none for all. */
static void slow_is_not_away(void **state)
{
	unsigned minutes = 0;

	do {
		shut_after(1);
		if (!minutes)
			begin();
		if (until_blocked())
			a_minute();
		minutes++;
	} while (seen.last != LIVE_WRITTEN || !seen.events);
	assert_true(minutes > 4);
	assert_int_equal(seen.lates, 0);
	live_snapshot_free(live);
}

static void abandoned(void **state)
{
	shut_after(1);
	begin();
	minutes_until_late();
	live_snapshot_abandon(live);
	vm_destroy(&vm);
	shut_after(-1);
	/* The thread is the last, and removes what there is. */
	while (!access(folder, F_OK)) {
		char tmp[80];

		snprintf(tmp, sizeof(tmp), "%s.tmp", path);
		if (access(tmp, F_OK))
			break;
		usleep(1000);
	}
	live_snapshot_abandon(NULL);
	gone("");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(of_one_moment),    T(too_slowly_less),     T(another_pass),
		T(too_fast),	     T(no_pass_without_end), T(one_log_one_owner),
		T(what_fails),	     T(storage_is_away),     T(given_up_in_a_dirty_pass),
		T(slow_is_not_away), T(abandoned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
