/* What a guest can do all day. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmm/base/log.h"

static void once_a_second(void **state)
{
	uint64_t last = 0, first;

	assert_true(log_may(&last));
	first = last;
	for (unsigned i = 0; i < 3; i++)
		if (log_may(&last))
			assert_true(last - first >= 1000000000);
	last -= 1000000000;
	assert_true(log_may(&last));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(once_a_second)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
