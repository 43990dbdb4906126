/* Rings and buffers that are still to come: the loop takes nothing of them, and loses nothing. */
#include "tests/unit/liblate.h"
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>

#include "devices/disk.h"
#include "devices/virtio.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_rng.h"

#define BUF(i) (RIG_DATA + 0x10000 + 0x1000ull * (i))

/* --- a queue -----------------------------------------------------------------------------------
 */

struct fix {
	struct rig rig;
	struct late late;
	struct virtq_state st;
	struct virtq vq;
	struct rig_q q;
	struct virtq_chain c;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 0);
	late_init(&f->late, &f->rig.mem);
	f->q = rig_q(&f->rig, 0, 0, 8);
	f->st = (struct virtq_state){
		.desc = f->q.desc, .avail = f->q.availr, .used = f->q.used, .size = 8, .ready = 1};
	f->vq = (struct virtq){.st = &f->st, .mem = &f->rig.mem, .indirect = true};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_done(&f->rig);
	free(f);
	return 0;
}

static void nothing_to_take(struct fix *f, gpa_t absent)
{
	uint16_t last = f->st.last_avail;

	assert_int_equal(virtq_pop(&f->vq, &f->c), 0);
	assert_true(f->vq.absent);
	assert_false(virtq_kick_on(&f->vq, 0)); /* or the loop would go round for ever */
	assert_false(virtq_kick_on(&f->vq, 1));
	assert_int_equal(f->st.last_avail, last);
	assert_int_equal(f->vq.inuse, 0);
	assert_true(late_bring(&f->late, absent));
}

static void rings_that_are_absent(void **state)
{
	struct fix *f = *state;
	const gpa_t rings[] = {f->q.desc, f->q.availr, f->q.used};
	struct rig_seg s = {BUF(0), 8, false};

	for (int event_idx = 0; event_idx < 2; event_idx++) {
		f->vq.event_idx = event_idx;
		for (unsigned i = 0; i < 3; i++) {
			uint16_t head = rig_add(&f->q, &s, 1);

			late_take(&f->late, rings[i]);
			virtq_kick_off(&f->vq);
			assert_int_equal(virtq_waiting(&f->vq), 0);
			nothing_to_take(f, rings[i]);
			assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
			assert_false(f->vq.absent);
			assert_int_equal(f->c.head, head);
			assert_int_equal(virtq_push(&f->vq, head, 0), 0);
			late_take(&f->late, rings[i]);
			assert_true(virtq_should_signal(&f->vq)); /* better once too often */
			late_bring(&f->late, rings[i]);
		}
	}
}

static void the_order_is_kept(void **state)
{
	struct fix *f = *state;
	struct rig_seg a[2] = {{BUF(0), 8, false}, {BUF(1) + 4090, 100, true}}; /* of two pages */
	struct rig_seg b = {BUF(5), 8, false};
	uint16_t first = rig_add(&f->q, a, 2), second = rig_add(&f->q, &b, 1);

	late_take(&f->late, BUF(0));
	late_take(&f->late, BUF(2));
	nothing_to_take(f, BUF(0)); /* both were asked for at once */
	nothing_to_take(f, BUF(2));
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(f->c.head, first);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(f->c.head, second);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 0);
	assert_false(f->vq.absent);
}

static void indirect_tables(void **state)
{
	struct fix *f = *state;
	struct vring_desc *table = rig_ptr(&f->rig, BUF(3));

	table[0] = (struct vring_desc){BUF(4), 8, VRING_DESC_F_WRITE, 0};
	*rig_desc(&f->q, 0) = (struct vring_desc){BUF(3), 16, VRING_DESC_F_INDIRECT, 0};
	rig_post(&f->q, 0);
	late_take(&f->late, BUF(3));
	late_take(&f->late, BUF(4));
	nothing_to_take(f, BUF(3));
	nothing_to_take(f, BUF(4));
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(f->c.write_bytes, 8);
}

