#include "ft/role/policy.h"

static uint64_t acked(const struct policy_view *v)
{
	return v->since_seal_ns >= v->epoch_ns ? 0 : v->epoch_ns - v->since_seal_ns;
}

static uint64_t output_held(const struct policy_view *v)
{
	return POLICY_AS_BEFORE;
}

static uint64_t resumed(const struct policy_view *v)
{
	return 0;
}

const struct ft_policy policy_mc = {
	.name = "mc", .acked = acked, .output_held = output_held, .resumed = resumed};
