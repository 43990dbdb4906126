/* A twin that does not keep up, or is none any more, and a peer that lies about it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libtwin.h"

/* --- a twin that does not keep up ------------------------------------------------------------- */

#define LOAD_NS	  (500 * MS)
#define KEMARI_NS (5 * S)

static void meet_in_time(struct rig *r)
{
	meet(r);
	r->pri.mirroring.lockstep.bounds.load_ns = LOAD_NS;
}

static bool goes_on_alone(struct rig *r)
{
	return lockstep_wants(&r->pri.mirroring.lockstep) && !mirroring_may_run(&r->pri.mirroring);
}

/* Its link is well: it acknowledges. What waits leaves with the next epoch, and soon. */
static void one_that_never_loads_is_not_waited_for(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet_in_time(r);
	n = seal(r);
	time_pass(&r->loop, LOAD_NS); /* for the ack is another wait */
	assert_false(lockstep_wants(&r->pri.mirroring.lockstep));
	prints(r, 3);
	rig_cause(r, PRI_EV_ACK);
	time_pass(&r->loop, LOAD_NS - MS);
	assert_true(lockstep_compares(&r->pri.mirroring.lockstep));
	time_pass(&r->loop, MS);
	rig_until(r, PRI_FLIGHT);
	loop_until(&r->loop, (peer_reads(r), r->ended == n + 1));
	assert_int_equal(r->end.runs, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 3);
	assert_int_equal(r->pri.mirroring.lockstep.stats.not_loaded, 1);
	assert_int_equal(logged("as with kemari for 5 s"), 1);
	assert_int_equal(logged("received nothing in 500 ms"), 1);
	assert_true(lockstep_is_up(&r->pri.mirroring.lockstep));
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0); /* too late, and no lie */
	settle(r);
	assert_true(lockstep_is_up(&r->pri.mirroring.lockstep));
	time_jump(KEMARI_NS);
	seal(r); /* with a twin */
}

/* However often a checkpoint comes before the bound: here each 200 ms. */
static void nor_one_that_is_late_each_time(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet_in_time(r);
	primary_set_epoch(&r->pri, 5 * MS);
	n = seal(r);
	rig_cause(r, PRI_EV_ACK);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(seal(r), n + i);
		peer_mirrors(r, FRAME_LOADED, n + i - 1, NULL, 0);
		rig_cause(r, PRI_EV_ACK);
		settle(r);
		assert_true(lockstep_compares(&r->pri.mirroring.lockstep));
	}
	time_pass(&r->loop, LOAD_NS - 2 * 200 * MS);
	assert_int_equal(r->pri.mirroring.lockstep.stats.not_loaded, 1);
	assert_int_equal(r->pri.mirroring.lockstep.loaded, n + 1);
	assert_true(r->pri.mirroring.kemari_until > loop_now_ns());
}

static void one_that_has_loaded_is_not_late(void **state)
{
	struct rig *r = *state;

	meet_in_time(r);
	next(r);
	assert_int_equal(time_left(&r->pri.mirroring.lockstep.load_op), -1);
	next(r);
	time_pass(&r->loop, LOAD_NS - MS);
	assert_int_equal(r->pri.mirroring.lockstep.stats.not_loaded, 0);
	assert_int_equal(r->pri.mirroring.lockstep.state, LOCKSTEP_RUNS);
}

static const struct device *went_on;

void __wrap_virtio_vsock_go_on(struct device *d);

void __wrap_virtio_vsock_go_on(struct device *d)
{
	went_on = d;
}

/* Clients of the guest's sockets wait with the others. */
static const struct device *add_vsock(struct rig *r)
{
	static struct device d;

	r->vm.devices.mdevs[r->vm.machine.ndevs] = &d;
	r->vm.machine.devs[r->vm.machine.ndevs++].kind = MDEV_VSOCK;
	return &d;
}

