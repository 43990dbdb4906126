#define _GNU_SOURCE
/* The pager's urgent link: cut, again, full, and a peer that sends nonsense. */
#include "tests/unit/libpager.h"

#include <signal.h>
#include <sys/wait.h>

static struct rig r;

static int setup(void **state)
{
	rig_open(&r);
	rig_start(&r);
	return 0;
}

static int teardown(void **state)
{
	rig_done(&r);
	return 0;
}

/* --- cut ----------------------------------------------------------------------------------------
 */

static void cut_twice_and_nothing_is_lost(void **state)
{
	struct toucher a, b, zero;
	uint64_t had;

	assert_int_equal(rig_take_map(&r, 64, 32, WIRE_MAP_ZERO), 0);
	assert_int_equal(rig_take_pages(&r, 96, 1, RIG_SEED), 0);
	touch(&r, &a, 5);
	RIG_WANT(&r, 5);
	stream_done(&r.peer);
	rig_event(&r, PAGER_LOST);
	pager_cut(&r.p);
	stream_done(&r.urgent);
	/* What needs no peer goes on. */
	touch(&r, &zero, 70);
	assert_int_equal(touch_end(&zero), 0);
	touch(&r, &b, 6);
	RIG_UNTIL(__atomic_load_n(&r.p.have.asked, __ATOMIC_ACQUIRE) == 2);
	have_bitmap(&r.p.have, 1, 1, &had);
	assert_int_equal(had, (1ull << 33) - 1);

	rig_again(&r);
	RIG_WANT(&r, 5, 6);
	rig_cut(&r); /* without an answer */
	assert_false(touched(&a) || touched(&b));
	rig_again(&r);
	RIG_WANT(&r, 5, 6);
	rig_send_pages(&r, 6, 1, RIG_SEED);
	assert_int_equal(touch_end(&b), rig_word(6, RIG_SEED));
	rig_cut(&r);
	rig_again(&r);
	RIG_WANT(&r, 5); /* only what has not come */
	rig_send_pages(&r, 5, 1, RIG_SEED);
	assert_int_equal(touch_end(&a), rig_word(5, RIG_SEED));
	RIG_UNTIL(!__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE));
	assert_true(r.p.faults.stats.all.max_ns > 0);
}

/* The loop's wishes outlive a link, too. */
static void the_loop_is_told_after_a_cut(void **state)
{
	rig_cut(&r);
	assert_false(mem_ready(&r.mem, 9 * MEM_PAGE_SIZE, 1));
	rig_again(&r);
	RIG_WANT(&r, 9);
	rig_send_pages(&r, 9, 1, RIG_SEED);
	rig_event(&r, PAGER_ARRIVED);
	assert_true(mem_ready(&r.mem, 9 * MEM_PAGE_SIZE, 1));
}

static void cut_is_safe_at_any_time(void **state)
{
	pager_cut(&r.p);
	pager_cut(&r.p);
	stream_done(&r.urgent);
	stream_done(&r.peer);
	for (int i = 0; i < 50; i++) {
		rig_again(&r);
		assert_false(mem_ready(&r.mem, 9 * MEM_PAGE_SIZE, 1));
		rig_cut(&r);
	}
}

/* A process with threads in faults and no link left ends when it is told to. */
static void a_cut_link_does_not_keep_the_process(void **state)
{
	int pipes[2], status;
	pid_t pid;
	char c;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct toucher t[3];

		rig_open(&r);
		rig_start(&r);
		for (unsigned i = 0; i < 3; i++)
			touch(&r, &t[i], i);
		RIG_UNTIL(__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE) == 3);
		rig_cut(&r);
		signal(SIGTERM, SIG_DFL);
		if (write(pipes[1], "x", 1) != 1)
			_exit(2);
		pause();
		_exit(3);
	}
	assert_int_equal(read(pipes[0], &c, 1), 1);
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	close(pipes[0]);
	close(pipes[1]);
}

/* --- a peer that does not answer
 * ------------------------------------------------------------------ */

static uint64_t asked[RIG_PAGES];
static unsigned nasked, nanswered, nunasked;

