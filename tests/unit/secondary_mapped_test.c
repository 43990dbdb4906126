/* A secondary whose guest runs, too: the numbers of TCP connections that it has otherwise. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "net/seqmap.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libsegment.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

#define LAB_NET 4u

static const struct wire_mapped mapping = {.delta = 5000,
					   .ts_delta = 6,
					   .version = 4,
					   .guest_port = 80,
					   .peer_port = 40000,
					   .guest = {10, 0, 0, 1},
					   .peer = {10, 0, 0, 2}};
static const struct seqmap_flow mapped_flow = {.version = 4,
					       .guest_port = 80,
					       .peer_port = 40000,
					       .guest = {10, 0, 0, 1},
					       .peer = {10, 0, 0, 2}};

static void pri_maps(const struct wire_mapped *w, size_t len)
{
	end_send(&lab.mirror, FRAME_MAPPED, lab.sec.twin.epoch, w, len);
}

/* The twin has said so: the client hears of the connection now. */
static void twin_has_mapped(void)
{
	struct frame f;

	do
		lab_until(end_take(&lab.mirror, &f) == 1);
	while (f.type != FRAME_MAPPED);
	assert_int_equal(f.epoch, lab.sec.twin.epoch);
	assert_int_equal(f.length, 0);
}

/* Nor is its guest's connection somebody else's while it runs. */
static void a_second_mirror_is_dropped(void **state)
{
	struct end other = {0};

	lab_reach(SEC_TWIN);
	end_connect(&other);
	end_preface(&other, STREAM_MIRROR, lab.session);
	end_send(&other, FRAME_MIRROR, 0, NULL, 0);
	lab_until(end_is_dropped(&other));
	end_close(&other);
	pri_maps(&mapping, sizeof(mapping));
	twin_has_mapped();
}

/* The guest's own numbers go in and out, those of the client are outside. */
static void its_connection_goes_on(void **state)
{
	struct netdev *nd = &lab.vm.devices.nets[LAB_NET];
	const struct seqmap *own;
	const struct seqmap_conn *c;

	lab_reach(SEC_TWIN);
	own = lab.vm.devices.env.seqs;
	assert_ptr_equal(nd->seqs, &lab.sec.twin.born);
	pri_maps(&mapping, sizeof(mapping));
	twin_has_mapped();
	assert_int_equal(seqmap_find(nd->seqs, &mapped_flow)->delta, 5000);
	assert_int_equal(own->count, 0);
	pri_hang_up();
	lab_until(lab.taken);
	assert_ptr_equal(nd->seqs, own);
	c = seqmap_find(own, &mapped_flow);
	assert_non_null(c);
	assert_int_equal(c->delta, 5000);
	assert_int_equal(c->ts_delta, 6);
}

/* From its guest, the last of a connection or not. */
static void twin_sends(uint8_t flags, uint32_t ack)
{
	static uint8_t frame[SEGMENT_FRAME_MAX];
	struct made_segment d = {.version = 4, .from_guest = true, .flags = flags, .ack = ack};
	struct iovec iov = {frame, segment_make(&d, frame)};
	int sink = 0;

	while (lab.vm.obuf.sinks[sink].arg != &lab.vm.devices.nets[LAB_NET])
		sink++;
	assert_int_equal(obuf_put(&lab.vm.obuf, sink, &iov, 1), 0);
}

/* What it said itself since is known: somebody's reset does not end it, nor is it kept for long. */
static void its_end_is_known(void **state)
{
	const struct seqmap *own;

	lab_reach(SEC_TWIN);
	own = lab.vm.devices.env.seqs;
	twin_sends(16, 1);
	pri_maps(&mapping, sizeof(mapping));
	twin_has_mapped();
	assert_int_equal(seqmap_find(&lab.sec.twin.born, &mapped_flow)->seen, 0);
	twin_sends(16, 77);
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(seqmap_find(own, &mapped_flow)->seen, SEQMAP_ACKED);
	assert_int_equal(seqmap_find(own, &mapped_flow)->acked, 77);
	assert_null(lab.sec.twin.born.conns);
}

