#define _GNU_SOURCE
/* A source that answers and pushes: each page once, over whichever link; the end when all is out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "postcopy/push.h"
#include "postcopy/urgent.h"
#include "postcopy/wire.h"
#include "vmm/base/loop.h"
#include "vmm/copy/pages.h"

#define BYTES	  (16ull << 20)
#define PAGES	  (BYTES / MEM_PAGE_SIZE)
#define WAIT	  10000000000ull
#define DATA_FROM 1000 /* pages that have memory: the others are holes */
#define DATA_END  1500

/* What a thread counts. */
#define GET(count) __atomic_load_n(&(count), __ATOMIC_ACQUIRE)

static struct mem mem;
static struct unsent unsent;
static struct urgent urgent;
static struct push push;
static struct page_out out;
static struct stream main_ours, main_peer, urgent_ours, urgent_peer;
static int notify;
static uint8_t came[PAGES]; /* how often, over all links */
static uint64_t zero_runs, urgent_pages, pushed_pages, zero_pages;
static uint64_t order[PAGES]; /* pages as they were pushed */
static struct wire_eos eos;
static bool got_eos;

static void pair(struct stream *a, struct stream *b, enum stream_link link)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(a, fd[0], link, 9);
	stream_init(b, fd[1], link, 9);
}

static void links(void)
{
	pair(&main_ours, &main_peer, STREAM_MAIN);
	pair(&urgent_ours, &urgent_peer, STREAM_URGENT);
	assert_int_equal(page_out_init(&out, &main_ours, WAIT), 0);
}

static void no_links(void)
{
	push_stop(&push);
	urgent_stop(&urgent);
	page_out_done(&out);
	stream_done(&main_ours);
	stream_done(&main_peer);
	stream_done(&urgent_ours);
	stream_done(&urgent_peer);
}

static int setup(void **state)
{
	memset(came, 0, sizeof(came));
	memset(&urgent, 0, sizeof(urgent));
	memset(&push, 0, sizeof(push));
	push.background = true;
	zero_runs = urgent_pages = pushed_pages = zero_pages = 0;
	got_eos = false;
	notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	for (uint64_t page = DATA_FROM; page < DATA_END; page++)
		memset(mem_page(&mem, page), (int)(page % 255 + 1), MEM_PAGE_SIZE);
	assert_int_equal(unsent_init(&unsent, PAGES, true), 0);
	links();
	return 0;
}

static int teardown(void **state)
{
	no_links();
	unsent_done(&unsent);
	mem_done(&mem);
	close(notify);
	return 0;
}

static void start_urgent(void)
{
	assert_int_equal(urgent_start(&urgent, &mem, &unsent, &urgent_ours, notify, NULL), 0);
}

static void start_push(void)
{
	assert_int_equal(push_start(&push, &out, &urgent, notify, NULL), 0);
}

/* --- the destination -----------------------------------------------------------------------------
 */

static void take_pages(const struct frame *f, bool by_push)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	uint8_t page[MEM_PAGE_SIZE];
	struct page_entry en;

	while (pages_next(&pos, end, PAGES, &en) == 1) {
		bool data = en.page >= DATA_FROM && en.page < DATA_END;

		assert_int_equal(pages_decode(&en, NULL, page), 0);
		assert_int_equal(page[99], data ? en.page % 255 + 1 : 0);
		came[en.page]++;
		if (by_push)
			order[pushed_pages++] = en.page;
		else
			urgent_pages++;
	}
}

static void take_map(const struct frame *f)
{
	for (uint32_t at = 0; at < f->length; at += sizeof(struct wire_map)) {
		struct wire_map w;

		memcpy(&w, f->data + at, sizeof(w));
		assert_int_equal(w.kind, WIRE_MAP_ZERO);
		for (uint64_t i = 0; i < w.count; i++)
			came[w.page + i]++;
		zero_runs++;
		zero_pages += w.count;
	}
}

