/* `ftvmm wait`: a state that is there, that comes, that does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/libcommand.h"
#include "tests/unit/libfakevm.h"
#include "vmm/cli/command.h"

static char out[4096];

static void check(const char *line, int code, const char *says)
{
	int is = command_says(line, out, sizeof(out));

	if (is != code || (*says ? !strstr(out, says) : *out))
		fail_msg("%s: %d: %s", line, is, out);
}

static void it_is_there_already(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", "{'state':'PROTECTED'}");
	check("wait web PROTECTED", EXIT_DONE, "");
	assert_int_equal(vm.asked, 1);
	check("wait web DEGRADED,protected --timeout 0", EXIT_DONE, "");
	check("wait web SYNCING PROTECTED", EXIT_DONE, "");
	check("wait web PROTECTED --json", EXIT_DONE,
	      "{\"event\":\"ft-state\",\"new\":\"PROTECTED\",\"note\":\"so it is\"}\n");
	fakevm_stop(&vm);
}

/* --- what comes while it waits ---------------------------------------------------------------- */

struct script {
	struct fakevm vm;
	const char *first; /* of a VM that comes up later, or NULL */
	const char *states[4];
	bool ends;
};

static void *play(void *arg)
{
	struct script *s = arg;

	if (s->first) {
		poll(NULL, 0, 120);
		fakevm_start(&s->vm, "web", s->first);
	}
	for (int i = 0; i < 4 && s->states[i]; i++) {
		fakevm_await_follower(&s->vm);
		fakevm_become(&s->vm, s->states[i]);
	}
	if (!s->ends)
		return NULL;
	fakevm_await_follower(&s->vm);
	fakevm_stop(&s->vm);
	return NULL;
}

static void check_played(struct script *s, const char *line, int code, const char *says)
{
	pthread_t thread;

	if (!s->first)
		fakevm_start(&s->vm, "web", "{'state':'SYNCING'}");
	assert_int_equal(pthread_create(&thread, NULL, play, s), 0);
	check(line, code, says);
	pthread_join(thread, NULL);
	/* It is not asked again and again: it tells. */
	assert_int_equal(s->vm.asked, 1);
	if (!s->ends)
		fakevm_stop(&s->vm);
}

static void it_comes(void **state)
{
	check_played(&(struct script){.states = {"DEGRADED", "SYNCING", "PROTECTED"}},
		     "wait web PROTECTED", EXIT_DONE, "");
	check_played(&(struct script){.states = {"DEGRADED", "PROTECTED"}},
		     "wait web FENCED,PROTECTED --timeout=20s --json", EXIT_DONE,
		     "{\"event\":\"ft-state\",\"old\":\"DEGRADED\",\"new\":\"PROTECTED\",");
}

static void the_vm_comes(void **state)
{
	check_played(&(struct script){.first = "{'state':'PROTECTED'}"},
		     "wait web PROTECTED --timeout 20s", EXIT_DONE, "");
	check_played(
		&(struct script){.first = "{'state':'STARTING'}", .states = {"SYNCING", "RUNNING"}},
		"wait web RUNNING", EXIT_DONE, "");
}

static void it_ends_before(void **state)
{
	check_played(&(struct script){.states = {"DEGRADED"}, .ends = true}, "wait web PROTECTED",
		     EXIT_GONE,
		     "ftvmm: wait: 'web' has ended; the last that it told was DEGRADED: so it "
		     "is\n");
	check_played(&(struct script){.states = {"FENCED"}, .ends = true}, "wait web PROTECTED",
		     EXIT_FENCED, "was FENCED");
	check_played(&(struct script){.states = {"FENCED"}, .ends = true}, "wait web FENCED",
		     EXIT_DONE, "");
	check_played(&(struct script){.states = {"STOPPED"}, .ends = true},
		     "wait web STOPPED,MIGRATED", EXIT_DONE, "");
}

/* --- what does not come ----------------------------------------------------------------------- */

static void it_takes_too_long(void **state)
{
	uint64_t began = loop_now_ns();
	struct fakevm vm;

	check("wait none PROTECTED --timeout 60ms", EXIT_FAILED,
	      "ftvmm: wait: within 60ms no VM named 'none' has come up here\n");
	assert_true(loop_now_ns() - began >= 60000000);
	fakevm_start(&vm, "web", "{'state':'SYNCING'}");
	began = loop_now_ns();
	check("wait web PROTECTED,DEGRADED --timeout 60", EXIT_FAILED,
	      "ftvmm: wait: after 60ms 'web' is SYNCING: so it is\n");
	assert_true(loop_now_ns() - began >= 60000000);
	check("wait web PROTECTED --timeout 0", EXIT_FAILED, "is SYNCING");
	fakevm_stop(&vm);
}

static void wrong_words(void **state)
{
	check("wait", EXIT_USAGE, "the name of the VM is missing");
	check("wait web", EXIT_USAGE, "an argument is missing; usage: ftvmm wait NAME STATE");
	check("wait web PROTECTD", EXIT_USAGE, "'PROTECTD' is no state; ftvmm wait --help");
	check("wait web PROTECTED,,", EXIT_USAGE, "'' is no state");
	check("wait web --timeout 1s", EXIT_USAGE, "for which state?");
	check("wait web PROTECTED --timeout", EXIT_USAGE, "--timeout needs a value: TIME");
	check("wait web PROTECTED --timeout soon", EXIT_USAGE, "'soon' is not a time");
	check("wait web PROTECTED --timeout 90000s", EXIT_USAGE, "outside 0");
	check("wait web PROTECTED --time 1s", EXIT_USAGE, "--time: no such option");
	check("wait ../x PROTECTED", EXIT_USAGE, "is not a name of a VM");
	check("wait --help", EXIT_DONE,
	      "states: STARTING RUNNING UNPROTECTED SYNCING PROTECTED "
	      "DEGRADED PAUSED INCOMPLETE TAKING-OVER MIGRATING FENCED MIGRATED "
	      "STOPPED\n");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fakevm_setup, fakevm_teardown)
	const struct CMUnitTest tests[] = {
		T(it_is_there_already), T(it_comes),	      T(the_vm_comes),
		T(it_ends_before),	T(it_takes_too_long), T(wrong_words),
	};

	return cmocka_run_group_tests_name("wait", tests, NULL, NULL);
}
