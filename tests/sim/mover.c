#include "tests/sim/mover.h"

#include <stdio.h>
#include <string.h>

#include "tests/sim/kernel.h"
#include "tests/sim/plan.h"
#include "tests/sim/proc.h"
#include "tests/sim/swarm.h"
#include "tests/sim/trouble.h"
#include "tests/sim/truth.h"

#define LOOK_NS	 (50 * MS)
#define KNOWS_NS (3 * SEC) /* by then a side that lives has answered */

static struct {
	bool settles;
	uint64_t start_at[HOSTS];
	uint64_t doubts_since[HOSTS], none_since;
	uint64_t ran_at[HOSTS]; /* the guest last ran there, in a process that has ended */
	struct host *from;	/* of the last move */
} mover;

/* --- what he sees ----------------------------------------------------------------------------- */

static struct run *run_of(const struct host *h)
{
	return h->proc && h->proc->alive ? h->proc->run : NULL;
}

static enum source_state source_of(const struct host *h)
{
	const struct run *r = run_of(h);

	return r && r->source.ft ? r->source.fsm.state : SRC_IDLE;
}

static enum dest_state dest_of(const struct host *h)
{
	const struct run *r = run_of(h);

	return r && r->dest.ft ? r->dest.fsm.state : DST_OVER;
}

/* It has the VM, and no migration is under way. A source that died never says that it is gone. */
static bool has_it(const struct host *h)
{
	const struct run *r = run_of(h);
	bool all = r && (!r->dest.ft || dest_of(h) == DST_HERE ||
			 (dest_of(h) == DST_RUNS && !pager_left(&r->dest.pager) &&
			  source_of(&hosts[!h->index]) == SRC_IDLE));

	return all && r->has_vm && !r->over && source_of(h) == SRC_IDLE;
}

static bool waits_for_it(const struct host *h)
{
	const struct run *r = run_of(h);

	return r && !r->has_vm && dest_of(h) == DST_LISTEN;
}

static bool nobody_there(const struct host *h)
{
	return !h->proc || waits_for_it(h);
}

bool mover_content(void *arg)
{
	return (has_it(&hosts[0]) && waits_for_it(&hosts[1])) ||
	       (has_it(&hosts[1]) && waits_for_it(&hosts[0]));
}

bool mover_has_arrived(void *arg)
{
	return has_it(&hosts[!mover.from->index]) && !has_it(mover.from);
}

/* --- what he does ----------------------------------------------------------------------------- */

static void start(struct host *h, bool incoming)
{
	char uri[32];
	const char *args[ARGS_MAX] = {"--name",	   "vm", "-k",
				      KERNEL_PATH, "-d", "id=d0,path=" MOVER_IMAGE};
	unsigned n = 6;

	snprintf(uri, sizeof(uri), "tcp:10.0.0.%u:7000", 1 + h->index);
	args[n++] = incoming ? "--incoming" : "-m";
	args[n++] = incoming ? uri : "2M";
	if (!incoming && swarm_has(SWARM_CPUS)) {
		args[n++] = "--cpus";
		args[n++] = "3";
	}
	trace("%c: ftvmm run%s", h->name, incoming ? " --incoming" : "");
	proc_start(h, args);
	mover.start_at[h->index] = world_now() + rnd_below(mover.settles ? 100 * MS : 800 * MS);
}

static void command(struct host *h, const char *json)
{
	struct proc *p = h->proc;

	if (!run_of(h) || p->wanted[0] || p->frozen)
		return;
	trace("%c: asked: %s", h->name, json);
	proc_command(p, json);
	for (unsigned i = 0; i < 4; i++)
		trouble_soon();
}

/* Does a side of the migration live that h takes part in? */
static bool partner_lives(const struct host *h)
{
	const struct host *o = &hosts[!h->index];

	if (source_of(h) != SRC_IDLE)
		return dest_of(o) != DST_OVER && dest_of(o) != DST_LISTEN;
	return source_of(o) != SRC_IDLE;
}

static bool doubts(const struct host *h)
{
	enum source_state s = source_of(h);
	enum dest_state d = dest_of(h);

	return ((s >= SRC_UNSURE && s < SRC_LEFT) || d == DST_CUT || d == DST_ORPHAN ||
		d == DST_MENDING) &&
	       !partner_lives(h);
}

/* Nobody will ever tell h: he knows whether the guest ran at the other side, which is dead. */
static void decide(struct host *h)
{
	enum source_state s = source_of(h);
	bool ran = mover.ran_at[!h->index] > h->proc->ran_at;

	if (s >= SRC_UNSURE && s <= SRC_ASKED && !ran) {
		command(h, "{\"cmd\":\"migrate\",\"cancel\":true,\"force\":true}");
	} else if (s >= SRC_CUT) { /* a stop waits for the other half, for ever */
		trace("%c: killed, the other half of its VM is lost", h->name);
		proc_kill(h->proc);
	} else {
		command(h, "{\"cmd\":\"stop\",\"timeout_ns\":0}");
	}
}

static void look_at(struct host *h)
{
	struct host *o = &hosts[!h->index];
	unsigned i = h->index;

	if (!doubts(h))
		mover.doubts_since[i] = 0;
	else if (!mover.doubts_since[i])
		mover.doubts_since[i] = world_now();
	else if (world_now() - mover.doubts_since[i] > KNOWS_NS)
		decide(h);
	if (!h->proc && h->up && world_now() >= mover.start_at[i] && o->proc && !waits_for_it(o))
		start(h, true);
}

