/* Guests that ask for much at once: devices take turns, and a pause finds what is left. */
#include "tests/unit/libvirtio.h"

#include "devices/virtio_console.h"

#define TX    1
#define BUSY  0 /* slots: one that has much to do, */
#define LIGHT 1 /* and one that has little */
#define MANY  100

struct fix {
	struct rig rig;
	struct device *dev[2];
	struct rig_q q[2];
	struct rig_out out[2];
	struct loop_op timer;
	unsigned ticks;
};

static void make(struct fix *f, unsigned slot)
{
	struct mdev md = rig_mdev(MDEV_CONSOLE, slot);

	assert_int_equal(virtio_console_new(&f->rig.env, &md, rig_deliver, &f->out[slot],
					    &f->dev[slot], NULL),
			 0);
}

static void start(struct fix *f, unsigned slot)
{
	struct rig *r = &f->rig;

	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 3);
	rig_accept(r, slot, 1ull << VIRTIO_F_VERSION_1);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0xb);
	f->q[slot] = rig_q(r, TX, slot, 128);
	rig_set_queue(r, slot, TX, 128, f->q[slot].desc, f->q[slot].availr, f->q[slot].used);
	rig_set(r, slot, VIRTIO_MMIO_STATUS, 0xf);
}

static void tick(struct loop_op *op, int res)
{
	struct fix *f = op->arg;

	f->ticks++;
	loop_timer_set(&f->rig.loop, op, 0);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	uint8_t *p;

	rig_init(&f->rig, 1 << 20);
	for (unsigned slot = 0; slot < 2; slot++) {
		make(f, slot);
		start(f, slot);
	}
	rig_settle(&f->rig);
	p = rig_ptr(&f->rig, RIG_DATA);
	for (unsigned i = 0; i < MANY; i++)
		p[i] = (uint8_t)i;
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	loop_timer_del(&f->rig.loop, &f->timer);
	for (unsigned slot = 0; slot < 2; slot++)
		f->dev[slot]->ops->free(f->dev[slot]);
	rig_done(&f->rig);
	free(f);
	return 0;
}

/* n chains of a byte each: their numbers. */
static void ask(struct fix *f, unsigned slot, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct rig_seg s = {RIG_DATA + i, 1, false};

		rig_add(&f->q[slot], &s, 1);
	}
	rig_kick(&f->rig, slot, TX);
}

static void rounds(struct fix *f, unsigned n)
{
	while (n--)
		assert_int_equal(loop_run_once(&f->rig.loop, 0), 0);
}

/* Each has a turn in two rounds, and the timer has one in each, whatever the busy one has left. */
static void devices_take_turns(void **state)
{
	struct fix *f = *state;

	f->timer = (struct loop_op){.fn = tick, .arg = f};
	loop_timer_set(&f->rig.loop, &f->timer, 0);
	ask(f, BUSY, MANY);
	ask(f, LIGHT, 3);
	for (unsigned i = 1; i <= 3; i++) {
		rounds(f, 2);
		assert_int_equal(f->out[BUSY].n, i);
		assert_int_equal(f->out[LIGHT].n, i);
		assert_int_equal(f->ticks, 2 * i);
	}
	rounds(f, MANY);
	assert_int_equal(f->out[BUSY].n, MANY);
	assert_int_equal(rig_used_idx(&f->q[BUSY]), MANY);
}

/* Only one kick ever came: a pause in the middle must not lose it. */
static void quiet_in_the_middle(void **state)
{
	struct fix *f = *state;
	unsigned n;

	ask(f, BUSY, 20);
	rounds(f, 5);
	n = f->out[BUSY].n;
	assert_in_range(n, 1, 19);
	f->dev[BUSY]->ops->quiet(f->dev[BUSY], true);
	rounds(f, 20);
	assert_int_equal(f->out[BUSY].n, n);
	f->dev[BUSY]->ops->quiet(f->dev[BUSY], false);
	rounds(f, 30);
	assert_int_equal(f->out[BUSY].n, 20);
}

/* And whoever takes over does the rest, from memory and state as they were. */
static void saved_in_the_middle(void **state)
{
	struct fix *f = *state;
	struct device *d = f->dev[BUSY];
	size_t size = d->ops->state->size;
	uint8_t *pod = malloc(size), *ram = malloc(RIG_MEM);
	unsigned n;

	ask(f, BUSY, 20);
	rounds(f, 5);
	d->ops->quiet(d, true);
	rounds(f, 3);
	d->ops->save(d);
	memcpy(pod, d->pod, size);
	memcpy(ram, f->rig.mem.base, RIG_MEM);
	d->ops->quiet(d, false);
	n = f->out[BUSY].n;
	rounds(f, 2); /* goes on, and dies */
	assert_in_range(f->out[BUSY].n, n + 1, 19);
	memcpy(f->rig.mem.base, ram, RIG_MEM);
	f->out[BUSY].n = f->out[BUSY].bytes = n;
	d->ops->load(d, pod);
	rounds(f, 3);
	assert_int_equal(f->out[BUSY].n, n); /* stands by */
	d->ops->resume(d);
	rounds(f, 30);
	assert_int_equal(f->out[BUSY].n, 20);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(f->out[BUSY].data[i], i);
	assert_int_equal(d->faults, 0);
	free(pod);
	free(ram);
}

/* A reset by the guest ends it at once. */
static void reset_in_the_middle(void **state)
{
	struct fix *f = *state;
	unsigned n;

	ask(f, BUSY, 20);
	rounds(f, 5);
	n = f->out[BUSY].n;
	rig_set(&f->rig, BUSY, VIRTIO_MMIO_STATUS, 0);
	rounds(f, 5);
	assert_int_equal(f->out[BUSY].n, n);
	start(f, BUSY);
	ask(f, BUSY, 2);
	rounds(f, 9);
	assert_int_equal(f->out[BUSY].n, n + 2);
	assert_int_equal(f->dev[BUSY]->faults, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(devices_take_turns),
		T(quiet_in_the_middle),
		T(saved_in_the_middle),
		T(reset_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
