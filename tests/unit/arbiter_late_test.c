/* The arbiter's calls that end late, and the steps of two sides between each other's. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/libarbiter.h"

/* Every call takes longer than its deadline, but ends: asked again, it is answered. */
static void slow_but_steady_storage_answers(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;
	int r = -ETIMEDOUT;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	storage.slow_ms = 1500; /* two of them in a claim, and one in an end */
	for (int i = 0; i < 2 && r == -ETIMEDOUT; i++)
		r = arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e);
	assert_int_equal(r, 0);
	assert_int_equal(gen, 2);
	for (int i = 0, n = -ETIMEDOUT; i < 2 && n == -ETIMEDOUT; i++)
		r = n = arbiter_end(a, 2, ARBITER_STOPPED, &e);
	storage.slow_ms = 0;
	assert_int_equal(r, 0);
	assert_int_equal(arbiter_last(a)->end, ARBITER_STOPPED);
	arbiter_close(a);
}

/* Nobody fetched the answer, and others acted meanwhile: it is not taken for the truth. */
static void an_old_answer_is_asked_for_again(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen = 0;
	unsigned others;
	int pipes[2];

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(pipe(pipes), 0);
	others = count_threads();
	storage.wait_fd = pipes[0];
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ETIMEDOUT);
	storage.wait_fd = 0;
	assert_int_equal(write(pipes[1], "x", 1), 1);
	while (count_threads() > others)
		poll(NULL, 0, 1);
	e.code = 0;
	assert_int_equal(arbiter_claim(b, 2, ARBITER_START, &gen, &e), 0);
	poll(NULL, 0, ARBITER_DEADLINE_MS + 100); /* the age of an answer is what this is about */
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_int_equal(arbiter_last(a)->generation, 3);
	arbiter_close(a);
	arbiter_close(b);
	close(pipes[0]);
	close(pipes[1]);
}

/* Nobody waits for it any more when its storage comes back: it does not land. */
static void a_claim_that_was_given_up_is_not_made(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;
	unsigned others = count_threads();

	storage.slow_ms = ARBITER_DEADLINE_MS + 500; /* the sync before the link */
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -ETIMEDOUT);
	arbiter_close(a);
	while (count_threads() > others)
		poll(NULL, 0, 1);
	assert_int_equal(count_files(*state, "*"), 0);
}

/* The two sides of the race, of which one stops at the moment when the other claims. */
static struct {
	struct arbiter *stops, *claims;
	int stopped, claimed;
} race;

static void stop_now(void)
{
	struct err e = {0};

	race.stopped = arbiter_end(race.stops, 1, ARBITER_STOPPED, &e);
}

static void release_now(void)
{
	struct err e = {0};

	race.stopped = arbiter_end(race.stops, 1, ARBITER_RELEASED, &e);
}

static void claim_now(void)
{
	struct err e = {0};
	uint64_t gen = 0;

	race.claimed = arbiter_claim(race.claims, 1, ARBITER_GO_ON, &gen, &e);
}

static void begin_race(const struct world *w)
{
	struct err e = {0};
	uint64_t gen = 0;

	race.stops = open_as(w, "hostA");
	race.claims = open_as(w, "hostB");
	arbiter_set_side(race.stops, 0xa);
	arbiter_set_side(race.claims, 0xb);
	assert_int_equal(arbiter_claim(race.stops, 0, ARBITER_START, &gen, &e), 0);
}

static void end_race(struct arbiter_record *ret)
{
	struct err e = {0};

	assert_int_equal(arbiter_read(race.claims, ret, &e), 0);
	arbiter_close(race.stops);
	arbiter_close(race.claims);
}

/* The claimer looked before the stop, and links after it. */
static void a_stop_within_a_claim_cancels_it(void **state)
{
	static const struct {
		void (*stop)(void);
		enum arbiter_end end;
	} ways[] = {{stop_now, ARBITER_STOPPED}, {release_now, ARBITER_RELEASED}};
	struct arbiter_record rec;

	for (unsigned i = 0; i < 2; i++) {
		begin_race(*state);
		storage.before_link = ways[i].stop;
		claim_now();
		assert_int_equal(race.stopped, 0);
		assert_int_equal(race.claimed, -ECANCELED);
		/* Asked again it does not come to life, and nobody else's is to be listened for. */
		claim_now();
		assert_int_equal(race.claimed, -ECANCELED);
		end_race(&rec);
		assert_int_equal(rec.generation, 2);
		assert_int_equal(rec.end, ways[i].end);
		assert_int_equal(rec.side, 0xa);
		assert_string_equal(rec.holder, "hostA");
		unplant(*state, "vm.1");
		unplant(*state, "vm.2");
	}
}

static pthread_t claimer;
static atomic_bool linked;

static void *claim_on_thread(void *arg)
{
	claim_now();
	return NULL;
}

static void wait_for_the_end(void)
{
	linked = true;
	while (!memchr(storage.calls, 'r', sizeof(storage.calls)))
		poll(NULL, 0, 1);
	poll(NULL, 0, 50); /* until who stops has seen the claim, in general */
}

static void claim_beside(void)
{
	storage.before_folder_sync = wait_for_the_end;
	pthread_create(&claimer, NULL, claim_on_thread, NULL);
	while (!linked)
		poll(NULL, 0, 1);
}

