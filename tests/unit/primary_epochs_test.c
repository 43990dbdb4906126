/* Epochs of a primary: what leaves when, when one is sealed, and what belongs to it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libsteps.h"
#include "tests/unit/libtime.h"
#include "vmm/base/hash.h"

/* The peer has all of the epoch in flight. */
static void arrive(struct rig *r)
{
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
}

static void one_epoch(struct rig *r)
{
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_ACK);
}

/* --- the output rule -------------------------------------------------------------------------- */

static void output_leaves_with_its_ack(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_TIMER);
	assert_true(rig_print(r, 10)); /* of the next one */
	arrive(r);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 1);
	assert_true(rig_print(r, 100));
	rig_cause(r, PRI_EV_TIMER);
	assert_true(rig_print(r, 1000));
	assert_int_equal(fake_vm.printed, 1);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 111);
	one_epoch(r);
	assert_int_equal(fake_vm.printed, 1111);
}

static void output_is_held_from_the_first_seal_on(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SYNCING);
	assert_true(rig_print(r, 5));
	assert_int_equal(fake_vm.printed, 5);
	rig_cause(r, PRI_EV_SYNCED);
	assert_true(rig_print(r, 7));
	assert_int_equal(fake_vm.printed, 5);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 5); /* of the second epoch */
	one_epoch(r);
	assert_int_equal(fake_vm.printed, 12);
}

/* The first epoch may be acknowledged there, and its ack lost: the arbiter is asked. */
static void a_loss_after_the_first_seal(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SYNCING);
	rig_cause(r, PRI_EV_SYNCED);
	assert_true(rig_print(r, 7));
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_CLAIM, "SYNCING", false, 'h');
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 7);
}

/* --- when ------------------------------------------------------------------------------------- */

static void the_next_seal_is_due_from_the_last(void **state)
{
	static const struct {
		uint64_t after, left;
	} list[] = {{0, EPOCH_NS},     {10 * MS, EPOCH_NS - 10 * MS},
		    {EPOCH_NS - 1, 1}, {EPOCH_NS, 0},
		    {EPOCH_NS + 1, 0}, {3 * EPOCH_NS, 0}};
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		rig_cause(r, PRI_EV_TIMER);
		arrive(r);
		time_jump(list[i].after);
		rig_cause(r, PRI_EV_ACK);
		assert_int_equal(time_left(&r->pri.timer_op), list[i].left);
	}
}

static void another_interval_counts_from_the_next_ack_on(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_FLIGHT);
	primary_set_epoch(&r->pri, 100 * MS);
	assert_int_equal(time_left(&r->pri.timer_op), 30 * S);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(time_left(&r->pri.timer_op), 100 * MS);
}

static struct policy_due in_7_ms(const struct policy_view *v)
{
	assert_int_equal(v->epoch_ns, EPOCH_NS);
	assert_int_equal(v->since_seal_ns, 3 * MS);
	return (struct policy_due){7 * MS, FT_SEAL_CONSOLE};
}

static struct policy_due in_8_ms(const struct policy_view *v)
{
	return (struct policy_due){8 * MS, FT_SEAL_INTERVAL};
}

static struct policy_due as_before(const struct policy_view *v)
{
	return (struct policy_due){POLICY_AS_BEFORE, FT_SEAL_NONE};
}

/* The first output of an epoch asks for a seal, if the policy likes. */
static void a_policy_that_looks_at_output(void **state)
{
	static const struct ft_policy policy = {
		.acked = in_8_ms, .output_held = in_7_ms, .resumed = as_before};
	struct rig *r = *state;
	uint64_t steps;

	rig_reach(r, PRI_FLIGHT);
	r->pri.policy = &policy;
	time_jump(3 * MS);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(time_left(&r->pri.timer_op), 8 * MS);
	rig_cause(r, PRI_EV_OUTPUT);
	assert_int_equal(time_left(&r->pri.timer_op), 7 * MS);
	time_jump(1 * MS);
	steps = r->pri.fsm.steps;
	assert_true(rig_print(r, 1)); /* not the first any more */
	assert_int_equal(r->pri.fsm.steps, steps);
	assert_int_equal(time_left(&r->pri.timer_op), 6 * MS);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	assert_int_equal(time_left(&r->pri.timer_op), 6 * MS);
	rig_cause(r, PRI_EV_TIMER);
	steps = r->pri.fsm.steps;
	assert_true(rig_print(r, 1)); /* in flight it is the next ack's business */
	assert_int_equal(r->pri.fsm.steps, steps);
}

