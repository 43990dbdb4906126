/* The output buffer: order, epochs, back-pressure, and nothing after a drop. */
#include "tests/unit/libvirtio.h"

#include <errno.h>

#include "tests/unit/libobuf.h"

static void passes_when_not_holding(void **state)
{
	struct fix *f = *state;
	struct iovec iov[3] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};

	assert_int_equal(obuf_says(f, f->sa, "1"), 0);
	assert_int_equal(obuf_put(&f->ob, f->sa, iov, 3), 0);
	assert_out(f->a, "1abcde");
	assert_int_equal(f->a.n, 2); /* a frame is one delivery */
	assert_int_equal(f->ob.released, 2);
	assert_int_equal(obuf_says(f, -1, "x"), -ENODEV);
	assert_int_equal(obuf_says(f, 2, "x"), -ENODEV);
	assert_int_equal(obuf_says(f, INT32_MAX, "x"), -ENODEV);
	assert_int_equal(obuf_says(f, f->sa, ""), 0);
	assert_int_equal(f->a.n, 2);
}

static void count(void *arg)
{
	++*(int *)arg;
}

static void tells_the_first_output_of_each_epoch(void **state)
{
	struct fix *f = *state;
	int told = 0;

	obuf_on_held(&f->ob, count, &told);
	obuf_says(f, f->sa, "free");
	assert_int_equal(told, 0);
	obuf_hold(&f->ob, 5);
	obuf_says(f, f->sa, "5a");
	obuf_says(f, f->sb, "5b");
	assert_int_equal(told, 1);
	obuf_seal(&f->ob, 6);
	assert_int_equal(told, 1);
	obuf_says(f, f->sb, "6b");
	assert_int_equal(told, 2);
	obuf_pass(&f->ob);
	obuf_says(f, f->sa, "free");
	assert_int_equal(told, 2);
	obuf_on_held(&f->ob, NULL, NULL);
	obuf_hold(&f->ob, 7);
	obuf_says(f, f->sa, "7a");
	assert_int_equal(told, 2);
}

static void holds_until_its_epoch_is_released(void **state)
{
	struct fix *f = *state;

	obuf_hold(&f->ob, 5);
	obuf_says(f, f->sa, "5a");
	obuf_says(f, f->sb, "5b");
	obuf_release(&f->ob, 4);
	assert_int_equal(f->a.bytes, 0);
	obuf_seal(&f->ob, 6);
	obuf_says(f, f->sa, "6a");
	obuf_seal(&f->ob, 9);
	obuf_says(f, f->sa, "9a");
	assert_int_equal(f->ob.held, 4);
	assert_int_equal(f->a.bytes + f->b.bytes, 0);
	obuf_release(&f->ob, 5);
	assert_out(f->a, "5a");
	assert_out(f->b, "5b");
	obuf_release(&f->ob, 5);
	assert_out(f->a, "5a");
	obuf_release(&f->ob, 8); /* all before, too */
	assert_out(f->a, "5a6a");
	assert_int_equal(f->ob.held, 1);
	obuf_pass(&f->ob);
	assert_out(f->a, "5a6a9a");
	obuf_says(f, f->sa, "now");
	assert_out(f->a, "5a6a9anow");
	assert_int_equal(f->ob.held, 0);
	assert_int_equal(f->ob.bytes, 0);
}

/* What is put is copied: the guest may reuse its buffer at once. */
static void copies(void **state)
{
	struct fix *f = *state;
	char buf[4] = "old";
	struct iovec iov = {buf, 3};

	obuf_hold(&f->ob, 1);
	obuf_put(&f->ob, f->sa, &iov, 1);
	memcpy(buf, "new", 3);
	obuf_pass(&f->ob);
	assert_out(f->a, "old");
}

