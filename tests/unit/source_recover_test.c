/*
 * The source whose VM runs at the destination, and whose link is cut: what the user may do about
 * it, and what the destination says of what it has.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/source_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libsource.h"
#include "tests/unit/libtime.h"

/* --- the way there ---------------------------------------------------------------------------- */

/* It runs there, and lacks all of its memory, or nobody knows that. */
static void reach_switch(struct source_rig *r)
{
	r->conf.how = MIGRATE_HOW_POSTCOPY;
	r->conf.passes = 0;
	source_rig_reach(r, SRC_OFFERED);
	source_rig_cause(r, SRC_EV_WELCOME);
	source_rig_cause(r, SRC_EV_CONNECTED);
	there_says(r, FRAME_WELCOME);
	source_rig_until(r, SRC_SWITCH);
}

static void reach_go(struct source_rig *r)
{
	reach_switch(r);
	source_rig_cause(r, SRC_EV_READY);
}

static void have(struct source_rig *r, uint64_t word, uint32_t nwords, uint32_t last)
{
	struct wire_have w = {word, nwords, last};
	uint64_t bits[64] = {0};
	struct iovec iov[2] = {{&w, sizeof(w)}, {bits, nwords * sizeof(bits[0])}};

	assert_true(nwords <= 64);
	assert_int_equal(stream_send(&r->link, FRAME_HAVE, 0, iov, 2, UINT64_MAX), 0);
	loop_turns(&r->loop);
}

static uint32_t words(const struct source_rig *r)
{
	return (uint32_t)((r->vm.mem.npages + 63) / 64);
}

/* All of HAVE: it has this one, and page 0. */
static void have_page(struct source_rig *r, unsigned page)
{
	struct wire_have w = {0, words(r), 1};
	uint64_t bits[64] = {1 | 1ull << page};
	struct iovec iov[2] = {{&w, sizeof(w)}, {bits, w.nwords * sizeof(bits[0])}};

	assert_true(w.nwords <= 64);
	assert_int_equal(stream_send(&r->link, FRAME_HAVE, 0, iov, 2, UINT64_MAX), 0);
	loop_turns(&r->loop);
}

static void ask(struct source_rig *r)
{
	time_fire(&r->src.timer_op);
	source_rig_cause(r, SRC_EV_CONNECTED);
	loop_until(&r->loop, (there_reads(r), r->came[FRAME_ASK]));
}

static void reach(struct source_rig *r, enum source_state s)
{
	reach_go(r);
	there_says(r, FRAME_RUNS);
	source_rig_until(r, SRC_SERVE);
	source_rig_cause(r, SRC_EV_LOST);
	if (s == SRC_CUT_CONNECT)
		source_rig_cause(r, SRC_EV_TIMER);
	else if (s != SRC_CUT)
		ask(r);
	if (s == SRC_CUT_PAIRING)
		have(r, 0, words(r), 1);
	assert_string_equal(source_desc.states[r->src.fsm.state], source_desc.states[s]);
}

static const enum source_state cuts[] = {SRC_CUT, SRC_CUT_CONNECT, SRC_CUT_ASKED, SRC_CUT_PAIRING};

/* --- the tests -------------------------------------------------------------------------------- */

static void urgent_hangs_up(struct source_rig *r)
{
	assert_true(r->pair.fd >= 0);
	stream_done(&r->pair);
}

