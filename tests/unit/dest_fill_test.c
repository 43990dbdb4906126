/*
 * The destination while its memory comes in: a link that is lost at any moment, what it says that
 * it has, a source that says what is not so. A thread is the guest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libdest.h"
#include "tests/unit/libhostfail.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"

#define WORDS (DEST_RIG_PAGES / 64)

static int setup(void **state)
{
	int r = dest_rig_setup(state);
	struct dest_rig *rig = *state;

	rig->lazy = true;
	return r;
}

/* --- the guest ---------------------------------------------------------------------------------
 */

struct guest {
	pthread_t thread;
	const volatile uint64_t *at;
	uint64_t value;
	bool done; /* atomic */
};

static void *touch(void *arg)
{
	struct guest *g = arg;

	g->value = *g->at;
	__atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void guest_reads(struct dest_rig *r, struct guest *g, uint64_t page)
{
	*g = (struct guest){.at = (const volatile uint64_t *)mem_page(&r->vm.mem, page)};
	assert_int_equal(pthread_create(&g->thread, NULL, touch, g), 0);
}

static bool has_read(const struct guest *g)
{
	return __atomic_load_n(&g->done, __ATOMIC_ACQUIRE);
}

static void guest_has(struct dest_rig *r, struct guest *g, uint64_t value)
{
	loop_until(&r->loop, has_read(g));
	pthread_join(g->thread, NULL);
	assert_int_equal(g->value, value);
}

/* --- the source --------------------------------------------------------------------------------
 */

static void next_frame(struct dest_rig *r, struct stream *st, struct frame *f)
{
	int got = 0;

	loop_until(&r->loop, got || (got = stream_recv(st, f)) != 0);
	assert_int_equal(got, 1);
}

static void wanted(struct dest_rig *r, uint64_t page)
{
	struct frame f;

	next_frame(r, &r->pair, &f);
	assert_int_equal(f.type, FRAME_WANT);
	assert_int_equal(f.length, sizeof(page));
	assert_memory_equal(f.data, &page, sizeof(page));
}

/* It asks, and is told that these are there: exactly. */
static void ask(struct dest_rig *r, const uint64_t *had)
{
	struct wire_have w;
	struct frame f;

	here_asks(r, DEST_RIG_SESSION);
	next_frame(r, &r->ask, &f);
	assert_int_equal(f.type, FRAME_HAVE);
	assert_int_equal(f.length, sizeof(w) + WORDS * 8);
	memcpy(&w, f.data, sizeof(w));
	assert_int_equal(w.word, 0);
	assert_int_equal(w.nwords, WORDS);
	assert_int_equal(w.last, 1);
	assert_memory_equal(f.data + sizeof(w), had, WORDS * 8);
	here_hangs_up(r);
	r->link = r->ask;
	r->ask = (struct stream){.fd = -1};
	assert_int_equal(r->dest.fsm.state, DST_MENDING);
}

static void pair(struct dest_rig *r)
{
	here_pairs(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
	dest_rig_until(r, DST_FILL);
	assert_string_equal(r->ft.note, "");
}

static void send_rest(struct dest_rig *r, uint64_t urgent)
{
	here_maps(r, 0, DEST_RIG_PAGES);
	here_ends(r, urgent, 0, DEST_RIG_PAGES);
	assert_int_equal(here_hears(r, &r->link), FRAME_EOC);
	dest_rig_until(r, DST_RUNS);
	assert_null(r->dest.pager.mem);
}

static void until_left(struct dest_rig *r, uint64_t left)
{
	loop_until(&r->loop, pager_left(&r->dest.pager) == left);
}

/* --- the tests ---------------------------------------------------------------------------------
 */

static void all_comes(void **state)
{
	struct dest_rig *r = *state;
	struct guest g;

	dest_rig_reach(r, DST_FILL);
	guest_reads(r, &g, 77);
	wanted(r, 77);
	here_sends(&r->pair, 77, 1);
	guest_has(r, &g, 77);
	send_rest(r, 1);
	guest_reads(r, &g, 78);
	guest_has(r, &g, 0);
	here_says(&r->link, FRAME_GONE, NULL, 0);
	dest_rig_until(r, DST_HERE);
	dest_rig_expect(r, DST_HERE, "RUNNING", true);
}

/* Whoever waits when the link is lost waits on, is asked for by the new one, and gets it. */
static void who_waits_is_asked_for_again(void **state)
{
	struct dest_rig *r = *state;
	uint64_t had[WORDS] = {0xff00, 0, 0, 7ull << 61};
	struct guest g;

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 8, 8);
	here_maps(r, 253, 3);
	until_left(r, DEST_RIG_PAGES - 11);
	guest_reads(r, &g, 300);
	wanted(r, 300);
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	assert_non_null(strstr(r->ft.note, "501 pages have not come"));
	for (int n = 0; n < 3; n++) {
		ask(r, had);
		if (n == 0) {
			here_hangs_up(r); /* lost again before it is mended */
			dest_rig_until(r, DST_CUT);
			assert_int_equal(logged("link lost"), 1); /* once is enough */
			continue;
		}
		pair(r);
		wanted(r, 300);
		assert_false(has_read(&g));
		if (n == 1)
			stream_done(&r->pair); /* the urgent link alone */
		dest_rig_until(r, n == 1 ? DST_CUT : DST_FILL);
	}
	here_sends(&r->pair, 300, 1);
	guest_has(r, &g, 300);
	send_rest(r, 1);
}

/* It asks on a new link, and the old one has not ended here: that is no loss of anything. */
static void asked_before_it_sees_the_end(void **state)
{
	struct dest_rig *r = *state;
	uint64_t had[WORDS] = {1};
	struct stream old, old_pair;

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 0, 1);
	until_left(r, DEST_RIG_PAGES - 1);
	for (int n = 0; n < 3; n++) {
		old = r->link;
		old_pair = r->pair;
		r->link = r->pair = (struct stream){.fd = -1};
		ask(r, had);
		if (n != 1)
			pair(r);
		assert_int_equal(here_hears(r, &old), 0);
		stream_done(&old);
		stream_done(&old_pair);
	}
	send_rest(r, 0);
}