/* --- what belongs to one ---------------------------------------------------------------------- */

static void epoch_numbers_never_repeat(void **state)
{
	struct rig *r = *state;
	uint64_t last = 0;

	rig_reach(r, PRI_IDLE);
	for (unsigned link = 0; link < 3; link++) {
		r->came[FRAME_EPOCH_END] = 0;
		rig_sync_again(r);
		for (unsigned i = 0; i < 3; i++) {
			arrive(r);
			assert_int_equal(r->came[FRAME_EPOCH_END], i + 1);
			assert_true(r->ended > last);
			last = r->ended;
			rig_cause(r, PRI_EV_ACK);
			rig_cause(r, PRI_EV_TIMER);
		}
		last = r->pri.engine.in_flight; /* that one is never acknowledged */
		rig_cause(r, PRI_EV_LOST);
		rig_cause(r, PRI_EV_WON);
	}
}

/* What the peer acknowledges is of its own link. */
static void acks_of_another_link(void **state)
{
	struct rig *r = *state;
	uint64_t old;

	rig_reach(r, PRI_FLIGHT);
	arrive(r);
	old = r->ended;
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_WON);
	rig_sync_again(r);
	arrive(r);
	peer_says(r, FRAME_ACK, old);
	rig_until(r, PRI_CLAIM);
	assert_string_equal(r->pri.link->why, "message out of order");
}

static void a_user_s_pause_travels(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_int_equal(r->end.paused, 0);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	one_epoch(r);
	assert_int_equal(r->end.paused, 1);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	one_epoch(r);
	assert_int_equal(r->end.paused, 0);
	/* For the end of the VM it is no pause. */
	rig_cause(r, PRI_EV_STOP);
	arrive(r);
	assert_int_equal(r->end.paused, 0);
}

static void hashes_for_verify(void **state)
{
	struct rig *r = *state;

	struct mem_places places;

	r->cfg.verify = true;
	rig_reach(r, PRI_FLIGHT);
	arrive(r);
	assert_int_equal(r->end.ram_hash, mem_hash_places(&r->vm.mem, &places));
	assert_memory_equal(&r->places, &places, sizeof(places));
	assert_int_not_equal(places.sum[0], 0);
	assert_int_equal(r->end.state_hash, r->state_hash);
	assert_int_not_equal(r->state_hash, 0);
}

static void no_hashes_without(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_FLIGHT);
	arrive(r);
	assert_int_equal(r->end.ram_hash, 0);
	assert_int_equal(r->end.state_hash, 0);
	assert_int_not_equal(r->state_hash, 0);
}

static void written(struct disk_req *q, int res)
{
	assert_int_equal(res, 0);
	*(bool *)q->arg = true;
}

/* The guest writes, and then once more: that is more than the log takes. */
struct two_writes {
	struct disk_req q[2];
	bool done[2];
};

static void write_twice(struct rig *r, struct two_writes *w)
{
	static uint8_t buf[8192] __attribute__((aligned(4096)));

	r->cfg.disklog_bytes = 4096;
	rig_reach(r, PRI_STEADY);
	for (unsigned i = 0; i < 2; i++) {
		w->done[i] = false;
		w->q[i] = (struct disk_req){.kind = DISK_WRITE,
					    .len = sizeof(buf),
					    .buf = buf,
					    .done = written,
					    .arg = &w->done[i]};
		disk_submit(&r->vm.devices.disks[0], &w->q[i]);
	}
	loop_until(&r->loop, w->done[0]);
	rig_cause(r, PRI_EV_TIMER);
	arrive(r);
	assert_int_equal(r->end.disk_ops, 1);
	assert_int_equal(r->came[FRAME_DISKLOG], 1);
	loop_turns(&r->loop);
	assert_false(w->done[1]);
}