static void drop_is_for_ever(void **state)
{
	struct fix *f = *state;

	obuf_hold(&f->ob, 1);
	obuf_says(f, f->sa, "secret");
	obuf_seal(&f->ob, 2);
	obuf_says(f, f->sb, "secret");
	obuf_drop(&f->ob);
	assert_int_equal(f->ob.dropped, 2);
	assert_int_equal(f->ob.bytes, 0);
	obuf_release(&f->ob, 1);
	obuf_pass(&f->ob);
	assert_int_equal(obuf_says(f, f->sa, "more"), 0);
	obuf_pass(&f->ob);
	assert_int_equal(f->a.n + f->b.n, 0);
	assert_int_equal(f->ob.dropped, 3);
}

static void teardown_releases_nothing(void **state)
{
	struct fix *f = *state;

	obuf_hold(&f->ob, 1);
	obuf_says(f, f->sa, "held");
	obuf_done(&f->ob);
	assert_int_equal(f->a.n, 0);
	obuf_pass(&f->ob);
	assert_int_equal(f->a.n, 0);
}

static void pushes_back_over_the_limit(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);
	unsigned n = 0;

	obuf_hold(&f->ob, 1);
	while (obuf_says(f, s, "0123456789012345678901234567890123456789") == 0)
		n++;
	assert_in_range(n, 5, 25);
	assert_true(f->ob.bytes <= 1000);
	assert_int_equal(obuf_says(f, s, "0123456789012345678901234567890123456789"), -EAGAIN);
	assert_int_equal(f->ob.held, n); /* what was refused is not in there */
	assert_int_equal(f->rooms, 0);
	obuf_seal(&f->ob, 2);
	f->put_in_room = true;
	obuf_release(&f->ob, 1);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(f->ob.held, 1); /* from inside room() */
	obuf_seal(&f->ob, 3);
	obuf_release(&f->ob, 2);
	assert_memory_equal(f->a.data + f->a.bytes - 5, "again", 5);
	assert_int_equal(f->a.n, n + 1);
	assert_int_equal(f->rooms, 1); /* not starved: not called */
}

/* Who waited for room is told at once when more is allowed; less lets go of nothing. */
/* Held with its epoch as all is, in its place, but never refused. */
static void a_note_finds_room(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);
	int note = obuf_add_sink(&f->ob, OBUF_EVENT, obuf_deliver_a, NULL, f);

	obuf_hold(&f->ob, 1);
	while (obuf_says(f, s, "0123456789012345678901234567890123456789") == 0)
		;
	assert_int_equal(obuf_says(f, note, "noted"), 0);
	assert_int_equal(obuf_says(f, s, "more"), -EAGAIN);
	assert_int_equal(f->a.n, 0);
	obuf_seal(&f->ob, 2);
	obuf_release(&f->ob, 1);
	assert_memory_equal(f->a.data + f->a.bytes - 5, "noted", 5);
}

static void the_limit_is_set_while_it_runs(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);
	uint64_t held;

	obuf_hold(&f->ob, 1);
	while (obuf_says(f, s, "0123456789012345678901234567890123456789") == 0)
		;
	held = f->ob.held;
	assert_int_equal(f->rooms, 0);
	obuf_set_limit(&f->ob, 100000);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(obuf_says(f, s, "more"), 0);
	obuf_set_limit(&f->ob, 200);
	assert_int_equal(f->ob.held, held + 1);
	assert_int_equal(obuf_says(f, s, "more"), -EAGAIN);
	obuf_seal(&f->ob, 2);
	obuf_release(&f->ob, 1);
	assert_int_equal(f->a.n, held + 1);
	assert_int_equal(f->rooms, 2);
}

static bool takes_one(void *arg, const void *data, uint32_t len)
{
	obuf_deliver_a(arg, data, len);
	return false;
}