/* EOS was lost with the link: RUNS says that nothing is needed any more. */
static void all_has_come_when_it_is_cut(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_FILL);
	here_maps(r, 0, DEST_RIG_PAGES);
	until_left(r, 0);
	assert_int_equal(r->dest.fsm.state, DST_FILL);
	here_hangs_up(r);
	dest_rig_until(r, DST_RUNS);
	here_asks(r, DEST_RIG_SESSION);
	assert_int_equal(here_hears(r, &r->ask), FRAME_RUNS);
	here_says(&r->ask, FRAME_GONE, NULL, 0);
	dest_rig_until(r, DST_HERE);
}

/* The end, and not all of it: the source believed a HAVE that was none, or lies. */
static void end_that_is_none(void **state)
{
	struct dest_rig *r = *state;
	uint64_t had[WORDS] = {1};

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 0, 1);
	here_ends(r, 0, 1, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_until(r, DST_CUT);
	assert_non_null(strstr(r->dest.why, "511 pages have not come"));
	ask(r, had);
	pair(r);
	/* What it promises on the urgent link does not come, either. */
	here_ends(r, 1, 0, 0);
	here_says(&r->pair, FRAME_PAGES, NULL, 0);
	loop_turns(&r->loop);
	assert_int_equal(r->dest.fsm.state, DST_FILL);
	here_sends(&r->pair, 0, 1);
	dest_rig_until(r, DST_CUT);
	ask(r, had);
	pair(r);
	send_rest(r, 0);
	dest_rig_expect(r, DST_RUNS, "RUNNING", true);
}

/* Pages behind the end: they would be on their way while the last urgent one makes it whole. */
static void pages_behind_the_end(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_FILL);
	here_maps(r, 1, DEST_RIG_PAGES - 1);
	here_ends(r, 1, 0, DEST_RIG_PAGES - 1);
	until_left(r, 1);
	loop_until(&r->loop, r->dest.pager.got_eos);
	here_sends(&r->link, 0, 16);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_until(r, DST_CUT);
	assert_non_null(strstr(r->dest.why, "behind the end"));
	assert_int_equal(pager_left(&r->dest.pager), 1);
	ask(r, (const uint64_t[WORDS]){[0] = -2, [1 ... WORDS - 1] = -1});
	pair(r);
	here_sends(&r->link, 0, 1);
	here_ends(r, 0, 1, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_EOC);
	dest_rig_until(r, DST_RUNS);
}

/* Nobody but the source of this migration gets in, or has its link taken away. */
static void strangers(void **state)
{
	struct dest_rig *r = *state;
	struct stream other = {.fd = -1};

	dest_rig_reach(r, DST_FILL);
	here_asks(r, DEST_RIG_SESSION + 1);
	assert_int_equal(here_hears(r, &r->ask), FRAME_REFUSE);
	here_dials(r, &other, STREAM_URGENT, DEST_RIG_SESSION + 1);
	here_says(&other, FRAME_PAGES, NULL, 0);
	assert_int_equal(here_hears(r, &other), 0);
	/* There is one already. */
	here_dials(r, &other, STREAM_URGENT, DEST_RIG_SESSION);
	here_says(&other, FRAME_PAGES, NULL, 0);
	assert_int_equal(here_hears(r, &other), 0);
	here_dials(r, &other, STREAM_MIGRATE, DEST_RIG_SESSION + 1);
	here_says(&other, FRAME_OFFER, "x", 1);
	assert_int_equal(here_hears(r, &other), FRAME_REFUSE);
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	/* It says nothing about itself, or comes before it was asked for. */
	here_dials(r, &other, STREAM_URGENT, DEST_RIG_SESSION);
	here_says(&other, FRAME_PAGES, NULL, 0);
	assert_int_equal(here_hears(r, &other), 0);
	stream_done(&other);
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
}

