/*
 * The destination's table, as far as precopy goes: each row is taken through the real actions, each
 * message is tried in each state. What comes with a pager: tests/e2e/test_migrate.py.
 */
#define _GNU_SOURCE /* OFD locks */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"
#include "vmm/machine/fdt.h"

#define SESSION 0x1234567ull

static struct rig {
	char folder[64], image[96];
	struct loop loop;
	struct machine machine;
	struct config cfg;
	struct vm vm;
	struct ft ft;
	struct dest dest;
	struct stream link; /* the source's end, */
	struct stream ask;  /* and that of a question */
	int holder;	    /* the source's lock, or -1 */
	unsigned runs;
	uint8_t state[1 << 20];
	int64_t state_len;
} rig;

/* --- set-up ----------------------------------------------------------------------------------- */

static void runs(void *arg)
{
	struct rig *r = arg;

	r->runs++;
}

static void source_locks(struct rig *r, bool locks)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (r->holder >= 0)
		close(r->holder);
	r->holder = -1;
	if (!locks)
		return;
	r->holder = open(r->image, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(r->holder, F_OFD_SETLK, &fl), 0);
}

/* A state as a source of the same machine has it. */
static void make_state(struct rig *r)
{
	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	r->state_len = vm_save(&r->vm, r->state, sizeof(r->state));
	assert_true(r->state_len > 0);
	vm_destroy(&r->vm);
}

static int setup(void **state)
{
	struct rig *r = &rig;

	memset(r, 0, sizeof(*r));
	r->holder = r->link.fd = r->ask.fd = -1;
	time_reset();
	logged_reset();
	fake_vm_reset();
	strcpy(r->folder, "/tmp/ftvmm-dest-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->image, sizeof(r->image), "%.60s/image", r->folder);
	fake_machine(&r->machine, &r->cfg, r->image);
	snprintf(r->cfg.incoming, sizeof(r->cfg.incoming), "unix:%.60s/in", r->folder);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	r->loop.clock = loop_now_ns;
	make_state(r);
	source_locks(r, true);
	r->ft = (struct ft){.cfg = &r->cfg, .loop = &r->loop};
	assert_int_equal(dest_start(&r->dest, &r->ft, &r->vm, runs, r, NULL), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	char command[96];

	dest_stop(&r->dest);
	r->vm.running = false;
	vm_destroy(&r->vm);
	stream_done(&r->link);
	stream_done(&r->ask);
	source_locks(r, false);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	loop_turns(&r->loop);
	loop_done(&r->loop);
	snprintf(command, sizeof(command), "rm -rf %.60s", r->folder);
	return system(command);
}

/* --- the source ------------------------------------------------------------------------------- */

static void dial_at(struct stream *st, const char *path, uint64_t session)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	stream_done(st);
	stream_init(st, fd, STREAM_MIGRATE, session);
	assert_int_equal(stream_send_preface(st, UINT64_MAX), 0);
}

static void dial(struct rig *r, struct stream *st, uint64_t session)
{
	char path[80];

	snprintf(path, sizeof(path), "%.60s/in", r->folder);
	dial_at(st, path, session);
}

static void say(struct stream *st, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	assert_int_equal(stream_send(st, type, 0, &iov, len ? 1 : 0, UINT64_MAX), 0);
}

/* What it says next. */
static unsigned hear(struct rig *r, struct stream *st)
{
	struct frame f;
	int got = 0;

	loop_until(&r->loop, got || (got = stream_recv(st, &f)) != 0);
	return got == 1 ? f.type : 0;
}

/* nimages: of another host's file each. */
static void offer_images(struct rig *r, uint32_t nimages, uint32_t disk)
{
	static uint8_t
		payload[sizeof(struct wire_offer) + 99 * sizeof(struct wire_image) + FDT_MAX_BYTES];
	const struct wire_image image = {
		.disk = disk, .kind = WIRE_IMAGE_FILE, .inode = 1, .born_s = 1};
	uint8_t *images = payload + sizeof(struct wire_offer);
	uint8_t *fdt = images + nimages * sizeof(image);
	int n = fdt_build(&r->machine, fdt, FDT_MAX_BYTES, NULL);
	struct wire_offer o = {
		.mode = MIGRATE_PRECOPY, .fdt_bytes = (uint32_t)n, .nimages = nimages};

	assert_true(n > 0);
	memcpy(payload, &o, sizeof(o));
	for (uint32_t i = 0; i < nimages; i++)
		memcpy(images + i * sizeof(image), &image, sizeof(image));
	dial(r, &r->link, SESSION);
	say(&r->link, FRAME_OFFER, payload, (size_t)(fdt - payload) + (size_t)n);
}

static void offer(struct rig *r)
{
	offer_images(r, 0, 0);
}

static void say_switch(struct rig *r)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY, .stopped_ns = 5 * MS};

	source_locks(r, false);
	say(&r->link, FRAME_SWITCH, &w, sizeof(w));
}

