/* A secondary whose guest runs, too: what it can go on with, and what it is rid of. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/serial_reg.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "devices/ged.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_rng.h"
#include "ft/epoch/written.h"
#include "net/seqmap.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libsegment.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

/* --- it cannot run ---------------------------------------------------------------------------- */

/* The checkpoint is acknowledged, and nothing behind it has left: it is what a takeover loads. */
static void without_a_twin_it_is_as_without_the_mode(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	lab.runs = 1;
	fake_vm.refuses = true;
	pri_commit(2);
	lab_until(logged("error: twin: "));
	lab_settle();
	assert_state(STANDBY);
	assert_word("PROTECTED");
	assert_true(end_is_dropped(&lab.mirror));
	assert_false(lab.vm.running);
	assert_int_equal(lab.joins, lab.splits);
	assert_false(lab.ft.images_behind);
	fake_vm.refuses = false;
	pri_commit(3);
	lab_settle();
	assert_state(STANDBY);
	lab_check_vm(3);
	fake_vm.loaded = 0;
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(fake_vm.loaded, 1);
	lab_check_vm(3);
}

/* Nor is it tried again and again. */
static void it_is_not_tried_again_with_this_primary(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	lab.runs = 1;
	fake_vm.refuses = true;
	pri_commit(2);
	lab_until(logged("error: twin: "));
	end_close(&lab.mirror);
	end_connect(&lab.mirror);
	end_preface(&lab.mirror, STREAM_MIRROR, lab.session);
	end_send(&lab.mirror, FRAME_MIRROR, 0, NULL, 0);
	lab_until(end_is_dropped(&lab.mirror));
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
	pri_commit(3);
	assert_int_equal(logged("error: twin: "), 1);
}

/* --- slow images ------------------------------------------------------------------------------ */

static void check_disk_goes(void)
{
	static struct lab_write w;

	lab_until(lab.taken && !lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0x77);
	lab_until(w.done);
	assert_int_equal(w.res, 0);
	assert_int_equal(lab_image_byte(lab.image, 4096), 0x77);
}

/* The twin's requests waited for the image; there is none any more when that has all. */
static void disks_do_not_wait_for_what_has_come(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_TWIN);
	lab.runs = 0;
	pri_commit(3);
	lab_until(lab.joins);
	assert_false(lab.ft.images_behind);
	lab_images_go();
	pri_hang_up();
	check_disk_goes();
}

static void disks_go_that_came_while_it_claims(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_TWIN_CLAIM);
	lab_images_go();
	lab_until(!lab.sec.disks.busy);
	lab_arbiter_answers(0);
	check_disk_goes();
}

static void disks_wait_for_what_comes_after_it_has_claimed(void **state)
{
	static struct lab_write w;

	lab.images_wait = true;
	lab_reach(SEC_TWIN_CLAIM);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_true(lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 0, 0x66);
	lab_settle();
	assert_false(w.done);
	lab_images_go();
	lab_until(w.done);
	lab_until(!lab.ft.images_behind);
	assert_int_equal(lab_image_byte(lab.image, 0), 0x66);
}

/* --- taken over ------------------------------------------------------------------------------- */

/*
 * Whoever syncs a new secondary reads the images: not before they have all. Nor does anybody hear
 * of writes that are in none: should this image fail, the other side's lacks them.
 */
static void images_are_behind_from_the_first_moment_on(void **state)
{
	static struct lab_write w;

	lab_reach(SEC_TWIN);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0x55);
	lab_until(w.done);
	assert_int_not_equal(lab_image_byte(lab.image, 4096), 0x55);
	pri_hang_up();
	lab_until(lab.taken);
	assert_true(lab.behind);
	assert_true(lab.vm.obuf.holding || !lab.ft.images_behind);
	assert_int_equal(lab.leaving, 'h');
	lab_until(!lab.ft.images_behind);
	assert_false(lab.vm.obuf.holding);
	assert_int_equal(lab_image_byte(lab.image, 4096), 0x55);
}