/* Nothing of it is read: what the guest is given waits for room, and then no more. */
static void one_that_takes_no_input_is_not_waited_for(void **state)
{
	const struct device *vsock;
	static uint8_t frame[NET_VNET_HDR + NET_FRAME_MAX];
	struct rig *r = *state;
	struct netdev *nd = &r->vm.devices.nets[RIG_NET];
	struct lockstep *l;

	twin_run(r);
	l = &r->pri.mirroring.lockstep;
	while (nd->tee.ready(nd->tee.arg))
		netdev_given(nd, frame, sizeof(frame));
	assert_true(l->mirror.bytes >= MIRROR_LIMIT);
	assert_int_equal(time_left(&l->input_op), l->bounds.input_ns);
	time_pass(&r->loop, l->bounds.input_ns - 1);
	assert_false(nd->tee.ready(nd->tee.arg));
	vsock = add_vsock(r);
	time_pass(&r->loop, 1);
	r->vm.machine.ndevs--;
	assert_ptr_equal(went_on, vsock);
	assert_true(nd->tee.ready(nd->tee.arg));
	assert_true(goes_on_alone(r) || r->pri.fsm.state == PRI_FLIGHT);
	assert_int_equal(l->stats.not_taken, 1);
	assert_int_equal(logged("it takes no input"), 1);
	assert_int_equal(r->pri.link->heart.running, 1);
}

/* --- a twin that is none any more ------------------------------------------------------------- */

static void twin_is_apart(struct rig *r, uint64_t epoch, uint32_t why, size_t len)
{
	const struct wire_apart w = {.why = why};

	peer_mirrors(r, FRAME_APART, epoch, &w, len);
}

static void its_end_takes_a_checkpoint(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run(r);

	for (uint32_t why = 0; why < APART_WHYS; why++, n++) {
		twin_is_apart(r, n - 1, why, sizeof(struct wire_apart)); /* is over */
		settle(r);
		assert_true(lockstep_compares(l));
		prints(r, 3);
		twin_is_apart(r, n, why, sizeof(struct wire_apart));
		rig_until(r, PRI_FLIGHT); /* long before its time */
		loop_until(&r->loop, (peer_reads(r), r->ended == n));
		assert_int_equal(r->end.runs, 1); /* with a twin again */
		rig_cause(r, PRI_EV_ACK);
		assert_int_equal(fake_vm.printed, 3 * (why + 1));
		assert_int_equal(l->stats.apart[why], 1);
		/* The first of these is that which it began with. */
		assert_int_equal(r->ft.stats.seals[FT_SEAL_TWIN], why + 2);
		peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
		settle(r);
		assert_int_equal(l->state, LOCKSTEP_RUNS);
	}
}

#define SHORT 10u

static void differs(struct rig *r, uint64_t *n)
{
	twin_is_apart(r, *n, 0, sizeof(struct wire_apart));
	rig_until(r, PRI_FLIGHT);
	loop_until(&r->loop, (peer_reads(r), r->ended == *n));
	rig_cause(r, PRI_EV_ACK);
	if (r->end.runs)
		peer_mirrors(r, FRAME_LOADED, *n, NULL, 0);
	settle(r);
	++*n;
}

/* A guest that is better off without a twin, for a while. */
static void one_that_always_differs_is_not_waited_for(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r), quarter = r->pri.epoch_ns * POLICY_COLO / 4;

	for (unsigned i = 1; i < SHORT; i++)
		differs(r, &n);
	time_pass(&r->loop, quarter + 1); /* not this time */
	differs(r, &n);
	for (unsigned i = 1; i < SHORT; i++) {
		time_pass(&r->loop, quarter / 2);
		differs(r, &n);
		assert_int_equal(r->end.runs, 1);
	}
	assert_int_equal(logged("as with kemari for 5 s"), 0);
	differs(r, &n);
	assert_int_equal(r->end.runs, 0);
	assert_int_equal(logged("outputs keep differing"), 1);
	assert_int_equal(logged("as with kemari for 5 s"), 1);
	assert_false(mirroring_may_run(&r->pri.mirroring));
	time_jump(KEMARI_NS);
	seal(r); /* with a twin */
}

