/* ft=off: when the secondary has said that it will not take over, and not before; and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

static void expect_off(struct rig *r)
{
	rig_expect(r, PRI_OFF, "UNPROTECTED", true, 'f');
	assert_non_null(strstr(r->ft.note, "ft=off"));
	assert_int_equal(r->pri.link->state, LINK_DOWN);
	assert_int_equal(r->pri.engine.state, ENGINE_DOWN);
	assert_string_equal(r->ft.peer, "");
}

static void output_waits_for_its_word(void **state)
{
	struct rig *r = *state;
	unsigned asked;

	rig_reach(r, PRI_FLIGHT);
	asked = r->mock.asked;
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_OFF);
	rig_cause(r, PRI_EV_ACK);
	assert_true(rig_print(r, 10)); /* that was sealed, this was not */
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_DISMISS, "PROTECTED", true, 'h');
	assert_int_equal(fake_vm.printed, 1);
	assert_true(rig_print(r, 100));
	loop_until(&r->loop, (peer_reads(r), r->last == FRAME_DISMISS));
	loop_turns(&r->loop);
	assert_int_equal(fake_vm.printed, 1);
	rig_cause(r, PRI_EV_DONE);
	expect_off(r);
	assert_int_equal(fake_vm.printed, 111);
	assert_true(rig_print(r, 1000));
	assert_int_equal(fake_vm.printed, 1111);
	assert_int_equal(r->mock.asked, asked); /* nobody could win */
	assert_int_equal(r->ft.generation, RIG_GEN);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_LAST], 1);
}

/* It may not have heard, and take over: the arbiter decides, and what is wanted is done then. */
static void without_its_word_the_vm_is_claimed(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_DISMISS);
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_LOST);
	rig_expect(r, PRI_CLAIM, "PROTECTED", false, 'h');
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_WON);
	rig_expect(r, PRI_IDLE, "DEGRADED", true, 'f');
	assert_int_equal(fake_vm.printed, 1);
	assert_int_equal(r->ft.generation, RIG_GEN + 1);
	time_fire(&r->pri.timer_op);
	expect_off(r);
}

static void whoever_took_over_has_it(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_DISMISS);
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_CLAIM_LOST);
	rig_expect(r, PRI_LEFT, "FENCED", false, 'd');
	assert_int_equal(fake_vm.printed, 0);
}

/* Its word and the end of the link may come at once. */
static void a_word_and_the_end(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_DISMISS);
	peer_says(r, FRAME_DONE, 0);
	peer_hangs_up(r);
	rig_until(r, PRI_OFF);
	loop_turns(&r->loop);
	expect_off(r);
}

static void while_it_is_open_whose_the_vm_is(void **state)
{
	static const uint8_t in[] = {PRI_CLAIM, PRI_UNANSWERED};

	for (unsigned i = 0; i < sizeof(in); i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, in[i]);
		rig_set_mode(r, FT_MODE_OFF);
		assert_int_equal(r->pri.fsm.state, in[i]);
		rig_cause(r, PRI_EV_WON);
		time_fire(&r->pri.timer_op);
		expect_off(r);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void nobody_is_tried(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_OFF);
	r->ft.images_behind = false;
	primary_new_peers(&r->pri);
	loop_turns(&r->loop);
	assert_int_equal(time_left(&r->pri.timer_op), -1);
	expect_off(r);
	assert_int_equal(primary_hand_over(&r->pri, rig_handing, r, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "ft=off"));
	rig_set_mode(r, FT_MODE_OFF); /* once more */
	expect_off(r);
}

static void and_back(void **state)
{
	struct rig *r = *state;
	uint64_t last;

	rig_reach(r, PRI_DISMISS);
	last = r->ended;
	rig_cause(r, PRI_EV_DONE);
	peer_hangs_up(r);
	assert_true(rig_print(r, 1));
	rig_cause(r, PRI_EV_ON);
	assert_null(strstr(r->ft.note, "ft=off"));
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_WELCOME);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_SYNCED);
	assert_true(rig_print(r, 10));
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_STEADY, "PROTECTED", true, 'h');
	assert_true(r->ended > last);
	assert_int_equal(fake_vm.printed, 1);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_FIRST], 2);
}