/* Whoever finds an image that was merged in part must know that it is of no moment. */
static void an_image_says_that_it_is_merged(void **state)
{
	static struct lab_write w;
	unsigned before;

	lab_reach(SEC_TWIN);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0x55);
	lab_until(w.done);
	lab_settle();
	lab.marks_wait = true;
	before = lab.marks;
	pri_hang_up();
	lab_until(__atomic_load_n(&lab.marks, __ATOMIC_SEQ_CST) > before && !lab.ft.images_behind);
	assert_string_equal(lab.marking, "1 vm 2 half");
	lab_marks_go();
	lab_until(!strcmp(lab.mark, "1 vm 2 run"));
}

/* --- the mirror ------------------------------------------------------------------------------- */

/* However much of the epoch before is on its way: without that word the primary compares nothing.
 */
static void it_says_that_it_runs(void **state)
{
	static char much[32 << 10];
	struct iovec iov = {much, sizeof(much)};
	struct frame f;

	lab_reach(SEC_TWIN);
	for (unsigned n = 0; n < 1000; n++)
		if (obuf_put(&lab.vm.obuf, fake_vm.sink, &iov, 1))
			break;
	lab_until(mirror_is_full(&lab.sec.twin.mirror));
	pri_commit(3);
	lab_until(lab.sec.fsm.state == SEC_TWIN);
	for (unsigned loaded = 0; loaded < 2;) {
		lab_until(end_take(&lab.mirror, &f) == 1);
		if (f.type != FRAME_LOADED)
			continue;
		assert_int_equal(f.epoch, loaded + 2);
		loaded++;
	}
}

/* Whoever reaches the port does not know the primary's number. */
static void another_session_is_no_mirror(void **state)
{
	lab_reach(SEC_STANDBY);
	end_connect(&lab.mirror);
	end_preface(&lab.mirror, STREAM_MIRROR, lab.session + 1);
	end_send(&lab.mirror, FRAME_MIRROR, 0, NULL, 0);
	lab_until(end_is_dropped(&lab.mirror));
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
	assert_state(STANDBY);
}

#define LAB_NET 4u

/* --- inputs ----------------------------------------------------------------------------------- */

/* Among all devices: the serial port, the disk that is mirrored, a console, random numbers. */
enum { SERIAL_DEVICE, DISK_DEVICE, CONSOLE_DEVICE, RNG_DEVICE, BALLOON_DEVICE, NET_DEVICE };

static void pri_gives(uint64_t epoch, uint32_t device, uint32_t place, const void *p, size_t n)
{
	static struct {
		struct wire_input w;
		uint8_t data[NET_VNET_HDR + NET_FRAME_MAX + 1];
	} in;

	in.w = (struct wire_input){device, place};
	memcpy(in.data, p, n);
	end_send(&lab.mirror, FRAME_INPUT, epoch, &in, sizeof(in.w) + n);
}

static void check_given(unsigned n)
{
	lab_until(lab.sec.twin.given >= n);
	lab_settle();
	assert_int_equal(lab.sec.twin.given, n);
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
}

static void inputs_are_given_in_their_epoch(void **state)
{
	lab_reach(SEC_TWIN);
	pri_gives(3, RNG_DEVICE, 1, "a", 1);
	pri_gives(3, RNG_DEVICE, 2, "b", 1);
	check_given(2);
	/* Ahead of what it is of: those behind it wait, too. */
	pri_gives(4, RNG_DEVICE, 1, "c", 1);
	pri_gives(4, RNG_DEVICE, 2, "d", 1);
	check_given(2);
	assert_false(lab.sec.twin.mirror.reading);
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4);
	check_given(2);
	/* Late. */
	pri_gives(3, RNG_DEVICE, 3, "e", 1);
	pri_gives(4, RNG_DEVICE, 3, "f", 1);
	check_given(3);
}

