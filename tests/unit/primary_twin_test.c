/* A primary whose guest runs at the secondary, too: what leaves by comparison, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "net/seqmap.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libcompare.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libsegment.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libtwin.h"

static void what_both_say_leaves(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	n = seal(r);
	prints(r, 3);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	twin_prints(r, n, 3); /* of the epoch before */
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	twin_prints(r, n + 1, 3);
	settle(r);
	assert_int_equal(fake_vm.printed, 3);
}

/* On another connection its word may come first: what is held of the epoch before leaves before. */
static void not_before_what_the_ack_lets_go(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	prints(r, 10);
	n = seal(r);
	prints(r, 3);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	twin_prints(r, n + 1, 3);
	settle(r);
	assert_int_equal(lockstep_compares(&r->pri.mirroring.lockstep), 1);
	assert_int_equal(fake_vm.printed, 0);
	prints(r, 4); /* nor is this ahead of it */
	twin_prints(r, n + 1, 4);
	settle(r);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 17);
	assert_int_equal(r->vm.obuf.held, 0);
}

/* From its second half on, whenever the first came. */
static void how_soon_a_difference_is_sealed(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;
	uint64_t n;

	meet(r);
	n = seal(r);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	settle(r);
	prints(r, 1);
	time_jump(7 * MS);
	twin_text[0] = 'x';
	twin_prints(r, n + 1, 1);
	twin_text[0] = 0;
	loop_until(&r->loop, lockstep_wants(l));
	assert_int_equal(l->stats.differences[COMPARE_BYTES], 1);
	time_jump(3 * MS); /* the loop is away */
	loop_until(&r->loop, (peer_reads(r), r->ended == n + 1));
	assert_int_equal(l->stats.asked_ns, 3 * MS);
	assert_int_equal(fake_vm.printed, 0);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(fake_vm.printed, 1);
	seal(r); /* which nothing asked for */
	assert_int_equal(l->stats.asked_ns, 3 * MS);
	assert_int_equal(l->stats.asked_max_ns, 3 * MS);
}

/* Of what answers a client: it has a key; it is tagged, first with 0, which is none. */
enum { WITH_KEY = 1, WITH_TAGS = 2 };

static unsigned answers_with;

/* STEADY, and a twin that runs. */
static uint64_t run_twin(struct rig *r)
{
	answers_with = 0;
	return twin_run(r);
}

/* --- inputs ----------------------------------------------------------------------------------- */

/* Behind the serial port, a disk and a console. */
#define RNG_DEVICE     3u
#define BALLOON_DEVICE 4u

static const char *told_input(struct rig *r, uint64_t epoch, uint32_t device, uint32_t place)
{
	static char data[64];
	struct wire_input w;
	bool came = false;
	struct frame f;

	loop_until(&r->loop, came || (came = stream_recv(&r->mirror, &f) == 1));
	assert_int_equal(f.type, FRAME_INPUT);
	assert_int_equal(f.epoch, epoch);
	assert_in_range(f.length, sizeof(w) + 1, sizeof(w) + sizeof(data) - 1);
	memcpy(&w, f.data, sizeof(w));
	assert_int_equal(w.device, device);
	assert_int_equal(w.place, place);
	memcpy(data, f.data + sizeof(w), f.length - sizeof(w));
	data[f.length - sizeof(w)] = 0;
	return data;
}

/* Of all devices in one order; where the twin does not run from, nothing goes to it. */
static void inputs_have_their_place(void **state)
{
	struct rig *r = *state;
	const struct inputs *in = &r->vm.devices.inputs;
	const struct device *rng;
	struct netdev *nd;
	uint64_t n;

	meet(r);
	rng = r->vm.devices.devs[RNG_DEVICE];
	nd = &r->vm.devices.nets[RIG_NET];
	inputs_given(in, rng, "none", 4);
	n = next(r);
	inputs_given(in, rng, "one", 3);
	netdev_given(nd, "two", 3);
	inputs_given(in, rng, "three", 5);
	assert_string_equal(told_input(r, n, RNG_DEVICE, 1), "one");
	assert_string_equal(told_input(r, n, RNG_DEVICE + 2, 2), "two");
	assert_string_equal(told_input(r, n, RNG_DEVICE, 3), "three");
	assert_int_equal(next(r), n + 1);
	inputs_given(in, rng, "again", 5);
	assert_string_equal(told_input(r, n + 1, RNG_DEVICE, 1), "again");
	assert_int_equal(r->pri.mirroring.lockstep.stats.inputs, 4);
	mirroring_stop(&r->pri.mirroring);
	assert_null(in->given);
	assert_true(inputs_ready(in));
}