/* The log of an epoch is kept until its ack, and lets the guest's writes go on then. */
static void disk_writes_belong_to_an_epoch(void **state)
{
	struct rig *r = *state;
	struct two_writes w;

	write_twice(r, &w);
	rig_cause(r, PRI_EV_ACK);
	loop_until(&r->loop, w.done[1]);
	one_epoch(r);
	assert_int_equal(r->end.disk_ops, 1);
	assert_int_equal(r->came[FRAME_DISKLOG], 2);
	assert_int_equal(r->pri.engine.disklog.bytes, 0);
	one_epoch(r);
	assert_int_equal(r->end.disk_ops, 0);
	rig_cause(r, PRI_EV_LOST);
	assert_null(r->vm.devices.disks[0].hook.submit);
}

static void an_unacknowledged_log_goes_with_the_link(void **state)
{
	struct rig *r = *state;
	struct two_writes w;

	write_twice(r, &w);
	rig_cause(r, PRI_EV_LOST);
	loop_until(&r->loop, w.done[1]);
	assert_null(r->pri.engine.sent_log.head);
}

/* --- more than a turn of the loop takes ------------------------------------------------------- */

/* The loop's turn is over, a piece is captured: the VM stands for the next. */
static void half_captured(struct rig *r)
{
	r->cfg.staging_bytes = 4 << 20;
	rig_reach(r, PRI_STEADY);
	r->came[FRAME_EPOCH_BEGIN] = 0;
	assert_true(rig_print(r, 9));
	rig_scribble(r, 100, 400);
	time_jump(LOOP_BUDGET_NS);
	time_fire(&r->pri.timer_op);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", false, 'h');
	assert_int_equal(r->pri.engine.state, ENGINE_SEALING);
	assert_int_equal(r->ft.stands, FT_STAND_SEAL);
}

static void a_capture_has_turns(void **state)
{
	struct rig *r = *state;

	half_captured(r);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(r->pri.engine.state, ENGINE_READY);
	assert_int_equal(r->ft.stats.throttled, 0);
	arrive(r);
	assert_int_equal(r->came[FRAME_EPOCH_BEGIN], 1);
	assert_int_equal(r->end.pages, 401);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 9);
}

/* KVM fails in the second. */
static void a_turn_that_fails(void **state)
{
	struct rig *r = *state;

	half_captured(r);
	*r->dirty_log_error = -EFAULT;
	loop_turns(&r->loop);
	*r->dirty_log_error = 0;
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_int_equal(fake_vm.printed, 0);
}

static void a_loss_between_turns(void **state)
{
	struct rig *r = *state;

	half_captured(r);
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 9);
	loop_turns(&r->loop); /* no turn is left */
	rig_sync_again(r);
	arrive(r);
	assert_int_equal(r->came[FRAME_EPOCH_BEGIN], 1);
}

/* The guest, told by its power button before, switches itself off; or nobody waits for that. */
static void a_stop_between_turns(void **state)
{
	struct rig *r = *state;

	half_captured(r);
	rig_cause(r, PRI_EV_STOP);
	rig_expect(r, PRI_STOP_DUE, "PROTECTED", false, 'h');
	assert_int_equal(r->ft.stands, FT_STAND_SEAL | FT_STAND_END);
	loop_turns(&r->loop);
	assert_int_equal(r->pri.engine.state, ENGINE_READY);
	rig_expect(r, PRI_STOP_DUE, "PROTECTED", false, 'h');
	assert_int_equal(r->ft.stands, FT_STAND_END);
	arrive(r);
	assert_int_equal(r->end.pages, 401);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_STOP, "PROTECTED", false, 'h');
	assert_int_equal(fake_vm.printed, 9);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_BYE, "PROTECTED", false, 'h');
}

/* --- more than staging takes ------------------------------------------------------------------ */