static void a_word_that_is_malformed(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run(r);

	for (unsigned i = 0; i < 2; i++) {
		twin_is_apart(r, n + i, i ? APART_WHYS : 0, sizeof(struct wire_apart) - !i);
		loop_until(&r->loop, lockstep_wants(l));
		assert_string_equal(l->why, "the twin's word is malformed");
		rig_until(r, PRI_FLIGHT);
		loop_until(&r->loop, (peer_reads(r), r->ended == n + i));
		rig_cause(r, PRI_EV_ACK);
		peer_mirrors(r, FRAME_LOADED, n + i, NULL, 0);
		settle(r);
	}
	for (uint32_t why = 0; why < APART_WHYS; why++)
		assert_int_equal(l->stats.apart[why], 0);
}

/* --- a twin that is not there, or not wanted -------------------------------------------------- */

#define AGAIN_NS (500 * MS)

/* It is there in the end, but nobody waits for it any more. */
static void a_way_that_takes_too_long_is_given_up(void **state)
{
	struct rig *r = *state;
	struct mirroring *m = &r->pri.mirroring;

	rig_reach(r, PRI_STEADY);
	rig_set_mode(r, FT_MODE_COLO);
	assert_int_equal(m->state, MIRRORING_DIAL);
	assert_true(m->dial.fd >= 0);
	time_fire(&m->timer_op);
	assert_int_equal(logged("warning: twin: no answer in time"), 1);
	assert_int_equal(m->dial.fd, -1);
	settle(r);
	assert_int_equal(m->state, MIRRORING_REST);
	assert_int_equal(time_left(&m->timer_op), AGAIN_NS);
	time_fire(&m->timer_op);
	loop_until(&r->loop, lockstep_is_up(&m->lockstep));
	assert_int_equal(time_left(&m->timer_op), -1);
	peer_takes_mirror(r, 0);
}

static void expect_none(struct rig *r)
{
	const struct mirroring *m = &r->pri.mirroring;

	rig_set_mode(r, FT_MODE_MC);
	assert_int_equal(m->state, MIRRORING_OFF);
	assert_int_equal(time_left(&m->timer_op), -1);
	assert_int_equal(m->dial.fd, -1);
	assert_null(m->dial.chan.ops);
	assert_false(lockstep_is_up(&m->lockstep));
	settle(r);
	assert_int_equal(m->state, MIRRORING_OFF);
}

/* Whatever has come of it by then. */
static void the_mode_is_one_without_a_twin(void **state)
{
	struct rig *r = *state;
	struct mirroring *m = &r->pri.mirroring;

	rig_reach(r, PRI_STEADY);
	rig_set_mode(r, FT_MODE_COLO);
	assert_int_equal(m->state, MIRRORING_DIAL);
	expect_none(r);
	rig_set_mode(r, FT_MODE_COLO);
	time_fire(&m->timer_op);
	assert_int_equal(m->state, MIRRORING_REST);
	expect_none(r);
	rig_set_mode(r, FT_MODE_COLO);
	loop_until(&r->loop, m->state == MIRRORING_UP);
	peer_takes_mirror(r, 0);
	expect_none(r);
}

/* What it would have compared waits for an epoch, from which no twin runs. */
static void the_mode_ends_a_twin_that_runs(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r);
	struct frame f;

	prints(r, 3);
	expect_none(r);
	assert_null(r->vm.devices.inputs.given);
	loop_until(&r->loop, stream_recv(&r->mirror, &f) < 0);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_TIMER);
	loop_until(&r->loop, (peer_reads(r), r->ended == n));
	assert_int_equal(r->end.runs, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 3);
}

/* --- disks ------------------------------------------------------------------------------------ */