/* By whoever takes them from outside. */
static void what_is_asked_for_is_an_input(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	assert_int_equal(serial_input(r->vm.devices.serial, "typed", 5), 5);
	assert_string_equal(told_input(r, n, 0, 1), "typed");
	virtio_balloon_set_target(r->vm.devices.devs[BALLOON_DEVICE], 0x646362);
	assert_string_equal(told_input(r, n, BALLOON_DEVICE, 2), "bcd");
}

/* Those that can wait do; one that cannot is a difference. */
static void inputs_without_room(void **state)
{
	static uint8_t much[4000];
	struct rig *r = *state;
	const struct inputs *in = &r->vm.devices.inputs;

	run_twin(r);
	for (unsigned n = 0; inputs_ready(in); n++) {
		assert_in_range(n, 0, 10000);
		inputs_given(in, r->vm.devices.devs[RNG_DEVICE], much, sizeof(much));
	}
	assert_false(lockstep_wants(&r->pri.mirroring.lockstep));
	for (unsigned n = 0; !lockstep_wants(&r->pri.mirroring.lockstep); n++) {
		assert_in_range(n, 0, 10000);
		inputs_given(in, r->vm.devices.devs[RNG_DEVICE], much, sizeof(much));
	}
	assert_true(inputs_ready(in)); /* of no twin */
}

/* --- TCP connections -------------------------------------------------------------------------- */

#define TWIN_ISN 5000u

static int net_sink(const struct rig *r)
{
	unsigned i = 0;

	while (r->vm.obuf.sinks[i].arg != &r->vm.devices.nets[RIG_NET])
		i++;
	return (int)i;
}

/* A SYN that answers a client's, from the guest at either side. */
static uint32_t answer_syn(uint8_t *buf, uint16_t port, uint32_t seq)
{
	static const uint8_t tags[] = {0x81, 0, 0x20, 0, 0x81, 0, 0x20, 7};
	struct libcompare_segment s = {.version = 4,
				       .port = port,
				       .flags = PACKET_SYN | PACKET_ACK,
				       .seq = seq,
				       .ack = 51};
	uint8_t *type = buf + 12 + 12;
	uint32_t len;

	if (answers_with & WITH_KEY) {
		s.options = "\36\4__";
		s.option_words = 1;
	}
	len = libcompare_tcp(buf, &s);
	if (!(answers_with & WITH_TAGS))
		return len;
	memmove(type + sizeof(tags), type, len - 12 - 12);
	memcpy(type, tags, sizeof(tags));
	return len + (uint32_t)sizeof(tags);
}

static void accepts_at(struct rig *r, uint16_t port, uint32_t seq)
{
	uint8_t frame[300];
	struct iovec iov = {frame, answer_syn(frame, port, seq)};

	assert_int_equal(obuf_put(&r->vm.obuf, net_sink(r), &iov, 1), 0);
}

static void accepts(struct rig *r, uint16_t port)
{
	accepts_at(r, port, 100);
}

static void twin_accepts(struct rig *r, uint64_t epoch, uint16_t port, uint32_t seq)
{
	struct {
		struct wire_output w;
		uint8_t frame[300];
	} out = {.w.sink = (uint32_t)net_sink(r)};

	peer_mirrors(r, FRAME_OUTPUT, epoch, &out,
		     sizeof(out.w) + answer_syn(out.frame, port, seq));
}

static struct wire_mapped told_mapping(struct rig *r, uint64_t epoch)
{
	struct wire_mapped w;
	bool came = false;
	struct frame f;

	loop_until(&r->loop, came || (came = stream_recv(&r->mirror, &f) == 1));
	assert_int_equal(f.type, FRAME_MAPPED);
	assert_int_equal(f.epoch, epoch);
	assert_int_equal(f.length, sizeof(w));
	memcpy(&w, f.data, sizeof(w));
	return w;
}

