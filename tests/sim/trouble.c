/* What goes wrong, and when it is well again. */
#include "tests/sim/trouble.h"

#include <stdio.h>

#include "tests/sim/file.h"
#include "tests/sim/net.h"
#include "tests/sim/plan.h"
#include "tests/sim/swarm.h"

static bool healed;

static struct host *any_host(void)
{
	return &hosts[rnd_below(HOSTS)];
}

/* --- deaths ----------------------------------------------------------------------------------- */

static void kill_one(void)
{
	struct host *h = any_host();

	if (!h->proc)
		return;
	trace("%c: killed", h->name);
	proc_kill(h->proc);
}

static void power_back(void *arg)
{
	struct host *h = arg;

	h->up = true;
	trace("%c: the power is back", h->name);
}

static void cut_power(void)
{
	struct host *h = any_host();

	if (!h->up)
		return;
	trace("%c: the power is cut", h->name);
	h->up = false;
	if (h->proc)
		proc_kill(h->proc);
	file_power_lost(h);
	world_at(world_now() + rnd_in(100 * MS, 2 * SEC), power_back, h);
}

static void thaw(void *arg)
{
	struct proc *p = arg;

	if (p->frozen)
		trace("%c: thawed", p->host->name);
	proc_freeze(p, false);
}

static void freeze_host(struct host *h)
{
	uint64_t ns = rnd_one_in(2) ? rnd_in(5 * MS, 200 * MS) : rnd_in(200 * MS, 3 * SEC);

	if (!h->proc || h->proc->frozen)
		return;
	trace("%c: frozen for %llu ms", h->name, (unsigned long long)(ns / MS));
	proc_freeze(h->proc, true);
	world_at(world_now() + ns, thaw, h->proc);
}

static void freeze(void)
{
	freeze_host(any_host());
}

/* --- the link --------------------------------------------------------------------------------- */

static void heal_link(void *arg)
{
	unsigned from = (unsigned)(uintptr_t)arg;

	trace("from %c: the link is whole", hosts[from].name);
	net_cut(from, false);
}

static void cut_from(unsigned from, uint64_t ns)
{
	if (directions[from].cut)
		return;
	trace("from %c: cut for %llu ms", hosts[from].name, (unsigned long long)(ns / MS));
	net_cut(from, true);
	world_at(world_now() + ns, heal_link, (void *)(uintptr_t)from);
}

static uint64_t cut_time(void)
{
	return rnd_one_in(2) ? rnd_in(5 * MS, 150 * MS) : rnd_in(150 * MS, 3 * SEC);
}

static void cut_link(void)
{
	uint64_t ns = cut_time();

	cut_from(0, ns);
	cut_from(1, rnd_one_in(4) ? cut_time() : ns);
}

static void make_hole(void)
{
	unsigned from = (unsigned)rnd_below(HOSTS);

	cut_from(from, cut_time());
}

static void break_links(void)
{
	trace("connections break");
	net_break();
}

static void change_net(void)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		directions[i].delay_ns = rnd_one_in(2) ? 50 * US : rnd_below(20 * MS);
		directions[i].jitter_ns = rnd_one_in(2) ? 20 * US : rnd_below(20 * MS);
		directions[i].ns_per_kib = rnd_one_in(2) ? 0 : rnd_below(300 * US);
	}
}

/* --- storage ---------------------------------------------------------------------------------- */

static void change_disk(void)
{
	struct storage *s = &storage[rnd_below(HOSTS)];

	s->io_ns = rnd_one_in(2) ? 300 * US : rnd_in(MS, 500 * MS);
}

static void spoil_disk(void)
{
	struct storage *s = &storage[rnd_below(HOSTS)];

	s->io_error = rnd_one_in(2) ? 0 : (unsigned)rnd_in(1, 400);
}

static void slow_arbiter(void)
{
	struct storage *s = &storage[rnd_below(HOSTS)];

	uint64_t worst = rnd_one_in(2) ? 50 * MS : 1500 * MS;

	s->delay_ns = rnd_one_in(2) ? 200 * US : rnd_in(MS, worst);
}

static void answer_again(void *arg)
{
	storage[(uintptr_t)arg].hangs = false;
	trace("%c: the arbiter's storage answers", hosts[(uintptr_t)arg].name);
}

static void silence_arbiter(void)
{
	uint64_t ns = rnd_in(50 * MS, 6 * SEC);
	unsigned both = (unsigned)rnd_below(3); /* A, B, both */

	for (uintptr_t i = 0; i < HOSTS; i++)
		if (both == i || both == 2) {
			storage[i].hangs = true;
			trace("%c: the arbiter's storage hangs", hosts[i].name);
			world_at(world_now() + ns, answer_again, (void *)i);
		}
}

static void lie(void)
{
	struct storage *s = &storage[rnd_below(HOSTS)];

	s->eio = rnd_one_in(2) ? 0 : (unsigned)rnd_in(2, 40);
	s->lost = rnd_one_in(2) ? 0 : (unsigned)rnd_in(2, 40);
}

static void lose_arbiter(void)
{
	trace("the arbiter's storage restarts, and lacks what was not synced");
	file_server_restarts();
}

/* --- all -------------------------------------------------------------------------------------- */

