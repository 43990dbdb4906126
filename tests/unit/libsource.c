#define _GNU_SOURCE /* accept4, OFD locks */
#include "tests/unit/libsource.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/source_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"
#include "vmm/copy/disk_wire.h"
#include "vmm/copy/pages.h"

#define BUSY_PAGES 400 /* more than the sockets hold */

/* --- set-up ----------------------------------------------------------------------------------- */

static void on_exit_code(void *arg, int code)
{
	struct source_rig *r = arg;

	r->exits++;
	r->code = code;
}

static void on_news(void *arg)
{
	struct source_rig *r = arg;

	r->news++;
}

static void scribble(struct source_rig *r)
{
	uint64_t x = 88172645463325252ull;

	for (unsigned page = 0; page < BUSY_PAGES; page++)
		for (unsigned k = 0; k < MEM_PAGE_SIZE / 8; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			guest_writes(&r->vm.mem, page, k, x);
		}
}

static void start_vm(struct source_rig *r)
{
	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	kvm_model_start(&r->vm.mem);
	r->vm.kvm = kvm_model.kvm;
	scribble(r);
	vm_start(&r->vm);
	source_init(&r->src, &r->ft, &r->vm, on_news, r);
}

int source_rig_setup(void **state)
{
	static struct source_rig rig;
	struct source_rig *r = &rig;

	memset(r, 0, sizeof(*r));
	time_reset();
	logged_reset();
	fake_vm_reset();
	strcpy(r->folder, "/tmp/ftvmm-source-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->image, sizeof(r->image), "%.60s/image", r->folder);
	fake_machine(&r->machine, &r->cfg, r->image);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	r->loop.clock = loop_now_ns;
	r->ft = (struct ft){.cfg = &r->cfg,
			    .loop = &r->loop,
			    .life = FT_HERE,
			    .on_exit = on_exit_code,
			    .arg = r};
	r->conf = (struct migrate_conf){
		.downtime_ns = 0, .timeout_ns = 60 * S, .passes = MIGRATE_PASSES_ANY};
	snprintf(r->conf.uri, sizeof(r->conf.uri), "unix:%.60s/in", r->folder);
	r->listener = r->link.fd = r->pair.fd = r->locker = -1;
	r->code = -1;
	there_listens(r, true);
	start_vm(r);
	*state = r;
	return 0;
}

int source_rig_teardown(void **state)
{
	struct source_rig *r = *state;
	char command[96];

	source_done(&r->src);
	there_hangs_up(r);
	there_listens(r, false);
	there_locks(r, false);
	r->vm.devices.disks[0].inflight = 0;
	r->vm.running = false;
	vm_destroy(&r->vm);
	kvm_model_end();
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	loop_turns(&r->loop);
	loop_done(&r->loop);
	snprintf(command, sizeof(command), "rm -rf %.60s", r->folder);
	return system(command);
}

/* --- the destination -------------------------------------------------------------------------- */

void there_listens(struct source_rig *r, bool listens)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	if (r->listener >= 0)
		close(r->listener);
	r->listener = -1;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.60s/in", r->folder);
	unlink(sun.sun_path);
	if (!listens)
		return;
	r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(r->listener, 4), 0);
}

static int newest(struct source_rig *r)
{
	int fd = -1, next;

	while ((next = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (fd >= 0)
			close(fd);
		fd = next;
	}
	assert_true(fd >= 0);
	return fd;
}

void there_takes(struct source_rig *r)
{
	stream_done(&r->link);
	stream_init(&r->link, newest(r), STREAM_MIGRATE, 0);
}

static void take_pair(struct source_rig *r)
{
	stream_done(&r->pair);
	stream_init(&r->pair, newest(r), STREAM_URGENT, 0);
}

static void note_page(struct source_rig *r, uint64_t page)
{
	uint64_t bit = 1ull << page % 64;

	r->twice += (r->had[page / 64] & bit) != 0;
	r->had[page / 64] |= bit;
}

static void note_pages(struct source_rig *r, const struct frame *f)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	uint8_t data[MEM_PAGE_SIZE];
	struct page_entry en;

	while (pages_next(&pos, end, r->vm.mem.npages, &en) == 1) {
		note_page(r, en.page);
		if (!r->vm.running) {
			assert_int_equal(pages_decode(&en, NULL, data), 0);
			assert_memory_equal(data, mem_page(&r->vm.mem, en.page), sizeof(data));
		}
	}
	assert_ptr_equal(pos, end);
}