static void expect_typed(const char *text)
{
	for (;; text++) {
		uint64_t lsr = bus_read(&lab.vm.bus, BUS_PIO, SERIAL_BASE + UART_LSR, 1);

		assert_int_equal(lsr & UART_LSR_DR, *text ? UART_LSR_DR : 0);
		if (!*text)
			break;
		assert_int_equal(bus_read(&lab.vm.bus, BUS_PIO, SERIAL_BASE, 1), *text);
	}
}

/* The checkpoint has it already; what it has not, the guest has that goes on. */
static void what_is_typed_is_typed_there(void **state)
{
	lab_reach(SEC_TWIN);
	pri_gives(3, SERIAL_DEVICE, 1, "typed", 5);
	check_given(1);
	expect_typed("typed");
	pri_gives(3, SERIAL_DEVICE, 2, "before", 6);
	check_given(2);
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	expect_typed("");
	pri_gives(4, SERIAL_DEVICE, 1, "after", 5);
	check_given(1);
	pri_hang_up();
	lab_until(lab.taken);
	expect_typed("after");
}

static void off(void *arg, bool reset)
{
}

/* This machine has none of its own; it goes with the others. */
static uint32_t add_ged(void)
{
	struct vm_devices *ds = &lab.vm.devices;

	assert_int_equal(ged_new(&ds->env, off, NULL, &ds->ged, NULL), 0);
	ds->devs[ds->ndevs] = ds->ged;
	return ds->ndevs++;
}

static void what_the_operator_asks_for_is_asked_there(void **state)
{
	uint32_t ged, pages = 1234;
	struct device *balloon;

	lab_reach(SEC_TWIN);
	ged = add_ged();
	balloon = lab.vm.devices.devs[BALLOON_DEVICE];
	pri_gives(3, BALLOON_DEVICE, 1, &pages, sizeof(pages));
	pri_gives(3, ged, 2, "\1", 1);
	check_given(2);
	assert_int_equal(virtio_balloon_target(balloon), pages);
	assert_int_equal(bus_read(&lab.vm.bus, BUS_PIO, GED_BASE + GED_EVENTS, 1),
			 GED_POWER_BUTTON);
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(virtio_balloon_target(balloon), 0);
	pri_gives(4, ged, 1, "\2", 1);
	lab_until(!mirror_is_up(&lab.sec.twin.mirror));
	assert_int_equal(bus_read(&lab.vm.bus, BUS_PIO, GED_BASE + GED_EVENTS, 1), 0);
}

/* Not more than a device has room for; a checkpoint makes room. */
static void a_device_that_is_full_stops_the_others(void **state)
{
	uint32_t n = 0;

	lab_reach(SEC_TWIN);
	while (lab.sec.twin.mirror.reading) {
		assert_in_range(n, 0, 100);
		pri_gives(3, RNG_DEVICE, ++n, "a", 1);
		check_given(n);
	}
	pri_gives(3, RNG_DEVICE, n + 1, "a", 1);
	lab_settle();
	assert_int_equal(lab.sec.twin.given, n);
	inputs_room(&lab.vm.devices.inputs);
	check_given(n + 1);
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	pri_gives(4, RNG_DEVICE, 1, "b", 1);
	check_given(1);
	assert_true(lab.sec.twin.mirror.reading);
}

/* Room that comes while one waits for its epoch lets nothing past it. */
static void an_early_input_is_not_overtaken(void **state)
{
	lab_reach(SEC_TWIN);
	pri_gives(4, RNG_DEVICE, 1, "a", 1);
	pri_gives(3, RNG_DEVICE, 1, "b", 1);
	lab_until(lab.sec.twin.early.data);
	inputs_room(&lab.vm.devices.inputs);
	lab_settle();
	check_given(0);
}

