/* A NIC whose guest and clients count differently, and one that somebody looks over the shoulder.
 */
#include "tests/unit/libvirtio.h"

#include "net/seqmap.h"
#include "tests/unit/libnic.h"
#include "tests/unit/libsegment.h"

#define DELTA	 0x12345678u
#define TS_DELTA 77u

static uint64_t later_ns; /* than it is */

uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);

uint64_t __wrap_loop_now_ns(void)
{
	return __real_loop_now_ns() + later_ns;
}

static uint8_t frame[SEGMENT_FRAME_MAX], expected[SEGMENT_FRAME_MAX];

static struct seqmap_flow flow_of(uint16_t port)
{
	return segment_flow(4, port);
}

static void map(struct fix *f, uint16_t port)
{
	struct seqmap_flow flow = flow_of(port);

	assert_int_equal(seqmap_set(f->nd.seqs, &flow, DELTA + port, TS_DELTA), 0);
}

static struct made_segment segment(bool from_guest)
{
	return (struct made_segment){.version = 4,
				     .from_guest = from_guest,
				     .flags = 0x10,
				     .seq = 1000,
				     .ack = 2000,
				     .timestamps = true,
				     .ts_val = 5,
				     .ts_ecr = 6,
				     .payload = 99};
}

static void guest_sends(struct fix *f, const struct made_segment *d)
{
	uint32_t len = segment_make(d, frame);

	memcpy(nic_ram(f, RIG_DATA), frame, len);
	nic_send_frame(f, len - HDR);
}

/* The frame that the guest is given; into `frame`. */
static uint32_t guest_gets(struct fix *f)
{
	struct rig_seg s = {RIG_DATA + 0x10000, 4096, true};
	uint16_t want = rig_used_idx(&f->q[RX]) + 1;
	uint32_t len;

	rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == want);
	len = rig_used(&f->q[RX], (uint16_t)(want - 1))->len;
	memcpy(frame, nic_ram(f, RIG_DATA + 0x10000), len);
	return len;
}

static void client_sends(struct fix *f, const struct made_segment *d)
{
	uint32_t len = segment_make(d, frame);

	assert_int_equal(write(f->peer, frame, len), len);
}

/* num_buffers is the device's. */
static void assert_frame(const uint8_t *got, struct made_segment d, uint32_t len)
{
	assert_int_equal(segment_make(&d, expected), len);
	assert_memory_equal(got + HDR, expected + HDR, len - HDR);
}

static void frames_are_translated(void **state)
{
	struct made_segment out = segment(true), in = segment(false);
	struct fix *f = *state;
	int len;

	nic_start(f, 0);
	map(f, 0);
	guest_sends(f, &out);
	out.seq -= DELTA;
	out.ts_val += TS_DELTA;
	len = nic_got(f);
	assert_true(len > HDR);
	assert_frame(f->buf, out, (uint32_t)len);
	client_sends(f, &in);
	in.ack += DELTA;
	in.ts_ecr -= TS_DELTA;
	len = (int)guest_gets(f);
	assert_frame(frame, in, (uint32_t)len);
}

/* --- state ------------------------------------------------------------------------------------ */

static int64_t save(struct fix *f, void *buf, size_t cap)
{
	struct state_item it = {f->dev->ops->state, 0, f->dev->pod};

	f->dev->ops->save(f->dev);
	return state_encode_all(&it, 1, buf, cap);
}

static void load(struct fix *f, const void *buf, int64_t len)
{
	void *pod = calloc(1, f->dev->ops->state->size);
	struct state_item it = {f->dev->ops->state, 0, pod};
	struct err e = {0};

	assert_int_equal(state_decode_all(&it, 1, buf, (size_t)len, &e), 0);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	free(pod);
}

static void connections_are_state(void **state)
{
	struct fix *f = *state;
	size_t cap = state_bound(f->dev->ops->state);
	uint8_t *none = malloc(cap), *full = malloc(cap);
	int64_t none_len, full_len;

	nic_start(f, 0);
	none_len = save(f, none, cap);
	for (uint16_t port = 0; port < SEQMAP_MAX; port++)
		map(f, port);
	full_len = save(f, full, cap);
	assert_true(full_len > none_len + 64 * (int)SEQMAP_MAX);
	load(f, none, none_len);
	assert_int_equal(f->nd.seqs->count, 0);
	for (unsigned twice = 0; twice < 2; twice++) {
		load(f, full, full_len);
		assert_int_equal(f->nd.seqs->count, SEQMAP_MAX);
		for (uint16_t port = 0; port < SEQMAP_MAX; port++) {
			struct seqmap_flow flow = flow_of(port);
			const struct seqmap_conn *c = seqmap_find(f->nd.seqs, &flow);

			assert_non_null(c);
			assert_int_equal(c->delta, DELTA + port);
			assert_int_equal(c->ts_delta, TS_DELTA);
		}
	}
	free(none);
	free(full);
}

