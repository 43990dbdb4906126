/*
 * An image that is sent while it is changed: what is marked, what goes out, and that the receiver's
 * is the same in the end, whatever was under way when a block was read.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/copy/disk_pass.h"
#include "vmm/copy/disk_wire.h"

#define BLOCKS	70u				    /* more than a word of marks has */
#define IMAGE	(BLOCKS * BLOCK_MAP_BYTES - 64512u) /* the last one has two sectors */
#define REQS	8u
#define WRITES	400u
#define GARBAGE 0xa5

struct fix {
	struct loop loop;
	struct disk disk;
	struct block_map map;
	/* The receiver. */
	struct stream out, in;
	pthread_t thread;
	uint8_t *copy;
	uint64_t writes, zeros, zero_bytes, lowest; /* of frames; its thread's until it has ended */
	/* The sender. */
	struct disk_pass pass;
	uint64_t bytes, left, count;
	pthread_t sender;
	int result;
	bool enough;	/* atomic: the guest has written what it wants to */
	bool over;	/* atomic */
	uint64_t late;	/* this is changed by `between`, once; 0: nothing */
	unsigned after; /* blocks, and then `between` ends it; 0: never */
};

/* --- the receiver ----------------------------------------------------------------------------- */

static void take(struct fix *f, const struct frame *fr)
{
	struct wire_disk w;

	if (fr->type != FRAME_DISK || fr->length < sizeof(w))
		abort();
	memcpy(&w, fr->data, sizeof(w));
	if (w.disk != 3 || w.off > IMAGE || w.len > IMAGE - w.off || !w.len ||
	    fr->length != sizeof(w) + w.data)
		abort();
	f->lowest = w.off < f->lowest ? w.off : f->lowest;
	if (w.kind == DISK_WRITE && w.data == w.len) {
		memcpy(f->copy + w.off, fr->data + sizeof(w), w.len);
		f->writes++;
	} else if (w.kind == DISK_ZERO && !w.data) {
		memset(f->copy + w.off, 0, w.len);
		f->zeros++;
		f->zero_bytes += w.len;
	} else {
		abort();
	}
}

static void *receiver(void *arg)
{
	struct fix *f = arg;
	struct frame fr;
	int r;

	while ((r = stream_recv(&f->in, &fr)) >= 0) {
		struct pollfd pfd = {.fd = f->in.fd, .events = POLLIN};

		if (r)
			take(f, &fr);
		else
			poll(&pfd, 1, -1);
	}
	return NULL;
}

/* --- set-up ----------------------------------------------------------------------------------- */

static int between(void *arg)
{
	struct fix *f = arg;

	if (f->late) {
		assert_int_equal(pwrite(f->disk.fd, "late", 4, (off_t)f->late), 4);
		block_map_mark(&f->map, f->late, 4);
		f->late = 0;
	}
	return f->after && !--f->after ? -ECANCELED : 0;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	char path[] = "/tmp/disk-pass-test-XXXXXX";
	int fd = mkstemp(path), pair[2];

	assert_true(fd >= 0 && !ftruncate(fd, IMAGE));
	close(fd);
	assert_int_equal(loop_init(&f->loop, NULL), 0);
	assert_int_equal(disk_open(&f->disk, &f->loop, "d", path, 0, NULL), 0);
	unlink(path);
	assert_int_equal(block_map_init(&f->map, IMAGE), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	stream_init(&f->out, pair[0], STREAM_MIGRATE, 1);
	stream_init(&f->in, pair[1], STREAM_MIGRATE, 0);
	assert_int_equal(stream_send_preface(&f->out, UINT64_MAX), 0);
	f->copy = malloc(IMAGE);
	memset(f->copy, GARBAGE, IMAGE);
	f->lowest = UINT64_MAX;
	f->pass = (struct disk_pass){.disk = &f->disk,
				     .index = 3,
				     .map = &f->map,
				     .stream = &f->out,
				     .frame_ns = 10000000000ull,
				     .buf = aligned_alloc(4096, BLOCK_MAP_BYTES),
				     .between = between,
				     .arg = f,
				     .bytes = &f->bytes,
				     .left = &f->left};
	pthread_create(&f->thread, NULL, receiver, f);
	*state = f;
	return 0;
}

/* All has come; the receiver's numbers may be looked at. */
static void hang_up(struct fix *f)
{
	if (f->out.fd < 0)
		return;
	stream_done(&f->out);
	pthread_join(f->thread, NULL);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	hang_up(f);
	stream_done(&f->in);
	disk_close(&f->disk);
	loop_done(&f->loop);
	block_map_done(&f->map);
	free(f->pass.buf);
	free(f->copy);
	free(f);
	return 0;
}

static void put(struct fix *f, uint64_t off, const char *text)
{
	assert_int_equal(pwrite(f->disk.fd, text, strlen(text), (off_t)off), strlen(text));
}

static void equal(struct fix *f)
{
	uint8_t *image = malloc(IMAGE);

	hang_up(f);
	assert_int_equal(pread(f->disk.fd, image, IMAGE, 0), IMAGE);
	assert_memory_equal(image, f->copy, IMAGE);
	free(image);
}

/* --- marks ------------------------------------------------------------------------------------ */

static void marks(void **state)
{
	struct fix *f = *state;
	static const struct {
		uint64_t off, len, first, count;
	} rows[] = {
		{0, 1, 0, 1},
		{BLOCK_MAP_BYTES - 512, 1024, 0, 2},
		{63 * BLOCK_MAP_BYTES, 2 * BLOCK_MAP_BYTES, 63, 2},
		{5 * BLOCK_MAP_BYTES, BLOCK_MAP_BYTES, 5, 1},
		{IMAGE - 512, 512, BLOCKS - 1, 1},
		{0, IMAGE, 0, BLOCKS},
	};

	assert_int_equal(f->map.nblocks, BLOCKS);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t n = 0, b = 0;

		block_map_mark(&f->map, rows[i].off, rows[i].len);
		assert_int_equal(block_map_count(&f->map), rows[i].count);
		assert_int_equal(block_map_next(&f->map, 0), rows[i].first);
		while ((b = block_map_next(&f->map, b)) < BLOCKS) {
			assert_true(block_map_take(&f->map, b));
			assert_false(block_map_take(&f->map, b));
			n++;
		}
		assert_int_equal(n, rows[i].count);
		assert_int_equal(block_map_count(&f->map), 0);
	}
}