/* A sink that is full holds back its own device only; what is held of it leaves all the same. */
static void full_sink(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, takes_one, obuf_has_room, f);

	assert_int_equal(obuf_says(f, s, "1"), 0);
	assert_int_equal(obuf_says(f, s, "2"), -EAGAIN);
	assert_int_equal(obuf_says(f, f->sb, "b"), 0);
	assert_out(f->b, "b");
	obuf_continue(&f->ob); /* no room yet */
	assert_int_equal(f->rooms, 0);
	obuf_room(&f->ob);
	assert_int_equal(f->rooms, 1);
	obuf_hold(&f->ob, 1);
	assert_int_equal(obuf_says(f, s, "2"), 0);
	assert_int_equal(obuf_says(f, s, "3"), 0);
	obuf_seal(&f->ob, 2);
	obuf_release(&f->ob, 1);
	assert_out(f->a, "123");
	assert_int_equal(obuf_says(f, s, "4"), -EAGAIN);
	obuf_drop(&f->ob); /* nobody waits for a buffer that swallows everything */
	assert_int_equal(f->rooms, 2);
	assert_int_equal(obuf_says(f, s, "4"), 0);
	assert_out(f->a, "123");
}

/* A sink's own bound does not keep the others. */
static void bound_of_a_sink(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);
	unsigned n = 0;

	obuf_limit_sink(&f->ob, s, 200);
	obuf_hold(&f->ob, 1);
	while (obuf_says(f, s, "0123456789") == 0)
		n++;
	assert_in_range(n, 2, 19);
	assert_true(f->ob.bytes <= 200);
	assert_int_equal(obuf_says(f, f->sb, "b"), 0);
	obuf_seal(&f->ob, 2);
	obuf_release(&f->ob, 1);
	assert_int_equal(f->a.n, n);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(obuf_says(f, s, "0123456789"), 0);
}

/* Half of the limit must be free before anybody is called back. */
static void room_has_hysteresis(void **state)
{
	struct fix *f = *state;
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);
	uint64_t epoch = 1;

	obuf_hold(&f->ob, epoch);
	while (obuf_says(f, s, "0123456789012345678901234567890123456789") == 0)
		obuf_seal(&f->ob, ++epoch);
	for (uint64_t e = 1; e < epoch; e++) {
		bool before = f->ob.bytes > 500;

		obuf_release(&f->ob, e);
		assert_int_equal(f->rooms, before && f->ob.bytes <= 500);
		if (f->rooms)
			return;
	}
	fail();
}

static void one_entry_always_fits(void **state)
{
	struct fix *f = *state;
	static char big[5000];
	struct iovec iov = {big, sizeof(big)};

	obuf_hold(&f->ob, 1);
	assert_int_equal(obuf_put(&f->ob, f->sa, &iov, 1), 0);
	assert_int_equal(obuf_put(&f->ob, f->sa, &iov, 1), -EAGAIN);
	assert_int_equal(obuf_says(f, f->sa, "x"), -EAGAIN);
	obuf_pass(&f->ob);
	assert_int_equal(f->a.bytes, 5000);
}

/* Tiny entries may not cost memory that the limit does not see. */
static void tiny_entries_are_bounded(void **state)
{
	struct fix *f = *state;
	unsigned n = 0;

	obuf_hold(&f->ob, 1);
	while (obuf_says(f, f->sa, "x") == 0)
		n++;
	assert_in_range(n, 1, 100);
}

static void as_many_sinks_as_there_are(void **state)
{
	struct fix *f = *state;

	for (int i = 2; i < OBUF_MAX_SINKS; i++)
		assert_int_equal(obuf_add_sink(&f->ob, OBUF_NET, rig_deliver, NULL, &f->a), i);
	assert_int_equal(obuf_add_sink(&f->ob, OBUF_NET, rig_deliver, NULL, &f->a), -ENOSPC);
}

struct many {
	unsigned out, laters;
};

static bool count_out(void *arg, const void *data, uint32_t len)
{
	struct many *m = arg;
	unsigned id;

	assert_int_equal(len, sizeof(id));
	memcpy(&id, data, len);
	assert_int_equal(id, m->out);
	m->out++;
	return true;
}