static void note_map(struct source_rig *r, const struct frame *f)
{
	for (uint32_t at = 0; at < f->length; at += sizeof(struct wire_map)) {
		struct wire_map w;

		memcpy(&w, f->data + at, sizeof(w));
		assert_true(w.page + w.count <= r->vm.mem.npages);
		for (uint64_t i = w.page; i < w.page + w.count; i++)
			note_page(r, i);
	}
}

void there_reads(struct source_rig *r)
{
	struct frame f;

	while (r->pair.fd >= 0 && stream_recv(&r->pair, &f) == 1)
		note_pages(r, &f);
	while (r->link.fd >= 0 && stream_recv(&r->link, &f) == 1) {
		r->came[f.type]++;
		if (f.type == FRAME_PAGES)
			note_pages(r, &f);
		if (f.type == FRAME_MAP)
			note_map(r, &f);
		if (f.type == FRAME_SWITCH) {
			assert_int_equal(f.length, sizeof(r->last));
			memcpy(&r->last, f.data, sizeof(r->last));
		}
		if (f.type == FRAME_DISK) {
			struct wire_disk w;

			assert_true(f.length >= sizeof(w));
			memcpy(&w, f.data, sizeof(w));
			r->flushes += w.kind == DISK_FLUSH;
			r->first_blocks += w.kind != DISK_FLUSH && !w.off;
		}
	}
	if (r->link.session)
		r->session = r->link.session;
}

void there_sends(struct source_rig *r, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	if (!r->link.session)
		there_reads(r);
	assert_int_equal(stream_send(&r->link, type, 0, &iov, len ? 1 : 0, UINT64_MAX), 0);
}

/* All of it, or the first part. */
static void say_have(struct source_rig *r, uint32_t words)
{
	struct wire_have w = {0, words, words == SOURCE_RIG_WORDS};
	uint8_t buf[sizeof(w) + sizeof(r->had)];

	assert_int_equal(r->vm.mem.npages, SOURCE_RIG_WORDS * 64);
	memcpy(buf, &w, sizeof(w));
	memcpy(buf + sizeof(w), r->had, sizeof(r->had));
	there_sends(r, FRAME_HAVE, buf, sizeof(w) + words * sizeof(r->had[0]));
}

void there_says(struct source_rig *r, enum frame_type type)
{
	struct wire_ready ready = {1, 2};
	struct wire_runs runs = {3};

	if (type == FRAME_READY)
		there_sends(r, type, &ready, sizeof(ready));
	else if (type == FRAME_RUNS)
		there_sends(r, type, &runs, sizeof(runs));
	else if (type == FRAME_HAVE)
		say_have(r, SOURCE_RIG_WORDS);
	else
		there_sends(r, type, NULL, 0);
}

void there_wants(struct source_rig *r, uint64_t page)
{
	struct iovec iov = {&page, sizeof(page)};

	there_reads(r);
	assert_int_equal(stream_send(&r->pair, FRAME_WANT, 0, &iov, 1, UINT64_MAX), 0);
}

void there_hangs_up(struct source_rig *r)
{
	stream_done(&r->link);
	stream_done(&r->pair);
}

void there_locks(struct source_rig *r, bool locks)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (r->locker >= 0)
		close(r->locker);
	r->locker = -1;
	if (!locks)
		return;
	r->locker = open(r->image, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(r->locker, F_OFD_SETLK, &fl), 0);
}

/* --- what happens ----------------------------------------------------------------------------- */

