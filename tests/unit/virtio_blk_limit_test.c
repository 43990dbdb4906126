/* A disk with a limit: what it holds is in the ring, and nowhere else. */
#include "tests/unit/libvirtio.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>

#include "devices/disk.h"
#include "devices/virtio.h"
#include "devices/virtio_blk.h"

#define REQUESTS 12
#define BYTES	 4096u
#define HDR	 RIG_DATA
#define STATUS	 (RIG_DATA + 0x800)
#define BUF	 (RIG_DATA + 0x10000)
#define QUEUES	 3
#define MS	 1000000ull
#define S	 1000000000ull

struct fix {
	struct rig rig;
	struct disk disk;
	struct device *dev;
	struct rig_q q[QUEUES];
	unsigned asked, submits;
	uint64_t offs[64];
};

static enum disk_verdict on_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	struct fix *f = arg;

	assert_in_range(f->submits, 0, 63);
	f->offs[f->submits++] = r->off;
	return DISK_GO;
}

static void on_hook_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct mdev md = rig_mdev(MDEV_BLK, 0);
	char path[] = "/tmp/ftvmm-limit-XXXXXX";
	int fd = mkstemp(path);

	rig_init(&f->rig, 0);
	md.bytes = 64 * BYTES;
	md.queues = QUEUES;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)md.bytes), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", path, 0, NULL), 0);
	unlink(path);
	f->disk.hook = (struct disk_hook){on_submit, on_hook_done, f, NULL};
	rig_set_clock(&f->rig.loop, 0);
	rig_now_ns = 100 * S;
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->disk, &f->dev, NULL), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_until(&f->rig, !f->disk.inflight);
	f->dev->ops->free(f->dev);
	assert_int_equal(f->rig.loop.first_timer, 0);
	disk_close(&f->disk);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void limit(struct fix *f, uint64_t bytes, uint32_t ops)
{
	virtio_blk_limit(f->dev, &(struct limit_rates){.bytes = bytes, .ops = ops});
}

/* One more request, of so many bytes; a flush has none. Where it goes says which it is. */
static void ask_on(struct fix *f, unsigned qi, uint32_t len)
{
	unsigned i = f->asked++;
	struct virtio_blk_outhdr h = {.type = len ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH,
				      .sector = len ? i * BYTES / 512 : 0};
	struct rig_seg s[3] = {{HDR + 32 * i, sizeof(h), false}, {BUF, len, false}};

	s[len ? 2 : 1] = (struct rig_seg){STATUS + i, 1, true};
	*(uint8_t *)rig_ptr(&f->rig, STATUS + i) = 0xee;
	memcpy(rig_ptr(&f->rig, s[0].gpa), &h, sizeof(h));
	rig_add(&f->q[qi], s, len ? 3 : 2);
}

static void ask(struct fix *f, unsigned n, uint32_t len)
{
	while (n--)
		ask_on(f, 0, len);
	rig_kick(&f->rig, 0, 0);
}

static unsigned used(struct fix *f)
{
	unsigned n = 0;

	for (unsigned i = 0; i < QUEUES; i++)
		n += rig_used_idx(&f->q[i]);
	return n;
}

/* So many are through by now, and no more come. */
static void check_through(struct fix *f, unsigned n)
{
	rig_until(&f->rig, used(f) >= n);
	rig_settle(&f->rig);
	assert_int_equal(used(f), n);
	assert_int_equal(f->disk.inflight, 0);
}

static void check_all(struct fix *f, unsigned n)
{
	check_through(f, n);
	for (unsigned i = 0; i < f->asked; i++)
		assert_int_equal(*(uint8_t *)rig_ptr(&f->rig, STATUS + i), VIRTIO_BLK_S_OK);
	assert_int_equal(f->dev->faults, 0);
}

static uint32_t taken(struct fix *f)
{
	const struct virtio_state *st = f->dev->pod;

	f->dev->ops->save(f->dev);
	return st->queues[0].last_avail;
}

static void without_one_no_timer(void **state)
{
	struct fix *f = *state;

	ask(f, REQUESTS, BYTES);
	check_all(f, REQUESTS);
	assert_int_equal(f->rig.loop.first_timer, 0);
	assert_int_equal(virtio_blk_held_ns(f->dev), 0);
}

