/* The output buffer when both sides run the guest: entries let out one by one, or diverted. */
#include "tests/unit/libvirtio.h"

#include <errno.h>

#include "tests/unit/libobuf.h"

static void count(void *arg)
{
	++*(unsigned *)arg;
}

struct kept {
	struct obuf_entry *en[8];
	unsigned n;
	char last[32];
	int sink;
};

static void keep(void *arg, struct obuf_entry *en, int sink, const void *data, uint32_t len)
{
	struct kept *k = arg;

	assert_true(k->n < 8 && len < sizeof(k->last));
	k->en[k->n++] = en;
	k->sink = sink;
	memcpy(k->last, data, len);
	k->last[len] = 0;
}

/* All before it have left. */
static void open_epoch(struct obuf *ob, uint64_t epoch)
{
	obuf_hold(ob, epoch - 1);
	obuf_seal(ob, epoch);
	obuf_release(ob, epoch - 1);
}

static void tells_what_it_keeps(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};

	obuf_on_kept(&f->ob, keep, &k);
	obuf_says(f, f->sa, "free");
	assert_int_equal(k.n, 0);
	open_epoch(&f->ob, 5);
	obuf_says(f, f->sb, "5b");
	assert_int_equal(k.n, 1);
	assert_int_equal(k.sink, f->sb);
	assert_string_equal(k.last, "5b");
	obuf_on_kept(&f->ob, NULL, NULL);
	obuf_says(f, f->sa, "5a");
	assert_int_equal(k.n, 1);
}

static void lets_out_from_every_place(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};
	uint64_t one;

	obuf_on_kept(&f->ob, keep, &k);
	open_epoch(&f->ob, 5);
	obuf_says(f, f->sa, "1");
	one = f->ob.bytes;
	obuf_says(f, f->sa, "2");
	obuf_says(f, f->sb, "3");
	obuf_says(f, f->sa, "4");
	obuf_let(&f->ob, k.en[1]); /* the middle */
	assert_out(f->a, "2");
	assert_int_equal(f->ob.held, 3);
	assert_int_equal(f->ob.bytes, 3 * one);
	assert_int_equal(f->ob.sinks[f->sa].bytes, 2 * one);
	obuf_let(&f->ob, k.en[3]); /* the tail */
	assert_out(f->a, "24");
	obuf_says(f, f->sa, "5");
	obuf_let(&f->ob, k.en[0]); /* the head */
	assert_out(f->a, "241");
	assert_int_equal(f->ob.held, 2);
	obuf_seal(&f->ob, 6);
	obuf_says(f, f->sa, "6");
	obuf_release(&f->ob, 5); /* the rest in order, without those */
	assert_out(f->a, "2415");
	assert_out(f->b, "3");
	obuf_let(&f->ob, k.en[5]); /* the only one */
	assert_int_equal(f->ob.held, 0);
	assert_int_equal(f->ob.bytes, 0);
	assert_int_equal(f->ob.sinks[f->sa].bytes, 0);
	obuf_says(f, f->sa, "7");
	assert_int_equal(f->ob.held, 1);
}

/* What may leave and did not get its turn is not overtaken. */
static void does_not_overtake_what_was_released(void **state)
{
	struct fix *f = *state;
	unsigned later = 0;

	obuf_set_later(&f->ob, &f->loop, count, &later);
	rig_set_clock(&f->loop, 2 * LOOP_BUDGET_NS); /* an entry a turn */
	open_epoch(&f->ob, 5);
	assert_true(obuf_is_turn(&f->ob));
	obuf_says(f, f->sa, "1");
	obuf_says(f, f->sa, "2");
	obuf_seal(&f->ob, 6);
	obuf_says(f, f->sa, "3");
	assert_false(obuf_is_turn(&f->ob)); /* not acknowledged */
	obuf_release(&f->ob, 5);
	assert_out(f->a, "1");
	assert_int_equal(later, 1);
	assert_false(obuf_is_turn(&f->ob));
	obuf_continue(&f->ob);
	assert_out(f->a, "12");
	assert_true(obuf_is_turn(&f->ob));
}