/* FLIGHT, and the VM stands: the rest of the epoch waits for the peer to read. */
static void overflow(struct rig *r)
{
	rig_reach(r, PRI_STEADY);
	r->came[FRAME_EPOCH_BEGIN] = r->came[FRAME_EPOCH_END] = 0;
	assert_true(rig_print(r, 9));
	rig_scribble(r, 100, 400);
	rig_cause(r, PRI_EV_TIMER);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", false, 'h');
	assert_int_equal(r->ft.stands, FT_STAND_SEAL);
	assert_int_equal(r->pri.engine.state, ENGINE_SEALING);
	assert_int_equal(r->ft.stats.epochs, 1);
}

static void an_epoch_in_parts(void **state)
{
	struct rig *r = *state;

	overflow(r);
	time_jump(6 * MS);
	arrive(r);
	loop_until(&r->loop, r->pri.engine.state == ENGINE_READY);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(r->came[FRAME_EPOCH_BEGIN], 1);
	assert_int_equal(r->came[FRAME_EPOCH_END], 1);
	assert_int_equal(r->end.pages, 401);
	assert_true(r->ft.stats.throttled > 0);
	assert_int_equal(r->ft.stats.last_pages, 401);
	assert_int_equal(r->ft.stats.pause_us[1], 6000);
	assert_int_equal(r->ft.stands, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 9);
	/* And the one after it is as ever. */
	one_epoch(r);
	assert_int_equal(r->came[FRAME_EPOCH_BEGIN], 2);
	assert_int_equal(r->end.pages, 0);
}

/* Pages of zeros take no memory, but a place each. */
static void parts_of_nothing(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	assert_int_equal(mem_discard(&r->vm.mem, 100 * MEM_PAGE_SIZE, 400 * MEM_PAGE_SIZE), 0);
	rig_cause(r, PRI_EV_TIMER);
	loop_turns(&r->loop);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
	assert_int_equal(r->ft.stats.throttled, 1);
	arrive(r);
	assert_int_equal(r->end.pages, 400);
}

static void an_early_ack_of_a_part(void **state)
{
	struct rig *r = *state;

	overflow(r);
	peer_says(r, FRAME_ACK, r->pri.engine.in_flight);
	rig_until(r, PRI_CLAIM);
	assert_string_equal(r->pri.link->why, "message out of order");
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_int_equal(fake_vm.printed, 0);
}

static void a_loss_between_parts(void **state)
{
	struct rig *r = *state;

	overflow(r);
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_int_equal(r->ft.stands, FT_STAND_CLAIM);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 9);
	/* Nothing of it is left for the next peer. */
	r->came[FRAME_EPOCH_BEGIN] = 0;
	rig_sync_again(r);
	arrive(r);
	assert_int_equal(r->came[FRAME_EPOCH_BEGIN], 1);
}

static void a_stop_between_parts(void **state)
{
	struct rig *r = *state;

	overflow(r);
	rig_cause(r, PRI_EV_STOP);
	rig_expect(r, PRI_STOP_DUE, "PROTECTED", false, 'h');
	arrive(r);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_STOP, "PROTECTED", false, 'h');
	assert_int_equal(r->ft.stands, FT_STAND_END);
	assert_int_equal(fake_vm.printed, 9);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_BYE, "PROTECTED", false, 'h');
}

static void a_pause_between_parts(void **state)
{
	struct rig *r = *state;

	overflow(r);
	assert_int_equal(primary_pause(&r->pri, true, NULL), 0);
	arrive(r);
	loop_until(&r->loop, r->pri.engine.state == ENGINE_READY);
	rig_expect(r, PRI_FLIGHT, "PAUSED", false, 'h');
	assert_int_equal(r->end.paused, 1);
	assert_int_equal(primary_pause(&r->pri, false, NULL), 0);
	rig_expect(r, PRI_FLIGHT, "PROTECTED", true, 'h');
}

static void a_part_that_cannot_be_finished(void **state)
{
	struct rig *r = *state;
	char why[64];

	overflow(r);
	fake_vm.save_error = -EIO;
	snprintf(why, sizeof(why), "epoch %llu: Input/output error",
		 (unsigned long long)r->pri.engine.in_flight);
	loop_until(&r->loop, (peer_reads(r), r->pri.fsm.state == PRI_CLAIM));
	assert_string_equal(r->pri.link->why, why);
	assert_int_equal(r->came[FRAME_EPOCH_END], 0);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
}