static void at_step(struct proc *p, enum step s, bool dies)
{
	struct host *other = &hosts[!p->host->index];

	trace("%c: at %s", p->host->name, step_name(s));
	if (dies && rnd_one_in(2) && other->proc) {
		trace("%c: killed", other->name);
		proc_kill(other->proc);
	} else if (dies) {
		trace("%c: dies", p->host->name);
		proc_kill(p);
	} else if (rnd_one_in(3))
		break_links();
	else
		freeze_host(any_host());
	if (!dies && rnd_one_in(3))
		cut_link();
	fiber_yield();
}

/* The n-th time that f may come up: does it, one time in so many? */
static bool comes_up(enum swarm_fault f, uint64_t n, uint64_t one_in)
{
	return !healed && swarm_has(f) && rnd_at(1ull << 63 | (uint64_t)f << 48 | n) % one_in == 0;
}

/* In the middle of something; the one that is frozen then may lose the link meanwhile. */
void trouble_step(struct proc *p, enum step s)
{
	static uint64_t reached[HOSTS][STEP_MAX];
	uint64_t n = reached[p->host->index][s]++ << 8 | (uint64_t)s << 1 | p->host->index;
	bool hot = s == swarm.hot_step;
	bool dies = comes_up(SWARM_STEP, n, hot ? swarm.hot_in : 3000);

	if (!dies && !comes_up(SWARM_FREEZE_STEP, n, hot ? swarm.hot_in : 2000))
		return;
	if (event_begins(dies ? SWARM_STEP : SWARM_FREEZE_STEP))
		at_step(p, s, dies);
	event_ends();
}

static bool guest_does(enum swarm_fault f, uint64_t one_in)
{
	static uint64_t asked[SWARM_MAX];
	bool does = comes_up(f, asked[f]++, one_in) && event_begins(f);

	event_ends();
	return does;
}

bool guest_resets(void)
{
	return guest_does(SWARM_RESET, 4000);
}

bool guest_exits(void)
{
	return guest_does(SWARM_EXIT, 8000);
}

static const struct {
	enum swarm_fault fault;
	void (*happens)(void);
} rows[] = {
	{SWARM_KILL, kill_one},
	{SWARM_POWER, cut_power},
	{SWARM_FREEZE, freeze},
	{SWARM_CUT, cut_link},
	{SWARM_HOLE, make_hole},
	{SWARM_BREAK, break_links},
	{SWARM_SLOW_NET, change_net},
	{SWARM_SLOW_DISK, change_disk},
	{SWARM_BAD_DISK, spoil_disk},
	{SWARM_SLOW_ARBITER, slow_arbiter},
	{SWARM_SILENT_ARBITER, silence_arbiter},
	{SWARM_LYING_ARBITER, lie},
	{SWARM_LOST_ARBITER, lose_arbiter},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static void happens(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	bool does;
	uint64_t rests;

	if (healed)
		return;
	does = event_begins(rows[i].fault);
	rests = rnd_in(MS, 2 * swarm.mean_ns);
	if (does)
		rows[i].happens();
	world_at(world_now() + rests, happens, arg);
}

static void strike(void *arg)
{
	if (!healed && event_begins(rows[(uintptr_t)arg].fault))
		rows[(uintptr_t)arg].happens();
}

void trouble_soon(void)
{
	uintptr_t i = rnd_below(ROWS);
	bool strikes = rnd_one_in(2);
	uint64_t in = rnd_below(rnd_one_in(2) ? 3 * MS : 60 * MS);

	if (!healed && strikes && swarm_has(rows[i].fault))
		world_at(world_now() + in, strike, (void *)i);
}

static void be_well(unsigned i)
{
	directions[i].delay_ns = 50 * US;
	directions[i].jitter_ns = 20 * US;
	directions[i].ns_per_kib = 0;
	storage[i].hangs = false;
	storage[i].delay_ns = 200 * US;
	storage[i].io_ns = 300 * US;
	storage[i].eio = storage[i].lost = storage[i].io_error = 0;
}

void trouble_begin(void)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		unsigned window = (unsigned)rnd_in(2, 64) << 10;
		int64_t ahead = (int64_t)rnd_below(1000000 * SEC);
		int ppm = (int)rnd_in(0, 400) - 200;

		be_well(i);
		directions[i].window = swarm_has(SWARM_SPLIT) ? window : 256 << 10;
		directions[i].splits = swarm_has(SWARM_SPLIT);
		if (!swarm_has(SWARM_CLOCKS))
			continue;
		hosts[i].clock_ahead = ahead;
		hosts[i].ppm = ppm;
	}
	for (uintptr_t i = 0; i < ROWS; i++) {
		uint64_t in = rnd_one_in(2) ? rnd_below(MS) : rnd_in(MS, 2 * swarm.mean_ns);

		if (swarm_has(rows[i].fault))
			world_at(world_now() + in, happens, (void *)i);
	}
}

void trouble_heal(void)
{
	healed = true;
	trace("all is well from now on");
	for (unsigned i = 0; i < HOSTS; i++) {
		be_well(i);
		net_cut(i, false);
		hosts[i].up = true;
		if (hosts[i].proc)
			proc_freeze(hosts[i].proc, false);
	}
}
