/*
 * Captures of a machine without a CPU: what the host wrote or gave back, as batches for a sender
 * that keeps a peer's memory. After each epoch the peer has what the machine has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ft/epoch/capture.h"

#define BYTES (8ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)
#define BUFS  256u /* the least that a capture has */

static struct kvm kvm = {.manual_protect = true};

struct fix {
	struct mem mem;
	struct capture c;
	struct capture_batch batch;
	uint8_t *peer;
	uint64_t pushed;    /* batches in the middle of a capture */
	uint64_t sent;	    /* pages */
	uint64_t sent_zero; /* of these by the page of zeros */
};

static void send_batch(struct fix *f, struct capture_batch *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		memcpy(f->peer + b->pages[i].page * MEM_PAGE_SIZE, b->pages[i].now, MEM_PAGE_SIZE);
		f->sent_zero += b->pages[i].now == f->c.zeros;
	}
	f->sent += b->n;
	capture_put(&f->c, b->pages, b->n);
	b->n = 0;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(mem_init(&f->mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(capture_init(&f->c, &kvm, &f->mem, 1, NULL), 0);
	assert_int_equal(f->c.nbufs, BUFS);
	f->batch.cap = BUFS;
	f->batch.pages = calloc(BUFS, sizeof(*f->batch.pages));
	f->peer = calloc(1, BYTES);
	assert_true(f->batch.pages && f->peer);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	capture_done(&f->c);
	mem_done(&f->mem);
	free(f->batch.pages);
	free(f->peer);
	free(f);
	return 0;
}

static void set_page(struct fix *f, uint64_t page, uint8_t value)
{
	uint8_t buf[MEM_PAGE_SIZE];

	memset(buf, value, sizeof(buf));
	assert_int_equal(mem_write(&f->mem, page * MEM_PAGE_SIZE, buf, sizeof(buf)), 0);
}

static void discard(struct fix *f, uint64_t page, uint64_t n)
{
	assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE), 0);
}

static uint64_t allocated(struct fix *f)
{
	struct stat st;

	assert_int_equal(fstat(f->mem.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

/* One epoch; a capture allocates no guest memory, and the peer has everything afterwards. */
static void epoch(struct fix *f)
{
	uint64_t had = allocated(f), sent = f->sent;
	uint8_t page[MEM_PAGE_SIZE];
	int r;

	/* What KVM would do: a log of a guest that wrote nothing since it was cleared. */
	memset(f->c.dirty.bits, 0, f->c.dirty.nwords * sizeof(uint64_t));
	memset(f->c.dirty.clear, 0, f->c.dirty.nwords * sizeof(uint64_t));
	assert_int_equal(capture_begin(&f->c), 0);
	while ((r = capture_fill(&f->c, &f->batch)) == 0) {
		f->pushed++;
		send_batch(f, &f->batch);
	}
	assert_int_equal(r, 1);
	send_batch(f, &f->batch);
	assert_int_equal(f->sent - sent, f->c.count);
	assert_int_equal(allocated(f), had);
	for (uint64_t p = 0; p < PAGES; p++) { /* read() gives zeros for holes and leaves them */
		assert_int_equal(pread(f->mem.fd, page, sizeof(page), p * MEM_PAGE_SIZE),
				 MEM_PAGE_SIZE);
		assert_memory_equal(page, f->peer + p * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	}
}

/* Buffers that are neither hot copies nor bases are all free between epochs. */
static void check_no_buffer_lost(struct fix *f)
{
	uint32_t kept = f->c.nhot;

	for (uint32_t i = 0; i < f->c.bases.count; i++)
		kept += f->c.bases.slots[i].copy != NULL;
	assert_int_equal(f->c.nfree + f->c.nmine + kept, BUFS);
}

static void discarded_pages_take_no_staging(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < 100; p++)
		set_page(f, p, 'a');
	epoch(f);
	assert_int_equal(f->sent, 100);
	/* More than there are buffers and places in a batch, and never touched for the most part.
	 */
	discard(f, 0, PAGES);
	epoch(f);
	assert_int_equal(f->sent, 100 + PAGES);
	assert_int_equal(f->sent_zero, PAGES);
	assert_true(f->pushed >= PAGES / BUFS - 1);
	check_no_buffer_lost(f);
	epoch(f);
	assert_int_equal(f->sent, 100 + PAGES);
}

static void used_again_is_sent_again(void **state)
{
	struct fix *f = *state;

	set_page(f, 7, 'a');
	epoch(f);
	discard(f, 7, 1);
	set_page(f, 7, 'b');
	epoch(f);
	assert_int_equal(f->sent_zero, 0);
	discard(f, 7, 1);
	epoch(f);
	assert_int_equal(f->sent_zero, 1);
	set_page(f, 7, 'c');
	epoch(f);
	assert_int_equal(f->sent, 4);
	check_no_buffer_lost(f);
}

static void a_hot_page_cools_down_at_once(void **state)
{
	struct fix *f = *state;

	for (unsigned e = 0; e < 4; e++) {
		for (uint64_t p = 0; p < 10; p++)
			set_page(f, p, (uint8_t)(e + 1));
		epoch(f);
	}
	assert_int_equal(f->c.nhot, 10);
	discard(f, 2, 5);
	epoch(f);
	assert_int_equal(f->c.nhot, 5);
	assert_int_equal(f->sent_zero, 5);
	check_no_buffer_lost(f);
	set_page(f, 3, 'h');
	set_page(f, 9, 'h');
	epoch(f);
}

/* Whatever order writes and discards come in. */
static void random_epochs(void **state)
{
	struct fix *f = *state;
	uint64_t s = 88172645463325252ull;

	for (unsigned e = 0; e < 200; e++) {
		for (unsigned i = 0; i < 60; i++) {
			uint64_t page, n;

			s ^= s << 13;
			s ^= s >> 7;
			s ^= s << 17;
			page = (s >> 40) % (s & 1 ? 24 : PAGES);
			n = 1 + (s >> 20) % (s & 2 ? 4 : 40);
			if (!(s & 12))
				discard(f, page, n < PAGES - page ? n : PAGES - page);
			else
				set_page(f, page, (uint8_t)(s >> 10));
		}
		epoch(f);
		check_no_buffer_lost(f);
	}
	assert_true(f->sent_zero > 1000 && f->c.sent_hot > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(discarded_pages_take_no_staging),
		T(used_again_is_sent_again),
		T(a_hot_page_cools_down_at_once),
		T(random_epochs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
