/* Images of which the medium has blocks of 4096 bytes: a loop device has them for us. */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <linux/virtio_blk.h>

#include "devices/disk.h"
#include "devices/virtio_blk.h"

#define BYTES (4u << 20)
#define BLOCK 4096u

struct fix {
	struct rig rig;
	char image[64], path[32];
	int loop_fd;
	struct disk d;
	uint8_t *buf;
	bool done;
	int res;
};

/* A loop device over the image. Its last descriptor takes it away. */
static int make_device(struct fix *f)
{
	struct loop_config lc = {.block_size = BLOCK, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n, r = -1;

	f->loop_fd = -1;
	if (ctl < 0)
		return -1;
	lc.fd = (uint32_t)open(f->image, O_RDWR | O_CLOEXEC);
	for (int tries = 0; r < 0 && tries < 20; tries++) { /* others look for a free one, too */
		n = ioctl(ctl, LOOP_CTL_GET_FREE);
		snprintf(f->path, sizeof(f->path), "/dev/loop%d", n);
		f->loop_fd = n < 0 ? -1 : open(f->path, O_RDWR | O_CLOEXEC);
		r = f->loop_fd < 0 ? -1 : ioctl(f->loop_fd, LOOP_CONFIGURE, &lc);
		if (r < 0 && f->loop_fd >= 0)
			close(f->loop_fd);
		if (r < 0 && errno != EBUSY)
			break;
	}
	close((int)lc.fd);
	close(ctl);
	return r;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	int fd;

	snprintf(f->image, sizeof(f->image), "/tmp/ftvmm-block-XXXXXX");
	fd = mkstemp(f->image);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	rig_init(&f->rig, 100000);
	f->buf = aligned_alloc(4096, 2 * BLOCK);
	f->d.fd = -1;
	*state = f;
	if (make_device(f) < 0) {
		print_message("no loop device with blocks of %u: %s\n", BLOCK, strerror(errno));
		f->path[0] = 0;
	}
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	if (f->d.fd >= 0)
		disk_close(&f->d);
	if (f->loop_fd >= 0)
		close(f->loop_fd);
	unlink(f->image);
	free(f->buf);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void open_device(struct fix *f, int flags)
{
	struct err e = {0};

	if (!f->path[0])
		skip();
	if (disk_open(&f->d, &f->rig.loop, "x", f->path, flags, &e))
		fail_msg("%s", e.msg);
}

static void on_done(struct disk_req *r, int res)
{
	struct fix *f = r->arg;

	f->done = true;
	f->res = res;
}

static int request(struct fix *f, enum disk_op kind, uint64_t off, uint32_t len)
{
	struct disk_req r = {.kind = kind, .off = off, .len = len, .buf = f->buf};

	r.done = on_done;
	r.arg = f;
	f->done = false;
	disk_submit(&f->d, &r);
	rig_until(&f->rig, f->done);
	return f->res;
}

static void its_blocks_are_known(void **state)
{
	struct fix *f = *state;

	open_device(f, 0);
	assert_int_equal(f->d.block.logical, BLOCK);
	assert_in_range(f->d.block.physical, BLOCK, 65536);
	assert_int_equal(f->d.block.align, 512);
	disk_close(&f->d);
	assert_int_equal(disk_open(&f->d, &f->rig.loop, "x", f->image, 0, NULL), 0);
	assert_int_equal(f->d.block.logical, 512);
}

/* A guest of before has blocks of 512: through the host's cache it has them. */
static void less_than_a_block(void **state)
{
	struct fix *f = *state;

	open_device(f, 0);
	memset(f->buf, 7, BLOCK);
	assert_int_equal(request(f, DISK_WRITE, 0, BLOCK), 0);
	assert_int_equal(request(f, DISK_ZERO, 512, 512), 0);
	assert_int_equal(request(f, DISK_DISCARD, 1024, 512), 0); /* a hint */
	assert_int_equal(f->d.errors, 0);
	assert_int_equal(request(f, DISK_READ, 0, BLOCK), 0);
	for (unsigned i = 0; i < BLOCK; i++)
		assert_int_equal(f->buf[i], i >= 512 && i < 1024 ? 0 : 7);
}

/* Not so without it: what cannot be served is refused, here and at the start. */
static void direct_takes_blocks_only(void **state)
{
	struct fix *f = *state;
	struct err e = {0};

	open_device(f, DISK_OPEN_DIRECT);
	assert_int_equal(f->d.block.align, BLOCK);
	memset(f->buf, 7, BLOCK);
	assert_int_equal(request(f, DISK_WRITE, BLOCK, BLOCK), 0);
	assert_int_equal(request(f, DISK_READ, BLOCK, BLOCK), 0);
	assert_int_equal(request(f, DISK_WRITE, 512, 512), -EINVAL);
	assert_int_equal(request(f, DISK_READ, BLOCK, 512), -EINVAL);
	assert_int_equal(f->d.errors, 0); /* the guest's mistake, not the medium's */
	assert_int_equal(disk_serves(&f->d, BLOCK, NULL), 0);
	assert_int_equal(disk_serves(&f->d, 512, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "takes requests of 4096 bytes with 'direct'"));
	assert_non_null(strstr(e.msg, "give block=4096"));
}

/* What the guest gets for a request of type at a sector. */
static uint8_t ask(struct fix *f, struct rig_q *q, uint32_t type, uint64_t sector, uint32_t len)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	uint64_t at = RIG_DATA + 0x1000;
	struct rig_seg s[] = {{RIG_DATA, sizeof(h), false},
			      {at, len, type == VIRTIO_BLK_T_IN},
			      {RIG_DATA + 0x100, 1, true}};
	uint16_t want = rig_used_idx(q) + 1;

	memcpy(rig_ptr(&f->rig, RIG_DATA), &h, sizeof(h));
	rig_add(q, s, 3);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, rig_used_idx(q) == want);
	return *(uint8_t *)rig_ptr(&f->rig, RIG_DATA + 0x100);
}

