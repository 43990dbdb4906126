/*
 * The first sync of a machine without a CPU: a thread writes as the guest does (tests/unit/
 * libkvm_model.h), this one as its devices do, with disks on files, a third one is the peer. After
 * the first epoch the peer has what the machine has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ft/epoch/capture.h"
#include "ft/epoch/sync.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblocks.h"
#include "tests/unit/libsteps.h"
#include "vmm/copy/page_in.h"

#define BYTES	(16ull << 20)
#define PAGES	(BYTES / MEM_PAGE_SIZE)
#define SMALL	512u /* pages that are left to the first epoch */
#define SECOND	1000000000ull
#define STAGING (2 * BYTES)
#define IMAGE	(37 * BLOCK_MAP_BYTES + 512)
#define LIMIT	(256u << 10) /* of the disk log */
#define WRITES	8u	     /* at a time */

enum { MIRROR, SHARED, MIRROR2, DISKS };

struct peer {
	struct mem mem;
	uint8_t image[DISKS][IMAGE];
	struct stream in;
	uint64_t frames[FRAME_TYPE_MAX]; /* atomic: that came */
	bool stalls;			 /* atomic: with the first pages */
	pthread_t thread;
};

struct write {
	struct disk_req req;
	uint8_t *buf;
	struct fix *f;
	bool busy;
};

struct fix {
	struct loop loop;
	struct mem mem;
	struct machine machine;
	struct disk disks[MACHINE_MAX_DEVS];
	struct write writes[WRITES];
	unsigned done; /* writes */
	struct disklog disklog;
	struct capture capture;
	struct sync sync;
	struct stream to;
	struct page_out out;
	struct peer peer;
	pthread_t sender;
	bool started; /* it is to be joined */
	int result;
	bool over; /* atomic */
};

/* --- the peer --------------------------------------------------------------------------------- */

static void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	poll(&p, 1, -1);
}

static void change_image(struct peer *p, const struct wire_disk *w, const uint8_t *data)
{
	uint8_t *to = p->image[w->disk] + w->off;

	if (w->disk != MIRROR && w->disk != MIRROR2)
		abort();
	if (w->kind == DISK_WRITE)
		memcpy(to, data, w->len);
	else
		memset(to, 0, w->len);
}

static void take(struct peer *p, const struct frame *f)
{
	struct wire_disk w;
	struct err e;

	if (f->type == FRAME_PAGES && !f->epoch) {
		if (page_in_now(&p->mem, f, &e))
			abort();
	} else if (f->type == FRAME_DISK && !f->epoch) {
		memcpy(&w, f->data, sizeof(w));
		if ((w.kind != DISK_WRITE && w.kind != DISK_ZERO) || w.disk >= MACHINE_MAX_DEVS ||
		    f->length != sizeof(w) + (w.kind == DISK_WRITE ? w.len : 0))
			abort();
		change_image(p, &w, f->data + sizeof(w));
	} else {
		abort();
	}
}

static bool stalls(struct peer *p)
{
	return __atomic_load_n(&p->stalls, __ATOMIC_ACQUIRE);
}

static uint64_t frames_of(struct peer *p, enum frame_type type)
{
	return __atomic_load_n(&p->frames[type], __ATOMIC_ACQUIRE);
}

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	struct frame f;
	int r;

	while ((r = stream_recv(&p->in, &f)) >= 0) {
		if (!r) {
			wait_readable(p->in.fd);
			continue;
		}
		take(p, &f);
		__atomic_fetch_add(&p->frames[f.type], 1, __ATOMIC_RELEASE);
		while (f.type == FRAME_PAGES && stalls(p))
			usleep(1000);
	}
	return NULL;
}

