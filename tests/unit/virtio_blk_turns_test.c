/* virtio-blk and the disk below it with much to do at once: in turns, each a request at least. */
#include "tests/unit/libvirtio.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>

#include "devices/disk.h"
#include "devices/virtio_blk.h"

#define REQUESTS 12
#define BYTES	 4096u
#define HDR	 RIG_DATA
#define STATUS	 (RIG_DATA + 0x800)
#define BUF	 (RIG_DATA + 0x10000)

struct fix {
	struct rig rig;
	struct disk disk;
	struct device *dev;
	struct rig_q q;
	unsigned submits, dones;
};

static enum disk_verdict on_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	((struct fix *)arg)->submits++;
	return DISK_GO;
}

static void on_hook_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	((struct fix *)arg)->dones++;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct mdev md = rig_mdev(MDEV_BLK, 0);
	char path[] = "/tmp/ftvmm-turns-XXXXXX";
	int fd = mkstemp(path);

	rig_init(&f->rig, 0);
	md.bytes = REQUESTS * BYTES;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)md.bytes), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", path, 0, NULL), 0);
	unlink(path);
	f->disk.hook = (struct disk_hook){on_submit, on_hook_done, f, NULL};
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->disk, &f->dev, NULL), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), &f->q, 1, 64);
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_until(&f->rig, !f->disk.inflight);
	f->dev->ops->free(f->dev);
	disk_close(&f->disk);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void round_of(struct fix *f)
{
	assert_int_equal(loop_run_once(&f->rig.loop, 0), 0);
}

/* Writes, one sector apart from each other. */
static void ask(struct fix *f)
{
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = i * BYTES / 512};
		struct rig_seg s[3] = {{HDR + 32 * i, sizeof(h), false},
				       {BUF, BYTES, false},
				       {STATUS + i, 1, true}};

		memcpy(rig_ptr(&f->rig, s[0].gpa), &h, sizeof(h));
		rig_add(&f->q, s, 3);
	}
	rig_kick(&f->rig, 0, 0);
}

static unsigned waiting(struct fix *f)
{
	unsigned n = 0;

	for (const struct disk_req *r = f->disk.queue; r; r = r->next)
		n++;
	return n;
}

/* Taken from the ring one by one. */
static void taken_in_turns(void **state)
{
	struct fix *f = *state;

	ask(f);
	for (unsigned i = 1; i <= REQUESTS; i++) {
		round_of(f);
		assert_in_range(f->submits, 1, i);
	}
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
	assert_int_equal(f->submits, REQUESTS);
}

/* All that waited for a full log go out one by one. */
static void let_go_in_turns(void **state)
{
	struct fix *f = *state;

	ask(f);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, waiting(f) == REQUESTS);
	disk_hold(&f->disk, false);
	for (unsigned i = 0; f->submits < REQUESTS; i++) {
		unsigned before = f->submits;

		assert_in_range(i, 0, 2 * REQUESTS);
		round_of(f);
		assert_in_range(f->submits, before, before + 1);
	}
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
}

/* Held again in the middle, and closed: none is lost. */
static void closed_in_the_middle(void **state)
{
	struct fix *f = *state;

	ask(f);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, waiting(f) == REQUESTS);
	disk_hold(&f->disk, false);
	round_of(f);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, f->dones == f->submits);
	assert_in_range(f->submits, 1, REQUESTS - 1);
	disk_close(&f->disk);
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(*(uint8_t *)rig_ptr(&f->rig, STATUS + i),
				 i < f->submits ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
}

/* The disk forgets its turn when it is closed. */
static void closed_before_its_turn(void **state)
{
	struct fix *f = *state;

	ask(f);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, waiting(f) == REQUESTS);
	disk_hold(&f->disk, false);
	assert_true(f->disk.work.waits);
	disk_close(&f->disk); /* with one at the kernel, as it warns */
	assert_false(f->disk.work.waits);
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
}