static void disks_end(struct source_rig *r)
{
	struct disk *d = &r->vm.devices.disks[0];
	void (*fn)(void *arg) = d->drained;

	d->inflight = 0;
	d->drained = NULL;
	fn(d->drained_arg);
}

static void fail_here(struct source_rig *r)
{
	if (r->src.fsm.state == SRC_DRAIN) {
		r->src.images.drained(r->src.images.arg, -EIO);
		return;
	}
	/* The sender would, at what it does next; here it is kept from going on. */
	source_end_sender(&r->src);
	source_post(&r->src, SRC_EV_FAILED);
}

static void lose(struct source_rig *r)
{
	if (r->src.dial.fd >= 0 && r->src.link.fd < 0)
		there_listens(r, false);
	else if (r->src.fsm.state == SRC_QUIT || r->src.fsm.state == SRC_HALT)
		source_lose(&r->src, "connection closed"); /* before the sender's end is seen */
	else
		there_hangs_up(r);
}

/* While the sender looks at it, which in the program nobody changes. */
__attribute__((no_sanitize_thread, noinline)) static void allow_long_stop(struct source_rig *r)
{
	r->src.conf.downtime_ns = 3600 * S;
}

static void cause_there(struct source_rig *r, enum source_event ev)
{
	static const enum frame_type frames[] = {
		[SRC_EV_WELCOME] = FRAME_WELCOME, [SRC_EV_READY] = FRAME_READY,
		[SRC_EV_RUNS] = FRAME_RUNS,	  [SRC_EV_NEVER] = FRAME_BYE,
		[SRC_EV_HAVE] = FRAME_HAVE,	  [SRC_EV_EOC] = FRAME_EOC,
		[SRC_EV_LACKS] = FRAME_RUNS};
	enum source_state from = r->src.fsm.state;

	if (ev == SRC_EV_CONVERGED) {
		/* The guest goes on writing, but is fine with a long stop. */
		allow_long_stop(r);
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != SRC_PASSES));
	} else if (ev == SRC_EV_SENT) {
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != from));
	} else if (ev == SRC_EV_ENDED) {
		/* The sender may stand in the middle of a frame, for which there is no room. */
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != SRC_QUIT &&
							      r->src.fsm.state != SRC_HALT));
	} else if (ev == SRC_EV_LOST) {
		lose(r);
	} else if (ev == SRC_EV_SOME) {
		say_have(r, 1);
	} else if (ev >= SRC_EV_WELCOME) {
		there_says(r, frames[ev]);
	}
}

static void cause_here(struct source_rig *r, enum source_event ev)
{
	struct err e = {0};

	if (ev == SRC_EV_START)
		assert_int_equal(source_start(&r->src, &r->conf, &e), 0);
	else if (ev == SRC_EV_CANCEL && r->src.fsm.state >= SRC_GO &&
		 (r->src.fsm.state < SRC_QUIT || r->src.fsm.state > SRC_BACK))
		source_post(&r->src, ev); /* nobody can */
	else if (ev == SRC_EV_CANCEL)
		assert_int_equal(source_cancel(&r->src, false, "cancelled", &e), 0);
	else if (ev == SRC_EV_FORCE)
		assert_int_equal(source_cancel(&r->src, true, "forced", &e), 0);
	else if (ev == SRC_EV_RECOVER)
		assert_int_equal(source_recover(&r->src, r->conf.uri, &e), 0);
	else if (ev == SRC_EV_END)
		assert_false(source_may_end(&r->src, "stop"));
	else if (ev == SRC_EV_TIMER)
		time_fire(&r->src.timer_op);
	else if (ev == SRC_EV_LATE)
		time_fire(&r->src.late_op);
	else if (ev == SRC_EV_FAILED)
		fail_here(r);
	else if (ev == SRC_EV_DRAINED)
		disks_end(r);
	else if (ev == SRC_EV_LOCKED) {
		there_locks(r, false);
		time_fire(&r->src.timer_op);
	} else
		cause_there(r, ev);
}