static void marked_ones_leave_later(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};

	obuf_on_kept(&f->ob, keep, &k);
	open_epoch(&f->ob, 5);
	obuf_says(f, f->sa, "1");
	obuf_mark(&f->ob, k.en[0], 1);
	obuf_seal(&f->ob, 6);
	obuf_says(f, f->sa, "2");
	obuf_says(f, f->sa, "3");
	obuf_says(f, f->sa, "4");
	obuf_mark(&f->ob, k.en[1], 1);
	obuf_mark(&f->ob, k.en[3], 1);
	assert_int_equal(f->a.bytes, 0);
	obuf_release(&f->ob, 5); /* what was sealed leaves with its ack, marked or not */
	assert_out(f->a, "1");
	obuf_let_marked(&f->ob, 1);
	assert_out(f->a, "124");
	assert_int_equal(f->ob.held, 1);
	obuf_let_marked(&f->ob, 1);
	assert_out(f->a, "124");
}

/* Each waits for something else. */
static void marked_ones_leave_in_their_turn(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};

	obuf_on_kept(&f->ob, keep, &k);
	open_epoch(&f->ob, 5);
	for (unsigned i = 0; i < 4; i++)
		obuf_says(f, f->sa, (const char[]){(char)('1' + i), 0});
	obuf_mark(&f->ob, k.en[0], 2);
	obuf_mark(&f->ob, k.en[2], 2);
	obuf_mark(&f->ob, k.en[3], 3);
	obuf_let_marked(&f->ob, 1);
	assert_out(f->a, "");
	obuf_let_marked(&f->ob, 2);
	assert_out(f->a, "13");
	obuf_let_marked(&f->ob, UINT32_MAX);
	assert_out(f->a, "134");
	assert_int_equal(f->ob.held, 1);
}

static void room_comes_of_what_is_let_out(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);

	obuf_on_kept(&f->ob, keep, &k);
	open_epoch(&f->ob, 5);
	assert_int_equal(obuf_says(f, s, "1"), 0);
	obuf_limit_sink(&f->ob, s, 1);
	assert_int_equal(obuf_says(f, s, "2"), -EAGAIN);
	assert_int_equal(f->rooms, 0);
	obuf_let(&f->ob, k.en[0]);
	assert_int_equal(f->rooms, 1);
	assert_out(f->a, "1");
}

static void a_closed_one_lets_nothing_out(void **state)
{
	struct fix *f = *state;
	struct kept k = {0};

	obuf_on_kept(&f->ob, keep, &k);
	open_epoch(&f->ob, 5);
	obuf_says(f, f->sa, "1");
	obuf_says(f, f->sa, "2");
	obuf_mark(&f->ob, k.en[1], 1);
	obuf_drop(&f->ob);
	obuf_mark(&f->ob, k.en[0], 1);
	obuf_let(&f->ob, k.en[0]); /* they are no more */
	obuf_let_marked(&f->ob, 1);
	assert_int_equal(f->a.bytes, 0);
}

/* --- diverted --------------------------------------------------------------------------------- */

struct away {
	unsigned n;
	bool full;
};

static int take_away(void *arg, int sink, const struct iovec *iov, int niov)
{
	struct away *w = arg;

	if (w->full)
		return -EAGAIN;
	w->n++;
	return 0;
}

static void goes_elsewhere_when_diverted(void **state)
{
	struct fix *f = *state;
	struct away w = {0};
	int s = obuf_add_sink(&f->ob, OBUF_NET, obuf_deliver_a, obuf_has_room, f);

	obuf_divert(&f->ob, take_away, &w);
	assert_int_equal(obuf_says(f, s, "1"), 0);
	open_epoch(&f->ob, 5);
	assert_int_equal(obuf_says(f, s, "2"), 0);
	assert_int_equal(w.n, 2);
	assert_int_equal(f->a.bytes, 0);
	assert_int_equal(f->ob.held, 0);
	w.full = true;
	assert_int_equal(obuf_says(f, s, "3"), -EAGAIN);
	obuf_room(&f->ob);
	assert_int_equal(f->rooms, 1);
	obuf_room(&f->ob);
	assert_int_equal(f->rooms, 1); /* who was refused, once */
	obuf_divert(&f->ob, NULL, NULL);
	assert_int_equal(obuf_says(f, s, "4"), 0);
	assert_int_equal(f->ob.held, 1);
	assert_int_equal(w.n, 2);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, obuf_setup, obuf_teardown)
	const struct CMUnitTest tests[] = {
		T(tells_what_it_keeps),
		T(lets_out_from_every_place),
		T(does_not_overtake_what_was_released),
		T(marked_ones_leave_later),
		T(marked_ones_leave_in_their_turn),
		T(room_comes_of_what_is_let_out),
		T(a_closed_one_lets_nothing_out),
		T(goes_elsewhere_when_diverted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
