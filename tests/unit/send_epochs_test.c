/*
 * The sender and a peer that takes what it says, over a socket: after each epoch it has the memory,
 * the disk log and the state. How links break is in tests/unit/send_test.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ft/epoch/send.h"
#include "ft/epoch/sync.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblocks.h"
#include "tests/unit/libsteps.h"
#include "vmm/copy/page_in.h"

#define BYTES	  (8ull << 20)
#define PAGES	  (BYTES / MEM_PAGE_SIZE)
#define BUFS	  256u /* the least that a capture has */
#define STATE_CAP 4096u
#define SECOND	  1000000000ull
#define MAX_SEEN  4096

struct fix {
	struct loop loop;
	struct mem mem, peer_mem;
	struct capture capture;
	struct disklog disklog;
	struct sync sync;
	struct send send;
	struct stream to, in;
	struct page_in pages; /* the peer's */
	uint16_t seen[MAX_SEEN];
	unsigned nseen; /* atomic: frames that the peer has taken */
	uint64_t epoch; /* of the frames to come */
	struct wire_end end;
	uint64_t disk_bytes;
	uint8_t state[STATE_CAP];
	uint32_t state_len;
	bool reads; /* atomic: the peer does */
	bool over;  /* atomic: the peer is to end */
	pthread_t peer;
};

/* --- the peer --------------------------------------------------------------------------------- */

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static void set(bool *flag, bool to)
{
	__atomic_store_n(flag, to, __ATOMIC_RELEASE);
}

static void take(struct fix *f, const struct frame *fr)
{
	struct err e = {0};

	if (fr->type == FRAME_EPOCH_BEGIN)
		f->epoch++;
	if (fr->epoch != f->epoch)
		abort();
	if (fr->type == FRAME_PAGES && page_in_keep(&f->pages, fr, &e))
		abort();
	if (fr->type == FRAME_DISKLOG)
		f->disk_bytes += fr->length - sizeof(struct wire_disk);
	if (fr->type == FRAME_STATE) {
		memcpy(f->state, fr->data, fr->length);
		f->state_len = fr->length;
	}
	if (fr->type == FRAME_EPOCH_END) {
		memcpy(&f->end, fr->data, sizeof(f->end));
		if (f->end.pages != f->pages.npages)
			abort();
		page_in_commit(&f->pages, PAGES);
	}
	f->seen[f->nseen] = fr->type;
	__atomic_fetch_add(&f->nseen, 1, __ATOMIC_RELEASE);
}

static void *peer_main(void *arg)
{
	struct fix *f = arg;
	struct frame fr;

	while (!is_set(&f->over)) {
		if (!is_set(&f->reads) || stream_recv(&f->in, &fr) != 1)
			usleep(500);
		else
			take(f, &fr);
	}
	return NULL;
}

static unsigned frames(struct fix *f)
{
	return __atomic_load_n(&f->nseen, __ATOMIC_ACQUIRE);
}

static void wait_frames(struct fix *f, unsigned n)
{
	for (int left = 20000; frames(f) < n && left; left--)
		usleep(1000);
	assert_int_equal(frames(f), n);
}

static void check_seen(struct fix *f, unsigned at, uint16_t type)
{
	assert_true(at < frames(f));
	assert_int_equal(f->seen[at], type);
}

/* --- a machine -------------------------------------------------------------------------------- */

static void connect_links(struct fix *f)
{
	int fds[2], small = 65536;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	stream_init(&f->to, fds[0], STREAM_MAIN, 42);
	stream_init(&f->in, fds[1], STREAM_MAIN, 0);
	assert_int_equal(stream_send_preface(&f->to, loop_now_ns() + SECOND), 0);
}

