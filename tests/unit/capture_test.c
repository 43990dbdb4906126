/*
 * Captures of a machine without a CPU (tests/unit/libkvm_model.h): what the guest and the host
 * wrote or gave back, as batches for a sender that keeps a peer's memory. After each epoch the peer
 * has what the machine has.
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
#include "tests/unit/libnodump.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblocks.h"

#define BYTES (8ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)
#define BUFS  256u /* the least that a capture has */

struct fix {
	struct mem mem;
	struct capture c;
	struct capture_batch batch;
	uint8_t *peer;
	uint64_t pushed;    /* batches in the middle of a capture */
	uint64_t sent;	    /* pages */
	uint64_t sent_zero; /* of these by the page of zeros */
	uint64_t based;	    /* of these with a base */
};

static void send_batch(struct fix *f, struct capture_batch *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		const struct capture_page *p = &b->pages[i];
		uint8_t *at = f->peer + p->page * MEM_PAGE_SIZE;

		/* A delta against anything else would make another page of it. */
		if (p->base)
			assert_memory_equal(p->base, at, MEM_PAGE_SIZE);
		f->based += p->base != NULL;
		memcpy(at, p->now, MEM_PAGE_SIZE);
		f->sent_zero += p->now == f->c.zeros;
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
	kvm_model_start(&f->mem);
	assert_int_equal(capture_init(&f->c, &kvm_model.kvm, &f->mem, 1, NULL), 0);
	assert_int_equal(f->c.nbufs, BUFS);
	assert_true(is_nodump(f->c.pool));
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
	kvm_model_end();
	mem_done(&f->mem);
	free(f->batch.pages);
	free(f->peer);
	free(f);
	assert_int_equal(locks_held(), 0);
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

	assert_int_equal(capture_begin(&f->c), 0);
	while ((r = capture_fill(&f->c, &f->batch)) != CAPTURE_ALL) {
		assert_true(r == CAPTURE_FULL || r == CAPTURE_MORE);
		if (r == CAPTURE_MORE)
			continue;
		f->pushed++;
		send_batch(f, &f->batch);
	}
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

/* Protecting pages takes time as well: no call is for all of memory. */
static void protected_in_pieces(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < PAGES; p++)
		guest_writes(&f->mem, p, 0, p + 1);
	epoch(f);
	assert_int_equal(kvm_model.clears, PAGES / 1024);
	for (uint64_t w = 0; w < PAGES / 64; w++)
		assert_int_equal(kvm_model.bits[w], 0);
	epoch(f);
	guest_writes(&f->mem, 3, 0, 99);
	guest_writes(&f->mem, PAGES - 1, 0, 99);
	epoch(f);
	assert_int_equal(kvm_model.clears, PAGES / 1024 + 1);
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

static bool is_protected(uint64_t page)
{
	return !(kvm_model.bits[page / 64] >> (page % 64) & 1);
}

/* One page by the guest: how many pages does the epoch bring? */
static uint64_t write_and_seal(struct fix *f, uint64_t page, uint64_t value)
{
	uint64_t before = f->sent;

	guest_writes(&f->mem, page, 3, value);
	epoch(f);
	return f->sent - before;
}

static uint64_t seal(struct fix *f)
{
	uint64_t before = f->sent;

	epoch(f);
	return f->sent - before;
}

/* Protected again when it is captured, or its next write would be missed; and only once sent. */
static void a_cold_page(void **state)
{
	struct fix *f = *state;

	assert_int_equal(write_and_seal(f, 70, 1), 1);
	assert_true(is_protected(70));
	assert_int_equal(seal(f), 0);
	assert_int_equal(f->based, 0);
	/* What the peer holds of it was kept. */
	assert_int_equal(write_and_seal(f, 70, 2), 1);
	assert_int_equal(f->based, 1);
	assert_true(is_protected(70));
	assert_int_equal(f->c.nhot, 0);
	assert_int_equal(seal(f), 0);
	check_no_buffer_lost(f);
}

/* Dirty twice running: not protected any more, compared instead; until it keeps still. */
static void a_hot_page(void **state)
{
	struct fix *f = *state;

	assert_int_equal(write_and_seal(f, 70, 1), 1);
	assert_int_equal(write_and_seal(f, 70, 2), 1);
	assert_int_equal(f->c.nhot, 1);
	for (unsigned i = 0; i < 20; i++) {
		assert_false(is_protected(70));
		assert_int_equal(write_and_seal(f, 70, 100 + i), 1);
	}
	assert_int_equal(f->c.sent_hot, 20);
	assert_int_equal(f->based, 21);
	/* A write that changes nothing, and none: eight epochs. */
	for (unsigned i = 0; i < 7; i++) {
		assert_int_equal(i % 2 ? seal(f) : write_and_seal(f, 70, 119), 0);
		assert_false(is_protected(70));
	}
	/* In between it begins anew. */
	assert_int_equal(write_and_seal(f, 70, 7), 1);
	for (unsigned i = 0; i < 8; i++) {
		assert_false(is_protected(70));
		assert_int_equal(seal(f), 0);
	}
	assert_true(is_protected(70));
	assert_int_equal(f->c.nhot, 0);
	/* From here on like any other. */
	assert_int_equal(seal(f), 0);
	assert_int_equal(write_and_seal(f, 70, 8), 1);
	assert_int_equal(f->based, 23);
	check_no_buffer_lost(f);
}

/* What was written, cold or hot, and hot pages also when they were not: they are marked, not taken.
 */
static void what_another_peer_lacks(void **state)
{
	struct fix *f = *state;
	uint64_t lacks[PAGES / 64] = {0};

	f->c.lacks = lacks;
	assert_int_equal(write_and_seal(f, 70, 1), 1);
	assert_int_equal(lacks[1], 1ull << 6);
	assert_int_equal(write_and_seal(f, 70, 2), 1);
	assert_int_equal(f->c.nhot, 1);
	lacks[1] = 0;
	assert_int_equal(seal(f), 0);
	assert_int_equal(lacks[1], 1ull << 6);
	guest_writes(&f->mem, 3, 0, 9);
	discard(f, 200, 1);
	assert_int_equal(seal(f), 2);
	assert_int_equal(lacks[0], 1ull << 3);
	assert_int_equal(lacks[1], 1ull << 6);
	assert_int_equal(lacks[3], 1ull << 8);
	/* Nothing is said of a log that could not be read. */
	memset(lacks, 0, sizeof(lacks));
	kvm_model.fail = -EIO;
	assert_int_equal(capture_begin(&f->c), -EIO);
	kvm_model.fail = 0;
	for (unsigned w = 0; w < PAGES / 64; w++)
		assert_int_equal(lacks[w], 0);
	f->c.lacks = NULL;
}

/* More hot pages than there is room for: the others are protected, and none is lost. */
static void too_many_hot_pages(void **state)
{
	struct fix *f = *state;

	for (unsigned e = 1; e <= 5; e++) {
		for (uint64_t p = 0; p < 200; p++)
			guest_writes(&f->mem, p * 3, e, e * p + 1);
		assert_int_equal(seal(f), 200);
		check_no_buffer_lost(f);
	}
	assert_int_equal(f->c.nhot, BUFS / 2);
	for (uint64_t p = 0, n = 0; p < 200; p++) {
		n += !is_protected(p * 3);
		if (p == 199)
			assert_int_equal(n, BUFS / 2);
	}
}

/* A log that cannot be read or cleared is not an epoch. */
static void a_log_that_fails(void **state)
{
	struct fix *f = *state;

	guest_writes(&f->mem, 1, 1, 1);
	kvm_model.fail = -EIO;
	assert_int_equal(capture_begin(&f->c), -EIO);
	kvm_model.fail = 0;
	epoch(f);
	assert_int_equal(f->sent, 1);
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
			else if (s & 16)
				set_page(f, page, (uint8_t)(s >> 10));
			else
				guest_writes(&f->mem, page, s % 512, s >> 8);
		}
		epoch(f);
		check_no_buffer_lost(f);
	}
	assert_true(f->sent_zero > 1000 && f->c.sent_hot > 10 && f->based > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(discarded_pages_take_no_staging),
		T(protected_in_pieces),
		T(used_again_is_sent_again),
		T(a_hot_page_cools_down_at_once),
		T(a_cold_page),
		T(a_hot_page),
		T(what_another_peer_lacks),
		T(too_many_hot_pages),
		T(a_log_that_fails),
		T(random_epochs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