/* What is complete is told one by one, with a pause in the middle. */
static void told_in_turns(void **state)
{
	struct fix *f = *state;
	uint16_t told;

	f->dev->ops->quiet(f->dev, true);
	f->dev->ops->quiet(f->dev, false);
	ask(f);
	rig_set_clock(&f->rig.loop, 0);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, waiting(f) == REQUESTS);
	f->dev->ops->quiet(f->dev, true);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, f->dones == REQUESTS);
	assert_int_equal(rig_used_idx(&f->q), 0);
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(rig_used_idx(&f->q), 0);
	for (unsigned i = 1; i <= REQUESTS / 2; i++) {
		round_of(f);
		assert_int_equal(rig_used_idx(&f->q), i);
	}
	f->dev->ops->quiet(f->dev, true);
	told = rig_used_idx(&f->q);
	for (unsigned i = 0; i < 5; i++)
		round_of(f);
	assert_int_equal(rig_used_idx(&f->q), told);
	f->dev->ops->quiet(f->dev, false);
	for (unsigned i = 0; i < REQUESTS; i++)
		round_of(f);
	assert_int_equal(rig_used_idx(&f->q), REQUESTS);
}

/* A reset while answers wait: none is given, and nobody looks for them. */
static void reset_before_told(void **state)
{
	struct fix *f = *state;

	rig_set_clock(&f->rig.loop, 0);
	ask(f);
	disk_hold(&f->disk, true);
	rig_until(&f->rig, waiting(f) == REQUESTS);
	f->dev->ops->quiet(f->dev, true);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, f->dones == REQUESTS);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), &f->q, 1, 64);
	f->dev->ops->quiet(f->dev, false);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q), 0);
	ask(f);
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
	rig_settle(&f->rig);
	assert_null(f->rig.loop.work);
}

/* One who takes over writes again what was written and not told: all, and once. */
static void saved_before_told(void **state)
{
	struct fix *f = *state;
	size_t size = f->dev->ops->state->size;
	uint8_t *pod = malloc(size), *ram = malloc(RIG_MEM);

	rig_set_clock(&f->rig.loop, 0);
	ask(f);
	f->dev->ops->quiet(f->dev, true);
	f->dev->ops->quiet(f->dev, false);
	rig_until(&f->rig, f->submits == REQUESTS);
	f->dev->ops->quiet(f->dev, true);
	rig_until(&f->rig, f->dones == REQUESTS);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, size);
	memcpy(ram, f->rig.mem.base, RIG_MEM);
	f->dev->ops->quiet(f->dev, false);
	round_of(f);
	memcpy(f->rig.mem.base, ram, RIG_MEM);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	rig_until(&f->rig, rig_used_idx(&f->q) == REQUESTS);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q), REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(*(uint8_t *)rig_ptr(&f->rig, STATUS + i), VIRTIO_BLK_S_OK);
	assert_int_equal(f->dev->faults, 0);
	free(pod);
	free(ram);
}

/*
 * Rolled back again and again while the medium stalls: what was asked for before is void, and not
 * given back. What is in flight waits for that, and stays state.
 */
static void loaded_while_the_disk_stalls(void **state)
{
	struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_IN};
	struct rig_seg s[3] = {{HDR, sizeof(h), false}, {BUF, 512, true}, {STATUS, 1, true}};
	struct fix *f = *state;
	uint16_t head;

	rig_set_clock(&f->rig.loop, 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), &f->q, 1, 256);
	disk_hold(&f->disk, true);
	memcpy(rig_ptr(&f->rig, HDR), &h, sizeof(h));
	head = rig_add(&f->q, s, 3);
	for (unsigned i = 1; i < 200; i++)
		rig_post(&f->q, head);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, waiting(f) == 200);
	for (unsigned i = 0; i < 4; i++) {
		f->dev->ops->save(f->dev);
		f->dev->ops->load(f->dev, f->dev->pod);
		f->dev->ops->resume(f->dev);
		rig_settle(&f->rig);
	}
	assert_int_equal(f->dev->faults, 0);
	assert_in_range(waiting(f), 200, 512);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, rig_used_idx(&f->q) == 200);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q), 200);
	assert_int_equal(*(uint8_t *)rig_ptr(&f->rig, STATUS), VIRTIO_BLK_S_OK);
	assert_int_equal(f->dev->faults, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(taken_in_turns),	 T(let_go_in_turns),
		T(closed_in_the_middle), T(closed_before_its_turn),
		T(told_in_turns),	 T(reset_before_told),
		T(saved_before_told),	 T(loaded_while_the_disk_stalls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
