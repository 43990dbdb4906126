/*
 * vCPU threads against the loop thread: a good driver that resets in the middle of its requests
 * (run it with V=tsan), and a hostile one that changes rings and headers while they are looked at.
 */
#include "tests/unit/libvirtio.h"

#include <linux/virtio_blk.h>
#include <pthread.h>
#include <sys/socket.h>

#include "devices/disk.h"
#include "devices/serial.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "net/netdev.h"

#define BLK 0
#define NET 1
#define CON 2

struct fix {
	struct rig rig;
	struct disk disk;
	struct netdev nd;
	int peer;
	struct device *dev[3], *serial;
	uint64_t printed;
	bool done;
};

static bool count(void *arg, const void *data, uint32_t len)
{
	(void)data;
	((struct fix *)arg)->printed += len;
	return true;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct mdev md[3] = {rig_mdev(MDEV_BLK, 0), rig_mdev(MDEV_NET, 1),
			     rig_mdev(MDEV_CONSOLE, 2)};
	char path[] = "/tmp/ftvmm-race-XXXXXX";
	int sv[2], fd = mkstemp(path);

	rig_init(&f->rig, 1 << 20);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", path, 0, NULL), 0);
	unlink(path);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	f->nd.fd = sv[0];
	f->peer = sv[1];
	assert_int_equal(virtio_blk_new(&f->rig.env, &md[0], &f->disk, &f->dev[0], NULL), 0);
	assert_int_equal(virtio_net_new(&f->rig.env, &md[1], &f->nd, &f->dev[1], NULL), 0);
	assert_int_equal(virtio_console_new(&f->rig.env, &md[2], count, f, &f->dev[2], NULL), 0);
	assert_int_equal(serial_new(&f->rig.env, count, f, &f->serial, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_until(&f->rig, !f->disk.inflight);
	for (unsigned i = 0; i < 3; i++)
		f->dev[i]->ops->free(f->dev[i]);
	f->serial->ops->free(f->serial);
	disk_close(&f->disk);
	close(f->nd.fd);
	close(f->peer);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static bool is_done(struct fix *f)
{
	return __atomic_load_n(&f->done, __ATOMIC_ACQUIRE);
}

/* The loop's side while the other thread drives: also frames in, and what came out thrown away. */
static void serve(struct fix *f, void *(*vcpu)(void *))
{
	pthread_t t;
	uint8_t buf[4096] = {0};

	assert_int_equal(pthread_create(&t, NULL, vcpu, f), 0);
	while (!is_done(f)) {
		loop_run_once(&f->rig.loop, 1000000);
		while (read(f->peer, buf, sizeof(buf)) > 0)
			;
		memset(buf, 0, 12);
		if (write(f->peer, buf, 100) < 0)
			continue;
	}
	assert_int_equal(pthread_join(t, NULL), 0);
}

/* As rig_start(), which must not run the loop from here. */
static void bring_up(struct fix *f, unsigned d, struct rig_q *q, unsigned n)
{
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 3);
	rig_accept(&f->rig, d, 1ull << VIRTIO_F_VERSION_1);
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xb);
	for (unsigned i = 0; i < n; i++) {
		q[i] = rig_q(&f->rig, i, 2 * d + i, 32);
		rig_set_queue(&f->rig, d, i, 32, q[i].desc, q[i].availr, q[i].used);
	}
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xf);
}

static uint8_t *ram(struct fix *f, uint64_t gpa)
{
	return rig_ptr(&f->rig, gpa);
}