static void ask(struct rig *r, uint64_t session)
{
	dial(r, &r->ask, session);
	say(&r->ask, FRAME_ASK, NULL, 0);
}

static void reach(struct rig *r, enum dest_state s)
{
	if (s == DST_LISTEN)
		return;
	offer(r);
	assert_int_equal(hear(r, &r->link), FRAME_WELCOME);
	if (s == DST_RECEIVING)
		return;
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say_switch(r);
	assert_int_equal(hear(r, &r->link), FRAME_READY);
	if (s == DST_READY)
		return;
	say(&r->link, FRAME_GO, NULL, 0);
	assert_int_equal(hear(r, &r->link), FRAME_RUNS);
	if (s == DST_RUNS)
		return;
	say(&r->link, FRAME_GONE, NULL, 0);
	loop_until(&r->loop, r->dest.fsm.state == DST_HERE);
}

static void expect(struct rig *r, enum dest_state s, const char *word, bool run)
{
	assert_string_equal(dest_desc.states[r->dest.fsm.state], dest_desc.states[s]);
	assert_string_equal(ft_word(&r->ft), word);
	assert_int_equal(r->vm.loop && r->vm.running, run);
	assert_int_equal(r->runs, run);
	/* A lock is held exactly when it can run, or does. */
	assert_int_equal(r->holder < 0 && disk_is_elsewhere(&(struct disk){
						  .fd = open(r->image, O_RDONLY | O_CLOEXEC)}),
			 s >= DST_READY && s != DST_OVER);
}

/* --- the tests -------------------------------------------------------------------------------- */

static void all_the_way(void **state)
{
	struct rig *r = *state;

	reach(r, DST_HERE);
	expect(r, DST_HERE, "RUNNING", true);
	assert_int_equal(fake_vm.loaded, 1);
	assert_int_equal(fake_vm.started, 1);
	assert_int_equal(fake_vm.generations, 0); /* it has no twin */
	assert_true(fake_vm.advance_ns >= 5 * MS);
	assert_int_equal(r->dest.door.listen_fd, -1);
}

/* However it ends before GO, nothing is left, and the next one may come. */
static void dropped(struct rig *r, const char *why)
{
	loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
	expect(r, DST_LISTEN, "STARTING", false);
	if (!strstr(r->ft.note, why))
		fail_msg("'%s' is not in '%s'", why, r->ft.note);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	/* It says so when it is asked; of another it knows nothing. */
	ask(r, SESSION);
	assert_int_equal(hear(r, &r->ask), FRAME_BYE);
	ask(r, SESSION + 1);
	assert_int_equal(hear(r, &r->ask), FRAME_REFUSE);
	source_locks(r, true);
	reach(r, DST_RUNS);
	expect(r, DST_RUNS, "RUNNING", true);
}

#define DROPPED(name, state_, doing, why)                                                          \
	static void name(void **state)                                                             \
	{                                                                                          \
		struct rig *r = *state;                                                            \
                                                                                                   \
		reach(r, state_);                                                                  \
		doing;                                                                             \
		dropped(r, why);                                                                   \
	}

DROPPED(receiving_lost, DST_RECEIVING, stream_done(&r->link), "connection closed")
DROPPED(receiving_bye, DST_RECEIVING, say(&r->link, FRAME_BYE, "tired", 5), "source: tired")
DROPPED(ready_lost, DST_READY, stream_done(&r->link), "connection closed")
DROPPED(ready_bye, DST_READY, say(&r->link, FRAME_BYE, "tired", 5), "source: tired")
DROPPED(ready_late, DST_READY, time_fire(&r->dest.timer_op), "nothing came in time")
DROPPED(ready_asked, DST_READY, (ask(r, SESSION), (void)hear(r, &r->ask)), "lost the link")
DROPPED(switch_without_state, DST_RECEIVING, say_switch(r), "without a state")
DROPPED(pages_that_are_none, DST_RECEIVING, say(&r->link, FRAME_PAGES, "x", 1), "malformed")
DROPPED(state_that_is_none, DST_RECEIVING, say(&r->link, FRAME_STATE, "x", 1), "")

