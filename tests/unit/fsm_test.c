/* Protocols as tables: what a step does, what waits, and what has no row. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/common/fsm.h"

enum { RED, GREEN, BLUE, BLACK, STATES };
enum { GO, MORE, TWICE, DROP, MESSAGE, EVENTS };

/* What was done, a letter each: an action's, with the state that it saw. */
struct light {
	struct fsm f;
	char story[64];
	unsigned strays;
};

static void note(struct light *l, char c)
{
	size_t n = strlen(l->story);

	assert_true(n + 2 < sizeof(l->story));
	l->story[n] = c;
	l->story[n + 1] = "rgbk"[l->f.state];
}

static void go(void *arg)
{
	note(arg, 'G');
}

/* What it posts is taken when it has returned. */
static void more(void *arg)
{
	struct light *l = arg;

	fsm_post(&l->f, GO);
	fsm_post(&l->f, MORE);
	note(l, 'M');
}

static void last(void *arg)
{
	note(arg, 'L');
}

static void twice(void *arg)
{
	struct light *l = arg;

	for (unsigned i = 0; i < FSM_QUEUE; i++)
		fsm_post(&l->f, i == 5 ? GO : DROP);
	fsm_forget(&l->f, DROP, DROP);
	note(l, 'T');
}

static void overflow(void *arg)
{
	struct light *l = arg;

	for (unsigned i = 0; i < FSM_QUEUE + 1; i++)
		fsm_post(&l->f, GO);
}

static void stray(void *arg)
{
	struct light *l = arg;

	l->strays++;
}

static const struct fsm_row rows[] = {
	{RED, GO, GREEN, go, "go"},	 {RED, MORE, RED, more, "more"},
	{GREEN, MORE, BLUE, last, ""},	 {BLUE, TWICE, BLUE, twice, ""},
	{BLUE, GO, RED, NULL, ""},	 {BLUE, DROP, BLUE, overflow, ""},
	{GREEN, MESSAGE, BLACK, go, ""}, {GREEN, GO, GREEN, NULL, ""},
};
static const char *const states[] = {"RED", "GREEN", "BLUE", "BLACK"};
static const char *const events[] = {"go", "more", "twice", "drop", "message"};
static const struct fsm_desc desc = {.name = "light",
				     .rows = rows,
				     .nrows = sizeof(rows) / sizeof(rows[0]),
				     .nstates = STATES,
				     .nevents = EVENTS,
				     .states = states,
				     .events = events,
				     .first_message = MESSAGE,
				     .end = BLACK,
				     .stray = stray};

static void start(struct light *l, unsigned state)
{
	memset(l, 0, sizeof(*l));
	memset(&l->f, 0xff, sizeof(l->f)); /* nothing of it counts */
	fsm_init(&l->f, &desc, l, state);
}

/* The state is the next one before the action runs. */
static void a_step(void **state)
{
	struct light l;

	start(&l, RED);
	fsm_post(&l.f, GO);
	assert_int_equal(l.f.state, GREEN);
	assert_string_equal(l.story, "Gg");
	fsm_post(&l.f, GO); /* nothing to do */
	assert_int_equal(l.f.state, GREEN);
	assert_string_equal(l.story, "Gg");
	assert_int_equal(l.f.steps, 2);
	assert_int_equal(l.f.trace[1].state, GREEN);
	assert_int_equal(l.f.trace[1].event, GO);
}

static void an_event_within_an_action_waits(void **state)
{
	struct light l;

	start(&l, RED);
	fsm_post(&l.f, MORE);
	assert_string_equal(l.story, "MrGgLb");
	assert_int_equal(l.f.state, BLUE);
	fsm_post(&l.f, GO);
	assert_int_equal(l.f.state, RED);
}

/* As many as there is room for, of which those of one kind are forgotten. */
static void events_that_are_forgotten(void **state)
{
	struct light l;

	start(&l, BLUE);
	fsm_post(&l.f, TWICE);
	assert_string_equal(l.story, "Tb");
	assert_int_equal(l.f.state, RED);
	assert_int_equal(l.f.nqueued, 0);
	assert_int_equal(l.f.steps, 2);
}

static void what_is_forgotten_is_a_range(void **state)
{
	struct light l;

	start(&l, RED);
	for (unsigned e = 0; e < EVENTS; e++)
		l.f.queue[l.f.nqueued++] = (uint8_t)e;
	fsm_forget(&l.f, MORE, DROP);
	assert_int_equal(l.f.nqueued, 2);
	assert_int_equal(l.f.queue[0], GO);
	assert_int_equal(l.f.queue[1], MESSAGE);
	fsm_forget(&l.f, MESSAGE, EVENTS);
	assert_int_equal(l.f.nqueued, 1);
	fsm_forget(&l.f, GO, GO);
	assert_int_equal(l.f.nqueued, 0);
}