/* The user stops the VM: the source need not keep what nobody needs. */
static void stopped_while_it_fills(void **state)
{
	struct dest_rig *r = *state;
	struct guest g;

	dest_rig_reach(r, DST_FILL);
	guest_reads(r, &g, 5);
	wanted(r, 5);
	dest_stop(&r->dest);
	assert_int_equal(here_hears(r, &r->link), FRAME_EOC);
	guest_has(r, &g, 0); /* nobody sees it: the vCPUs have ended */
}

/* A source that freezes: its link lives. */
static void waits_in_vain(void **state)
{
	struct dest_rig *r = *state;
	struct guest g;

	dest_rig_reach(r, DST_FILL);
	time_pass(&r->loop, 20 * S); /* nobody waits */
	assert_string_equal(r->ft.note, "");
	guest_reads(r, &g, 300);
	wanted(r, 300);
	time_pass(&r->loop, 4 * S);
	assert_string_equal(r->ft.note, "");
	time_pass(&r->loop, 3 * S);
	assert_non_null(strstr(r->ft.note, "nothing has come for 5 s"));
	dest_rig_expect(r, DST_FILL, "RUNNING", true);
	here_sends(&r->link, 8, 1); /* of what is pushed */
	until_left(r, DEST_RIG_PAGES - 1);
	time_pass(&r->loop, S);
	assert_string_equal(r->ft.note, "");
	time_pass(&r->loop, 7 * S);
	assert_string_not_equal(r->ft.note, "");
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	assert_non_null(strstr(r->ft.note, "link lost"));
	time_pass(&r->loop, 20 * S);
	ask(r, (const uint64_t[WORDS]){1 << 8});
	time_pass(&r->loop, 9 * S);
	dest_rig_expect(r, DST_MENDING, "RUNNING", true);
	time_pass(&r->loop, S); /* it asked, and was frozen then */
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
	assert_non_null(strstr(r->ft.note, "says nothing more"));
	stream_done(&r->link);
	ask(r, (const uint64_t[WORDS]){1 << 8});
	time_pass(&r->loop, 9 * S);
	pair(r);
	here_sends(&r->pair, 300, 1);
	guest_has(r, &g, 300);
	send_rest(r, 1);
	time_pass(&r->loop, 20 * S);
	assert_string_equal(r->ft.note, "");
}

static unsigned told;
static struct err told_err;

static void on_told(void *arg, const struct err *e)
{
	told++;
	told_err = e ? *e : (struct err){0};
}

/* The source is dead, it seems: the VM stands and says so, and what is here is not given up. */
static void nobody_asks(void **state)
{
	struct dest_rig *r = *state;
	struct guest g;
	uint64_t missing;
	char path[80];

	dest_rig_reach(r, DST_FILL);
	here_sends(&r->link, 8, 1);
	until_left(r, DEST_RIG_PAGES - 1);
	guest_reads(r, &g, 300);
	wanted(r, 300);
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	time_pass(&r->loop, 29 * S);
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
	time_pass(&r->loop, 2 * S);
	dest_rig_expect(r, DST_ORPHAN, "INCOMPLETE", true);
	assert_non_null(strstr(r->ft.note, "has not asked for 30 s, and 511 pages"));
	assert_true(dest_fills(&r->dest));
	snprintf(path, sizeof(path), "%.60s/arrived", r->folder);
	told = 0;
	assert_int_equal(dest_write_arrived(&r->dest, path, on_told, NULL, &missing, NULL), 0);
	loop_until(&r->loop, told);
	assert_int_equal(told_err.code, 0);
	assert_int_equal(missing, 511);
	/* A file that is none: it stands again when it is clear that no more comes. */
	told = 0;
	assert_int_equal(dest_take_file(&r->dest, path, on_told, NULL, NULL), 0);
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
	loop_until(&r->loop, told);
	assert_non_null(strstr(told_err.msg, "not of this migration"));
	dest_rig_until(r, DST_CUT);
	loop_until(&r->loop, !dest_has_link(&r->dest));
	time_pass(&r->loop, 31 * S);
	dest_rig_expect(r, DST_ORPHAN, "INCOMPLETE", true);
	/* It lives, after all. */
	ask(r, (const uint64_t[WORDS]){1 << 8});
	dest_rig_expect(r, DST_MENDING, "RUNNING", true);
	assert_null(strstr(r->ft.note, "the VM stands"));
	pair(r);
	wanted(r, 300);
	here_sends(&r->pair, 300, 1);
	guest_has(r, &g, 300);
	send_rest(r, 1);
	dest_rig_expect(r, DST_RUNS, "RUNNING", true);
}

