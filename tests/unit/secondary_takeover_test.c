/* Takeover: the arbiter decides, and then this side is what the primary was. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

/* Frames that one announcement has for a guest whose address is not known. */
#define ONE 1u

static void lose(void)
{
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
}

/* --- won -------------------------------------------------------------------------------------- */

static void a_side_that_wins_runs_the_vm(void **state)
{
	const struct arbiter_record *asked = &lab.arbiter.question.record;
	uint64_t lost;

	pri_join();
	pri_heart();
	pri_commit(1);
	lab_pass(7 * S); /* since the epoch began to arrive */
	lab_arbiter_waits();
	lost = loop_now_ns();
	lose();
	lab_await_question();
	assert_word("TAKING-OVER");
	assert_int_equal(lab.ft.life, FT_ELSEWHERE);
	assert_string_equal(lab.ft.note, "primary: connection closed");
	assert_int_equal(logged("warning: primary: connection closed"), 1);
	assert_int_equal(lab.arbiter.question.what, ARBITER_CLAIM);
	assert_int_equal(lab.arbiter.question.why, ARBITER_GO_ON);
	assert_int_equal(asked->generation, 2);
	assert_int_equal(asked->token, 0);
	assert_int_equal(asked->side, arbiter_side(lab.ft.arbiter));
	time_jump(S);
	assert_int_equal(fake_vm.loaded, 0);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_state(TAKEN);
	assert_int_equal(fake_vm.loaded, 1);
	assert_int_equal(fake_vm.advance_ns, 8 * S);
	assert_int_equal(fake_vm.generations, 1);
	assert_int_equal(fake_vm.plugged, 1);
	assert_int_equal(lab.vsocks, 1);
	assert_int_equal(fake_vm.started, 1);
	assert_true(lab.vm.running);
	lab_check_vm(1);
	assert_int_equal(lab.ft.generation, 2);
	assert_int_equal(lab.ft.life, FT_HERE);
	assert_word("DEGRADED");
	assert_string_equal(lab.ft.note, "took over");
	assert_string_equal(lab.ft.peer, "");
	assert_false(lab.ft.images_behind);
	assert_int_equal(lab.ft.stats.takeover_ns, S);
	assert_int_equal(lab.ft.stats.first_run_mono_ns, lost + S);
	assert_int_equal(lab.taken, 1);
	assert_true(lab_end_is_told());
	assert_int_equal(lab.exits, 0);
	/* It is a primary now: what staging took is free. */
	assert_null(lab.sec.stage.vm);
}

/* What a test can have it die at. */
static void its_steps_have_names(void **state)
{
	lab_reach(SEC_TAKEN);
	assert_string_equal(lab.steps, "hello-received ack-before ack-sent takeover-claim "
				       "takeover-load takeover-link takeover-run");
}

/* What `ftvmm trace` shows: the claim and, behind it, the load lie in the takeover. */
static void its_spans(void **state)
{
	struct trace_span s, of[TRACE_WHATS] = {0};
	struct err e;

	assert_int_equal(trace_start(&lab.ft.trace, &e), 0);
	lab_reach(SEC_TAKEN);
	while (trace_take(&lab.ft.trace, &s)) {
		if (s.what != TRACE_WORD)
			assert_int_equal(of[s.what].epoch, 0); /* once */
		of[s.what] = s;
	}
	trace_stop(&lab.ft.trace);
	for (unsigned i = TRACE_TAKEOVER; i <= TRACE_LOAD; i++)
		assert_int_equal(of[i].epoch, 1);
	assert_int_equal(of[TRACE_CLAIM].begin_ns, of[TRACE_TAKEOVER].begin_ns);
	assert_int_equal(of[TRACE_LOAD].begin_ns, of[TRACE_CLAIM].end_ns);
	assert_true(of[TRACE_LOAD].end_ns <= of[TRACE_TAKEOVER].end_ns);
	assert_int_equal(of[TRACE_TAKEOVER].end_ns, lab.ft.stats.first_run_mono_ns);
}

/* From a higher number, too. */
static void the_claim_follows_the_primarys_generation(void **state)
{
	lab.hello.generation = 41;
	lab.arbiter.record.generation = 41;
	lab_reach(SEC_TAKEN);
	assert_int_equal(lab.arbiter.question.record.generation, 42);
	assert_int_equal(lab.ft.generation, 42);
}