/* The mirror is over, and nothing else is: not this twin, nor the pair. */
static void expect_mirror_over(const char *why)
{
	lab_until(!mirror_is_up(&lab.sec.twin.mirror));
	assert_int_equal(logged(why), 1);
	assert_state(TWIN);
	assert_true(lab.vm.running);
	assert_word("PROTECTED");
	lab.runs = 0;
	pri_commit(3);
	lab_until(lab.sec.fsm.state == SEC_STANDBY && !lab.vm.running);
	lab_check_vm(3);
}

static void inputs_that_are_none(void **state)
{
	static const uint8_t much[NET_VNET_HDR + NET_FRAME_MAX + 1];
	static const struct {
		uint64_t epoch;
		uint32_t device, place;
		size_t len;
		const char *why;
	} bad[] = {
		{3, RNG_DEVICE, 1, 0, "malformed input"},
		{3, RNG_DEVICE, 1, VIRTIO_RNG_MAX + 1, "input of a device that has none"},
		{3, SERIAL_DEVICE, 1, SERIAL_TYPED_MAX + 1, "input of a device that has none"},
		{3, BALLOON_DEVICE, 1, 3, "input of a device that has none"},
		{3, BALLOON_DEVICE, 1, 5, "input of a device that has none"},
		{3, DISK_DEVICE, 1, 1, "input of a device that has none"},
		{3, VM_MAX_DEVICES, 1, 1, "input of a device that has none"},
		{3, UINT32_MAX, 1, 1, "input of a device that has none"},
		{3, RNG_DEVICE, 2, 1, "an input is missing"},
		{3, RNG_DEVICE, 0, 1, "an input is missing"},
		{4, RNG_DEVICE, 2, 1, "an input is missing"},
		{3, NET_DEVICE, 1, sizeof(much), "input of a device that has none"},
		{6, NET_DEVICE, 1, 60, "expected input of epoch 3, received one of 6"},
		{UINT64_MAX, NET_DEVICE, 1, 60, "expected input of epoch 3, received"},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char why[80];

		lab_reach(SEC_TWIN);
		pri_gives(bad[i].epoch, bad[i].device, bad[i].place, much, bad[i].len);
		snprintf(why, sizeof(why), "mirror: %s", bad[i].why);
		expect_mirror_over(why);
		lab_teardown(state);
		lab_setup(state);
		lab_without_shared();
	}
}

/* Nobody feeds it any more, however it ends. */
static void its_devices_are_its_own_afterwards(void **state)
{
	lab_reach(SEC_TWIN);
	assert_non_null(lab.vm.devices.inputs.room);
	pri_gives(3, RNG_DEVICE, 1, "a", 1);
	check_given(1);
	pri_hang_up();
	lab_until(lab.taken);
	assert_null(lab.vm.devices.inputs.room);
	for (unsigned i = 0; i < 100; i++) /* it takes, and keeps, nothing */
		assert_true(virtio_rng_put(lab.vm.devices.devs[RNG_DEVICE], "a", 1));
}

static int setup(void **state)
{
	int r = lab_setup(state);

	lab_without_shared();
	return r;
}

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, setup, lab_teardown)

/* --- its disk --------------------------------------------------------------------------------- */

static void twin_reads(struct lab_write *w, uint64_t off, uint32_t len)
{
	w->done = false;
	w->req.buf = w->buf = aligned_alloc(4096, 4096);
	w->req.kind = DISK_READ;
	w->req.off = off;
	w->req.len = len;
	disk_submit(&lab.vm.devices.disks[LAB_MIRROR], &w->req);
	lab_until(w->done);
	assert_int_equal(w->res, 0);
}

