/* Sums of one image against another: what is marked then is what differs, and what was written
 * meanwhile. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/copy/disk_compare.h"
#include "vmm/copy/disk_sums.h"
#include "vmm/machine/machine.h"

#define SESSION 0x1234567890abcdefull
#define DISK	3u /* its place in the machine */

struct lab {
	struct loop loop;
	struct disk disks[2][MACHINE_MAX_DEVS]; /* the sender's, the receiver's */
	struct block_map maps[MACHINE_MAX_DEVS];
	struct stream out, in; /* of the sender, of the receiver */
	struct loop_op in_op, out_op;
	struct disk_compare compare;
	struct disk_pass pass;
	uint64_t asked, answered, bytes, frames, pieces;
	int error, refused;
	int sent; /* what the pass returned */
	bool is_over;
};

static uint64_t at_random(uint64_t *x, uint64_t n)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x % n;
}

static void compared(void *arg, const struct wire_differ *w, const struct wire_blocks *pieces,
		     int error)
{
	struct lab *l = arg;
	struct iovec iov[2] = {{(void *)w, sizeof(*w)},
			       {(void *)pieces, w->count * sizeof(*pieces)}};

	l->error = error;
	l->pieces += w->count;
	if (!error)
		assert_int_equal(stream_send(&l->in, FRAME_DIFFER, 0, iov, w->count ? 2 : 1,
					     loop_now_ns() + 5000000000ull),
				 0);
}

static void sums_came(struct loop_op *op, int res)
{
	struct lab *l = op->arg;
	struct err e = {0};
	struct frame f;

	for (int i = 0; i < 2; i++)
		while (stream_recv(&l->in, &f) == 1) {
			l->frames++;
			assert_int_equal(f.type, FRAME_SUMS);
			assert_int_equal(disk_compare_push(&l->compare, &f, &e), 0);
		}
}

static void answer_came(struct loop_op *op, int res)
{
	struct lab *l = op->arg;
	struct err e = {0};
	struct frame f;

	for (int i = 0; i < 2; i++)
		while (stream_recv(&l->out, &f) == 1) {
			assert_int_equal(disk_sums_answer(&f, l->maps, MACHINE_MAX_DEVS, &e), 0);
			l->answered++;
		}
}

static int between(void *arg)
{
	return 0;
}

static void *sender(void *arg)
{
	struct lab *l = arg;

	l->sent = disk_sums_send(&l->pass, &l->asked);
	__atomic_store_n(&l->is_over, true, __ATOMIC_RELEASE);
	return NULL;
}

static void image(struct disk *d, uint64_t bytes)
{
	memset(d, 0, sizeof(*d));
	strcpy(d->id, "d3");
	d->fd = memfd_create("image", MFD_CLOEXEC);
	d->bytes = bytes;
	assert_int_equal(ftruncate(d->fd, (off_t)bytes), 0);
}

static void begin(struct lab *l, uint64_t bytes)
{
	int fds[2];

	memset(l, 0, sizeof(*l));
	assert_int_equal(loop_init(&l->loop, NULL), 0);
	image(&l->disks[0][DISK], bytes);
	image(&l->disks[1][DISK], bytes);
	assert_int_equal(block_map_init(&l->maps[DISK], bytes), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	stream_init(&l->out, fds[0], STREAM_MAIN, SESSION);
	stream_init(&l->in, fds[1], STREAM_MAIN, SESSION);
	l->out.got_preface = l->in.got_preface = true;
	l->in_op = (struct loop_op){.fn = sums_came, .arg = l};
	l->out_op = (struct loop_op){.fn = answer_came, .arg = l};
	assert_int_equal(loop_poll_add(&l->loop, &l->in_op, fds[1], POLLIN), 0);
	assert_int_equal(loop_poll_add(&l->loop, &l->out_op, fds[0], POLLIN), 0);
	assert_int_equal(disk_compare_init(&l->compare, &l->loop, l->disks[1], 1u << DISK, SESSION),
			 0);
	l->compare.told = compared;
	l->compare.arg = l;
	l->pass = (struct disk_pass){.disk = &l->disks[0][DISK],
				     .index = DISK,
				     .map = &l->maps[DISK],
				     .stream = &l->out,
				     .frame_ns = 10000000000ull,
				     .buf = aligned_alloc(4096, BLOCK_MAP_BYTES),
				     .between = between,
				     .bytes = &l->bytes};
}

static void end(struct lab *l)
{
	disk_compare_done(&l->compare);
	disk_compare_free(&l->compare);
	disk_compare_free(&l->compare);
	loop_poll_del(&l->loop, &l->in_op);
	loop_poll_del(&l->loop, &l->out_op);
	stream_done(&l->out);
	stream_done(&l->in);
	loop_done(&l->loop);
	free(l->pass.buf);
	block_map_done(&l->maps[DISK]);
	close(l->disks[0][DISK].fd);
	close(l->disks[1][DISK].fd);
}

static void compare_all(struct lab *l)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, sender, l), 0);
	while (!l->error && (!__atomic_load_n(&l->is_over, __ATOMIC_ACQUIRE) ||
			     l->answered < __atomic_load_n(&l->asked, __ATOMIC_ACQUIRE)))
		assert_true(loop_run_once(&l->loop, 50000000ull) >= 0);
	pthread_join(thread, NULL);
}

