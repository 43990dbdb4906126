/* Which connections a map holds, and when it forgets one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "net/seqmap.h"
#include "tests/unit/libsegment.h"

#define SECOND 1000000000ull
#define DELTA  0x10000000u
#define LIMIT  100

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static struct seqmap map;
static uint8_t frame[SEGMENT_FRAME_MAX];
static uint64_t now = 1000 * SECOND;
static struct seqmap_flow flow;

static int make(void **state)
{
	seqmap_done(&map); /* within a test: another begins */
	flow = segment_flow(4, 0);
	seqmap_init(&map, LIMIT);
	assert_int_equal(seqmap_set(&map, &flow, DELTA, 0), 0);
	return 0;
}

static int done(void **state)
{
	seqmap_done(&map);
	return 0;
}

/* Numbers as the client has them: the guest's begin at 1000, the client's at 5000. */
static void pass(bool out, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload)
{
	struct made_segment d = {.version = 4,
				 .from_guest = out,
				 .flags = flags,
				 .seq = out ? seq + DELTA : seq,
				 .ack = ack,
				 .payload = payload};
	uint32_t len = segment_make(&d, frame);

	if (out)
		seqmap_out(&map, frame, len);
	else
		seqmap_in(&map, frame, len);
}

static void guest(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload)
{
	pass(true, flags, seq, ack, payload);
}

static void client(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload)
{
	pass(false, flags, seq, ack, payload);
}

/* Is it known after so long without a frame? */
static bool lives_after(uint64_t ns)
{
	seqmap_tick(&map, now);
	now += ns;
	seqmap_tick(&map, now);
	return seqmap_find(&map, &flow) != NULL;
}

/* It ended: not forgotten at once. */
static void check_ended(void)
{
	assert_true(lives_after(SEQMAP_LINGER_NS - 1));
	seqmap_tick(&map, ++now);
	assert_int_equal(map.count, 0);
}

static void check_open(void)
{
	assert_true(lives_after(SEQMAP_LINGER_NS));
}

static void an_open_one_stays(void **state)
{
	check_open();
	guest(ACK, 1000, 5000, 10);
	client(ACK, 5000, 1010, 20);
	check_open();
	assert_true(lives_after(SEQMAP_IDLE_NS - SEQMAP_LINGER_NS - 1));
	assert_int_equal(seqmap_tick(&map, ++now), 1);
}

/* Either way: a frame that is not to be changed shows that it lives, too. */
static void frames_keep_it(void **state)
{
	for (int out = 0; out < 2; out++) {
		assert_true(lives_after(SEQMAP_IDLE_NS - 1));
		pass(out, out ? ACK : 0, 1000, 5000, 0);
		seqmap_tick(&map, now);
		assert_true(lives_after(SEQMAP_IDLE_NS - 1));
		pass(!out, ACK, 5000, 1000, 0);
	}
}

static void both_fins(void **state)
{
	guest(ACK | FIN, 1000, 5000, 10);
	check_open();
	client(ACK, 5000, 1011, 0);
	check_open();
	client(ACK | FIN, 5000, 1011, 7);
	check_open();
	guest(ACK, 1011, 5008, 0);
	check_ended();
}

static void the_client_first(void **state)
{
	client(ACK | FIN, 5000, 1000, 0);
	guest(ACK, 1000, 5001, 500); /* half closed: more comes */
	check_open();
	guest(ACK | FIN, 1500, 5001, 0);
	client(ACK, 5001, 1500, 0);
	check_open();
	client(ACK, 5001, 1501, 0);
	check_ended();
}

static void numbers_wrap(void **state)
{
	guest(ACK | FIN, 0xfffffffb, 0xfffffff0, 4);
	client(ACK | FIN, 0xfffffff0, 0, 15);
	guest(ACK, 0, 0, 0);
	check_ended();
}

/* Its last acknowledgment was lost: the FIN comes again, and is answered with the right numbers. */
static void frames_after_the_end(void **state)
{
	both_fins(state);
	make(state);
	guest(ACK | FIN, 1000, 5000, 0);
	client(ACK | FIN, 5000, 1001, 0);
	guest(ACK, 1001, 5001, 0);
	assert_true(lives_after(SEQMAP_LINGER_NS - 1));
	client(ACK | FIN, 5000, 1001, 0);
	guest(ACK, 1001, 5001, 0);
	check_ended();
}