/* The primary's, in its own numbers, is in the checkpoint. */
static void it_adds_to_what_the_primary_has(void **state)
{
	struct seqmap *own;

	lab_reach(SEC_TWIN);
	own = lab.vm.devices.env.seqs;
	assert_int_equal(seqmap_set(own, &mapped_flow, 100, 0), 0);
	pri_maps(&mapping, sizeof(mapping));
	twin_has_mapped();
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(seqmap_find(own, &mapped_flow)->delta, 5100);
}

/* No primary has more of them; each costs an answer. */
static void too_many_mappings(void **state)
{
	lab_reach(SEC_TWIN);
	for (unsigned epoch = 3; epoch < 5; epoch++) {
		for (unsigned i = 0; i < SEQMAP_MAX; i++) {
			pri_maps(&mapping, sizeof(mapping));
			twin_has_mapped();
		}
		if (epoch == 3)
			pri_commit(3);
		lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	}
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
	pri_maps(&mapping, sizeof(mapping));
	lab_until(!mirror_is_up(&lab.sec.twin.mirror));
	assert_int_equal(logged("warning: primary: mirror: too many mappings"), 1);
}

/* Else the primary would wait for ever. */
static void without_an_answer_it_is_over(void **state)
{
	lab_reach(SEC_TWIN);
	lab.sec.twin.mirror.error = -EPIPE;
	pri_maps(&mapping, sizeof(mapping));
	lab_until(!mirror_is_up(&lab.sec.twin.mirror));
	assert_int_equal(logged("warning: primary: mirror: answer to a mapping"), 1);
}

static void a_checkpoint_has_the_numbers(void **state)
{
	struct netdev *nd = &lab.vm.devices.nets[LAB_NET];

	lab_reach(SEC_TWIN);
	pri_maps(&mapping, sizeof(mapping));
	twin_has_mapped();
	pri_commit(3);
	lab_until(lab.sec.twin.epoch == 4 && lab.sec.fsm.state == SEC_TWIN);
	assert_int_equal(nd->seqs->count, 0);
	end_send(&lab.mirror, FRAME_MAPPED, 3, &mapping, sizeof(mapping)); /* too late */
	lab_settle();
	assert_int_equal(nd->seqs->count, 0);
	assert_true(mirror_is_up(&lab.sec.twin.mirror));
	pri_hang_up();
	lab_until(lab.taken);
	assert_int_equal(nd->seqs->count, 0);
}

static void mappings_that_are_none(void **state)
{
	struct wire_mapped bad = mapping;

	bad.version = 5;
	for (unsigned i = 0; i < 2; i++) {
		lab_reach(SEC_TWIN);
		pri_maps(i ? &mapping : &bad, sizeof(mapping) - i);
		lab_until(!mirror_is_up(&lab.sec.twin.mirror));
		assert_int_equal(logged("warning: primary: mirror: m"), 1);
		lab_teardown(state);
		lab_setup(state);
	}
}

static void it_is_gone_after_a_hand_over(void **state)
{
	lab_reach(SEC_STANDBY);
	pri_mirror();
	pri_hand_over(5);
	end_expect(&lab.main, FRAME_RUNS, NULL);
	pri_gone();
	lab_until(lab.taken);
	assert_false(mirror_is_up(&lab.sec.twin.mirror));
}

static int setup(void **state)
{
	int r = lab_setup(state);

	lab_without_shared();
	return r;
}

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(a_second_mirror_is_dropped),
		LAB_TEST(its_connection_goes_on),
		LAB_TEST(its_end_is_known),
		LAB_TEST(it_adds_to_what_the_primary_has),
		LAB_TEST(too_many_mappings),
		LAB_TEST(without_an_answer_it_is_over),
		LAB_TEST(a_checkpoint_has_the_numbers),
		LAB_TEST(mappings_that_are_none),
		LAB_TEST(it_is_gone_after_a_hand_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
