#define _GNU_SOURCE
/* Both sides: threads read and write memory while it comes, links are cut, and nothing is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "postcopy/pager.h"
#include "postcopy/push.h"
#include "postcopy/urgent.h"
#include "vmm/base/loop.h"

#define BYTES	(16ull << 20)
#define PAGES	(BYTES / MEM_PAGE_SIZE)
#define DATA	3000 /* pages; the others are holes */
#define THREADS 3
#define WAIT	60000000000ull

/* What a thread counts. */
#define GET(count) __atomic_load_n(&(count), __ATOMIC_ACQUIRE)

struct guest {
	pthread_t thread;
	unsigned n, seed;
	uint16_t writes[PAGES]; /* to its own word of each page */
};

static struct mem from, to;
static struct unsent unsent;
static struct urgent urgent;
static struct push push;
static struct page_out out;
static struct pager pager;
static struct stream main_out, main_in, urgent_out, urgent_in;
static int source_fd, pager_fd;
static bool stop_guests;
static struct guest guests[THREADS];

static uint64_t pattern(uint64_t page)
{
	return page < DATA ? (page + 3) * 0x9e3779b97f4a7c15ull : 0;
}

static uint64_t *words(const struct mem *m, uint64_t page)
{
	return (uint64_t *)(void *)mem_page(m, page);
}

static void broken(uint64_t page, const char *why)
{
	print_error("page %llu: %s\n", (unsigned long long)page, why);
	abort(); /* not the test's own thread */
}

static void *guest(void *arg)
{
	struct guest *g = arg;

	while (!__atomic_load_n(&stop_guests, __ATOMIC_ACQUIRE)) {
		uint64_t page = (unsigned)rand_r(&g->seed) % PAGES;
		volatile uint64_t *w = words(&to, page);

		if (w[0] != pattern(page))
			broken(page, "is not what was sent");
		if (w[1 + g->n] != g->writes[page])
			broken(page, "a write is lost");
		if (rand_r(&g->seed) % 4 == 0)
			w[1 + g->n] = ++g->writes[page];
	}
	return NULL;
}

static void pair(struct stream *a, struct stream *b, enum stream_link link)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(a, fd[0], link, 9);
	stream_init(b, fd[1], link, 9);
}

static void link_up(void)
{
	pair(&main_out, &main_in, STREAM_MAIN);
	pair(&urgent_out, &urgent_in, STREAM_URGENT);
	assert_int_equal(page_out_init(&out, &main_out, WAIT), 0);
	assert_int_equal(urgent_start(&urgent, &from, &unsent, &urgent_out, source_fd, NULL), 0);
	assert_int_equal(push_start(&push, &out, &urgent, source_fd, NULL), 0);
}

static void link_down(void)
{
	push_stop(&push);
	urgent_stop(&urgent);
	pager_cut(&pager);
	page_out_done(&out);
	stream_done(&main_out);
	stream_done(&main_in);
	stream_done(&urgent_out);
	stream_done(&urgent_in);
}