static void silence_is_measured_from_the_last_frame(void **state)
{
	struct rig *r = *state;

	reach(r, DST_RECEIVING);
	time_pass(&r->loop, 20 * S);
	say(&r->link, FRAME_PAGES, NULL, 0);
	loop_until(&r->loop, r->dest.stats.frames == 1);
	time_pass(&r->loop, 20 * S);
	expect(r, DST_RECEIVING, "MIGRATING", false);
	time_pass(&r->loop, 11 * S);
	dropped(r, "nothing came in time");
}

/* This host does not take the state; then it does. */
static void not_loaded(void **state)
{
	struct rig *r = *state;

	reach(r, DST_RECEIVING);
	fake_vm.refuses = true;
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say_switch(r);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	fake_vm.refuses = false;
	dropped(r, "this host refuses");
}

/* Somebody else has taken the image that the source gave up. */
static void image_in_use(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct rig *r = *state;

	reach(r, DST_RECEIVING);
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	dropped(r, "in use by another process");
}

static void images_that_are_not_the_same(void **state)
{
	struct rig *r = *state;

	source_locks(r, false);
	offer(r);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	dropped(r, "not the one that the source has open");
}

/* --- images that are copied to here --- */

static void copying(struct rig *r)
{
	source_locks(r, false);
	offer_images(r, 1, 0);
	assert_int_equal(hear(r, &r->link), FRAME_WELCOME);
	assert_int_equal(r->dest.copied, 1);
}

static bool is_part(struct rig *r)
{
	struct disk d = {.fd = open(r->image, O_RDONLY | O_CLOEXEC)};
	bool part = disk_is_part(&d);

	close(d.fd);
	return part;
}

static bool is_locked(struct rig *r)
{
	struct disk d = {.fd = open(r->image, O_RDONLY | O_CLOEXEC)};
	bool locked = disk_is_elsewhere(&d);

	close(d.fd);
	return locked;
}

static void say_disk(struct rig *r, struct wire_disk w, size_t have)
{
	static uint8_t payload[sizeof(w) + (2u << 20)];

	memset(payload, 0x5a, sizeof(payload));
	memcpy(payload, &w, sizeof(w));
	say(&r->link, FRAME_DISK, payload, sizeof(w) + have);
}

static void a_copy_runs(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct rig *r = *state;
	uint8_t got[1024];
	int fd = open(r->image, O_RDONLY | O_CLOEXEC);

	copying(r);
	assert_true(is_locked(r));
	loop_until(&r->loop, is_part(r));
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .off = 4096, .len = 512, .data = 512},
		 512);
	say_disk(r, (struct wire_disk){.kind = DISK_FLUSH}, 0);
	assert_int_equal(hear(r, &r->link), FRAME_DONE);
	assert_int_equal(pread(fd, got, 512, 4096), 512);
	assert_int_equal(got[511], 0x5a);
	assert_true(is_part(r));
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	say_disk(r, (struct wire_disk){.kind = DISK_ZERO, .off = 512, .len = 4096}, 0);
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(hear(r, &r->link), FRAME_READY);
	assert_int_equal(pread(fd, got, 1024, 0), 1024);
	assert_int_equal(got[0], 0x5a);
	assert_int_equal(got[512], 0);
	say(&r->link, FRAME_GO, NULL, 0);
	assert_int_equal(hear(r, &r->link), FRAME_RUNS);
	assert_true(is_locked(r));
	assert_false(is_part(r));
	close(fd);
}

/* With all of it there, also its first block: the guest goes on elsewhere. */
static void a_copy_that_is_not_used(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct rig *r = *state;

	copying(r);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(hear(r, &r->link), FRAME_READY);
	assert_false(is_part(r));
	stream_done(&r->link);
	loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
	assert_true(is_part(r));
	assert_false(is_locked(r));
	/* It is where the next one goes. */
	copying(r);
}

