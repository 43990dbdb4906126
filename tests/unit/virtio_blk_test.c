/* virtio-blk over a real file: data, errors, resets, and requests that outlive their machine. */
#include "tests/unit/libnodump.h"
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>

#include "devices/disk.h"
#include "devices/virtio.h"
#include "devices/virtio_blk.h"

#define DISK_BYTES (4u << 20)
#define HDR	   RIG_DATA
#define STATUS	   (RIG_DATA + 0x80)
#define BUF	   (RIG_DATA + 0x10000)
#define QUEUES	   3

struct fix {
	struct rig rig;
	char path[64];
	struct disk disk;
	struct device *dev;
	struct rig_q qs[QUEUES];
	unsigned queues;
	uint64_t offs[64]; /* of the first submits */
	unsigned submits, dones;
	int last_res;
	uint8_t last_byte;
};

static enum disk_verdict on_submit(void *arg, struct disk *d, const struct disk_req *r)
{
	struct fix *f = arg;

	(void)d;
	if (f->submits < 64)
		f->offs[f->submits] = r->off;
	f->submits++;
	if (r->kind == DISK_WRITE)
		f->last_byte = r->buf[0];
	/* What a guest has on its disk is in no core dump. */
	assert_true(r->kind != DISK_WRITE || is_nodump(r->buf));
	return DISK_GO;
}

static void on_hook_done(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	struct fix *f = arg;

	(void)d;
	(void)r;
	f->dones++;
	f->last_res = res;
}

static void open_disk(struct fix *f, int flags)
{
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", f->path, flags, NULL), 0);
	f->disk.hook = (struct disk_hook){on_submit, on_hook_done, f, NULL};
}

static void make_device(struct fix *f)
{
	struct mdev md = rig_mdev(MDEV_BLK, 0);

	md.bytes = DISK_BYTES;
	md.queues = f->queues;
	assert_int_equal(virtio_blk_new(&f->rig.env, &md, &f->disk, &f->dev, NULL), 0);
}

static int setup_with(void **state, int flags, unsigned queues)
{
	struct fix *f = calloc(1, sizeof(*f));
	int fd;

	f->queues = queues;
	rig_init(&f->rig, 0);
	strcpy(f->path, "/tmp/ftvmm-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	open_disk(f, flags);
	make_device(f);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 0, 1);
}

static int setup_ro(void **state)
{
	return setup_with(state, DISK_OPEN_RO, 1);
}

static int setup_mq(void **state)
{
	return setup_with(state, 0, QUEUES);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	f->dev->ops->free(f->dev);
	disk_close(&f->disk);
	rig_done(&f->rig);
	unlink(f->path);
	free(f);
	return 0;
}

static void start(struct fix *f)
{
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->qs, f->queues, 64);
}

static uint8_t *ram(struct fix *f, uint64_t gpa)
{
	return rig_ptr(&f->rig, gpa);
}

/* Post request number n (own header and status) on a queue without a kick. */
static uint16_t post_on(struct fix *f, unsigned qi, unsigned n, uint32_t type, uint64_t sector,
			uint64_t buf, uint32_t len)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct rig_seg s[3] = {{HDR + 0x100 * n, sizeof(h), false}};
	unsigned k = 1;

	memcpy(ram(f, HDR + 0x100 * n), &h, sizeof(h));
	*ram(f, STATUS + 0x100 * n) = 0xee;
	if (len)
		s[k++] = (struct rig_seg){buf, len, in};
	s[k++] = (struct rig_seg){STATUS + 0x100 * n, 1, true};
	return rig_add(&f->qs[qi], s, k);
}

static uint16_t post(struct fix *f, unsigned n, uint32_t type, uint64_t sector, uint64_t buf,
		     uint32_t len)
{
	return post_on(f, 0, n, type, sector, buf, len);
}

/* Requests held at the disk. */
static unsigned waiting(struct fix *f)
{
	unsigned n = 0;

	for (const struct disk_req *r = f->disk.queue; r; r = r->next)
		n++;
	return n;
}

