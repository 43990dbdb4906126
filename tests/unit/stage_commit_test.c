/* A commit in turns: whole at its end, and brought to its end when the link is lost in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/unit/libsteps.h"
#include "tests/unit/libstage.h"

#define N 400u /* pages: more than a turn does at least */

static struct srig rig;
static struct golden epoch = {.epoch = 8, .first = 50, .n = N, .seed = 12};
static uint8_t *want; /* its pages */
static const uint64_t no_time;
static uint64_t now;

static uint64_t stopped_clock(void)
{
	return now;
}

static int setup(void **state)
{
	struct parts ps;
	struct err e;

	rig_start(&rig);
	rig.loop.clock = stopped_clock;
	rig_first_epoch(&rig, 7);
	golden_epoch(&rig, &epoch, &ps);
	want = malloc(N * MEM_PAGE_SIZE);
	assert_non_null(want);
	for (uint64_t i = 0; i < N; i++)
		golden_page(&epoch, i, mem_page(&rig.vm.mem, epoch.first + i),
			    want + i * MEM_PAGE_SIZE);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
	parts_free(&ps);
	rig_check_ram_and_pods(&rig);
	return 0;
}

static int teardown(void **state)
{
	free(want);
	rig.loop.clock = loop_now_ns;
	rig_end(&rig);
	return 0;
}

/* The loop has nanoseconds for more. */
static void budget(uint64_t ns)
{
	now = 1;
	rig.loop.yield_ns = now + ns;
}

static bool has_all(void)
{
	return !memcmp(mem_page(&rig.vm.mem, epoch.first), want, N * MEM_PAGE_SIZE);
}

/* Memory, registers, disks and what is said of it. */
static void check_committed(void)
{
	assert_false(rig.stage.open || stage_is_committing(&rig.stage));
	assert_int_equal(rig.stage.committed, 8);
	assert_true(has_all());
	assert_int_equal(rig.vm.vcpus[0].state.regs.rax, epoch.seed);
	rig.loop.clock = loop_now_ns;
	rig_settle(&rig);
	assert_int_equal(rig.moved, 1 + 2 * GOLDEN_OPS);
}

/* Where tests have it killed. */
static void its_steps(void **state)
{
	struct golden g = {.epoch = 9, .first = 10, .n = 300, .seed = 13};
	struct parts ps;
	struct err e;

	steps_reset();
	stage_commit(&rig.stage);
	assert_string_equal(steps_seen(), "commit-middle commit-end");
	golden_epoch(&rig, &g, &ps);
	steps_reset();
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
	assert_string_equal(steps_seen(), "stage-begin stage-pages stage-pages stage-state");
	parts_free(&ps);
	steps_reset();
	budget(no_time);
	assert_false(stage_commit_turn(&rig.stage));
	assert_string_equal(steps_seen(), "commit-middle");
	while (!stage_commit_turn(&rig.stage))
		;
	assert_string_equal(steps_seen(), "commit-middle commit-end");
	rig.loop.clock = loop_now_ns;
	rig_settle(&rig);
}

static void at_once(void **state)
{
	budget(no_time);
	stage_commit(&rig.stage);
	check_committed();
}

static void one_turn_when_there_is_time(void **state)
{
	budget(1000);
	assert_true(stage_commit_turn(&rig.stage));
	check_committed();
}

static void turns(void **state)
{
	unsigned n = 1;

	budget(no_time);
	for (; !stage_commit_turn(&rig.stage); n++) {
		assert_true(rig.stage.open && stage_is_committing(&rig.stage));
		assert_int_equal(rig.stage.committed, 7);
		assert_false(has_all());
		assert_true(diskapply_idle(&rig.disks));
		assert_true(n < N / 100);
	}
	assert_true(n >= 2);
	check_committed();
}

/* It was promised: what is lost in between does not make half an epoch. */
static void lost_in_between(void **state)
{
	budget(no_time);
	assert_false(stage_commit_turn(&rig.stage));
	assert_false(has_all());
	stage_abort(&rig.stage);
	check_committed();
	stage_abort(&rig.stage);
	assert_int_equal(rig.stage.committed, 8);
}

static void lost_before(void **state)
{
	stage_abort(&rig.stage);
	rig_check_ram_and_pods(&rig);
	assert_int_equal(rig.stage.committed, 7);
	assert_false(rig.stage.open);
}

/* The next one begins like any other. */
static void goes_on_after_it(void **state)
{
	struct golden g = {.epoch = 9, .first = 10, .n = 300, .seed = 13};
	struct parts ps;
	struct err e;

	budget(no_time);
	while (!stage_commit_turn(&rig.stage))
		;
	golden_epoch(&rig, &g, &ps);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
	parts_free(&ps);
	while (!stage_commit_turn(&rig.stage))
		;
	assert_int_equal(rig.stage.committed, 9);
	assert_int_equal(rig.vm.vcpus[0].state.regs.rax, 13);
	rig.loop.clock = loop_now_ns;
	rig_settle(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(its_steps),
		T(at_once),
		T(one_turn_when_there_is_time),
		T(turns),
		T(lost_in_between),
		T(lost_before),
		T(goes_on_after_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
