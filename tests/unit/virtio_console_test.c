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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(prints),
		T(long_chain_over_many_epochs),
		T(takes_input),
		T(gives_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
