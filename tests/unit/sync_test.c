/*
 * The first sync of a machine without a CPU: a thread writes as the guest does (tests/unit/
 * kvm_model.h), this one as its devices do, a third one is the peer. After the first epoch the peer
 * has what the machine has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ft/epoch/capture.h"
#include "ft/epoch/sync.h"
#include "tests/unit/kvm_model.h"
#include "vmm/copy/page_in.h"

#define BYTES	(16ull << 20)
#define PAGES	(BYTES / MEM_PAGE_SIZE)
#define SMALL	512u /* pages that are left to the first epoch */
#define SECOND	1000000000ull
#define STAGING (2 * BYTES)

struct peer {
	struct mem mem;
	struct stream in;
	unsigned pages; /* atomic: entries that came */
	pthread_t thread;
};

struct fix {
	struct mem mem;
	struct machine machine;
	struct disklog disklog;
	struct capture capture;
	struct sync sync;
	struct stream to;
	struct page_out out;
	struct peer peer;
	pthread_t sender;
	int result;
	bool over; /* atomic */
};

/* --- the peer --------------------------------------------------------------------------------- */

static void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	poll(&p, 1, -1);
}

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	struct err e = {0};
	struct frame f;
	int r;

	while ((r = stream_recv(&p->in, &f)) >= 0) {
		if (!r) {
			wait_readable(p->in.fd);
			continue;
		}
		if (f.type != FRAME_PAGES || f.epoch || page_in_now(&p->mem, &f, &e))
			abort();
		__atomic_fetch_add(&p->pages, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void peer_start(struct fix *f)
{
	int fds[2], small = 65536;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	stream_init(&f->to, fds[0], STREAM_MAIN, 42);
	stream_init(&f->peer.in, fds[1], STREAM_MAIN, 0);
	assert_int_equal(stream_send_preface(&f->to, loop_now_ns() + SECOND), 0);
	assert_int_equal(mem_init(&f->peer.mem, BYTES, NULL), 0);
	assert_int_equal(pthread_create(&f->peer.thread, NULL, peer_main, &f->peer), 0);
}

/* --- the machine ------------------------------------------------------------------------------ */

static void ask_log(void *arg)
{
	sync_log_is_on(arg);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	*state = f;
	assert_int_equal(mem_init(&f->mem, BYTES, NULL), 0);
	kvm_model_start(&f->mem);
	assert_int_equal(capture_init(&f->capture, &kvm_model.kvm, &f->mem, STAGING, NULL), 0);
	sync_init(&f->sync);
	f->sync.machine = &f->machine;
	f->sync.mem = &f->mem;
	f->sync.dirty = &f->capture.dirty;
	f->sync.disklog = &f->disklog;
	f->sync.ask_log = ask_log;
	f->sync.arg = &f->sync;
	peer_start(f);
	assert_int_equal(page_out_init(&f->out, &f->to, 60 * SECOND), 0);
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	shutdown(f->to.fd, SHUT_RDWR);
	pthread_join(f->peer.thread, NULL);
	page_out_done(&f->out);
	stream_done(&f->to);
	stream_done(&f->peer.in);
	sync_done(&f->sync);
	capture_done(&f->capture);
	kvm_model_end();
	mem_done(&f->peer.mem);
	mem_done(&f->mem);
	free(f);
	return 0;
}

static void *sender_main(void *arg)
{
	struct fix *f = arg;

	f->result = sync_run(&f->sync, &f->out);
	__atomic_store_n(&f->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static void sync_start(struct fix *f)
{
	f->over = false;
	assert_int_equal(pthread_create(&f->sender, NULL, sender_main, f), 0);
}

static bool sync_is_over(struct fix *f)
{
	return __atomic_load_n(&f->over, __ATOMIC_ACQUIRE);
}

static void sync_wait(struct fix *f, int result)
{
	pthread_join(f->sender, NULL);
	assert_true(sync_is_over(f));
	assert_int_equal(f->result, result);
}

static struct capture_batch *no_room(void *arg, struct capture_batch *full)
{
	return NULL; /* there is staging memory for all */
}

/* All is out of the socket: the peer has taken it. */
static void wait_for_peer(struct fix *f)
{
	shutdown(f->to.fd, SHUT_WR);
	pthread_join(f->peer.thread, NULL);
	assert_string_equal(f->peer.in.why, "");
	assert_int_equal(pthread_create(&f->peer.thread, NULL, peer_main, &f->peer), 0);
}

/* Nobody writes any more: the first epoch. How many pages it brings; then both are the same. */
static int64_t first_seal(struct fix *f)
{
	struct capture_batch batch = {.cap = f->capture.nbufs}, *b = &batch;
	int64_t n;

	wait_for_peer(f);
	batch.pages = calloc(batch.cap, sizeof(*batch.pages));
	n = capture_pages(&f->capture, &b, no_room, NULL);
	assert_true(n >= 0);
	assert_int_equal(n, batch.n);
	for (uint32_t i = 0; i < batch.n; i++)
		memcpy(mem_page(&f->peer.mem, batch.pages[i].page), batch.pages[i].now,
		       MEM_PAGE_SIZE);
	capture_put(&f->capture, batch.pages, batch.n);
	free(batch.pages);
	assert_int_equal(mem_hash(&f->mem), mem_hash(&f->peer.mem));
	return n;
}

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void host_writes(struct fix *f, uint64_t page, uint64_t value)
{
	uint64_t buf[64];

	for (unsigned i = 0; i < 64; i++)
		buf[i] = value + i;
	assert_int_equal(
		mem_write(&f->mem, page * MEM_PAGE_SIZE + value % 8 * 512, buf, sizeof(buf)), 0);
}

/* --- memory ----------------------------------------------------------------------------------- */

static void what_is_not_zero_goes_once(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < 300; p++)
		guest_writes(&f->mem, p * 3, 1, p + 1);
	memset(kvm_model.bits, 0, PAGES / 8); /* before the log was on */
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(f->sync.pages, 300);
	assert_true(f->sync.bytes > 300 * 8 && f->sync.bytes <= 300 * (8 + MEM_PAGE_SIZE));
	assert_int_equal(first_seal(f), 0);
}

/* Devices have written all of memory since the start: a cache of files read from a disk. */
static void the_hosts_writes_go_live(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < PAGES; p++)
		host_writes(f, p, p + 1);
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(f->sync.pages, PAGES);
	assert_int_equal(first_seal(f), 0);
}

/* They go on doing so meanwhile, and the guest gives memory back, too. */
static void the_host_writes_meanwhile(void **state)
{
	struct fix *f = *state;
	uint64_t s = 88172645463325252ull, n = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		host_writes(f, p, p + 1);
	sync_start(f);
	while (!sync_is_over(f) && n < 3 * PAGES) {
		uint64_t page = next(&s) % PAGES;

		if (n++ % 16)
			host_writes(f, page, next(&s));
		else
			assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE),
					 0);
	}
	sync_wait(f, 0);
	first_seal(f);
}

