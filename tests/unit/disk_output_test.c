/* A disk whose changes are output: what waits for an ack, what does not, and what never leaves. */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>

#include "devices/disk_output.h"

#define BYTES  (1u << 20)
#define SECTOR 512u
#define MANY   300u /* more than wait at once */

struct req {
	uint8_t buf[SECTOR] __attribute__((aligned(SECTOR)));
	struct disk_req r;
	bool done;
	int res;
	unsigned order;
};

struct fix {
	struct rig rig; /* its loop */
	struct obuf ob;
	struct disk d;
	struct disk_output o;
	char path[64];
	int fd; /* as another host sees the image */
	unsigned waits;
};

static unsigned ended;
static uint8_t f_frame[4096];

static void on_done(struct disk_req *r, int res)
{
	struct req *q = r->arg;

	assert_false(q->done);
	q->done = true;
	q->res = res;
	q->order = ended++;
}

static void on_held(void *arg)
{
	((struct fix *)arg)->waits++;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 0);
	obuf_init(&f->ob, 1 << 20);
	obuf_on_held(&f->ob, on_held, f);
	strcpy(f->path, "/tmp/ftvmm-shared-XXXXXX");
	f->fd = mkstemp(f->path);
	assert_int_equal(ftruncate(f->fd, BYTES), 0);
	assert_int_equal(disk_open(&f->d, &f->rig.loop, "d0", f->path, DISK_OPEN_SYNC, NULL), 0);
	assert_int_equal(disk_output_begin(&f->o, &f->d, &f->ob), 0);
	ended = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	disk_output_end(&f->o);
	disk_output_end(&f->o);
	rig_until(&f->rig, !f->d.inflight);
	disk_close(&f->d);
	obuf_done(&f->ob);
	rig_done(&f->rig);
	close(f->fd);
	unlink(f->path);
	free(f);
	return 0;
}

/* Of one sector. */
static void submit(struct fix *f, struct req *q, enum disk_op kind, unsigned sector, uint8_t byte)
{
	memset(q, 0, sizeof(*q));
	q->r = (struct disk_req){.kind = kind,
				 .off = (uint64_t)sector * SECTOR,
				 .len = kind == DISK_FLUSH ? 0 : SECTOR,
				 .buf = q->buf,
				 .done = on_done,
				 .arg = q};
	if (kind == DISK_WRITE)
		memset(q->buf, byte, SECTOR);
	disk_submit(&f->d, &q->r);
	assert_false(q->done);
}

static uint8_t image(struct fix *f, unsigned sector)
{
	uint8_t byte = 0xff;

	assert_int_equal(pread(f->fd, &byte, 1, (off_t)sector * SECTOR), 1);
	return byte;
}

static void settle(struct fix *f)
{
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&f->rig.loop, 1000000);
}

static void goes_to_the_image_when_nobody_holds(void **state)
{
	struct fix *f = *state;
	struct req w;

	submit(f, &w, DISK_WRITE, 3, 'a');
	rig_until(&f->rig, w.done);
	assert_int_equal(w.res, 0);
	assert_int_equal(image(f, 3), 'a');
	assert_int_equal(f->waits, 0);
}

static void changes_wait_for_their_epoch(void **state)
{
	static const enum disk_op ops[] = {DISK_WRITE, DISK_ZERO, DISK_DISCARD};
	struct fix *f = *state;
	struct req w[3], late;

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pwrite(f->fd, "x", 1, (off_t)i * SECTOR), 1);
	obuf_hold(&f->ob, 5);
	for (unsigned i = 0; i < 3; i++)
		submit(f, &w[i], ops[i], i, 'a');
	assert_int_equal(f->waits, 1); /* somebody outside does: kemari seals */
	assert_true(obuf_waits(&f->ob));
	obuf_seal(&f->ob, 6);
	submit(f, &late, DISK_WRITE, 3, 'a');
	settle(f);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(image(f, i), 'x');
	assert_int_equal(ended, 0);
	obuf_release(&f->ob, 5);
	rig_until(&f->rig, ended == 3);
	settle(f);
	assert_int_equal(ended, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(w[i].res, 0);
	assert_int_equal(image(f, 0), 'a');
	assert_int_equal(image(f, 1), 0);
	assert_int_equal(image(f, 2), 0);
	assert_int_equal(image(f, 3), 'x');
	obuf_pass(&f->ob); /* this side goes on alone */
	rig_until(&f->rig, late.done);
	assert_int_equal(image(f, 3), 'a');
}

