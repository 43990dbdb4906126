/* Pages into frames, and passes over RAM: what goes out, in which order, cut where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/libkvm_model.h"
#include "vmm/base/loop.h"
#include "vmm/copy/page_in.h"
#include "vmm/copy/pages.h"
#include "vmm/copy/ram_pass.h"

#define BYTES	 (8ull << 20)
#define PAGES	 (BYTES / MEM_PAGE_SIZE)
#define FULL	 (256u << 10) /* a frame ends with the page that makes it so large */
#define SECOND	 1000000000ull
#define FILE_MAX (64u << 20)

static struct mem mem, peer;
static struct page_out out;
static struct stream to;
static int file;

static int setup(void **state)
{
	char path[] = "/tmp/ram-pass-XXXXXX";

	file = mkstemp(path);
	unlink(path);
	assert_true(file >= 0);
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, NULL) |
				 mem_init(&peer, MEM_SHARED_FILE, BYTES, NULL),
			 0);
	kvm_model_start(&mem);
	stream_init(&to, dup(file), STREAM_FILE, 7);
	assert_int_equal(stream_send_preface(&to, loop_now_ns() + SECOND), 0);
	assert_int_equal(page_out_init(&out, &to, SECOND), 0);
	return 0;
}

static int teardown(void **state)
{
	page_out_done(&out);
	stream_done(&to);
	close(file);
	kvm_model_end();
	mem_done(&mem);
	mem_done(&peer);
	return 0;
}

static void fill(uint64_t page, uint64_t seed, bool random)
{
	uint64_t *p = (uint64_t *)mem_page(&mem, page), s = seed * 2654435761u + page + 1;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		p[i] = random ? s : seed + i / 64;
	}
}