static void peer_start(struct fix *f)
{
	int fds[2], small = 65536;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	stream_init(&f->to, fds[0], STREAM_MAIN, 42);
	stream_init(&f->peer.in, fds[1], STREAM_MAIN, 0);
	assert_int_equal(stream_send_preface(&f->to, loop_now_ns() + SECOND), 0);
	assert_int_equal(mem_init(&f->peer.mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	assert_int_equal(pthread_create(&f->peer.thread, NULL, peer_main, &f->peer), 0);
}

/* --- the machine ------------------------------------------------------------------------------ */

static void open_disks(struct fix *f)
{
	static const enum disk_ft ft[DISKS] = {DISK_FT_MIRROR, DISK_FT_SHARED, DISK_FT_MIRROR};

	f->machine.ndevs = DISKS;
	for (unsigned i = 0; i < DISKS; i++) {
		struct mdev *md = &f->machine.devs[i];
		char path[] = "/tmp/sync-test-XXXXXX";
		int fd = mkstemp(path);

		assert_true(fd >= 0 && !ftruncate(fd, IMAGE));
		close(fd);
		*md = (struct mdev){.kind = MDEV_BLK, .bytes = IMAGE, .ft = ft[i]};
		snprintf(md->id, sizeof(md->id), "d%u", i);
		assert_int_equal(disk_open(&f->disks[i], &f->loop, md->id, path, 0, NULL), 0);
		unlink(path);
	}
	for (unsigned i = 0; i < WRITES; i++) {
		f->writes[i].buf = aligned_alloc(4096, BLOCK_MAP_BYTES);
		f->writes[i].f = f;
	}
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	*state = f;
	assert_int_equal(
		loop_init(&f->loop, NULL) | mem_init(&f->mem, MEM_SHARED_FILE, BYTES, NULL), 0);
	kvm_model_start(&f->mem);
	open_disks(f);
	assert_int_equal(capture_init(&f->capture, &kvm_model.kvm, &f->mem, STAGING, NULL), 0);
	assert_int_equal(disklog_start(&f->disklog, &f->loop, &f->machine, f->disks, LIMIT, NULL),
			 0);
	assert_int_equal(sync_init(&f->sync, &f->loop, &f->capture.dirty, &f->disklog, NULL), 0);
	peer_start(f);
	assert_int_equal(page_out_init(&f->out, &f->to, 60 * SECOND), 0);
	return 0;
}

static void turn(struct fix *f)
{
	loop_run_once(&f->loop, 1000000);
}

static void *sender_main(void *arg)
{
	struct fix *f = arg;

	f->result = sync_run(&f->sync, &f->out);
	__atomic_store_n(&f->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static void sync_start(struct fix *f)
{
	f->over = false;
	assert_int_equal(pthread_create(&f->sender, NULL, sender_main, f), 0);
	f->started = true;
}

static bool sync_is_over(struct fix *f)
{
	return __atomic_load_n(&f->over, __ATOMIC_ACQUIRE);
}

static void sync_join(struct fix *f)
{
	pthread_join(f->sender, NULL);
	f->started = false;
}

static void sync_wait(struct fix *f, int result)
{
	while (!sync_is_over(f))
		turn(f);
	sync_join(f);
	assert_true(sync_is_over(f));
	assert_int_equal(f->result, result);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	sync_cancel(&f->sync);
	__atomic_store_n(&f->peer.stalls, false, __ATOMIC_RELEASE);
	shutdown(f->to.fd, SHUT_RDWR);
	if (f->started)
		sync_join(f);
	pthread_join(f->peer.thread, NULL);
	page_out_done(&f->out);
	stream_done(&f->to);
	stream_done(&f->peer.in);
	sync_done(&f->sync);
	capture_done(&f->capture);
	disklog_stop(&f->disklog);
	for (unsigned i = 0; i < WRITES; i++)
		free(f->writes[i].buf);
	for (unsigned i = 0; i < DISKS; i++)
		disk_close(&f->disks[i]);
	kvm_model_end();
	mem_done(&f->peer.mem);
	mem_done(&f->mem);
	loop_done(&f->loop);
	free(f);
	assert_int_equal(locks_held(), 0);
	return 0;
}

/* All is out of the socket: the peer has taken it. */
static void wait_for_peer(struct fix *f)
{
	shutdown(f->to.fd, SHUT_WR);
	pthread_join(f->peer.thread, NULL);
	assert_string_equal(f->peer.in.why, "");
	assert_int_equal(pthread_create(&f->peer.thread, NULL, peer_main, &f->peer), 0);
}

static bool any_busy(const struct fix *f)
{
	bool busy = false;

	for (unsigned i = 0; i < WRITES; i++)
		busy |= f->writes[i].busy;
	return busy;
}

/* The log of the first epochs is applied to what the sync has brought. */
static void check_images(struct fix *f)
{
	uint8_t *is = malloc(IMAGE);
	struct disk_writes log;

	do {
		turn(f);
		assert_int_equal(disklog_cut(&f->disklog, &log), 0);
		for (const struct disk_write *w = log.head; w; w = w->next)
			change_image(&f->peer, &w->wire, w->data);
		disklog_free(&f->disklog, &log);
	} while (any_busy(f));
	for (unsigned i = 0; i < DISKS; i++) {
		assert_int_equal(pread(f->disks[i].fd, is, IMAGE, 0), IMAGE);
		if (i != SHARED)
			assert_memory_equal(is, f->peer.image[i], IMAGE);
	}
	free(is);
}

/* Nobody writes any more: the first epoch. How many pages it brings; then both are the same. */
static int64_t first_seal(struct fix *f)
{
	struct capture_batch batch = {.cap = f->capture.nbufs};
	int r;

	wait_for_peer(f);
	assert_int_equal(f->disklog.mode, DISKLOG_LOG);
	check_images(f);
	batch.pages = calloc(batch.cap, sizeof(*batch.pages));
	assert_int_equal(capture_begin(&f->capture), 0);
	do
		r = capture_fill(&f->capture, &batch);
	while (r == CAPTURE_MORE);
	assert_int_equal(r, CAPTURE_ALL);
	assert_int_equal(f->capture.count, batch.n);
	for (uint32_t i = 0; i < batch.n; i++)
		memcpy(mem_page(&f->peer.mem, batch.pages[i].page), batch.pages[i].now,
		       MEM_PAGE_SIZE);
	capture_put(&f->capture, batch.pages, batch.n);
	free(batch.pages);
	assert_int_equal(mem_hash(&f->mem), mem_hash(&f->peer.mem));
	return f->capture.count;
}

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void host_writes(struct fix *f, uint64_t page, uint64_t value)
{
	uint64_t buf[64];

	for (unsigned i = 0; i < 64; i++)
		buf[i] = value + i;
	assert_int_equal(
		mem_write(&f->mem, page * MEM_PAGE_SIZE + value % 8 * 512, buf, sizeof(buf)), 0);
}

static void write_done(struct disk_req *r, int res)
{
	struct write *w = r->arg;

	assert_true(res == 0 || res == -ECANCELED); /* or at the end of a test that failed */
	w->busy = false;
	w->f->done++;
}

/* False: all are under way. */
static bool disk_writes(struct fix *f, unsigned disk, enum disk_op kind, uint64_t off, uint32_t len)
{
	for (struct write *w = f->writes; w < f->writes + WRITES; w++) {
		if (w->busy)
			continue;
		w->busy = true;
		memset(w->buf, 1 + (int)((off / 512 + f->done) % 255), len);
		w->req = (struct disk_req){.kind = kind,
					   .off = off,
					   .len = len,
					   .buf = w->buf,
					   .done = write_done,
					   .arg = w};
		disk_submit(&f->disks[disk], &w->req);
		return true;
	}
	return false;
}

static void disk_writes_somewhere(struct fix *f, uint64_t *s)
{
	static const enum disk_op kinds[] = {DISK_WRITE, DISK_WRITE, DISK_WRITE, DISK_ZERO,
					     DISK_DISCARD};
	uint32_t len = 512 * (1 + (uint32_t)(next(s) % 128));
	uint64_t off = next(s) % ((IMAGE - len) / 512) * 512;

	disk_writes(f, next(s) % DISKS, kinds[next(s) % 5], off, len);
}

/* --- memory ----------------------------------------------------------------------------------- */

static void what_is_not_zero_goes_once(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < 300; p++)
		guest_writes(&f->mem, p * 3, 1, p + 1);
	memset(kvm_model.bits, 0, PAGES / 8); /* before the log was on */
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(f->sync.pages, 300);
	assert_true(f->sync.bytes > 300 * 8 && f->sync.bytes <= 300 * (8 + MEM_PAGE_SIZE));
	assert_int_equal(first_seal(f), 0);
}

/* Where tests have it killed. */
static void steps_of_a_sync(void **state)
{
	struct fix *f = *state;

	host_writes(f, 1, 1);
	assert_true(disk_writes(f, 0, DISK_WRITE, 0, 512));
	while (any_busy(f))
		turn(f);
	steps_reset();
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(steps_count(STEP_SYNC_BEGIN), 1);
	assert_true(steps_count(STEP_SYNC_DISK) > 0);
	assert_true(steps_count(STEP_SYNC_RAM) > 0);
	assert_int_equal(steps_count(STEP_SYNC_END), 1);
}

/* Devices have written all of memory since the start: a cache of files read from a disk. */
static void the_hosts_writes_go_live(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < PAGES; p++)
		host_writes(f, p, p + 1);
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(f->sync.pages, PAGES);
	assert_int_equal(first_seal(f), 0);
}

/* They go on doing so meanwhile, and the guest gives memory back, too. */
static void the_host_writes_meanwhile(void **state)
{
	struct fix *f = *state;
	uint64_t s = 88172645463325252ull, n = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		host_writes(f, p, p + 1);
	sync_start(f);
	while (!sync_is_over(f) && n < 3 * PAGES) {
		uint64_t page = next(&s) % PAGES;

		if (n++ % 16)
			host_writes(f, page, next(&s));
		else
			assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE),
					 0);
	}
	sync_wait(f, 0);
	first_seal(f);
}

