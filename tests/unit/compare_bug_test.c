/* A build in which one byte is not compared: the tests of a right build fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The program of that name in the build that this one is of. */
static void fails(const char *test, const char *which)
{
	char self[200] = {0}, command[300], line[500];
	bool seen = false;
	FILE *p;

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	*strstr(self, "/tests/unit/") = 0;
	snprintf(command, sizeof(command), "%s/bug-compare/%s 2>&1", self, test);
	p = popen(command, "r");
	assert_non_null(p);
	while (fgets(line, sizeof(line), p))
		seen |= strstr(line, "[  FAILED  ]") && strstr(line, which);
	assert_true(WIFEXITED(pclose(p)));
	assert_true(seen);
}

static void one_byte_is_not_compared(void **state)
{
	fails("compare_model_test", "one_byte_differs");
	fails("compare_test", "numbers_wrap");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(one_byte_is_not_compared)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