#define OVERDUE_NS (20 * MS)

static void write_done(struct disk_req *q, int res)
{
	*(bool *)q->arg = true;
}

static uint8_t sectors[4096] __attribute__((aligned(4096)));

/* The guest here: so many sectors from the start of its disk. */
static void writes(struct rig *r, uint32_t n)
{
	bool done = false;
	struct disk_req q = {.kind = DISK_WRITE,
			     .len = n * WRITTEN_SECTOR,
			     .buf = sectors,
			     .done = write_done,
			     .arg = &done};

	disk_submit(&r->vm.devices.disks[0], &q);
	loop_until(&r->loop, done);
}

static void twin_read_it(struct rig *r, uint64_t epoch, uint32_t n)
{
	struct {
		struct wire_read w;
		uint64_t keys[sizeof(sectors) / WRITTEN_SECTOR];
	} what = {.w.writes = 1};

	for (uint32_t i = 0; i < n; i++)
		what.keys[i] = written_key(0, i * WRITTEN_SECTOR, sectors + i * WRITTEN_SECTOR);
	peer_mirrors(r, FRAME_READ, epoch, &what, sizeof(what.w) + n * sizeof(*what.keys));
	settle(r);
}

static uint64_t twin_run_with_disk(struct rig *r)
{
	uint64_t n = twin_run(r);

	for (uint32_t i = 0; i < sizeof(sectors); i++)
		sectors[i] = (uint8_t)(i / WRITTEN_SECTOR + 1);
	r->pri.mirroring.lockstep.bounds.overdue_ns = OVERDUE_NS;
	return n;
}

static void what_both_wrote_is_no_difference(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run_with_disk(r);

	writes(r, 2);
	twin_read_it(r, n, 2);
	assert_int_equal(time_left(&l->read_op), -1);
	twin_read_it(r, n, 3); /* the guest here is behind */
	assert_int_equal(time_left(&l->read_op), OVERDUE_NS);
	time_pass(&r->loop, 2 * OVERDUE_NS - 1); /* two looks */
	writes(r, 3);
	time_pass(&r->loop, OVERDUE_NS);
	assert_true(lockstep_compares(l));
	assert_int_equal(l->stats.reads, 0);
	n = next(r);
	twin_read_it(r, n, 3); /* was under way at the seal */
	time_pass(&r->loop, 2 * OVERDUE_NS);
	assert_int_equal(l->stats.reads, 0);
}

static void what_the_twin_alone_wrote(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run_with_disk(r);

	writes(r, 2);
	sectors[WRITTEN_SECTOR]++; /* other bytes */
	twin_read_it(r, n - 1, 2); /* of an epoch that is over */
	time_pass(&r->loop, 2 * OVERDUE_NS);
	assert_true(lockstep_compares(l));
	twin_read_it(r, n, 2);
	time_pass(&r->loop, 2 * OVERDUE_NS - 1);
	assert_true(lockstep_compares(l));
	time_pass(&r->loop, 1);
	rig_until(r, PRI_FLIGHT);
	assert_int_equal(l->stats.reads, 1);
	loop_until(&r->loop, (peer_reads(r), r->ended == n));
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	settle(r);
	time_pass(&r->loop, 4 * OVERDUE_NS); /* with that it is over */
	assert_int_equal(l->stats.reads, 1);
	assert_int_equal(l->state, LOCKSTEP_RUNS);
}

/* Else the guest's writes would wait for the next one's time, 40 epochs. */
static void a_full_disk_log_takes_a_checkpoint(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n;

	r->cfg.disklog_bytes = sizeof(sectors);
	n = twin_run_with_disk(r);
	writes(r, 8);
	rig_until(r, PRI_FLIGHT);
	assert_int_equal(l->stats.log_full, 1);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_LOG], 1);
	loop_until(&r->loop, (peer_reads(r), r->ended == n));
	assert_int_equal(r->end.disk_ops, 1);
}