static void held_in_the_ring(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 10);
	ask(f, REQUESTS, BYTES);
	check_through(f, 3); /* a tenth of a second, and two */
	assert_int_equal(taken(f), 3);
	for (unsigned i = 4; i <= REQUESTS; i++) {
		rig_now_ns += 100 * MS - 1;
		check_through(f, i - 1);
		rig_now_ns++;
		check_through(f, i);
		assert_int_equal(taken(f), i);
	}
	check_all(f, REQUESTS);
	assert_int_equal(f->submits, REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(f->offs[i], i * BYTES);
	assert_int_equal(virtio_blk_held_ns(f->dev), (REQUESTS - 3) * 100 * MS);
	/* An empty ring is not held, and the next request needs no kick of its own to be seen. */
	assert_int_equal(f->rig.loop.first_timer, 0);
	rig_now_ns += 10 * S;
	ask(f, 1, BYTES);
	check_all(f, REQUESTS + 1);
}

static void a_flush_is_an_operation(void **state)
{
	struct fix *f = *state;

	limit(f, 1 << 20, 10);
	ask(f, 5, 0);
	check_through(f, 3);
	rig_now_ns += S;
	check_all(f, 5);
}

static void bytes(void **state)
{
	struct fix *f = *state;

	limit(f, 64 * BYTES, 0);
	ask(f, 4, 4 * BYTES); /* a burst is 6.4 of them */
	check_through(f, 2);
	rig_now_ns += 24 * MS; /* owed: 1.6 */
	check_through(f, 2);
	rig_now_ns += 2 * MS;
	check_through(f, 3);
	ask(f, 3, 0); /* behind what owes */
	check_through(f, 3);
	rig_now_ns += 65 * MS;
	check_through(f, 4);
	rig_now_ns += 65 * MS;
	check_all(f, 7); /* and they cost nothing */
}

/* Zeros may have to be written, what is discarded not. */
static void zeros_are_bytes(void **state)
{
	struct virtio_blk_discard_write_zeroes z = {.num_sectors = 64 * BYTES / 512};
	struct fix *f = *state;

	limit(f, 64 * BYTES, 0);
	for (unsigned i = 0; i < 2; i++) {
		struct virtio_blk_outhdr h = {.type = i ? VIRTIO_BLK_T_WRITE_ZEROES
							: VIRTIO_BLK_T_DISCARD};
		struct rig_seg s[3] = {{HDR + 32 * i, sizeof(h), false},
				       {BUF, sizeof(z), false},
				       {STATUS + i, 1, true}};

		memcpy(rig_ptr(&f->rig, BUF), &z, sizeof(z));
		memcpy(rig_ptr(&f->rig, s[0].gpa), &h, sizeof(h));
		rig_add(&f->q[0], s, 3);
	}
	f->asked = 2;
	ask(f, 1, 0);
	check_through(f, 2);
	rig_now_ns += 899 * MS;
	check_through(f, 2);
	rig_now_ns += 2 * MS;
	check_all(f, 3);
}

/* While the device is quiet nothing is begun, whatever the time; nothing is lost by that. */
static void quiet_while_it_holds(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 10);
	ask(f, REQUESTS, BYTES);
	check_through(f, 3);
	f->dev->ops->quiet(f->dev, true);
	rig_now_ns += 10 * S;
	check_through(f, 3);
	assert_int_equal(taken(f), 3);
	f->dev->ops->quiet(f->dev, false);
	check_through(f, 6);
	rig_now_ns += S;
	check_through(f, 9);
}

/* One who takes over has all that the ring has: once, with its own limit. */
static void taken_over_while_it_holds(void **state)
{
	struct fix *f = *state;
	size_t size = f->dev->ops->state->size;
	uint8_t *pod = malloc(size), *ram = malloc(RIG_MEM);

	limit(f, 0, 10);
	ask(f, REQUESTS, BYTES);
	check_through(f, 3);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, size);
	memcpy(ram, f->rig.mem.base, RIG_MEM);
	rig_now_ns += 200 * MS;
	check_through(f, 5); /* of which the other one knows nothing */
	memcpy(f->rig.mem.base, ram, RIG_MEM);
	f->dev->ops->load(f->dev, pod);
	rig_now_ns += S;
	check_through(f, 3);
	f->dev->ops->resume(f->dev);
	check_through(f, 6);
	limit(f, 0, 0);
	check_all(f, REQUESTS);
	free(pod);
	free(ram);
}

