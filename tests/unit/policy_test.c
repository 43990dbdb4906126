/* When an epoch is sealed, by mode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ft/role/policy.h"

#define EPOCH 25000u

#define NONE	 FT_SEAL_NONE
#define NET	 FT_SEAL_NET
#define INTERVAL FT_SEAL_INTERVAL
#define BEFORE                                                                                     \
	{                                                                                          \
		POLICY_AS_BEFORE, NONE                                                             \
	}

static const struct expected {
	enum ft_mode mode;
	uint64_t since, pause;
	enum ft_seal output;
	struct policy_due acked, held;
} list[] = {
	{FT_MODE_MC, 1000, 300, NONE, {24000, INTERVAL}, BEFORE},
	{FT_MODE_MC, 1000, 300, NET, {24000, INTERVAL}, BEFORE},
	{FT_MODE_MC, 25000, 300, NET, {0, INTERVAL}, BEFORE},
	{FT_MODE_MC, 90000, 300, NONE, {0, INTERVAL}, BEFORE},
	{FT_MODE_NONE, 1000, 300, NET, {24000, INTERVAL}, BEFORE},
	{FT_MODE_KEMARI, 1000, 300, NONE, {24000, INTERVAL}, {0, NONE}},
	{FT_MODE_KEMARI, 1000, 300, NET, {0, NET}, {0, NET}},
	{FT_MODE_KEMARI, 1000, 300, FT_SEAL_DISK, {0, FT_SEAL_DISK}, {0, FT_SEAL_DISK}},
	{FT_MODE_KEMARI, 90000, 300, NONE, {0, INTERVAL}, {0, NONE}},
	{FT_MODE_AUTO, 1000, 300, NONE, {24000, INTERVAL}, {2000, NONE}},
	{FT_MODE_AUTO, 1000, 300, NET, {2000, NET}, {2000, NET}},
	{FT_MODE_AUTO, 3000, 300, NET, {0, NET}, {0, NET}},
	/* No longer than mc, and for the same then. */
	{FT_MODE_AUTO, 1000, 20000, NET, {24000, INTERVAL}, {24000, INTERVAL}},
	{FT_MODE_AUTO, 90000, 20000, NET, {0, INTERVAL}, {0, INTERVAL}},
};

static void check(struct policy_due is, uint64_t ns, enum ft_seal why)
{
	assert_int_equal(is.ns, ns);
	assert_int_equal(is.why, why);
}

static void each_mode(void **state)
{
	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		const struct expected *x = &list[i];
		const struct ft_policy *p = policy_of(x->mode);
		const struct policy_view v = {.epoch_ns = EPOCH,
					      .since_seal_ns = x->since,
					      .pause_ns = x->pause,
					      .output = x->output};

		check(p->acked(&v), x->acked.ns, x->acked.why);
		check(p->output_held(&v), x->held.ns, x->held.why);
		check(p->resumed(&v), 0, FT_SEAL_USER);
	}
}

/* With a twin output is compared, and only a difference or much time has an epoch sealed. */
static void colo_by_its_twin(void **state)
{
	const struct ft_policy *p = policy_of(FT_MODE_COLO);
	struct policy_view v = {.epoch_ns = EPOCH, .since_seal_ns = 1000, .output = NET};

	assert_true(p->twin);
	check(p->acked(&v), 0, NET); /* as kemari */
	check(p->output_held(&v), 0, NET);
	v.compared = true;
	check(p->acked(&v), POLICY_COLO * EPOCH - 1000, INTERVAL);
	check(p->output_held(&v), POLICY_AS_BEFORE, NONE);
	v.since_seal_ns = POLICY_COLO * EPOCH + 1;
	check(p->acked(&v), 0, INTERVAL);
	v.since_seal_ns = 1000;
	v.compared = false;
	v.output = NONE;
	v.differs = FT_SEAL_OVERDUE;
	check(p->acked(&v), 0, FT_SEAL_OVERDUE);
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
