/* Disk changes of committed epochs: in order, counted, dropped, and when an image fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/libstage.h"

static struct srig rig;
static uint64_t seed = 88172645463325252ull;

static int setup(void **state)
{
	rig_start(&rig);
	return 0;
}

static int teardown(void **state)
{
	rig_end(&rig);
	return 0;
}

static uint64_t below(uint64_t n)
{
	return rig_random(&seed) % n;
}

static void add(struct disk_writes *list, struct wire_disk w, uint8_t fill)
{
	uint8_t *buf = malloc(sizeof(w) + w.data);
	struct err e = {0};

	assert_non_null(buf);
	memcpy(buf, &w, sizeof(w));
	memset(buf + sizeof(w), fill, w.data);
	assert_int_equal(diskapply_parse(&rig.disks, buf, (uint32_t)sizeof(w) + w.data, list, &e),
			 0);
	free(buf);
}

static void add_write(struct disk_writes *list, uint32_t disk, uint64_t off, uint32_t len,
		      uint8_t fill)
{
	add(list, (struct wire_disk){disk, DISK_WRITE, off, len, len}, fill);
}

static void check_image(unsigned disk, const uint8_t *want)
{
	uint8_t *now = rig_read_disk(&rig, disk);

	assert_true(!memcmp(now, want, RIG_DISK));
	free(now);
}

/* Overlapping changes in batches, against a model in memory. */
static void order(void **state)
{
	static uint8_t model[RIG_DEVS][RIG_DISK];
	struct disk_writes list = {0};
	uint64_t total = 0;

	memset(model, 0, sizeof(model));
	for (unsigned n = 0; n < 1500; n++) {
		uint32_t disk = below(2) ? RIG_MIRROR : RIG_MIRROR2,
			 len = 512 * (1 + (uint32_t)below(16));
		uint64_t off = 512 * below(64);
		uint8_t fill = (uint8_t)(1 + below(255));

		if (below(5)) {
			add_write(&list, disk, off, len, fill);
			memset(model[disk] + off, fill, len);
		} else {
			add(&list, (struct wire_disk){disk, DISK_ZERO, off, len, 0}, 0);
			memset(model[disk] + off, 0, len);
		}
		if (below(4))
			continue;
		total += list.count;
		diskapply_push(&rig.disks, &list);
		assert_true(!list.head && !list.last && !list.count && !list.bytes);
		if (!below(6))
			loop_run_once(&rig.loop, 100000);
	}
	total += list.count;
	diskapply_push(&rig.disks, &list);
	diskapply_drain(&rig.disks);
	assert_true(diskapply_idle(&rig.disks));
	assert_int_equal(rig.disks.queue.bytes, 0);
	assert_int_equal(rig.moved, total);
	check_image(RIG_MIRROR, model[RIG_MIRROR]);
	check_image(RIG_MIRROR2, model[RIG_MIRROR2]);
}

/* What waits is forgotten; the one at the kernel goes on, and nothing is counted twice. */
static void drop(void **state)
{
	static uint8_t want[RIG_DISK];
	struct disk_writes list = {0};

	diskapply_drop(&rig.disks);
	for (unsigned i = 0; i < 100; i++)
		add_write(&list, RIG_MIRROR, i * 512, 512, 7);
	assert_int_equal(list.count, 100);
	diskapply_push(&rig.disks, &list);
	diskapply_drop(&rig.disks);
	assert_false(diskapply_idle(&rig.disks));
	assert_int_equal(rig.disks.queue.bytes, sizeof(struct disk_write) + 512);
	diskapply_drop(&rig.disks);
	diskapply_drain(&rig.disks);
	assert_int_equal(rig.disks.queue.bytes, 0);
	memset(want, 0, sizeof(want));
	memset(want, 7, 512);
	check_image(RIG_MIRROR, want);
	/* And it works again. */
	add_write(&list, RIG_MIRROR, 4096, 512, 9);
	diskapply_push(&rig.disks, &list);
	diskapply_drain(&rig.disks);
	memset(want + 4096, 9, 512);
	check_image(RIG_MIRROR, want);
}

/* An image that cannot be written: said once, the first reason is kept, the queue goes on. */
static void image_fails(void **state)
{
	struct disk_writes list = {0};
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/%u", rig.dir, RIG_MIRROR);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && dup2(fd, rig.disks.disks[RIG_MIRROR].fd) >= 0);
	close(fd);
	for (unsigned i = 0; i < 4; i++)
		add_write(&list, i % 2 ? RIG_MIRROR2 : RIG_MIRROR, 512, 512, (uint8_t)(i + 1));
	diskapply_push(&rig.disks, &list);
	diskapply_drain(&rig.disks);
	assert_true(diskapply_idle(&rig.disks));
	assert_int_equal(rig.disks.queue.bytes, 0);
	assert_int_equal(rig.disks.error, -EBADF);
	assert_int_equal(rig.moved, 4);
}

/* What is counted is what it costs, for the smallest writes too. */
static void memory(void **state)
{
	struct disk_writes list = {0};
	size_t before = mallinfo2().uordblks, after;

	for (unsigned i = 0; i < 20000; i++)
		add_write(&list, RIG_MIRROR, 512 * (i % 2048), 512, 1);
	after = mallinfo2().uordblks;
	assert_int_equal(list.bytes, 20000 * (sizeof(struct disk_write) + 512));
	/* A sanitizer's allocator does not tell. */
	if (after)
		assert_true(after - before <= list.bytes + list.bytes / 8);
	disk_writes_free(&list);
	assert_true(!list.head && !list.count && !list.bytes);
}

