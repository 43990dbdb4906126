/* The file of `ftvmm trace`: whole, whatever a VM says, and none where there was nothing to trace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/libcommand.h"
#include "tests/unit/libfakevm.h"
#include "vmm/cli/command.h"

static char out[4096], file[200];

static int setup(void **state)
{
	int r = fakevm_setup(state);

	snprintf(file, sizeof(file), "%s/trace.json", (char *)*state);
	return r;
}

static int say(const char *words)
{
	char line[300];

	snprintf(line, sizeof(line), words, file);
	return command_says(line, out, sizeof(out));
}

/* Of a VM that answers with these spans and is gone then: the file. */
static json_t *trace_of(const char *spans)
{
	char status[3000];
	struct fakevm vm;
	json_t *trace;

	snprintf(status, sizeof(status),
		 "{'state': 'PROTECTED', 'trace': {'spans': [%s], 'more': false, 'lost': 3, "
		 "'epochs_begun': 40, 'epochs_total': 42}}",
		 spans);
	fakevm_start(&vm, "web", status);
	assert_int_equal(say("trace web %s"), EXIT_DONE);
	fakevm_stop(&vm);
	trace = json_load_file(file, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(trace);
	return trace;
}

static json_int_t about(json_t *trace, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(trace, "otherData"), key));
}

/* Its events that are no names; returns how many. */
static unsigned events(json_t *trace, json_t **ret, unsigned cap)
{
	json_t *event;
	unsigned n = 0;
	size_t i;

	json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
	{
		if (!strcmp(json_string_value(json_object_get(event, "ph")), "M"))
			continue;
		assert_true(n < cap);
		ret[n++] = event;
	}
	return n;
}

static void spans_become_events(void **state)
{
	json_t *e[4], *trace = trace_of("['pause', 9000000000000000, 9000000000001500, 41, 7, "
					"'net'], ['first sync', 1, 9000000000000000, 0, 99], "
					"['state changed', 9000000000000000, 9000000000000000, 0, "
					"'TAKING-OVER']");

	assert_int_equal(events(trace, e, 4), 3);
	assert_string_equal(json_string_value(json_object_get(e[0], "name")), "pause");
	assert_true(json_number_value(json_object_get(e[0], "dur")) == 1.5);
	e[3] = json_object_get(e[0], "args");
	assert_int_equal(json_integer_value(json_object_get(e[3], "epoch")), 41);
	assert_int_equal(json_integer_value(json_object_get(e[3], "pages")), 7);
	assert_string_equal(json_string_value(json_object_get(e[3], "why")), "net");
	/* What began before the trace is cut. */
	assert_true(json_number_value(json_object_get(e[1], "ts")) == 0);
	assert_true(json_number_value(json_object_get(e[1], "dur")) ==
		    json_number_value(json_object_get(e[0], "ts")));
	assert_string_equal(json_string_value(json_object_get(e[2], "name")), "TAKING-OVER");
	assert_string_equal(json_string_value(json_object_get(e[2], "ph")), "i");
	assert_int_equal(about(trace, "spans"), 3);
	assert_int_equal(about(trace, "unknown"), 0);
	assert_int_equal(about(trace, "lost"), 3);
	assert_int_equal(about(trace, "epochs"), 2);
	assert_non_null(strstr(out, "ended by: VM"));
	json_decref(trace);
}

/* Of another version, or of nobody who means well: counted, and not in the file. */
static void strange_spans_are_left_out(void **state)
{
	json_t *e[2],
		*trace = trace_of("['a new one', 1, 2, 3, 4], [], 7, {}, 'pause', [1, 2], "
				  "['pause', -1, 2, 3, 4], ['pause', '1', 2, 3], "
				  "['pause', 1, 2], ['pause', 1, 2, 3, 4, 5], "
				  "['state changed', 1, 1, 0, '\\\\\\\"},{'], "
				  "['state changed', 1, 1, 0, 3], ['state changed', 1, 1, 0], "
				  "['pause', 1, 2, 3, 4, 'no such why'], ['pause', 2, 1, 3]");

	assert_int_equal(events(trace, e, 2), 2);
	assert_null(json_object_get(json_object_get(e[0], "args"), "why"));
	assert_true(json_number_value(json_object_get(e[1], "dur")) == 0);
	assert_int_equal(about(trace, "spans"), 2);
	assert_int_equal(about(trace, "unknown"), 13);
	json_decref(trace);
}

static void no_file_without_a_trace(void **state)
{
	struct fakevm vm;

	assert_int_equal(say("trace none %s"), EXIT_USAGE);
	fakevm_start(&vm, "web", "{'state': 'RUNNING'}");
	assert_int_equal(say("trace web %s"), EXIT_FAILED);
	assert_string_equal(out, "ftvmm: no command 'trace'\n");
	assert_int_equal(access(file, F_OK), -1);
	assert_int_equal(say("trace web"), EXIT_USAGE);
	assert_int_equal(say("trace web --seconds 3"), EXIT_USAGE);
	assert_string_equal(out, "ftvmm: trace: which file?\n");
	assert_int_equal(say("trace web %s two"), EXIT_USAGE);
	assert_int_equal(say("trace web %s --seconds=0"), EXIT_USAGE);
	assert_non_null(strstr(out, "trace: --seconds"));
	assert_int_equal(say("trace web %s --second"), EXIT_USAGE);
	fakevm_stop(&vm);
}

#define ANSWERS "{'state': 'PROTECTED', 'trace': {'spans': [], 'epochs_total': 1}}"

static void a_full_disk_is_said(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", ANSWERS);
	assert_int_equal(command_says("trace web /dev/full", out, sizeof(out)), EXIT_FAILED);
	assert_non_null(strstr(out, "ftvmm: trace: '/dev/full': "));
	fakevm_stop(&vm);
	fakevm_start(&vm, "web", ANSWERS);
	assert_int_equal(say("trace web %s/there"), EXIT_USAGE);
	assert_non_null(strstr(out, "trace.json/there'"));
	fakevm_stop(&vm);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, fakevm_teardown)
	const struct CMUnitTest tests[] = {
		T(spans_become_events),
		T(strange_spans_are_left_out),
		T(no_file_without_a_trace),
		T(a_full_disk_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
