/* virtio-balloon: what is given back, what is refused, and what happens in the middle of it. */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <sys/stat.h>

#include "devices/virtio_balloon.h"
#include "devices/virtq.h"

#define INFLATE	  0
#define DEFLATE	  1
#define REPORT	  2 /* where Linux has it */
#define REPORT_12 4 /* where the standard has it */
#define QUEUES	  5
#define BIT(f)	  (1ull << VIRTIO_BALLOON_F_##f)
#define PAGES	  (RIG_MEM / MEM_PAGE_SIZE)
#define FREE	  (1u << 20) /* from here on memory is the tests' own */
#define CONFIG(m) (VIRTIO_MMIO_CONFIG + offsetof(struct virtio_balloon_config, m))

struct fix {
	struct rig rig;
	struct device *dev;
	struct rig_q q[QUEUES];
};

static void make(struct fix *f)
{
	struct mdev md = rig_mdev(MDEV_BALLOON, 0);

	memset(&f->rig.bus, 0, sizeof(f->rig.bus));
	assert_int_equal(virtio_balloon_new(&f->rig.env, &md, &f->dev, NULL), 0);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 10000);
	make(f);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
	memset(rig_ptr(&f->rig, FREE), 'x', RIG_MEM - FREE);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	f->dev->ops->free(f->dev);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static uint64_t allocated(struct fix *f)
{
	struct stat st;

	assert_int_equal(fstat(f->rig.mem.fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

/* Exactly [from, from + n) has no memory any more. Reads as read() does, which allocates none. */
static void check_given_back(struct fix *f, uint64_t from, uint64_t n)
{
	uint8_t byte;

	for (uint64_t p = FREE / MEM_PAGE_SIZE; p < PAGES; p++) {
		assert_int_equal(pread(f->rig.mem.fd, &byte, 1, (off_t)(p * MEM_PAGE_SIZE)), 1);
		assert_int_equal(byte, p >= from && p < from + n ? 0 : 'x');
	}
}

static unsigned given_back(struct fix *f)
{
	unsigned n = 0;
	uint8_t byte;

	for (uint64_t p = FREE / MEM_PAGE_SIZE; p < PAGES; p++) {
		assert_int_equal(pread(f->rig.mem.fd, &byte, 1, (off_t)(p * MEM_PAGE_SIZE)), 1);
		n += !byte;
	}
	return n;
}

static void put_pfns(struct fix *f, const uint32_t *pfn, unsigned n)
{
	memcpy(rig_ptr(&f->rig, RIG_DATA), pfn, n * sizeof(*pfn));
}

static void request(struct fix *f, unsigned qi, const struct rig_seg *s, unsigned n)
{
	rig_add(&f->q[qi], s, n);
	rig_kick(&f->rig, 0, qi);
}

static void answered(struct fix *f, unsigned qi, const struct rig_seg *s, unsigned n)
{
	uint16_t used = rig_used_idx(&f->q[qi]);

	request(f, qi, s, n);
	rig_until(&f->rig, rig_used_idx(&f->q[qi]) == (uint16_t)(used + 1));
	assert_int_equal(f->dev->faults, 0);
}

static void refused(struct fix *f, unsigned qi, const struct rig_seg *s, unsigned n)
{
	uint64_t faults = f->dev->faults;

	request(f, qi, s, n);
	rig_until(&f->rig, f->dev->faults == faults + 1);
	assert_true(rig_get(&f->rig, 0, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(rig_used_idx(&f->q[qi]), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
}

static void offers_what_linux_wants(void **state)
{
	struct fix *f = *state;
	uint64_t features = rig_offered(&f->rig, 0);

	assert_int_equal(features & 0x3f, BIT(DEFLATE_ON_OOM) | BIT(PAGE_POISON) | BIT(REPORTING));
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_DEVICE_ID), 5);
	rig_set(&f->rig, 0, CONFIG(num_pages), 5);
	rig_set(&f->rig, 0, CONFIG(actual), 6);
	rig_set(&f->rig, 0, CONFIG(poison_val), 0xaaaaaaaa);
	bus_write(&f->rig.bus, BUS_MMIO, RIG_BASE + CONFIG(actual), 1, 1);
	bus_write(&f->rig.bus, BUS_MMIO, RIG_BASE + CONFIG(actual) + 2, 4, 1);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 0);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(actual)), 6);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(poison_val)), 0xaaaaaaaa);
	assert_int_equal(virtio_balloon_actual(f->dev), 6);
	rig_set(&f->rig, 0, CONFIG(actual), UINT32_MAX);
	assert_int_equal(virtio_balloon_actual(f->dev), PAGES);
}

