/*
 * Pages that are carried over by hand: what is owed is in the file, and comes out of it; whatever
 * else is in one is refused, with a reason, and nobody waits for storage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "postcopy/carry_in.h"
#include "postcopy/carry_out.h"
#include "postcopy/unsent.h"
#include "postcopy/wire.h"
#include "vmm/copy/pages.h"
#include "vmm/wire/stream.h"

#define BYTES	  (16ull << 20)
#define PAGES	  (BYTES / MEM_PAGE_SIZE)
#define SESSION	  0x1234567ull
#define DATA_FROM 1000 /* pages that have memory: the others are holes */
#define DATA_END  1500

static struct loop loop;
static struct mem mem;
static struct unsent unsent;
static struct carry_out *out;
static struct carry_in *in;
static char folder[64], path[96];
/* What was told last. */
static unsigned told_out, told_in;
static struct err err;
/* What came of the file. */
static struct stream link_;
static uint8_t came[PAGES];
static struct wire_eos eos;
static bool got_eos;
static char bye[400];

/* --- the rig ---------------------------------------------------------------------------------- */

static void told_of(unsigned *n, const struct err *e)
{
	++*n;
	err = e ? *e : (struct err){0};
}

static void on_out(void *arg, const struct err *e)
{
	told_of(&told_out, e);
}

static void on_in(void *arg, const struct err *e)
{
	told_of(&told_in, e);
}

static int setup(void **state)
{
	memset(came, 0, sizeof(came));
	told_out = told_in = 0;
	got_eos = false;
	bye[0] = 0;
	link_ = (struct stream){.fd = -1};
	strcpy(folder, "/tmp/ftvmm-carry-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/pages", folder);
	assert_int_equal(loop_init(&loop, NULL), 0);
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	for (uint64_t page = DATA_FROM; page < DATA_END; page++)
		for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
			mem_page(&mem, page)[i] = (uint8_t)(page * 31 + i * i);
	return unsent_init(&unsent, PAGES, true);
}

static int teardown(void **state)
{
	char command[96];

	stream_done(&link_);
	carry_out_stop(&out);
	carry_in_stop(&in);
	unsent_done(&unsent);
	mem_done(&mem);
	loop_done(&loop);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static int begin_out(struct err *e)
{
	const struct carry_out_plan plan = {.path = path,
					    .loop = &loop,
					    .mem = &mem,
					    .pages = unsent_owed(&unsent),
					    .session = SESSION,
					    .told = on_out};

	return carry_out_start(&out, &plan, e);
}

static void write_file(void)
{
	unsigned n = told_out;

	assert_int_equal(begin_out(NULL), 0);
	while (told_out == n)
		loop_run_once(&loop, 100000000);
	assert_null(out);
}

static void begin_in(void)
{
	const struct carry_in_plan plan = {path, &loop, SESSION, on_in, NULL};
	int fd;

	stream_done(&link_);
	assert_int_equal(carry_in_start(&in, &plan, &fd, NULL), 0);
	stream_init(&link_, fd, STREAM_MIGRATE, SESSION);
}

static void take_pages(const struct frame *f)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	uint8_t page[MEM_PAGE_SIZE];
	struct page_entry en;

	while (pages_next(&pos, end, PAGES, &en) == 1) {
		assert_int_equal(pages_decode(&en, NULL, page), 0);
		assert_memory_equal(page, mem_page(&mem, en.page), MEM_PAGE_SIZE);
		came[en.page]++;
	}
}

static void take_map(const struct frame *f)
{
	struct wire_map w;

	for (uint32_t at = 0; at < f->length; at += sizeof(w)) {
		memcpy(&w, f->data + at, sizeof(w));
		assert_int_equal(w.kind, WIRE_MAP_ZERO);
		for (uint64_t i = 0; i < w.count; i++) {
			assert_true(w.page + i < DATA_FROM || w.page + i >= DATA_END);
			came[w.page + i]++;
		}
	}
}

static void take(const struct frame *f)
{
	if (f->type == FRAME_PAGES) {
		take_pages(f);
	} else if (f->type == FRAME_MAP) {
		take_map(f);
	} else if (f->type == FRAME_BYE) {
		stream_text(f, "", bye, sizeof(bye));
	} else {
		assert_int_equal(f->type, FRAME_EOS);
		assert_int_equal(f->length, sizeof(eos));
		memcpy(&eos, f->data, sizeof(eos));
		got_eos = true;
	}
}

/* All that comes, up to the end of the file or of the other side. */
static void read_all(void)
{
	struct pollfd p = {.fd = link_.fd, .events = POLLIN};
	struct frame f;
	int r;

	while (!got_eos && (r = stream_recv(&link_, &f)) >= 0)
		if (r)
			take(&f);
		else
			assert_int_equal(poll(&p, 1, 10000), 1);
}

static void answer(enum frame_type type, const char *text)
{
	struct iovec iov = {(void *)text, strlen(text)};

	assert_int_equal(stream_send(&link_, type, 0, &iov, *text ? 1 : 0, UINT64_MAX), 0);
}

static void wait_told(void)
{
	while (!told_in)
		loop_run_once(&loop, 100000000);
	assert_int_equal(told_in, 1);
	assert_null(in);
	told_in = 0;
}

/* The file is not taken: why, to who asked and to the other side. */
static void is_refused(const char *word)
{
	got_eos = false;
	bye[0] = 0;
	begin_in();
	read_all();
	assert_false(got_eos);
	wait_told();
	if (!strstr(err.msg, word) || !strstr(err.msg, path) || !strstr(bye, word))
		fail_msg("'%s' is not in '%s' and '%s'", word, err.msg, bye);
}

