/* The secondary's door: who may come in. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/common/side.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "tests/unit/libwire.h"

#define BUSY "connection dropped: not a primary, or this side is busy with another one"

static void check_welcome(void)
{
	pri_join();
	assert_state(SYNCING);
	end_close(&lab.main);
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_string_equal(lab.ft.note, "primary: connection closed");
}

static struct end ends[DOOR_MAX_PENDING + 1];

static unsigned count_pending(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DOOR_MAX_PENDING; i++)
		n += lab.sec.door.conns[i].used;
	return n;
}

static void connect_to_door(unsigned i)
{
	end_connect(&ends[i]);
	lab_settle();
}

static int close_ends(void **state)
{
	for (unsigned i = 0; i <= DOOR_MAX_PENDING; i++)
		end_close(&ends[i]);
	return lab_teardown(state);
}

static void who_says_nothing_is_dropped(void **state)
{
	connect_to_door(0);
	end_preface(&ends[0], STREAM_MAIN, 9); /* is not enough */
	lab_pass(2 * S - 1);
	assert_false(end_is_dropped(&ends[0]));
	assert_int_equal(count_pending(), 1);
	lab_pass(1);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(count_pending(), 0);
	assert_int_equal(logged("warning: connection dropped: it did not say what it is"), 1);
	/* And nothing is left of it. */
	lab_pass(10 * S);
	assert_int_equal(logged("connection dropped"), 1);
}

/* Silent ones cannot keep the primary out, once they had time to speak. */
static void the_oldest_makes_room(void **state)
{
	for (unsigned i = 0; i < DOOR_MAX_PENDING; i++) {
		connect_to_door(i ^ 1); /* not in the order of their places */
		if (i < 2)
			lab_pass(1);
	}
	assert_int_equal(count_pending(), DOOR_MAX_PENDING);
	connect_to_door(DOOR_MAX_PENDING);
	assert_true(end_is_dropped(&ends[DOOR_MAX_PENDING]));
	assert_int_equal(logged("warning: connection dropped: too many connections at once"), 1);
	lab_pass(DOOR_AGE_NS - 2);
	for (unsigned i = 0; i < DOOR_MAX_PENDING; i++)
		assert_false(end_is_dropped(&ends[i]));
	connect_to_door(DOOR_MAX_PENDING);
	assert_int_equal(count_pending(), DOOR_MAX_PENDING);
	assert_true(end_is_dropped(&ends[1]));
	assert_false(end_is_dropped(&ends[0]));
	assert_false(end_is_dropped(&ends[2]));
	lab_pass(2);
	pri_join();
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(count_pending(), DOOR_MAX_PENDING - 1);
	/* Those that went have no timers any more. */
	lab_pass(2 * S);
	assert_int_equal(count_pending(), 0);
}

/* 4,400 connections a second, which stay, and a primary behind a link of 20 ms. */
static void a_flood_keeps_nobody_out(void **state)
{
	struct end *primary = &ends[DOOR_MAX_PENDING];
	unsigned before = 2 * DOOR_MAX_PENDING, n;

	for (n = 0; n < before + 88; n++) {
		end_connect(&ends[n % DOOR_MAX_PENDING]);
		lab_settle();
		lab_pass(S / 4400);
		if (n == before)
			end_connect(primary);
	}
	lab_settle();
	assert_false(end_is_dropped(primary));
	end_preface(primary, STREAM_MAIN, 9);
	end_send(primary, FRAME_BYE, 0, NULL, 0); /* it is heard */
	assert_true(end_is_dropped(primary));
}

/* Some lines at once, then one a second, with how many were not said. */
static void a_flood_does_not_fill_the_log(void **state)
{
	for (unsigned i = 0; i < 100; i++) {
		connect_to_door(0);
		end_close(&ends[0]);
		lab_settle();
	}
	assert_int_equal(logged(BUSY), 8);
	lab_pass(S);
	connect_to_door(0);
	end_close(&ends[0]);
	lab_settle();
	assert_int_equal(logged(BUSY), 9);
	assert_int_equal(logged("warning: 92 more connections dropped"), 1);
}