/* Answer so many requests, in their order. */
static void answer(unsigned n)
{
	struct frame f;

	for (unsigned end = nanswered + n; nanswered < end; nanswered++) {
		if (nanswered == nasked) {
			rig_next(&r, &f);
			assert_int_equal(f.type, FRAME_WANT);
			assert_true(f.length <= sizeof(asked) - nasked * sizeof(asked[0]));
			memcpy(asked + nasked, f.data, f.length);
			nasked += f.length / sizeof(asked[0]);
		}
		rig_send_pages(&r, asked[nanswered], 1, RIG_SEED);
	}
	RIG_UNTIL(__atomic_load_n(&r.p.counts.urgent, __ATOMIC_ACQUIRE) == nanswered + nunasked);
}

/* However much is wished for, what is on its way is bounded; the rest stays in the kernel. */
static void a_peer_that_stops_reading(void **state)
{
	const gpa_t rest = RIG_BYTES - 4 * MEM_PAGE_SIZE;
	struct toucher t[4];

	assert_false(mem_ready(&r.mem, 0, rest)); /* a look does not ask for all of it */
	assert_true(r.p.have.asked < PAGER_ASKED);
	for (uint64_t page = 0; page < RIG_PAGES - 4; page++)
		pager_want(&r.p, page);
	assert_int_equal(r.p.have.asked, 2 * PAGER_ASKED);
	/* When this has been taken, the next look at faults finds no room for them. */
	rig_send_pages(&r, RIG_PAGES - 5, 1, RIG_SEED);
	nunasked = 1;
	RIG_UNTIL(__atomic_load_n(&r.p.counts.urgent, __ATOMIC_ACQUIRE) == 1);
	for (unsigned i = 0; i < 4; i++)
		touch(&r, &t[i], RIG_PAGES - 4 + i);
	pager_want(&r.p, RIG_PAGES - 6);
	answer(PAGER_ASKED);
	assert_int_equal(r.p.have.asked, PAGER_ASKED);
	assert_int_equal(r.p.faults.stats.all.count, 0); /* no room for them yet */
	assert_int_equal(nasked <= 2 * PAGER_ASKED, 1);
	rig_event(&r, PAGER_ARRIVED);
	answer(PAGER_ASKED);
	RIG_UNTIL(__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE) == 4);
	answer(4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(touch_end(&t[i]), rig_word(RIG_PAGES - 4 + i, RIG_SEED));
	/* What could not be asked for the first time. */
	for (uint64_t page = 0; page < RIG_PAGES - 4; page++)
		pager_want(&r.p, page);
	answer(RIG_PAGES - 2 * PAGER_ASKED - 5);
	assert_true(mem_ready(&r.mem, 0, rest));
	assert_int_equal(nasked, RIG_PAGES - 1);
}

/* More frames than are taken in a turn, read at once: no poll tells of what is read already. */
static void frames_that_come_together(void **state)
{
	static uint8_t all[32768];
	struct stream to_peer = r.peer;
	ssize_t n;
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(&r.peer, fd[0], STREAM_URGENT, 9);
	for (unsigned i = 0; i < 150; i++)
		rig_send_pages(&r, i, 1, 0);
	n = recv(fd[1], all, sizeof(all), MSG_PEEK);
	assert_in_range(n, 1, sizeof(all) - 1);
	assert_int_equal(write(to_peer.fd, all, (size_t)n), n);
	RIG_UNTIL(pager_left(&r.p) == RIG_PAGES - 150);
	stream_done(&to_peer);
	close(fd[1]);
}

/* --- nonsense
 * -------------------------------------------------------------------------------------- */

static void lost_because(const char *why)
{
	char buf[256];

	rig_event(&r, PAGER_LOST);
	pager_why(&r.p, buf, sizeof(buf));
	if (!strstr(buf, why))
		fail_msg("\"%s\" is not in \"%s\"", why, buf);
	rig_cut(&r);
}

static void nonsense_on_the_urgent_link(void **state)
{
	struct toucher t;
	uint64_t want = 5;
	uint32_t len;
	uint8_t *page;

	touch(&r, &t, 5);
	RIG_WANT(&r, 5);
	rig_send_pages(&r, RIG_PAGES, 1, RIG_SEED);
	lost_because("malformed");
	rig_again(&r);
	rig_send(&r, FRAME_WANT, &want, sizeof(want));
	lost_because("want");
	rig_again(&r);
	page = rig_pages(6, 1, RIG_SEED, &len);
	rig_send(&r, FRAME_PAGES, page, len - 1);
	lost_because("malformed");
	rig_again(&r);
	page[2] = PAGE_DELTA; /* to a page that nobody has */
	page[0] = page[1] = 0;
	rig_send(&r, FRAME_PAGES, page, PAGE_HEAD_SIZE);
	lost_because("malformed");
	free(page);
	rig_again(&r);
	assert_int_equal(write(r.peer.fd, "a frame is not like this, is it? No, it is not.", 47),
			 47);
	lost_because("type");
	rig_again(&r);
	RIG_WANT(&r, 5); /* after all of that */
	rig_send_pages(&r, 5, 1, RIG_SEED);
	assert_int_equal(touch_end(&t), rig_word(5, RIG_SEED));
	RIG_UNTIL(pager_left(&r.p) == RIG_PAGES - 1);
}