struct guest {
	struct fix *f;
	pthread_t thread;
	uint64_t pages; /* that it writes to */
	bool stop;	/* atomic */
	uint64_t writes;
};

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	uint64_t s = 3 + kvm_model.gets;

	while (!__atomic_load_n(&g->stop, __ATOMIC_ACQUIRE)) {
		guest_writes(&g->f->mem, next(&s) % g->pages, next(&s) % 512, next(&s));
		g->writes++;
	}
	return NULL;
}

static void guest_start(struct guest *g, struct fix *f, uint64_t pages)
{
	*g = (struct guest){.f = f, .pages = pages};
	assert_int_equal(pthread_create(&g->thread, NULL, guest_main, g), 0);
}

static void guest_stop(struct guest *g)
{
	__atomic_store_n(&g->stop, true, __ATOMIC_RELEASE);
	pthread_join(g->thread, NULL);
}

/* All of them write, from the first page to after the last: nothing is lost. */
static void everybody_writes(void **state)
{
	struct fix *f = *state;
	struct guest g;
	uint64_t s = 5;

	for (uint64_t p = 0; p < PAGES; p += 2)
		host_writes(f, p, p + 1);
	guest_start(&g, f, PAGES);
	sync_start(f);
	while (!sync_is_over(f)) {
		uint64_t page = next(&s) % PAGES;

		host_writes(f, page, next(&s));
		if (next(&s) % 64)
			continue;
		assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE), 0);
		disk_writes_somewhere(f, &s);
		turn(f);
	}
	guest_stop(&g);
	sync_wait(f, 0);
	for (unsigned i = 0; i < 20; i++) /* into the log */
		disk_writes_somewhere(f, &s);
	assert_true(f->done > 10);
	assert_true(g.writes > 1000);
	first_seal(f);
}