static void switches_are_told_five_times(void **state)
{
	static const uint64_t after_ms[] = {100, 200, 400, 800};
	unsigned n = ONE;

	lab_reach(SEC_TAKEN);
	assert_int_equal(fake_vm.frames, ONE);
	assert_int_equal(lab.asked_guests, 1);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(time_left(&lab.sec.announce.op), after_ms[i] * MS);
		lab_pass(after_ms[i] * MS - 1);
		assert_int_equal(fake_vm.frames, n);
		lab_pass(1);
		assert_int_equal(fake_vm.frames, n += ONE);
	}
	assert_int_equal(time_left(&lab.sec.announce.op), -1);
	assert_int_equal(lab.asked_guests, 1);
}

/* What the guest puts out before anybody can be told is the guest's all the same. */
static void output_leaves_from_then_on(void **state)
{
	lab_reach(SEC_TAKEN);
	lab_print();
	assert_int_equal(fake_vm.printed, 1);
	assert_int_equal(lab.vm.obuf.held, 0);
}

static void a_network_that_fails_does_not_stop_it(void **state)
{
	fake_vm.unpluggable = true;
	lab.vsock_host_listen = -EADDRINUSE;
	lab_reach(SEC_TAKEN);
	assert_true(lab.vm.running);
	assert_int_equal(logged("error: net 'd4': no such tap"), 1);
	assert_int_equal(logged("error: vsock: in use"), 1);
}

/* The links are gone: nothing that comes over them, or from their timers, is of interest. */
static void nothing_is_left_of_the_links(void **state)
{
	lab_reach(SEC_STANDBY);
	end_close(&lab.heart);
	lab_until(lab.taken);
	assert_true(end_is_dropped(&lab.main));
	assert_null(lab.sec.heart.loop);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	lab_pass(100 * S);
	assert_state(TAKEN);
}

/* The first epoch came, but not the heartbeat link: its timer must not fire into the takeover. */
static void a_loss_without_heartbeats(void **state)
{
	pri_join();
	pri_commit(1);
	lab_arbiter_waits();
	lose();
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	lab_pass(S);
	lab_arbiter_answers(0);
	lab_until(lab.taken);
}

/* Until somebody resumes it here. */
static void what_the_user_paused_stays_so(void **state)
{
	lab.paused = 1;
	lab_reach(SEC_TAKEN);
	assert_false(lab.vm.running);
	assert_int_equal(fake_vm.started, 0);
	assert_int_equal(fake_vm.loaded, 1);
	assert_int_equal(lab.ft.stands, FT_STAND_USER);
	assert_word("PAUSED");
	assert_int_equal(fake_vm.frames, ONE);
	ft_go(&lab.ft, &lab.vm, FT_STAND_USER);
	assert_true(lab.vm.running);
	assert_int_equal(fake_vm.started, 1);
	assert_word("DEGRADED");
	lab_teardown(NULL);
	/* As of the last epoch. */
	lab_setup(NULL);
	lab.paused = 1;
	lab_reach(SEC_STANDBY);
	lab.paused = 0;
	pri_commit(2);
	pri_hang_up();
	lab_until(lab.taken);
	assert_true(lab.vm.running);
	assert_int_equal(lab.ft.stands, 0);
}

/* --- not won ---------------------------------------------------------------------------------- */

static void a_side_that_loses_listens_again(void **state)
{
	mock_arbiter_set(&lab.arbiter, -ESTALE, NULL);
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	lab_reach(SEC_CLAIM);
	lab_arbiter_answers(-ESTALE);
	lab_check_gave_up("the other side goes on");
	assert_int_equal(lab.ft.generation, 1);
	assert_int_equal(fake_vm.loaded, 0);
	lab_arbiter_answers(0);
	lab_reach(SEC_TAKEN);
}

/* The primary stopped, and could not say so: the images take what they lack. */
static void a_stopped_vm_is_not_run(void **state)
{
	lab.images_wait = true;
	lab_reach(SEC_CLAIM);
	lab_arbiter_answers(-ECANCELED);
	lab_until(lab.sec.fsm.state == SEC_DRAIN_ALONE);
	assert_int_equal(lab.ft.generation, 1);
	lab_images_go();
	lab_check_gave_up("primary: stopped in order");
	lab_check_image(1);
	assert_int_equal(fake_vm.loaded, 0);
}

/* Nothing waits for the images: it is over at once. */
static void a_stopped_vm_with_all_in_its_images(void **state)
{
	static const unsigned asking[] = {SEC_CLAIM, SEC_ACCEPT, SEC_ACCEPT_ALONE, SEC_CONFIRM};

	for (unsigned i = 0; i < 4; i++) {
		lab_reach((enum secondary_state)asking[i]);
		lab_settle();
		lab_arbiter_answers(-ECANCELED);
		lab_check_gave_up("primary: stopped in order");
		lab_check_image(1);
		lab_teardown(NULL);
		lab_setup(NULL);
	}
}

