/*
 * The sender on a channel that trickles, stalls and fails, by a clock of the channel's: nobody
 * waits for real. A machine without disks and CPUs (tests/unit/libkvm_model.h) is what it sends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ft/epoch/send.h"
#include "ft/epoch/sync.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblocks.h"
#include "tests/unit/libmockchan.h"

#define BYTES	(4ull << 20)
#define PAGES	(BYTES / MEM_PAGE_SIZE)
#define BUFS	256u /* staging, the least that there is */
#define STATE	65536u
#define FRAME	(256u << 10) /* of pages; so many bytes, and a bit */
#define SECOND	1000000000ull
#define EPOCH_S 30 /* the deadline of an epoch */

struct fix {
	struct loop loop;
	struct mem mem;
	struct machine machine;
	struct disklog disklog;
	struct capture capture;
	struct sync sync;
	struct stream to;
	struct mock_chan mock;
	struct send send;
	struct disk_writes log; /* of the next epoch */
	uint64_t epoch;
	size_t before; /* bytes of the first sync */
	unsigned parts;
	uint64_t seed;
};

static struct fix *fix; /* whose clock it is */

uint64_t __wrap_loop_now_ns(void);
uint64_t __real_loop_now_ns(void);

uint64_t __wrap_loop_now_ns(void)
{
	return fix && fix->mock.now_ns ? fix->mock.now_ns : __real_loop_now_ns();
}