/* Somebody who does not know the numbers does not end it. */
static void forged_fins(void **state)
{
	guest(ACK | FIN, 1000, 5000, 0);
	client(ACK, 5000, 1001, 0);
	client(ACK | FIN, 4000, 1001, 0);
	guest(ACK, 1001, 5000, 0);
	check_open();
	client(ACK | FIN, 9000, 1001, 0);
	guest(ACK, 1001, 5000, 0);
	check_open();
	client(ACK | FIN, 5000, 1001, 0);
	guest(ACK, 1001, 5001, 0);
	client(ACK | FIN, 9000, 1001, 0);
	check_ended();
}

static void forged_acks(void **state)
{
	client(ACK | FIN, 5000, 1000, 0);
	guest(ACK | FIN, 1000, 5001, 0);
	client(ACK, 5001, 1002, 0);
	client(ACK, 5001, 1000, 0);
	check_open();
}

/* The length of what is a fragment is not known, so its FIN is not. */
static void a_fin_in_fragments(void **state)
{
	struct made_segment d = {.version = 4,
				 .flags = ACK | FIN,
				 .payload = 1000,
				 .first_of_more = true,
				 .seq = 5000,
				 .ack = 1001};

	guest(ACK | FIN, 1000, 5000, 0);
	seqmap_in(&map, frame, segment_make(&d, frame));
	for (uint32_t n = 480; n < 1002; n++)
		guest(ACK, 1001, 5000 + n, 0);
	check_open();
}

static void resets(void **state)
{
	guest(RST, 1000, 0, 0);
	check_ended();
	make(state);
	guest(ACK, 1000, 5000, 0);
	client(RST, 5000, 0, 0);
	check_ended();
	make(state);
	guest(ACK, 1000, 5000, 0);
	client(RST | ACK, 5000 + 1000, 1000, 0); /* the guest acknowledged late */
	check_ended();
}

/*
 * Without what the guest acknowledged last nobody can tell: as of one that it has begun, or one
 * that came from elsewhere.
 */
static void resets_of_what_is_not_known(void **state)
{
	client(RST, 5000, 0, 0);
	check_open();
	guest(ACK, 1000, 5000, 0);
	check_open();
	guest(SYN, 90000, 0, 0);
	client(RST | ACK, 5000, 90001, 0);
	check_open();
}

static void forged_resets(void **state)
{
	guest(ACK, 1000, 5000, 0);
	client(RST, 4999, 0, 0);
	check_open();
	client(RST, 5000 + (1 << 20), 0, 0);
	check_open();
	client(RST, 5100, 0, 0);
	guest(ACK, 1000, 5000, 0); /* the guest asks whether that is true */
	check_open();
}

/* The same addresses again: what was seen of the end is that of the last one. */
static void a_new_one_after_the_end(void **state)
{
	guest(ACK | FIN, 1000, 5000, 0);
	client(ACK | FIN, 5000, 1001, 0);
	guest(ACK, 1001, 5001, 0);
	client(SYN, 90000, 0, 0);
	guest(SYN | ACK, 70000, 90001, 0);
	check_open();
	guest(ACK | FIN, 70001, 90001, 0);
	client(ACK, 90001, 70002, 0);
	check_open();
}

/* As a state has it that was taken before the first frame of the new one was let out. */
static void a_new_one_that_began_unseen(void **state)
{
	static const uint32_t seqs[] = {70001, 1002, 1000 - (1 << 25)};
	struct seqmap_conn was;
	struct seqmap to;

	guest(ACK | FIN, 1000, 5000, 0);
	client(ACK | FIN, 5000, 1001, 0);
	guest(ACK, 1001, 5001, 0);
	assert_int_equal(seqmap_list(&map, &was), 1);
	for (unsigned i = 0; i < 3; i++) {
		seqmap_init(&to, LIMIT);
		assert_int_equal(seqmap_put(&to, &was), 0);
		seqmap_done(&map);
		map = to;
		guest(ACK, seqs[i], 90001, 100);
		assert_true(lives_after(SEQMAP_LINGER_NS + 1));
		client(RST, 5001, 0, 0);
		assert_true(lives_after(SEQMAP_LINGER_NS + 1));
	}
	check_open();
}