static void fill(const struct disk *d, uint64_t block, uint8_t byte, uint64_t off, size_t n)
{
	uint8_t *p = malloc(n);

	memset(p, byte, n);
	if (block * BLOCK_MAP_BYTES + off + n > d->bytes)
		n = d->bytes - off - block * BLOCK_MAP_BYTES;
	assert_int_equal(pwrite(d->fd, p, n, (off_t)(block * BLOCK_MAP_BYTES + off)), n);
	free(p);
}

static bool is_same(struct lab *l, uint64_t block)
{
	static uint8_t a[BLOCK_MAP_BYTES], b[BLOCK_MAP_BYTES];
	off_t off = (off_t)(block * BLOCK_MAP_BYTES);
	ssize_t n = pread(l->disks[0][DISK].fd, a, sizeof(a), off);

	assert_true(n > 0 && pread(l->disks[1][DISK].fd, b, sizeof(b), off) == n);
	return !memcmp(a, b, (size_t)n);
}

static void check_marks(struct lab *l, bool exact)
{
	struct block_map *m = &l->maps[DISK];

	for (uint64_t b = 0; b < m->nblocks; b++) {
		bool marked = block_map_take(m, b);

		if (!is_same(l, b))
			assert_true(marked);
		else if (exact)
			assert_false(marked);
	}
}

/* Holes, zeros, equal and other blocks; one sector of a block; a last block that is short. */
static void what_differs_is_marked(void **state)
{
	for (uint64_t seed = 1; seed <= 25; seed++) {
		uint64_t x = seed * 0x9e3779b97f4a7c15ull, n = 1 + at_random(&x, 1500);
		struct lab l;

		begin(&l, (n - 1) * BLOCK_MAP_BYTES + 512 * (1 + at_random(&x, 128)));
		for (uint64_t b = 0; b < n; b++) {
			uint64_t run = at_random(&x, 4) ? 1 : 1 + at_random(&x, 40),
				 how = at_random(&x, 6);

			for (; run && b < n; run--, b++) {
				uint8_t byte = (uint8_t)at_random(&x, 3);

				if (how & 1)
					fill(&l.disks[0][DISK], b, byte, 0, BLOCK_MAP_BYTES);
				if (how & 2)
					fill(&l.disks[1][DISK], b, byte, 0, BLOCK_MAP_BYTES);
				if (how == 4)
					fill(&l.disks[1][DISK], b, 7, 0, 512);
			}
		}
		compare_all(&l);
		assert_int_equal(l.sent, 0);
		assert_int_equal(l.error, 0);
		assert_int_equal(l.answered, l.asked);
		assert_int_equal(l.frames, l.asked);
		assert_true(l.bytes < 24 * l.asked + 8 * n + 1);
		check_marks(&l, true);
		end(&l);
	}
}

/* Half of 4000 blocks there, where there is nothing here: more pieces than an answer has room for.
 */
static void too_many_pieces(void **state)
{
	struct lab l;

	begin(&l, 4000ull * BLOCK_MAP_BYTES);
	for (uint64_t b = 0; b < 4000; b += 2)
		fill(&l.disks[1][DISK], b, 1, 0, 512);
	compare_all(&l);
	assert_int_equal(l.asked, 1);
	assert_int_equal(l.pieces, WIRE_DIFFER_MAX);
	check_marks(&l, false);
	end(&l);
}

/* A mark that is there before is taken with what is read; one in a hole stays. */
static void marks(void **state)
{
	struct lab l;

	begin(&l, 10ull * BLOCK_MAP_BYTES);
	fill(&l.disks[0][DISK], 2, 5, 0, 512);
	fill(&l.disks[1][DISK], 2, 5, 0, 512);
	block_map_mark(&l.maps[DISK], 2 * BLOCK_MAP_BYTES, 1);
	block_map_mark(&l.maps[DISK], 7 * BLOCK_MAP_BYTES, 1);
	compare_all(&l);
	assert_false(block_map_take(&l.maps[DISK], 2));
	assert_true(block_map_take(&l.maps[DISK], 7));
	end(&l);
}

static int stop(void *arg)
{
	return -ECANCELED;
}

static void a_pass_is_ended_between(void **state)
{
	struct lab l;

	begin(&l, 10ull * BLOCK_MAP_BYTES);
	fill(&l.disks[0][DISK], 2, 5, 0, 512);
	l.pass.between = stop;
	compare_all(&l);
	assert_int_equal(l.sent, -ECANCELED);
	end(&l);
}

static void a_sender_that_cannot_read(void **state)
{
	struct lab l;

	begin(&l, 10ull * BLOCK_MAP_BYTES);
	fill(&l.disks[0][DISK], 9, 5, 0, 512);
	assert_int_equal(ftruncate(l.disks[0][DISK].fd, 9 * BLOCK_MAP_BYTES + 512), 0);
	compare_all(&l);
	assert_int_equal(l.sent, -EIO);
	end(&l);
}