/* Before it is known that the VM runs there, no last word is to be waited for. */
static void urgent_link_ends_too_soon(void **state)
{
	for (unsigned go = 0; go < 2; go++) {
		struct source_rig *r;

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		if (go)
			reach_go(r);
		else
			reach_switch(r);
		urgent_hangs_up(r);
		source_rig_until(r, go ? SRC_UNSURE : SRC_IDLE);
		assert_non_null(strstr(r->src.why, "urgent link"));
		assert_int_equal(r->vm.running, !go);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* A destination that ends says so on the main link, a little later perhaps. */
static void urgent_link_ends_first(void **state)
{
	for (unsigned word = 0; word < 2; word++) {
		struct source_rig *r;

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		reach_go(r);
		there_says(r, FRAME_RUNS);
		source_rig_until(r, SRC_SERVE);
		urgent_hangs_up(r);
		loop_until(&r->loop, time_left(&r->src.timer_op) >= 0);
		assert_int_equal(r->src.fsm.state, SRC_SERVE);
		if (word) {
			there_says(r, FRAME_EOC);
			source_rig_until(r, SRC_LEFT);
			assert_int_equal(r->code, 3);
		} else {
			time_fire(&r->src.timer_op);
			assert_int_equal(r->src.fsm.state, SRC_CUT);
			assert_non_null(strstr(r->src.why, "urgent link"));
		}
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* Nobody needs what is here, says the user: the process ends, and the VM never runs here. */
static void let_go(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct source_rig *r;
		struct err e = {0};

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		reach(r, cuts[i]);
		assert_true(source_is_cut(&r->src));
		assert_int_equal(source_cancel(&r->src, false, "x", &e), -EBUSY);
		assert_non_null(strstr(e.msg, "--cancel --force"));
		assert_false(source_may_end(&r->src, "stop"));
		assert_int_equal(r->exits, 0);
		e = (struct err){0};
		assert_int_equal(source_cancel(&r->src, true, "given up", &e), 0);
		assert_int_equal(r->src.fsm.state, SRC_LEFT);
		assert_int_equal(r->exits, 1);
		assert_int_equal(r->code, 3);
		assert_int_equal(r->src.result, SOURCE_CANCELLED);
		assert_string_equal(ft_word(&r->ft), "MIGRATED");
		assert_false(r->vm.running);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* While there is a link it is not for the user to say. */
static void not_let_go(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};

	reach_go(r);
	assert_int_equal(source_cancel(&r->src, true, "x", &e), -EINVAL);
	there_says(r, FRAME_RUNS);
	source_rig_until(r, SRC_SERVE);
	e = (struct err){0};
	assert_int_equal(source_cancel(&r->src, true, "x", &e), -EINVAL);
	assert_int_equal(r->src.fsm.state, SRC_SERVE);
}

/* It was not known that it runs there; now it is, and the note is not of that any more. */
static void note_of_what_is_known(void **state)
{
	struct source_rig *r = *state;

	reach_go(r);
	source_rig_cause(r, SRC_EV_LOST);
	assert_non_null(strstr(r->ft.note, "did not answer"));
	ask(r);
	have(r, 0, words(r), 1);
	assert_int_equal(r->src.fsm.state, SRC_CUT_PAIRING);
	assert_null(strstr(r->ft.note, "did not answer"));
	assert_non_null(strstr(r->ft.note, "the VM runs at the destination"));
	time_fire(&r->src.timer_op);
	assert_int_equal(r->src.fsm.state, SRC_CUT);
	assert_non_null(strstr(r->ft.note, "the VM runs at the destination"));
}

/* A link on which each part takes its time; and then one that brings no more of it. */
static void slow_parts(void **state)
{
	struct source_rig *r = *state;
	uint32_t n = words(r);

	assert_true(n >= 4);
	reach(r, SRC_CUT_ASKED);
	for (uint32_t w = 0; w < n; w++) {
		time_pass(&r->loop, 1900 * MS);
		assert_int_equal(r->src.fsm.state, SRC_CUT_ASKED);
		have(r, w, 1, w + 1 == n);
	}
	assert_int_equal(r->src.fsm.state, SRC_CUT_PAIRING);
	time_fire(&r->src.timer_op);
	assert_int_equal(r->src.fsm.state, SRC_CUT);
	ask(r);
	have(r, 0, 1, 0);
	time_pass(&r->loop, 1999 * MS);
	assert_int_equal(r->src.fsm.state, SRC_CUT_ASKED);
	time_pass(&r->loop, 2 * MS);
	assert_int_equal(r->src.fsm.state, SRC_CUT);
	ask(r);
	have(r, 0, n, 1);
	assert_int_equal(r->src.fsm.state, SRC_CUT_PAIRING);
}

/* Each part once, in order, up to the end: else the timer would be a peer's toy. */
static void parts_out_of_order(void **state)
{
	struct source_rig *r = *state;
	uint32_t n = words(r);
	const struct wire_have bad[] = {{1, 1, 0}, {0, 0, 0}, {0, n + 1, 1},	 {0, n, 0},
					{0, 1, 1}, {n, 0, 1}, {UINT64_MAX, 2, 0}};

	reach(r, SRC_CUT);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ask(r);
		have(r, bad[i].word, bad[i].nwords, bad[i].last);
		assert_int_equal(r->src.fsm.state, SRC_CUT);
		assert_non_null(strstr(r->src.why, "out of order"));
	}
	ask(r);
	have(r, 0, 1, 0);
	have(r, 0, 1, 0);
	assert_int_equal(r->src.fsm.state, SRC_CUT);
}

/* How long it waits before it tries again, in the state that it is in. */
static uint64_t waits(const struct source_rig *r)
{
	return (uint64_t)time_left(&r->src.timer_op);
}

/* Nobody is there: it asks ever more seldom, up to a limit, and says so once. */
static void backs_off(void **state)
{
	static const uint64_t ms[] = {500, 1000, 2000, 4000, 4000, 4000, 4000};

	for (unsigned unsure = 0; unsure < 2; unsure++) {
		struct source_rig *r;
		unsigned said;

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		if (unsure) {
			reach_go(r);
			source_rig_cause(r, SRC_EV_LOST);
		} else {
			reach(r, SRC_CUT);
		}
		there_listens(r, false);
		said = logged("");
		for (unsigned i = 0; i < sizeof(ms) / sizeof(ms[0]); i++) {
			assert_int_equal(waits(r), ms[i] * MS);
			time_pass(&r->loop, ms[i] * MS - 1);
			assert_int_equal(r->src.fsm.state, unsure ? SRC_UNSURE : SRC_CUT);
			time_fire(&r->src.timer_op);
			source_rig_until(r, unsure ? SRC_UNSURE : SRC_CUT);
		}
		assert_int_equal(logged(""), said);
		/* The user knows of a way: that is tried at once. */
		assert_int_equal(source_recover(&r->src, r->conf.uri, NULL), 0);
		source_rig_until(r, unsure ? SRC_UNSURE : SRC_CUT);
		assert_int_equal(waits(r), 500 * MS);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* One that comes back, and breaks again before a page has come over it, is no good, either. */
static void backs_off_from_a_link_of_no_use(void **state)
{
	struct source_rig *r = *state;
	uint64_t wait = 500 * MS;

	reach(r, SRC_CUT);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(waits(r), wait);
		ask(r);
		have_page(r, i == 5 ? 7 : 0); /* in the sixth round it has one more */
		loop_until(&r->loop, r->src.pair.fd >= 0);
		there_says(r, FRAME_WELCOME);
		source_rig_until(r, SRC_SERVE);
		r->came[FRAME_ASK] = 0;
		source_rig_cause(r, SRC_EV_LOST);
		wait = i == 0 || i == 5 ? 500 * MS : wait < 4 * S ? 2 * wait : wait;
	}
}

/* From here on it listens there. */
static void moves_to(struct source_rig *r, const char *name, char *uri, size_t cap)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	there_listens(r, false);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.60s/%s", r->folder, name);
	snprintf(uri, cap, "unix:%s", sun.sun_path);
	r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(r->listener, 4), 0);
}

/* The user says where it is: there it is asked, at once, and again when that does not answer. */
static void another_address(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct source_rig *r;
		char uri[128];

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		reach(r, cuts[i]);
		moves_to(r, "elsewhere", uri, sizeof(uri));
		assert_int_equal(source_recover(&r->src, uri, NULL), 0);
		assert_int_equal(r->src.fsm.state, SRC_CUT_CONNECT);
		assert_string_equal(r->ft.peer, uri);
		time_fire(&r->src.timer_op);
		assert_int_equal(r->src.fsm.state, SRC_CUT);
		r->came[FRAME_ASK] = 0;
		time_fire(&r->src.timer_op);
		source_rig_cause(r, SRC_EV_CONNECTED);
		loop_until(&r->loop, (there_reads(r), r->came[FRAME_ASK]));
		have(r, 0, words(r), 1);
		loop_until(&r->loop, r->src.pair.fd >= 0);
		there_says(r, FRAME_WELCOME);
		source_rig_until(r, SRC_SERVE);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

/* The loop asks no name server: the command does, before. */
static void a_name_is_no_address(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};

	reach(r, SRC_CUT);
	assert_int_equal(source_recover(&r->src, "tcp:localhost:7200", &e), -EHOSTUNREACH);
	assert_non_null(strstr(e.msg, "use an address"));
	assert_int_equal(r->src.fsm.state, SRC_CUT);
	assert_string_equal(r->src.conf.uri, r->conf.uri);
}

/* In which states that means nothing, and what is said then. */
static void recover_is_refused(void **state)
{
	static const struct {
		enum source_state s;
		const char *word;
	} bad[] = {{SRC_IDLE, "none is under way"}, {SRC_CONNECTING, "this side's"},
		   {SRC_OFFERED, "this side's"},    {SRC_PAIRING, "this side's"},
		   {SRC_PASSES, "this side's"},	    {SRC_DRAIN, "this side's"},
		   {SRC_LAST, "this side's"},	    {SRC_SWITCH, "this side's"},
		   {SRC_HALT, "this side's"},	    {SRC_BACK, "this side's"},
		   {SRC_QUIT, "this side's"},	    {SRC_GO, "being waited for"},
		   {SRC_LEFT, "none is under way"}, {SRC_SERVE, "link is not lost"}};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct source_rig *r;
		struct err e = {0};

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		if (bad[i].s == SRC_SERVE) {
			reach_go(r);
			there_says(r, FRAME_RUNS);
			source_rig_until(r, SRC_SERVE);
		} else {
			source_rig_reach(r, bad[i].s);
		}
		assert_true(source_recover(&r->src, "unix:/x", &e) < 0);
		assert_non_null(strstr(e.msg, bad[i].word));
		assert_int_equal(r->src.fsm.state, bad[i].s);
		assert_string_equal(r->src.conf.uri, bad[i].s == SRC_IDLE ? "" : r->conf.uri);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

static unsigned written;
static struct err write_err;

static void on_written(void *arg, const struct err *e)
{
	written++;
	write_err = e ? *e : (struct err){0};
}

/* What the destination may lack goes to a file, which changes nothing else. */
static void to_a_file(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		struct source_rig *r;
		char path[96];

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		snprintf(path, sizeof(path), "%.60s/pages", r->folder);
		if (i < 4) {
			reach(r, cuts[i]);
		} else {
			reach_go(r); /* nobody knows, but it may run there */
			source_rig_cause(r, SRC_EV_LOST);
		}
		written = 0;
		assert_int_equal(source_write_file(&r->src, path, on_written, NULL, NULL), 0);
		loop_until(&r->loop, written);
		assert_int_equal(written, 1);
		assert_int_equal(write_err.code, 0);
		assert_int_equal(access(path, R_OK), 0);
		assert_int_equal(source_is_cut(&r->src), i < 4);
		assert_int_equal(r->exits, 0);
		/* And the process may end in the middle of the next one. */
		assert_int_equal(source_write_file(&r->src, path, on_written, NULL, NULL), 0);
		source_done(&r->src);
		assert_null(r->src.carry);
		assert_int_equal(source_rig_teardown(state), 0);
		assert_int_equal(written, 1);
	}
}

static pthread_mutex_t storage = PTHREAD_MUTEX_INITIALIZER; /* held: it hangs */

int __real_chan_file_create(const char *path, struct err *e);
int __wrap_chan_file_create(const char *path, struct err *e);

int __wrap_chan_file_create(const char *path, struct err *e)
{
	pthread_mutex_lock(&storage);
	pthread_mutex_unlock(&storage);
	return __real_chan_file_create(path, e);
}

/* It was unsure, and never ran there: no file of a VM that runs here. */
static void a_file_that_nobody_needs(void **state)
{
	for (unsigned forced = 0; forced < 2; forced++) {
		struct source_rig *r;
		char path[96];

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		snprintf(path, sizeof(path), "%.60s/pages", r->folder);
		pthread_mutex_lock(&storage);
		reach_go(r);
		source_rig_cause(r, SRC_EV_LOST);
		ask(r);
		written = 0;
		assert_int_equal(source_write_file(&r->src, path, on_written, NULL, NULL), 0);
		source_rig_cause(r, forced ? SRC_EV_FORCE : SRC_EV_NEVER);
		source_rig_until(r, SRC_IDLE);
		assert_true(r->vm.running);
		assert_int_equal(written, 1);
		assert_int_equal(write_err.code, -ECANCELED);
		assert_non_null(strstr(write_err.msg, "the VM goes on here"));
		pthread_mutex_unlock(&storage);
		loop_until(&r->loop, !r->src.carry);
		assert_int_equal(written, 1);
		assert_int_equal(access(path, F_OK), -1);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

static void no_file(void **state)
{
	struct source_rig *r = *state;
	struct err e = {0};

	source_rig_reach(r, SRC_PASSES);
	assert_int_equal(source_write_file(&r->src, "/x", on_written, NULL, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "this side's"));
	/* Of a precopy nothing is missing there. */
	source_rig_cause(r, SRC_EV_CONVERGED);
	source_rig_cause(r, SRC_EV_DRAINED);
	source_rig_cause(r, SRC_EV_SENT);
	source_rig_cause(r, SRC_EV_READY);
	source_rig_cause(r, SRC_EV_LOST);
	e = (struct err){0};
	assert_int_equal(source_write_file(&r->src, "/x", on_written, NULL, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "all of the VM's memory is at the destination"));
}

static void no_source_at_all(void **state)
{
	static struct source none;
	struct err e = {0};

	assert_int_equal(source_write_file(&none, "/tmp/x", on_written, NULL, &e), -ENOENT);
}

/* Only a side that runs the VM says what it has: from the first part on it is known. */
static void a_part_says_that_it_runs(void **state)
{
	for (unsigned lost = 0; lost < 2; lost++) {
		struct source_rig *r;
		struct err e = {0};

		assert_int_equal(source_rig_setup(state), 0);
		r = *state;
		reach_go(r);
		source_rig_cause(r, SRC_EV_LOST);
		assert_int_equal(r->src.result, SOURCE_UNSURE);
		ask(r);
		have(r, 0, 1, 0);
		assert_int_equal(r->src.fsm.state, SRC_CUT_ASKED);
		assert_int_equal(r->src.result, SOURCE_ACTIVE);
		assert_non_null(strstr(r->ft.note, "the VM runs at the destination"));
		if (lost)
			source_rig_cause(r, SRC_EV_LOST);
		assert_true(source_is_cut(&r->src));
		assert_false(source_may_end(&r->src, "stop"));
		assert_int_equal(r->exits, 0);
		assert_int_equal(source_cancel(&r->src, true, "given up", &e), 0);
		assert_int_equal(r->src.fsm.state, SRC_LEFT);
		assert_int_equal(r->code, 3);
		assert_false(r->vm.running);
		assert_int_equal(source_rig_teardown(state), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_source_at_all),
		cmocka_unit_test(let_go),
		SOURCE_TEST(not_let_go),
		cmocka_unit_test(urgent_link_ends_too_soon),
		cmocka_unit_test(urgent_link_ends_first),
		SOURCE_TEST(note_of_what_is_known),
		SOURCE_TEST(slow_parts),
		cmocka_unit_test(backs_off),
		SOURCE_TEST(backs_off_from_a_link_of_no_use),
		SOURCE_TEST(parts_out_of_order),
		cmocka_unit_test(another_address),
		SOURCE_TEST(a_name_is_no_address),
		cmocka_unit_test(recover_is_refused),
		cmocka_unit_test(to_a_file),
		cmocka_unit_test(a_file_that_nobody_needs),
		SOURCE_TEST(no_file),
		cmocka_unit_test(a_part_says_that_it_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