static uint64_t allocated(const struct mem *m)
{
	struct stat st;

	assert_int_equal(fstat(m->fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

/* What was written so far: frames of pages, one behind the other. *ret_frames is how many. */
static uint8_t *payloads(uint64_t epoch, size_t *ret_len, unsigned *ret_frames)
{
	uint8_t *all = malloc(FILE_MAX);
	struct stream st;
	struct frame f;
	struct err e;

	assert_non_null(all);
	*ret_len = *ret_frames = 0;
	assert_int_equal(lseek(file, 0, SEEK_SET), 0);
	stream_init(&st, dup(file), STREAM_FILE, 0);
	while (stream_recv(&st, &f) == 1) {
		assert_int_equal(f.type, FRAME_PAGES);
		assert_int_equal(f.epoch, epoch);
		assert_int_equal(page_in_now(&peer, &f, &e), 0);
		memcpy(all + *ret_len, f.data, f.length);
		*ret_len += f.length;
		++*ret_frames;
		/* All but the last one are full, and none by more than a page. */
		assert_true(f.length < FULL + PAGE_ENTRY_MAX);
	}
	assert_string_equal(st.why, "");
	stream_done(&st);
	return all;
}

/* The same bytes as one page behind the other, and cut by the same rule. */
static void check_wire(const uint64_t *page, unsigned n, uint64_t epoch)
{
	uint8_t *want = malloc(n * PAGE_ENTRY_MAX + 1), *is;
	size_t len = 0, since = 0, have;
	unsigned frames = 0, have_frames;

	for (unsigned i = 0; i < n; i++) {
		len += pages_encode(page[i], mem_page(&mem, page[i]), NULL, true, want + len);
		if (len - since >= FULL || i + 1 == n) {
			frames++;
			since = len;
		}
	}
	is = payloads(epoch, &have, &have_frames);
	assert_int_equal(have, len);
	assert_memory_equal(is, want, len);
	assert_int_equal(have_frames, frames);
	free(want);
	free(is);
}

static void frames_of_pages(void **state)
{
	uint64_t page[PAGES];
	uint64_t sent = 0;
	unsigned fulls = 0;

	out.epoch = 5;
	out.sent = &sent;
	for (unsigned i = 0; i < PAGES; i++) {
		page[i] = (i * 7919) % PAGES;
		if (i % 3)
			fill(page[i], i, i % 3 == 1);
	}
	for (unsigned i = 0; i < PAGES; i++)
		if (page_out_add(&out, page[i], mem_page(&mem, page[i]), NULL)) {
			fulls++;
			assert_int_equal(page_out_flush(&out), 0);
		}
	assert_int_equal(page_out_flush(&out), 0);
	assert_int_equal(page_out_flush(&out), 0); /* nothing: no frame */
	assert_true(fulls > 5);
	check_wire(page, PAGES, 5);
	assert_int_equal(sent, to.sent_bytes - sizeof(struct stream_preface) -
				       (fulls + 1) * sizeof(struct frame_hdr));
	assert_memory_equal(mem.base, peer.base, BYTES);
}

/* A delta against what the receiver holds; and no writing to a stream that is broken. */
static void bases_and_a_broken_stream(void **state)
{
	uint64_t base[MEM_PAGE_SIZE / 8] = {1, 2, 3};

	fill(3, 1, true);
	memcpy(base, mem_page(&mem, 3), sizeof(base));
	base[9]++;
	assert_false(page_out_add(&out, 3, mem_page(&mem, 3), (uint8_t *)base));
	assert_int_equal(out.fill, PAGE_HEAD_SIZE + 4 + 8);
	assert_int_equal(pages_method(out.enc), PAGE_DELTA);
	to.send_error = -EPIPE;
	assert_int_equal(page_out_flush(&out), -EPIPE);
	assert_int_equal(page_out_flush(&out), 0);
}

static unsigned turns;

static int count(void *arg)
{
	turns++;
	return arg && turns == *(unsigned *)arg ? -ECANCELED : 0;
}

static int late(void *arg)
{
	return count(arg) ? -ETIME : 0;
}

/* All that is not zero, in order; what has no memory gets none by being looked at. */
static void all_that_is_used(void **state)
{
	uint64_t page[PAGES], pages = 0, had;
	struct ram_pass pass = {.mem = &mem, .out = &out, .pages = &pages, .between = count};
	unsigned n = 0;

	turns = 0;
	for (uint64_t p = 100; p < 400; p++) {
		fill(p, p, p % 2);
		if (p < 200 || p >= 250)
			page[n++] = p;
	}
	assert_int_equal(mem_discard(&mem, 200 * MEM_PAGE_SIZE, 50 * MEM_PAGE_SIZE), 0);
	memset(mem_page(&mem, 500), 0, 50 * MEM_PAGE_SIZE);
	page[n++] = 600; /* its last byte */
	assert_int_equal(mem_write(&mem, 600 * MEM_PAGE_SIZE + 4095, "x", 1), 0);
	page[n++] = PAGES - 1;
	fill(PAGES - 1, 1, true);
	had = allocated(&mem);
	assert_int_equal(ram_pass_all(&pass), 0);
	assert_int_equal(allocated(&mem), had);
	assert_int_equal(pages, n);
	assert_true(turns > 2);
	check_wire(page, n, 0);
	assert_int_equal(allocated(&peer), n);
	/* The marks are for those who are owed them. */
	assert_true(mem_take_discarded(&mem, 200 / 64));
	assert_true(mem_take_host_dirty(&mem, 600 / 64));
}

static void a_pass_is_ended_between_frames(void **state)
{
	struct ram_pass pass = {.mem = &mem, .out = &out, .between = count, .arg = &(unsigned){3}};
	struct dirty d;
	uint64_t n, left;

	turns = 0;
	for (uint64_t p = 0; p < PAGES; p++)
		fill(p, p, true);
	assert_int_equal(ram_pass_all(&pass), -ECANCELED);
	assert_int_equal(turns, 3);
	/* Memory full of zeros, which makes no frames. */
	turns = 0;
	pass.arg = &(unsigned){2};
	memset(mem.base, 0, BYTES);
	assert_int_equal(ram_pass_all(&pass), -ECANCELED);
	assert_int_equal(turns, 2);
	turns = 0;
	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, NULL), 0);
	for (uint64_t p = 0; p < PAGES; p++) {
		fill(p, p, true);
		guest_writes(&mem, p, 0, p + 1);
	}
	pass.arg = &(unsigned){1};
	pass.between = late;
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), -ETIME);
	assert_true(n > 0 && n < PAGES);
	/* The rest is not lost. */
	assert_int_equal(dirty_count(&d, &left), 0);
	assert_int_equal(left, PAGES - n);
	pass.between = NULL;
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, left);
	dirty_stop(&d);
}

/* Dirty pages, zero or not, once; then no more. */
static void what_is_dirty(void **state)
{
	static const uint64_t page[] = {0, 63, 64, 777, PAGES - 1};
	struct ram_pass pass = {.mem = &mem, .out = &out};
	struct dirty d;
	uint64_t n;

	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, NULL), 0);
	for (unsigned i = 0; i < 5; i++)
		guest_writes(&mem, page[i], i, i * i); /* the first one is zero */
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 5);
	check_wire(page, 5, 0);
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 0);
	kvm_model.fail = -EIO;
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), -EIO);
	dirty_stop(&d);
}