/* A twin took over, and what it wrote is still on its way into the images. */
static void output_that_waits_for_images_does_so(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_IDLE);
	obuf_hold(&r->vm.obuf, r->vm.obuf.epoch + 1);
	r->ft.images_behind = true;
	assert_true(rig_print(r, 7));
	rig_set_mode(r, FT_MODE_OFF);
	assert_int_equal(r->pri.fsm.state, PRI_OFF);
	assert_int_equal(fake_vm.printed, 0);
	obuf_pass(&r->vm.obuf); /* merged */
	assert_int_equal(fake_vm.printed, 7);
}

/* It would take the VM for a word that it does not know. */
static void an_older_secondary_is_not_dismissed(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	rig_reach(r, PRI_STEADY);
	assert_int_equal(primary_may_have_mode(&r->pri, FT_MODE_OFF, &e), 0);
	r->pri.link->may_dismiss = false;
	assert_int_equal(primary_may_have_mode(&r->pri, FT_MODE_OFF, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "older version"));
	rig_cause(r, PRI_EV_TIMER);
	assert_int_equal(r->pri.fsm.state, PRI_FLIGHT);
	assert_int_equal(primary_may_have_mode(&r->pri, FT_MODE_OFF, NULL), -ENOTSUP);
}

/* Whether it knows the word is in its welcome; one of before has less there, or zeros. */
static void who_knows_it_says_so(void **state)
{
	static const struct wire_side says[] = {{.side = RIG_PEER, .dismiss = 1},
						{.side = RIG_PEER, .dismiss = 0},
						{.side = RIG_PEER, .dismiss = 1}};
	static const size_t bytes[] = {sizeof(says[0]), sizeof(says[0]),
				       offsetof(struct wire_side, dismiss)};

	for (unsigned i = 0; i < 3; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, PRI_HELLO);
		peer_reads(r);
		peer_says_text(r, FRAME_WELCOME, &says[i], bytes[i]);
		rig_until(r, PRI_HEART);
		assert_int_equal(r->pri.link->may_dismiss, i == 0);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* Turned off before the first ack has come, and so before it was said to be protected. */
static void the_first_ack_protects(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_SYNCING);
	rig_cause(r, PRI_EV_SYNCED);
	assert_int_equal(r->ft.cover, FT_SYNCING);
	rig_cause(r, PRI_EV_OFF);
	rig_cause(r, PRI_EV_ACK);
	rig_expect(r, PRI_OFF_LAST, "PROTECTED", true, 'h');
}

static bool may_be_off(unsigned s)
{
	return s <= PRI_DISMISS || s == PRI_CLAIM || s == PRI_UNANSWERED;
}

static void what_is_for_later(void **state)
{
	for (unsigned s = 0; s < PRI_LEFT; s++) {
		bool dismissing = s == PRI_OFF_DUE || s == PRI_OFF_LAST || s == PRI_DISMISS;
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, s);
		print_message("%s\n", primary_desc.states[s]);
		assert_int_equal(primary_may_have_mode(&r->pri, FT_MODE_OFF, NULL),
				 may_be_off(s) ? 0 : -EBUSY);
		assert_int_equal(primary_may_have_mode(&r->pri, FT_MODE_KEMARI, NULL),
				 dismissing ? -EBUSY : 0);
		assert_int_equal(rig_teardown(state), 0);
	}
	assert_int_equal(rig_setup(state), 0);
	rig_reach(*state, PRI_STEADY);
	new_reach(*state, MOV_PASSES);
	assert_int_equal(primary_may_have_mode(&((struct rig *)*state)->pri, FT_MODE_OFF, NULL),
			 -EBUSY);
	assert_int_equal(rig_teardown(state), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(output_waits_for_its_word),
		RIG_TEST(without_its_word_the_vm_is_claimed),
		RIG_TEST(whoever_took_over_has_it),
		RIG_TEST(a_word_and_the_end),
		cmocka_unit_test(while_it_is_open_whose_the_vm_is),
		RIG_TEST(nobody_is_tried),
		RIG_TEST(output_that_waits_for_images_does_so),
		RIG_TEST(an_older_secondary_is_not_dismissed),
		RIG_TEST(the_first_ack_protects),
		cmocka_unit_test(who_knows_it_says_so),
		RIG_TEST(and_back),
		cmocka_unit_test(what_is_for_later),
	};

	return cmocka_run_group_tests_name("primary_off", tests, NULL, NULL);
}