/* A client that hears of it before the twin knows the number could not go on with the twin. */
static void a_connection_waits_until_the_twin_has_its_number(void **state)
{
	struct rig *r = *state;
	struct wire_mapped w;
	uint64_t n = run_twin(r);

	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100 + TWIN_ISN);
	w = told_mapping(r, n);
	assert_int_equal(w.delta, TWIN_ISN);
	assert_int_equal(w.ts_delta, 0);
	assert_int_equal(w.version, 4);
	assert_int_equal(w.guest_port, 80);
	assert_int_equal(w.peer_port, 1000);
	assert_memory_equal(w.guest, "\x0a\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_memory_equal(w.peer, "\x0a\0\0\x63\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	settle(r);
	assert_int_equal(fake_vm.frames, 0);
	peer_mirrors(r, FRAME_MAPPED, n - 1, NULL, 0); /* of the epoch before */
	settle(r);
	assert_int_equal(fake_vm.frames, 0);
	peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	assert_int_equal(lockstep_compares(&r->pri.mirroring.lockstep), 1);
}

/* Many begin, and each waits for its own number only. */
static void each_connection_waits_for_its_own(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	for (uint16_t i = 0; i < 5; i++) {
		accepts(r, (uint16_t)(1000 + i));
		twin_accepts(r, n, (uint16_t)(1000 + i), 100 + TWIN_ISN + i);
		assert_int_equal(told_mapping(r, n).delta, TWIN_ISN + i);
	}
	for (unsigned i = 0; i < 5; i++) {
		settle(r);
		assert_int_equal(fake_vm.frames, i);
		peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	}
	settle(r);
	assert_int_equal(fake_vm.frames, 5);
	assert_int_equal(r->pri.mirroring.lockstep.marked, 0);
	accepts(r, 2000); /* might be in place of one that was told */
	twin_accepts(r, n, 2000, 100);
	assert_int_equal(told_mapping(r, n).delta, 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 5);
	peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 6);
}

static void the_same_numbers_need_no_word(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	assert_int_equal(r->pri.mirroring.lockstep.stats.connections, 0);
}

/* Keys of its own are in the twin's, whatever its numbers are. */
static void what_nobody_can_translate_needs_a_checkpoint(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	answers_with = WITH_KEY;
	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100);
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	settle(r);
	assert_int_equal(fake_vm.frames, 0);
	assert_int_equal(r->pri.mirroring.lockstep.stats.unmapped, 1);
	assert_int_equal(r->pri.mirroring.lockstep.stats.connections, 1);
}

/* As whoever translates reads them. */
static void a_tag_that_is_none(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);
	struct wire_mapped w;

	answers_with = WITH_TAGS;
	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100 + TWIN_ISN);
	w = told_mapping(r, n);
	assert_int_equal(w.vlan[0], 7);
	assert_int_equal(w.vlan[1], 0);
	assert_int_equal(w.peer_port, 1000);
}

/* A checkpoint lets them go, whoever has which number; its answers are too late then. */
static void a_checkpoint_is_as_good(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100 + TWIN_ISN);
	told_mapping(r, n);
	assert_int_equal(seal(r), n);
	rig_cause(r, PRI_EV_ACK);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	accepts(r, 1001);
	twin_accepts(r, n + 1, 1001, 100 + TWIN_ISN);
	told_mapping(r, n + 1);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	peer_mirrors(r, FRAME_MAPPED, n + 1, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 2);
}

static void too_many_connections_are_a_difference(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);
	uint16_t i = 0;

	for (; i < SEQMAP_MAX; i++) {
		accepts(r, (uint16_t)(1000 + i));
		twin_accepts(r, n, (uint16_t)(1000 + i), 100 + TWIN_ISN);
		told_mapping(r, n);
		peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	}
	settle(r);
	assert_int_equal(fake_vm.frames, SEQMAP_MAX);
	accepts(r, (uint16_t)(1000 + i));
	twin_accepts(r, n, (uint16_t)(1000 + i), 100 + TWIN_ISN);
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(fake_vm.frames, SEQMAP_MAX);
	assert_int_equal(r->pri.mirroring.lockstep.stats.unmapped, 1);
}