/* What it reads of that is told: its place and bytes. */
static void it_reads_what_it_wrote(void **state)
{
	static uint8_t sector[512];
	struct lab_write w;
	struct frame f;
	struct {
		struct wire_read w;
		uint64_t key;
	} what;

	lab_reach(SEC_TWIN);
	lab_guest_writes(&w, LAB_MIRROR, 4096 + 512, 0x77);
	lab_until(w.done);
	twin_reads(&w, 0, 1024);
	twin_reads(&w, 4096, 4096);
	do
		lab_until(end_take(&lab.mirror, &f) == 1);
	while (f.type == FRAME_LOADED);
	assert_int_equal(f.type, FRAME_READ);
	assert_int_equal(f.epoch, lab.sec.twin.epoch);
	assert_int_equal(f.length, sizeof(what));
	memcpy(&what, f.data, sizeof(what));
	assert_int_equal(what.w.writes, 1);
	memset(sector, 0x77, sizeof(sector));
	assert_int_equal(what.key, written_key(LAB_MIRROR, 4096 + 512, sector));
	mirror_stop(&lab.sec.twin.mirror);
	twin_reads(&w, 4096, 4096); /* nobody is there to be told */
}

static void on_read(struct disk_req *r, int res)
{
	struct lab_write *w = r->arg;

	w->done = true;
	w->res = res;
}

/* A checkpoint takes it back, wherever it reads: a medium that stalls has no more and more of it.
 */
static void what_it_asked_for_is_void(void **state)
{
	static uint8_t buf[2][4096] __attribute__((aligned(4096)));
	static const unsigned dev[] = {LAB_MIRROR, LAB_SHARED};
	struct lab_write w[2];

	lab_reach(SEC_TWIN);
	assert_true(lab.machine.devs[LAB_SHARED].readonly);
	lab_settle();
	for (unsigned i = 0; i < 2; i++) {
		struct disk *d = &lab.vm.devices.disks[dev[i]];

		w[i] = (struct lab_write){.req = {.kind = DISK_READ,
						  .len = 512,
						  .buf = buf[i],
						  .done = on_read,
						  .arg = &w[i]}};
		disk_hold(d, true);
		disk_submit(d, &w[i].req);
	}
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	for (unsigned i = 0; i < 2; i++) {
		lab_until(w[i].done);
		assert_int_equal(w[i].res, -ECANCELED);
	}
}

/* --- it alone ends ---------------------------------------------------------------------------- */

static void ends(enum vm_end end)
{
	lab.vm.ending.end = (uint8_t)end;
	if (lab.vm.watch.on_end)
		lab.vm.watch.on_end(lab.vm.watch.arg);
}

static void expect_apart(enum wire_apart_why why)
{
	struct wire_apart w;
	struct frame f;

	do
		lab_until(end_take(&lab.mirror, &f) == 1);
	while (f.type == FRAME_LOADED);
	assert_int_equal(f.type, FRAME_APART);
	assert_int_equal(f.epoch, lab.sec.twin.epoch);
	assert_int_equal(f.length, sizeof(w));
	memcpy(&w, f.data, sizeof(w));
	assert_int_equal(w.why, why);
}

/* The next checkpoint has one that runs, whatever became of this. */
static void one_that_crashes_asks_for_a_checkpoint(void **state)
{
	lab_reach(SEC_TWIN);
	ends(VM_END_CRASH);
	expect_apart(APART_ENDED);
	ends(VM_END_CRASH); /* once is enough */
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(lab.vm.ending.end, VM_END_NONE);
	assert_true(lab.vm.running);
	assert_int_equal(lab.exits, 0);
	assert_int_equal(logged("info: twin: it has ended: crash; a checkpoint is asked for"), 1);
	ends(VM_END_CRASH);
	expect_apart(APART_ENDED);
}

/* No state is to be had from such a one, and none is needed. */
static void its_host_fails(void **state)
{
	lab_reach(SEC_TWIN);
	ends(VM_END_HOST);
	expect_apart(APART_HOST);
	fake_vm.pause_error = -EIO;
	lab.vm.run.nparked = lab.vm.machine.vcpus;
	pri_begin(3);
	lab_until(lab.sec.fsm.state == SEC_TWIN_STAGES);
	assert_false(lab.vm.running);
	fake_vm.pause_error = 0;
	pri_hang_up();
	lab_until(lab.exits);
	assert_int_equal(lab.exit_code, 2); /* what has left is known to nobody now */
	assert_int_equal(lab.taken, 0);
}

