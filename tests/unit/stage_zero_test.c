/* Whole pages on their way into a secondary: of zeros, and raw ones in a row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/libstage.h"
#include "vmm/copy/pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(fstat(rig.vm.mem.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

/* Pages that the guest gave back take no memory here either, nor staging on their way. */
static void zeros_take_no_memory(void **state)
{
	static const uint8_t zeros[MEM_PAGE_SIZE] __attribute__((aligned(8)));
	uint8_t buf[(RIG_PAGES - 64) * PAGE_HEAD_SIZE];
	struct golden g = {.epoch = 8};
	struct parts ps;
	struct err e;
	size_t len = 0;

	rig_first_epoch(&rig, 7);
	memset(rig.vm.mem.base, 'x', RIG_MEM);
	rig_mark(&rig);
	assert_int_equal(allocated(), RIG_PAGES);
	for (; g.epoch < 10; g.epoch++) {
		struct wire_end end = {.pages = RIG_PAGES - 64, .disk_ops = GOLDEN_OPS};

		golden_epoch(&rig, &g, &ps);
		len = 0;
		for (uint64_t p = 64; p < RIG_PAGES; p++)
			len += pages_encode(p, zeros, NULL, true, buf + len);
		assert_int_equal(len, sizeof(buf));
		parts_add(&ps, FRAME_PAGES, g.epoch, buf, len);
		for (unsigned at = ps.n - 1; at > 1; at--)
			parts_swap(&ps, at, at - 1);
		memcpy(ps.p[ps.n - 1].data, &end, sizeof(end));
		assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
		assert_int_equal(rig.stage.pages.nslots, 0);
		stage_commit(&rig.stage);
		assert_int_equal(allocated(), 64);
		rig_settle(&rig);
		parts_free(&ps);
	}
	for (uint64_t p = 0; p < RIG_PAGES; p++)
		assert_int_equal(*mem_page(&rig.vm.mem, p), p < 64 ? 'x' : 0);
}

/* In a first sync, too; there the same page may come again, in the same frame. */
static void a_sync_may_take_back(void **state)
{
	static uint8_t page[MEM_PAGE_SIZE] __attribute__((aligned(8)));
	static uint8_t buf[64 * PAGE_ENTRY_MAX];
	struct parts ps = {0};
	struct err e;
	size_t len = 0;

	memset(page, 'x', sizeof(page));
	for (uint64_t p = 0; p < 32; p++)
		len += pages_encode(p, page, NULL, false, buf + len);
	memset(page, 0, sizeof(page));
	for (uint64_t p = 0; p < 200; p++)
		len += pages_encode(p, page, NULL, false, buf + len);
	page[0] = 'y';
	len += pages_encode(5, page, NULL, false, buf + len);
	parts_add(&ps, FRAME_PAGES, 0, buf, len);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 0);
	parts_free(&ps);
	assert_int_equal(allocated(), 1);
	assert_memory_equal(mem_page(&rig.vm.mem, 5), page, MEM_PAGE_SIZE);
	for (uint64_t p = 0; p < 32; p++)
		assert_int_equal(*mem_page(&rig.vm.mem, p), p == 5 ? 'y' : 0);
}

/* More in a row than are written at once, with and without a gap. */
static void raw_pages_in_a_row(void **state)
{
	uint8_t page[MEM_PAGE_SIZE] __attribute__((aligned(8)));
	uint8_t *buf = malloc(RIG_PAGES * PAGE_ENTRY_MAX);
	struct parts ps = {0};
	uint64_t seed = 3;
	struct err e;
	size_t len = 0;

	assert_non_null(buf);
	for (uint64_t p = 0; p < MEM_FILL_MAX + 60; p++) {
		for (unsigned i = 0; i < MEM_PAGE_SIZE; i += 8) {
			uint64_t v = rig_random(&seed);

			memcpy(page + i, &v, 8);
		}
		memcpy(page, &p, sizeof(p));
		/* By hand: whatever the encoder makes of it, this is a raw one. */
		uint64_t at = p < MEM_FILL_MAX + 1 ? p : p + 5;
		uint64_t head = at << 24 | (uint64_t)PAGE_RAW << 16 | MEM_PAGE_SIZE;

		memcpy(buf + len, &head, PAGE_HEAD_SIZE);
		memcpy(buf + len + PAGE_HEAD_SIZE, page, MEM_PAGE_SIZE);
		len += PAGE_HEAD_SIZE + MEM_PAGE_SIZE;
	}
	parts_add(&ps, FRAME_PAGES, 0, buf, len);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 0);
	for (size_t off = 0, p = 0; off < len; off += PAGE_HEAD_SIZE + MEM_PAGE_SIZE, p++)
		assert_memory_equal(mem_page(&rig.vm.mem, p < MEM_FILL_MAX + 1 ? p : p + 5),
				    buf + off + PAGE_HEAD_SIZE, MEM_PAGE_SIZE);
	parts_free(&ps);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(zeros_take_no_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sync_may_take_back, setup, teardown),
		cmocka_unit_test_setup_teardown(raw_pages_in_a_row, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