static void reload_says_so(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {BUF(0), 8, false};
	uint16_t head = rig_add(&f->q, &s, 1);

	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	late_take(&f->late, BUF(0));
	assert_int_equal(virtq_reload(&f->vq, head, &f->c), -EAGAIN);
	assert_true(f->vq.absent);
	assert_true(late_bring(&f->late, BUF(0)));
	assert_int_equal(virtq_reload(&f->vq, head, &f->c), 0);
	/* What is broken is so whether it is here or not. */
	*rig_desc(&f->q, head) = (struct vring_desc){RIG_MEM, 8, 0, 0};
	assert_int_equal(virtq_reload(&f->vq, head, &f->c), -EBADMSG);
}

/* What the guest gives back need not come first. */
static void buffers_that_are_only_named(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {BUF(0), 0x2000, true};

	f->vq.untouched = true;
	late_take(&f->late, BUF(0));
	late_take(&f->late, BUF(1));
	rig_add(&f->q, &s, 1);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_false(late_bring(&f->late, BUF(0)) || late_bring(&f->late, BUF(1)));
}

/* Of several chains that a frame needs the second is absent: those taken are given back. */
static void a_part_is_given_back(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{BUF(0), 8, true}, {BUF(1), 8, true}};
	uint16_t head = rig_add(&f->q, &s[0], 1);

	rig_add(&f->q, &s[1], 1);
	rig_add(&f->q, &s[0], 1);
	late_take(&f->late, BUF(1));
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 0);
	virtq_unpop(&f->vq, 1);
	assert_false(virtq_kick_on(&f->vq, 1)); /* three wait, and yet there is nothing to do */
	assert_true(late_bring(&f->late, BUF(1)));
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(f->c.head, head);
}

/* --- devices -----------------------------------------------------------------------------------
 */

static void a_device_looks_again(void **state)
{
	struct rig rig;
	struct late late;
	struct rig_q q;
	struct device *d;
	struct mdev md = rig_mdev(MDEV_RNG, 0);
	struct rig_seg s[2] = {{BUF(0), 64, true}, {BUF(1), 64, true}};

	rig_init(&rig, 0);
	late_init(&late, &rig.mem);
	assert_int_equal(virtio_rng_new(&rig.env, &md, &d, NULL), 0);
	rig_start(&rig, 0, rig_offered(&rig, 0), &q, 1, 8);
	late_take(&late, BUF(0));
	late_take(&late, q.availr);
	rig_kick(&rig, 0, 0);
	rig_settle(&rig);
	assert_null(rig.loop.work); /* nothing that takes turns for nothing */
	late_bring(&late, q.availr);
	rig_add(&q, &s[0], 1);
	rig_add(&q, &s[1], 1);
	d->ops->arrived(d);
	rig_settle(&rig);
	assert_null(rig.loop.work);
	assert_int_equal(rig_used_idx(&q), 0);
	assert_true(late_bring(&late, BUF(0)));
	d->ops->arrived(d);
	rig_until(&rig, rig_used_idx(&q) == 2);
	assert_int_equal(d->faults, 0);
	/* Nothing is left for want of anything: no look at all. */
	d->ops->arrived(d);
	assert_null(rig.loop.work);
	d->ops->free(d);
	rig_done(&rig);
}

#define QUEUES	   2
#define DISK_BYTES (1u << 20)

struct disks {
	struct rig rig;
	struct late late;
	struct disk disk;
	struct device *d;
	struct rig_q qs[QUEUES];
	uint64_t offs[16];
	unsigned submits;
	char path[64];
};

static enum disk_verdict on_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	struct disks *f = arg;

	f->offs[f->submits++ % 16] = r->off;
	return DISK_GO;
}

static void on_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
}