static void post_all(struct fix *f, struct rig_q q[3][2], unsigned i)
{
	const struct rig_seg blk[3] = {{RIG_DATA + 64 * (i % 10), 16, false},
				       {RIG_DATA + 0x1000 * (1 + i % 10), 512, i % 2 == 0},
				       {RIG_DATA + 64 * (i % 10) + 32, 1, true}};
	const struct rig_seg tx = {RIG_DATA + 0x10000, 80, false};
	const struct rig_seg rx = {RIG_DATA + 0x11000 + 0x800 * (i % 10), 0x800, true};
	struct virtio_blk_outhdr h = {.type = i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
				      .sector = i % 100};

	memcpy(ram(f, blk[0].gpa), &h, sizeof(h));
	rig_add(&q[BLK][0], blk, 3);
	rig_add(&q[NET][1], &tx, 1);
	rig_add(&q[NET][0], &rx, 1);
	rig_add(&q[CON][1], &tx, 1);
	for (unsigned d = 0; d < 3; d++) {
		rig_kick(&f->rig, d, 0);
		rig_kick(&f->rig, d, d > 0);
	}
	bus_write(&f->rig.bus, BUS_PIO, SERIAL_BASE, 1, 'x');
}

static void *good_vcpu(void *arg)
{
	struct fix *f = arg;
	struct rig_q q[3][2];

	memset(ram(f, RIG_DATA), 0, 0x20000);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned d = 0; d < 3; d++)
			bring_up(f, d, q[d], 1 + (d > 0));
		for (unsigned i = 0; i < round % 10; i++)
			post_all(f, q, i);
		rig_get(&f->rig, round % 3, VIRTIO_MMIO_INTERRUPT_STATUS);
		rig_set(&f->rig, round % 3, VIRTIO_MMIO_INTERRUPT_ACK, 1);
		for (unsigned d = 0; d < 3; d++) /* with requests under way */
			rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
	}
	for (unsigned d = 0; d < 3; d++)
		bring_up(f, d, q[d], 1 + (d > 0));
	for (unsigned i = 0; i < 8; i++)
		post_all(f, q, i);
	while (rig_used_idx(&q[BLK][0]) < 8 || rig_used_idx(&q[NET][1]) < 8 ||
	       rig_used_idx(&q[NET][0]) < 8 || rig_used_idx(&q[CON][1]) < 8)
		sched_yield();
	__atomic_store_n(&f->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void resets_under_load(void **state)
{
	struct fix *f = *state;

	serve(f, good_vcpu);
	for (unsigned d = 0; d < 3; d++)
		assert_int_equal(f->dev[d]->faults, 0);
	assert_true(f->printed > 0);
}

/* F5: no check may be passed by one value and used with another. */
static void *hostile_vcpu(void *arg)
{
	struct fix *f = arg;
	struct rig_q q[3][2];
	unsigned seed = 5;

	for (unsigned round = 0; round < 400; round++) {
		for (unsigned d = 0; d < 3; d++) {
			bring_up(f, d, q[d], 1 + (d > 0));
			for (unsigned i = 0; i < 1u + (d > 0); i++) {
				q[d][i].avail = 16;
				*(volatile uint16_t *)ram(f, q[d][i].availr + 2) = 16;
				rig_kick(&f->rig, d, i);
			}
		}
		for (unsigned n = 0; n < 4000; n++) {
			struct rig_q *v = &q[rand_r(&seed) % 3][0];
			volatile struct vring_desc *desc = rig_desc(v, rand_r(&seed) % 32);
			bool evil = rand_r(&seed) % 2;

			desc->addr = evil ? RIG_MEM - 4 : RIG_DATA;
			desc->len = evil ? 0x7fffffff : 16 + rand_r(&seed) % 600;
			desc->flags = (uint16_t)(rand_r(&seed) % 4);
			desc->next = (uint16_t)(rand_r(&seed) % 40);
			*(volatile uint32_t *)ram(f, RIG_DATA) = rand_r(&seed) % 16;
			*(volatile uint32_t *)ram(f, RIG_DATA + 4 * (rand_r(&seed) % 4)) =
				(uint32_t)rand_r(&seed) * 5;
		}
	}
	__atomic_store_n(&f->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void rings_that_change_under_us(void **state)
{
	struct fix *f = *state;

#ifdef __SANITIZE_THREAD__
	skip(); /* it is one race from end to end */
#endif
	serve(f, hostile_vcpu);
	assert_true(f->dev[BLK]->faults + f->dev[NET]->faults + f->dev[CON]->faults > 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(resets_under_load),
		T(rings_that_change_under_us),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
