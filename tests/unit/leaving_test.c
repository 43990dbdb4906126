/* `ftvmm failover` and `ftvmm stop`: what they make of how the VM's process here has ended. */
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

struct leaving {
	struct fakevm vm;
	const char *state, *note; /* that it tells last; NULL: it dies without a word */
	int requests;		  /* when so many have come */
};

static void *leave(void *arg)
{
	struct leaving *l = arg;

	for (int waited = 0; l->vm.asked < l->requests && waited < 20000; waited++)
		poll(NULL, 0, 1);
	if (l->state) {
		fakevm_note(&l->vm, l->note);
		fakevm_become(&l->vm, l->state);
	}
	fakevm_stop(&l->vm);
	return NULL;
}

static void check(const char *line, int requests, const char *state, const char *note, int code,
		  const char *says)
{
	struct leaving l = {.state = state, .note = note, .requests = requests};
	pthread_t thread;
	int is;

	fakevm_start(&l.vm, "web", "{'state':'PROTECTED','role':'primary'}");
	assert_int_equal(pthread_create(&thread, NULL, leave, &l), 0);
	is = command_says(line, out, sizeof(out));
	pthread_join(thread, NULL);
	if (is != code || (*says ? !strstr(out, says) : *out))
		fail_msg("%s, %s: %d: %s", line, state ? state : "dead", is, out);
}

/* `events`, then `failover`. */
static void a_failover_is_done_when_the_vm_was_handed_over(void **state)
{
	check("failover web", 2, "STOPPED", "handed over", EXIT_DONE, "");
	check("failover web --json", 2, "STOPPED", "handed over", EXIT_DONE, "{}\n");
	check("failover web", 2, "STOPPED", "", EXIT_FAILED,
	      "ftvmm: failover: 'web' was not handed over: it was stopped, or ended, before "
	      "that\n");
	check("failover web", 2, "STOPPED", "this host cannot run the guest any more", EXIT_FAILED,
	      "before that: this host cannot");
	check("failover web", 2, "FENCED", "the other side runs the VM", EXIT_FAILED,
	      "the last that it told was FENCED: the other side runs the VM. `ftvmm status` at the "
	      "other host");
	check("failover web", 2, NULL, NULL, EXIT_FAILED, "the last that it told was PROTECTED");
}

static void a_stop_says_who_runs_the_vm(void **state)
{
	check("stop web", 1, "STOPPED", "", EXIT_DONE, "");
	check("stop web --json", 1, "STOPPED", "", EXIT_DONE,
	      "{\"state\":\"STOPPED\",\"note\":\"\"}\n");
	check("stop web", 1, NULL, NULL, EXIT_DONE, "");
	check("stop web --json", 1, NULL, NULL, EXIT_DONE, "{}\n"); /* nobody knows how */
	check("stop web", 1, "STOPPED", "handed over", EXIT_GONE,
	      "ftvmm: stop: 'web' was handed over before it could be stopped: it runs at the other "
	      "host; stop it there\n");
	check("stop web --json", 1, "STOPPED", "handed over", EXIT_GONE,
	      "{\"state\":\"STOPPED\",\"note\":\"handed over\"}\n");
	check("stop web", 1, "MIGRATED", "", EXIT_GONE, "was migrated before");
	check("stop web", 1, "FENCED", "the other side runs the VM", EXIT_FENCED,
	      "'web' has ended here, fenced: the other side runs the VM; stop it there\n");
	check("stop web --json", 1, "FENCED", "no answer", EXIT_FENCED,
	      "{\"state\":\"FENCED\",\"note\":\"no answer\"}\n");
}

/* Before it can be heard, as of one that asks the arbiter in vain. */
static void an_answer_may_be_its_end(void **state)
{
	struct leaving l = {.requests = 1};
	pthread_t thread;

	fakevm_start(
		&l.vm, "web",
		"{'state':'PAUSED','role':'primary','end':{'ended':'FENCED','note':'no answer'}}");
	assert_int_equal(pthread_create(&thread, NULL, leave, &l), 0);
	assert_int_equal(command_says("stop web", out, sizeof(out)), EXIT_FENCED);
	pthread_join(thread, NULL);
	assert_string_equal(
		out, "ftvmm: stop: 'web' has ended here, fenced: no answer; stop it there\n");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fakevm_setup, fakevm_teardown)
	const struct CMUnitTest tests[] = {
		T(a_failover_is_done_when_the_vm_was_handed_over),
		T(a_stop_says_who_runs_the_vm),
		T(an_answer_may_be_its_end),
	};

	return cmocka_run_group_tests_name("leaving", tests, NULL, NULL);
}