/* What is below is told: its blocks, and what it writes at once; parts of blocks are refused. */
static void the_guest_has_its_blocks(void **state)
{
	struct fix *f = *state;
	struct mdev md = rig_mdev(MDEV_BLK, 0);
	struct virtio_blk_discard_write_zeroes part = {.sector = 1, .num_sectors = 8};
	struct device *dev;
	struct rig_q q;

#define CONFIG(field, size)                                                                        \
	bus_read(&f->rig.bus, BUS_MMIO,                                                            \
		 RIG_BASE + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, field), size)
	assert_int_equal(disk_open(&f->d, &f->rig.loop, "x", f->image, 0, NULL), 0);
	md.bytes = BYTES;
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->d, &dev, NULL), 0);
	assert_int_equal(CONFIG(blk_size, 4), 512);
	assert_int_equal(CONFIG(physical_block_exp, 1), 0);
	dev->ops->free(dev);
	memset(&f->rig.bus, 0, sizeof(f->rig.bus));
	md.block = BLOCK;
	md.physical = 4 * BLOCK;
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->d, &dev, NULL), 0);
	assert_true(rig_offered(&f->rig, 0) >> VIRTIO_BLK_F_TOPOLOGY & 1);
	assert_int_equal(CONFIG(capacity, 8), BYTES >> 9); /* in 512, whatever the block */
	assert_int_equal(CONFIG(blk_size, 4), BLOCK);
	assert_int_equal(CONFIG(physical_block_exp, 1), 2);
	assert_int_equal(CONFIG(min_io_size, 2), 4); /* in blocks */
	assert_int_equal(CONFIG(discard_sector_alignment, 4), 32);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), &q, 1, 64);
	assert_int_equal(ask(f, &q, VIRTIO_BLK_T_IN, 8, BLOCK), VIRTIO_BLK_S_OK);
	assert_int_equal(ask(f, &q, VIRTIO_BLK_T_IN, 1, BLOCK), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ask(f, &q, VIRTIO_BLK_T_OUT, 8, 512), VIRTIO_BLK_S_IOERR);
	memcpy(rig_ptr(&f->rig, RIG_DATA + 0x1000), &part, sizeof(part));
	assert_int_equal(ask(f, &q, VIRTIO_BLK_T_DISCARD, 0, sizeof(part)), VIRTIO_BLK_S_OK);
	assert_int_equal(ask(f, &q, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(part)),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(f->d.errors, 0);
	dev->ops->free(dev);
}

static void direct_where_there_is_none(void **state)
{
	struct fix *f = *state;
	struct err e = {0};
	int r = disk_open(&f->d, &f->rig.loop, "x", "/proc/version",
			  DISK_OPEN_RO | DISK_OPEN_DIRECT, &e);

	f->d.fd = -1;
	assert_int_equal(r, -EINVAL);
	assert_non_null(strstr(e.msg, "disk x: /proc/version cannot be opened with 'direct'"));
	assert_non_null(strstr(e.msg, "leave 'direct' out"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(its_blocks_are_known),       T(less_than_a_block),
		T(direct_takes_blocks_only),   T(the_guest_has_its_blocks),
		T(direct_where_there_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