/* What was counted when the guest asked for it is not when it is done again. */
static void what_is_done_again_is_free(void **state)
{
	struct fix *f = *state;
	size_t size = f->dev->ops->state->size;
	uint8_t *pod = malloc(size), *ram = malloc(RIG_MEM);

	disk_hold(&f->disk, true);
	ask(f, 3, BYTES);
	rig_until(&f->rig, taken(f) == 3);
	memcpy(pod, f->dev->pod, size);
	memcpy(ram, f->rig.mem.base, RIG_MEM);
	disk_hold(&f->disk, false);
	check_through(f, 3);
	memcpy(f->rig.mem.base, ram, RIG_MEM);
	f->dev->ops->load(f->dev, pod);
	limit(f, 0, 10);
	f->dev->ops->resume(f->dev);
	check_through(f, 3);
	ask(f, 3, BYTES);
	check_all(f, 6);
	free(pod);
	free(ram);
}

/* A guest that asks for a GiB of them has its disk again in the time of the largest write. */
static void many_zeros_are_one_write(void **state)
{
	struct virtio_blk_discard_write_zeroes z = {.num_sectors = 1u << 21};
	struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_WRITE_ZEROES};
	struct fix *f = *state;
	struct rig_seg s[3] = {{HDR, sizeof(h), false}, {BUF, sizeof(z), false}, {STATUS, 1, true}};

	limit(f, 1 << 20, 0);
	memcpy(rig_ptr(&f->rig, BUF), &z, sizeof(z));
	memcpy(rig_ptr(&f->rig, HDR), &h, sizeof(h));
	rig_add(&f->q[0], s, 3);
	f->asked = 1;
	ask(f, 1, 0);
	check_through(f, 1);
	rig_now_ns += S;
	check_through(f, 2);
}

static void reset_while_it_holds(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 10);
	ask(f, REQUESTS, BYTES);
	check_through(f, 3);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	rig_now_ns += S;
	rig_settle(&f->rig);
	assert_int_equal(f->submits, 3);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
	f->asked = 0;
	ask(f, 4, BYTES);
	check_through(f, 3); /* a reset brings no tokens */
	rig_now_ns += 100 * MS;
	check_all(f, 4);
}

static void set_while_it_holds(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 1);
	ask(f, REQUESTS, BYTES);
	check_through(f, 2);
	limit(f, 0, 1000);
	check_through(f, 2); /* no tokens for that alone */
	rig_now_ns += 5 * MS;
	check_through(f, 7);
	limit(f, 0, 0);
	check_all(f, REQUESTS);
}

static void freed_while_it_holds(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 1);
	ask(f, REQUESTS, BYTES);
	check_through(f, 2); /* the teardown looks for its timer */
}

/* A queue that always has something does not keep the others from theirs. */
static void queues_take_turns(void **state)
{
	struct fix *f = *state;

	limit(f, 0, 10);
	for (unsigned i = 0; i < 8; i++) {
		ask_on(f, 0, BYTES);
		ask_on(f, 2, BYTES);
	}
	rig_kick(&f->rig, 0, 0);
	rig_kick(&f->rig, 0, 2);
	check_through(f, 3);
	for (unsigned i = 4; i <= 11; i++) {
		rig_now_ns += 100 * MS;
		check_through(f, i);
	}
	assert_in_range(rig_used_idx(&f->q[0]), 4, 7);
	assert_in_range(rig_used_idx(&f->q[2]), 4, 7);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(without_one_no_timer),      T(held_in_the_ring),
		T(a_flush_is_an_operation),   T(bytes),
		T(zeros_are_bytes),	      T(quiet_while_it_holds),
		T(taken_over_while_it_holds), T(what_is_done_again_is_free),
		T(taken_over_while_it_holds), T(many_zeros_are_one_write),
		T(taken_over_while_it_holds), T(reset_while_it_holds),
		T(set_while_it_holds),	      T(freed_while_it_holds),
		T(queues_take_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