/* What the user paused stays so, and who resumes it waits for its memory, too. */
static void nobody_asks_for_one_that_is_paused(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_FILL);
	r->vm.running = false;
	r->ft.stands = FT_STAND_USER;
	here_hangs_up(r);
	dest_rig_until(r, DST_CUT);
	assert_string_equal(ft_word(&r->ft), "PAUSED");
	time_pass(&r->loop, 31 * S);
	assert_string_equal(ft_word(&r->ft), "INCOMPLETE");
	ft_go(&r->ft, &r->vm, FT_STAND_USER);
	assert_false(r->vm.running);
	ask(r, (const uint64_t[WORDS]){0});
	assert_true(r->vm.running);
	dest_rig_expect(r, DST_MENDING, "RUNNING", true);
	pair(r);
	send_rest(r, 0);
}

/* This host makes no pager's thread: nothing has run here, and the VM is the source's. */
static void no_thread_for_faults(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RECEIVING);
	here_states(r, false);
	hostfail_thread(1);
	here_switches(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_until(r, DST_LISTEN);
	assert_true(hostfail_happened());
	assert_non_null(strstr(r->ft.note, "thread pager"));
	dest_rig_expect(r, DST_LISTEN, "STARTING", false);
	here_asks(r, DEST_RIG_SESSION);
	assert_int_equal(here_hears(r, &r->ask), FRAME_BYE);
	/* The next one comes in. */
	here_locks(r, true);
	dest_rig_reach(r, DST_FILL);
	send_rest(r, 0);
}

/* No memory for a page: the link is given up with that reason, and the page comes by the next. */
static void no_memory_for_a_page(void **state)
{
	uint64_t had[WORDS] = {0};
	struct dest_rig *r = *state;
	struct guest g;

	dest_rig_reach(r, DST_FILL);
	guest_reads(r, &g, 300);
	wanted(r, 300);
	for (unsigned urgent = 0; urgent < 2; urgent++) {
		hostfail_fill(1, ENOMEM, 0);
		here_sends(urgent ? &r->pair : &r->link, urgent ? 300 : 8, 1);
		dest_rig_until(r, DST_CUT);
		assert_int_equal(hostfail_left(), 0);
		assert_non_null(strstr(r->ft.note, "Cannot allocate memory"));
		dest_rig_expect(r, DST_CUT, "RUNNING", true);
		assert_false(has_read(&g));
		ask(r, had);
		pair(r);
		wanted(r, 300);
	}
	here_sends(&r->pair, 300, 1);
	guest_has(r, &g, 300);
	send_rest(r, 1);
}

/* Both links end, the urgent one is seen to first, and GO was said before: the VM is this side's.
 */
static void go_before_the_end_counts(void **state)
{
	struct dest_rig *r = *state;
	struct pollfd fd;

	dest_rig_reach(r, DST_READY);
	here_says(&r->link, FRAME_GO, NULL, 0);
	here_hangs_up(r);
	fd = (struct pollfd){.fd = r->dest.pager_fd, .events = POLLIN};
	assert_int_equal(poll(&fd, 1, 20000), 1);
	r->dest.pager_op.fn(&r->dest.pager_op, POLLIN);
	dest_rig_until(r, DST_CUT);
	dest_rig_expect(r, DST_CUT, "RUNNING", true);
	ask(r, (const uint64_t[WORDS]){0});
}

#define FILL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, dest_rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FILL_TEST(all_comes),
		FILL_TEST(who_waits_is_asked_for_again),
		FILL_TEST(asked_before_it_sees_the_end),
		FILL_TEST(all_has_come_when_it_is_cut),
		FILL_TEST(end_that_is_none),
		FILL_TEST(pages_behind_the_end),
		FILL_TEST(strangers),
		FILL_TEST(stopped_while_it_fills),
		FILL_TEST(waits_in_vain),
		FILL_TEST(no_thread_for_faults),
		FILL_TEST(no_memory_for_a_page),
		FILL_TEST(nobody_asks),
		FILL_TEST(nobody_asks_for_one_that_is_paused),
		FILL_TEST(go_before_the_end_counts),
	};

	return cmocka_run_group_tests(tests, dest_rig_skip_all, NULL);
}