/* What is there now of one link; false: nothing. */
static bool take(struct stream *s)
{
	struct frame f;
	int r = stream_recv(s, &f);

	if (r < 0)
		fail_msg("link: %s", r == -EBADMSG ? s->why : strerror(-r));
	if (r && f.type == FRAME_PAGES)
		take_pages(&f, s == &main_peer);
	else if (r && f.type == FRAME_MAP)
		take_map(&f);
	else if (r) {
		assert_int_equal(f.type, FRAME_EOS);
		assert_int_equal(f.length, sizeof(eos));
		memcpy(&eos, f.data, sizeof(eos));
		got_eos = true;
	}
	return r;
}

#define UNTIL(what)                                                                                \
	do {                                                                                       \
		uint64_t until_ = loop_now_ns() + WAIT;                                            \
		while (!(what)) {                                                                  \
			if (loop_now_ns() > until_)                                                \
				fail_msg("never: %s", #what);                                      \
			if (!take(&urgent_peer) && !take(&main_peer))                              \
				sched_yield();                                                     \
		}                                                                                  \
	} while (0)

static void send_peer(enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	assert_int_equal(stream_send(&urgent_peer, type, 0, &iov, 1, loop_now_ns() + WAIT), 0);
}

static void want(uint64_t page)
{
	send_peer(FRAME_WANT, &page, sizeof(page));
}

static void each_once(void)
{
	for (uint64_t page = 0; page < PAGES; page++)
		if (came[page] != 1)
			fail_msg("page %llu came %u times", (unsigned long long)page, came[page]);
}

/* --- tests
 * ---------------------------------------------------------------------------------------- */

static void all_of_it_once(void **state)
{
	struct stat st;

	start_urgent();
	start_push();
	UNTIL(got_eos);
	each_once();
	assert_int_equal(pushed_pages, DATA_END - DATA_FROM);
	assert_int_equal(zero_runs, 2); /* holes go as runs... */
	assert_int_equal(zero_pages, PAGES - (DATA_END - DATA_FROM));
	assert_int_equal(fstat(mem.fd, &st), 0);
	assert_int_equal(st.st_blocks / 8, DATA_END - DATA_FROM); /* ...and stay holes */
	assert_int_equal(eos.pushed, pushed_pages);
	assert_int_equal(eos.zero, zero_pages);
	assert_int_equal(eos.urgent, 0);
	UNTIL(__atomic_load_n(&push.eos, __ATOMIC_ACQUIRE));
	assert_int_equal(push_error(&push), 0);
	/* Ended: its link is not shut by stopping. */
	push_stop(&push);
	assert_int_equal(stream_send(&main_ours, FRAME_BYE, 0, NULL, 0, loop_now_ns() + WAIT), 0);
}

static void asked_for_while_it_is_pushed(void **state)
{
	unsigned seed = 5;

	start_urgent();
	start_push();
	for (int i = 0; i < 20; i++) {
		uint64_t pages[100];

		for (int j = 0; j < 100; j++)
			pages[j] = (unsigned)rand_r(&seed) % PAGES;
		send_peer(FRAME_WANT, pages, sizeof(pages));
		UNTIL(__atomic_load_n(&urgent.wants, __ATOMIC_ACQUIRE) > 100u * i);
	}
	UNTIL(got_eos && __atomic_load_n(&urgent.wants, __ATOMIC_ACQUIRE) == 2000);
	UNTIL(urgent_pages == __atomic_load_n(&urgent.link_pages, __ATOMIC_ACQUIRE));
	each_once();
	assert_int_equal(eos.urgent, urgent_pages);
	assert_int_equal(GET(urgent.pages), urgent_pages);
	assert_int_equal(GET(urgent.late), 2000 - urgent_pages);
	assert_int_equal(eos.pushed + eos.urgent + eos.zero, PAGES);
}

static void only_what_is_asked_for(void **state)
{
	push.background = false;
	start_urgent();
	start_push();
	UNTIL(zero_runs == 2); /* that these are zero is said all the same: it costs nothing */
	for (uint64_t page = DATA_FROM; page < DATA_END; page++) {
		want(page);
		want(page); /* again: ignored */
		UNTIL(came[page]);
		assert_false(got_eos && page < DATA_END - 1);
	}
	UNTIL(got_eos);
	each_once();
	assert_int_equal(pushed_pages, 0);
	assert_int_equal(GET(push.pages), 0);
	assert_int_equal(eos.urgent, DATA_END - DATA_FROM);
}

static void what_was_given_back_is_not_sent(void **state)
{
	struct wire_run run[2] = {{DATA_FROM, 100}, {DATA_FROM + 100, 1}};

	push.background = false;
	start_urgent();
	send_peer(FRAME_REMOVED, run, sizeof(run));
	UNTIL(__atomic_load_n(&urgent.removed, __ATOMIC_ACQUIRE) == 101);
	want(DATA_FROM);
	start_push();
	for (uint64_t page = DATA_FROM + 101; page < DATA_END; page++) {
		want(page);
		UNTIL(came[page]);
	}
	UNTIL(got_eos);
	assert_int_equal(eos.removed, 101);
	assert_int_equal(came[DATA_FROM] + came[DATA_FROM + 100], 0);
	assert_int_equal(came[DATA_FROM + 101], 1);
}

/* Behind the last page that somebody waited for, and then round. */
static void near_what_is_asked_for(void **state)
{
	const uint64_t at = DATA_FROM + 257;

	__atomic_store_n(&unsent.near, at, __ATOMIC_RELAXED);
	start_urgent();
	start_push();
	UNTIL(got_eos);
	each_once();
	for (uint64_t i = 0; i < DATA_END - DATA_FROM; i++)
		assert_int_equal(order[i],
				 at + i < DATA_END ? at + i : DATA_FROM + at + i - DATA_END);
}

static void towards_what_is_asked_for(void **state)
{
	const uint64_t at = DATA_FROM + 400;
	uint64_t i = 0;

	start_urgent();
	push.rate = 400 * 4096; /* a frame takes its time */
	start_push();
	UNTIL(pushed_pages > 0);
	want(at);
	UNTIL(came[at]);
	__atomic_store_n(&push.rate, 0, __ATOMIC_RELAXED);
	UNTIL(got_eos);
	each_once();
	while (order[i] != at + 1)
		i++;
	assert_true(i < 200); /* and not when it is its turn, at 401 */
}

static void rate_is_of_push_only(void **state)
{
	const uint64_t rate = 200 * 4104, frame = 64 * 4104;
	uint64_t begin = loop_now_ns(), bytes;

	push.rate = rate;
	start_urgent();
	start_push();
	UNTIL(pushed_pages > 0);
	/* Urgent ones do not wait for it. */
	for (uint64_t page = DATA_END - 250; page < DATA_END; page++) {
		want(page);
		take(&urgent_peer);
	}
	UNTIL(__atomic_load_n(&urgent.wants, __ATOMIC_ACQUIRE) == 250);
	UNTIL(urgent_pages == __atomic_load_n(&urgent.link_pages, __ATOMIC_ACQUIRE));
	bytes = __atomic_load_n(&push.bytes, __ATOMIC_ACQUIRE);
	assert_true(bytes <= rate * (loop_now_ns() - begin) / 1000000000 + rate / 100 + frame);
	assert_true(urgent_pages > 0);
	__atomic_store_n(&push.rate, 0, __ATOMIC_RELAXED); /* heard of while it waits */
	UNTIL(got_eos);
	each_once();
}

/* The links are lost, and what the peer has not is sent again, and nothing else. */
static void from_what_the_peer_has(void **state)
{
	uint64_t had[PAGES / 64] = {0};
	unsigned times = 0;

	start_urgent();
	push.rate = 4 << 20;
	start_push();
	UNTIL(pushed_pages >= 64);
	want(DATA_END - 1);
	UNTIL(came[DATA_END - 1]);
	while (!got_eos) {
		no_links();
		/* Whatever else was under way is lost. */
		for (uint64_t page = 0; page < PAGES; page++)
			had[page / 64] |= (uint64_t)(came[page] != 0) << (page % 64);
		for (uint64_t w = 0; w < PAGES / 64; w++)
			unsent_peer_has(&unsent, w, had[w]);
		pushed_pages = urgent_pages = zero_pages = 0;
		links();
		start_urgent();
		push.rate = 0;
		start_push();
		if (times++ < 3)
			UNTIL(pushed_pages >= 32 || got_eos);
		else
			UNTIL(got_eos);
	}
	each_once();
	assert_int_equal(eos.pushed, pushed_pages);
}

static void nonsense(void **state)
{
	static const struct {
		enum frame_type type;
		uint64_t words[2];
		size_t len;
		const char *why;
	} cases[] = {
		{FRAME_WANT, {PAGES}, 8, "want: page"},
		{FRAME_WANT, {UINT64_MAX}, 8, "want: page"},
		{FRAME_WANT, {1}, 7, "want: a length"},
		{FRAME_WANT, {0}, 0, "want: a length"},
		{FRAME_REMOVED, {0, 0}, 16, "removed: 0"},
		{FRAME_REMOVED, {1, PAGES}, 16, "removed: "},
		{FRAME_REMOVED, {UINT64_MAX, 2}, 16, "removed: "},
		{FRAME_REMOVED, {1, UINT64_MAX}, 16, "removed: "},
		{FRAME_REMOVED, {1, 1}, 8, "removed: a length"},
		{FRAME_PAGES, {1, 1}, 16, "pages: not for"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t n;
		const char *why = NULL;

		start_urgent();
		send_peer(cases[i].type, cases[i].words, cases[i].len);
		UNTIL(read(notify, &n, sizeof(n)) == sizeof(n));
		assert_int_equal(urgent_error(&urgent, &why), -EBADMSG);
		if (!strstr(why, cases[i].why))
			fail_msg("\"%s\" is not in \"%s\"", cases[i].why, why);
		no_links();
		links();
	}
	assert_int_equal(unsent.left, PAGES);
}

/* A peer that is gone is told of, by either thread. */
static void links_that_end(void **state)
{
	uint64_t n;

	start_urgent();
	stream_done(&urgent_peer);
	for (uint64_t until = loop_now_ns() + WAIT;
	     read(notify, &n, sizeof(n)) != sizeof(n) && loop_now_ns() < until;)
		sched_yield();
	assert_int_equal(urgent_error(&urgent, NULL), -EPIPE);
	stream_done(&main_peer);
	start_push();
	for (uint64_t until = loop_now_ns() + WAIT; !push_error(&push) && loop_now_ns() < until;)
		sched_yield();
	assert_int_equal(push_error(&push), -EPIPE);
	push_stop(&push);
	push_stop(&push);
	urgent_stop(&urgent);
	urgent_stop(&urgent);
}

/* Nobody reads: stopping does not wait for the link. */
static void stopping_does_not_wait(void **state)
{
	for (uint64_t page = 0; page < PAGES; page++)
		memset(mem_page(&mem, page), 1 + (int)page % 200, MEM_PAGE_SIZE);
	start_urgent();
	start_push();
	for (uint64_t until = loop_now_ns() + WAIT;
	     !__atomic_load_n(&push.pages, __ATOMIC_ACQUIRE) && loop_now_ns() < until;)
		sched_yield();
	push_stop(&push);
	assert_true(push_error(&push) < 0);
	assert_false(push.eos);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_of_it_once),
		T(asked_for_while_it_is_pushed),
		T(only_what_is_asked_for),
		T(what_was_given_back_is_not_sent),
		T(near_what_is_asked_for),
		T(towards_what_is_asked_for),
		T(rate_is_of_push_only),
		T(from_what_the_peer_has),
		T(nonsense),
		T(links_that_end),
		T(stopping_does_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
