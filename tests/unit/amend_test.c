/* Changes that the primary's image failed: the log has what is there, before the guest is told. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ft/epoch/amend.h"
#include "ft/epoch/disklog.h"

#define IMAGE (1u << 20)
#define LIMIT (192u << 10)

struct req {
	struct disk_req req;
	uint8_t *buf;
	bool done;
	int res;
};

static struct loop loop;
static struct machine machine;
static struct disk disk;
static struct disklog dl;
static int memory; /* the image; takes no writes once it is sealed */
static struct req req;
static uint8_t other[IMAGE]; /* what the peer's image has */
static bool on;

static void is_on(void *arg)
{
	on = true;
}

static int setup(void **state)
{
	char path[40];

	memory = memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(memory >= 0 && !ftruncate(memory, IMAGE));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", memory);
	assert_int_equal(loop_init(&loop, NULL), 0);
	memset(&machine, 0, sizeof(machine));
	machine.ndevs = 1;
	machine.devs[0] = (struct mdev){.kind = MDEV_BLK, .bytes = IMAGE, .ft = DISK_FT_MIRROR};
	assert_int_equal(disk_open(&disk, &loop, "d", path, 0, NULL), 0);
	req.buf = aligned_alloc(4096, IMAGE);
	memset(other, 0, sizeof(other));
	on = false;
	assert_int_equal(disklog_start(&dl, &loop, &machine, &disk, LIMIT, NULL), 0);
	disklog_switch(&dl, is_on, NULL);
	while (!on)
		loop_run_once(&loop, 1000000);
	return 0;
}

static int teardown(void **state)
{
	disklog_stop(&dl);
	disk_close(&disk);
	close(memory);
	free(req.buf);
	loop_done(&loop);
	return 0;
}

static void done(struct disk_req *r, int res)
{
	req.done = true;
	req.res = res;
}

static void submit(enum disk_op kind, uint64_t off, uint32_t len, uint8_t byte)
{
	memset(req.buf, byte, len);
	req.done = false;
	req.req = (struct disk_req){
		.kind = kind, .off = off, .len = len, .buf = req.buf, .done = done};
	disk_submit(&disk, &req.req);
}

static int finished(void)
{
	for (int left = 10000; !req.done && left; left--)
		loop_run_once(&loop, 1000000);
	assert_true(req.done);
	return req.res;
}

/* An epoch is sealed, and acknowledged: the peer's image has all of it. How many changes. */
static unsigned epoch(void)
{
	struct disk_writes list;
	unsigned n = 0;

	assert_int_equal(disklog_cut(&dl, &list), 0);
	for (const struct disk_write *w = list.head; w; w = w->next, n++) {
		assert_int_equal(w->wire.disk, 0);
		if (w->wire.kind == DISK_WRITE)
			memcpy(other + w->wire.off, w->data, w->wire.len);
		else
			memset(other + w->wire.off, 0, w->wire.len);
	}
	disklog_free(&dl, &list);
	return n;
}

static void assert_alike(void)
{
	static uint8_t here[IMAGE];

	assert_int_equal(pread(memory, here, IMAGE, 0), IMAGE);
	assert_memory_equal(here, other, IMAGE);
	assert_int_equal(dl.differs, 0);
}

