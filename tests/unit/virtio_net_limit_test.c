/* A NIC with a limit: what it holds is in the rings, or at the netdev. */
#include "tests/unit/libnic.h"
#include "tests/unit/libvirtio.h"

#define TXQ(i) (2 * (i) + 1)
#define MS     1000000ull
#define S      1000000000ull

static void start(struct fix *f, unsigned queues, uint64_t bytes, uint32_t ops)
{
	rig_set_clock(&f->rig.loop, 0);
	rig_now_ns = 100 * S;
	virtio_net_limit(f->dev, &(struct limit_rates){.bytes = bytes, .ops = ops});
	rig_start(&f->rig, 0, queues > 2 ? F(MAC) | F(MQ) | F(CTRL_VQ) : F(MAC), f->q, queues, 32);
}

/* The guest has n frames of 60 bytes on a queue. */
static void put(struct fix *f, unsigned qi, unsigned n)
{
	struct rig_seg s = {RIG_DATA, HDR + 60, false};

	nic_frame(f, 60, 0);
	while (n--)
		rig_add(&f->q[qi], &s, 1);
	rig_kick(&f->rig, 0, qi);
}

/* n frames of 60 bytes come for the guest, which has room for them. */
static void come(struct fix *f, unsigned n)
{
	static const uint8_t frame[HDR + 60];
	struct rig_seg s = {RIG_DATA + 0x20000, 2048, true};

	while (n--) {
		rig_add(&f->q[RX], &s, 1);
		assert_int_equal(write(f->peer, frame, sizeof(frame)), sizeof(frame));
	}
	rig_kick(&f->rig, 0, RX);
}

static unsigned left(struct fix *f)
{
	unsigned n = 0;

	while (nic_got(f) > 0)
		n++;
	return n;
}

static void check(struct fix *f, unsigned qi, uint16_t n)
{
	rig_until(&f->rig, rig_used_idx(&f->q[qi]) >= n);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[qi]), n);
}

static void without_one_no_timer(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 0);
	put(f, TX, 20);
	come(f, 10);
	check(f, TX, 20);
	check(f, RX, 10);
	assert_int_equal(f->rig.loop.first_timer, 0);
}

static void sent_in_time(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 10);
	put(f, TX, 8);
	check(f, TX, 3);
	assert_int_equal(left(f), 3);
	for (unsigned i = 4; i <= 8; i++) {
		rig_now_ns += 100 * MS - 1;
		check(f, TX, i - 1);
		rig_now_ns++;
		check(f, TX, i);
		assert_int_equal(left(f), 1);
	}
	assert_int_equal(virtio_net_held_ns(f->dev), 500 * MS);
	assert_int_equal(f->rig.loop.first_timer, 0);
	/* An empty ring was not held: its next frame is heard of. */
	rig_now_ns += S;
	put(f, TX, 1);
	check(f, TX, 9);
}

static void received_in_time(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 10);
	come(f, 8);
	check(f, RX, 3);
	for (unsigned i = 4; i <= 8; i++) {
		rig_now_ns += 100 * MS - 1;
		check(f, RX, i - 1);
		rig_now_ns++;
		check(f, RX, i);
	}
	assert_int_equal(virtio_net_held_ns(f->dev), 0); /* it is of the guest's own */
	rig_now_ns += S;
	come(f, 1);
	check(f, RX, 9);
}

/* Bytes of the frame alone; each direction has all of it. */
static void bytes_each_way(void **state)
{
	struct fix *f = *state;

	start(f, 2, 60 * 10 * 10, 0); /* a burst is ten frames, and two bytes */
	put(f, TX, 20);
	come(f, 20);
	check(f, TX, 11);
	check(f, RX, 11);
	rig_now_ns += 10 * MS;
	check(f, TX, 12);
	check(f, RX, 12);
}

/* What the guest has no buffers for waits here, and is not paid for twice. */
static void starved(void **state)
{
	static const uint8_t frame[HDR + 60];
	struct fix *f = *state;

	start(f, 2, 0, 10);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(write(f->peer, frame, sizeof(frame)), sizeof(frame));
	rig_settle(&f->rig);
	come(f, 0);
	rig_settle(&f->rig);
	come(f, 4);
	check(f, RX, 3);
	rig_now_ns += 100 * MS;
	check(f, RX, 4);
}

static void quiet_while_it_holds(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 10);
	put(f, TX, 8);
	come(f, 8);
	check(f, TX, 3);
	check(f, RX, 3);
	f->dev->ops->quiet(f->dev, true);
	rig_now_ns += 10 * S;
	check(f, TX, 3);
	check(f, RX, 3);
	f->dev->ops->quiet(f->dev, false);
	check(f, TX, 6);
	check(f, RX, 6);
	rig_now_ns += S;
	check(f, TX, 8);
	check(f, RX, 8);
	assert_int_equal(left(f), 8);
}

static void reset_while_it_holds(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 10);
	put(f, TX, 8);
	come(f, 8);
	check(f, TX, 3);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	rig_now_ns += S;
	rig_settle(&f->rig);
	assert_int_equal(left(f), 3);
	nic_start(f, F(MAC));
	put(f, TX, 4);
	check(f, TX, 3);
	rig_now_ns += S;
	check(f, TX, 4);
}

static void set_while_it_holds(void **state)
{
	struct fix *f = *state;

	start(f, 2, 0, 1);
	put(f, TX, 8);
	come(f, 8);
	check(f, TX, 2);
	check(f, RX, 2);
	virtio_net_limit(f->dev, &(struct limit_rates){0});
	check(f, TX, 8);
	check(f, RX, 8);
}

/* A queue that always has something does not keep the others from theirs. */
static void queues_take_turns(void **state)
{
	struct fix *f = *state;

	start(f, 2 * PAIRS + 1, 0, 10);
	put(f, TXQ(0), 20);
	put(f, TXQ(2), 20);
	rig_settle(&f->rig);
	for (unsigned i = 0; i < 10; i++) {
		rig_now_ns += 100 * MS;
		rig_settle(&f->rig);
	}
	assert_int_equal(rig_used_idx(&f->q[TXQ(0)]) + rig_used_idx(&f->q[TXQ(2)]), 13);
	assert_in_range(rig_used_idx(&f->q[TXQ(2)]), 5, 8);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	f->dev->ops->free(f->dev);
	assert_int_equal(f->rig.loop.first_timer, 0);
	close(f->nd.fd);
	close(f->peer);
	rig_done(&f->rig);
	free(f);
	return 0;
}

int main(void)
{
#define T(f)  cmocka_unit_test_setup_teardown(f, nic_setup, teardown)
#define MQ(f) cmocka_unit_test_setup_teardown(f, nic_setup_mq, teardown)
	const struct CMUnitTest tests[] = {
		T(without_one_no_timer),
		T(sent_in_time),
		T(received_in_time),
		T(bytes_each_way),
		T(starved),
		T(quiet_while_it_holds),
		T(reset_while_it_holds),
		T(set_while_it_holds),
		MQ(queues_take_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
