/* A destination's memory and pager, a source that is played by the test, threads in place of vCPUs.
 */
#ifndef TESTS_LIBPAGER_H
#define TESTS_LIBPAGER_H

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

static inline bool touched(const struct toucher *t)
{
	return __atomic_load_n(&t->done, __ATOMIC_ACQUIRE);
}

void touch(struct rig *r, struct toucher *t, uint64_t page);
uint64_t touch_end(struct toucher *t);

void rig_page(uint64_t page, uint64_t seed, uint64_t *out);
uint64_t rig_word(uint64_t page, uint64_t seed);
/* n pages in a row as the payload of a frame; the caller's to free. */
uint8_t *rig_pages(uint64_t page, unsigned n, uint64_t seed, uint32_t *ret_len);
int rig_send(struct rig *r, enum frame_type type, const void *data, size_t len);
/* By the urgent link. */
void rig_send_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed);
/* By the main link. */
int rig_take(struct rig *r, enum frame_type type, const void *data, size_t len);
int rig_take_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed);
int rig_take_map(struct rig *r, uint64_t page, uint64_t count, uint32_t kind);
/* The next frame that the source gets. */
void rig_next(struct rig *r, struct frame *f);

/* The next request, which is to be for exactly these pages, in this order. */
#define RIG_WANT(r, ...)                                                                           \
	rig_want(r, (const uint64_t[]){__VA_ARGS__},                                               \
		 sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))
void rig_want(struct rig *r, const uint64_t *pages, size_t n);

void rig_event(struct rig *r, unsigned event);
struct fill_counts rig_counts(struct rig *r);

void rig_link(struct rig *r);
void rig_open(struct rig *r);
void rig_start(struct rig *r);
/* The link is lost, and both sides know. */
void rig_cut(struct rig *r);
void rig_again(struct rig *r);
void rig_done(struct rig *r);
/* All tests of a file need userfaults of this host. */
int rig_skip(void **state);

#endif
