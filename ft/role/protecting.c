/* Epochs: when one is sealed, and what its ack lets happen. */
#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"

/* A peer that is alive but acknowledges nothing for so long (its image hangs) is no protection. */
#define ACK_NS 30000000000ull

void primary_seal_for(struct primary *p, enum ft_seal why)
{
	struct err e = {0};

	primary_timer(p, ACK_NS);
	p->engine.seal_for = why;
	lockstep_seals(&p->mirroring.lockstep);
	p->engine.runs = mirroring_may_run(&p->mirroring);
	p->engine.apart = lockstep_wants(&p->mirroring.lockstep);
	if (!engine_seal(&p->engine, &e)) {
		lockstep_sealed(&p->mirroring.lockstep, p->engine.runs);
		return;
	}
	/* The VM stays stopped: who may go on is decided by the arbiter now. */
	log_error("%s", e.msg);
	if (p->vm->ending.end == VM_END_HOST && primary_host_failed(p))
		return;
	link_break(p->link, e.msg);
}

void primary_seal(void *arg)
{
	struct primary *p = arg;

	primary_seal_for(p, p->due);
}

void primary_first_seal(void *arg)
{
	primary_seal_for(arg, FT_SEAL_FIRST);
}

static enum ft_seal output_of(const struct obuf *ob)
{
	static const enum ft_seal of[OBUF_KINDS] = {
		[OBUF_NET] = FT_SEAL_NET,	  [OBUF_DISK] = FT_SEAL_DISK,
		[OBUF_CONSOLE] = FT_SEAL_CONSOLE, [OBUF_VSOCK] = FT_SEAL_VSOCK,
		[OBUF_EVENT] = FT_SEAL_EVENT,
	};

	return obuf_waits(ob) ? of[ob->first] : FT_SEAL_NONE;
}

static void seal_in(struct primary *p, uint64_t ns, enum ft_seal why)
{
	p->due = why;
	primary_timer(p, ns);
}

/* Also of a paused VM: what the guest did before is not lost. */
static void next_seal(struct primary *p, struct policy_due (*due)(const struct policy_view *v))
{
	struct policy_view v = {.epoch_ns = p->epoch_ns,
				.since_seal_ns = loop_now_ns() - p->engine.sealed_ns,
				.pause_ns = ft_last_pause_ns(p->ft),
				.output = output_of(&p->vm->obuf),
				.compared = lockstep_compares(&p->mirroring.lockstep),
				.differs = lockstep_asks(&p->mirroring.lockstep)};
	struct policy_due next = due(&v);

	if (next.ns != POLICY_AS_BEFORE)
		seal_in(p, next.ns, next.why);
}

static void in_step(struct primary *p)
{
	const struct sync *s = p->engine.sync;
	uint64_t now = loop_now_ns();
	uint64_t bytes = __atomic_load_n(&s->bytes, __ATOMIC_RELAXED) - s->begun_bytes;

	trace_span(&p->ft->trace,
		   &(struct trace_span){s->begun_ns, now, .n = bytes, .what = TRACE_SYNC});
	ft_set(p->ft, FT_HERE, FT_PROTECTED, NULL);
	log_info("in step after %.2f s: %llu bytes, %llu pages of memory among them",
		 (double)(now - s->begun_ns) / 1e9, (unsigned long long)bytes,
		 (unsigned long long)(__atomic_load_n(&s->pages, __ATOMIC_RELAXED) -
				      s->begun_pages));
}

void primary_in_step(struct primary *p)
{
	if (p->ft->cover == FT_SYNCING)
		in_step(p);
}

void primary_acked(void *arg)
{
	struct primary *p = arg;

	engine_acked(&p->engine);
	lockstep_acked(&p->mirroring.lockstep);
	primary_in_step(p);
	mirroring_look(&p->mirroring);
	next_seal(p, p->policy->acked);
}

/* Not at once: it may have been told in the middle of an output. */
void primary_differs(void *arg)
{
	struct primary *p = arg;
	enum ft_seal why = lockstep_asks(&p->mirroring.lockstep);

	seal_in(p, 0, why ? why : FT_SEAL_TWIN);
}

void primary_next_seal(struct primary *p)
{
	next_seal(p, p->policy->acked);
}

void primary_output_held(void *arg)
{
	struct primary *p = arg;

	next_seal(p, p->policy->output_held);
}

void primary_set_mode(struct primary *p, enum ft_mode mode)
{
	enum primary_event ev = mode == FT_MODE_OFF ? PRI_EV_OFF : PRI_EV_ON;

	p->policy = policy_of(mode);
	if (p->fsm.state == PRI_STEADY || p->fsm.state == PRI_FLIGHT)
		mirroring_look(&p->mirroring);
	if (fsm_expects(&p->fsm, ev))
		primary_post(p, ev);
	else if (p->fsm.state == PRI_STEADY || p->fsm.state == PRI_ASKED)
		next_seal(p, p->policy->acked);
}

void primary_resumed(struct primary *p)
{
	if (p->fsm.state == PRI_STEADY)
		next_seal(p, p->policy->resumed);
}
