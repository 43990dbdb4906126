/* The images of a VM that goes elsewhere: what is held goes out again here, or never. */
#include "tests/unit/libvirtio.h"

#include <fcntl.h>

#include "postcopy/images.h"

#define BYTES (1u << 20)

struct fix {
	struct rig rig;
	struct vm vm; /* one disk, no more */
	struct images im;
	char path[64];
	uint8_t *buf;
	struct disk_req held;
	bool drained, done;
	int res;
};

static void on_done(struct disk_req *r, int res)
{
	struct fix *f = r->arg;

	f->res = res;
	f->done = true;
}

static void on_drained(void *arg, int r)
{
	struct fix *f = arg;

	assert_int_equal(r, 0);
	f->drained = true;
}

static struct disk *disk(struct fix *f)
{
	return &f->vm.devices.disks[0];
}

/* The VM stands, all is on its medium, and one write of the guest's waits. */
static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	int fd;

	rig_init(&f->rig, 0);
	strcpy(f->path, "/tmp/ftvmm-images-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	f->vm.loop = &f->rig.loop;
	f->vm.machine.ndevs = 1;
	f->vm.machine.devs[0].kind = MDEV_BLK;
	assert_int_equal(disk_open(disk(f), &f->rig.loop, "d0", f->path, 0, NULL), 0);
	f->buf = aligned_alloc(4096, 4096);
	memset(f->buf, 0x5a, 4096);
	images_drain(&f->im, &f->vm, 0, on_drained, f);
	rig_until(&f->rig, f->drained);
	f->held = (struct disk_req){
		.kind = DISK_WRITE, .len = 4096, .buf = f->buf, .done = on_done, .arg = f};
	disk_submit(disk(f), &f->held);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	disk_close(disk(f));
	rig_done(&f->rig);
	unlink(f->path);
	free(f->buf);
	free(f);
	return 0;
}

static uint8_t first_byte(struct fix *f)
{
	uint8_t byte;
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	close(fd);
	return byte;
}

static void goes_on(void **state)
{
	struct fix *f = *state;

	rig_settle(&f->rig);
	assert_false(f->done);
	images_go_on(&f->im);
	rig_until(&f->rig, f->done);
	assert_int_equal(f->res, 0);
	assert_int_equal(first_byte(f), 0x5a);
}

/* The guest runs elsewhere, and has that request, too: this side's is of the past. */
static void is_forgotten(void **state)
{
	struct fix *f = *state;

	images_forget(&f->im);
	rig_settle(&f->rig);
	assert_int_equal(disk(f)->inflight, 0);
	assert_false(f->done);
	assert_int_equal(first_byte(f), 0);
	images_go_on(&f->im); /* nothing is left to let go */
	rig_settle(&f->rig);
	assert_int_equal(disk(f)->inflight, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(is_forgotten, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