void source_rig_cause(struct source_rig *r, enum source_event ev)
{
	uint64_t steps = r->src.fsm.steps;
	enum source_state from = r->src.fsm.state;

	cause_here(r, ev);
	loop_until(&r->loop, r->src.fsm.steps > steps);
	if (ev != SRC_EV_CONNECTED)
		return;
	if (from == SRC_PAIRING || from == SRC_CUT_PAIRING)
		take_pair(r);
	else
		there_takes(r);
}

void source_rig_lazy(struct source_rig *r)
{
	r->conf.how = MIGRATE_HOW_POSTCOPY;
	r->conf.passes = 0;
	r->lazy = true;
}

/* Without a pass it stands as soon as the urgent link is there. */
static void reach_drain_lazily(struct source_rig *r)
{
	source_rig_reach(r, SRC_OFFERED);
	r->vm.devices.disks[0].inflight = 1;
	source_rig_cause(r, SRC_EV_WELCOME);
	source_rig_cause(r, SRC_EV_CONNECTED);
	source_rig_cause(r, SRC_EV_WELCOME);
	source_rig_until(r, SRC_DRAIN);
}

void source_rig_reach(struct source_rig *r, enum source_state s)
{
	static const struct {
		uint8_t from, by;
	} way[SRC_STATE_MAX] = {
		[SRC_CONNECTING] = {SRC_IDLE, SRC_EV_START},
		[SRC_OFFERED] = {SRC_CONNECTING, SRC_EV_CONNECTED},
		[SRC_PAIRING] = {SRC_OFFERED, SRC_EV_WELCOME},
		[SRC_PASSES] = {SRC_OFFERED, SRC_EV_WELCOME},
		[SRC_DRAIN] = {SRC_PASSES, SRC_EV_CONVERGED},
		[SRC_LAST] = {SRC_DRAIN, SRC_EV_DRAINED},
		[SRC_EARLY] = {SRC_LAST, SRC_EV_READY},
		[SRC_SWITCH] = {SRC_LAST, SRC_EV_SENT},
		[SRC_GO] = {SRC_SWITCH, SRC_EV_READY},
		[SRC_QUIT] = {SRC_PASSES, SRC_EV_CANCEL},
		[SRC_HALT] = {SRC_LAST, SRC_EV_CANCEL},
		[SRC_BACK] = {SRC_HALT, SRC_EV_ENDED},
		[SRC_UNSURE] = {SRC_GO, SRC_EV_LOST},
		[SRC_RECONNECT] = {SRC_UNSURE, SRC_EV_TIMER},
		[SRC_ASKED] = {SRC_RECONNECT, SRC_EV_CONNECTED},
		[SRC_SERVE] = {SRC_GO, SRC_EV_LACKS},
		[SRC_ENDING] = {SRC_SERVE, SRC_EV_SENT},
		[SRC_CUT] = {SRC_SERVE, SRC_EV_LOST},
		[SRC_CUT_CONNECT] = {SRC_CUT, SRC_EV_TIMER},
		[SRC_CUT_ASKED] = {SRC_CUT_CONNECT, SRC_EV_CONNECTED},
		[SRC_CUT_PAIRING] = {SRC_CUT_ASKED, SRC_EV_HAVE},
		[SRC_LEFT] = {SRC_GO, SRC_EV_RUNS},
	};

	if (s == SRC_PAIRING && !r->lazy)
		r->conf.how = MIGRATE_HOW_AUTO;
	if (s == SRC_DRAIN && r->lazy) {
		reach_drain_lazily(r);
	} else if (s != SRC_IDLE) {
		source_rig_reach(r, way[s].from);
		if (s == SRC_PASSES) {
			r->vm.devices.disks[0].inflight = 1;
			kvm_model.busy = BUSY_PAGES;
		}
		if (s == SRC_BACK)
			there_locks(r, true);
		source_rig_cause(r, way[s].by);
	}
	assert_string_equal(source_desc.states[r->src.fsm.state], source_desc.states[s]);
}

void source_rig_until(struct source_rig *r, enum source_state s)
{
	loop_until(&r->loop, (there_reads(r), r->src.fsm.state == s));
}
