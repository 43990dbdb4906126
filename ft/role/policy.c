#include "ft/role/policy.h"

static uint64_t until(const struct policy_view *v, uint64_t ns)
{
	return v->since_seal_ns >= ns ? 0 : ns - v->since_seal_ns;
}

static uint64_t now(const struct policy_view *v)
{
	return 0;
}

/* --- micro-checkpointing ---------------------------------------------------------------------- */

static uint64_t mc_acked(const struct policy_view *v)
{
	return until(v, v->epoch_ns);
}

static uint64_t mc_output_held(const struct policy_view *v)
{
	return POLICY_AS_BEFORE;
}

/* --- kemari ----------------------------------------------------------------------------------- */

/* What was put out while the last epoch was in flight shares the next one. */
static uint64_t kemari_acked(const struct policy_view *v)
{
	return v->output_waits ? 0 : mc_acked(v);
}

/* --- auto ------------------------------------------------------------------------------------- */

/* A guest that always puts something out would stand most of the time. */
static uint64_t auto_output_held(const struct policy_view *v)
{
	uint64_t ns = v->pause_ns * (POLICY_RUNS + 1);

	return until(v, ns < v->epoch_ns ? ns : v->epoch_ns);
}

static uint64_t auto_acked(const struct policy_view *v)
{
	return v->output_waits ? auto_output_held(v) : mc_acked(v);
}

/* --- colo ------------------------------------------------------------------------------------- */

static uint64_t colo_acked(const struct policy_view *v)
{
	if (v->differs)
		return 0;
	return v->compared ? until(v, v->epoch_ns * POLICY_COLO) : kemari_acked(v);
}

static uint64_t colo_output_held(const struct policy_view *v)
{
	return v->compared ? POLICY_AS_BEFORE : 0;
}

/* --- all of them ------------------------------------------------------------------------------ */

const struct ft_policy *policy_of(enum ft_mode mode)
{
	static const struct ft_policy mc = {"mc", false, mc_acked, mc_output_held, now};
	static const struct ft_policy kemari = {"kemari", false, kemari_acked, now, now};
	static const struct ft_policy adaptive = {"auto", false, auto_acked, auto_output_held, now};
	static const struct ft_policy colo = {"colo", true, colo_acked, colo_output_held, now};

	switch (mode) {
	case FT_MODE_KEMARI:
		return &kemari;
	case FT_MODE_AUTO:
		return &adaptive;
	case FT_MODE_COLO:
		return &colo;
	case FT_MODE_NONE:
	case FT_MODE_MC:
		break;
	}
	return &mc;
}