struct guest {
	struct fix *f;
	pthread_t thread;
	uint64_t pages; /* that it writes to */
	bool stop;	/* atomic */
	uint64_t writes;
};

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	uint64_t s = 3;

	while (!__atomic_load_n(&g->stop, __ATOMIC_ACQUIRE)) {
		guest_writes(&g->f->mem, next(&s) % g->pages, next(&s) % 512, next(&s));
		g->writes++;
	}
	return NULL;
}

static void guest_start(struct guest *g, struct fix *f, uint64_t pages)
{
	*g = (struct guest){.f = f, .pages = pages};
	assert_int_equal(pthread_create(&g->thread, NULL, guest_main, g), 0);
}

static void guest_stop(struct guest *g)
{
	__atomic_store_n(&g->stop, true, __ATOMIC_RELEASE);
	pthread_join(g->thread, NULL);
}

/* All of them write, from the first page to after the last: nothing is lost. */
static void everybody_writes(void **state)
{
	struct fix *f = *state;
	struct guest g;
	uint64_t s = 5;

	for (uint64_t p = 0; p < PAGES; p += 2)
		host_writes(f, p, p + 1);
	guest_start(&g, f, PAGES);
	sync_start(f);
	while (!sync_is_over(f)) {
		uint64_t page = next(&s) % PAGES;

		host_writes(f, page, next(&s));
		if (next(&s) % 64 == 0)
			assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE),
					 0);
	}
	guest_stop(&g);
	sync_wait(f, 0);
	assert_true(g.writes > 1000);
	first_seal(f);
}

/* A guest that never keeps still does not make it endless; one that does is caught up with. */
static void passes_have_an_end(void **state)
{
	struct fix *f = *state;

	memset(kvm_model.bits, 0xff, PAGES / 8);
	kvm_model.busy = SMALL + 64;
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(kvm_model.gets, 8);
	assert_int_equal(f->sync.pages, PAGES + 7 * (SMALL + 64));
	assert_int_equal(first_seal(f), SMALL + 64);
}

static void a_small_working_set_is_left_to_the_epoch(void **state)
{
	struct fix *f = *state;

	memset(kvm_model.bits, 0xff, PAGES / 8);
	kvm_model.busy = SMALL;
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(kvm_model.gets, 2);
	assert_int_equal(first_seal(f), SMALL);
}

static void a_log_that_fails_ends_it(void **state)
{
	struct fix *f = *state;

	kvm_model.fail = -EIO;
	sync_start(f);
	sync_wait(f, -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(what_is_not_zero_goes_once), T(the_hosts_writes_go_live),
		T(the_host_writes_meanwhile),  T(everybody_writes),
		T(passes_have_an_end),	       T(a_small_working_set_is_left_to_the_epoch),
		T(a_log_that_fails_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