/* Of the last bytes some were lost. */
static void bytes_again_behind_a_fin(void **state)
{
	guest(ACK, 1000, 5000, 100);
	guest(ACK | FIN, 1100, 5000, 0);
	client(ACK | FIN, 5000, 1000, 0);
	guest(ACK, 1000, 5001, 100);
	client(ACK, 5001, 1101, 0);
	guest(ACK | FIN, 1100, 5001, 0); /* was on its way */
	check_ended();
}

/* What a quotation says is not of the connection. */
static void quotations_end_nothing(void **state)
{
	struct made_segment d = {.version = 4, .from_guest = true, .flags = ACK | RST};

	guest(ACK, 1000, 5000, 0);
	seqmap_in(&map, frame, segment_make_error(&d, 20, frame));
	check_open();
}

/* A difference that is found now is that of a connection which begins. */
static void added_again_after_the_end(void **state)
{
	guest(RST, 1000, 0, 0);
	assert_true(lives_after(SEQMAP_LINGER_NS - 1));
	assert_int_equal(seqmap_set(&map, &flow, 5, 0), 0);
	check_open();
}

/* What is known now counts; without a difference there is nothing to translate. */
static void the_last_word_counts(void **state)
{
	assert_int_equal(seqmap_set(&map, &flow, 5, 7), 0);
	assert_int_equal(map.count, 1);
	assert_int_equal(seqmap_find(&map, &flow)->delta, 5);
	assert_int_equal(seqmap_find(&map, &flow)->ts_delta, 7);
	assert_int_equal(seqmap_set(&map, &flow, 0, 7), 0);
	assert_int_equal(map.count, 1);
	assert_int_equal(seqmap_set(&map, &flow, 0, 0), 0);
	assert_int_equal(map.count, 0);
	assert_int_equal(seqmap_set(&map, &flow, 0, 0), 0);
	assert_int_equal(map.count, 0);
}

/* The side that is taken over from had taken over from another. */
static void maps_compose(void **state)
{
	struct seqmap_flow other = segment_flow(6, 3), gone = segment_flow(4, 9);
	struct seqmap by;

	seqmap_init(&by, LIMIT);
	assert_int_equal(seqmap_add_all(&map, &by), 0);
	assert_int_equal(map.count, 1);
	seqmap_set(&map, &gone, 9, 9);
	seqmap_set(&by, &flow, 5, 7);
	seqmap_set(&by, &other, 1, 2);
	seqmap_set(&by, &gone, (uint32_t)-9, (uint32_t)-9);
	assert_int_equal(seqmap_add_all(&map, &by), 0);
	assert_int_equal(map.count, 2);
	assert_int_equal(seqmap_find(&map, &flow)->delta, DELTA + 5);
	assert_int_equal(seqmap_find(&map, &flow)->ts_delta, 7);
	assert_int_equal(seqmap_find(&map, &other)->delta, 1);
	seqmap_done(&by);
	/* What does not fit is said; the rest is there. */
	seqmap_init(&by, 1);
	assert_int_equal(seqmap_set(&by, &gone, 1, 0), 0);
	assert_int_equal(seqmap_add_all(&by, &map), -ENOSPC);
	assert_int_equal(by.count, 1);
	seqmap_done(&by);
}

static void see(struct seqmap *m, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload)
{
	struct made_segment d = {.version = 4,
				 .from_guest = true,
				 .flags = flags,
				 .seq = seq,
				 .ack = ack,
				 .payload = payload};
	static uint8_t was[SEGMENT_FRAME_MAX];
	uint32_t len = segment_make(&d, frame);

	memcpy(was, frame, len);
	seqmap_see(m, frame, len);
	assert_memory_equal(was, frame, len);
}

/* What was seen of a connection before it was taken over, in the numbers of its client. */
static void an_end_is_taken_over(void **state)
{
	struct seqmap by;

	guest(ACK | FIN, 300, 400, 0); /* of one before, with these addresses */
	client(ACK | FIN, 400, 301, 0);
	guest(ACK, 301, 401, 0);
	seqmap_init(&by, LIMIT);
	see(&by, ACK | FIN, 1000, 5001, 0); /* does not know it */
	assert_int_equal(seqmap_set(&by, &flow, 50, 0), 0);
	see(&by, ACK | FIN, 1000 + DELTA + 50, 5001, 0);
	assert_int_equal(seqmap_find(&by, &flow)->fin_out, 1001 + DELTA);
	assert_int_equal(seqmap_add_all(&map, &by), 0);
	assert_int_equal(seqmap_find(&map, &flow)->delta, DELTA + 50);
	check_open();
	client(ACK | FIN, 5001, 1001, 0);
	check_open();
	see(&map, ACK, 1001 + DELTA + 50, 5002, 0);
	check_ended();
	seqmap_done(&by);
}