static void reset(struct seqmap *m, uint16_t port)
{
	static uint8_t frame[SEGMENT_FRAME_MAX];
	struct made_segment d = {.version = 4, .from_guest = true, .flags = 4, .port = port};

	seqmap_see(m, frame, segment_make(&d, frame));
}

/* Of a takeover before; the twin has it, too, as it was at the checkpoint. */
static void ended_connections_leave_room(void **state)
{
	struct rig *r = *state;
	struct seqmap *m;
	uint64_t n;

	run_twin(r);
	m = r->vm.devices.env.seqs;
	for (uint16_t port = 0; port < SEQMAP_MAX; port++) {
		struct seqmap_flow f = segment_flow(4, port);

		assert_int_equal(seqmap_set(m, &f, 1, 0), 0);
	}
	reset(m, 7);
	n = next(r);
	reset(m, 8); /* too late */
	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100 + TWIN_ISN);
	told_mapping(r, n);
	peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	accepts(r, 1001);
	twin_accepts(r, n, 1001, 100 + TWIN_ISN);
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(r->pri.mirroring.lockstep.stats.unmapped, 1);
	n = next(r);
	accepts(r, 1002);
	twin_accepts(r, n, 1002, 100 + TWIN_ISN);
	told_mapping(r, n);
}

/* In what both sides save; a dump or a snapshot in between is of no side's epoch. */
static void a_seal_forgets_what_is_over(void **state)
{
	struct seqmap_flow f = segment_flow(4, 7);
	struct rig *r = *state;
	struct seqmap *m;
	size_t cap;
	void *buf;

	run_twin(r);
	m = r->vm.devices.env.seqs;
	assert_int_equal(seqmap_set(m, &f, 1, 0), 0);
	reset(m, 7);
	next(r);
	seqmap_find(m, &f)->quiet_ns = 1;
	time_jump(S);
	cap = vm_state_bound(&r->vm);
	buf = malloc(cap);
	r->vm.running = false;
	assert_true(vm_save(&r->vm, buf, cap) > 0);
	r->vm.running = true;
	free(buf);
	assert_int_equal(m->count, 1);
	next(r);
	assert_int_equal(m->count, 0);
	/* Once a second. */
	assert_int_equal(seqmap_set(m, &f, 1, 0), 0);
	reset(m, 7);
	seqmap_find(m, &f)->quiet_ns = 1;
	r->pri.engine.ticked_ns = loop_now_ns() + (uint64_t)time_left(&r->pri.timer_op);
	next(r);
	assert_int_equal(m->count, 1);
}

#define PIECE 60000u

static struct {
	struct wire_output w;
	uint8_t frame[PIECE + LIBCOMPARE_ROOM];
} sent;

/* Bytes of the connection of port 1000. Returns how long the frame is. */
static uint32_t make_piece(uint32_t seq, uint32_t len)
{
	static const uint8_t bytes[PIECE];
	struct libcompare_segment s = {.version = 4,
				       .port = 1000,
				       .flags = PACKET_ACK,
				       .seq = seq,
				       .ack = 51,
				       .data = bytes,
				       .len = len};

	return libcompare_tcp(sent.frame, &s);
}

static void sends(struct rig *r, uint32_t seq, uint32_t len)
{
	struct iovec iov = {sent.frame, make_piece(seq, len)};

	assert_int_equal(obuf_put(&r->vm.obuf, net_sink(r), &iov, 1), 0);
}

static void twin_sends(struct rig *r, uint64_t epoch, uint32_t seq, uint32_t len)
{
	sent.w.sink = (uint32_t)net_sink(r);
	peer_mirrors(r, FRAME_OUTPUT, epoch, &sent, sizeof(sent.w) + make_piece(seq, len));
}

/* The client has all before that. */
static void client_has(struct rig *r, uint32_t ack)
{
	struct libcompare_segment s = {.version = 4,
				       .port = 1000,
				       .from_client = true,
				       .flags = PACKET_ACK,
				       .seq = 51,
				       .ack = ack};
	uint32_t len = libcompare_tcp(sent.frame, &s);

	netdev_given(&r->vm.devices.nets[RIG_NET], sent.frame, len);
}

