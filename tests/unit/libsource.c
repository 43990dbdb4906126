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
	r->listener = r->link.fd = r->locker = -1;
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

void there_takes(struct source_rig *r)
{
	int fd = -1, next;

	while ((next = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (fd >= 0)
			close(fd);
		fd = next;
	}
	assert_true(fd >= 0);
	stream_done(&r->link);
	stream_init(&r->link, fd, STREAM_MIGRATE, 0);
}

void there_reads(struct source_rig *r)
{
	struct frame f;

	while (r->link.fd >= 0 && stream_recv(&r->link, &f) == 1) {
		r->came[f.type]++;
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

void there_says(struct source_rig *r, enum frame_type type)
{
	struct wire_ready ready = {1, 2};
	struct wire_runs runs = {3};
	struct iovec iov = {0};

	if (!r->link.session)
		there_reads(r);
	if (type == FRAME_READY)
		iov = (struct iovec){&ready, sizeof(ready)};
	else if (type == FRAME_RUNS)
		iov = (struct iovec){&runs, sizeof(runs)};
	assert_int_equal(stream_send(&r->link, type, 0, &iov, iov.iov_len ? 1 : 0, UINT64_MAX), 0);
}

void there_hangs_up(struct source_rig *r)
{
	stream_done(&r->link);
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
	if (r->src.fsm.state == SRC_CONNECTING || r->src.fsm.state == SRC_RECONNECT)
		there_listens(r, false);
	else if (r->src.fsm.state == SRC_QUIT)
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
		[SRC_EV_HAVE] = FRAME_HAVE,	  [SRC_EV_EOC] = FRAME_EOC};

	if (ev == SRC_EV_CONVERGED) {
		/* The guest goes on writing, but is fine with a long stop. */
		allow_long_stop(r);
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != SRC_PASSES));
	} else if (ev == SRC_EV_SENT) {
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != SRC_LAST &&
							      r->src.fsm.state != SRC_EARLY));
	} else if (ev == SRC_EV_ENDED) {
		/* The sender may stand in the middle of a frame, for which there is no room. */
		loop_until(&r->loop, (there_reads(r), r->src.fsm.state != SRC_QUIT));
	} else if (ev == SRC_EV_LOST) {
		lose(r);
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
		 r->src.fsm.state != SRC_QUIT && r->src.fsm.state != SRC_BACK)
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
	if (ev == SRC_EV_CONNECTED && from != SRC_PAIRING)
		there_takes(r);
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
		[SRC_BACK] = {SRC_LAST, SRC_EV_CANCEL},
		[SRC_UNSURE] = {SRC_GO, SRC_EV_LOST},
		[SRC_RECONNECT] = {SRC_UNSURE, SRC_EV_TIMER},
		[SRC_ASKED] = {SRC_RECONNECT, SRC_EV_CONNECTED},
		[SRC_LEFT] = {SRC_GO, SRC_EV_RUNS},
	};

	if (s == SRC_PAIRING)
		r->conf.how = MIGRATE_HOW_AUTO;
	if (s != SRC_IDLE) {
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