static uint8_t status(struct fix *f, unsigned n)
{
	return *ram(f, STATUS + 0x100 * n);
}

static void wait_used(struct fix *f, uint16_t n)
{
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, rig_used_idx(f->qs) == n);
}

static uint8_t run(struct fix *f, uint32_t type, uint64_t sector, uint32_t len)
{
	uint16_t want = rig_used_idx(f->qs) + 1;

	post(f, 0, type, sector, BUF, len);
	wait_used(f, want);
	return status(f, 0);
}

static void file_bytes(struct fix *f, uint64_t off, void *buf, size_t len)
{
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	close(fd);
}

static void writes_and_reads_back(void **state)
{
	struct fix *f = *state;
	uint8_t got[8192];

	start(f);
	for (unsigned i = 0; i < 8192; i++)
		ram(f, BUF)[i] = (uint8_t)(i * 7);
	assert_int_equal(run(f, VIRTIO_BLK_T_OUT, 3, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_used(f->qs, 0)->len, 1);
	file_bytes(f, 3 * 512, got, sizeof(got));
	assert_memory_equal(got, ram(f, BUF), sizeof(got));
	memset(ram(f, BUF), 0, 8192);
	assert_int_equal(run(f, VIRTIO_BLK_T_IN, 3, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_used(f->qs, 1)->len, 8193);
	assert_memory_equal(got, ram(f, BUF), sizeof(got));
	assert_true(rig_took_signal(f->dev->irq_fd));
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
	rig_set(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_ACK, 1);
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(f->submits, 1);
	assert_int_equal(f->dones, 1);
	/* It wants to be told of the next one: avail_event. */
	assert_int_equal(*(uint16_t *)ram(f, f->qs[0].used + 4 + 8 * 64), 2);
}

/* Framing is the driver's business: a header cut in three, the status byte behind data. */
static void any_framing(void **state)
{
	struct fix *f = *state;
	struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = 1};
	struct rig_seg s[5] = {{HDR, 3, false},
			       {HDR + 0x40, 12, false},
			       {HDR + 0x60, 2, false},
			       {BUF, 511, false},
			       {STATUS, 1, true}};
	uint8_t got[512];

	start(f);
	memcpy(ram(f, HDR), &h, 3);
	memcpy(ram(f, HDR + 0x40), (uint8_t *)&h + 3, 12);
	memcpy(ram(f, HDR + 0x60), (uint8_t *)&h + 15, 1);
	*ram(f, HDR + 0x61) = 0xa5;
	memset(ram(f, BUF), 0x5a, 511);
	rig_add(f->qs, s, 5);
	wait_used(f, 1);
	assert_int_equal(*ram(f, STATUS), VIRTIO_BLK_S_OK);
	file_bytes(f, 512, got, 512);
	assert_int_equal(got[0], 0xa5);
	assert_int_equal(got[511], 0x5a);
	/* Read: 513 writable bytes in one segment, the last is the status. */
	h.type = VIRTIO_BLK_T_IN;
	memcpy(ram(f, HDR), &h, 16);
	s[0] = (struct rig_seg){HDR, 16, false};
	s[1] = (struct rig_seg){BUF, 513, true};
	ram(f, BUF)[512] = 0xee;
	rig_add(f->qs, s, 2);
	wait_used(f, 2);
	assert_memory_equal(ram(f, BUF), got, 512);
	assert_int_equal(ram(f, BUF)[512], VIRTIO_BLK_S_OK);
}

static void other_requests(void **state)
{
	struct fix *f = *state;
	struct virtio_blk_discard_write_zeroes z = {.sector = 8, .num_sectors = 16};
	uint8_t got[32 * 512], want[32 * 512];

	start(f);
	memset(ram(f, BUF), 0x77, sizeof(want));
	assert_int_equal(run(f, VIRTIO_BLK_T_OUT, 0, sizeof(want)), VIRTIO_BLK_S_OK);
	memset(want, 0x77, sizeof(want));
	memcpy(ram(f, BUF), &z, sizeof(z));
	assert_int_equal(run(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
	memset(want + 8 * 512, 0, 16 * 512);
	file_bytes(f, 0, got, sizeof(got));
	assert_memory_equal(got, want, sizeof(want));
	z = (struct virtio_blk_discard_write_zeroes){.sector = 0, .num_sectors = 4};
	memcpy(ram(f, BUF), &z, sizeof(z));
	assert_int_equal(run(f, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
	file_bytes(f, 4 * 512, got, 4 * 512);
	assert_memory_equal(got, want, 4 * 512);
	assert_int_equal(run(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(run(f, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	assert_memory_equal(ram(f, BUF), "dev0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	assert_int_equal(run(f, VIRTIO_BLK_T_GET_ID, 0, 2), VIRTIO_BLK_S_OK);
	assert_int_equal(f->submits, 4);
	assert_int_equal(f->dones, 4);
}

static void refuses_what_does_not_fit(void **state)
{
	struct fix *f = *state;
	const uint64_t sectors = DISK_BYTES / 512;
	struct virtio_blk_discard_write_zeroes z = {0};
	const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t want;
	} table[] = {
		{VIRTIO_BLK_T_IN, sectors - 1, 512, VIRTIO_BLK_S_OK},
		{VIRTIO_BLK_T_IN, sectors, 512, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_IN, sectors - 1, 1024, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, sectors, 512, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, UINT64_MAX, 512, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, UINT64_MAX >> 9, 512, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, 1ull << 55, 512, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_OUT, 0, 511, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_IN, 0, 513, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_IN, 0, 1 << 20, VIRTIO_BLK_S_OK},
		{VIRTIO_BLK_T_IN, 0, (1 << 20) + 512, VIRTIO_BLK_S_IOERR},
		{2, 0, 512, VIRTIO_BLK_S_UNSUPP},
		{0x80000000, 0, 512, VIRTIO_BLK_S_UNSUPP},
		{VIRTIO_BLK_T_DISCARD, 0, 0, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_DISCARD, 0, 15, VIRTIO_BLK_S_IOERR},
		{VIRTIO_BLK_T_DISCARD, 0, 32, VIRTIO_BLK_S_IOERR},
	};

	start(f);
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (run(f, table[i].type, table[i].sector, table[i].len) != table[i].want)
			fail_msg("case %u", i);
	}
	for (uint32_t bit = 0; bit < 32; bit++) {
		z = (struct virtio_blk_discard_write_zeroes){.num_sectors = 1, .flags = 1u << bit};
		memcpy(ram(f, BUF), &z, sizeof(z));
		assert_int_equal(run(f, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(run(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16),
				 bit ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_OK);
	}
	z = (struct virtio_blk_discard_write_zeroes){.sector = sectors - 1, .num_sectors = 2};
	memcpy(ram(f, BUF), &z, sizeof(z));
	assert_int_equal(run(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
	z = (struct virtio_blk_discard_write_zeroes){.num_sectors = UINT32_MAX};
	memcpy(ram(f, BUF), &z, sizeof(z));
	assert_int_equal(run(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
	assert_int_equal(f->dev->faults, 0);
}

static void chains_that_are_no_request(void **state)
{
	struct fix *f = *state;
	const struct rig_seg no_status[1] = {{HDR, 16, false}};
	const struct rig_seg no_header[1] = {{STATUS, 16, true}};
	const struct rig_seg short_header[2] = {{HDR, 15, false}, {STATUS, 1, true}};

	for (unsigned i = 0; i < 3; i++) {
		start(f);
		rig_add(f->qs,
			i == 0	 ? no_status
			: i == 1 ? no_header
				 : short_header,
			1 + (i == 2));
		rig_kick(&f->rig, 0, 0);
		rig_until(&f->rig, f->dev->faults == i + 1);
		assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_STATUS), 0x4f);
		assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
	}
	start(f); /* a reset brings it back */
	assert_int_equal(run(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
}

static void read_only_disk(void **state)
{
	struct fix *f = *state;

	assert_int_equal(rig_offered(&f->rig, 0) >> VIRTIO_BLK_F_RO & 1, 1);
	start(f);
	assert_int_equal(run(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(run(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
}

/* The bytes that go out are those of the moment the request was taken. */
static void guest_cannot_change_a_write_under_way(void **state)
{
	struct fix *f = *state;
	uint8_t got[512];

	start(f);
	disk_hold(&f->disk, true);
	memset(ram(f, BUF), 0x11, 512);
	post(f, 0, VIRTIO_BLK_T_OUT, 0, BUF, 512);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	memset(ram(f, BUF), 0x22, 512);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, rig_used_idx(f->qs) == 1);
	file_bytes(f, 0, got, 512);
	assert_int_equal(got[0], 0x11);
	assert_int_equal(f->last_byte, 0x11);
}

static void reset_while_requests_are_at_the_disk(void **state)
{
	struct fix *f = *state;

	for (unsigned round = 0; round < 3; round++) {
		start(f);
		disk_hold(&f->disk, true);
		for (unsigned i = 0; i < 10; i++)
			post(f, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i, BUF, 512);
		rig_kick(&f->rig, 0, 0);
		rig_until(&f->rig, f->disk.queue);
		rig_settle(&f->rig);
		if (round == 0)
			rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
		else if (round == 1) { /* the queue alone is switched off */
			rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_SEL, 0);
			rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_READY, 0);
		} else
			start(f); /* and a new queue is there when the old ones come back */
		memset(ram(f, BUF), 0x99, 512);
		disk_hold(&f->disk, false);
		rig_until(&f->rig, !f->disk.inflight);
		rig_settle(&f->rig);
		for (unsigned i = 0; i < 10; i++)
			assert_int_equal(status(f, i), 0xee);
		assert_int_equal(rig_used_idx(f->qs), 0);
		assert_int_equal(ram(f, BUF)[0], 0x99);
	}
	start(f);
	assert_int_equal(run(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(f->dev->faults, 0);
}

/* F3: kicks without end and a driver that never consumes. */
static void flood_is_bounded(void **state)
{
	struct fix *f = *state;

	start(f);
	disk_hold(&f->disk, true);
	post(f, 0, VIRTIO_BLK_T_IN, 0, BUF, 512);
	for (unsigned i = 0; i < 63; i++)
		rig_post(f->qs, 0);
	for (unsigned i = 0; i < 100000; i++)
		rig_kick(&f->rig, 0, 0);
	rig_settle(&f->rig);
	assert_int_equal(f->dev->faults, 0);
	/* The bound goes along to another machine, which takes a queue that is full. */
	const struct state_desc *desc = f->dev->ops->state;
	struct state_item item = {.desc = desc, .pod = f->dev->pod};
	void *pod = calloc(1, desc->size);
	uint8_t *wire = malloc(state_bound(desc));
	int64_t len;

	f->dev->ops->save(f->dev);
	len = state_encode_all(&item, 1, wire, state_bound(desc));
	assert_true(len > 0);
	item.pod = pod;
	assert_int_equal(state_decode_all(&item, 1, wire, (size_t)len, NULL), 0);
	free(wire);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	free(pod);
	rig_settle(&f->rig);
	assert_int_equal(f->dev->faults, 0);
	rig_post(f->qs, 0); /* 65 in flight with 64 entries */
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->dev->faults == 1);
}

/* More than the bytes bound in flight: taken step by step, all answered in the end. */
static void large_requests_wait_for_each_other(void **state)
{
	struct fix *f = *state;

	start(f);
	disk_hold(&f->disk, true);
	for (unsigned i = 0; i < 21; i++)
		post(f, i, VIRTIO_BLK_T_IN, 0, BUF, 1 << 20);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, waiting(f) >= 16); /* in as many turns as a busy host needs */
	rig_settle(&f->rig);
	assert_int_equal(waiting(f), 16);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, rig_used_idx(f->qs) == 21);
}

/*
 * A takeover: requests were popped, not answered; the state goes through the stream into another
 * device on another disk, which must answer all of them, exactly once.
 */
static void in_flight_requests_survive(void **state)
{
	struct fix *f = *state;
	uint8_t *wire, got[512];
	struct state_item item = {.desc = f->dev->ops->state, .pod = f->dev->pod};
	int64_t len;
	void *scratch = calloc(1, f->dev->ops->state->size);
	void *again = calloc(1, f->dev->ops->state->size);
	struct err e = {0};

	start(f);
	disk_hold(&f->disk, true);
	for (unsigned i = 0; i < 8; i++) {
		memset(ram(f, BUF + 0x1000 * i), 0x40 + (int)i, 512);
		post(f, i, i < 6 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH, i, BUF + 0x1000 * i,
		     i < 6 ? 512 : 0);
	}
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	rig_settle(&f->rig);
	f->dev->ops->save(f->dev);
	wire = malloc(state_bound(item.desc));
	len = state_encode_all(&item, 1, wire, state_bound(item.desc));
	assert_true(len > 0);

	/* The old machine ends: its disk requests are never done. */
	disk_hold(&f->disk, true);
	struct disk old = f->disk;
	struct device *old_dev = f->dev;
	struct bus empty = {0};

	f->rig.bus = empty;
	close(old.fd);
	open_disk(f, 0);
	make_device(f);
	item = (struct state_item){.desc = f->dev->ops->state, .pod = scratch};
	if (state_decode_all(&item, 1, wire, (size_t)len, &e))
		fail_msg("%s", e.msg);
	f->dev->ops->load(f->dev, scratch);
	f->dev->ops->save(f->dev);
	memcpy(again, f->dev->pod, item.desc->size);
	assert_memory_equal(again, scratch, item.desc->size);
	assert_int_equal(f->submits, 0);
	f->dev->ops->resume(f->dev);
	assert_true(rig_took_signal(f->dev->irq_fd));
	rig_until(&f->rig, rig_used_idx(f->qs) == 8);
	assert_int_equal(f->submits, 8);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(status(f, i), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 6; i++) {
		file_bytes(f, i * 512, got, 512);
		assert_int_equal(got[0], 0x40 + i);
	}
	/* Resume of a VM that goes on replays nothing. */
	disk_hold(&f->disk, true);
	post(f, 9, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	f->dev->ops->resume(f->dev);
	rig_settle(&f->rig);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	assert_int_equal(rig_used_idx(f->qs), 9);

	/* Only now let the old one go; its requests are answered by the test. */
	while (old.queue) {
		struct disk_req *r = old.queue;

		old.queue = r->next;
		r->done(r, -EIO);
	}
	old_dev->ops->free(old_dev);
	free(wire);
	free(scratch);
	free(again);
}

/* While quiet nothing of the guest changes, and what completed counts as in flight. */
static void quiet_keeps_still(void **state)
{
	struct fix *f = *state;

	start(f);
	disk_hold(&f->disk, true);
	post(f, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	f->dev->ops->quiet(f->dev, true);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, f->dones == 1);
	post(f, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(&f->rig, 0, 0);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(f->qs), 0);
	assert_int_equal(status(f, 0), 0xee);
	assert_int_equal(f->submits, 1);
	f->dev->ops->quiet(f->dev, false);
	rig_until(&f->rig, rig_used_idx(f->qs) == 2);
	assert_int_equal(status(f, 0), VIRTIO_BLK_S_OK);
	/* A reset while an answer waits. */
	post(f, 2, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	disk_hold(&f->disk, true);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	f->dev->ops->quiet(f->dev, true);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, f->dones == 3);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	f->dev->ops->quiet(f->dev, false);
	rig_settle(&f->rig);
	assert_int_equal(status(f, 2), 0xee);
}

static void free_with_requests_at_the_disk(void **state)
{
	struct fix *f = *state;

	start(f);
	disk_hold(&f->disk, true);
	for (unsigned i = 0; i < 4; i++)
		post(f, i, VIRTIO_BLK_T_IN, 0, BUF, 4096);
	rig_kick(&f->rig, 0, 0);
	rig_until(&f->rig, f->disk.queue);
	f->dev->ops->free(f->dev);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	memset(&f->rig.bus, 0, sizeof(f->rig.bus));
	make_device(f);
}

/* Several queues. */

struct blk_pod { /* begins the device's POD */
	struct virtio_state common;
	uint32_t ninflight;
	struct {
		uint16_t head, queue;
	} inflight[256];
};

static uint16_t num_queues(struct fix *f)
{
	uint64_t at = RIG_BASE + VIRTIO_MMIO_CONFIG;

	return (uint16_t)bus_read(&f->rig.bus, BUS_MMIO,
				  at + offsetof(struct virtio_blk_config, num_queues), 2);
}

static void one_queue_is_not_many(void **state)
{
	struct fix *f = *state;

	assert_int_equal(rig_offered(&f->rig, 0) >> VIRTIO_BLK_F_MQ & 1, f->queues > 1);
	assert_int_equal(num_queues(f), f->queues);
	assert_int_equal(f->dev->ndoorbells, f->queues);
}

static void every_queue_answers_its_own(void **state)
{
	struct fix *f = *state;

	start(f);
	for (unsigned i = 0; i < 9; i++)
		post_on(f, i % QUEUES, i, VIRTIO_BLK_T_IN, i, BUF + 0x1000 * i, 512);
	for (unsigned qi = 0; qi < QUEUES; qi++) {
		rig_kick(&f->rig, 0, qi);
		rig_until(&f->rig, rig_used_idx(&f->qs[qi]) == 3);
		for (unsigned next = qi + 1; next < QUEUES; next++)
			assert_int_equal(rig_used_idx(&f->qs[next]), 0);
	}
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(status(f, i), VIRTIO_BLK_S_OK);
}

/* A queue that stops takes its own requests along and no other's. */
static void one_queue_stops(void **state)
{
	struct fix *f = *state;
	const struct blk_pod *pod;

	start(f);
	disk_hold(&f->disk, true);
	for (unsigned i = 0; i < 9; i++)
		post_on(f, i % QUEUES, i, VIRTIO_BLK_T_OUT, i, BUF, 512);
	for (unsigned qi = 0; qi < QUEUES; qi++)
		rig_kick(&f->rig, 0, qi);
	rig_until(&f->rig, f->disk.queue);
	rig_settle(&f->rig);
	rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_SEL, 1);
	rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_READY, 0);
	f->dev->ops->save(f->dev);
	pod = f->dev->pod;
	assert_int_equal(pod->ninflight, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(pod->inflight[i].queue, i / 3 * 2);
	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	rig_settle(&f->rig);
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(status(f, i), i % QUEUES == 1 ? 0xee : VIRTIO_BLK_S_OK);
	assert_int_equal(rig_used_idx(&f->qs[0]), 3);
	assert_int_equal(rig_used_idx(&f->qs[1]), 0);
	assert_int_equal(rig_used_idx(&f->qs[2]), 3);
	assert_int_equal(f->dev->faults, 0);
}

/* More than may be in flight, over all queues: no queue is forgotten. */
static void queues_share_the_bound(void **state)
{
	struct fix *f = *state;

	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->qs, f->queues, 256);
	disk_hold(&f->disk, true);
	for (unsigned qi = 0; qi < QUEUES; qi++) {
		uint16_t head = post_on(f, qi, qi, VIRTIO_BLK_T_IN, 0, BUF, 512);

		for (unsigned i = 1; i < 200; i++)
			rig_post(&f->qs[qi], head);
		rig_kick(&f->rig, 0, qi);
	}
	rig_until(&f->rig, f->disk.queue);
	for (unsigned i = 0; i < 20; i++)
		rig_settle(&f->rig);
	assert_int_equal(waiting(f), 256);
	disk_hold(&f->disk, false);
	for (unsigned qi = 0; qi < QUEUES; qi++)
		rig_until(&f->rig, rig_used_idx(&f->qs[qi]) == 200);
	assert_int_equal(f->dev->faults, 0);
}

/* A takeover: requests of all queues are done again in the order in which they were taken. */
static void replay_keeps_the_order_of_all_queues(void **state)
{
	struct fix *f = *state;
	static const uint8_t order[] = {2, 0, 1, 1, 2, 0, 0, 2, 1};
	struct blk_pod *pod = malloc(f->dev->ops->state->size);

	start(f);
	disk_hold(&f->disk, true);
	for (unsigned i = 0; i < sizeof(order); i++) {
		post_on(f, order[i], i, VIRTIO_BLK_T_OUT, i, BUF, 512);
		rig_kick(&f->rig, 0, order[i]);
		rig_until(&f->rig, waiting(f) == i + 1);
	}
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	assert_int_equal(pod->ninflight, sizeof(order));
	for (unsigned i = 0; i < sizeof(order); i++)
		assert_int_equal(pod->inflight[i].queue, order[i]);
	assert_int_equal(f->dev->ops->state->check(pod, NULL), 0);
	f->dev->ops->load(f->dev, pod); /* as on another machine: what is at the disk is void */
	disk_hold(&f->disk, false);
	rig_until(&f->rig, !f->disk.inflight);
	f->submits = 0;
	f->dev->ops->resume(f->dev);
	for (unsigned qi = 0; qi < QUEUES; qi++)
		rig_until(&f->rig, rig_used_idx(&f->qs[qi]) == 3);
	assert_int_equal(f->submits, sizeof(order));
	for (unsigned i = 0; i < sizeof(order); i++)
		assert_int_equal(f->offs[i], 512 * i);

	/* What no device can have put there. */
	pod->inflight[0].queue = QUEUES;
	assert_int_equal(f->dev->ops->state->check(pod, NULL), -EBADMSG);
	pod->inflight[0].queue = 0;
	pod->common.queues[0].size = 2;
	assert_int_equal(f->dev->ops->state->check(pod, NULL), -EBADMSG);
	pod->common.queues[0].size = 64;
	pod->common.nqueues = 0;
	assert_int_equal(f->dev->ops->state->check(pod, NULL), -EBADMSG);
	pod->common.nqueues = 9;
	assert_int_equal(f->dev->ops->state->check(pod, NULL), -EBADMSG);
	/* Of a disk with more queues than this one. */
	pod->common.nqueues = QUEUES + 1;
	assert_int_equal(f->dev->ops->state->check(pod, NULL), 0);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	assert_int_equal(f->dev->faults, 1);
	/* A request on a queue that is not ready. */
	start(f);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	pod->ninflight = 1;
	pod->inflight[0].queue = 1;
	pod->common.queues[1].ready = 0;
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	assert_int_equal(f->dev->faults, 2);
	free(pod);
}

int main(void)
{
#define MQ(f) cmocka_unit_test_setup_teardown(f, setup_mq, teardown)
#define T(f)  cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(writes_and_reads_back),
		T(any_framing),
		T(other_requests),
		T(refuses_what_does_not_fit),
		T(chains_that_are_no_request),
		cmocka_unit_test_setup_teardown(read_only_disk, setup_ro, teardown),
		T(guest_cannot_change_a_write_under_way),
		T(reset_while_requests_are_at_the_disk),
		T(flood_is_bounded),
		T(large_requests_wait_for_each_other),
		T(in_flight_requests_survive),
		T(quiet_keeps_still),
		T(free_with_requests_at_the_disk),
		T(one_queue_is_not_many),
		MQ(one_queue_is_not_many),
		MQ(every_queue_answers_its_own),
		MQ(one_queue_stops),
		MQ(queues_share_the_bound),
		MQ(replay_keeps_the_order_of_all_queues),
		MQ(reset_while_requests_are_at_the_disk),
		MQ(in_flight_requests_survive),
		MQ(quiet_keeps_still),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