/* Another peer follows. */
static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

/* An epoch of the peer in step: what it would bring is marked, and not looked at. */
static void epoch_of_another(struct fix *f, struct capture_batch *batch)
{
	struct disk_writes log;
	int r;

	assert_int_equal(capture_begin(&f->capture), 0);
	do {
		r = capture_fill(&f->capture, batch);
		capture_put(&f->capture, batch->pages, batch->n);
		batch->n = 0;
	} while (r != CAPTURE_ALL);
	assert_int_equal(disklog_cut(&f->disklog, &log), 0);
	disklog_free(&f->disklog, &log);
}

static void follow(struct fix *f, struct sync_other *o)
{
	o->lacks = calloc(PAGES / 64, sizeof(uint64_t));
	for (unsigned i = 0; i < DISKS; i++)
		assert_int_equal(block_map_init(&o->blocks[i], IMAGE), 0);
	f->disklog.mode = DISKLOG_LOG;
	f->sync.other = o;
	f->capture.lacks = o->lacks;
	f->disklog.lacks = o->blocks;
}

static void check_the_same(struct fix *f)
{
	uint8_t *is = malloc(IMAGE);

	wait_for_peer(f);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_memory_equal(mem_page(&f->mem, p), mem_page(&f->peer.mem, p), MEM_PAGE_SIZE);
	for (unsigned i = 0; i < DISKS; i++) {
		assert_int_equal(pread(f->disks[i].fd, is, IMAGE, 0), IMAGE);
		assert_true(i == SHARED || !memcmp(is, f->peer.image[i], IMAGE));
	}
	free(is);
}

