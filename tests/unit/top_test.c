/* `ftvmm top`, a line for each VM of the host; what `ftvmm status` has below its table. */
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

static char out[8192];

static void check(const char *line, int code, const char *says)
{
	int is = command_says(line, out, sizeof(out));

	if (is != code || !strstr(out, says))
		fail_msg("%s: %d: %s", line, is, out);
}

static const char web[] =
	"{'name':'web','role':'primary','state':'PROTECTED','peer':'tcp:b\\u001b[2J','pid':7,"
	"'epochs_total':1000,'pause_us':{'p50':250,'p99':3400},'dirty_pages':31,'ack_lag_us':12500,"
	"'held_packets':14,'note':'so it is','holder':'a pid 7','disklog_bytes':4096}";

/* Between its first answer and the second one it has sealed 1000 epochs. */
static void *seal(void *arg)
{
	struct fakevm *vm = arg;

	for (int waited = 0; !vm->asked && waited < 5000; waited++)
		poll(NULL, 0, 1);
	fakevm_grow(vm, "epochs_total", 1000);
	return NULL;
}

static void a_line_for_each(void **state)
{
	struct fakevm vm, db, mute;
	pthread_t thread;
	unsigned rate;
	char *line;

	fakevm_start(&vm, "web", web);
	fakevm_start(&db, "db",
		     "{'name':'db','role':'plain','state':'RUNNING','pid':8,"
		     "'epochs_total':0}");
	fakevm_start(&mute, "mute", NULL);
	assert_int_equal(pthread_create(&thread, NULL, seal, &vm), 0);
	check("top --once", EXIT_DONE, "NAME  STATE");
	pthread_join(thread, NULL);
	line = strstr(out, "\ndb ");
	assert_non_null(line);
	assert_int_equal(strspn(strstr(line, "plain") + 5, " -0"),
			 strcspn(strstr(line, "plain") + 5, "\n"));
	line = strstr(out, "\nweb");
	assert_non_null(line);
	assert_int_equal(sscanf(line,
				"\nweb PROTECTED primary tcp:b?[2J %u 0.2ms 3.4ms 31 12.5ms 14\n",
				&rate),
			 1);
	/* In 1.3 seconds, as one did not answer, or somewhat more on a busy machine. */
	assert_in_range(rate, 20, 800);
	assert_null(strchr(out, '\033'));
	assert_null(strstr(out, "so it is"));
	fakevm_stop(&mute);
	fakevm_stop(&db);
	fakevm_stop(&vm);
}

static void more_of_one(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", web);
	check("top web --once", EXIT_DONE, "\nnote                 so it is\n");
	assert_non_null(strstr(out, "\nholder               a pid 7\n"));
	assert_non_null(strstr(out, "\ndisklog_bytes        4096\n"));
	assert_null(strstr(out, "generation"));
	fakevm_stop(&vm);
}

static void one_that_is_silent(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "mute", NULL);
	check("top --once", EXIT_DONE, "\nmute  no answer  -     -");
	fakevm_stop(&vm);
}

/* --- status: why, and how far ----------------------------------------------------------------- */

static void below(const char *status, const char *says)
{
	struct fakevm vm;
	const char *line;

	fakevm_start(&vm, "web", status);
	check("status web", EXIT_UNPROTECTED, "NAME");
	fakevm_stop(&vm);
	line = strchr(strchr(out, '\n') + 1, '\n');
	assert_string_equal(line + 1, says);
}

static void status_says_why_and_how_far(void **state)
{
	below("{'state':'SYNCING'}", "");
	below("{'state':'SYNCING','note':'','migration':null}", "");
	below("{'state':'DEGRADED','note':'gone\\u001b[2J'}", "note: gone?[2J\n");
	below("{'state':'SYNCING','sync':{'pages':0,'bytes':3145728,'time_us':9,'memory_pages':8}}",
	      "first sync: disks, 3 MiB sent\n");
	below("{'state':'SYNCING','note':'why','sync':{'pages':100,'bytes':4194304,"
	      "'time_us':2000000,'memory_pages':400}}",
	      "note: why\nfirst sync: 25 %, 2 MiB/s, about 6 s left\n");
	/* What has changed goes again. */
	below("{'state':'SYNCING','sync':{'pages':900,'bytes':4194304,'time_us':2000000,"
	      "'memory_pages':400}}",
	      "first sync: 99 %, 2 MiB/s\n");
	below("{'state':'X','migration':{'status':'active','direction':'out','ram':{'total':"
	      "8388608,"
	      "'remaining':4194304,'mbps':8.388608}}}",
	      "migration: 50 %, 1 MiB/s, about 4 s left\n");
	below("{'state':'X','migration':{'status':'active','direction':'out','ram':{'total':"
	      "8388608,"
	      "'remaining':4194304,'mbps':0}}}",
	      "migration: 50 %, 0 MiB/s\n");
	below("{'state':'X','migration':{'status':'completed','direction':'out','ram':{'total':8,"
	      "'remaining':0,'mbps':1}}}",
	      "");
}

static void none_and_wrong_words(void **state)
{
	check("top --once", EXIT_DONE, "no VM runs here");
	check("top none --once", EXIT_USAGE, "no VM named 'none' runs here");
	check("top --twice", EXIT_USAGE, "unknown argument '--twice'; there is --once");
	check("top --json", EXIT_USAGE, "ftvmm status --json has the numbers");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fakevm_setup, fakevm_teardown)
	const struct CMUnitTest tests[] = {
		T(a_line_for_each),	 T(more_of_one),
		T(one_that_is_silent),	 T(status_says_why_and_how_far),
		T(none_and_wrong_words),
	};

	return cmocka_run_group_tests_name("top", tests, NULL, NULL);
}