/* --- a seal that fails ------------------------------------------------------------------------ */

static void fail_to_seal(struct rig *r, const char *why)
{
	char want[100];

	r->came[FRAME_EPOCH_END] = 0;
	assert_true(rig_print(r, 3));
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_CLAIM);
	assert_int_equal(r->ft.stands, FT_STAND_CLAIM);
	assert_true(r->vm.obuf.holding);
	snprintf(want, sizeof(want), "error: %s", why);
	assert_int_equal(logged(want), 1);
	assert_string_equal(r->pri.link->why, why);
	peer_reads(r);
	assert_int_equal(r->came[FRAME_EPOCH_END], 0);
	assert_int_equal(fake_vm.printed, 0);
	assert_int_equal(r->ft.stats.epochs, 1);
}

static void cpus_that_do_not_stop(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	fake_vm.pause_error = -ETIMEDOUT;
	assert_true(rig_print(r, 3));
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_CLAIM);
	assert_non_null(strstr(r->pri.link->why, "vCPUs: only 0 of 1"));
	assert_int_equal(fake_vm.printed, 0);
	assert_int_equal(r->pri.engine.in_flight, 0);
	/* It runs, its output held, and is stopped as soon as it can be. */
	rig_expect(r, PRI_CLAIM, "PROTECTED", true, 'h');
	assert_int_equal(r->ft.stands, 0);
	arbiter_was_asked(r, 1);
	rig_cause(r, PRI_EV_NO_ANSWER);
	rig_expect(r, PRI_UNANSWERED, "PROTECTED", true, 'h');
	fake_vm.pause_error = 0;
	rig_cause(r, PRI_EV_NO_ANSWER);
	rig_expect(r, PRI_UNANSWERED, "PAUSED", false, 'h');
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(r->ft.stands, 0);
}

static void a_state_that_cannot_be_saved(void **state)
{
	struct rig *r = *state;
	char why[64];

	rig_reach(r, PRI_STEADY);
	fake_vm.save_error = -ENOSPC;
	snprintf(why, sizeof(why), "epoch %llu: No space left on device",
		 (unsigned long long)r->pri.engine.epoch);
	fail_to_seal(r, why);
	assert_false(r->vm.running);
}

static void a_dirty_log_that_cannot_be_read(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	*r->dirty_log_error = -EIO;
	fail_to_seal(r, "dirty pages: Input/output error");
	assert_false(r->vm.running);
}

/* A change of a disk is not in the log: no epoch without it. */
static void a_disk_log_that_lacks_a_write(void **state)
{
	struct rig *r = *state;
	char why[64];

	rig_reach(r, PRI_STEADY);
	r->pri.engine.disklog.failed = true;
	snprintf(why, sizeof(why), "epoch %llu: Cannot allocate memory",
		 (unsigned long long)r->pri.engine.epoch);
	fail_to_seal(r, why);
	assert_false(r->vm.running);
}

/* --- what the sender says --------------------------------------------------------------------- */