static bool is_synced(struct fix *f)
{
	return __atomic_load_n(&f->send.synced, __ATOMIC_ACQUIRE);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct chan c;

	assert_non_null(f);
	*state = fix = f;
	f->seed = 1;
	assert_int_equal(
		loop_init(&f->loop, NULL) | mem_init(&f->mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	kvm_model_start(&f->mem);
	assert_int_equal(capture_init(&f->capture, &kvm_model.kvm, &f->mem, 1, NULL), 0);
	assert_int_equal(f->capture.nbufs, BUFS);
	assert_int_equal(disklog_start(&f->disklog, &f->loop, &f->machine, NULL, 1 << 20, NULL), 0);
	assert_int_equal(sync_init(&f->sync, &f->loop, &f->capture.dirty, &f->disklog, NULL), 0);
	c = mock_chan_open(&f->mock);
	stream_init_on(&f->to, &c, STREAM_MAIN, 42);
	assert_int_equal(stream_send_preface(&f->to, UINT64_MAX), 0);
	f->send.stream = &f->to;
	f->send.capture = &f->capture;
	f->send.sync = &f->sync;
	f->send.state_cap = STATE;
	f->send.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(send_start(&f->send, NULL), 0);
	while (!is_synced(f))
		loop_run_once(&f->loop, 1000000);
	f->before = f->mock.nsent;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;
	int notify_fd = f->send.notify_fd;

	f->mock.hold = false;
	sync_cancel(&f->sync);
	send_stop(&f->send);
	close(notify_fd);
	sync_done(&f->sync);
	capture_done(&f->capture);
	disklog_stop(&f->disklog);
	stream_done(&f->to);
	mock_chan_done(&f->mock);
	kvm_model_end();
	mem_done(&f->mem);
	loop_done(&f->loop);
	fix = NULL;
	free(f);
	assert_int_equal(locks_held(), 0);
	return 0;
}

/* Pages that no method makes smaller. */
static void guest_fills(struct fix *f, uint64_t from, uint64_t n)
{
	for (uint64_t page = from; page < from + n; page++)
		for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++) {
			f->seed = f->seed * 6364136223846793005ull + 1442695040888963407ull;
			guest_writes(&f->mem, page, i, f->seed ^ f->seed >> 29);
		}
}

static bool gave_up(struct fix *f)
{
	bool error;

	pthread_mutex_lock(&f->send.lock);
	error = f->send.error != 0;
	pthread_mutex_unlock(&f->send.lock);
	return error;
}

/* The VM stands: what changed, in as many jobs as it takes. The last one, or NULL: given up. */
static struct send_job *capture_all(struct fix *f)
{
	struct send_job *j = NULL;
	bool first = true;

	assert_int_equal(capture_begin(&f->capture), 0);
	while (!gave_up(f)) {
		j = j ? j : send_get_job(&f->send);
		if (j) {
			j->epoch = f->epoch;
			j->first = first;
			if (capture_fill(&f->capture, &j->batch) == CAPTURE_ALL)
				return j;
		}
		if (j && j->batch.n) {
			f->parts++;
			first = false;
			send_push(&f->send, j);
			j = NULL;
		} else {
			poll(NULL, 0, 1);
		}
	}
	return NULL;
}

/* As the engine does it. How many pages, or -EPIPE. */
static int64_t seal(struct fix *f)
{
	struct send_job *j;

	++f->epoch;
	j = capture_all(f);
	if (!j)
		return -EPIPE;
	j->disklog = f->log;
	memset(j->state, 's', 100);
	j->state_len = 100;
	j->last = true;
	j->end = (struct wire_end){.pages = (uint64_t)f->capture.count};
	send_push(&f->send, j);
	return f->capture.count;
}

static int send_error(struct fix *f)
{
	int r;

	send_drain(&f->send);
	pthread_mutex_lock(&f->send.lock);
	r = f->send.error;
	pthread_mutex_unlock(&f->send.lock);
	return r;
}

/* So many bytes a second, from now on. */
static void trickle(struct fix *f, size_t bytes)
{
	f->mock.stall_ns = SECOND;
	f->mock.room = f->mock.more = bytes;
}

/* --- what goes out ---------------------------------------------------------------------------- */

struct heard {
	uint64_t frames[FRAME_TYPE_MAX];
	uint64_t epochs, pages;
	struct disk_writes log;
};

static void hear_frame(const struct frame *f, struct heard *h)
{
	uint64_t open = h->frames[FRAME_EPOCH_BEGIN] - h->frames[FRAME_EPOCH_END];
	struct wire_end end;

	h->frames[f->type]++;
	if (f->type == FRAME_DISKLOG) {
		struct wire_disk w;

		memcpy(&w, f->data, sizeof(w));
		assert_int_equal(f->length, sizeof(w) + w.data);
		assert_int_equal(disk_writes_add(&h->log, &w, f->data + sizeof(w)), 0);
	}
	assert_int_equal(open, f->type != FRAME_EPOCH_BEGIN);
	assert_int_equal(f->epoch, h->epochs + 1);
	if (f->type != FRAME_EPOCH_END)
		return;
	assert_int_equal(h->frames[FRAME_STATE], f->epoch);
	memcpy(&end, f->data, sizeof(end));
	h->pages += end.pages;
	h->epochs++;
}

/* All that was sent since the sync, as the peer would. */
static void hear(struct fix *f, struct heard *h)
{
	struct mock_chan in;
	struct chan c = mock_chan_open(&in);
	struct stream from;
	struct frame frame;
	int r;

	memset(h, 0, sizeof(*h));
	mock_chan_feed(&in, f->mock.sent, f->mock.nsent);
	in.read_error = 0;
	c.blocking = true;
	stream_init_on(&from, &c, STREAM_MAIN, 0);
	while ((r = stream_recv(&from, &frame)) == 1)
		if (frame.epoch)
			hear_frame(&frame, h);
	assert_int_equal(r, -EPIPE);
	stream_done(&from);
	mock_chan_done(&in);
}

static void epochs_go_out_in_order(void **state)
{
	struct fix *f = *state;
	struct heard h;

	for (unsigned e = 0; e < 5; e++) {
		guest_fills(f, e * 10, 1 + e * 40);
		assert_true(seal(f) >= 1 + e * 40);
		assert_int_equal(send_error(f), 0);
		assert_int_equal(f->send.ending, e + 1);
	}
	hear(f, &h);
	assert_int_equal(h.epochs, 5);
	assert_true(h.pages >= 5 + 400);
	assert_int_equal(h.frames[FRAME_EPOCH_BEGIN], 5);
	assert_true(h.frames[FRAME_PAGES] >= 5 + 400 / 64 - 4);
}

/* BEGIN, pages, disk log, state, END: 5 frames or more. */
static void a_small_epoch_is_one_write(void **state)
{
	const struct wire_disk w = {.kind = DISK_WRITE, .len = 512, .data = 512};
	static const uint8_t data[512] = {1};
	struct fix *f = *state;
	struct heard h;

	for (unsigned e = 0; e < 8; e++) {
		unsigned before = f->mock.writes;

		guest_fills(f, e, e % 4);
		for (unsigned i = 0; i < e % 3; i++)
			assert_int_equal(disk_writes_add(&f->log, &w, data), 0);
		assert_true(seal(f) >= e % 4);
		assert_int_equal(send_error(f), 0);
		assert_int_equal(f->mock.writes, before + 1);
		disk_writes_free(&f->log);
		f->log = (struct disk_writes){0};
	}
	hear(f, &h);
	assert_int_equal(h.epochs, 8);
	disk_writes_free(&h.log);
}

/* Frames too large to wait are written as they come, with what waits; the rest is one write. */
static void a_large_epoch_is_few_writes(void **state)
{
	struct fix *f = *state;
	unsigned before = f->mock.writes;
	struct heard h;

	guest_fills(f, 0, 200);
	assert_true(seal(f) >= 200);
	assert_int_equal(send_error(f), 0);
	hear(f, &h);
	assert_int_equal(h.epochs, 1);
	assert_true(h.frames[FRAME_PAGES] >= 3);
	assert_true(f->mock.writes - before <= h.frames[FRAME_PAGES] + 1);
}

static void disk_writes_go_out_as_they_were_made(void **state)
{
	struct fix *f = *state;
	const struct disk_write *was, *is;
	uint8_t data[3000];
	struct heard h;

	for (unsigned i = 0; i < 40; i++) {
		struct wire_disk w = {.disk = i % 3, .kind = i % 2, .off = i * 512, .len = 4096};

		memset(data, (int)i, sizeof(data));
		w.data = i % 4 ? i * 70 : 0;
		assert_int_equal(disk_writes_add(&f->log, &w, data), 0);
	}
	assert_true(seal(f) >= 0);
	assert_int_equal(send_error(f), 0);
	hear(f, &h);
	assert_int_equal(h.epochs, 1);
	was = f->log.head;
	is = h.log.head;
	for (unsigned i = 0; i < 40; i++, was = was->next, is = is->next) {
		assert_non_null(is);
		assert_memory_equal(&is->wire, &was->wire, sizeof(is->wire));
		assert_memory_equal(is->data, was->data, was->wire.data);
	}
	assert_null(is);
	disk_writes_free(&h.log);
	disk_writes_free(&f->log);
}

/* More than staging holds: the same epoch in parts. */
static void an_epoch_may_go_in_parts(void **state)
{
	struct fix *f = *state;
	struct heard h;
	int64_t n;

	guest_fills(f, 0, 3 * BUFS);
	n = seal(f);
	assert_true(n >= 3 * BUFS);
	assert_int_equal(send_error(f), 0);
	assert_true(f->parts >= 2);
	hear(f, &h);
	assert_int_equal(h.epochs, 1);
	assert_int_equal(h.frames[FRAME_EPOCH_BEGIN], 1);
	assert_int_equal(h.pages, n);
	assert_true(f->send.page_bytes >= 3 * BUFS * MEM_PAGE_SIZE);
}

/* --- deadlines -------------------------------------------------------------------------------- */

/* Each frame takes 16 s, which is little; all of them more than an epoch may. */
static void a_trickling_peer_does_not_renew_the_deadline(void **state)
{
	struct fix *f = *state;
	uint64_t start = f->mock.now_ns;

	guest_fills(f, 0, 200);
	trickle(f, FRAME / 16);
	assert_true(seal(f) >= 200);
	assert_int_equal(send_error(f), -ETIMEDOUT);
	assert_true(f->mock.now_ns - start <= EPOCH_S * SECOND);
	assert_true(f->mock.nsent - f->before > FRAME);
	assert_true(f->mock.nsent - f->before < 2 * FRAME + FRAME / 16);
	/* Nobody waits for what does not come any more. */
	assert_null(send_get_job(&f->send));
}

static void parts_do_not_renew_the_deadline(void **state)
{
	struct fix *f = *state;
	uint64_t start = f->mock.now_ns;

	guest_fills(f, 0, 3 * BUFS); /* 3 MiB */
	trickle(f, 80u << 10);	     /* 38 s for it */
	seal(f);
	assert_true(f->parts >= 2);
	assert_int_equal(send_error(f), -ETIMEDOUT);
	assert_true(f->mock.now_ns - start <= EPOCH_S * SECOND);
}

/* A slow link is none that trickles: every epoch has its own. */
static void each_epoch_has_its_own_deadline(void **state)
{
	struct fix *f = *state;
	uint64_t start = f->mock.now_ns;
	struct heard h;

	trickle(f, 50u << 10);
	for (unsigned e = 0; e < 4; e++) {
		guest_fills(f, 0, 200);
		assert_true(seal(f) >= 200);
		assert_int_equal(send_error(f), 0);
	}
	assert_true(f->mock.now_ns - start > 2 * EPOCH_S * SECOND);
	/* That is what the sender was busy for: on this clock all else takes no time. */
	assert_int_equal(f->send.busy_ns, f->mock.now_ns - start);
	hear(f, &h);
	assert_int_equal(h.epochs, 4);
}

/* --- a link that breaks ----------------------------------------------------------------------- */

static void every_write_may_fail(void **state)
{
	struct fix *f = *state;
	uint64_t told = 0;

	if (read(f->send.notify_fd, &told, sizeof(told)) < 0)
		told = 0;
	assert_int_equal(told, 1); /* synced */
	guest_fills(f, 0, 100);
	f->mock.write_error = -ECONNRESET;
	f->mock.fail_write_at = f->before + (size_t)f->seed % FRAME;
	assert_true(seal(f) >= 100);
	assert_int_equal(send_error(f), -ECONNRESET);
	assert_int_equal(f->mock.nsent, f->mock.fail_write_at);
	while (read(f->send.notify_fd, &told, sizeof(told)) < 0)
		poll(NULL, 0, 1);
	assert_int_equal(told, 1);
}

/* Staging is used up by what the sender cannot get rid of. */
static struct send_job *use_up_staging(struct fix *f)
{
	struct send_job *j = send_get_job(&f->send);
	uint64_t told;

	guest_fills(f, 0, PAGES);
	f->mock.hold = true;
	f->epoch = 1;
	assert_int_equal(capture_begin(&f->capture), 0);
	for (unsigned n = 0; j; n++) {
		j->epoch = 1;
		j->first = !n;
		assert_int_not_equal(capture_fill(&f->capture, &j->batch), CAPTURE_ALL);
		if (!j->batch.n)
			break;
		send_push(&f->send, j);
		j = send_get_job(&f->send);
	}
	while (read(f->send.notify_fd, &told, sizeof(told)) == sizeof(told))
		continue;
	send_want_room(&f->send);
	return j;
}

static void is_told(struct fix *f, struct send_job *left)
{
	struct pollfd p = {f->send.notify_fd, POLLIN, 0};

	assert_int_equal(poll(&p, 1, 0), 0);
	f->mock.hold = false;
	assert_int_equal(poll(&p, 1, 60000), 1);
	if (left)
		send_push(&f->send, left);
}

static void whoever_wants_room_is_told(void **state)
{
	struct fix *f = *state;

	is_told(f, use_up_staging(f));
	assert_int_equal(send_error(f), 0);
}

/* The link dies while staging is full. */
static void whoever_wants_room_is_told_of_the_end(void **state)
{
	struct fix *f = *state;

	f->mock.write_error = -EPIPE;
	f->mock.fail_write_at = f->mock.nsent;
	is_told(f, use_up_staging(f));
	assert_int_equal(send_error(f), -EPIPE);
	assert_int_equal(f->mock.nsent, f->before);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(epochs_go_out_in_order),
		TEST(a_small_epoch_is_one_write),
		TEST(a_large_epoch_is_few_writes),
		TEST(disk_writes_go_out_as_they_were_made),
		TEST(an_epoch_may_go_in_parts),
		TEST(a_trickling_peer_does_not_renew_the_deadline),
		TEST(parts_do_not_renew_the_deadline),
		TEST(each_epoch_has_its_own_deadline),
		TEST(every_write_may_fail),
		TEST(whoever_wants_room_is_told),
		TEST(whoever_wants_room_is_told_of_the_end),
	};

	return cmocka_run_group_tests_name("send", tests, NULL, NULL);
}