/* Both have a connection, of which the client has heard. Returns the epoch. */
static uint64_t connect_both(struct rig *r)
{
	uint64_t n = run_twin(r);

	accepts(r, 1000);
	twin_accepts(r, n, 1000, 100);
	settle(r);
	assert_int_equal(fake_vm.frames, 1);
	client_has(r, 101);
	return n;
}

/* What the console says is not the same, and the checkpoint is not taken yet. */
static void differ(struct rig *r, uint64_t epoch)
{
	prints(r, 1);
	twin_text[0] = 'x';
	twin_prints(r, epoch, 1);
	twin_text[0] = 0;
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
}

/* An epoch from which no twin runs is open. */
static void stand_alone(struct rig *r)
{
	r->pri.mirroring.kemari_until = UINT64_MAX;
	rig_cause(r, PRI_EV_TIMER);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	rig_cause(r, PRI_EV_ACK);
	r->pri.mirroring.kemari_until = 0;
	assert_int_equal(r->pri.mirroring.lockstep.state, LOCKSTEP_ALONE);
}

/* A client takes a port again while nobody compares: what it is told is of no connection before. */
static void ports_again(struct rig *r, bool alone)
{
	const uint32_t isn = 100 - 1000000000u;
	uint64_t n = connect_both(r);
	unsigned frames;

	if (alone)
		stand_alone(r);
	else
		differ(r, n);
	accepts_at(r, 1000, isn);
	n = next(r);
	frames = fake_vm.frames;
	assert_int_equal(frames, 2);
	sends(r, isn + 1, 5);
	settle(r);
	assert_int_equal(fake_vm.frames, frames);
	twin_sends(r, n, isn + 1, 5);
	settle(r);
	assert_int_equal(fake_vm.frames, frames + 1);
}

static void a_port_again_behind_a_difference(void **state)
{
	ports_again(*state, false);
}

static void a_port_again_without_a_twin(void **state)
{
	ports_again(*state, true);
}

/* What was put out while nobody compared is no hole in what is compared later. */
static void bytes_behind_a_difference(void **state)
{
	struct rig *r = *state;
	uint64_t n = connect_both(r);
	uint32_t seq = 101, end = seq + (9u << 20);

	differ(r, n);
	sends(r, seq, 10);
	n = next(r);
	for (seq += 10; seq < end; seq += PIECE) {
		unsigned frames = fake_vm.frames;

		client_has(r, seq);
		sends(r, seq, PIECE);
		twin_sends(r, n, seq, PIECE);
		loop_until(&r->loop,
			   fake_vm.frames > frames || lockstep_wants(&r->pri.mirroring.lockstep));
		assert_int_equal(fake_vm.frames, frames + 1);
	}
	assert_int_equal(r->pri.mirroring.lockstep.stats.differences[COMPARE_FULL], 0);
}

/* It throws them away when they come again, whatever they are. */
static void bytes_that_a_client_has(void **state)
{
	struct rig *r = *state;
	uint64_t n = connect_both(r);
	struct iovec iov = {.iov_base = sent.frame};

	sends(r, 101, 5);
	twin_sends(r, n, 101, 5);
	settle(r);
	assert_int_equal(fake_vm.frames, 2);
	differ(r, n);
	client_has(r, 106);
	next(r);
	iov.iov_len = make_piece(105, 1);
	sent.frame[iov.iov_len - 1] = '?';
	assert_int_equal(obuf_put(&r->vm.obuf, net_sink(r), &iov, 1), 0);
	settle(r);
	assert_int_equal(fake_vm.frames, 3);
}

static void an_answer_to_nothing_is_a_difference(void **state)
{
	struct rig *r = *state;
	uint64_t n = run_twin(r);

	peer_mirrors(r, FRAME_MAPPED, n, NULL, 0);
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
}

/* While a hand-over is asked for, too: who waits outside does not wait for the arbiter. */
static void a_difference_asks_for_a_seal(void **state)
{
	struct rig *r = *state;
	uint64_t n;

	meet(r);
	n = seal(r);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	rig_cause(r, PRI_EV_HAND_OVER);
	assert_int_equal(r->pri.fsm.state, PRI_ASKED);
	assert_true(time_left(&r->pri.timer_op) > 0);
	prints(r, 3);
	twin_text[0] ^= 1;
	twin_prints(r, n + 1, 3);
	twin_text[0] ^= 1;
	loop_until(&r->loop, lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(time_left(&r->pri.timer_op), 0);
	assert_int_equal(fake_vm.printed, 0);
	rig_until(r, PRI_ASKED_FLIGHT);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_DIFFER], 1);
}

