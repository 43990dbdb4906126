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
		const struct policy_view v = {.epoch_ns = EPOCH,
					      .since_seal_ns = x->since,
					      .pause_ns = x->pause,
					      .output_waits = x->waits};

		assert_int_equal(p->acked(&v), x->acked);
		assert_int_equal(p->output_held(&v), x->held);
		assert_int_equal(p->resumed(&v), 0);
	}
}

/* With a twin output is compared, and only a difference or much time has an epoch sealed. */
static void colo_by_its_twin(void **state)
{
	const struct ft_policy *p = policy_of(FT_MODE_COLO);
	struct policy_view v = {.epoch_ns = EPOCH, .since_seal_ns = 1000, .output_waits = true};

	assert_true(p->twin);
	assert_int_equal(p->acked(&v), 0); /* as kemari */
	assert_int_equal(p->output_held(&v), 0);
	v.compared = true;
	assert_int_equal(p->acked(&v), POLICY_COLO * EPOCH - 1000);
	assert_int_equal(p->output_held(&v), POLICY_AS_BEFORE);
	v.since_seal_ns = POLICY_COLO * EPOCH + 1;
	assert_int_equal(p->acked(&v), 0);
	v.since_seal_ns = 1000;
	v.compared = false;
	v.output_waits = false;
	v.differs = true;
	assert_int_equal(p->acked(&v), 0);
}

static void each_name(void **state)
{
	assert_string_equal(policy_of(FT_MODE_COLO)->name, "colo");
	assert_string_equal(policy_of(FT_MODE_NONE)->name, "mc");
	assert_string_equal(policy_of(FT_MODE_MC)->name, "mc");
	assert_string_equal(policy_of(FT_MODE_KEMARI)->name, "kemari");
	assert_string_equal(policy_of(FT_MODE_AUTO)->name, "auto");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_mode),
		cmocka_unit_test(colo_by_its_twin),
		cmocka_unit_test(each_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
