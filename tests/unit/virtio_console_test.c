/* virtio-console and virtio-rng: bytes both ways, back-pressure halfway through a chain. */
#include "tests/unit/libvirtio.h"

#include <errno.h>

#include "devices/virtio_console.h"
#include "devices/virtio_rng.h"

#define RX 0
#define TX 1

struct fix {
	struct rig rig;
	struct rig_out out;
	struct device *dev, *rng;
	struct rig_q q[2];
};

static void make(struct fix *f)
{
	struct mdev md = rig_mdev(MDEV_CONSOLE, 0);

	memset(&f->rig.bus, 0, sizeof(f->rig.bus));
	assert_int_equal(virtio_console_new(&f->rig.env, &md, rig_deliver, &f->out, &f->dev, NULL),
			 0);
	md = rig_mdev(MDEV_RNG, 1);
	assert_int_equal(virtio_rng_new(&f->rig.env, &md, &f->rng, NULL), 0);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 10000);
	make(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	f->dev->ops->free(f->dev);
	f->rng->ops->free(f->rng);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void fill(struct fix *f, uint32_t len)
{
	uint8_t *p = rig_ptr(&f->rig, RIG_DATA);

	for (uint32_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 31 + i / 256);
}

static void prints(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{RIG_DATA, 3, false}, {RIG_DATA + 3, 4, false}};
	struct rig_seg none = {RIG_DATA, 4, true};

	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, 2, 16);
	memcpy(rig_ptr(&f->rig, RIG_DATA), "console", 7);
	rig_add(&f->q[TX], s, 2);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 1);
	assert_int_equal(f->out.bytes, 7);
	assert_memory_equal(f->out.data, "console", 7);
	rig_add(&f->q[TX], &none, 1); /* nothing to read in it: an empty line's worth of nothing */
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 2);
	assert_int_equal(f->out.bytes, 7);
	rig_add(&f->q[TX], s, 2);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 3);
	assert_memory_equal(f->out.data, "consoleconsole", 14);
}

/*
 * One chain larger than the whole output buffer: taken piece by piece as epochs are released, and
 * a machine that takes over in the middle goes on at the right byte.
 */
static void long_chain_over_many_epochs(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, 60000, false};
	uint64_t epoch = 1;
	const struct state_desc *desc = f->dev->ops->state;
	uint8_t *scratch = calloc(1, desc->size);
	uint32_t sealed_bytes;

	fill(f, 60000);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, 2, 16);
	obuf_hold(&f->rig.obuf, epoch);
	rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
	for (unsigned i = 0; i < 3; i++) {
		rig_settle(&f->rig);
		assert_int_equal(rig_used_idx(&f->q[TX]), 0);
		obuf_seal(&f->rig.obuf, ++epoch);
		obuf_release(&f->rig.obuf, epoch - 1);
	}
	rig_settle(&f->rig);
	/* Seal: what was put before counts as said. */
	f->dev->ops->save(f->dev);
	memcpy(scratch, f->dev->pod, desc->size);
	obuf_seal(&f->rig.obuf, ++epoch);
	obuf_release(&f->rig.obuf, epoch - 1);
	sealed_bytes = f->out.bytes;
	assert_in_range(sealed_bytes, 1, 59999);
	rig_settle(&f->rig);

	/* The old machine dies with what it holds. */
	struct rig_out *before = malloc(sizeof(*before));

	*before = f->out;
	obuf_done(&f->rig.obuf);
	f->dev->ops->free(f->dev);
	f->rng->ops->free(f->rng);
	obuf_init(&f->rig.obuf, 10000);
	make(f);
	f->dev->ops->load(f->dev, scratch);
	f->dev->ops->resume(f->dev);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 1);
	assert_int_equal(f->out.bytes, 60000);
	assert_memory_equal(f->out.data, rig_ptr(&f->rig, RIG_DATA), 60000);
	assert_int_equal(f->dev->faults, 0);
	free(before);
	free(scratch);
}

