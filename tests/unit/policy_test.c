/* When an epoch is sealed, by mode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ft/role/policy.h"

#define EPOCH 25000u

static const struct expected {
	enum ft_mode mode;
	uint64_t since, pause;
	bool waits;
	uint64_t acked, held;
} list[] = {
	{FT_MODE_MC, 1000, 300, false, 24000, POLICY_AS_BEFORE},
	{FT_MODE_MC, 1000, 300, true, 24000, POLICY_AS_BEFORE},
	{FT_MODE_MC, 25000, 300, true, 0, POLICY_AS_BEFORE},
	{FT_MODE_MC, 90000, 300, false, 0, POLICY_AS_BEFORE},
	{FT_MODE_NONE, 1000, 300, true, 24000, POLICY_AS_BEFORE},
	{FT_MODE_KEMARI, 1000, 300, false, 24000, 0},
	{FT_MODE_KEMARI, 1000, 300, true, 0, 0},
	{FT_MODE_KEMARI, 90000, 300, false, 0, 0},
	{FT_MODE_AUTO, 1000, 300, false, 24000, 2000},
	{FT_MODE_AUTO, 1000, 300, true, 2000, 2000},
	{FT_MODE_AUTO, 3000, 300, true, 0, 0},
	{FT_MODE_AUTO, 1000, 20000, true, 24000, 24000}, /* no longer than mc */
	{FT_MODE_AUTO, 90000, 20000, true, 0, 0},
};

static void each_mode(void **state)
{
	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		const struct expected *x = &list[i];
		const struct ft_policy *p = policy_of(x->mode);
		const struct policy_view v = {EPOCH, x->since, x->pause, x->waits};

		assert_int_equal(p->acked(&v), x->acked);
		assert_int_equal(p->output_held(&v), x->held);
		assert_int_equal(p->resumed(&v), 0);
	}
}

static void each_name(void **state)
{
	assert_string_equal(policy_of(FT_MODE_NONE)->name, "mc");
	assert_string_equal(policy_of(FT_MODE_MC)->name, "mc");
	assert_string_equal(policy_of(FT_MODE_KEMARI)->name, "kemari");
	assert_string_equal(policy_of(FT_MODE_AUTO)->name, "auto");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_mode),
		cmocka_unit_test(each_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
