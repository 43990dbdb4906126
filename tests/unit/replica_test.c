/*
 * A side that runs the guest as well, without a CPU (tests/unit/libkvm_model.h): checkpoints come
 * by page_in, the guest and the host write in between. Against a model that is two plain arrays:
 * what the guest sees, and the last checkpoint.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libnomem.h"
#include "tests/unit/libviews.h"
#include "vmm/copy/page_in.h"
#include "vmm/copy/pages.h"
#include "vmm/vm/replica.h"

#define BYTES (4ull << 20)
#define PAGES (BYTES / MEM_PAGE_SIZE)

static struct mem mem;
static struct replica replica;
static struct page_in in;
static uint8_t *own, *kept, *next; /* the model: what is seen, the checkpoint, the one to come */
static uint8_t *frame;
static uint64_t seed;

static int setup(void **state)
{
	own = calloc(1, BYTES);
	kept = calloc(1, BYTES);
	next = calloc(1, BYTES);
	frame = malloc(PAGES * PAGE_ENTRY_MAX);
	assert_true(own && kept && next && frame);
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(page_in_init(&in, &mem), 0);
	kvm_model_start(&mem);
	logged_reset();
	return 0;
}

static int teardown(void **state)
{
	kvm_model_end();
	page_in_done(&in);
	mem_done(&mem);
	free(own);
	free(kept);
	free(next);
	free(frame);
	return 0;
}

static uint64_t rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

/* --- what happens, in memory and in the model ------------------------------------------------- */

/* Until it is split, both are one. */
static void model_wrote(uint64_t gpa, uint64_t len)
{
	if (!mem_is_split(&mem))
		memcpy(kept + gpa, own + gpa, len);
}