/* A guest whose writes wait has not said that it writes no more. */
static void nobody_is_judged_by_a_full_log(void **state)
{
	struct rig *r = *state;
	struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run_with_disk(r);

	r->pri.engine.disklog.full = true;
	twin_read_it(r, n, 2);
	time_pass(&r->loop, 4 * OVERDUE_NS);
	assert_int_equal(l->stats.reads, 0);
	r->pri.engine.disklog.full = false;
	time_pass(&r->loop, 2 * OVERDUE_NS);
	assert_int_equal(l->stats.reads, 1);
}

/* It may be far ahead, and what it says has a bound. */
static void more_than_is_waited_for(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n = twin_run_with_disk(r);

	for (unsigned i = 0; i < WRITTEN_WAITS / 8 + 5; i++)
		twin_read_it(r, n, 8);
	assert_int_equal(l->written.nwaits, WRITTEN_WAITS);
	assert_int_equal(l->stats.reads, 0);
	writes(r, 8);
	time_pass(&r->loop, OVERDUE_NS);
	assert_int_equal(l->written.nwaits, 0);
	assert_int_equal(l->stats.reads, 0);
}

static void reads_that_are_malformed(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r), what[3] = {0};

	peer_mirrors(r, FRAME_READ, n, what, sizeof(what) - 1);
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(r->pri.mirroring.lockstep.stats.reads, 0);
}

/* --- a peer that lies on it ------------------------------------------------------------------- */

static void expect_refused(struct rig *r, const char *why)
{
	loop_until(&r->loop, !lockstep_is_up(&r->pri.mirroring.lockstep));
	assert_int_equal(logged(why), 1);
	assert_int_equal(r->pri.fsm.state == PRI_STEADY || r->pri.fsm.state == PRI_FLIGHT, 1);
	assert_int_equal(fake_vm.printed, 0);
}

static void a_word_ahead_of_its_time(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r);

	prints(r, 3);
	twin_prints(r, n + 1, 3);
	expect_refused(r, "received one of");
}

static void a_load_of_what_was_not_sent(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r);

	prints(r, 3);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	expect_refused(r, "expected loaded");
}

static void a_load_that_is_said_twice(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r);

	prints(r, 3);
	peer_mirrors(r, FRAME_LOADED, n - 1, NULL, 0);
	expect_refused(r, "once, received loaded");
}

static void a_frame_of_another_connection(void **state)
{
	struct rig *r = *state;
	uint64_t n = twin_run(r);

	prints(r, 3);
	peer_mirrors(r, FRAME_ACK, n, NULL, 0);
	expect_refused(r, "expected output, loaded, mapped, apart or read, received ack");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(one_that_never_loads_is_not_waited_for),
		RIG_TEST(nor_one_that_is_late_each_time),
		RIG_TEST(one_that_has_loaded_is_not_late),
		RIG_TEST(one_that_takes_no_input_is_not_waited_for),
		RIG_TEST(its_end_takes_a_checkpoint),
		RIG_TEST(one_that_always_differs_is_not_waited_for),
		RIG_TEST(a_word_that_is_malformed),
		RIG_TEST(a_way_that_takes_too_long_is_given_up),
		RIG_TEST(the_mode_is_one_without_a_twin),
		RIG_TEST(the_mode_ends_a_twin_that_runs),
		RIG_TEST(what_both_wrote_is_no_difference),
		RIG_TEST(what_the_twin_alone_wrote),
		RIG_TEST(a_full_disk_log_takes_a_checkpoint),
		RIG_TEST(nobody_is_judged_by_a_full_log),
		RIG_TEST(more_than_is_waited_for),
		RIG_TEST(reads_that_are_malformed),
		RIG_TEST(a_word_ahead_of_its_time),
		RIG_TEST(a_load_of_what_was_not_sent),
		RIG_TEST(a_load_that_is_said_twice),
		RIG_TEST(a_frame_of_another_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