static void takes_input(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, 10, true};
	uint8_t big[5000];

	fill(f, sizeof(big));
	memcpy(big, rig_ptr(&f->rig, RIG_DATA), sizeof(big));
	/* Before the driver is there it waits; it is bounded. */
	assert_int_equal(virtio_console_input(f->dev, big, sizeof(big)), 4096);
	assert_int_equal(virtio_console_input(f->dev, big, 1), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, 2, 16);
	for (unsigned got = 0; got < 4096;) {
		uint16_t before = rig_used_idx(&f->q[RX]);
		uint32_t len;

		memset(rig_ptr(&f->rig, RIG_DATA), 0, 10);
		rig_add(&f->q[RX], &s, 1);
		rig_kick(&f->rig, 0, RX);
		rig_until(&f->rig, rig_used_idx(&f->q[RX]) != before);
		len = rig_used(&f->q[RX], before)->len;
		assert_in_range(len, 1, 10);
		assert_memory_equal(rig_ptr(&f->rig, RIG_DATA), big + got, len);
		got += len;
	}
	rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	assert_int_equal(virtio_console_input(f->dev, "hi", 2), 2);
	uint16_t last = rig_used_idx(&f->q[RX]);

	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == (uint16_t)(last + 1));
	assert_memory_equal(rig_ptr(&f->rig, RIG_DATA), "hi", 2);
}

static void gives_random_bytes(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{RIG_DATA, 32, true}, {RIG_DATA + 0x1000, 32, true}};
	struct rig_seg huge = {RIG_DATA, 1 << 20, true};
	static const uint8_t zero[32];

	rig_start(&f->rig, 1, rig_offered(&f->rig, 1), f->q, 1, 16);
	memset(rig_ptr(&f->rig, RIG_DATA), 0, 0x2000);
	rig_add(&f->q[0], s, 2);
	rig_kick(&f->rig, 1, 0);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 1);
	assert_int_equal(rig_used(&f->q[0], 0)->len, 64);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA), zero, 32);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA + 0x1000), zero, 32);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA), rig_ptr(&f->rig, RIG_DATA + 0x1000),
				32);
	assert_memory_equal(rig_ptr(&f->rig, RIG_DATA + 32), zero, 32);
	/* A driver cannot make us fill megabytes at a time. */
	rig_add(&f->q[0], &huge, 1);
	rig_kick(&f->rig, 1, 0);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 2);
	assert_in_range(rig_used(&f->q[0], 1)->len, 1, 4096);
	/* Nothing to write to. */
	huge.write = false;
	rig_add(&f->q[0], &huge, 1);
	rig_kick(&f->rig, 1, 0);
	rig_until(&f->rig, f->rng->faults == 1);
}

/* --- both sides run the guest ----------------------------------------------------------------- */

static struct {
	bool ready;
	unsigned given, rooms;
	uint32_t len;
	uint8_t bytes[VIRTIO_RNG_MAX];
} both;

static bool both_ready(void *arg)
{
	return both.ready;
}

static void both_given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	assert_ptr_equal(d, arg);
	both.given++;
	both.len = len;
	memcpy(both.bytes, data, len);
}

static void both_room(void *arg)
{
	both.rooms++;
}

static void ask(struct fix *f, uint32_t len)
{
	struct rig_seg s = {RIG_DATA, len, true};

	memset(rig_ptr(&f->rig, RIG_DATA), 0, 8192);
	rig_add(&f->q[0], &s, 1);
	rig_kick(&f->rig, 1, 0);
}

static void begin_both(struct fix *f)
{
	memset(&both, 0, sizeof(both));
	both.ready = true;
	f->rig.inputs = (struct inputs){both_ready, both_given, both_room, f->rng};
	rig_start(&f->rig, 1, rig_offered(&f->rig, 1), f->q, 1, 16);
}