static void parts_of_images_that_are_none(void **state)
{
	static const struct {
		struct wire_disk w;
		size_t have;
	} rows[] = {
		{{.disk = 1, .kind = DISK_WRITE, .len = 512, .data = 512}, 512},
		{{.disk = 8, .kind = DISK_WRITE, .len = 512, .data = 512}, 512},
		{{.disk = UINT32_MAX, .kind = DISK_WRITE, .len = 512, .data = 512}, 512},
		{{.kind = DISK_READ, .len = 512}, 0},
		{{.kind = 77, .len = 512}, 0},
		{{.kind = DISK_WRITE, .len = 512, .data = 512}, 511},
		{{.kind = DISK_WRITE, .len = 1024, .data = 512}, 512},
		{{.kind = DISK_WRITE, .len = 0}, 0},
		{{.kind = DISK_WRITE, .off = 1, .len = 512, .data = 512}, 512},
		{{.kind = DISK_WRITE, .off = UINT64_MAX - 511, .len = 512, .data = 512}, 512},
		{{.kind = DISK_ZERO, .off = 512, .len = UINT32_MAX - 511}, 0},
		{{.kind = DISK_ZERO, .off = 1ull << 40, .len = 512}, 0},
		{{.kind = DISK_FLUSH, .len = 512}, 0},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct rig *r;
		void *one;

		assert_int_equal(setup(&one), 0);
		r = one;
		copying(r);
		say_disk(r, rows[i].w, rows[i].have);
		assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
		loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
		assert_true(is_part(r));
		assert_int_equal(teardown(&one), 0);
	}
	(void)state;
}

/* Nothing of an image that nobody spoke of, nor behind the state. */
static void parts_of_images_that_are_not_copied(void **state)
{
	struct rig *r = *state;

	reach(r, DST_RECEIVING);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	dropped(r, "where it does not belong");
	assert_false(is_part(r));
}

static void an_image_that_fails(void **state)
{
	struct rig *r = *state;
	struct disk *d = &r->dest.images.disks[0];
	int fd;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	fd = d->fd;
	d->fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "No space left"));
	close(fd);
}

/* All of it has come, and it does not get to the medium. */
static void an_image_that_fails_at_last(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct rig *r = *state;
	struct disk *d = &r->dest.images.disks[0];
	int fd;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	fd = d->fd;
	d->fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	say(&r->link, FRAME_STATE, r->state, (size_t)r->state_len);
	say(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "cannot be written"));
	assert_int_equal(fake_vm.loaded, 0);
	close(fd);
}

/* More than waits for an image is not read; it goes on when that is written. */
static void what_waits_is_bounded(void **state)
{
	struct rig *r = *state;
	unsigned sent = 0;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	r->dest.images.busy = true; /* the medium hangs */
	while (!r->dest.read_stopped) {
		say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 1 << 16, .data = 1 << 16},
			 1 << 16);
		sent++;
		loop_turns(&r->loop);
	}
	assert_true(r->dest.images.queue.bytes < (34u << 20));
	time_pass(&r->loop, 100 * S);
	assert_int_equal(r->dest.fsm.state, DST_RECEIVING); /* the source is not silent */
	r->dest.images.busy = false;
	assert_int_equal(diskapply_flush(&r->dest.images), 0); /* it goes on */
	loop_until(&r->loop, !r->dest.read_stopped);
	say_disk(r, (struct wire_disk){.kind = DISK_FLUSH}, 0);
	assert_int_equal(hear(r, &r->link), FRAME_DONE);
	assert_true(r->dest.stats.disk_bytes > (uint64_t)sent << 16);
}

static void offers_of_images(void **state)
{
	static const struct {
		uint32_t n, disk;
	} rows[] = {{1, 1}, {1, 8}, {1, UINT32_MAX}, {9, 0}};
	struct rig *r = *state;

	source_locks(r, false);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		offer_images(r, rows[i].n, rows[i].disk);
		assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
		loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
		assert_false(is_part(r));
		assert_false(is_locked(r));
	}
	/* Somebody else's. */
	source_locks(r, true);
	offer_images(r, 1, 0);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	assert_false(is_part(r));
}

static void second_offer(void **state)
{
	struct rig *r = *state;
	struct stream first;

	reach(r, DST_RECEIVING);
	first = r->link;
	memset(&r->link, 0, sizeof(r->link));
	r->link.fd = -1;
	offer(r);
	assert_int_equal(hear(r, &r->link), FRAME_REFUSE);
	expect(r, DST_RECEIVING, "MIGRATING", false);
	stream_done(&first);
}

/* RUNS got lost: it is said again, as often as it is asked for, and GONE comes on the new link. */
static void asked_when_it_runs(void **state)
{
	struct rig *r = *state;

	reach(r, DST_RUNS);
	for (int i = 0; i < 3; i++) {
		if (i == 1) {
			stream_done(&r->link);
			loop_turns(&r->loop);
		}
		ask(r, SESSION);
		assert_int_equal(hear(r, &r->ask), FRAME_RUNS);
		expect(r, DST_RUNS, "RUNNING", true);
	}
	ask(r, SESSION + 1);
	assert_int_equal(hear(r, &r->ask), FRAME_REFUSE);
	dial(r, &r->link, SESSION);
	say(&r->link, FRAME_ASK, NULL, 0);
	assert_int_equal(hear(r, &r->link), FRAME_RUNS);
	say(&r->link, FRAME_GONE, NULL, 0);
	loop_until(&r->loop, r->dest.fsm.state == DST_HERE);
}

