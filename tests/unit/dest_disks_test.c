/* Images that are copied to a destination: all of them, parts, and media that fail or hang. */
#define _GNU_SOURCE /* OFD locks */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libdest.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"

static void copying(struct dest_rig *r)
{
	here_locks(r, false);
	here_offers_images(r, 1, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
	assert_int_equal(r->dest.copied, 1);
}

static bool is_part(struct dest_rig *r)
{
	struct disk d = {.fd = open(r->image, O_RDONLY | O_CLOEXEC)};
	bool part = disk_is_part(&d);

	close(d.fd);
	return part;
}

static bool is_locked(struct dest_rig *r)
{
	struct disk d = {.fd = open(r->image, O_RDONLY | O_CLOEXEC)};
	bool locked = disk_is_elsewhere(&d);

	close(d.fd);
	return locked;
}

static void say_disk(struct dest_rig *r, struct wire_disk w, size_t have)
{
	static uint8_t payload[sizeof(w) + (2u << 20)];

	memset(payload, 0x5a, sizeof(payload));
	memcpy(payload, &w, sizeof(w));
	here_says(&r->link, FRAME_DISK, payload, sizeof(w) + have);
}

/* A source may not have this host hold more than it was told to, and hears of it. */
static void more_memory_than_this_side_takes(void **state)
{
	struct dest_rig *r = *state;

	r->cfg.max_mem_bytes = r->machine.mem_bytes - 1;
	here_offers(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	assert_non_null(strstr(r->ft.note, "this side takes"));
	dest_rig_until(r, DST_LISTEN);
	stream_done(&r->link);
	r->cfg.max_mem_bytes++;
	here_offers(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
}

static void a_copy_runs(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct dest_rig *r = *state;
	uint8_t got[1024];
	int fd = open(r->image, O_RDONLY | O_CLOEXEC);

	copying(r);
	assert_true(is_locked(r));
	loop_until(&r->loop, is_part(r));
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .off = 4096, .len = 512, .data = 512},
		 512);
	say_disk(r, (struct wire_disk){.kind = DISK_FLUSH}, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_DONE);
	assert_int_equal(pread(fd, got, 512, 4096), 512);
	assert_int_equal(got[511], 0x5a);
	assert_true(is_part(r));
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	say_disk(r, (struct wire_disk){.kind = DISK_ZERO, .off = 512, .len = 4096}, 0);
	here_states(r, false);
	here_says(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(here_hears(r, &r->link), FRAME_READY);
	assert_int_equal(pread(fd, got, 1024, 0), 1024);
	assert_int_equal(got[0], 0x5a);
	assert_int_equal(got[512], 0);
	here_says(&r->link, FRAME_GO, NULL, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_RUNS);
	assert_true(is_locked(r));
	assert_false(is_part(r));
	close(fd);
}

/* With all of it there, also its first block: the guest goes on elsewhere. */
static void a_copy_that_is_not_used(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct dest_rig *r = *state;

	copying(r);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	here_states(r, false);
	here_says(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(here_hears(r, &r->link), FRAME_READY);
	assert_false(is_part(r));
	stream_done(&r->link);
	dest_rig_until(r, DST_LISTEN);
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
		struct dest_rig *r;
		void *one;

		assert_int_equal(dest_rig_setup(&one), 0);
		r = one;
		copying(r);
		say_disk(r, rows[i].w, rows[i].have);
		assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
		dest_rig_until(r, DST_LISTEN);
		assert_true(is_part(r));
		assert_int_equal(dest_rig_teardown(&one), 0);
	}
	(void)state;
}

/* Nothing of an image that nobody spoke of, nor behind the state. */
static void parts_of_images_that_are_not_copied(void **state)
{
	struct dest_rig *r = *state;

	dest_rig_reach(r, DST_RECEIVING);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "where it does not belong"));
	assert_false(is_part(r));
}

static void an_image_that_fails(void **state)
{
	struct dest_rig *r = *state;
	struct disk *d = &r->dest.images.disks[0];
	int fd;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	fd = d->fd;
	d->fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 512, .data = 512}, 512);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_until(r, DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "No space left"));
	close(fd);
}

/* All of it has come, and it does not get to the medium. */
static void an_image_that_fails_at_last(void **state)
{
	struct wire_switch w = {.mode = MIGRATE_PRECOPY};
	struct dest_rig *r = *state;
	struct disk *d = &r->dest.images.disks[0];
	int fd;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	fd = d->fd;
	d->fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	here_states(r, false);
	here_says(&r->link, FRAME_SWITCH, &w, sizeof(w));
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	dest_rig_until(r, DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "cannot be written"));
	assert_int_equal(fake_vm.loaded, 0);
	close(fd);
}