/* What is counted stays, what was sent is known, and a last pass protects nothing. */
static void counted_sent_and_still(void **state)
{
	uint64_t sent[(PAGES + 63) / 64] = {0}, word = 1, n;
	struct ram_pass pass = {.mem = &mem, .out = &out, .sent = sent};
	struct dirty d;

	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &mem, NULL), 0);
	dirty_forget_host(&d);
	guest_writes(&mem, 3, 0, 1);
	guest_writes(&mem, 70, 0, 1);
	assert_int_equal(mem_write(&mem, 5 * MEM_PAGE_SIZE, &word, sizeof(word)), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(dirty_count(&d, &n), 0);
		assert_int_equal(n, 3);
	}
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(sent[0], 1ull << 3 | 1ull << 5);
	assert_int_equal(sent[1], 1ull << (70 - 64));
	assert_int_equal(dirty_count(&d, &n), 0);
	assert_int_equal(n, 0);
	guest_writes(&mem, 9, 0, 1);
	pass.still = true;
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(dirty_count(&d, &n), 0);
	assert_int_equal(n, 1);
	kvm_model.fail = -EIO;
	assert_int_equal(dirty_count(&d, &n), -EIO);
	dirty_stop(&d);
}

/* RAM on both sides of the hole: two logs, one row of pages. */
static void above_the_hole(void **state)
{
	uint64_t low = MEM_LOW_MAX / MEM_PAGE_SIZE;
	const uint64_t page[] = {5, low - 1, low, low + 64, low + 1023};
	struct ram_pass pass = {.out = &out};
	struct mem big;
	struct dirty d;
	uint64_t n;

	if (mem_init(&big, MEM_SHARED_FILE, MEM_LOW_MAX + (4ull << 20), NULL))
		skip(); /* the host has less */
	kvm_model_end();
	kvm_model_start(&big);
	assert_int_equal(dirty_start(&d, &kvm_model.kvm, &big, NULL), 0);
	for (unsigned i = 0; i < 5; i++)
		guest_writes(&big, page[i], 1, i + 1);
	assert_int_equal(mem_store16(&big, MEM_HIGH_BASE + 3 * MEM_PAGE_SIZE, 1), 0);
	assert_int_equal(dirty_get(&d), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_true(d.bits[page[i] / 64] >> (page[i] % 64) & 1);
	assert_true(d.bits[low / 64] >> 3 & 1);
	/* Only what is asked for is protected again. */
	dirty_set(d.clear, page[1]);
	dirty_set(d.clear, page[4]);
	assert_int_equal(dirty_clear(&d), 0);
	pass.mem = &big;
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(ram_pass_dirty(&pass, &d, &n), 0);
	assert_int_equal(n, 0);
	dirty_stop(&d);
	mem_done(&big);
}

/* Somebody else marked them; a mark is gone when its page is read. */
static void what_is_marked(void **state)
{
	const struct ram_pass pass = {.mem = &mem, .out = &out};
	uint64_t bits[PAGES / 64] = {0}, n;
	unsigned frames;
	size_t len;

	fill(1, 3, true);
	fill(64, 4, true);
	fill(PAGES - 1, 5, true);
	bits[0] = 1ull << 1 | 1ull << 7; /* 7 is a hole: a page of zeros */
	bits[1] = 1;
	bits[PAGES / 64 - 1] = 1ull << 63;
	memset(mem_page(&peer, 7), 9, MEM_PAGE_SIZE);
	assert_int_equal(ram_pass_marked(&pass, bits, &n), 0);
	assert_int_equal(n, 4);
	for (unsigned w = 0; w < PAGES / 64; w++)
		assert_int_equal(bits[w], 0);
	free(payloads(0, &len, &frames));
	assert_memory_equal(mem_page(&peer, 1), mem_page(&mem, 1), MEM_PAGE_SIZE);
	assert_memory_equal(mem_page(&peer, 64), mem_page(&mem, 64), MEM_PAGE_SIZE);
	assert_memory_equal(mem_page(&peer, PAGES - 1), mem_page(&mem, PAGES - 1), MEM_PAGE_SIZE);
	assert_true(mem_is_zero_page(mem_page(&peer, 7)));
	assert_int_equal(ram_pass_marked(&pass, bits, &n), 0);
	assert_int_equal(n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(frames_of_pages),  T(bases_and_a_broken_stream),
		T(all_that_is_used), T(a_pass_is_ended_between_frames),
		T(what_is_dirty),    T(what_is_marked),
		T(above_the_hole),   T(counted_sent_and_still),
		T(above_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