static void its_host_fails_and_the_primary_lives(void **state)
{
	lab_reach(SEC_TWIN);
	ends(VM_END_HOST);
	fake_vm.pause_error = -EIO;
	lab.vm.run.nparked = lab.vm.machine.vcpus;
	pri_commit(3);
	fake_vm.pause_error = 0;
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(lab.vm.ending.end, VM_END_NONE);
	assert_true(lab.vm.running);
	assert_int_equal(lab.exits, 0);
	assert_word("PROTECTED");
	pri_hang_up(); /* and is one that can take over */
	lab_until(lab.taken);
	assert_int_equal(lab.exits, 0);
}

static void had_ended(void)
{
	lab.vm.ending.end = VM_END_RESET; /* as in the checkpoint */
}

/* The primary does what is to be done about it, and sends that. */
static void one_that_had_ended_asks_for_nothing(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	lab.runs = 1;
	fake_vm.while_loading = had_ended;
	pri_commit(2);
	lab_until(lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(lab.vm.ending.end, VM_END_RESET);
	ends(VM_END_RESET);
	end_expect_no(&lab.mirror, FRAME_APART);
}

/* --- a primary that lies on it ---------------------------------------------------------------- */

static void pri_frame(uint64_t epoch, uint32_t place, size_t len)
{
	static const uint8_t frame[NET_VNET_HDR + NET_FRAME_MAX];

	pri_gives(epoch, NET_DEVICE, place, frame, len);
}

/* An epoch is acknowledged and not committed, one is in flight: so far ahead it may be. */
static void one_of_a_later_epoch_waits(void **state)
{
	lab_reach(SEC_TWIN);
	pri_frame(lab.sec.twin.epoch + 2, 1, 60);
	lab_until(lab.sec.twin.early.data);
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_non_null(lab.sec.twin.early.data); /* nor this one's */
	pri_frame(5, 2, 60);
	lab_settle();
	pri_commit(4);
	lab_until(lab.sec.twin.epoch == 5 && lab.sec.twin.given == 2);
	assert_null(lab.sec.twin.early.data);
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
	assert_true(lab.sec.twin.mirror.reading);
}

/* Nor is it one of an epoch that cannot be yet, when the mirror has just come. */
static void nor_is_the_first_too_early(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	pri_frame(lab.sec.stage.committed + 3, 1, 60);
	lab_until(lab.sec.twin.early.data);
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
}

/* The primary has given the twin up: what came for it does not keep what comes for the next. */
static void inputs_of_no_twin_are_void(void **state)
{
	lab_reach(SEC_TWIN);
	lab.runs = 0;
	for (unsigned i = 0; i < 40; i++)
		pri_frame(lab.sec.twin.epoch, i + 1, NET_VNET_HDR + NET_FRAME_MAX);
	lab_until(lab.sec.twin.nets[LAB_NET].full);
	assert_false(lab.sec.twin.mirror.reading);
	pri_commit(3);
	lab_until(lab.sec.fsm.state == SEC_STANDBY && !lab.vm.running);
	lab_settle();
	assert_true(lab.sec.twin.mirror.reading);
	assert_null(lab.sec.twin.early.data);
	lab.runs = 1;
	pri_commit(4);
	lab_until(lab.sec.twin.epoch == 5 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(lab.sec.twin.nets[LAB_NET].bytes, 0);
	pri_frame(5, 1, 60);
	lab_until(lab.sec.twin.nets[LAB_NET].bytes);
}

static void a_frame_that_is_cut(void **state)
{
	static const uint8_t part[20] = {1};

	lab_reach(SEC_TWIN);
	assert_int_equal(send(lab.mirror.in.fd, part, sizeof(part), MSG_NOSIGNAL), sizeof(part));
	end_close(&lab.mirror);
	lab_until(!mirror_is_up(&lab.sec.twin.mirror));
	assert_state(TWIN);
	assert_word("PROTECTED");
	lab.runs = 0;
	pri_commit(3);
	lab_until(lab.sec.fsm.state == SEC_STANDBY);
}

/* --- what is different ------------------------------------------------------------------------ */

static uint64_t differed(const char *field)
{
	const struct sources *s = &lab.sec.twin.sources;

	for (unsigned i = 0; i < s->n; i++)
		if (!strcmp(s->fields[i].name, field))
			return s->fields[i].count;
	return 0;
}

/* The guest's, by a register. */
static void scratch_is(uint8_t value)
{
	bus_write(&lab.vm.bus, BUS_PIO, 0x3f8 + 7, 1, value);
}

static void fields_that_differ_are_counted(void **state)
{
	const struct sources *s = &lab.sec.twin.sources;

	lab_reach(SEC_TWIN);
	scratch_is(0x55);
	pri_commit(3); /* when it was time */
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(s->looks, 0);
	lab.apart = 1;
	for (unsigned i = 1; i < 4; i++) {
		scratch_is(0x55);
		pri_commit(3 + i);
		lab_until(lab.sec.twin.epoch == 4 + i && lab.sec.fsm.state == SEC_TWIN);
		assert_int_equal(s->looks, i < 3 ? 1 : 2); /* once a second */
		assert_int_equal(differed("serial[0].scr"), s->looks);
		if (i == 2)
			lab_pass(S);
	}
	assert_int_equal(s->n, 1);
	pri_commit(7);
	lab_until(lab.sec.twin.epoch == 8 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(differed("serial[0].scr"), 2);
	lab_check_vm(7);
}

/* There is nothing to compare. */
static void one_that_has_no_state(void **state)
{
	lab_reach(SEC_TWIN);
	lab.apart = 1;
	ends(VM_END_HOST);
	fake_vm.pause_error = -EIO;
	lab.vm.run.nparked = lab.vm.machine.vcpus;
	pri_commit(3);
	fake_vm.pause_error = 0;
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(lab.sec.twin.sources.looks, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(without_a_twin_it_is_as_without_the_mode),
		LAB_TEST(it_is_not_tried_again_with_this_primary),
		LAB_TEST(disks_do_not_wait_for_what_has_come),
		LAB_TEST(disks_go_that_came_while_it_claims),
		LAB_TEST(disks_wait_for_what_comes_after_it_has_claimed),
		LAB_TEST(images_are_behind_from_the_first_moment_on),
		LAB_TEST(an_image_says_that_it_is_merged),
		LAB_TEST(it_says_that_it_runs),
		LAB_TEST(another_session_is_no_mirror),
		LAB_TEST(inputs_are_given_in_their_epoch),
		LAB_TEST(what_is_typed_is_typed_there),
		LAB_TEST(what_the_operator_asks_for_is_asked_there),
		LAB_TEST(a_device_that_is_full_stops_the_others),
		LAB_TEST(an_early_input_is_not_overtaken),
		LAB_TEST(inputs_that_are_none),
		LAB_TEST(its_devices_are_its_own_afterwards),
		LAB_TEST(it_reads_what_it_wrote),
		LAB_TEST(what_it_asked_for_is_void),
		LAB_TEST(one_that_crashes_asks_for_a_checkpoint),
		LAB_TEST(its_host_fails),
		LAB_TEST(its_host_fails_and_the_primary_lives),
		LAB_TEST(one_that_had_ended_asks_for_nothing),
		LAB_TEST(one_of_a_later_epoch_waits),
		LAB_TEST(nor_is_the_first_too_early),
		LAB_TEST(inputs_of_no_twin_are_void),
		LAB_TEST(a_frame_that_is_cut),
		LAB_TEST(fields_that_differ_are_counted),
		LAB_TEST(one_that_has_no_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
