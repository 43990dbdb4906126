#include "ft/role/policy.h"

static struct policy_due until(const struct policy_view *v, uint64_t ns, enum ft_seal why)
{
	return (struct policy_due){v->since_seal_ns >= ns ? 0 : ns - v->since_seal_ns, why};
}

static struct policy_due resumed(const struct policy_view *v)
{
	return (struct policy_due){0, FT_SEAL_USER};
}

static struct policy_due as_before(void)
{
	return (struct policy_due){POLICY_AS_BEFORE, FT_SEAL_NONE};
}

/* --- micro-checkpointing ---------------------------------------------------------------------- */

static struct policy_due mc_acked(const struct policy_view *v)
{
	return until(v, v->epoch_ns, FT_SEAL_INTERVAL);
}

static struct policy_due mc_output_held(const struct policy_view *v)
{
	return as_before();
}

/* --- kemari ----------------------------------------------------------------------------------- */

static struct policy_due kemari_output_held(const struct policy_view *v)
{
	return (struct policy_due){0, v->output};
}

/* What was put out while the last epoch was in flight shares the next one. */
static struct policy_due kemari_acked(const struct policy_view *v)
{
	return v->output ? kemari_output_held(v) : mc_acked(v);
}

/* --- auto ------------------------------------------------------------------------------------- */

/* A guest that always puts something out would stand most of the time. */
static struct policy_due auto_output_held(const struct policy_view *v)
{
	uint64_t ns = v->pause_ns * (POLICY_RUNS + 1);

	return ns < v->epoch_ns ? until(v, ns, v->output) : mc_acked(v);
}

static struct policy_due auto_acked(const struct policy_view *v)
{
	return v->output ? auto_output_held(v) : mc_acked(v);
}

/* --- colo ------------------------------------------------------------------------------------- */

static struct policy_due colo_acked(const struct policy_view *v)
{
	if (v->differs)
		return (struct policy_due){0, v->differs};
	return v->compared ? until(v, v->epoch_ns * POLICY_COLO, FT_SEAL_INTERVAL)
			   : kemari_acked(v);
}

static struct policy_due colo_output_held(const struct policy_view *v)
{
	return v->compared ? as_before() : kemari_output_held(v);
}

/* --- all of them ------------------------------------------------------------------------------ */

const struct ft_policy *policy_of(enum ft_mode mode)
{
	static const struct ft_policy mc = {"mc", false, mc_acked, mc_output_held, resumed};
	static const struct ft_policy kemari = {"kemari", false, kemari_acked, kemari_output_held,
						resumed};
	static const struct ft_policy adaptive = {"auto", false, auto_acked, auto_output_held,
						  resumed};
	static const struct ft_policy off = {"off", false, mc_acked, mc_output_held, resumed};
	static const struct ft_policy colo = {"colo", true, colo_acked, colo_output_held, resumed};

	switch (mode) {
	case FT_MODE_KEMARI:
		return &kemari;
	case FT_MODE_AUTO:
		return &adaptive;
	case FT_MODE_COLO:
		return &colo;
	case FT_MODE_OFF:
		return &off;
	case FT_MODE_NONE:
	case FT_MODE_MC:
		break;
	}
	return &mc;
}