static void sizes(void **state)
{
	struct disk_writes list = {0};
	struct machine big = *rig.m;
	uint8_t buf[sizeof(struct wire_disk) + 512] = {0};
	struct wire_disk w = {RIG_MIRROR, DISK_ZERO, 0, DISKAPPLY_RANGE_MAX, 0};
	struct err e = {0};

	big.devs[RIG_MIRROR].bytes = 1ull << 40;
	rig.disks.machine = &big;
	memcpy(buf, &w, sizeof(w));
	assert_int_equal(diskapply_parse(&rig.disks, buf, sizeof(w), &list, &e), 0);
	w.len += 512;
	memcpy(buf, &w, sizeof(w));
	assert_int_equal(diskapply_parse(&rig.disks, buf, sizeof(w), &list, &e), -EBADMSG);
	w.kind = DISK_DISCARD;
	memcpy(buf, &w, sizeof(w));
	assert_int_equal(diskapply_parse(&rig.disks, buf, sizeof(w), &list, &e), -EBADMSG);
	assert_int_equal(list.count, 1);
	disk_writes_free(&list);
	/* The largest write fits into the buffer that it goes through. */
	add_write(&list, RIG_MIRROR, 0, DISKAPPLY_WRITE_MAX, 3);
	rig.disks.machine = rig.m;
	diskapply_push(&rig.disks, &list);
	diskapply_drain(&rig.disks);
	assert_int_equal(rig.disks.error, 0);
}

/* A peer may not write what is not its own: which of them it may is not its choice. */
static void only_what_was_taken(void **state)
{
	static const enum disk_op kinds[] = {DISK_WRITE, DISK_ZERO, DISK_DISCARD, DISK_FLUSH};
	static const unsigned taken[] = {RIG_MIRROR, RIG_MIRROR2};
	const uint32_t all = 1u << RIG_MIRROR | 1u << RIG_MIRROR2;
	uint8_t buf[sizeof(struct wire_disk) + 512] = {0};

	assert_int_equal(rig.disks.which, all);
	for (unsigned n = 0; n < 4 * 40; n++) {
		bool flush = kinds[n % 4] == DISK_FLUSH;
		struct wire_disk w = {.disk = n / 4,
				      .kind = kinds[n % 4],
				      .len = flush ? 0 : 512,
				      .data = kinds[n % 4] == DISK_WRITE ? 512 : 0};

		memcpy(buf, &w, sizeof(w));
		for (unsigned i = 0; i < 2; i++) {
			struct disk_writes list = {0};
			struct err e = {0};

			rig.disks.which = 1u << taken[i];
			assert_int_equal(diskapply_parse(&rig.disks, buf,
							 (uint32_t)sizeof(w) + w.data, &list, &e),
					 w.disk == taken[i] ? 0 : -EBADMSG);
			assert_int_equal(list.count, w.disk == taken[i]);
			disk_writes_free(&list);
		}
	}
}

static void larger_write(void **state)
{
	size_t len = DISKAPPLY_WRITE_MAX + 512;
	struct wire_disk w = {RIG_MIRROR, DISK_WRITE, 0, (uint32_t)len, (uint32_t)len};
	struct machine big = *rig.m;
	struct disk_writes list = {0};
	uint8_t *buf = calloc(1, sizeof(w) + len);
	struct err e = {0};

	big.devs[RIG_MIRROR].bytes = 1ull << 40;
	rig.disks.machine = &big;
	memcpy(buf, &w, sizeof(w));
	assert_int_equal(diskapply_parse(&rig.disks, buf, (uint32_t)(sizeof(w) + len), &list, &e),
			 -EBADMSG);
	assert_null(list.head);
	rig.disks.machine = rig.m;
	free(buf);
}

/* Every mirrored image, and no other, and only it. */
static void flush(void **state)
{
	static const unsigned want[] = {RIG_MIRROR, RIG_MIRROR2};
	struct disk_writes list = {0};
	unsigned i = 0;

	add_write(&list, RIG_MIRROR, 0, 512, 1);
	diskapply_push(&rig.disks, &list);
	assert_int_equal(diskapply_flush(&rig.disks), 0);
	assert_int_equal(rig.disks.queue.count, 3);
	for (const struct disk_write *w = rig.disks.queue.head->next; w; w = w->next, i++) {
		assert_int_equal(w->wire.disk, want[i]);
		assert_int_equal(w->wire.kind, DISK_FLUSH);
	}
	diskapply_drain(&rig.disks);
	assert_int_equal(rig.moved, 3);
	assert_int_equal(rig.disks.error, 0);
}

static void done_twice(void **state)
{
	struct disk_writes list = {0};

	add_write(&list, RIG_MIRROR, 0, 65536, 3);
	diskapply_push(&rig.disks, &list);
	diskapply_done(&rig.disks);
	diskapply_done(&rig.disks);
	assert_int_equal(diskapply_init(&rig.disks, rig.m, rig.vm.devices.disks, rig_moved, &rig),
			 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(order),	 T(drop),  T(image_fails),
		T(memory),	 T(sizes), T(only_what_was_taken),
		T(larger_write), T(flush), T(done_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