static int setup_disk(void **state)
{
	struct disks *f = calloc(1, sizeof(*f));
	struct mdev md = rig_mdev(MDEV_BLK, 0);
	int fd;

	rig_init(&f->rig, 0);
	late_init(&f->late, &f->rig.mem);
	strcpy(f->path, "/tmp/ftvmm-late-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", f->path, 0, NULL), 0);
	f->disk.hook = (struct disk_hook){on_submit, on_done, f, NULL};
	md.bytes = DISK_BYTES;
	md.queues = QUEUES;
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->disk, &f->d, NULL), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->qs, QUEUES, 8);
	*state = f;
	return 0;
}

static int teardown_disk(void **state)
{
	struct disks *f = *state;

	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	f->d->ops->free(f->d);
	disk_close(&f->disk);
	rig_done(&f->rig);
	unlink(f->path);
	free(f);
	return 0;
}

/* A write of sector n: all of it in a page of its own. */
static void post(struct disks *f, unsigned qi, unsigned n)
{
	struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = n};
	struct rig_seg s[3] = {
		{BUF(n), sizeof(h), false}, {BUF(n) + 512, 512, false}, {BUF(n) + 16, 1, true}};

	memcpy(rig_ptr(&f->rig, BUF(n)), &h, sizeof(h));
	rig_add(&f->qs[qi], s, 3);
	rig_kick(&f->rig, 0, qi);
}

/* Two requests, one of each queue, were at the disk; this machine has them to do again. */
static void load_in_flight(struct disks *f)
{
	size_t size = f->d->ops->state->size;
	void *pod = malloc(size);

	disk_hold(&f->disk, true);
	post(f, 0, 0);
	rig_settle(&f->rig);
	post(f, 1, 1);
	rig_settle(&f->rig);
	f->d->ops->save(f->d);
	memcpy(pod, f->d->pod, size);
	f->d->ops->load(f->d, pod);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	f->submits = 0;
	free(pod);
}

static void a_replay_waits_for_its_memory(void **state)
{
	struct disks *f = *state;

	load_in_flight(f);
	late_take(&f->late, BUF(1));
	f->d->ops->resume(f->d);
	post(f, 0, 2); /* new ones wait until the old ones have begun */
	rig_settle(&f->rig);
	assert_null(f->rig.loop.work);
	assert_int_equal(f->submits, 0);
	/* Saved meanwhile: they are in flight still. */
	f->d->ops->save(f->d);
	f->d->ops->arrived(f->d);
	rig_settle(&f->rig);
	assert_int_equal(f->submits, 0);
	assert_true(late_bring(&f->late, BUF(1)));
	f->d->ops->arrived(f->d);
	rig_until(&f->rig, rig_used_idx(&f->qs[0]) == 2 && rig_used_idx(&f->qs[1]) == 1);
	assert_int_equal(f->submits, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(f->offs[i], 512 * i);
	assert_int_equal(f->d->faults, 0);
}

/* The driver gives a queue up, or the device, whose requests wait. */
static void a_replay_that_is_not_wanted_any_more(void **state)
{
	struct disks *f = *state;

	load_in_flight(f);
	late_take(&f->late, BUF(1));
	f->d->ops->resume(f->d);
	rig_settle(&f->rig);
	rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_SEL, 1);
	rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_READY, 0);
	post(f, 0, 2);
	rig_until(&f->rig, rig_used_idx(&f->qs[0]) == 2);
	assert_int_equal(f->submits, 2);
	assert_int_equal(f->offs[0], 0);
	assert_int_equal(f->offs[1], 1024);
	late_bring(&f->late, BUF(1));
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(f->d->faults, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define D(f) cmocka_unit_test_setup_teardown(f, setup_disk, teardown_disk)
	const struct CMUnitTest tests[] = {
		T(rings_that_are_absent),
		T(the_order_is_kept),
		T(indirect_tables),
		T(reload_says_so),
		T(buffers_that_are_only_named),
		T(a_part_is_given_back),
		cmocka_unit_test(a_device_looks_again),
		D(a_replay_waits_for_its_memory),
		D(a_replay_that_is_not_wanted_any_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