/* The loop looks because it was told to; what it sees is told once. */
static void a_look_for_nothing(void **state)
{
	static const uint8_t in[] = {PRI_SYNCING, PRI_FLIGHT, PRI_STEADY, PRI_CLAIM};
	uint64_t one = 1;

	for (unsigned i = 0; i < 4; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, in[i]);
		assert_int_equal(write(r->pri.engine.notify_fd, &one, 8), 8);
		loop_turns(&r->loop);
		assert_int_equal(r->pri.fsm.state, in[i]);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- steps at which tests kill ---------------------------------------------------------------- */

#define SEALED	"seal-begin seal-paused seal-captured seal-resumed "
#define ACKED	"ack-received released "
#define IN_STEP "hello-sent " SEALED ACKED

static void expect_steps(struct rig *r, enum primary_state s, const char *want)
{
	steps_reset();
	rig_reach(r, s);
	assert_string_equal(steps_seen(), want);
}

static void steps_of_each_way(void **state)
{
	static const struct {
		uint8_t to;
		const char *steps;
	} list[] = {
		{PRI_FLIGHT, IN_STEP "seal-begin seal-paused seal-captured seal-resumed"},
		{PRI_CLAIM, IN_STEP "peer-lost"},
		{PRI_BYE, IN_STEP SEALED ACKED "goodbye bye-said"},
		{PRI_RECORD, IN_STEP SEALED ACKED "goodbye bye-said done-heard"},
		{PRI_UNSURE, IN_STEP SEALED ACKED "goodbye bye-said peer-lost"},
		{PRI_HANDED, IN_STEP SEALED ACKED "goodbye handed"},
		{PRI_DISMISS, IN_STEP SEALED ACKED "dismiss-said"},
	};
	struct rig *r;

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		assert_int_equal(rig_setup(state), 0);
		expect_steps(*state, list[i].to, list[i].steps);
		assert_int_equal(rig_teardown(state), 0);
	}
	assert_int_equal(rig_setup(state), 0);
	r = *state;
	rig_reach(r, PRI_HANDED);
	steps_reset();
	rig_cause(r, PRI_EV_RUNS);
	assert_string_equal(steps_seen(), "runs-heard gone-said");
	assert_int_equal(rig_teardown(state), 0);
	assert_int_equal(rig_setup(state), 0);
	r = *state;
	rig_reach(r, PRI_HELLO);
	steps_reset();
	rig_cause(r, PRI_EV_LOST);
	assert_string_equal(steps_seen(), "peer-lost");
	assert_int_equal(rig_teardown(state), 0);
}

/* BYE and HAND_OVER that were not said are no steps. */
static void steps_of_words_that_were_not_said(void **state)
{
	static const struct {
		uint8_t in;
		const char *steps;
	} list[] = {{PRI_STOP, ACKED "goodbye peer-lost"},
		    {PRI_HAND, ACKED "goodbye peer-lost"},
		    {PRI_OFF_LAST, ACKED "peer-lost"}};

	for (unsigned i = 0; i < 3; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, list[i].in);
		arrive(r);
		shutdown(r->main.fd, SHUT_RD);
		steps_reset();
		rig_cause(r, PRI_EV_ACK);
		assert_string_equal(steps_seen(), list[i].steps);
		assert_int_equal(rig_teardown(state), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(output_leaves_with_its_ack),
		RIG_TEST(output_is_held_from_the_first_seal_on),
		RIG_TEST(a_loss_after_the_first_seal),
		RIG_TEST(the_next_seal_is_due_from_the_last),
		RIG_TEST(another_interval_counts_from_the_next_ack_on),
		RIG_TEST(a_policy_that_looks_at_output),
		RIG_TEST(epoch_numbers_never_repeat),
		RIG_TEST(acks_of_another_link),
		RIG_TEST(a_user_s_pause_travels),
		RIG_TEST(hashes_for_verify),
		RIG_TEST(no_hashes_without),
		RIG_TEST(disk_writes_belong_to_an_epoch),
		RIG_TEST(an_unacknowledged_log_goes_with_the_link),
		RIG_TEST(a_capture_has_turns),
		RIG_TEST(a_turn_that_fails),
		RIG_TEST(a_loss_between_turns),
		RIG_TEST(a_stop_between_turns),
		RIG_TEST(an_epoch_in_parts),
		RIG_TEST(parts_of_nothing),
		RIG_TEST(an_early_ack_of_a_part),
		RIG_TEST(a_loss_between_parts),
		RIG_TEST(a_stop_between_parts),
		RIG_TEST(a_pause_between_parts),
		RIG_TEST(a_part_that_cannot_be_finished),
		RIG_TEST(cpus_that_do_not_stop),
		RIG_TEST(a_state_that_cannot_be_saved),
		RIG_TEST(a_dirty_log_that_cannot_be_read),
		RIG_TEST(a_disk_log_that_lacks_a_write),
		cmocka_unit_test(a_look_for_nothing),
		cmocka_unit_test(steps_of_each_way),
		cmocka_unit_test(steps_of_words_that_were_not_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