/* --- what goes out ---------------------------------------------------------------------------- */

static void all_of_it(void **state)
{
	struct fix *f = *state;

	put(f, 0, "first");
	put(f, 9 * BLOCK_MAP_BYTES - 3, "two of them");
	put(f, IMAGE - 4, "last");
	assert_int_equal(pwrite(f->disk.fd, "\0", 1, 30 * BLOCK_MAP_BYTES),
			 1); /* no hole, and zeros */
	f->left = IMAGE;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	assert_int_equal(f->left, 0);
	equal(f);
	assert_int_equal(f->writes, 4);
	assert_int_equal(f->zeros, 2); /* runs between these */
	assert_int_equal(f->bytes, 6 * sizeof(struct wire_disk) + 3 * BLOCK_MAP_BYTES + 1024);
}

static void an_empty_one(void **state)
{
	struct fix *f = *state;

	assert_int_equal(disk_pass_all(&f->pass), 0);
	equal(f);
	assert_int_equal(f->writes, 0);
	assert_int_equal(f->zeros, 1);
}

static void zeros_that_are_there_already(void **state)
{
	struct fix *f = *state;

	memset(f->copy, 0, IMAGE);
	put(f, 9 * BLOCK_MAP_BYTES, "one");
	f->pass.fresh = true;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	/* A block that has become zero is told of. */
	put(f, 9 * BLOCK_MAP_BYTES, "\0\0");
	assert_int_equal(pwrite(f->disk.fd, "\0\0\0", 3, 9 * BLOCK_MAP_BYTES), 3);
	block_map_mark(&f->map, 9 * BLOCK_MAP_BYTES, 3);
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(f->count, 1);
	equal(f);
	assert_int_equal(f->writes, 1);
	assert_int_equal(f->zero_bytes, BLOCK_MAP_BYTES);
}

static void the_first_block_waits(void **state)
{
	struct fix *f = *state;

	put(f, 0, "first");
	put(f, 2 * BLOCK_MAP_BYTES, "third");
	f->pass.from = 1;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	block_map_mark(&f->map, 0, 3 * BLOCK_MAP_BYTES);
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(f->count, 2);
	assert_int_equal(block_map_count(&f->map), 1);
	hang_up(f);
	assert_int_equal(f->lowest, BLOCK_MAP_BYTES);
	assert_int_equal(f->copy[0], GARBAGE);
}

static void and_comes(void **state)
{
	struct fix *f = *state;

	put(f, 0, "first");
	f->pass.from = 1;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	f->pass.from = 0;
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(f->count, 1);
	equal(f);
}

/* --- while it is changed ---------------------------------------------------------------------- */

static void *sender(void *arg)
{
	struct fix *f = arg;
	uint64_t count;

	f->result = disk_pass_all(&f->pass);
	while (!f->result && !__atomic_load_n(&f->enough, __ATOMIC_ACQUIRE))
		f->result = disk_pass_marked(&f->pass, &count);
	__atomic_store_n(&f->over, true, __ATOMIC_RELEASE);
	return NULL;
}

