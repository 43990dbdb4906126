/* A destination's memory and pager, a source that is played by the test, threads in place of vCPUs.
 */
#ifndef TESTS_PAGER_RIG_H
#define TESTS_PAGER_RIG_H

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
#include "vmm/base/loop.h"
#include "vmm/copy/pages.h"

#define RIG_BYTES (16ull << 20)
#define RIG_PAGES (RIG_BYTES / MEM_PAGE_SIZE)
#define RIG_WAIT  10000000000ull /* for what must come */
#define RIG_SEED  77

struct rig {
	struct mem mem;
	struct pager p;
	int notify;
	struct stream urgent, peer; /* the pager's end, the source's */
	unsigned events;	    /* of pager_events(), since they were last looked for */
	struct err e;
};

/* A thread that reads a page's first word, as a vCPU would. */
struct toucher {
	pthread_t thread;
	volatile uint64_t *at;
	uint64_t value;
	uint32_t tid;
	bool done; /* atomic */
};

static inline uint64_t rig_soon(void)
{
	return loop_now_ns() + RIG_WAIT;
}

/* Until the condition holds; not for ever. */
#define RIG_UNTIL(what)                                                                            \
	do {                                                                                       \
		uint64_t rig_until = rig_soon();                                                   \
		while (!(what)) {                                                                  \
			if (loop_now_ns() > rig_until)                                             \
				fail_msg("never: %s", #what);                                      \
			sched_yield();                                                             \
		}                                                                                  \
	} while (0)

/* --- threads that touch ------------------------------------------------------------------------
 */

static void *rig_toucher(void *arg)
{
	struct toucher *t = arg;

	t->tid = (uint32_t)gettid();
	t->value = *t->at;
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static inline bool touched(const struct toucher *t)
{
	return __atomic_load_n(&t->done, __ATOMIC_ACQUIRE);
}

static inline void touch(struct rig *r, struct toucher *t, uint64_t page)
{
	*t = (struct toucher){.at = (volatile uint64_t *)mem_page(&r->mem, page)};
	assert_int_equal(pthread_create(&t->thread, NULL, rig_toucher, t), 0);
}

static inline uint64_t touch_end(struct toucher *t)
{
	RIG_UNTIL(touched(t));
	pthread_join(t->thread, NULL);
	return t->value;
}

/* --- the source --------------------------------------------------------------------------------
 */

static inline void rig_page(uint64_t page, uint64_t seed, uint64_t *out)
{
	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
		out[i] = (page + 1) * 0x9e3779b97f4a7c15ull + seed + i;
}

static inline uint64_t rig_word(uint64_t page, uint64_t seed)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull + seed;
}

/* n pages in a row as the payload of a frame; the caller's to free. */
static inline uint8_t *rig_pages(uint64_t page, unsigned n, uint64_t seed, uint32_t *ret_len)
{
	uint8_t *out = malloc(n * PAGE_ENTRY_MAX);
	uint64_t data[MEM_PAGE_SIZE / 8];

	*ret_len = 0;
	for (unsigned i = 0; i < n; i++) {
		rig_page(page + i, seed, data);
		if (!seed)
			memset(data, 0, sizeof(data));
		*ret_len += pages_encode(page + i, (uint8_t *)data, NULL, false, out + *ret_len);
	}
	return out;
}

static inline int rig_send(struct rig *r, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	return stream_send(&r->peer, type, 0, &iov, 1, rig_soon());
}

/* By the urgent link. */
static inline void rig_send_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed)
{
	uint32_t len;
	uint8_t *data = rig_pages(page, n, seed, &len);

	assert_int_equal(rig_send(r, FRAME_PAGES, data, len), 0);
	free(data);
}

/* By the main link. */
static inline int rig_take(struct rig *r, enum frame_type type, const void *data, size_t len)
{
	struct frame f = {.type = (uint16_t)type, .length = (uint32_t)len, .data = data};

	r->e = (struct err){0};
	return pager_take(&r->p, &f, &r->e);
}

static inline int rig_take_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed)
{
	uint32_t len;
	uint8_t *data = rig_pages(page, n, seed, &len);
	int ret = rig_take(r, FRAME_PAGES, data, len);

	free(data);
	return ret;
}

static inline int rig_take_map(struct rig *r, uint64_t page, uint64_t count, uint32_t kind)
{
	struct wire_map map = {.page = page, .count = count, .kind = kind};

	return rig_take(r, FRAME_MAP, &map, sizeof(map));
}

/* The next frame that the source gets. */
static inline void rig_next(struct rig *r, struct frame *f)
{
	uint64_t until = rig_soon();
	int n;

	while (!(n = stream_recv(&r->peer, f)))
		if (chan_wait_fd(r->peer.fd, POLLIN, until))
			fail_msg("nothing on the urgent link");
	if (n < 0)
		fail_msg("urgent link: %s", n == -EBADMSG ? r->peer.why : strerror(-n));
}

/* The next request, which is to be for exactly these pages, in this order. */
#define RIG_WANT(r, ...)                                                                           \
	rig_want(r, (const uint64_t[]){__VA_ARGS__},                                               \
		 sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))
static inline void rig_want(struct rig *r, const uint64_t *pages, size_t n)
{
	struct frame f;

	rig_next(r, &f);
	assert_int_equal(f.type, FRAME_WANT);
	assert_int_equal(f.length, n * sizeof(*pages));
	assert_memory_equal(f.data, pages, f.length);
}

/* --- what the loop is told ----------------------------------------------------------------------
 */

static inline void rig_event(struct rig *r, unsigned event)
{
	uint64_t until = rig_soon(), n;

	while (!((r->events |= pager_events(&r->p)) & event)) {
		if (chan_wait_fd(r->notify, POLLIN, until))
			fail_msg("event %u never came", event);
		assert_int_equal(read(r->notify, &n, sizeof(n)), sizeof(n));
	}
	r->events &= ~event;
}

static inline struct fill_counts rig_counts(struct rig *r)
{
	struct pager_stats s;

	pager_get_stats(&r->p, &s);
	return s.counts;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static inline void rig_link(struct rig *r)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(&r->urgent, fd[0], STREAM_URGENT, 9);
	stream_init(&r->peer, fd[1], STREAM_URGENT, 9);
}

static inline void rig_open(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(mem_init(&r->mem, MEM_SHARED_FILE, RIG_BYTES, NULL), 0);
	assert_int_equal(pager_open(&r->p, &r->mem, r->notify, &r->e), 0);
	rig_link(r);
}

static inline void rig_start(struct rig *r)
{
	assert_int_equal(pager_start(&r->p, &r->urgent, &r->e), 0);
}

/* The link is lost, and both sides know. */
static inline void rig_cut(struct rig *r)
{
	stream_done(&r->peer);
	pager_cut(&r->p);
	stream_done(&r->urgent);
}

static inline void rig_again(struct rig *r)
{
	rig_link(r);
	pager_again(&r->p, &r->urgent);
}

static inline void rig_done(struct rig *r)
{
	pager_drop(&r->p);
	stream_done(&r->urgent);
	stream_done(&r->peer);
	mem_done(&r->mem);
	close(r->notify);
}

/* All tests of a file need userfaults of this host. */
static inline int rig_skip(void **state)
{
	struct err e = {0};

	if (pager_probe(&e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	return 0;
}

#endif