/* This guest's output, and nothing of the twin's. */
static void what_is_overdue_asks_for_a_seal(void **state)
{
	struct rig *r = *state;
	const struct lockstep *l = &r->pri.mirroring.lockstep;

	r->cfg.peer_timeout_ns = 400 * MS;
	twin_run(r);
	prints(r, 3);
	time_pass(&r->loop, time_left(&l->due_op));
	loop_until(&r->loop, r->pri.fsm.state == PRI_FLIGHT);
	assert_int_equal(l->stats.differences[COMPARE_OVERDUE], 1);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_OVERDUE], 1);
}

static bool noted(void *arg, const void *data, uint32_t len)
{
	++*(unsigned *)arg;
	return true;
}

/* The twin tells nobody: that is not waited for. */
static void an_event_asks_for_a_seal(void **state)
{
	struct iovec iov = {(char[]){"guest-reset"}, 11};
	struct rig *r = *state;
	unsigned told = 0;
	uint64_t n;
	int sink;

	meet(r);
	sink = obuf_add_sink(&r->vm.obuf, OBUF_EVENT, noted, NULL, &told);
	n = seal(r);
	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	loop_until(&r->loop, r->pri.mirroring.lockstep.state == LOCKSTEP_RUNS);
	assert_false(lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(obuf_put(&r->vm.obuf, sink, &iov, 1), 0);
	assert_true(lockstep_wants(&r->pri.mirroring.lockstep));
	assert_int_equal(told, 0);
	rig_until(r, PRI_FLIGHT);
	assert_int_equal(r->ft.stats.seals[FT_SEAL_EVENT], 1);
	rig_cause(r, PRI_EV_ACK);
	assert_int_equal(told, 1);
}

/* A secondary that cannot run one hangs up, whenever it is asked. */
static void the_same_trouble_is_told_once(void **state)
{
	struct rig *r = *state;

	meet(r);
	for (unsigned i = 0; i < 3; i++) {
		stream_done(&r->mirror);
		loop_until(&r->loop, !lockstep_is_up(&r->pri.mirroring.lockstep));
		time_pass(&r->loop, time_left(&r->pri.mirroring.timer_op));
		loop_until(&r->loop, lockstep_is_up(&r->pri.mirroring.lockstep));
		peer_takes_mirror(r, 0);
	}
	assert_int_equal(logged("warning: twin: connection closed"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(what_both_say_leaves),
		RIG_TEST(not_before_what_the_ack_lets_go),
		RIG_TEST(a_difference_asks_for_a_seal),
		RIG_TEST(how_soon_a_difference_is_sealed),
		RIG_TEST(what_is_overdue_asks_for_a_seal),
		RIG_TEST(an_event_asks_for_a_seal),
		RIG_TEST(inputs_have_their_place),
		RIG_TEST(what_is_asked_for_is_an_input),
		RIG_TEST(inputs_without_room),
		RIG_TEST(a_connection_waits_until_the_twin_has_its_number),
		RIG_TEST(each_connection_waits_for_its_own),
		RIG_TEST(the_same_numbers_need_no_word),
		RIG_TEST(what_nobody_can_translate_needs_a_checkpoint),
		RIG_TEST(a_tag_that_is_none),
		RIG_TEST(a_checkpoint_is_as_good),
		RIG_TEST(too_many_connections_are_a_difference),
		RIG_TEST(ended_connections_leave_room),
		RIG_TEST(a_seal_forgets_what_is_over),
		RIG_TEST(a_port_again_behind_a_difference),
		RIG_TEST(a_port_again_without_a_twin),
		RIG_TEST(bytes_behind_a_difference),
		RIG_TEST(bytes_that_a_client_has),
		RIG_TEST(an_answer_to_nothing_is_a_difference),
		RIG_TEST(the_same_trouble_is_told_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