/* A state is saved for other reasons, too, and is to be that of whoever else has it. */
static void saving_changes_nothing(void **state)
{
	struct made_segment reset = segment(true);
	struct fix *f = *state;

	nic_start(f, 0);
	map(f, 0);
	reset.flags = 4;
	guest_sends(f, &reset);
	f->dev->ops->save(f->dev);
	later_ns += 2 * SEQMAP_LINGER_NS;
	for (unsigned i = 0; i < 3; i++) {
		f->dev->ops->save(f->dev);
		later_ns += SEQMAP_LINGER_NS;
	}
	assert_int_equal(f->nd.seqs->count, 1);
	later_ns = 0;
}

/* What came in by one NIC may go out by another. */
static void all_nics_have_one_map(void **state)
{
	struct made_segment out = segment(true);
	struct mdev md = rig_mdev(MDEV_NET, 1);
	struct netdev other = {.fd = -1};
	struct device *dev, *first;
	struct fix *f = *state;
	size_t cap = state_bound(f->dev->ops->state);
	uint8_t *none = malloc(cap), *full = malloc(cap), *buf = malloc(cap);
	int64_t none_len, full_len;

	nic_start(f, 0);
	assert_int_equal(virtio_net_new(&f->rig.env, &md, &other, &dev, NULL), 0);
	first = f->dev;
	none_len = save(f, none, cap);
	map(f, 0);
	netdev_send(&other, frame, segment_make(&out, frame));
	out.seq -= DELTA;
	out.ts_val += TS_DELTA;
	assert_frame(frame, out, segment_make(&out, expected));
	full_len = save(f, full, cap);
	assert_true(full_len > none_len);
	/* The first has it in its state, the others leave it alone. */
	f->dev = dev;
	assert_int_equal(save(f, buf, cap), none_len);
	load(f, none, none_len);
	assert_int_equal(f->nd.seqs->count, 1);
	load(f, full, full_len);
	assert_int_equal(f->nd.seqs->count, 1);
	f->dev = first;
	load(f, none, none_len);
	assert_int_equal(f->nd.seqs->count, 0);
	f->dev = dev;
	load(f, full, full_len);
	assert_int_equal(f->nd.seqs->count, 0);
	f->dev = first;
	dev->ops->free(dev);
	assert_null(other.seqs);
	assert_int_equal(save(f, buf, cap), none_len);
	free(none);
	free(full);
	free(buf);
}

/* --- who is told ------------------------------------------------------------------------------ */

static struct {
	bool ready;
	unsigned given;
	uint8_t frame[SEGMENT_FRAME_MAX];
	uint32_t len;
} told;

static bool is_ready(void *arg)
{
	return told.ready;
}

static void given(void *arg, struct netdev *nd, const void *p, uint32_t len)
{
	told.given++;
	told.len = len;
	memcpy(told.frame, p, len);
}

static void add_buffers(struct fix *f, unsigned n)
{
	struct rig_seg s = {RIG_DATA + 0x10000, 4096, true};

	while (n--)
		rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
}

/* As the guest has it, once it has it. */
static void told_what_the_guest_is_given(void **state)
{
	const struct netdev_tee tee = {is_ready, given, NULL};
	struct made_segment in = segment(false);
	struct fix *f = *state;

	memset(&told, 0, sizeof(told));
	nic_start(f, 0);
	map(f, 0);
	netdev_set_tee(&f->nd, &tee);
	client_sends(f, &in);
	add_buffers(f, 1);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]), 0); /* not ready */
	assert_int_equal(told.given, 0);
	told.ready = true;
	netdev_go_on(&f->nd);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
	assert_int_equal(told.given, 1);
	in.ack += DELTA;
	in.ts_ecr -= TS_DELTA;
	assert_frame(told.frame, in, told.len);
	/* One that waits for the guest's buffers is told when it has them. */
	in = segment(false);
	client_sends(f, &in);
	rig_settle(&f->rig);
	assert_int_equal(told.given, 1);
	add_buffers(f, 1);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 2);
	assert_int_equal(told.given, 2);
	netdev_set_tee(&f->nd, NULL);
	client_sends(f, &in);
	add_buffers(f, 1);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 3);
	assert_int_equal(told.given, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, nic_setup, nic_teardown)
		T(frames_are_translated),	 T(connections_are_state),
		T(saving_changes_nothing),	 T(all_nics_have_one_map),
		T(told_what_the_guest_is_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