static int setup(void **state)
{
	memset(guests, 0, sizeof(guests));
	memset(&urgent, 0, sizeof(urgent));
	memset(&push, 0, sizeof(push));
	push.background = true;
	stop_guests = false;
	source_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pager_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(mem_init(&from, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(mem_init(&to, MEM_SHARED_FILE, BYTES, NULL), 0);
	for (uint64_t page = 0; page < DATA; page++)
		words(&from, page)[0] = pattern(page);
	assert_int_equal(unsent_init(&unsent, PAGES, true), 0);
	assert_int_equal(pager_open(&pager, &to, pager_fd, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	pager_drop(&pager);
	unsent_done(&unsent);
	mem_done(&from);
	mem_done(&to);
	close(source_fd);
	close(pager_fd);
	return 0;
}

static void start_guests(void)
{
	for (unsigned i = 0; i < THREADS; i++) {
		guests[i].n = i;
		guests[i].seed = i + 1;
		assert_int_equal(pthread_create(&guests[i].thread, NULL, guest, &guests[i]), 0);
	}
}

/* Take what has come; false: nothing has. */
static bool take(void)
{
	struct frame f;
	struct err e = {0};
	int r = stream_recv(&main_in, &f);

	if (r < 0)
		fail_msg("main link: %s", r == -EBADMSG ? main_in.why : strerror(-r));
	if (r && pager_take(&pager, &f, &e))
		fail_msg("%s", e.msg);
	return r;
}

static void wait_main(uint64_t until)
{
	if (pager_events(&pager) & (PAGER_LOST | PAGER_FAILED)) {
		char why[256];

		pager_why(&pager, why, sizeof(why));
		fail_msg("%s", why);
	}
	if (loop_now_ns() > until)
		fail_msg("never complete: %llu pages are missing",
			 (unsigned long long)pager_left(&pager));
	chan_wait_fd(main_in.fd, POLLIN, loop_now_ns() + 1000000);
}

static void until_complete(void)
{
	uint64_t until = loop_now_ns() + WAIT;

	while (!pager_complete(&pager))
		if (!take())
			wait_main(until);
}

static void end(void)
{
	__atomic_store_n(&stop_guests, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(guests[i].thread, NULL);
	link_down();
	pager_finish(&pager);
	for (uint64_t page = 0; page < PAGES; page++) {
		assert_int_equal(words(&to, page)[0], pattern(page));
		for (unsigned i = 0; i < THREADS; i++)
			assert_int_equal(words(&to, page)[1 + i], guests[i].writes[page]);
	}
}

static void every_page_once(void **state)
{
	link_up();
	assert_int_equal(pager_start(&pager, &urgent_in, NULL), 0);
	start_guests();
	until_complete();
	assert_int_equal(GET(pager.counts.twice), 0);
	assert_int_equal(GET(pager.counts.unasked), 0);
	assert_int_equal(GET(pager.counts.exist), 0);
	assert_int_equal(GET(urgent.pages) + GET(push.pages) + GET(push.zero), PAGES);
	assert_int_equal(GET(pager.counts.urgent), GET(urgent.pages));
	assert_int_equal(GET(pager.counts.pushed), GET(push.pages));
	assert_int_equal(GET(pager.counts.zero), GET(push.zero));
	end();
}

static void only_on_request(void **state)
{
	uint64_t until = loop_now_ns() + WAIT;

	push.background = false;
	link_up();
	assert_int_equal(pager_start(&pager, &urgent_in, NULL), 0);
	start_guests();
	while (pager_left(&pager) > 1000)
		if (!take())
			wait_main(until);
	for (uint64_t page = 0; page < PAGES; page++) /* the rest by the loop */
		pager_want(&pager, page);
	until_complete();
	assert_int_equal(GET(push.pages), 0);
	assert_int_equal(GET(pager.counts.pushed), 0);
	end();
}

/* At random instants, also with half a frame under way. */
static void cut_again_and_again(void **state)
{
	uint64_t until = loop_now_ns() + WAIT, had[PAGES / 64];
	unsigned seed = 7, cuts = 0, frames = 0, next = 3;

	push.rate = 40 << 20;
	link_up();
	assert_int_equal(pager_start(&pager, &urgent_in, NULL), 0);
	start_guests();
	while (!pager_complete(&pager)) {
		if (!take())
			wait_main(until);
		else if (++frames >= next && cuts < 20) {
			link_down();
			have_bitmap(&pager.have, 0, PAGES / 64, had);
			for (uint64_t w = 0; w < PAGES / 64; w++)
				unsent_peer_has(&unsent, w, had[w]);
			assert_int_equal(unsent.left, pager_left(&pager));
			link_up();
			pager_again(&pager, &urgent_in);
			cuts++;
			next = frames + 1 + (unsigned)rand_r(&seed) % 4;
		}
	}
	assert_true(cuts > 5);
	assert_int_equal(GET(pager.counts.twice), 0);
	end();
}

static int probe(void **state)
{
	struct err e = {0};

	if (pager_probe(&e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	return 0;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_page_once),
		T(only_on_request),
		T(cut_again_and_again),
	};

	return cmocka_run_group_tests(tests, probe, NULL);
}