/* A source that cannot come in where it did. The first door stays open. */
static void asked_at_another_door(void **state)
{
	char was[sizeof(rig.folder)], uri[128];
	struct rig *r = *state;
	struct err e = {0};

	memcpy(was, r->folder, sizeof(was));
	reach(r, DST_RUNS);
	stream_done(&r->link);
	snprintf(uri, sizeof(uri), "unix:%.60s/none/in", was);
	assert_true(dest_recover(&r->dest, uri, &e) < 0);
	assert_non_null(strstr(e.msg, "--recover"));
	for (int i = 0; i < 2; i++) { /* once more is fine, too */
		snprintf(uri, sizeof(uri), "unix:%.60s/out", was);
		assert_int_equal(dest_recover(&r->dest, uri, &e), 0);
		ask(r, SESSION);
		assert_int_equal(hear(r, &r->ask), FRAME_RUNS);
	}
	dial_at(&r->link, uri + 5, SESSION);
	say(&r->link, FRAME_ASK, NULL, 0);
	assert_int_equal(hear(r, &r->link), FRAME_RUNS);
	say(&r->link, FRAME_GONE, NULL, 0);
	loop_until(&r->loop, r->dest.fsm.state == DST_HERE);
	assert_int_equal(r->dest.further.listen_fd, -1);
	e = (struct err){0};
	assert_int_equal(dest_recover(&r->dest, uri, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "all of the VM is here"));
}

static void asked_by_a_stranger(void **state)
{
	struct rig *r = *state;

	reach(r, DST_READY);
	ask(r, SESSION + 1);
	assert_int_equal(hear(r, &r->ask), FRAME_REFUSE);
	expect(r, DST_READY, "MIGRATING", false);
}

/* What has no row is the source's fault. Before GO all is dropped; after it the VM runs on. */
static void each_message_in_each_state(void **state)
{
	static const enum frame_type types[] = {FRAME_PAGES, FRAME_MAP,	 FRAME_EOS,   FRAME_SWITCH,
						FRAME_GO,    FRAME_GONE, FRAME_READY, FRAME_HELLO};
	static const enum dest_state states[] = {DST_RECEIVING, DST_READY, DST_RUNS};

	for (unsigned s = 0; s < 3; s++)
		for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
			struct rig *r;
			void *one;

			if ((states[s] == DST_RECEIVING && types[i] == FRAME_PAGES) ||
			    (states[s] == DST_READY && types[i] == FRAME_GO) ||
			    (states[s] == DST_RUNS && types[i] == FRAME_GONE))
				continue;
			assert_int_equal(setup(&one), 0);
			r = one;
			reach(r, states[s]);
			say(&r->link, types[i], NULL, 0);
			loop_until(&r->loop, !dest_has_link(&r->dest));
			if (states[s] == DST_RUNS)
				expect(r, DST_RUNS, "RUNNING", true);
			else
				expect(r, DST_LISTEN, "STARTING", false);
			assert_int_equal(teardown(&one), 0);
		}
}

static void the_process_ends_in_each_state(void **state)
{
	static const enum dest_state states[] = {DST_LISTEN, DST_RECEIVING, DST_READY, DST_RUNS,
						 DST_HERE};

	for (unsigned s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
		void *one;

		assert_int_equal(setup(&one), 0);
		reach(one, states[s]);
		assert_int_equal(teardown(&one), 0);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(all_the_way),
		T(receiving_lost),
		T(receiving_bye),
		T(ready_lost),
		T(ready_bye),
		T(ready_late),
		T(ready_asked),
		T(switch_without_state),
		T(pages_that_are_none),
		T(state_that_is_none),
		T(silence_is_measured_from_the_last_frame),
		T(not_loaded),
		T(image_in_use),
		T(images_that_are_not_the_same),
		T(a_copy_runs),
		T(a_copy_that_is_not_used),
		T(parts_of_images_that_are_not_copied),
		T(an_image_that_fails),
		T(an_image_that_fails_at_last),
		T(what_waits_is_bounded),
		T(offers_of_images),
		cmocka_unit_test(parts_of_images_that_are_none),
		T(second_offer),
		T(asked_when_it_runs),
		T(asked_at_another_door),
		T(asked_by_a_stranger),
		cmocka_unit_test(each_message_in_each_state),
		cmocka_unit_test(the_process_ends_in_each_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