static void write_word(uint64_t page, unsigned word, uint64_t value)
{
	guest_writes(&mem, page, word, value);
	((uint64_t *)(own + page * MEM_PAGE_SIZE))[word] = value;
	model_wrote(page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
}

static void host_writes(uint64_t gpa, uint64_t len, uint8_t value)
{
	uint8_t buf[3 * MEM_PAGE_SIZE];

	memset(buf, value, len);
	assert_int_equal(value ? mem_write(&mem, gpa, buf, len) : mem_zero(&mem, gpa, len), 0);
	memset(own + gpa, value, len);
	model_wrote(gpa, len);
}

static void discard(uint64_t page, uint64_t n)
{
	assert_int_equal(mem_discard(&mem, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE), 0);
	memset(own + page * MEM_PAGE_SIZE, 0, n * MEM_PAGE_SIZE);
	model_wrote(page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE);
}

static void begin(void)
{
	struct err e = {0};

	memset(kvm_model.bits, 0, PAGES / 8); /* KVM's log begins empty */
	assert_int_equal(replica_begin(&replica, &kvm_model.kvm, &mem, &e), 0);
}

static void roll_back(void)
{
	while (!replica_roll_back(&replica))
		;
	memcpy(own, kept, BYTES);
}

static void end(void)
{
	while (!replica_end(&replica))
		;
	memcpy(kept, own, BYTES);
}

/* One more page of the checkpoint to come. */
static size_t put_page(size_t len, uint64_t page, bool delta)
{
	uint64_t *p = (uint64_t *)(next + page * MEM_PAGE_SIZE);
	const uint8_t *base = kept + page * MEM_PAGE_SIZE;

	if (delta)
		p[rnd(512)] = rnd(1000);
	else
		for (unsigned i = 0; i < 512; i++)
			p[i] = rnd(1000000);
	return len + pages_encode(page, (uint8_t *)p, delta ? base : NULL, !delta, frame + len);
}

static size_t put_zeros(size_t len, uint64_t page, uint64_t n)
{
	memset(next + page * MEM_PAGE_SIZE, 0, n * MEM_PAGE_SIZE);
	for (; n--; page++)
		len += pages_encode(page, next + page * MEM_PAGE_SIZE, NULL, false, frame + len);
	return len;
}

/* A page comes once: each step of the way takes some of what is left. */
static size_t make_checkpoint(void)
{
	size_t len = 0;

	for (uint64_t page = rnd(40); page < PAGES; page += rnd(60)) {
		uint64_t n = 1 + rnd(rnd(2) ? 3 : 40);

		n = n < PAGES - page ? n : PAGES - page;
		if (rnd(4))
			for (uint64_t p = page; p < page + n; p++)
				len = put_page(len, p, rnd(2));
		else
			len = put_zeros(len, page, n);
		page += n;
	}
	return len;
}

static void some_writes(unsigned n);

/* It comes while the guest runs, which then stands; or does not come to its end. */
static void checkpoint(bool whole)
{
	struct frame f = {.type = FRAME_PAGES, .data = frame};
	struct err e = {0};

	memcpy(next, kept, BYTES);
	f.length = (uint32_t)make_checkpoint();
	assert_int_equal(page_in_keep(&in, &f, &e), 0);
	if (mem_is_split(&mem))
		some_writes((unsigned)rnd(20));
	if (whole) {
		while (!page_in_commit(&in, 1 + rnd(200)))
			;
		memcpy(kept, next, BYTES);
		if (mem_is_split(&mem))
			roll_back();
		else
			memcpy(own, next, BYTES);
	} else {
		page_in_drop(&in);
	}
}

static void some_writes(unsigned n)
{
	while (n--) {
		uint64_t page = rnd(2) ? rnd(PAGES) : rnd(32);
		uint64_t most = PAGES - page < 30 ? PAGES - page : 30;

		switch (rnd(8)) {
		case 0:
			discard(page, 1 + rnd(most));
			break;
		case 1:
		case 2:
			host_writes(page * MEM_PAGE_SIZE + rnd(4000), 1 + rnd(90), (uint8_t)rnd(3));
			break;
		default:
			write_word(page, (unsigned)rnd(512), rnd(5));
			break;
		}
	}
}

/* --- is it so? -------------------------------------------------------------------------------- */

static uint64_t model_hash(const uint8_t *view)
{
	uint64_t sum = 0;

	for (uint64_t at = 0; at < BYTES; at += MEM_PAGE_SIZE)
		if (!mem_is_zero_page(view + at))
			sum += XXH3_64bits_withSeed(view + at, MEM_PAGE_SIZE, at);
	return sum;
}

/* Nothing takes memory by being looked at. */
static void check(void)
{
	uint8_t buf[MEM_PAGE_SIZE];
	uint64_t had = views_allocated(&mem);

	for (uint64_t p = 0; p < PAGES; p++) {
		const uint8_t *want = own + p * MEM_PAGE_SIZE;

		views_read_kept(&mem, p, buf);
		assert_memory_equal(buf, kept + p * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
		if (views_has(&mem, p))
			assert_memory_equal(mem_page(&mem, p), want, MEM_PAGE_SIZE);
		else
			assert_true(mem_is_zero_page(want));
	}
	assert_int_equal(mem_hash(&mem), model_hash(own));
	assert_int_equal(mem_hash_kept(&mem), model_hash(kept));
	assert_int_equal(views_allocated(&mem), had);
}

static void check_rolled_back(void)
{
	assert_int_equal(views_private(&mem), 0);
	check();
}

/* --- tests ------------------------------------------------------------------------------------ */

static void between_two_checkpoints(void **state)
{
	write_word(3, 0, 7);
	host_writes(20 * MEM_PAGE_SIZE, 1, 7); /* marked, and in the checkpoint */
	begin();
	check();
	roll_back();
	assert_int_equal(replica.own_pages, 0);
	write_word(3, 1, 8);
	write_word(4, 1, 8);
	host_writes(9 * MEM_PAGE_SIZE - 1, 2, 5);
	discard(500, 2);
	check();
	roll_back();
	assert_int_equal(replica.own_pages, 6);
	check_rolled_back();
	/* What was dropped is protected again, and followed. */
	write_word(3, 1, 9);
	roll_back();
	assert_int_equal(replica.own_pages, 1);
	check_rolled_back();
	write_word(3, 1, 10);
	end();
	check_rolled_back();
	assert_false(mem_is_split(&mem) || kvm_model.kvm.tracked);
	/* From here on it is any VM, and may become a replica again. */
	write_word(3, 1, 11);
	check();
	begin();
	check();
	end();
}

/* One at a time looks at the log; and what was refused has changed nothing. */
static void the_log_is_another_ones(void **state)
{
	struct dirty d;
	struct err e = {0};

	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, &e), 0);
	assert_int_equal(replica_begin(&replica, &kvm_model.kvm, &mem, &e), -EBUSY);
	assert_false(mem_is_split(&mem));
	dirty_stop(&d);
	begin();
	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, &e), -EBUSY);
	end();
	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, &e), 0);
	dirty_stop(&d);
}

/* Its two sets and two mappings: whichever is refused, nothing is left behind. */
static void a_beginning_without_memory(void **state)
{
	write_word(3, 0, 7);
	for (unsigned n = 1; n <= 4; n++) {
		struct err e = {0};

		nomem_at(n, 1);
		assert_int_equal(replica_begin(&replica, &kvm_model.kvm, &mem, &e), -ENOMEM);
		assert_true(nomem_happened());
		assert_false(mem_is_split(&mem) || kvm_model.kvm.tracked);
	}
	nomem_at(0, 0);
	begin();
	check();
	end();
}