/* From here on writes fail, and reads do not. */
static void image_breaks(void)
{
	submit(DISK_WRITE, 4096, 2 * 65536 + 512, 1);
	assert_int_equal(finished(), 0);
	assert_int_equal(epoch(), 1);
	assert_int_equal(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

static void what_is_there_is_logged(void **state)
{
	static const enum disk_op kinds[] = {DISK_WRITE, DISK_ZERO, DISK_DISCARD};

	image_breaks();
	for (unsigned i = 0; i < 3; i++) {
		submit(kinds[i], 4096, 8192, 2);
		assert_int_equal(finished(), -EPERM);
		assert_int_equal(epoch(), 2);
		assert_alike();
	}
}

/* The peer may have the change before it fails here: the guest does not know then that it did. */
static void the_guest_is_told_behind_it(void **state)
{
	image_breaks();
	submit(DISK_WRITE, 4096, 4096, 2);
	assert_int_equal(epoch(), 1);
	assert_int_equal(other[4096], 2);
	for (int left = 10000; !dl.open.count && left; left--) {
		assert_false(req.done);
		assert_int_equal(disk.inflight, 1);
		loop_run_once(&loop, 1000000);
	}
	assert_false(req.done);
	assert_int_equal(finished(), -EPERM);
	assert_int_equal(epoch(), 1);
	assert_alike();
}

/* More than the log may have: in pieces, as it is acknowledged. */
static void one_more(void *arg)
{
	++*(unsigned *)arg;
}

static void a_large_one_waits_for_room(void **state)
{
	unsigned told = 0, times = 0;

	dl.filled = one_more;
	dl.wrote_arg = &told;
	image_breaks();
	submit(DISK_ZERO, 0, IMAGE, 0);
	for (int left = 10000; !req.done && left; left--) {
		loop_run_once(&loop, 1000000);
		assert_true(dl.bytes <= LIMIT + 65536 + sizeof(struct disk_write));
		assert_int_equal(told, times + dl.full); /* or nobody would ask for an epoch */
		times = told;
		if (dl.full)
			epoch();
	}
	assert_true(times > 1);
	assert_int_equal(req.res, -EPERM);
	epoch();
	assert_alike();
}

/* What cannot be read, or flushed, is said to be unlike. */
static void what_is_not_known(void **state)
{
	int pipes[2], folder = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	image_breaks();
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	submit(DISK_FLUSH, 0, 0, 0);
	assert_int_equal(finished(), 0);
	assert_int_equal(dl.differs, 0);
	assert_int_equal(dup2(pipes[1], disk.fd), disk.fd);
	submit(DISK_FLUSH, 0, 0, 0);
	assert_int_equal(finished(), -EINVAL);
	assert_int_equal(dl.differs, 1);
	dl.differs = 0;
	assert_int_equal(dup2(folder, disk.fd), disk.fd);
	submit(DISK_WRITE, 4096, 4096, 2);
	assert_true(finished() < 0);
	assert_int_equal(dl.differs, 1);
	close(folder);
	close(pipes[0]);
	close(pipes[1]);
}

/* The peer is lost meanwhile: nothing is read for it any more, and the guest is told. */
static void the_log_ends(void **state)
{
	for (unsigned turns = 0; turns < 4; turns++) {
		if (!turns)
			image_breaks();
		submit(DISK_ZERO, 0, IMAGE, 0);
		for (unsigned i = 0; i < turns; i++)
			loop_run_once(&loop, 1000000);
		disklog_stop(&dl);
		assert_int_equal(finished(), -EPERM);
		assert_int_equal(disk.inflight, 0);
		assert_int_equal(disklog_start(&dl, &loop, &machine, &disk, LIMIT, NULL), 0);
		on = false;
		disklog_switch(&dl, is_on, NULL);
		while (!on)
			loop_run_once(&loop, 1000000);
	}
}

static struct disk_req others[3];
static unsigned ended;

static void one_ended(struct disk_req *r, int res)
{
	assert_int_equal(res, 0);
	ended++;
}

static void submit_other(unsigned i, uint64_t off, uint32_t len)
{
	static uint8_t buf[IMAGE] __attribute__((aligned(4096)));

	others[i] = (struct disk_req){
		.kind = DISK_WRITE, .off = off, .len = len, .buf = buf, .done = one_ended};
	disk_submit(&disk, &others[i]);
}

/* What is read back while the log is above its limit does not say that there is room: disks wait.
 */
static void a_log_that_is_full_stays_so(void **state)
{
	struct disk_writes sealed;
	int good = memfd_create("good", MFD_CLOEXEC);

	assert_int_equal(ftruncate(good, IMAGE), 0);
	ended = 0;
	image_breaks();
	submit(DISK_WRITE, 0, 8192, 0x77);
	for (unsigned i = 0; i < 20000 && !dl.amends.first; i++)
		loop_run_once(&loop, 1000000);
	assert_non_null(dl.amends.first);
	assert_int_equal(dup2(good, disk.fd), disk.fd); /* others do not */
	close(good);
	submit_other(0, 65536, 65536);
	assert_int_equal(disklog_cut(&dl, &sealed), 0);
	submit_other(1, 262144, 136u << 10);
	assert_true(dl.full);
	submit_other(2, 524288, 4096);
	assert_true(disk.held);
	disklog_free(&dl, &sealed); /* its ack */
	while (dl.free_work.fn(&dl.free_work))
		;
	loop_work_del(&loop, &dl.free_work);
	assert_true(dl.full && dl.bytes <= LIMIT);
	for (unsigned e = 0; ended < 3; e++) {
		assert_in_range(e, 0, 20);
		for (unsigned i = 0; i < 50; i++)
			loop_run_once(&loop, 1000000);
		assert_int_equal(disklog_cut(&dl, &sealed), 0);
		disklog_free(&dl, &sealed);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_there_is_logged),
		T(the_guest_is_told_behind_it),
		T(a_large_one_waits_for_room),
		T(what_is_not_known),
		T(the_log_ends),
		T(a_log_that_is_full_stays_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