/* Each sees the other's: the claimer, which looks back, ends it, and who stops is not told that it
 * runs. */
static void a_stop_and_a_claim_that_see_each_other_are_a_stop(void **state)
{
	struct arbiter_record rec;

	begin_race(*state);
	storage.before_rename = claim_beside;
	stop_now();
	pthread_join(claimer, NULL);
	assert_int_equal(race.claimed, -ECANCELED);
	assert_int_equal(race.stopped, 0);
	end_race(&rec);
	assert_int_equal(rec.generation, 2);
	assert_int_equal(rec.end, ARBITER_STOPPED);
	assert_int_equal(rec.side, 0xa);
}

/* The other way round: who stops is told that the VM runs. */
static void a_claim_within_a_stop_wins(void **state)
{
	struct arbiter_record rec;

	begin_race(*state);
	storage.before_rename = claim_now;
	stop_now();
	assert_int_equal(race.claimed, 0);
	assert_int_equal(race.stopped, -ESTALE);
	end_race(&rec);
	assert_int_equal(rec.generation, 2);
	assert_int_equal(rec.end, ARBITER_HELD);
	assert_string_equal(rec.holder, "hostB");
}

static void start_now(void)
{
	struct err e = {0};
	uint64_t gen = 0;

	race.claimed = arbiter_claim(race.claims, 1, ARBITER_START, &gen, &e);
}

/* A record that was held before is put back as held: whoever has claimed after it, and holds that,
 * has not ended it in the same way. */
static void who_starts_while_a_record_is_put_back_has_it(void **state)
{
	struct arbiter_record was = {0}, rec;
	struct err e = {0};

	begin_race(*state);
	arbiter_set_side(race.claims, 0xa);
	assert_int_equal(arbiter_read(race.stops, &was, &e), 0);
	storage.before_rename = start_now;
	assert_int_equal(arbiter_put_back(race.stops, 1, &was, &e), -ESTALE);
	assert_int_equal(race.claimed, 0);
	end_race(&rec);
	assert_int_equal(rec.generation, 2);
	assert_int_equal(rec.end, ARBITER_HELD);
}

static const struct world *restarting;

static void take_back(void)
{
	unplant(restarting, "vm.2");
}

/* The storage restarts between the link and its sync: nobody else has claimed. */
static void a_claim_that_the_storage_forgot_is_not_lost(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;

	restarting = *state;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	storage.before_folder_sync = take_back;
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ENODATA);
	assert_non_null(strstr(e.msg, "generation 2"));
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(gen, 2);
	arbiter_close(a);
}

static void take_back_and_claim(void)
{
	take_back();
	claim_now();
}

/* The same, and the other side has the number since: it is that one's, though one is there. */
static void a_number_that_another_has_since_is_lost(void **state)
{
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	restarting = *state;
	begin_race(*state);
	storage.before_folder_sync = take_back_and_claim;
	assert_int_equal(arbiter_claim(race.stops, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_int_equal(race.claimed, 0);
	assert_int_equal(gen, 0);
	end_race(&rec);
	assert_int_equal(rec.generation, 2);
	assert_string_equal(rec.holder, "hostB");
}

/* Its claimer died before the sync: who hears of it and goes on from there must find it again. */
static void a_claim_that_others_believe_is_kept(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen = 0, other = 0;
	unsigned before;

	restarting = *state;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &other, &e), 0);
	before = storage.ncalls;
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_true(storage.ncalls > before);
	assert_int_equal(storage.calls[storage.ncalls - 1], 'd');
	/* It is taken back before that: nobody has said whose the VM is. */
	e.code = 0;
	storage.before_folder_sync = take_back;
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ENOENT);
	e.code = 0;
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(gen, 2);
	arbiter_close(a);
	arbiter_close(b);
}

static char held[512];

static void hold_again(void)
{
	plant(restarting, "vm.1", held);
}

/* Nobody is told that it has stopped in order before that is what the others will read. */
static void an_end_that_the_storage_forgot_is_no_end(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;
	char path[128];
	FILE *f;

	restarting = *state;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	snprintf(path, sizeof(path), "%s/vm.1", restarting->folder);
	f = fopen(path, "r");
	assert_non_null(f);
	held[fread(held, 1, sizeof(held) - 1, f)] = 0;
	fclose(f);
	storage.before_folder_sync = hold_again;
	assert_int_equal(arbiter_end(a, 1, ARBITER_RELEASED, &e), -EIO);
	assert_non_null(strstr(e.msg, "vm.1"));
	e.code = 0;
	assert_int_equal(arbiter_end(a, 1, ARBITER_RELEASED, &e), 0);
	arbiter_close(a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)
	const struct CMUnitTest tests[] = {
		TEST(slow_but_steady_storage_answers),
		TEST(an_old_answer_is_asked_for_again),
		TEST(a_claim_that_was_given_up_is_not_made),
		TEST(a_stop_within_a_claim_cancels_it),
		TEST(a_stop_and_a_claim_that_see_each_other_are_a_stop),
		TEST(a_claim_within_a_stop_wins),
		TEST(who_starts_while_a_record_is_put_back_has_it),
		TEST(a_claim_that_the_storage_forgot_is_not_lost),
		TEST(a_number_that_another_has_since_is_lost),
		TEST(a_claim_that_others_believe_is_kept),
		TEST(an_end_that_the_storage_forgot_is_no_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