static void an_arbiter_that_does_not_answer_is_asked_again(void **state)
{
	lab_reach(SEC_CLAIM);
	lab_pass(2 * S - 1);
	assert_state(CLAIM);
	assert_string_equal(lab.ft.note, "primary: connection closed");
	lab_pass(1);
	assert_string_equal(lab.ft.note,
			    "arbiter 'mock' did not answer within 2000 ms; nobody goes on without "
			    "it (is it reachable?)");
	assert_word("TAKING-OVER");
	assert_int_equal(time_left(&lab.sec.timer_op), 500 * MS);
	lab_pass(500 * MS - 1);
	assert_int_equal(time_left(&lab.sec.timer_op), 1);
	lab_pass(1);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
	assert_int_equal(lab.arbiter.asked, 2); /* HELLO's, and the one that hangs */
	assert_int_equal(fake_vm.loaded, 0);
	/* It lands after all. */
	lab_arbiter_answers(0);
	lab_until(lab.taken);
	assert_int_equal(lab.ft.generation, 2);
	assert_int_equal(lab.ft.stats.takeover_ns, 2500 * MS);
	assert_int_equal(fake_vm.advance_ns, 2500 * MS);
}

static void an_arbiter_that_fails_is_asked_again(void **state)
{
	lab_reach(SEC_STANDBY);
	mock_arbiter_set(&lab.arbiter, -EIO, NULL);
	lose();
	lab_until(time_left(&lab.sec.timer_op) >= 0);
	assert_string_equal(lab.ft.note, "mock: Input/output error");
	for (unsigned i = 3; i < 6; i++) {
		lab_pass(500 * MS);
		lab_until(lab.arbiter.answered == i);
		lab_settle();
		assert_int_equal(lab.arbiter.question.record.generation, 2);
		assert_int_equal(lab.ft.generation, 1);
	}
	mock_arbiter_set(&lab.arbiter, 0, NULL);
	lab_pass(500 * MS);
	lab_until(lab.taken);
	assert_int_equal(lab.ft.generation, 2);
}

static void hear(void *arg, const struct arbiter_answer *answer)
{
	*(bool *)arg = true;
}

/* Somebody else's question is under way. */
static void an_arbiter_that_is_busy_is_asked_again(void **state)
{
	bool heard = false;

	lab_without_shared();
	lab_reach(SEC_STANDBY);
	lab_arbiter_waits();
	assert_int_equal(arbiter_ask_read(lab.ft.arbiter, hear, &heard), 0);
	pri_hang_up();
	lab_until(lab.sec.fsm.state == SEC_CLAIM);
	assert_string_equal(lab.ft.note, "arbiter: cannot be asked now");
	assert_int_equal(time_left(&lab.sec.timer_op), 500 * MS);
	lab_arbiter_answers(0);
	lab_until(heard);
	lab_pass(500 * MS);
	lab_until(lab.taken);
}

/* This host took the first one, and changed its mind. */
static void a_state_that_cannot_be_loaded_ends_the_process(void **state)
{
	lab_reach(SEC_CLAIM);
	fake_vm.refuses = true;
	lab_arbiter_answers(0);
	lab_until(lab.exits);
	assert_int_equal(lab.exits, 1);
	assert_int_equal(lab.exit_code, 2);
	assert_state(CLAIM);
	assert_int_equal(logged("error: takeover: vCPU state: this host refuses MSRs"), 1);
	assert_int_equal(fake_vm.started, 0);
	assert_int_equal(fake_vm.plugged, 0);
	assert_int_equal(fake_vm.generations, 0);
	assert_int_equal(lab.taken, 0);
	lab_pass(10 * S);
	assert_int_equal(lab.exits, 1);
}

/* --- the images ------------------------------------------------------------------------------- */

static void acknowledged_writes_are_in_the_image_first(void **state)
{
	/* Of the sync, which is flushed then, and of an epoch. */
	static const enum disk_op in_order[] = {DISK_WRITE, DISK_WRITE, DISK_FLUSH, DISK_WRITE};
	struct lab_write to_mirror, to_shared;

	lab.images_wait = true;
	lab_reach(SEC_STANDBY);
	pri_commit(2);
	pri_hang_up();
	lab_until(lab.taken);
	assert_true(lab.ft.images_behind);
	lab_guest_writes(&to_mirror, LAB_MIRROR, 1024, 0xaa); /* where epoch 2 wrote */
	lab_guest_writes(&to_shared, LAB_SHARED, 0, 0xab);
	lab_until(to_shared.done); /* nothing is behind there */
	assert_int_equal(to_shared.res, 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(lab.ft.images_behind);
		assert_false(to_mirror.done);
		assert_int_equal(lab_image_step(), in_order[i]);
	}
	assert_false(lab.ft.images_behind);
	lab_until(to_mirror.done);
	assert_int_equal(to_mirror.res, 0);
	assert_int_equal(lab_image_byte(lab.image, 512), 1);
	assert_int_equal(lab_image_byte(lab.image, 1024), 0xaa);
	assert_int_equal(lab_image_byte(lab.shared, 0), 0xab);
}