/* Nothing is missed, also not later, when it can be read again. */
static void a_log_that_cannot_be_read(void **state)
{
	write_word(1, 1, 1);
	begin();
	write_word(1, 1, 2);
	host_writes(8 * MEM_PAGE_SIZE, 1, 3);
	kvm_model.fail = -EIO;
	roll_back();
	assert_int_equal(replica.own_pages, PAGES);
	assert_int_equal(logged("all of memory counts as written"), 1);
	check_rolled_back();
	write_word(1, 1, 3);
	kvm_model.fail = 0;
	roll_back();
	assert_int_equal(replica.own_pages, 2); /* what was written before, too */
	check_rolled_back();
	write_word(1, 1, 4);
	write_word(700, 1, 4);
	kvm_model.fail = -EIO;
	end();
	kvm_model.fail = 0;
	check_rolled_back();
	assert_int_equal(views_allocated(&mem), 2); /* what is zero had some, and gave it back */
}

/* Its bits stay: it is dropped once more, and nothing is lost. */
static void a_log_that_cannot_be_cleared(void **state)
{
	begin();
	write_word(1, 1, 2);
	assert_false(replica_roll_back(&replica));
	kvm_model.fail = -EIO;
	roll_back();
	kvm_model.fail = 0;
	check_rolled_back();
	write_word(1, 1, 3);
	roll_back();
	assert_int_equal(replica.own_pages, 1);
	check_rolled_back();
	roll_back();
	assert_int_equal(replica.own_pages, 0);
	end();
}

/* A guest that has written all of it: in pieces, and so is the end. */
static void all_of_memory(void **state)
{
	unsigned pieces = 1;

	begin();
	for (uint64_t p = 0; p < PAGES; p++)
		write_word(p, 3, p + 1);
	while (!replica_roll_back(&replica))
		pieces++;
	memcpy(own, kept, BYTES);
	assert_true(pieces >= 4);
	assert_int_equal(replica.own_pages, PAGES);
	check_rolled_back();
	for (uint64_t p = 0; p < PAGES; p++)
		write_word(p, 4, p + 1);
	assert_false(replica_end(&replica));
	end();
	check_rolled_back();
}

/* Whatever order all of it comes in. */
static void random_lives(void **state)
{
	const char *asked = getenv("SEED");
	uint64_t first = asked ? strtoull(asked, NULL, 0) : 20261129, checkpoints = 0;

	seed = first * 2654435761u + 1;
	print_message("SEED=%llu\n", (unsigned long long)first);
	for (unsigned step = 0; step < 200; step++) {
		some_writes((unsigned)rnd(30));
		if (!mem_is_split(&mem) && rnd(3)) {
			begin();
		} else if (!mem_is_split(&mem)) {
			checkpoint(true);
		} else if (rnd(12) == 0) {
			kvm_model.fail = rnd(4) ? 0 : -EIO;
			end();
		} else {
			bool whole = rnd(6) != 0;

			kvm_model.fail = rnd(10) ? 0 : -EIO;
			checkpoint(whole);
			checkpoints += whole;
			if (whole)
				assert_int_equal(views_private(&mem), 0);
		}
		kvm_model.fail = 0;
		if (step % 4 == 0)
			check();
	}
	assert_true(checkpoints > 100);
	if (mem_is_split(&mem))
		end();
	check_rolled_back();
}

/* As the kernel does for a write, before a vCPU that stops then does not write. */
static void make_private(uint64_t page)
{
	volatile uint8_t *p = mem_page(&mem, page);

	*p = *p;
}

/* No log has it, and it is as the checkpoint's page, until that changes. */
static void a_page_that_nobody_wrote(void **state)
{
	struct frame f = {.type = FRAME_PAGES, .data = frame};
	struct err e = {0};

	write_word(30, 0, 7);
	write_word(40, 0, 8);
	begin();
	for (uint64_t page = 30; page <= 50; page += 10)
		make_private(page);
	assert_int_equal(views_private(&mem), 3);
	memcpy(next, kept, BYTES);
	f.length = (uint32_t)put_page(put_zeros(0, 30, 1), 50, false);
	assert_int_equal(page_in_keep(&in, &f, &e), 0);
	while (!page_in_commit(&in, 1))
		;
	memcpy(kept, next, BYTES);
	roll_back();
	check();
	end();
	check();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(between_two_checkpoints),	 T(the_log_is_another_ones),
		T(a_beginning_without_memory),	 T(a_log_that_cannot_be_read),
		T(a_log_that_cannot_be_cleared), T(all_of_memory),
		T(a_page_that_nobody_wrote),	 T(random_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