static void everybody_writes_while_it_follows(void **state)
{
	struct fix *f = *state;
	struct capture_batch batch = {.cap = f->capture.nbufs};
	bool near = false, still = false;
	struct sync_other o = {.near = set_flag, .arg = &near};
	struct guest g;
	uint64_t s = 7;

	batch.pages = calloc(batch.cap, sizeof(*batch.pages));
	for (uint64_t p = 0; p < PAGES; p += 2)
		host_writes(f, p, p + 1);
	follow(f, &o);
	guest_start(&g, f, PAGES);
	sync_start(f);
	while (!near || f->done <= 10) {
		uint64_t page = next(&s) % PAGES;

		host_writes(f, page, next(&s));
		if (next(&s) % 64)
			continue;
		assert_int_equal(mem_discard(&f->mem, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE), 0);
		disk_writes_somewhere(f, &s);
		guest_stop(&g); /* as for every capture */
		epoch_of_another(f, &batch);
		guest_start(&g, f, PAGES);
		turn(f);
	}
	guest_stop(&g);
	disklog_hold(&f->disklog, set_flag, &still);
	while (!still)
		turn(f);
	epoch_of_another(f, &batch);
	assert_false(sync_is_over(f)); /* until it is told that all stands still */
	sync_go_on(&f->sync);
	sync_wait(f, 0);
	check_the_same(f);
	disklog_go_on(&f->disklog); /* what waited for room in the log is of the next epoch */
	free(o.lacks);
	for (unsigned i = 0; i < DISKS; i++)
		block_map_done(&o.blocks[i]);
	free(batch.pages);
}

/* A guest that never keeps still does not make it endless; one that does is caught up with. */
static void passes_have_an_end(void **state)
{
	struct fix *f = *state;

	memset(kvm_model.bits, 0xff, PAGES / 8);
	kvm_model.busy = SMALL + 64;
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(kvm_model.gets, 8);
	assert_int_equal(f->sync.pages, PAGES + 7 * (SMALL + 64));
	assert_int_equal(first_seal(f), SMALL + 64);
}

static void a_small_working_set_is_left_to_the_epoch(void **state)
{
	struct fix *f = *state;

	memset(kvm_model.bits, 0xff, PAGES / 8);
	kvm_model.busy = SMALL;
	sync_start(f);
	sync_wait(f, 0);
	assert_int_equal(kvm_model.gets, 2);
	assert_int_equal(first_seal(f), SMALL);
}

static void a_log_that_fails_ends_it(void **state)
{
	struct fix *f = *state;

	kvm_model.fail = -EIO;
	sync_start(f);
	sync_wait(f, -EIO);
}

/* --- disks ------------------------------------------------------------------------------------ */

static void blocks_that_are_used_go_once(void **state)
{
	struct fix *f = *state;

	assert_true(disk_writes(f, MIRROR, DISK_WRITE, 0, 512));
	assert_true(disk_writes(f, MIRROR, DISK_WRITE, 9 * BLOCK_MAP_BYTES - 512, 1024));
	assert_true(disk_writes(f, MIRROR2, DISK_WRITE, IMAGE - 512, 512)); /* half a block */
	assert_true(disk_writes(f, SHARED, DISK_WRITE, 0, 512));
	while (f->done < 4)
		turn(f);
	sync_start(f);
	sync_wait(f, 0);
	first_seal(f);
	assert_int_equal(frames_of(&f->peer, FRAME_DISK), 4);
	assert_int_equal(f->sync.bytes, 4 * sizeof(struct wire_disk) + 3 * BLOCK_MAP_BYTES + 512);
}