static void a_receiver_that_cannot_read(void **state)
{
	struct lab l;

	begin(&l, 10ull * BLOCK_MAP_BYTES);
	fill(&l.disks[0][DISK], 9, 5, 0, 512);
	assert_int_equal(ftruncate(l.disks[1][DISK].fd, 9 * BLOCK_MAP_BYTES), 0);
	compare_all(&l);
	assert_int_equal(l.error, -EIO);
	end(&l);
}

/* --- answers that are none -------------------------------------------------------------------- */

struct answer {
	struct wire_differ w;
	struct wire_blocks pieces[WIRE_DIFFER_MAX + 1];
};

static int take(struct lab *l, const struct answer *a, size_t bytes)
{
	struct frame f = {.type = FRAME_DIFFER, .length = (uint32_t)bytes, .data = (void *)a};
	struct err e = {0};
	int r = disk_sums_answer(&f, l->maps, MACHINE_MAX_DEVS, &e);

	assert_int_equal(e.code, r);
	return r;
}

static void answers_have_limits(void **state)
{
	static struct answer a;
	const size_t one = sizeof(a.w) + sizeof(a.pieces[0]);
	struct lab l;

	begin(&l, 100ull * BLOCK_MAP_BYTES);
#define ANSWER(...)                                                                                \
	(a = (struct answer){.w = {.disk = DISK, .count = 1, .where = {10, 20}},                   \
			     .pieces[0] = {10, 20}},                                               \
	 __VA_ARGS__, take(&l, &a, one))
	assert_int_equal(ANSWER(a.w.disk = DISK), 0);
	for (uint64_t b = 0; b < 100; b++)
		assert_int_equal(block_map_take(&l.maps[DISK], b), b >= 10 && b < 30);
	assert_int_equal(ANSWER(a.pieces[0].block = 9), -EBADMSG);
	assert_int_equal(ANSWER(a.pieces[0].block = 11), -EBADMSG);
	assert_int_equal(ANSWER(a.pieces[0].block = 30, a.pieces[0].blocks = 1), -EBADMSG);
	assert_int_equal(ANSWER(a.pieces[0].blocks = 0), -EBADMSG);
	assert_int_equal(ANSWER(a.pieces[0].blocks = UINT64_MAX), -EBADMSG);
	assert_int_equal(ANSWER(a.w.where.blocks = 91), -EBADMSG);
	assert_int_equal(ANSWER(a.w.where.block = UINT64_MAX), -EBADMSG);
	assert_int_equal(ANSWER(a.w.where.blocks = 0), -EBADMSG);
	assert_int_equal(ANSWER(a.w.disk = 2), -EBADMSG);
	assert_int_equal(ANSWER(a.w.disk = MACHINE_MAX_DEVS), -EBADMSG);
	assert_int_equal(ANSWER(a.w.disk = UINT32_MAX), -EBADMSG);
	assert_int_equal(ANSWER(a.w.count = 0), -EBADMSG);
	assert_int_equal(ANSWER(a.w.count = 2), -EBADMSG);
	assert_int_equal(ANSWER(a.w.count = 1u << 28), -EBADMSG);
	assert_int_equal(take(&l, &a, sizeof(a.w) - 1), -EBADMSG);
	assert_int_equal(take(&l, &a, 0), -EBADMSG);
	a.w.count = WIRE_DIFFER_MAX + 1;
	assert_int_equal(take(&l, &a, sizeof(a)), -EBADMSG);
	/* What is refused for its first or only piece has marked nothing. */
	assert_int_equal(block_map_count(&l.maps[DISK]), 0);
	end(&l);
}

/* What is at work when it ends goes on, with nothing of ours. */
static void an_end_in_the_middle(void **state)
{
	for (unsigned n = 1; n < 20; n++) {
		struct wire_sums w = {.disk = DISK, .where = {0, 400}};
		struct frame f = {.type = FRAME_SUMS, .length = sizeof(w), .data = (void *)&w};
		struct err e = {0};
		struct lab l;

		begin(&l, 400ull * BLOCK_MAP_BYTES);
		for (uint64_t b = 0; b < 400; b++)
			fill(&l.disks[1][DISK], b, 0, 0, 512);
		for (unsigned i = 0; i < n % 4; i++)
			assert_int_equal(disk_compare_push(&l.compare, &f, &e), 0);
		if (n > 10)
			loop_run_once(&l.loop, 1000000);
		end(&l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_differs_is_marked),
		cmocka_unit_test(too_many_pieces),
		cmocka_unit_test(marks),
		cmocka_unit_test(a_pass_is_ended_between),
		cmocka_unit_test(a_sender_that_cannot_read),
		cmocka_unit_test(a_receiver_that_cannot_read),
		cmocka_unit_test(answers_have_limits),
		cmocka_unit_test(an_end_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
