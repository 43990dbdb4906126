/* Disk changes on their way through staging: hostile ones, and more than was announced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/libstage.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct srig rig;

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

static void refuse_disk(uint16_t type, struct wire_disk w, size_t have)
{
	struct parts ps = {0};
	uint8_t *buf = calloc(1, sizeof(w) + have);
	struct err e;

	memcpy(buf, &w, sizeof(w));
	if (type == FRAME_DISKLOG) {
		parts_add(&ps, FRAME_EPOCH_BEGIN, 8, NULL, 0);
		parts_add(&ps, type, 8, buf, sizeof(w) + have);
	} else {
		parts_add(&ps, type, 0, buf, sizeof(w) + have);
	}
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), -EBADMSG);
	if (!strstr(e.msg, "disk log"))
		fail_msg("%s", e.msg);
	stage_abort(&rig.stage);
	assert_true(diskapply_idle(&rig.disks));
	assert_int_equal(rig.disks.queue.bytes, 0);
	parts_free(&ps);
	free(buf);
}

static const struct {
	struct wire_disk w;
	size_t have;
} hostile_ops[] = {
	/* disk */
	{{RIG_SHARED, DISK_WRITE, 0, 512, 512}, 512},
	{{RIG_RNG, DISK_WRITE, 0, 512, 512}, 512},
	{{RIG_DEVS, DISK_WRITE, 0, 512, 512}, 512},
	{{MACHINE_MAX_DEVS, DISK_WRITE, 0, 512, 512}, 512},
	{{UINT32_MAX, DISK_WRITE, 0, 512, 512}, 512},
	/* kind */
	{{RIG_MIRROR, DISK_READ, 0, 512, 512}, 512},
	{{RIG_MIRROR, DISK_READ, 0, 512, 0}, 0},
	{{RIG_MIRROR, DISK_DISCARD + 1, 0, 512, 0}, 0},
	{{RIG_MIRROR, UINT32_MAX, 0, 512, 512}, 512},
	{{RIG_MIRROR, 0x80000001, 0, 512, 512}, 512},
	/* range */
	{{RIG_MIRROR, DISK_WRITE, 1, 512, 512}, 512},
	{{RIG_MIRROR, DISK_WRITE, 511, 512, 512}, 512},
	{{RIG_MIRROR, DISK_WRITE, 0, 511, 511}, 511},
	{{RIG_MIRROR, DISK_WRITE, 0, 1, 1}, 1},
	{{RIG_MIRROR, DISK_WRITE, 0, 0, 0}, 0},
	{{RIG_MIRROR, DISK_ZERO, 0, 0, 0}, 0},
	{{RIG_MIRROR, DISK_WRITE, RIG_DISK, 512, 512}, 512},
	{{RIG_MIRROR, DISK_WRITE, RIG_DISK - 512, 1024, 1024}, 1024},
	{{RIG_MIRROR, DISK_ZERO, RIG_DISK - 512, 1024, 0}, 0},
	{{RIG_MIRROR, DISK_ZERO, 512, RIG_DISK, 0}, 0},
	{{RIG_MIRROR, DISK_ZERO, 0, UINT32_MAX - 511, 0}, 0},
	{{RIG_MIRROR, DISK_DISCARD, UINT64_MAX - 511, 512, 0}, 0},
	{{RIG_MIRROR, DISK_DISCARD, UINT64_MAX - 511, 1024, 0}, 0},
	{{RIG_MIRROR, DISK_WRITE, 1ull << 63, 512, 512}, 512},
	{{RIG_MIRROR, DISK_FLUSH, RIG_DISK + 512, 0, 0}, 0},
	/* bytes that follow */
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 512}, 511},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 512}, 513},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 512}, 0},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 1024}, 512},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 1024}, 1024},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, 0}, 0},
	{{RIG_MIRROR, DISK_WRITE, 0, 512, UINT32_MAX}, 512},
	{{RIG_MIRROR, DISK_ZERO, 0, 512, 512}, 512},
	{{RIG_MIRROR, DISK_ZERO, 0, 512, 0}, 512},
	{{RIG_MIRROR, DISK_FLUSH, 0, 512, 0}, 0},
	{{RIG_MIRROR, DISK_FLUSH, 0, 0, 512}, 512},
	{{RIG_MIRROR, DISK_FLUSH, 0, 0, 0}, 1},
};

static void hostile_disklog(void **state)
{
	struct parts ps = {0};
	uint8_t head[sizeof(struct wire_disk)] = {0};

	rig_mark(&rig);
	for (unsigned i = 0; i < COUNT(hostile_ops); i++) {
		refuse_disk(FRAME_DISK, hostile_ops[i].w, hostile_ops[i].have);
		refuse_disk(FRAME_DISKLOG, hostile_ops[i].w, hostile_ops[i].have);
	}
	rig_check_unchanged(&rig);
	rig_first_epoch(&rig, 7);
	for (unsigned i = 0; i < COUNT(hostile_ops); i++)
		refuse_disk(FRAME_DISKLOG, hostile_ops[i].w, hostile_ops[i].have);
	for (size_t len = 0; len < sizeof(head); len++) {
		parts_add(&ps, FRAME_EPOCH_BEGIN, 8, NULL, 0);
		parts_add(&ps, FRAME_DISKLOG, 8, head, len);
		rig_refuses_with(&rig, &ps, "short entry");
		parts_free(&ps);
	}
	rig_check_unchanged(&rig);
}

/* More than was announced, in large and in small pieces: refused before it grows. */
static void disklog_bound(void **state)
{
	static const uint32_t sizes[] = {0, 512, 4096, 1u << 20};
	uint64_t bound = 2ull * RIG_DISKLOG + (8u << 20);

	rig_first_epoch(&rig, 7);
	for (unsigned i = 0; i < COUNT(sizes); i++) {
		uint32_t len = sizes[i];
		struct wire_disk w = {RIG_MIRROR, len ? DISK_WRITE : DISK_FLUSH, 0, len, len};
		uint8_t *buf = calloc(1, sizeof(w) + len);
		struct frame f = {.type = FRAME_EPOCH_BEGIN, .epoch = 8};
		struct err e = {0};
		int r = stage_frame(&rig.stage, &f, &e);
		uint64_t n = 0;

		memcpy(buf, &w, sizeof(w));
		f = (struct frame){FRAME_DISKLOG, 0, 8, (uint32_t)sizeof(w) + len, buf};
		for (; !r && n < 1000000; n++)
			r = stage_frame(&rig.stage, &f, &e);
		assert_int_equal(r, -EBADMSG);
		assert_non_null(strstr(e.msg, "more than the announced"));
		assert_true(n * (sizeof(struct disk_write) + len) <=
			    bound + sizeof(struct disk_write) + len);
		stage_abort(&rig.stage);
		free(buf);
		rig_check_ram_and_pods(&rig);
	}
	rig_check_unchanged(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(hostile_disklog, setup, teardown),
		cmocka_unit_test_setup_teardown(disklog_bound, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