/* The word of the sender: synced, or an error. */
static void wait_notified(struct fix *f)
{
	struct pollfd p = {.fd = f->send.notify_fd, .events = POLLIN};
	uint64_t n;

	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(read(f->send.notify_fd, &n, sizeof(n)), sizeof(n));
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	*state = f;
	assert_int_equal(loop_init(&f->loop, NULL), 0);
	assert_int_equal(mem_init(&f->mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(mem_init(&f->peer_mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(page_in_init(&f->pages, &f->peer_mem), 0);
	kvm_model_start(&f->mem);
	assert_int_equal(capture_init(&f->capture, &kvm_model.kvm, &f->mem, 1, NULL), 0);
	assert_int_equal(f->capture.nbufs, BUFS);
	assert_int_equal(sync_init(&f->sync, &f->loop, &f->capture.dirty, &f->disklog, NULL), 0);
	connect_links(f);
	f->reads = true;
	assert_int_equal(pthread_create(&f->peer, NULL, peer_main, f), 0);
	f->send = (struct send){.stream = &f->to,
				.capture = &f->capture,
				.sync = &f->sync,
				.state_cap = STATE_CAP,
				.notify_fd = eventfd(0, EFD_CLOEXEC)};
	assert_int_equal(send_start(&f->send, NULL), 0);
	wait_notified(f);
	assert_true(is_set(&f->send.synced));
	assert_int_equal(f->send.error, 0);
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;
	int fd = f->send.notify_fd;

	shutdown(f->to.fd, SHUT_RDWR);
	sync_cancel(&f->sync);
	send_stop(&f->send);
	send_stop(&f->send);
	close(fd);
	set(&f->over, true);
	pthread_join(f->peer, NULL);
	sync_done(&f->sync);
	capture_done(&f->capture);
	stream_done(&f->to);
	stream_done(&f->in);
	page_in_done(&f->pages);
	kvm_model_end();
	mem_done(&f->mem);
	mem_done(&f->peer_mem);
	loop_done(&f->loop);
	free(f);
	assert_int_equal(locks_held(), 0);
	return 0;
}

/* What the guest wrote goes into a job, which is not pushed yet. How many pages. */
static int64_t seal(struct fix *f, uint64_t epoch, struct send_job **ret)
{
	struct send_job *j = send_get_job(&f->send);

	assert_non_null(j);
	j->epoch = epoch;
	j->first = j->last = true;
	assert_int_equal(capture_begin(&f->capture), 0);
	assert_int_equal(capture_fill(&f->capture, &j->batch),
			 CAPTURE_ALL); /* there is room for all */
	j->state_len = (uint32_t)snprintf((char *)j->state, STATE_CAP, "state %u", (unsigned)epoch);
	j->end = (struct wire_end){.pages = (uint64_t)f->capture.count, .ram_hash = epoch * 3};
	*ret = j;
	return f->capture.count;
}

static void write_pages(struct fix *f, uint64_t n, uint64_t value)
{
	for (uint64_t p = 0; p < n; p++)
		for (unsigned i = 0; i < 512; i++)
			guest_writes(&f->mem, p, i, (value + p * 512 + i) * 0x9e3779b97f4a7c15ull);
}

/* Buffers that are neither hot copies nor bases are all free when nothing is on its way. */
static void check_no_buffer_lost(struct fix *f)
{
	uint32_t kept = f->capture.nhot;

	for (uint32_t i = 0; i < f->capture.bases.count; i++)
		kept += f->capture.bases.slots[i].copy != NULL;
	assert_int_equal(f->capture.nfree + f->capture.nmine + kept, BUFS);
}

/* --- epochs ----------------------------------------------------------------------------------- */

static void an_epoch_on_the_wire(void **state)
{
	static const uint8_t data[1024] = {1, 2, 3};
	const struct wire_disk w[] = {{1, DISK_WRITE, 512, 1024, 1024}, {1, DISK_FLUSH, 0, 0, 0}};
	struct fix *f = *state;
	struct send_job *j;

	write_pages(f, 10, 1);
	assert_int_equal(seal(f, 1, &j), 10);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(disk_writes_add(&j->disklog, &w[i], data), 0);
	struct disk_writes log = j->disklog;

	j->end.disk_ops = 2;
	assert_int_equal(f->send.ending, 0);
	send_push(&f->send, j);
	wait_frames(f, 6);
	check_seen(f, 0, FRAME_EPOCH_BEGIN);
	check_seen(f, 1, FRAME_PAGES);
	check_seen(f, 2, FRAME_DISKLOG);
	check_seen(f, 3, FRAME_DISKLOG);
	check_seen(f, 4, FRAME_STATE);
	check_seen(f, 5, FRAME_EPOCH_END);
	assert_int_equal(f->disk_bytes, 1024);
	assert_int_equal(f->state_len, 7);
	assert_memory_equal(f->state, "state 1", 7);
	assert_int_equal(f->end.pages, 10);
	assert_int_equal(f->end.disk_ops, 2);
	assert_int_equal(f->end.ram_hash, 3);
	assert_int_equal(__atomic_load_n(&f->send.ending, __ATOMIC_ACQUIRE), 1);
	assert_true(__atomic_load_n(&f->send.page_bytes, __ATOMIC_RELAXED) >= 10 * 8);
	assert_memory_equal(f->mem.base, f->peer_mem.base, BYTES);
	send_drain(&f->send);
	check_no_buffer_lost(f);
	disk_writes_free(&log);
}

/* Where tests have it killed. The pages are more than a frame takes, the log has two entries. */
static void steps_of_an_epoch(void **state)
{
	const struct wire_disk w = {1, DISK_FLUSH, 0, 0, 0};
	struct fix *f = *state;
	struct send_job *j;
	unsigned pages;

	write_pages(f, BUFS - 20, 1);
	assert_int_equal(seal(f, 1, &j), BUFS - 20);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(disk_writes_add(&j->disklog, &w, NULL), 0);
	struct disk_writes log = j->disklog;

	j->end.disk_ops = 2;
	steps_reset();
	send_push(&f->send, j);
	send_drain(&f->send);
	pages = steps_count(STEP_SEND_PAGES);
	assert_true(pages > 1);
	wait_frames(f, 1 + pages + 2 + 2);
	assert_int_equal(steps_count(STEP_SEND_BEGIN), 1);
	assert_int_equal(steps_count(STEP_SEND_DISKLOG), 2);
	assert_int_equal(steps_count(STEP_SEND_STATE), 1);
	assert_int_equal(steps_count(STEP_SEND_END), 1);
	disk_writes_free(&log);
}

/* One after the other, with more of them than there are jobs; some of them empty. */
static void epochs_in_a_row(void **state)
{
	struct fix *f = *state;
	struct send_job *j;

	for (uint64_t e = 1; e <= 40; e++) {
		write_pages(f, e % 4 * 5, e);
		assert_true(seal(f, e, &j) >= 0);
		send_push(&f->send, j);
		send_drain(&f->send); /* as an ack: bases are what the peer has */
		assert_int_equal(f->send.ending, e);
		check_no_buffer_lost(f);
	}
	wait_frames(f, 40 * 3 + 30);
	assert_int_equal(f->epoch, 40);
	assert_memory_equal(f->mem.base, f->peer_mem.base, BYTES);
}

/* --- the end ---------------------------------------------------------------------------------- */

/* The sender has taken what was pushed: it writes, or is about to. */
static void wait_taken(struct fix *f)
{
	bool taken = false;

	for (int left = 20000; !taken && left; left--) {
		pthread_mutex_lock(&f->send.lock);
		taken = !f->send.queue;
		pthread_mutex_unlock(&f->send.lock);
		if (!taken)
			usleep(500);
	}
	assert_true(taken);
}

/* A peer that reads nothing more: stopping does not wait for it, once the link is shut. */
static void stopped_while_it_writes(void **state)
{
	struct fix *f = *state;
	uint64_t start = loop_now_ns();
	struct send_job *j;
	int fd = f->send.notify_fd;

	set(&f->reads, false);
	write_pages(f, BUFS - 20, 1);
	assert_int_equal(seal(f, 1, &j), BUFS - 20);
	send_push(&f->send, j);
	wait_taken(f);
	shutdown(f->to.fd, SHUT_RDWR);
	send_stop(&f->send);
	assert_true(loop_now_ns() - start < 10 * SECOND);
	assert_null(f->send.stream);
	f->send.notify_fd = fd; /* teardown closes it */
}

static void a_sync_that_fails(void **state)
{
	struct fix *f = *state;
	int fd = f->send.notify_fd;

	send_stop(&f->send);
	kvm_model.fail = -EIO;
	f->send = (struct send){.stream = &f->to,
				.capture = &f->capture,
				.sync = &f->sync,
				.state_cap = STATE_CAP,
				.notify_fd = fd};
	assert_int_equal(send_start(&f->send, NULL), 0);
	wait_notified(f);
	assert_false(is_set(&f->send.synced));
	assert_int_equal(f->send.error, -EIO);
	assert_null(send_get_job(&f->send));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(an_epoch_on_the_wire),    T(steps_of_an_epoch), T(epochs_in_a_row),
		T(stopped_while_it_writes), T(a_sync_that_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
