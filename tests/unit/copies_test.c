/* Which images are copied, and what of them is marked while they are. */
#define _GNU_SOURCE /* OFD locks */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>

#include "postcopy/passes.h"

#define BYTES (20 * BLOCK_MAP_BYTES)

struct fix {
	struct rig rig;
	struct vm vm; /* a console, and one disk */
	char path[64];
	struct copies copies;
	uint8_t *buf;
	struct disk_req req;
	bool done;
	int other; /* of a process that has the image, or -1 */
};

static struct disk *disk(struct fix *f)
{
	return &f->vm.devices.disks[1];
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	int fd;

	rig_init(&f->rig, 0);
	strcpy(f->path, "/tmp/ftvmm-copies-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	f->vm.loop = &f->rig.loop;
	f->vm.machine.ndevs = 2;
	f->vm.machine.devs[0].kind = MDEV_CONSOLE;
	f->vm.machine.devs[1] = (struct mdev){.kind = MDEV_BLK, .bytes = BYTES};
	f->vm.devices.disks[0].fd = -1;
	assert_int_equal(disk_open(disk(f), &f->rig.loop, "d0", f->path, DISK_OPEN_UNLOCKED, NULL),
			 0);
	f->buf = aligned_alloc(4096, BLOCK_MAP_BYTES);
	f->other = -1;
	*state = f;
	return 0;
}

static void other_locks(struct fix *f, bool locks)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (f->other >= 0)
		close(f->other);
	f->other = locks ? open(f->path, O_RDWR | O_CLOEXEC) : -1;
	if (locks)
		assert_int_equal(fcntl(f->other, F_OFD_SETLK, &fl), 0);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	copies_forget(&f->copies);
	copies_forget(&f->copies);
	other_locks(f, false);
	disk_close(disk(f));
	rig_done(&f->rig);
	unlink(f->path);
	free(f->buf);
	free(f);
	return 0;
}

/* --- which ------------------------------------------------------------------------------------ */

enum like { SAME, ANOTHER, UNKNOWN, SAME_NUMBER, SAME_NUMBER_UNKNOWN, A_DEVICE };

static struct wire_image theirs(struct fix *f, enum like like)
{
	struct wire_image list[MACHINE_MAX_DEVS], *w = &list[0];

	assert_int_equal(copies_list(&f->vm, list), 1);
	assert_int_equal(w->disk, 1);
	assert_int_equal(w->kind, WIRE_IMAGE_FILE);
	if (like == ANOTHER)
		w->inode++;
	else if (like == UNKNOWN)
		w->inode = 0;
	else if (like == SAME_NUMBER)
		w->born_ns ^= 1;
	else if (like == SAME_NUMBER_UNKNOWN)
		w->born_s = 0;
	else if (like == A_DEVICE)
		w->kind = WIRE_IMAGE_DEVICE;
	return *w;
}

/* What is not sure to be another one is not written; what somebody has is not, either. */
static void which(void **state)
{
	static const struct {
		enum like like;
		bool in_use;
		int result;
		uint32_t copied;
	} rows[] = {
		{SAME, true, 0, 0},
		{SAME, false, -EPERM, 0},
		{UNKNOWN, true, 0, 0},
		{UNKNOWN, false, -EPERM, 0},
		{ANOTHER, false, 0, 2},
		{ANOTHER, true, -EBUSY, 0},
		{A_DEVICE, false, -EPERM, 0},
		{A_DEVICE, true, -EPERM, 0},
		{SAME_NUMBER, false, 0, 2},
		{SAME_NUMBER_UNKNOWN, false, -EPERM, 0},
		{SAME_NUMBER_UNKNOWN, true, 0, 0},
	};
	struct fix *f = *state;
	struct wire_image known = theirs(f, SAME);

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct wire_image w = theirs(f, rows[i].like);
		uint32_t copied = 99;
		struct err e = {0};

		if (rows[i].like == SAME_NUMBER && !known.born_s)
			continue; /* this file system does not know */
		disk_unlock(disk(f));
		other_locks(f, rows[i].in_use);
		assert_int_equal(copies_choose(&f->vm, &w, 1, &copied, &e), rows[i].result);
		assert_int_equal(copied, rows[i].copied);
		assert_int_equal(!!e.msg[0], rows[i].result != 0);
		if (!rows[i].copied)
			continue;
		other_locks(f, false);
		f->other = open(f->path, O_RDWR | O_CLOEXEC);
		assert_true(disk_is_elsewhere(&(struct disk){.fd = f->other})); /* it is ours now */
	}
}

/* A file system whose numbers say nothing: at either side, another number is no other file. */
static void numbers_that_say_nothing(void **state)
{
	struct fix *f = *state;
	struct wire_image list[MACHINE_MAX_DEVS], good = theirs(f, ANOTHER);
	int fd = open("/proc/self/comm", O_RDWR | O_CLOEXEC);
	struct err e = {0};
	uint32_t copied;

	assert_true(fd >= 0 && dup2(fd, disk(f)->fd) >= 0);
	close(fd);
	assert_int_equal(copies_list(&f->vm, list), 1);
	assert_int_equal(list[0].kind, WIRE_IMAGE_FILE);
	assert_int_equal(list[0].inode, 0);
	assert_int_equal(copies_choose(&f->vm, &good, 1, &copied, &e), -EPERM);
	assert_int_equal(copied, 0);
	assert_non_null(strstr(e.msg, "the file system here"));
	assert_non_null(strstr(e.msg, "keep both images on ext4"));
}