static void reads_see_what_is_held(void **state)
{
	struct fix *f = *state;
	struct req w, again, same, other, flush;

	obuf_hold(&f->ob, 5);
	submit(f, &w, DISK_WRITE, 3, 'a');
	submit(f, &other, DISK_READ, 4, 0);
	submit(f, &flush, DISK_FLUSH, 0, 0);
	rig_until(&f->rig, other.done && flush.done);
	submit(f, &same, DISK_READ, 3, 0);
	settle(f);
	assert_false(same.done);
	assert_false(w.done);
	/* What is queued behind it waits, too. */
	submit(f, &again, DISK_WRITE, 3, 'b');
	obuf_seal(&f->ob, 6);
	obuf_release(&f->ob, 5);
	rig_until(&f->rig, same.done);
	assert_int_equal(w.order, 2);
	assert_int_equal(same.r.buf[0], 'a');
	assert_int_equal(image(f, 3), 'a');
	settle(f);
	assert_false(again.done);
	obuf_seal(&f->ob, 7);
	obuf_release(&f->ob, 6);
	rig_until(&f->rig, again.done);
	assert_int_equal(image(f, 3), 'b');
}

static void many_leave_in_order(void **state)
{
	struct req *w = aligned_alloc(SECTOR, MANY * sizeof(*w));
	struct fix *f = *state;

	obuf_hold(&f->ob, 5);
	for (unsigned i = 0; i < MANY; i++)
		submit(f, &w[i], DISK_WRITE, i, 'a');
	assert_int_equal(f->o.count, DISK_OUTPUT_MAX);
	settle(f);
	assert_int_equal(ended, 0);
	for (unsigned n = 1; ended < MANY; n++) {
		unsigned most = n * DISK_OUTPUT_MAX < MANY ? n * DISK_OUTPUT_MAX : MANY;

		obuf_seal(&f->ob, n + 5);
		obuf_release(&f->ob, n + 4);
		rig_until(&f->rig, ended == most);
		settle(f);
		assert_int_equal(ended, most);
		for (unsigned i = 0; i < MANY; i++)
			assert_true(image(f, i) == 'a' || !w[i].done);
	}
	free(w);
}

static bool swallow(void *arg, const void *data, uint32_t len)
{
	return true;
}

/* More than may be held: nothing is lost, it waits for room. */
static void a_full_buffer(void **state)
{
	struct iovec frame = {f_frame, sizeof(f_frame)};
	struct fix *f = *state;
	struct req w;
	int net;

	net = obuf_add_sink(&f->ob, OBUF_NET, swallow, NULL, NULL);
	obuf_hold(&f->ob, 5);
	while (!obuf_put(&f->ob, net, &frame, 1))
		;
	obuf_set_limit(&f->ob, f->ob.bytes);
	submit(f, &w, DISK_WRITE, 3, 'a');
	settle(f);
	assert_int_equal(f->o.count, 0);
	obuf_seal(&f->ob, 6);
	obuf_release(&f->ob, 5);
	settle(f);
	assert_int_equal(f->o.count, 1);
	assert_int_equal(image(f, 3), 0);
	obuf_seal(&f->ob, 7);
	obuf_release(&f->ob, 6);
	rig_until(&f->rig, w.done);
	assert_int_equal(image(f, 3), 'a');
}

/* Fenced, or the end of the process: the other side runs the VM, and asks for it again. */
static void what_is_dropped_never_leaves(void **state)
{
	struct fix *f = *state;
	struct req w, later, last;

	obuf_hold(&f->ob, 5);
	submit(f, &w, DISK_WRITE, 3, 'a');
	obuf_drop(&f->ob);
	submit(f, &later, DISK_WRITE, 4, 'a');
	settle(f);
	assert_false(w.done || later.done);
	disk_output_end(&f->o);
	assert_int_equal(w.res, -ECANCELED);
	assert_int_equal(later.res, -ECANCELED);
	obuf_pass(&f->ob);
	submit(f, &last, DISK_WRITE, 3, 'a');
	settle(f);
	assert_false(last.done);
	assert_int_equal(image(f, 3), 0);
	assert_int_equal(image(f, 4), 0);
}

static void what_is_canceled_changes_nothing(void **state)
{
	struct fix *f = *state;
	struct req w;

	obuf_hold(&f->ob, 5);
	submit(f, &w, DISK_WRITE, 3, 'a');
	disk_cancel(&f->d);
	obuf_seal(&f->ob, 6);
	obuf_release(&f->ob, 5);
	rig_until(&f->rig, w.done);
	assert_int_equal(w.res, -ECANCELED);
	assert_int_equal(image(f, 3), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
		T(goes_to_the_image_when_nobody_holds),
		T(changes_wait_for_their_epoch),
		T(reads_see_what_is_held),
		T(many_leave_in_order),
		T(a_full_buffer),
		T(what_is_dropped_never_leaves),
		T(what_is_canceled_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