/* The image's lock keeps him from starting a second one; he does not try to. */
static void start_somewhere(void)
{
	struct host *h = &hosts[rnd_below(HOSTS)];

	if (h->proc)
		h->proc->terms++;
	else if (h->up)
		start(h, false);
}

static void look(void *arg)
{
	bool none = nobody_there(&hosts[0]) && nobody_there(&hosts[1]);

	if (!none)
		mover.none_since = 0;
	else if (!mover.none_since)
		mover.none_since = world_now();
	else if (world_now() - mover.none_since > rnd_below(SEC))
		start_somewhere();
	look_at(&hosts[0]);
	look_at(&hosts[1]);
	world_at(world_now() + LOOK_NS, look, NULL);
}

void mover_hears_end(const struct proc *p)
{
	if (p->ran_at)
		mover.ran_at[p->host->index] = p->ran_at;
	mover.start_at[p->host->index] =
		world_now() + rnd_below(mover.settles ? 100 * MS : 800 * MS);
}

/* --- moves and whims -------------------------------------------------------------------------- */

static void move(struct host *h, const char *how)
{
	char json[200];
	static const char *const more[] = {"", ",\"downtime\":\"5ms\"", ",\"bandwidth\":\"1M\"",
					   ",\"timeout\":\"500ms\""};

	snprintf(json, sizeof(json), "{\"cmd\":\"migrate\",\"%s\":\"tcp:10.0.0.%u:7000\"%s}", how,
		 2 - h->index, mover.settles ? "" : more[rnd_below(4)]);
	command(h, json);
}

static void move_some(void *arg)
{
	static const char *const how[] = {"precopy", "postcopy", "auto"};
	struct host *h = &hosts[rnd_below(HOSTS)];

	if (mover.settles)
		return;
	if (run_of(h) && run_of(h)->has_vm)
		move(h, how[rnd_below(3)]);
	world_at(world_now() + rnd_in(MS, SEC), move_some, NULL);
}

static void act(enum swarm_fault f)
{
	struct host *h = &hosts[rnd_below(HOSTS)];

	switch (f) {
	case SWARM_STOP:
		command(h, "{\"cmd\":\"stop\",\"timeout_ns\":0}");
		break;
	case SWARM_FAILOVER:
		command(h, "{\"cmd\":\"migrate\",\"cancel\":true}");
		break;
	case SWARM_PAUSE:
		command(h, rnd_one_in(2) ? "{\"cmd\":\"pause\"}" : "{\"cmd\":\"resume\"}");
		break;
	default:
		if (run_of(h)) {
			trace("%c: SIGTERM", h->name);
			h->proc->terms++;
		}
	}
}

static void have_whim(void *arg)
{
	enum swarm_fault f = (enum swarm_fault)(uintptr_t)arg;

	if (!mover.settles && event_begins(f))
		act(f);
}

static void whim(void *arg)
{
	enum swarm_fault f = (enum swarm_fault)(uintptr_t)arg;
	bool does;
	uint64_t rests;

	if (mover.settles)
		return;
	does = event_begins(f);
	rests = rnd_one_in(4) ? rnd_below(10 * MS) : rnd_in(MS, 2 * swarm.mean_ns);
	if (does)
		act(f);
	world_at(world_now() + rests, whim, arg);
}

static const enum swarm_fault whims[] = {SWARM_STOP, SWARM_FAILOVER, SWARM_PAUSE, SWARM_TERM};

#define WHIMS (sizeof(whims) / sizeof(whims[0]))

void mover_strike(void)
{
	enum swarm_fault f = whims[rnd_below(WHIMS)];
	uint64_t in = rnd_below(20 * MS);

	if (swarm_has(f))
		world_at(world_now() + in, have_whim, (void *)(uintptr_t)f);
}

void mover_begin(void)
{
	start(&hosts[0], false);
	start(&hosts[1], true);
	world_at(world_now() + LOOK_NS, look, NULL);
	world_at(world_now() + rnd_in(MS, SEC), move_some, NULL);
	for (unsigned i = 0; i < WHIMS; i++) {
		uint64_t in = rnd_in(100 * MS, 2 * swarm.mean_ns);

		if (swarm_has(whims[i]))
			world_at(world_now() + in, whim, (void *)(uintptr_t)whims[i]);
	}
}

static void resume(void *arg)
{
	for (unsigned i = 0; i < HOSTS; i++)
		if (run_of(&hosts[i]) && run_of(&hosts[i])->ft.stands & FT_STAND_USER)
			command(&hosts[i], "{\"cmd\":\"resume\"}");
	world_at(world_now() + 100 * MS, resume, NULL);
}

void mover_settle(void)
{
	mover.settles = true;
	resume(NULL);
}

/* Again, if something that was asked for before came in between. */
static void move_once_more(void *arg)
{
	if (has_it(mover.from) && waits_for_it(&hosts[!mover.from->index]))
		move(mover.from, rnd_one_in(2) ? "precopy" : "postcopy");
	if (!mover_has_arrived(NULL))
		world_at(world_now() + SEC, move_once_more, NULL);
}

void mover_last_move(void)
{
	mover.from = has_it(&hosts[0]) ? &hosts[0] : &hosts[1];
	move_once_more(NULL);
}
