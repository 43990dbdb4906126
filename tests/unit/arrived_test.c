/* The source has died behind the switch: what has come is in a file, and what is missing is said.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libdest.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"
#include "vmm/copy/pages.h"
#include "vmm/machine/fdt.h"
#include "vmm/wire/chan.h"

enum { NOT_SAID, PAGE, ZERO, VOID };

static unsigned told;
static struct err told_err;
static uint8_t said[DEST_RIG_PAGES];

static int setup(void **state)
{
	int r = dest_rig_setup(state);
	struct dest_rig *rig = *state;

	rig->lazy = true;
	told = 0;
	told_err = (struct err){0};
	memset(said, NOT_SAID, sizeof(said));
	return r;
}

static void written(void *arg, const struct err *e)
{
	if (e)
		told_err = *e;
	told++;
}

static const char *file(const struct dest_rig *r)
{
	static char path[96];

	snprintf(path, sizeof(path), "%.60s/arrived", r->folder);
	return path;
}

static void say(uint64_t page, uint64_t n, int what)
{
	for (; n; n--, page++) {
		assert_true(page < DEST_RIG_PAGES);
		assert_int_equal(said[page], NOT_SAID);
		said[page] = (uint8_t)what;
	}
}

static void read_pages(const struct frame *f)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	uint64_t data[MEM_PAGE_SIZE / 8];
	struct page_entry en;

	while (pages_next(&pos, end, DEST_RIG_PAGES, &en) == 1) {
		assert_int_equal(pages_decode(&en, NULL, (uint8_t *)data), 0);
		for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
			assert_int_equal(data[i], en.page);
		say(en.page, 1, PAGE);
	}
	assert_ptr_equal(pos, end);
}

static void read_map(const struct frame *f)
{
	struct wire_map w;

	for (uint32_t at = 0; at < f->length; at += sizeof(w)) {
		memcpy(&w, f->data + at, sizeof(w));
		say(w.page, w.count, w.kind == WIRE_MAP_ZERO ? ZERO : VOID);
	}
}

/* The machine first, the end last. */
static void read_file(const char *path)
{
	struct stream st;
	struct machine m;
	struct frame f;

	stream_init(&st, chan_file_open(path, NULL), STREAM_FILE, 0);
	assert_int_equal(stream_recv(&st, &f), 1);
	assert_int_equal(f.type, FRAME_HELLO);
	assert_int_equal(fdt_parse(f.data, f.length, &m, NULL), 0);
	while (stream_recv(&st, &f) == 1 && f.type != FRAME_EOS)
		f.type == FRAME_PAGES ? read_pages(&f) : read_map(&f);
	assert_int_equal(f.type, FRAME_EOS);
	assert_int_equal(stream_recv(&st, &f), -EPIPE);
	stream_done(&st);
}

static void what_came_and_what_did_not(void **state)
{
	struct dest_rig *r = *state;
	uint64_t missing = 0;

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 8, 8);
	here_maps(r, 253, 3);
	loop_until(&r->loop, pager_left(&r->dest.pager) == DEST_RIG_PAGES - 11);
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, NULL), 0);
	assert_int_equal(missing, DEST_RIG_PAGES - 11);
	loop_until(&r->loop, told);
	assert_string_equal(told_err.msg, "");
	read_file(file(r));
	for (unsigned i = 0; i < DEST_RIG_PAGES; i++)
		assert_int_equal(said[i], i >= 8 && i < 16	? PAGE
					  : i >= 253 && i < 256 ? ZERO
								: VOID);
	/* It was only looked at: the source, if it lives, goes on. */
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
}

static void not_while_more_may_come(void **state)
{
	struct dest_rig *r = *state;
	struct err e = {0};
	uint64_t missing;

	dest_rig_reach(r, DST_FILL);
	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, &e),
			 -EBUSY);
	assert_non_null(strstr(e.msg, "only while the link"));
	assert_int_equal(access(file(r), F_OK), -1);
}

static void is_busy(int code, const struct err *e, const char *word)
{
	assert_int_equal(code, -EBUSY);
	if (!strstr(e->msg, word))
		fail_msg("'%s' is not in '%s'", word, e->msg);
}

/* Going on by a file changes what is being written. */
static void then_a_file(struct dest_rig *r)
{
	struct err e = {0};
	uint64_t missing;

	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, NULL), 0);
	is_busy(dest_take_file(&r->dest, "/none", written, NULL, &e), &e, "what has arrived");
	loop_until(&r->loop, told);
	assert_string_equal(told_err.msg, "");
	assert_int_equal(dest_take_file(&r->dest, "/none", written, NULL, NULL), 0);
	loop_until(&r->loop, told == 2);
}

/* Its link is lost, and who asked for it has no answer yet. */
static void after_a_file(struct dest_rig *r, enum dest_state s)
{
	uint64_t missing = 77;
	struct err e = {0};

	assert_int_equal(dest_take_file(&r->dest, "/none", written, NULL, NULL), 0);
	dest_lose(&r->dest, "cut off");
	if (s == DST_ORPHAN)
		time_fire(&r->dest.timer_op);
	dest_rig_expect(r, s, s == DST_CUT ? "RUNNING" : "INCOMPLETE", true);
	is_busy(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, &e), &e,
		"a file is being read");
	assert_int_equal(missing, 77);
	loop_until(&r->loop, told);
	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, NULL), 0);
	loop_until(&r->loop, told == 2);
}

static void one_at_a_time(void **state)
{
	static const enum dest_state states[] = {DST_CUT, DST_ORPHAN};

	for (unsigned i = 0; i < 4; i++) {
		enum dest_state s = states[i / 2];

		dest_rig_reach(*state, s);
		i % 2 ? after_a_file(*state, s) : then_a_file(*state);
		assert_int_equal(dest_rig_teardown(state), 0);
		assert_int_equal(setup(state), 0);
	}
}

/* Who is told how much is missing is the one whose file is written. */
static void a_second_one_is_refused(void **state)
{
	struct dest_rig *r = *state;
	uint64_t missing = 77;
	struct err e = {0};

	dest_rig_reach(r, DST_CUT);
	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, NULL), 0);
	missing = 77;
	is_busy(dest_write_arrived(&r->dest, "/none/x", written, NULL, &missing, &e), &e,
		"is being written");
	assert_int_equal(missing, 77);
	loop_until(&r->loop, told);
	assert_string_equal(told_err.msg, "");
}

/* The process ends while it is written: nobody looks at memory that is gone. */
static void the_end_lets_memory_go(void **state)
{
	struct dest_rig *r = *state;
	uint64_t missing;

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 8, 8);
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	assert_int_equal(dest_write_arrived(&r->dest, file(r), written, NULL, &missing, NULL), 0);
	dest_stop(&r->dest);
	assert_null(r->dest.arrived);
	assert_int_equal(told, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, dest_rig_teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_came_and_what_did_not),
		TEST(not_while_more_may_come),
		TEST(one_at_a_time),
		TEST(a_second_one_is_refused),
		TEST(the_end_lets_memory_go),
	};

	return cmocka_run_group_tests(tests, dest_rig_skip_all, NULL);
}