static void count_later(void *arg)
{
	((struct many *)arg)->laters++;
}

static void put_many(struct fix *f, int sink, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		struct iovec iov = {&i, sizeof(i)};

		assert_int_equal(obuf_put(&f->ob, sink, &iov, 1), 0);
	}
}

/* The loop's budget for a turn, anew. */
static void begin_turn(struct fix *f)
{
	f->loop.yield_ns = rig_now_ns + LOOP_BUDGET_NS;
}

/* A release of many comes in parts, and each part is asked for. */
static void many_leave_in_parts(void **state)
{
	struct fix *f = *state;
	struct many m = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, count_out, NULL, &m);
	unsigned parts = 0;

	f->ob.limit = 1 << 20;
	obuf_set_later(&f->ob, &f->loop, count_later, &m);
	obuf_hold(&f->ob, 1);
	put_many(f, s, 0, 2000);
	obuf_seal(&f->ob, 2);
	put_many(f, s, 2000, 2100);
	obuf_release(&f->ob, 1);
	while (m.laters) {
		assert_in_range(m.out, 1, 1999);
		m.laters = 0;
		parts++;
		begin_turn(f);
		obuf_continue(&f->ob);
	}
	assert_int_equal(m.out, 2000);
	assert_in_range(parts, 2, 100);
	obuf_continue(&f->ob);
	obuf_flush(&f->ob); /* nothing of epoch 2 */
	assert_int_equal(m.out, 2000);
	obuf_seal(&f->ob, 3);
	begin_turn(f);
	obuf_release(&f->ob, 2);
	assert_int_equal(m.out, 2100);
	assert_int_equal(m.laters, 0);
}

static bool takes_long(void *arg, const void *data, uint32_t len)
{
	rig_now_ns += LOOP_BUDGET_NS; /* as a frame that the host cuts into many */
	return count_out(arg, data, len);
}

/* It is time that counts: an entry each turn, when each takes all of it. */
static void slow_ones_leave_one_by_one(void **state)
{
	struct fix *f = *state;
	struct many m = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, takes_long, NULL, &m);

	obuf_set_later(&f->ob, &f->loop, count_later, &m);
	obuf_hold(&f->ob, 1);
	put_many(f, s, 0, 10);
	obuf_seal(&f->ob, 2);
	begin_turn(f);
	obuf_release(&f->ob, 1);
	for (unsigned i = 1; i < 10; i++) {
		assert_int_equal(m.out, i);
		assert_int_equal(m.laters, i);
		begin_turn(f);
		obuf_continue(&f->ob);
	}
	assert_int_equal(m.out, 10);
	assert_int_equal(m.laters, 9);
}

/* What is put behind a release that is not through waits for its turn; a new hold is one. */
static void parts_keep_order_and_epochs(void **state)
{
	struct fix *f = *state;
	struct many m = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, count_out, NULL, &m);

	f->ob.limit = 1 << 20;
	obuf_set_later(&f->ob, &f->loop, count_later, &m);
	obuf_hold(&f->ob, 1);
	put_many(f, s, 0, 2000);
	obuf_pass(&f->ob);
	put_many(f, s, 2000, 2001);
	assert_in_range(m.out, 1, 1999);
	obuf_hold(&f->ob, 3);
	put_many(f, s, 2001, 2005);
	obuf_flush(&f->ob);
	assert_int_equal(m.out, 2001);
	obuf_continue(&f->ob);
	assert_int_equal(m.out, 2001);
	begin_turn(f);
	obuf_pass(&f->ob);
	assert_int_equal(m.out, 2005);
	put_many(f, s, 2005, 2006); /* at once again */
	assert_int_equal(m.out, 2006);
}