static void inflates_and_deflates(void **state)
{
	struct fix *f = *state;
	uint32_t pfn[] = {707, 700, 706, 701, 700, 705, 702, 704, 703, 702};
	struct rig_seg s[2] = {{RIG_DATA, 12, false}, {RIG_DATA + 12, sizeof(pfn) - 12, false}};
	uint64_t had;

	put_pfns(f, pfn, 10);
	had = allocated(f);
	answered(f, INFLATE, s, 2);
	check_given_back(f, 700, 8);
	assert_int_equal(allocated(f), had - 8);
	assert_int_equal(mem_take_discarded(&f->rig.mem, 700 / 64), 0xffull << 700 % 64);
	answered(f, DEFLATE, s, 2);
	check_given_back(f, 700, 8);
	/* Numbers of no page at all: nothing is done with them. */
	pfn[0] = UINT32_MAX;
	put_pfns(f, pfn, 10);
	answered(f, DEFLATE, s, 2);
	assert_int_equal(allocated(f), had - 8);
}

/* More than one piece, in buffers of odd sizes that pieces do not end with. */
static void a_long_request(void **state)
{
	struct fix *f = *state;
	uint32_t pfn[1500];
	struct rig_seg s[3] = {{RIG_DATA, 1022, false},
			       {RIG_DATA + 1022, 4000, false},
			       {RIG_DATA + 5022, sizeof(pfn) - 5022, false}};

	for (unsigned i = 0; i < 1500; i++)
		pfn[i] = 400 + (i * 7) % 1500;
	put_pfns(f, pfn, 1500);
	answered(f, INFLATE, s, 3);
	check_given_back(f, 400, 1500);
}

static void lies_are_faults(void **state)
{
	struct fix *f = *state;
	static const uint32_t bad[] = {PAGES, 0xd0000, 0x100000, UINT32_MAX};
	struct rig_seg odd = {RIG_DATA, 5, false}, wrong_way = {RIG_DATA, 8, true};
	struct rig_seg good = {RIG_DATA, 4, false}, readable = {FREE, 4096, false};
	struct rig_seg outside = {RIG_MEM - 4096, 8192, true};

	for (unsigned i = 0; i < 4; i++) {
		put_pfns(f, &bad[i], 1);
		refused(f, INFLATE, &good, 1);
	}
	refused(f, INFLATE, &odd, 1);
	refused(f, INFLATE, &wrong_way, 1);
	refused(f, REPORT, &readable, 1);
	refused(f, REPORT_12, &outside, 1);
	check_given_back(f, 0, 0);
}

static void reports_on_either_queue(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{FREE + 16 * MEM_PAGE_SIZE, 64 * MEM_PAGE_SIZE, true},
			       {FREE + 80 * MEM_PAGE_SIZE, MEM_PAGE_SIZE, true}};
	struct rig_seg parts = {FREE + 100, 3 * MEM_PAGE_SIZE, true};
	struct rig_seg none = {FREE + 100, MEM_PAGE_SIZE, true};

	answered(f, REPORT, s, 2);
	check_given_back(f, 256 + 16, 65);
	memset(rig_ptr(&f->rig, FREE), 'x', RIG_MEM - FREE);
	answered(f, REPORT_12, s, 2);
	check_given_back(f, 256 + 16, 65);
	memset(rig_ptr(&f->rig, FREE), 'x', RIG_MEM - FREE);
	answered(f, REPORT, &none, 1);
	check_given_back(f, 0, 0);
	answered(f, REPORT, &parts, 1); /* two whole pages lie in there */
	check_given_back(f, 257, 2);
}

static void pages_filled_with_something_stay(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {FREE, 64 * MEM_PAGE_SIZE, true};

	rig_set(&f->rig, 0, CONFIG(poison_val), 0xaaaaaaaa);
	answered(f, REPORT, &s, 1);
	check_given_back(f, 0, 0);
	rig_set(&f->rig, 0, CONFIG(poison_val), 0);
	answered(f, REPORT, &s, 1);
	check_given_back(f, 256, 64);
	/* Without the feature the value means nothing, and neither does a queue without its own. */
	rig_start(&f->rig, 0, BIT(REPORTING), f->q, QUEUES, 64);
	rig_set(&f->rig, 0, CONFIG(poison_val), 1);
	s.gpa += 64 * MEM_PAGE_SIZE;
	answered(f, REPORT, &s, 1);
	check_given_back(f, 256, 128);
	rig_start(&f->rig, 0, 0, f->q, QUEUES, 64);
	s.gpa += 64 * MEM_PAGE_SIZE;
	request(f, REPORT, &s, 1);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[REPORT]), 0);
	assert_int_equal(f->dev->faults, 0);
	check_given_back(f, 256, 128);
}