/* As postcopy/copies.c does. */
static void changed(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	struct fix *f = arg;

	if (r->kind != DISK_FLUSH)
		block_map_mark(&f->map, r->off, r->len);
}

struct writer {
	struct disk_req req;
	bool busy;
};

static void written(struct disk_req *r, int res)
{
	struct writer *w = r->arg;

	assert_int_equal(res, 0);
	w->busy = false;
}

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

static void write_somewhere(struct fix *f, struct writer *w, uint64_t *s)
{
	static const enum disk_op kinds[] = {DISK_WRITE, DISK_WRITE, DISK_ZERO, DISK_DISCARD};
	uint32_t len = 512u * (uint32_t)(1 + next(s) % 256);
	uint64_t off = next(s) % (IMAGE - len) / 512 * 512;
	enum disk_op kind = kinds[next(s) % 4];

	for (uint32_t i = 0; kind == DISK_WRITE && i < len; i += 8)
		memcpy(w->req.buf + i, &(uint64_t){next(s)}, 8);
	w->req = (struct disk_req){
		.kind = kind, .off = off, .len = len, .buf = w->req.buf, .done = written, .arg = w};
	w->busy = true;
	disk_submit(&f->disk, &w->req);
}

static void it_is_the_same_in_the_end(void **state)
{
	struct fix *f = *state;
	struct writer w[REQS] = {0};
	uint64_t s = 88172645463325252ull, writes = 0;
	bool busy = true;

	for (unsigned i = 0; i < REQS; i++)
		w[i].req.buf = aligned_alloc(4096, 256 * 512);
	for (unsigned b = 0; b < BLOCKS; b += 2)
		put(f, b * (uint64_t)BLOCK_MAP_BYTES, "something");
	f->disk.hook = (struct disk_hook){.done = changed, .arg = f};
	pthread_create(&f->sender, NULL, sender, f);
	while (busy) {
		bool over = __atomic_load_n(&f->over, __ATOMIC_ACQUIRE);

		busy = !over;
		for (unsigned i = 0; i < REQS; i++) {
			if (!over && !w[i].busy && ++writes)
				write_somewhere(f, &w[i], &s);
			busy |= w[i].busy;
		}
		__atomic_store_n(&f->enough, writes >= WRITES, __ATOMIC_RELEASE);
		loop_run_once(&f->loop, 1000000);
	}
	pthread_join(f->sender, NULL);
	assert_int_equal(f->result, 0);
	/* Nothing is under way any more. */
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(block_map_count(&f->map), 0);
	equal(f);
	for (unsigned i = 0; i < REQS; i++)
		free(w[i].req.buf);
}

/* The write is done when its block has been read. */
static void right_behind_the_read(void **state)
{
	struct fix *f = *state;

	put(f, 0, "first");
	f->late = 100;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	assert_int_equal(block_map_count(&f->map), 1);
	f->late = 200;
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(block_map_count(&f->map), 1);
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(block_map_count(&f->map), 0);
	equal(f);
}

/* In a hole that was told of already. */
static void into_a_hole_behind_the_look(void **state)
{
	struct fix *f = *state;

	put(f, 9 * BLOCK_MAP_BYTES, "data");
	f->late = 3 * BLOCK_MAP_BYTES;
	assert_int_equal(disk_pass_all(&f->pass), 0);
	assert_int_equal(disk_pass_marked(&f->pass, &f->count), 0);
	assert_int_equal(f->count, 1);
	equal(f);
}

/* --- what goes wrong -------------------------------------------------------------------------- */

static void it_is_given_up(void **state)
{
	struct fix *f = *state;

	for (unsigned b = 0; b < BLOCKS; b++)
		put(f, b * (uint64_t)BLOCK_MAP_BYTES, "something");
	f->after = 10;
	assert_int_equal(disk_pass_all(&f->pass), -ECANCELED);
	hang_up(f);
	assert_int_equal(f->writes, 9);
}

static void it_is_shorter_than_it_was(void **state)
{
	struct fix *f = *state;

	put(f, 0, "something");
	assert_int_equal(ftruncate(f->disk.fd, BLOCK_MAP_BYTES / 2), 0);
	assert_int_equal(disk_pass_all(&f->pass), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(marks),
		T(all_of_it),
		T(an_empty_one),
		T(zeros_that_are_there_already),
		T(the_first_block_waits),
		T(and_comes),
		T(it_is_the_same_in_the_end),
		T(right_behind_the_read),
		T(into_a_hole_behind_the_look),
		T(it_is_given_up),
		T(it_is_shorter_than_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