static void only_what_the_guest_writes(void **state)
{
	struct fix *f = *state;
	struct wire_image list[MACHINE_MAX_DEVS], w = theirs(f, ANOTHER);
	uint32_t copied;

	for (uint32_t i = 0; i < 40; i++) {
		w.disk = i;
		assert_int_equal(copies_choose(&f->vm, &w, 1, &copied, NULL),
				 i == 1 ? 0 : -EBADMSG);
	}
	f->vm.machine.devs[1].readonly = true;
	w.disk = 1;
	assert_int_equal(copies_list(&f->vm, list), 0);
	assert_int_equal(copies_choose(&f->vm, &w, 1, &copied, NULL), -EBADMSG);
	assert_int_equal(copies_choose(&f->vm, &w, 0, &copied, NULL), 0);
	assert_int_equal(copied, 0);
}

/* --- what is changed -------------------------------------------------------------------------- */

static void on_done(struct disk_req *r, int res)
{
	((struct fix *)r->arg)->done = true;
}

static void change(struct fix *f, enum disk_op kind, uint64_t off, uint32_t len)
{
	f->done = false;
	f->req = (struct disk_req){
		.kind = kind, .off = off, .len = len, .buf = f->buf, .done = on_done, .arg = f};
	disk_submit(disk(f), &f->req);
}

/* Each kind of change, when it is in the image, and not before. */
static void marks(void **state)
{
	static const struct {
		enum disk_op kind;
		uint64_t off;
		uint32_t len;
		uint64_t first, count;
	} rows[] = {
		{DISK_WRITE, 0, 512, 0, 1},
		{DISK_WRITE, 3 * BLOCK_MAP_BYTES - 512, 1024, 2, 2},
		{DISK_ZERO, 5 * BLOCK_MAP_BYTES, 3 * BLOCK_MAP_BYTES, 5, 3},
		{DISK_DISCARD, BYTES - 512, 512, 19, 1},
		{DISK_FLUSH, 0, 0, 20, 0},
		{DISK_READ, 0, 512, 20, 0},
		{DISK_WRITE, BYTES, 512, 20, 0}, /* refused */
	};
	struct fix *f = *state;
	struct block_map *map = &f->copies.maps[1];

	assert_int_equal(copies_watch(&f->copies, &f->vm, 2, NULL), 0);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		change(f, rows[i].kind, rows[i].off, rows[i].len);
		assert_int_equal(block_map_count(map), 0);
		rig_until(&f->rig, f->done);
		assert_int_equal(block_map_count(map), rows[i].count);
		assert_int_equal(block_map_next(map, 0), rows[i].first);
		for (uint64_t b = 0; b < map->nblocks; b++)
			block_map_take(map, b);
	}
}

/* One that was under way when it began is not missed; after its end nobody looks. */
static void under_way(void **state)
{
	struct fix *f = *state;

	change(f, DISK_WRITE, BLOCK_MAP_BYTES, 512);
	assert_false(f->done);
	assert_int_equal(copies_watch(&f->copies, &f->vm, 2, NULL), 0);
	rig_until(&f->rig, f->done);
	assert_int_equal(block_map_count(&f->copies.maps[1]), 1);
	change(f, DISK_WRITE, BLOCK_MAP_BYTES, 512);
	copies_forget(&f->copies);
	rig_until(&f->rig, f->done);
}

/* The first block waits for the end, whether it is marked by now or not. */
static void what_is_left(void **state)
{
	static const struct {
		enum passes_part part;
		uint64_t first, count, left;
	} rows[] = {
		{PASSES_LIVE, 0, 0, 0}, {PASSES_LIVE, 0, 1, 0}, {PASSES_LIVE, 0, 3, 2},
		{PASSES_LIVE, 2, 3, 3}, {PASSES_LAST, 0, 0, 0}, {PASSES_LAST, 0, 3, 3},
	};
	struct fix *f = *state;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct passes p = {.copies = &f->copies, .part = rows[i].part};

		assert_int_equal(copies_watch(&f->copies, &f->vm, 2, NULL), 0);
		if (rows[i].count)
			block_map_mark(&f->copies.maps[1], rows[i].first * BLOCK_MAP_BYTES,
				       rows[i].count * BLOCK_MAP_BYTES);
		passes_disks_ns(&p);
		assert_int_equal(p.stats.disk_left, rows[i].left * BLOCK_MAP_BYTES);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(which, setup, teardown),
		cmocka_unit_test_setup_teardown(numbers_that_say_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(only_what_the_guest_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(marks, setup, teardown),
		cmocka_unit_test_setup_teardown(under_way, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_left, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