/* Whose addresses are in use again: others do not get its place, whatever comes first. */
static void what_goes_on_comes_first(void **state)
{
	struct seqmap by, full;

	for (unsigned n = 0; n < 20; n++) { /* in the order of a random hash */
		seqmap_init(&full, 1);
		seqmap_init(&by, LIMIT);
		assert_int_equal(seqmap_set(&full, &flow, 9, 0), 0);
		see(&full, RST, 1000, 0, 0);
		for (uint16_t port = 0; port < 5; port++) {
			struct seqmap_flow f = segment_flow(4, port);

			assert_int_equal(seqmap_set(&by, &f, 1, 0), 0);
		}
		assert_int_equal(seqmap_add_all(&full, &by), -ENOSPC);
		assert_int_equal(full.count, 1);
		assert_non_null(seqmap_find(&full, &flow));
		assert_int_equal(seqmap_find(&full, &flow)->delta, 10);
		seqmap_done(&by);
		seqmap_done(&full);
	}
}

static bool same(const struct seqmap_conn *a, const struct seqmap_conn *b)
{
	return !memcmp(&a->flow, &b->flow, sizeof(a->flow)) && a->seen == b->seen &&
	       a->delta == b->delta && a->ts_delta == b->ts_delta && a->acked == b->acked &&
	       a->fin_out == b->fin_out && a->fin_in == b->fin_in;
}

/* In one order however it came about, and what it says makes the same map. */
static void listed_and_put(void **state)
{
	struct seqmap_conn was[LIMIT], is[LIMIT];
	struct seqmap to;

	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(port % 2 ? 4 : 6, (uint16_t)(port * 37));

		assert_int_equal(seqmap_set(&map, &f, port, 2u * port), 0);
	}
	guest(ACK | FIN, 1000, 5000, 10);
	client(ACK | FIN, 5000, 1011, 7);
	assert_int_equal(seqmap_list(&map, was), LIMIT);
	for (unsigned i = 1; i < LIMIT; i++)
		assert_true(memcmp(&was[i - 1].flow, &was[i].flow, sizeof(was->flow)) < 0);
	seqmap_init(&to, LIMIT);
	assert_int_equal(seqmap_list(&to, is), 0);
	for (unsigned i = LIMIT; i; i--)
		assert_int_equal(seqmap_put(&to, &was[i - 1]), 0);
	assert_int_equal(seqmap_list(&to, is), LIMIT);
	for (unsigned i = 0; i < LIMIT; i++)
		assert_true(same(&was[i], &is[i]));
	seqmap_done(&map);
	map = to;
	guest(ACK, 1011, 5008, 0); /* its end is known */
	seqmap_tick(&map, now);
	seqmap_tick(&map, now + SEQMAP_LINGER_NS);
	assert_int_equal(map.count, LIMIT - 1);
	assert_null(seqmap_find(&map, &flow));
}

static void at_the_limit(void **state)
{
	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(port % 2 ? 4 : 6, port);

		assert_int_equal(seqmap_set(&map, &f, port, 0), 0);
	}
	for (uint16_t port = LIMIT; port < 2 * LIMIT; port++) {
		struct seqmap_flow f = segment_flow(4, port);

		assert_int_equal(seqmap_set(&map, &f, 1, 0), -ENOSPC);
		assert_null(seqmap_find(&map, &f));
	}
	assert_int_equal(seqmap_set(&map, &flow, 1, 0), 0); /* is there */
	assert_int_equal(map.count, LIMIT);
	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(port % 2 ? 4 : 6, port);

		assert_int_equal(seqmap_find(&map, &f)->delta, port);
	}
	seqmap_clear(&map);
	assert_int_equal(map.count, 0);
	assert_null(seqmap_find(&map, &flow));
}