/* 196 MiB are more than three windows of 64 allow: two of them are waited out, whole. */
static void a_guest_that_frees_fast_waits(void **state)
{
	struct fix *f = *state;
	uint64_t begin = loop_now_ns();
	struct rig_seg s[28];

	for (unsigned i = 0; i < 28; i++)
		s[i] = (struct rig_seg){FREE, 7 << 20, true};
	answered(f, REPORT, s, 28);
	check_given_back(f, 256, 1792);
	assert_true(loop_now_ns() - begin >= 45000000);
}

/* However scattered the pages are: each is a call of its own, and the loop looks up in between. */
static void scattered_pages_take_turns(void **state)
{
	struct fix *f = *state;
	uint32_t pfn[20];
	unsigned given = 0;
	struct rig_seg s = {RIG_DATA, sizeof(pfn), false}, pages[10];

	for (unsigned i = 0; i < 20; i++)
		pfn[i] = FREE / MEM_PAGE_SIZE + 2 * (19 - i);
	put_pfns(f, pfn, 20);
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	request(f, INFLATE, &s, 1);
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(rig_used_idx(&f->q[INFLATE]), 0);
		if (i == 10) {
			f->dev->ops->quiet(f->dev, true);
			loop_run_once(&f->rig.loop, 0);
			f->dev->ops->quiet(f->dev, false);
		}
		loop_run_once(&f->rig.loop, 0);
		assert_in_range(given_back(f), given, i);
		given = given_back(f);
	}
	rig_until(&f->rig, rig_used_idx(&f->q[INFLATE]) == 1);
	assert_int_equal(given_back(f), 20);
	for (unsigned i = 0; i < 10; i++)
		pages[i] =
			(struct rig_seg){FREE + (101 + 2 * i) * MEM_PAGE_SIZE, MEM_PAGE_SIZE, true};
	request(f, REPORT, pages, 10);
	for (unsigned i = 1; i <= 9; i++) {
		loop_run_once(&f->rig.loop, 0);
		assert_in_range(given_back(f), 20, 20 + i);
	}
	rig_until(&f->rig, rig_used_idx(&f->q[REPORT]) == 1);
	assert_int_equal(given_back(f), 30);
	assert_int_equal(f->dev->faults, 0);
}

/* What was left of a request that a reset took away is not given back with the next one. */
static void reset_in_a_piece(void **state)
{
	struct fix *f = *state;
	uint32_t pfn[3] = {300, 302, 304};
	struct rig_seg s = {RIG_DATA, sizeof(pfn), false};

	put_pfns(f, pfn, 3);
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	request(f, INFLATE, &s, 1);
	loop_run_once(&f->rig.loop, 0);
	check_given_back(f, 300, 1);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
	pfn[0] = 301;
	put_pfns(f, pfn, 1);
	s.len = 4;
	answered(f, INFLATE, &s, 1);
	check_given_back(f, 300, 2);
}

static void quiet_means_quiet(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {FREE, 64 * MEM_PAGE_SIZE, true};

	f->dev->ops->quiet(f->dev, true);
	request(f, REPORT, &s, 1);
	rig_took_signal(f->dev->irq_fd);
	virtio_balloon_set_target(f->dev, 1000);
	rig_settle(&f->rig);
	check_given_back(f, 0, 0);
	assert_int_equal(rig_used_idx(&f->q[REPORT]), 0);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 0);
	assert_false(rig_took_signal(f->dev->irq_fd));
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 1000);
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
	rig_until(&f->rig, rig_used_idx(&f->q[REPORT]) == 1);
	check_given_back(f, 256, 64);
}

/* A twin's, of an epoch that is over: the checkpoint has the last one of it. */
static void a_target_that_waits_ends_with_its_state(void **state)
{
	struct fix *f = *state;
	void *pod = malloc(f->dev->ops->state->size);

	virtio_balloon_set_target(f->dev, 2000);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	f->dev->ops->quiet(f->dev, true);
	virtio_balloon_set_target(f->dev, 1000);
	f->dev->ops->load(f->dev, pod);
	assert_int_equal(virtio_balloon_target(f->dev), 2000);
	f->dev->ops->resume(f->dev);
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 2000);
	free(pod);
}