/* The mark cannot be written: then nobody says that it is there. */
static void a_part_that_cannot_be_marked(void **state)
{
	struct dest_rig *r = *state;
	struct disk *d = &r->dest.images.disks[0];
	int fd;

	for (int fails = 0; fails < 2; fails++) {
		copying(r);
		loop_until(&r->loop, diskapply_idle(&r->dest.images));
		logged_reset();
		fd = d->fd;
		if (fails)
			d->fd = open("/dev/full", O_RDWR | O_CLOEXEC);
		stream_done(&r->link);
		loop_until(&r->loop, r->dest.fsm.state == DST_LISTEN);
		assert_int_equal(logged("is a part of one, and is not started"), !fails);
		assert_int_equal(logged("cannot be written: No space left"), fails);
		if (fails)
			close(fd);
	}
}

/* What comes until no more is read. */
static unsigned fill(struct dest_rig *r)
{
	unsigned sent = 0;

	while (!r->dest.read_stopped) {
		say_disk(r, (struct wire_disk){.kind = DISK_WRITE, .len = 1 << 16, .data = 1 << 16},
			 1 << 16);
		sent++;
		loop_turns(&r->loop);
	}
	return sent;
}

static bool a_second(struct loop_work *w)
{
	(void)w;
	time_jump(S);
	return true;
}

/* A medium that never answers: the source is told, and nobody waits for it for ever. */
static void an_image_that_hangs(void **state)
{
	struct loop_work seconds = {.fn = a_second};
	struct dest_rig *r = *state;
	uint8_t *buf;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	buf = r->dest.images.buf;
	disk_hold(&r->dest.images.disks[0], true);
	fill(r);
	time_pass(&r->loop, 110 * S);
	assert_int_equal(r->dest.fsm.state, DST_RECEIVING);
	loop_work_add(&r->loop, &seconds);
	time_pass(&r->loop, 11 * S);
	loop_work_del(&r->loop, &seconds);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	assert_int_equal(r->dest.fsm.state, DST_LISTEN);
	assert_non_null(strstr(r->ft.note, "takes too long"));
	assert_int_equal(logged("may be a part of one and not say so"), 1);
	free(buf); /* no kernel has it here */
	copying(r);
}

/* More than waits for an image is not read; it goes on when that is written. */
static void what_waits_is_bounded(void **state)
{
	struct dest_rig *r = *state;
	unsigned sent;

	copying(r);
	loop_until(&r->loop, diskapply_idle(&r->dest.images));
	r->dest.images.busy = true; /* the medium hangs */
	sent = fill(r);
	assert_true(r->dest.images.queue.bytes < (34u << 20));
	time_pass(&r->loop, 100 * S);
	assert_int_equal(r->dest.fsm.state, DST_RECEIVING); /* the source is not silent */
	r->dest.images.busy = false;
	assert_int_equal(diskapply_flush(&r->dest.images), 0); /* it goes on */
	loop_until(&r->loop, !r->dest.read_stopped);
	say_disk(r, (struct wire_disk){.kind = DISK_FLUSH}, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_DONE);
	assert_true(r->dest.stats.disk_bytes > (uint64_t)sent << 16);
}

static void offers_of_images(void **state)
{
	static const struct {
		uint32_t n, disk;
	} rows[] = {{1, 1}, {1, 8}, {1, UINT32_MAX}, {9, 0}};
	struct dest_rig *r = *state;

	here_locks(r, false);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		here_offers_images(r, rows[i].n, rows[i].disk);
		assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
		dest_rig_until(r, DST_LISTEN);
		assert_false(is_part(r));
		assert_false(is_locked(r));
	}
	/* Somebody else's. */
	here_locks(r, true);
	here_offers_images(r, 1, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_REFUSE);
	assert_false(is_part(r));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DEST_TEST(more_memory_than_this_side_takes),
		DEST_TEST(a_copy_runs),
		DEST_TEST(a_copy_that_is_not_used),
		cmocka_unit_test(parts_of_images_that_are_none),
		DEST_TEST(parts_of_images_that_are_not_copied),
		DEST_TEST(an_image_that_fails),
		DEST_TEST(an_image_that_fails_at_last),
		DEST_TEST(a_part_that_cannot_be_marked),
		DEST_TEST(an_image_that_hangs),
		DEST_TEST(what_waits_is_bounded),
		DEST_TEST(offers_of_images),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