/* A block is zero when each byte is, whatever the first ones look like. */
static void blocks_that_look_like_zero(void **state)
{
	static const struct {
		unsigned from, step;
	} ones[] = {{1, 2}, {1, BLOCK_MAP_BYTES}, {BLOCK_MAP_BYTES - 1, 1}};
	struct fix *f = *state;
	uint8_t *block = malloc(BLOCK_MAP_BYTES);

	assert_non_null(block);
	for (unsigned i = 0; i < 3; i++) {
		memset(block, 0, BLOCK_MAP_BYTES);
		for (unsigned at = ones[i].from; at < BLOCK_MAP_BYTES; at += ones[i].step)
			block[at] = 1;
		assert_int_equal(pwrite(f->disks[MIRROR].fd, block, BLOCK_MAP_BYTES,
					2ull * i * BLOCK_MAP_BYTES),
				 BLOCK_MAP_BYTES);
	}
	free(block);
	sync_start(f);
	sync_wait(f, 0);
	first_seal(f);
	assert_int_equal(frames_of(&f->peer, FRAME_DISK), 3);
}

/* The guest's writes do not wait for the end of a sync, however long that takes. */
static void the_log_is_not_on_while_memory_is_sent(void **state)
{
	struct fix *f = *state;
	unsigned want = 4 * LIMIT / BLOCK_MAP_BYTES, begun = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		for (unsigned i = 0; i < 8; i++)
			host_writes(f, p, p * 8 + i);
	f->peer.stalls = true;
	sync_start(f);
	while (!frames_of(&f->peer, FRAME_PAGES))
		turn(f);
	for (unsigned left = 5000; f->done < want && left; left--) {
		if (begun < want &&
		    disk_writes(f, MIRROR, DISK_WRITE,
				begun * (BLOCK_MAP_BYTES + 512) % (IMAGE / 2), BLOCK_MAP_BYTES))
			begun++;
		turn(f);
	}
	assert_int_equal(f->done, want);
	assert_false(sync_is_over(f));
	__atomic_store_n(&f->peer.stalls, false, __ATOMIC_RELEASE);
	sync_wait(f, 0);
	assert_true(f->disklog.bytes <= LIMIT);
	first_seal(f);
}

/* While it waits for the loop, which does not turn. */
static void given_up_at_the_switch(void **state)
{
	struct fix *f = *state;

	sync_start(f);
	wait_readable(f->sync.switch_fd);
	sync_cancel(&f->sync);
	sync_join(f);
	assert_int_equal(f->result, -ECANCELED);
	/* Asked, but nobody waits any more. */
	turn(f);
	turn(f);
}

static void given_up_among_pages(void **state)
{
	struct fix *f = *state;

	for (uint64_t p = 0; p < PAGES; p++)
		host_writes(f, p, p + 1);
	f->peer.stalls = true;
	sync_start(f);
	while (!frames_of(&f->peer, FRAME_PAGES))
		usleep(1000);
	sync_cancel(&f->sync);
	__atomic_store_n(&f->peer.stalls, false, __ATOMIC_RELEASE);
	sync_wait(f, -ECANCELED);
	assert_true(f->sync.pages < PAGES);
}

static void an_image_that_fails_ends_it(void **state)
{
	struct fix *f = *state;

	assert_int_equal(ftruncate(f->disks[MIRROR].fd, BLOCK_MAP_BYTES / 2), 0);
	assert_int_equal(pwrite(f->disks[MIRROR].fd, "x", 1, 0), 1);
	sync_start(f);
	sync_wait(f, -EIO);
}

static void an_image_that_cannot_be_read(void **state)
{
	struct fix *f = *state;
	int fd = f->disks[MIRROR2].fd;

	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	f->disks[MIRROR2].fd = open("/dev/null", O_WRONLY);
	sync_start(f);
	sync_wait(f, -EBADF);
	close(f->disks[MIRROR2].fd);
	f->disks[MIRROR2].fd = fd;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(what_is_not_zero_goes_once),
		T(steps_of_a_sync),
		T(the_hosts_writes_go_live),
		T(the_host_writes_meanwhile),
		T(everybody_writes),
		T(everybody_writes_while_it_follows),
		T(passes_have_an_end),
		T(a_small_working_set_is_left_to_the_epoch),
		T(a_log_that_fails_ends_it),
		T(blocks_that_are_used_go_once),
		T(blocks_that_look_like_zero),
		T(the_log_is_not_on_while_memory_is_sent),
		T(given_up_at_the_switch),
		T(given_up_among_pages),
		T(an_image_that_fails_ends_it),
		T(an_image_that_cannot_be_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