static void on_given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	assert_int_equal(len, sizeof(uint32_t));
	memcpy(arg, data, len);
}

/* When it is set, and not while it waits: it may be of the next epoch. */
static void the_target_is_an_input(void **state)
{
	struct fix *f = *state;
	uint32_t given = 0;

	f->rig.inputs = (struct inputs){.given = on_given, .arg = &given};
	virtio_balloon_set_target(f->dev, 77);
	assert_int_equal(given, 77);
	f->dev->ops->quiet(f->dev, true);
	virtio_balloon_set_target(f->dev, 78);
	assert_int_equal(given, 77);
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(given, 78);
}

static void the_target_is_told(void **state)
{
	struct fix *f = *state;
	uint32_t gen = rig_get(&f->rig, 0, VIRTIO_MMIO_CONFIG_GENERATION);

	rig_took_signal(f->dev->irq_fd);
	virtio_balloon_set_target(f->dev, 77);
	assert_true(rig_took_signal(f->dev->irq_fd));
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 77);
	assert_true(rig_get(&f->rig, 0, VIRTIO_MMIO_CONFIG_GENERATION) != gen);
	virtio_balloon_set_target(f->dev, 0);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 0);
}

/* The machine dies with a report half done; whoever takes over does all of it, and answers once. */
static void taken_over_in_the_middle(void **state)
{
	struct fix *f = *state;
	const struct state_desc *desc = f->dev->ops->state;
	uint8_t *scratch = calloc(1, desc->size);
	struct rig_seg s[16];

	for (unsigned i = 0; i < 15; i++)
		s[i] = (struct rig_seg){FREE, 6 << 20, true};
	s[15] = (struct rig_seg){FREE + (6 << 20), 4 << 12, true};
	virtio_balloon_set_target(f->dev, 4711);
	rig_set(&f->rig, 0, CONFIG(actual), 815);
	request(f, REPORT, s, 16);
	loop_run_once(&f->rig.loop, 10000000);
	rig_until(&f->rig, allocated(f) < PAGES - 1500); /* the first round over it */
	assert_int_equal(rig_used_idx(&f->q[REPORT]), 0);
	f->dev->ops->save(f->dev);
	memcpy(scratch, f->dev->pod, desc->size);
	assert_int_equal(desc->check(scratch, NULL), 0);
	f->dev->ops->free(f->dev);
	memset(rig_ptr(&f->rig, FREE), 'x', RIG_MEM - FREE); /* as if nothing had been done */
	make(f);
	f->dev->ops->load(f->dev, scratch);
	f->dev->ops->resume(f->dev);
	rig_until(&f->rig, rig_used_idx(&f->q[REPORT]) == 1);
	check_given_back(f, 256, 1540);
	assert_int_equal(rig_get(&f->rig, 0, CONFIG(num_pages)), 4711);
	assert_int_equal(virtio_balloon_actual(f->dev), 815);
	free(scratch);
}

/* A reset in the middle: the next request starts at its own beginning. */
static void reset_in_the_middle(void **state)
{
	struct fix *f = *state;
	struct rig_seg big[17], small = {FREE, 3 * MEM_PAGE_SIZE, true};

	for (unsigned i = 0; i < 17; i++)
		big[i] = (struct rig_seg){FREE, 6 << 20, true};
	request(f, REPORT, big, 17);
	rig_until(&f->rig, allocated(f) < PAGES - 1500);
	assert_int_equal(rig_used_idx(&f->q[REPORT]), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), f->q, QUEUES, 64);
	memset(rig_ptr(&f->rig, FREE), 'x', RIG_MEM - FREE);
	answered(f, REPORT, &small, 1);
	check_given_back(f, 256, 3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(offers_what_linux_wants),
		T(inflates_and_deflates),
		T(a_long_request),
		T(lies_are_faults),
		T(reports_on_either_queue),
		T(pages_filled_with_something_stay),
		T(a_guest_that_frees_fast_waits),
		T(scattered_pages_take_turns),
		T(reset_in_a_piece),
		T(quiet_means_quiet),
		T(a_target_that_waits_ends_with_its_state),
		T(the_target_is_an_input),
		T(the_target_is_told),
		T(taken_over_in_the_middle),
		T(reset_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
