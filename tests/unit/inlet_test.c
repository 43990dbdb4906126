/* What a twin's network is given, and that its own back end is there again afterwards. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "net/inlet.h"
#include "net/seqmap.h"
#include "vmm/base/limit.h"

#define OWN_FD 12345 /* only a number here */
#define LARGE  (64u << 10)

struct fix {
	struct netdev nd;
	struct inlet in;
	unsigned rooms, changes;
	int changed_fd; /* at the last change */
	struct seqmap own, born;
	struct limit limit;
	uint64_t offloads;
	unsigned offload_calls;
};

static uint8_t data[LARGE], got[LARGE];

static int own_recv(struct netdev *nd, void *buf, uint32_t cap)
{
	return -EIO;
}

static int own_set_offloads(struct netdev *nd, uint64_t features)
{
	struct fix *f = nd->back;

	f->offloads = features;
	f->offload_calls++;
	return 0;
}

static const struct netdev_ops own_ops = {.recv = own_recv, .set_offloads = own_set_offloads};

static void changed(void *arg)
{
	struct fix *f = arg;

	f->changes++;
	f->changed_fd = f->nd.fd;
}

static void room(void *arg)
{
	((struct fix *)arg)->rooms++;
}

static int setup(void **state)
{
	struct fix *f = test_calloc(1, sizeof(*f));

	f->nd.ops = &own_ops;
	f->nd.back = f;
	f->nd.fd = OWN_FD;
	f->nd.changed = changed;
	f->nd.changed_arg = f;
	netdev_translate(&f->nd, &f->own);
	netdev_set_limit(&f->nd, &f->limit);
	f->in.room = room;
	f->in.arg = f;
	assert_int_equal(inlet_begin(&f->in, &f->nd, &f->born), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	inlet_end(&f->in);
	inlet_end(&f->in);
	test_free(f);
	return 0;
}

static bool is_readable(const struct fix *f)
{
	struct pollfd p = {.fd = f->nd.fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static int take(struct fix *f, uint32_t cap)
{
	return f->nd.ops->recv(&f->nd, got, cap);
}

static void frames_come_in_order(void **state)
{
	struct fix *f = *state;

	assert_int_equal(take(f, LARGE), -EAGAIN);
	assert_false(is_readable(f));
	assert_true(inlet_put(&f->in, "one", 3));
	assert_true(is_readable(f));
	assert_true(inlet_put(&f->in, "three", 5));
	assert_int_equal(take(f, LARGE), 3);
	assert_memory_equal(got, "one", 3);
	assert_true(is_readable(f));
	assert_int_equal(take(f, 2), 2); /* cut off, never more than there is room for */
	assert_memory_equal(got, "th", 2);
	assert_false(is_readable(f));
	assert_int_equal(take(f, LARGE), -EAGAIN);
	assert_int_equal(f->nd.rx_frames, 2);
	assert_int_equal(f->in.bytes, 0);
	assert_true(inlet_put(&f->in, "again", 5));
	assert_true(is_readable(f));
	assert_int_equal(take(f, LARGE), 5);
}

static void full_and_room_again(void **state)
{
	struct fix *f = *state;
	unsigned n = 1;

	while (inlet_put(&f->in, data, LARGE))
		n++;
	assert_int_equal(n, INLET_LIMIT / LARGE);
	while (f->in.bytes > INLET_LIMIT / 2) {
		assert_int_equal(f->rooms, 0);
		assert_int_equal(take(f, LARGE), LARGE);
		n--;
	}
	assert_int_equal(f->rooms, 1);
	while (n--)
		assert_int_equal(take(f, LARGE), LARGE);
	assert_int_equal(f->rooms, 1);
}

static void what_waits_is_dropped(void **state)
{
	struct fix *f = *state;

	while (inlet_put(&f->in, data, LARGE))
		;
	inlet_drop(&f->in);
	assert_int_equal(f->in.bytes, 0);
	assert_false(is_readable(f));
	assert_int_equal(take(f, LARGE), -EAGAIN);
	assert_int_equal(f->rooms, 0); /* who dropped it goes on by itself */
	assert_true(inlet_put(&f->in, "new", 3));
	assert_true(is_readable(f));
	inlet_drop(&f->in);
	inlet_drop(&f->in);
}

static void its_own_back_end_waits(void **state)
{
	struct fix *f = *state;

	assert_ptr_not_equal(f->nd.ops, &own_ops);
	assert_int_not_equal(f->nd.fd, OWN_FD);
	assert_ptr_equal(f->nd.seqs, &f->born);
	assert_null(f->nd.limit); /* the primary's guest was given it by one already */
	assert_int_equal(f->changes, 1);
	assert_int_equal(f->changed_fd, f->nd.fd);
	assert_int_equal(netdev_set_offloads(&f->nd, 0x180), 0);
	assert_int_equal(f->offload_calls, 0);
	f->nd.ops->send(&f->nd, "out", 3); /* nothing of the twin gets there */
	assert_int_equal(f->nd.tx_dropped, 1);
	assert_true(inlet_put(&f->in, "lost", 4));
	inlet_end(&f->in);
	assert_ptr_equal(f->nd.ops, &own_ops);
	assert_ptr_equal(f->nd.back, f);
	assert_int_equal(f->nd.fd, OWN_FD);
	assert_ptr_equal(f->nd.seqs, &f->own);
	assert_ptr_equal(f->nd.limit, &f->limit);
	assert_int_equal(f->changed_fd, OWN_FD);
	assert_int_equal(f->changes, 3); /* first to none: its descriptor is closed then */
	assert_int_equal(f->offload_calls, 1);
	assert_int_equal(f->offloads, 0x180);
	assert_null(f->in.nd);
	inlet_end(&f->in);
	assert_int_equal(f->changes, 3);
	assert_int_equal(inlet_begin(&f->in, &f->nd, &f->born), 0);
	assert_int_equal(take(f, LARGE), -EAGAIN);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(frames_come_in_order),
		T(full_and_room_again),
		T(what_waits_is_dropped),
		T(its_own_back_end_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