static void a_primary_tells_what_it_drew(void **state)
{
	struct fix *f = *state;

	begin_both(f);
	ask(f, 5000);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 1);
	assert_int_equal(both.given, 1);
	assert_int_equal(both.len, rig_used(&f->q[0], 0)->len);
	assert_memory_equal(both.bytes, rig_ptr(&f->rig, RIG_DATA), both.len);
	/* Not while there is no way to tell it. */
	both.ready = false;
	ask(f, 16);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[0]), 1);
	both.ready = true;
	virtio_rng_go_on(f->rng);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 2);
	assert_int_equal(both.given, 2);
	assert_int_equal(both.len, 16);
}

static void a_twin_has_the_same_answers(void **state)
{
	struct fix *f = *state;
	uint8_t bytes[VIRTIO_RNG_MAX + 1];

	memset(bytes, 0xa5, sizeof(bytes));
	begin_both(f);
	virtio_rng_feed(f->rng, true);
	/* It asks first. */
	ask(f, 64);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[0]), 0);
	assert_true(virtio_rng_put(f->rng, bytes, 40));
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 1);
	assert_int_equal(rig_used(&f->q[0], 0)->len, 40);
	assert_memory_equal(rig_ptr(&f->rig, RIG_DATA), bytes, 40);
	/* It asks later, each time for one answer; what it does not want of it is gone. */
	assert_true(virtio_rng_put(f->rng, "first", 5));
	assert_true(virtio_rng_put(f->rng, "second", 6));
	ask(f, 3);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 2);
	assert_int_equal(rig_used(&f->q[0], 1)->len, 3);
	assert_memory_equal(rig_ptr(&f->rig, RIG_DATA), "fir", 3);
	ask(f, 32);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 3);
	assert_int_equal(rig_used(&f->q[0], 2)->len, 6);
	assert_memory_equal(rig_ptr(&f->rig, RIG_DATA), "second", 6);
	assert_int_equal(both.given, 0);
}

static void a_twin_keeps_few_answers(void **state)
{
	struct fix *f = *state;
	unsigned n = 1;

	begin_both(f);
	virtio_rng_feed(f->rng, true);
	while (virtio_rng_put(f->rng, "x", 1))
		assert_in_range(++n, 1, 100);
	assert_false(virtio_rng_put(f->rng, "y", 1)); /* nobody does: it is dropped */
	assert_int_equal(both.rooms, 0);
	ask(f, 8);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 1);
	assert_int_equal(both.rooms, 1);
	assert_false(virtio_rng_put(f->rng, "z", 1));
	for (unsigned i = 1; i <= n; i++) {
		ask(f, 8);
		rig_until(&f->rig, rig_used_idx(&f->q[0]) == i + 1);
		assert_int_equal(*(char *)rig_ptr(&f->rig, RIG_DATA), i < n ? 'x' : 'z');
	}
}

/* Of a checkpoint, and of a takeover: there nobody else has the bytes that follow. */
static void a_twin_forgets_and_draws_its_own(void **state)
{
	struct fix *f = *state;
	static const uint8_t zero[32], ones[32] = {[0 ... 31] = 1};

	begin_both(f);
	virtio_rng_feed(f->rng, true);
	virtio_rng_put(f->rng, ones, 32);
	virtio_rng_feed(f->rng, true);
	ask(f, 32);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[0]), 0);
	virtio_rng_feed(f->rng, false);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 1);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA), zero, 32);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA), ones, 32);
	virtio_rng_put(f->rng, ones, 32);
	ask(f, 32);
	rig_until(&f->rig, rig_used_idx(&f->q[0]) == 2);
	assert_memory_not_equal(rig_ptr(&f->rig, RIG_DATA), ones, 32);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(prints),
		T(long_chain_over_many_epochs),
		T(takes_input),
		T(gives_random_bytes),
		T(a_primary_tells_what_it_drew),
		T(a_twin_has_the_same_answers),
		T(a_twin_keeps_few_answers),
		T(a_twin_forgets_and_draws_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