/* It needs its place no more, though it is not quiet for long. */
static void one_that_ended_makes_room(void **state)
{
	struct seqmap_flow other = segment_flow(4, LIMIT), more = segment_flow(4, LIMIT + 1);

	assert_int_equal(seqmap_room(&map), LIMIT - 1);
	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(4, port);

		assert_int_equal(seqmap_set(&map, &f, port, 0), 0);
	}
	assert_int_equal(seqmap_room(&map), 0);
	guest(RST, 1000, 0, 0);
	assert_int_equal(seqmap_room(&map), 1);
	assert_int_equal(seqmap_set(&map, &other, 1, 0), 0);
	assert_null(seqmap_find(&map, &flow));
	assert_non_null(seqmap_find(&map, &other));
	assert_int_equal(map.count, LIMIT);
	assert_int_equal(seqmap_room(&map), 0);
	assert_int_equal(seqmap_set(&map, &more, 1, 0), -ENOSPC);
	for (uint16_t port = 1; port <= LIMIT; port++) {
		struct seqmap_flow f = segment_flow(4, port);

		assert_non_null(seqmap_find(&map, &f));
	}
}

/* Against a plain list: what comes and goes in any order. */
static void any_order(void **state)
{
	uint32_t has[2 * LIMIT] = {[0] = DELTA}, count = 1;
	unsigned seed = 3;

	for (int n = 0; n < 20000; n++) {
		uint16_t port = (uint16_t)(random32(&seed) % (2 * LIMIT));
		struct seqmap_flow f = segment_flow(4, port);
		struct seqmap_conn *c = seqmap_find(&map, &f);

		assert_int_equal(c ? c->delta : 0, has[port]);
		if (has[port] && (random32(&seed) & 1)) {
			assert_int_equal(seqmap_set(&map, &f, 0, 0), 0);
			has[port] = 0;
			count--;
		} else if (!has[port] && count == LIMIT) {
			assert_int_equal(seqmap_set(&map, &f, 1, 0), -ENOSPC);
		} else {
			count += !has[port];
			has[port] += 1 + port;
			assert_int_equal(seqmap_set(&map, &f, has[port], 0), 0);
		}
		assert_int_equal(map.count, count);
	}
}

/* Of many, those that ended. */
static void a_tick_takes_what_ended(void **state)
{
	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(4, port);
		struct made_segment d = {.version = 4,
					 .from_guest = true,
					 .port = port,
					 .flags = port % 3 ? ACK : RST};

		assert_int_equal(seqmap_set(&map, &f, 1, 0), 0);
		assert_true(seqmap_out(&map, frame, segment_make(&d, frame)));
	}
	assert_int_equal(seqmap_tick(&map, now), 0);
	assert_int_equal(seqmap_tick(&map, now + SEQMAP_LINGER_NS), 33);
	for (uint16_t port = 1; port < LIMIT; port++) {
		struct seqmap_flow f = segment_flow(4, port);

		assert_int_equal(seqmap_find(&map, &f) != NULL, port % 3 != 0);
	}
	assert_int_equal(seqmap_tick(&map, now + SEQMAP_IDLE_NS), 67);
	assert_int_equal(map.count, 0);
}

static void done_twice(void **state)
{
	seqmap_done(&map);
	seqmap_done(&map);
	assert_int_equal(seqmap_tick(&map, now), 0);
	assert_false(seqmap_out(&map, frame, sizeof(frame)));
	seqmap_init(&map, 1);
	assert_int_equal(seqmap_set(&map, &flow, 1, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, make, done)
		T(an_open_one_stays),
		T(frames_keep_it),
		T(both_fins),
		T(the_client_first),
		T(numbers_wrap),
		T(frames_after_the_end),
		T(forged_fins),
		T(forged_acks),
		T(a_fin_in_fragments),
		T(resets),
		T(resets_of_what_is_not_known),
		T(forged_resets),
		T(a_new_one_after_the_end),
		T(a_new_one_that_began_unseen),
		T(bytes_again_behind_a_fin),
		T(quotations_end_nothing),
		T(added_again_after_the_end),
		T(the_last_word_counts),
		T(maps_compose),
		T(an_end_is_taken_over),
		T(what_goes_on_comes_first),
		T(listed_and_put),
		T(at_the_limit),
		T(one_that_ended_makes_room),
		T(any_order),
		T(a_tick_takes_what_ended),
		T(done_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