static void rows_are_found(void **state)
{
	struct fsm_desc shorter;
	struct light l;

	assert_ptr_equal(fsm_find(&desc, RED, GO), &rows[0]);
	assert_ptr_equal(fsm_find(&desc, GREEN, GO), &rows[7]);
	assert_null(fsm_find(&desc, RED, TWICE));
	assert_null(fsm_find(&desc, BLACK, GO));
	shorter = desc;
	shorter.nrows--; /* what lies behind the table is none of it */
	assert_null(fsm_find(&shorter, GREEN, GO));
	start(&l, RED);
	assert_true(fsm_expects(&l.f, MORE));
	assert_false(fsm_expects(&l.f, TWICE));
}

static void a_message_without_a_row(void **state)
{
	struct light l;

	start(&l, RED);
	fsm_post(&l.f, MESSAGE);
	assert_int_equal(l.strays, 1);
	assert_int_equal(l.f.state, RED);
	assert_int_equal(l.f.steps, 0);
}

static void in_the_end_nothing_matters(void **state)
{
	struct light l;

	start(&l, GREEN);
	fsm_post(&l.f, MESSAGE);
	assert_string_equal(l.story, "Gk");
	assert_int_equal(l.strays, 0);
	for (unsigned e = 0; e < EVENTS; e++)
		fsm_post(&l.f, e);
	assert_int_equal(l.strays, 0);
	assert_int_equal(l.f.state, BLACK);
	assert_int_equal(l.f.steps, 1);
}

/* --- what ends the process -------------------------------------------------------------------- */

static void run_in_child(void (*run)(struct light *l), char *said, size_t cap)
{
	struct rlimit none = {0, 0};
	struct light l;
	size_t n = 0;
	ssize_t got;
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		start(&l, RED);
		run(&l);
		_exit(0);
	}
	close(fds[1]);
	while ((got = read(fds[0], said + n, cap - 1 - n)) > 0)
		n += (size_t)got;
	said[n] = 0;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void no_row(struct light *l)
{
	fsm_post(&l->f, GO);
	fsm_post(&l->f, GO);
	fsm_post(&l->f, DROP);
}

static void an_event_without_a_row(void **state)
{
	char said[4096];

	run_in_child(no_row, said, sizeof(said));
	assert_non_null(strstr(said, "error: light: step 0: RED, go\n"));
	assert_non_null(strstr(said, "error: light: step 1: GREEN, go\n"));
	assert_null(strstr(said, "step 2"));
	assert_non_null(strstr(said, "error: light: in GREEN came 'drop', which has no row\n"));
}

static void no_row_after_many(struct light *l)
{
	fsm_post(&l->f, GO);
	for (unsigned i = 0; i < FSM_TRACE + 2; i++)
		fsm_post(&l->f, GO);
	fsm_post(&l->f, TWICE);
}

/* The last ones are kept, in their order. */
static void the_dump_of_a_long_run(void **state)
{
	char said[8192];
	const char *first, *end;

	run_in_child(no_row_after_many, said, sizeof(said));
	assert_null(strstr(said, "step 2:"));
	first = strstr(said, "step 3: GREEN, go\n");
	end = strstr(said, "step 34: GREEN, go\n");
	assert_true(first && end && first < end);
	assert_null(strstr(said, "step 35:"));
	assert_non_null(strstr(said, "in GREEN came 'twice'"));
}

static void too_many(struct light *l)
{
	l->f.state = BLUE;
	fsm_post(&l->f, DROP);
}

static void no_event(struct light *l)
{
	fsm_post(&l->f, EVENTS);
}

static void bugs_of_others(void **state)
{
	char said[4096];

	run_in_child(too_many, said, sizeof(said));
	assert_non_null(strstr(said, "bug in ftvmm"));
	run_in_child(no_event, said, sizeof(said));
	assert_non_null(strstr(said, "bug in ftvmm"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_step),
		cmocka_unit_test(an_event_within_an_action_waits),
		cmocka_unit_test(events_that_are_forgotten),
		cmocka_unit_test(what_is_forgotten_is_a_range),
		cmocka_unit_test(rows_are_found),
		cmocka_unit_test(a_message_without_a_row),
		cmocka_unit_test(in_the_end_nothing_matters),
		cmocka_unit_test(an_event_without_a_row),
		cmocka_unit_test(the_dump_of_a_long_run),
		cmocka_unit_test(bugs_of_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