static void crowd(void)
{
	for (unsigned i = 0; i <= DOOR_MAX_PENDING; i++)
		connect_to_door(i);
}

/* Even if there is much else to do while it is heard. */
static void a_primary_that_is_heard_keeps_its_place(void **state)
{
	lab.while_building = crowd;
	pri_join();
	assert_state(SYNCING);
	assert_int_equal(count_pending(), DOOR_MAX_PENDING);
	assert_int_equal(fake_vm.created, 1);
}

static void others_are_dropped(void **state)
{
	uint8_t byte = 1;

	/* A frame on main that is no HELLO. */
	connect_to_door(0);
	end_preface(&ends[0], STREAM_MAIN, 9);
	end_send(&ends[0], FRAME_BYE, 0, NULL, 0);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(logged(BUSY), 1);
	/* A HELLO on another link. */
	connect_to_door(0);
	end_preface(&ends[0], STREAM_HEART, 9);
	end_send(&ends[0], FRAME_HELLO, 0, &byte, 1);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(logged(BUSY), 2);
	connect_to_door(0);
	end_preface(&ends[0], STREAM_FILE, 9);
	end_send(&ends[0], FRAME_HELLO, 0, &byte, 1);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(logged(BUSY), 3);
	/* A heartbeat of nobody. */
	pri_heart_as(&ends[0], 9);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(logged(BUSY), 4);
	/* Not even a stream. */
	connect_to_door(0);
	assert_int_equal(send(ends[0].in.fd, "GET / HTTP/1.1\r\nHost: secondary\r\n\r\n", 35, 0),
			 35);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(
		logged("warning: connection dropped: preface: this is not an ftvmm stream"), 1);
	/* It hung up. */
	connect_to_door(0);
	end_close(&ends[0]);
	lab_settle();
	assert_int_equal(logged(BUSY), 5);
	assert_int_equal(count_pending(), 0);
	assert_state(LISTEN);
	assert_int_equal(fake_vm.created, 0);
}

/* A heartbeat link is that of this primary, the first one, with a heartbeat. */
static void heartbeat_links_are_looked_at(void **state)
{
	uint8_t byte = 1;

	pri_join();
	pri_heart_as(&ends[0], lab.session + 1);
	assert_true(end_is_dropped(&ends[0]));
	assert_null(lab.sec.heart.loop);
	connect_to_door(0);
	end_preface(&ends[0], STREAM_MAIN, lab.session);
	end_send(&ends[0], FRAME_HEART, 0, &byte, 1);
	assert_true(end_is_dropped(&ends[0]));
	connect_to_door(0);
	end_preface(&ends[0], STREAM_HEART, lab.session);
	end_send(&ends[0], FRAME_BYE, 0, &byte, 1);
	assert_true(end_is_dropped(&ends[0]));
	assert_null(lab.sec.heart.loop);
	assert_int_equal(time_left(&lab.sec.timer_op), 5 * S);
	pri_heart();
	pri_heart_as(&ends[0], lab.session);
	assert_true(end_is_dropped(&ends[0]));
	assert_false(end_is_dropped(&lab.heart));
	assert_int_equal(logged(BUSY), 4);
	assert_state(SYNCING);
}

/* It serves one, whatever it is at. */
static void a_second_primary_is_dropped(void **state)
{
	static const unsigned states[] = {SEC_SYNCING, SEC_STANDBY, SEC_CLAIM, SEC_ACCEPT,
					  SEC_HELD};

	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		if (i) {
			lab_teardown(NULL);
			lab_setup(NULL);
		}
		lab_reach((enum secondary_state)states[i]);
		end_connect(&ends[0]);
		pri_say_hello(&ends[0], 1234);
		assert_true(end_is_dropped(&ends[0]));
		assert_int_equal(logged(BUSY), 1);
		pri_heart_as(&ends[0], lab.session);
		assert_true(states[i] == SEC_SYNCING || end_is_dropped(&ends[0]));
		assert_int_equal(lab.sec.fsm.state, states[i]);
		assert_int_equal(fake_vm.created, 1);
	}
}