static void images_that_have_all_are_not_held(void **state)
{
	struct lab_write w;

	lab_reach(SEC_STANDBY);
	lab_settle();
	pri_hang_up();
	lab_until(lab.taken);
	assert_false(lab.ft.images_behind);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0xaa);
	lab_until(w.done);
	assert_int_equal(w.res, 0);
}

/* The guest must not read what is older than what it was told is written. */
static void an_image_that_fails_behind_the_vm_stops_it(void **state)
{
	struct lab_write w;

	lab.images_wait = true;
	lab_reach(SEC_TAKEN);
	lab_guest_writes(&w, LAB_MIRROR, 0, 0xaa);
	assert_true(lab.vm.running);
	lab_image_fails();
	assert_state(TAKEN);
	assert_false(lab.vm.running);
	assert_true(lab.exits);
	assert_int_equal(lab.exit_code, 2);
	assert_true(logged("error: takeover: the images here lack acknowledged writes; stopping. "
			   "Start the other side with --primary --claim: its images have them"));
	assert_true(lab.ft.images_behind);
	/* The rest of the log may go there; what the guest wrote does not. */
	lab_images_go();
	assert_false(w.done);
	assert_true(lab.ft.images_behind);
	lab_teardown(NULL);
	assert_int_equal(w.res, -ECANCELED);
	lab_setup(NULL);
}

static void make_unwritable(struct disk *d)
{
	int fd = open(lab.image, O_RDONLY | O_CLOEXEC);

	assert_int_equal(dup3(fd, d->fd, O_CLOEXEC), d->fd);
	close(fd);
}

/* What a twin was told is written is in no image then. */
static void a_merge_that_fails_stops_it(void **state)
{
	struct lab_write w;

	lab_reach(SEC_TWIN);
	lab_guest_writes(&w, LAB_MIRROR, 4096, 0xaa);
	lab_until(w.done);
	lab_settle();
	make_unwritable(&lab.vm.devices.disks[LAB_MIRROR]);
	pri_hang_up();
	lab_until(lab.taken && !lab.sec.twin.merging);
	assert_state(TAKEN);
	assert_true(lab.ft.images_behind);
	assert_true(lab.vm.obuf.holding);
	assert_false(lab.vm.running);
	assert_int_equal(lab.exits, 1);
	assert_int_equal(lab.exit_code, 2);
	assert_int_equal(logged("error: takeover: the images here lack acknowledged writes"), 1);
	assert_int_equal(lab_image_byte(lab.image, 4096), LAB_OLD);
}

/* It failed while nobody could hear of it. */
static void an_image_that_failed_before_is_not_taken_over(void **state)
{
	lab_reach(SEC_STANDBY);
	lab_settle();
	lab.sec.disks.error = -EIO;
	pri_hang_up();
	lab_check_gave_up("this side's disk image failed");
	assert_int_equal(lab.arbiter.asked, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, lab_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_side_that_wins_runs_the_vm),
		TEST(its_steps_have_names),
		TEST(its_spans),
		TEST(the_claim_follows_the_primarys_generation),
		TEST(switches_are_told_five_times),
		TEST(output_leaves_from_then_on),
		TEST(a_network_that_fails_does_not_stop_it),
		TEST(nothing_is_left_of_the_links),
		TEST(a_loss_without_heartbeats),
		TEST(what_the_user_paused_stays_so),
		TEST(a_side_that_loses_listens_again),
		TEST(a_stopped_vm_is_not_run),
		TEST(a_stopped_vm_with_all_in_its_images),
		TEST(an_arbiter_that_does_not_answer_is_asked_again),
		TEST(an_arbiter_that_fails_is_asked_again),
		TEST(an_arbiter_that_is_busy_is_asked_again),
		TEST(a_state_that_cannot_be_loaded_ends_the_process),
		TEST(acknowledged_writes_are_in_the_image_first),
		TEST(images_that_have_all_are_not_held),
		TEST(an_image_that_fails_behind_the_vm_stops_it),
		TEST(a_merge_that_fails_stops_it),
		TEST(an_image_that_failed_before_is_not_taken_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