static uint8_t *slurp(size_t *len)
{
	static uint8_t bytes[BYTES];
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	*len = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	return bytes;
}

static void spill(const uint8_t *bytes, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	fclose(f);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void all_of_it(void **state)
{
	write_file();
	assert_int_equal(err.code, 0);
	begin_in();
	read_all();
	assert_true(got_eos);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(came[i], 1);
	assert_int_equal(eos.pushed, DATA_END - DATA_FROM);
	assert_int_equal(eos.zero, PAGES - eos.pushed);
	assert_int_equal(eos.urgent, 0);
	assert_int_equal(told_in, 0); /* not before it is said that all is there */
	answer(FRAME_EOC, "");
	wait_told();
	assert_int_equal(err.code, 0);
}

/* What went out is in it, too, unless it was said that it is there. */
static void what_is_owed(void **state)
{
	unsent_peer_has(&unsent, 16, 0xffull << 8); /* pages 1032 to 1039 */
	unsent_peer_has(&unsent, 0, UINT64_MAX);
	unsent_claim(&unsent, 1200);
	unsent_claim(&unsent, 200);
	write_file();
	begin_in();
	read_all();
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(came[i], !(i < 64 || (i >= 1032 && i < 1040)));
	assert_int_equal(eos.pushed, DATA_END - DATA_FROM - 8);
}

/* Of each length that is too short. */
static void cut_off(void **state)
{
	uint8_t *bytes, *all;
	size_t len;

	unsent_peer_has(&unsent, 16, UINT64_MAX);
	write_file();
	bytes = slurp(&len);
	all = malloc(len);
	assert_non_null(all);
	memcpy(all, bytes, len);
	for (size_t n = 0; n < len; n += n < 200 || n + 200 > len ? 1 : 997) {
		spill(all, n);
		is_refused("");
	}
	free(all);
}

static void one_bit(void **state)
{
	uint8_t *bytes;
	size_t len;

	write_file();
	bytes = slurp(&len);
	for (size_t n = 0; n < len; n += n < 100 ? 1 : 4999) {
		bytes[n] ^= 0x10;
		spill(bytes, len);
		is_refused("");
		bytes[n] ^= 0x10;
	}
}

/* A stream, but not of these pages. */
static void forged(enum stream_link link, uint64_t session, enum frame_type type, const char *word)
{
	struct stream st;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct iovec iov = {"12345678", 8};

	stream_init(&st, fd, link, session);
	assert_int_equal(stream_send_preface(&st, UINT64_MAX), 0);
	assert_int_equal(stream_send(&st, type, 0, &iov, 1, UINT64_MAX), 0);
	stream_done(&st);
	is_refused(word);
}

static void others(void **state)
{
	forged(STREAM_FILE, SESSION + 1, FRAME_PAGES, "not of this migration");
	forged(STREAM_FILE, SESSION, FRAME_STATE, "state where it does not belong");
	forged(STREAM_FILE, SESSION, FRAME_BYE, "bye where it does not belong");
	forged(STREAM_FILE, SESSION, FRAME_GO, "go where it does not belong");
	forged(STREAM_MIGRATE, SESSION, FRAME_PAGES, "link kind");
	unlink(path);
	is_refused("cannot open");
	assert_int_equal(mkfifo(path, 0600), 0);
	is_refused("not a regular file");
}

/* The other side has the last word. */
static void refused_there(void **state)
{
	write_file();
	begin_in();
	answer(FRAME_REFUSE, "eos: 7 pages\nhave not come");
	stream_done(&link_);
	wait_told();
	assert_non_null(strstr(err.msg, "eos: 7 pages?have not come"));
	begin_in();
	stream_done(&link_);
	wait_told();
	assert_non_null(strstr(err.msg, "not needed any more"));
}

static void one_at_a_time(void **state)
{
	const struct carry_in_plan plan = {path, &loop, SESSION, on_in, NULL};
	struct err e = {0};
	int fd;

	assert_int_equal(begin_out(NULL), 0);
	assert_int_equal(begin_out(&e), -EBUSY);
	assert_non_null(strstr(e.msg, "is being written"));
	while (!told_out)
		loop_run_once(&loop, 100000000);
	begin_in();
	e = (struct err){0};
	assert_int_equal(carry_in_start(&in, &plan, &fd, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "is being read"));
}

static void no_place_for_it(void **state)
{
	struct err e = {0};
	char was[sizeof(path)];

	memcpy(was, path, sizeof(was));
	snprintf(path, sizeof(path), "%s/none/pages", folder);
	write_file();
	assert_non_null(strstr(err.msg, "none/pages"));
	memcpy(path, was, sizeof(was));
	write_file(); /* another is fine */
	assert_int_equal(err.code, 0);
	assert_int_equal(begin_out(&e), 0);
}

/* The process ends in the middle: memory goes at once, and nobody is told. */
static void stopped(void **state)
{
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(begin_out(NULL), 0);
		if (i % 2)
			usleep(500 * i);
		carry_out_stop(&out);
		assert_null(out);
	}
	write_file();
	for (unsigned i = 0; i < 20; i++) {
		begin_in();
		stream_done(&link_);
		carry_in_stop(&in);
	}
	loop_run_once(&loop, 0);
	assert_int_equal(told_out, 1);
	assert_int_equal(told_in, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(all_of_it),	  T(what_is_owed),  T(cut_off),		T(one_bit), T(others),
		T(refused_there), T(one_at_a_time), T(no_place_for_it), T(stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