/* A side that took over is a primary. */
static void nobody_comes_in_after_a_takeover(void **state)
{
	lab_reach(SEC_TAKEN);
	connect_to_door(0);
	assert_int_equal(count_pending(), 0);
	assert_true(end_is_dropped(&ends[0]));
	assert_int_equal(logged("connection dropped"), 0);
}

/* A slow link. */
static void a_hello_may_come_in_pieces(void **state)
{
	int fd;

	end_connect(&lab.main);
	fd = lab.main.in.fd;
	lab.main.in.fd = -1; /* it is only made */
	pri_say_hello(&lab.main, 9);
	lab.main.in.fd = fd;
	while (lab.main.written < lab.main.out.len) {
		size_t n = lab.main.out.len - lab.main.written;

		assert_state(LISTEN);
		n = n < 100 ? n : 100;
		assert_int_equal(send(fd, lab.main.out.p + lab.main.written, n, 0), n);
		lab.main.written += n;
		for (unsigned i = 0; i < 3; i++)
			loop_run_once(&lab.loop, 200000);
	}
	end_expect(&lab.main, FRAME_WELCOME, NULL);
}

/* In one piece with it: nothing is left in the socket that would wake anybody. */
static void what_comes_behind_a_hello_is_taken(void **state)
{
	int fd;

	end_connect(&lab.main);
	fd = lab.main.in.fd;
	lab.main.in.fd = -1;
	pri_say_hello(&lab.main, 9);
	lab.main.in.session = 9;
	pri_disk(0, 512, 512, 0x44);
	lab.main.in.fd = fd;
	end_flush(&lab.main);
	lab_until(lab_image_byte(lab.image, 512) == 0x44);
}

static void the_door_is_shut_at_the_end(void **state)
{
	connect_to_door(0);
	connect_to_door(1);
	assert_int_equal(secondary_stop(&lab.sec), 0);
	assert_int_equal(count_pending(), 0);
	assert_true(end_is_dropped(&ends[0]));
	assert_true(end_is_dropped(&ends[1]));
	assert_false(end_try_connect(&ends[2]));
	lab_pass(10 * S);
	assert_int_equal(logged("connection dropped"), 0);
	/* A second time it is nothing. */
	assert_int_equal(secondary_stop(&lab.sec), 0);
}

static void a_door_that_does_not_open(void **state)
{
	struct secondary *other = calloc(1, sizeof(*other));
	struct config cfg = lab.cfg;
	struct ft ft = {.cfg = &cfg, .loop = &lab.loop, .arbiter = lab.ft.arbiter};
	struct err e = {0};

	/* Somebody listens there. */
	assert_true(secondary_start(other, &ft, &lab.vm, NULL, NULL, &e) < 0);
	assert_true(e.msg[0]);
	assert_int_equal(secondary_stop(other), 0);
	snprintf(cfg.listen, sizeof(cfg.listen), "nonsense");
	e = (struct err){0};
	assert_int_equal(secondary_start(other, &ft, &lab.vm, NULL, NULL, &e), -EINVAL);
	assert_int_equal(secondary_stop(other), 0);
	check_welcome();
	free(other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_setup, close_ends)
	const struct CMUnitTest tests[] = {
		TEST(who_says_nothing_is_dropped),
		TEST(the_oldest_makes_room),
		TEST(a_flood_keeps_nobody_out),
		TEST(a_flood_does_not_fill_the_log),
		TEST(a_primary_that_is_heard_keeps_its_place),
		TEST(others_are_dropped),
		TEST(heartbeat_links_are_looked_at),
		TEST(a_second_primary_is_dropped),
		TEST(nobody_comes_in_after_a_takeover),
		TEST(a_hello_may_come_in_pieces),
		TEST(what_comes_behind_a_hello_is_taken),
		TEST(the_door_is_shut_at_the_end),
		TEST(a_door_that_does_not_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