/* What nobody asked for may come, once. */
static void unasked_pages_are_taken(void **state)
{
	rig_send_pages(&r, 30, 4, RIG_SEED);
	RIG_UNTIL(pager_left(&r.p) == RIG_PAGES - 4);
	rig_send_pages(&r, 30, 4, RIG_SEED + 1);
	RIG_UNTIL(__atomic_load_n(&r.p.counts.urgent, __ATOMIC_ACQUIRE) == 8);
	assert_int_equal(rig_counts(&r).unasked, 4);
	assert_int_equal(rig_counts(&r).twice, 4);
	assert_int_equal(*(uint64_t *)mem_page(&r.mem, 33), rig_word(33, RIG_SEED));
}

static void nonsense_on_the_main_link(void **state)
{
	static const struct {
		uint64_t page, count;
		uint32_t kind;
	} maps[] = {
		{0, 0, WIRE_MAP_ZERO},
		{RIG_PAGES, 1, WIRE_MAP_ZERO},
		{1, RIG_PAGES, WIRE_MAP_ZERO},
		{UINT64_MAX, 2, WIRE_MAP_ZERO},
		{2, UINT64_MAX, WIRE_MAP_ZERO},
		{0, 1, WIRE_MAP_DROP}, /* the guest runs */
		{0, 1, 0},
		{0, 1, 3},
	};
	struct wire_eos eos = {0};
	uint64_t word = 0;

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
		assert_int_equal(rig_take_map(&r, maps[i].page, maps[i].count, maps[i].kind),
				 -EBADMSG);
	assert_int_equal(rig_take(&r, FRAME_MAP, NULL, 0), -EBADMSG);
	assert_int_equal(rig_take(&r, FRAME_MAP, &word, sizeof(word)), -EBADMSG);
	assert_int_equal(rig_take(&r, FRAME_WANT, &word, sizeof(word)), -EBADMSG);
	assert_int_equal(rig_take(&r, FRAME_PAGES, &word, sizeof(word)), -EBADMSG);
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos) - 1), -EBADMSG);
	assert_int_equal(pager_left(&r.p), RIG_PAGES);
	/* An end with which nothing has come. */
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos)), -EBADMSG);
	assert_non_null(strstr(r.e.msg, "have not come"));
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos)), -EBADMSG);
}

/* The end may overtake what is on the urgent link, but not promise what does not come. */
static void the_end_before_its_pages(void **state)
{
	struct wire_eos eos = {.urgent = 2};

	assert_int_equal(rig_take_map(&r, 2, RIG_PAGES - 2, WIRE_MAP_ZERO), 0);
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos)), 0);
	assert_false(pager_complete(&r.p));
	rig_send_pages(&r, 0, 1, RIG_SEED);
	rig_send_pages(&r, 0, 1, RIG_SEED);
	lost_because("1 pages did not");
	rig_again(&r);
	assert_false(pager_complete(&r.p)); /* the end is to be said again */
	eos.urgent = 1;
	assert_int_equal(rig_take(&r, FRAME_EOS, &eos, sizeof(eos)), 0);
	rig_send_pages(&r, 1, 1, RIG_SEED);
	rig_event(&r, PAGER_COMPLETE);
	assert_true(pager_complete(&r.p));
	pager_finish(&r.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(cut_twice_and_nothing_is_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(the_loop_is_told_after_a_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_is_safe_at_any_time, setup, teardown),
		cmocka_unit_test(a_cut_link_does_not_keep_the_process),
		cmocka_unit_test_setup_teardown(a_peer_that_stops_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(frames_that_come_together, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense_on_the_urgent_link, setup, teardown),
		cmocka_unit_test_setup_teardown(unasked_pages_are_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense_on_the_main_link, setup, teardown),
		cmocka_unit_test_setup_teardown(the_end_before_its_pages, setup, teardown),
	};

	return cmocka_run_group_tests(tests, rig_skip, NULL);
}