static void dropped_between_parts(void **state)
{
	struct fix *f = *state;
	struct many m = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, count_out, NULL, &m);
	unsigned out;

	f->ob.limit = 1 << 20;
	obuf_set_later(&f->ob, &f->loop, count_later, &m);
	obuf_hold(&f->ob, 1);
	put_many(f, s, 0, 2000);
	obuf_seal(&f->ob, 2);
	obuf_release(&f->ob, 1);
	out = m.out;
	obuf_drop(&f->ob);
	obuf_continue(&f->ob);
	obuf_flush(&f->ob);
	assert_int_equal(m.out, out);
}

/*
 * Random walk against a model: every entry carries its number and its epoch; deliveries must come
 * in order, none before its epoch was released, none lost unless refused or dropped.
 */
struct model {
	uint32_t next; /* number expected next */
	uint32_t epoch_of[100000];
	uint32_t allowed; /* highest epoch that may be out */
	bool later;
};

static void model_later(void *arg)
{
	((struct model *)arg)->later = true;
}

static bool model_deliver(void *arg, const void *data, uint32_t len)
{
	struct model *m = arg;
	uint32_t id;

	assert_true(len >= 4);
	memcpy(&id, data, 4);
	assert_int_equal(id, m->next);
	assert_true(m->epoch_of[id] <= m->allowed);
	m->next++;
	return true;
}

static void random_walk(void **state)
{
	struct fix *f = *state;
	struct model *m = calloc(1, sizeof(*m));
	int s = obuf_add_sink(&f->ob, OBUF_NET, model_deliver, NULL, m);
	uint32_t id = 0, epoch = 1;
	unsigned seed = 7;
	char buf[64];

	f->ob.limit = 60000;
	obuf_set_later(&f->ob, &f->loop, model_later, m);
	obuf_hold(&f->ob, epoch);
	for (unsigned i = 0; i < 200000 && id < 99999; i++) {
		struct iovec iov = {buf, 4 + rand_r(&seed) % 60};

		if (i % 16 == 0)
			begin_turn(f);
		switch (rand_r(&seed) % 1000) {
		case 0: /* the peer is lost, */
			m->allowed = UINT32_MAX;
			obuf_pass(&f->ob);
			break;
		case 1: /* and another one is in step; what was put meanwhile is of the last epoch
			 */
			if (f->ob.holding)
				break;
			m->allowed = epoch++;
			obuf_hold(&f->ob, epoch);
			break;
		case 2 ... 6:
			if (f->ob.holding)
				obuf_seal(&f->ob, ++epoch);
			break;
		case 7 ... 10:
			if (!f->ob.holding)
				break;
			m->allowed += rand_r(&seed) % 4;
			if (m->allowed >= epoch)
				m->allowed = epoch - 1;
			obuf_release(&f->ob, m->allowed);
			break;
		case 11 ... 30:
			if (m->later) {
				m->later = false;
				obuf_continue(&f->ob);
			}
			break;
		default:
			memcpy(buf, &id, 4);
			m->epoch_of[id] = epoch;
			if (obuf_put(&f->ob, s, &iov, 1) == 0)
				id++;
		}
	}
	m->allowed = UINT32_MAX;
	obuf_pass(&f->ob);
	obuf_flush(&f->ob);
	assert_int_equal(m->next, id);
	assert_true(id > 10000);
	free(m);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, obuf_setup, obuf_teardown)
	const struct CMUnitTest tests[] = {
		T(passes_when_not_holding),
		T(tells_the_first_output_of_each_epoch),
		T(holds_until_its_epoch_is_released),
		T(copies),
		T(drop_is_for_ever),
		T(teardown_releases_nothing),
		T(pushes_back_over_the_limit),
		T(a_note_finds_room),
		T(the_limit_is_set_while_it_runs),
		T(full_sink),
		T(bound_of_a_sink),
		T(room_has_hysteresis),
		T(one_entry_always_fits),
		T(tiny_entries_are_bounded),
		T(as_many_sinks_as_there_are),
		T(many_leave_in_parts),
		T(slow_ones_leave_one_by_one),
		T(parts_keep_order_and_epochs),
		T(dropped_between_parts),
		T(random_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
