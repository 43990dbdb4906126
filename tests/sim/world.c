#include "tests/sim/world.h"

#include <stdio.h>
#include <string.h>

#include "tests/sim/trouble.h"
#include "tests/sim/file.h"
#include "tests/sim/kernel.h"
#include "tests/sim/mover.h"
#include "tests/sim/net.h"
#include "tests/sim/operator.h"
#include "tests/sim/outcome.h"
#include "tests/sim/plan.h"
#include "tests/sim/swarm.h"
#include "tests/sim/truth.h"

#define SETTLE_NS                                                                                  \
	(90 * SEC) /* a drain of 30 s, a link that is given up after 30 s, and the rest            \
		    */

#define SHARED_IMAGE FILE_DISKS "image"

static bool verbose;

void world_set_verbose(bool on)
{
	verbose = on;
}

bool world_verbose(void)
{
	return verbose;
}

void world_step(struct proc *p, enum step s)
{
	truth_step(p, s);
	claims_step(p, s);
	if (s == swarm.hot_step && rnd_one_in(swarm.hot_in)) {
		if (swarm.moves)
			mover_strike();
		else
			operator_strike(p);
	}
	trouble_step(p, s);
}

void world_image(char path[32], const struct host *h)
{
	if (swarm_has(SWARM_SHARED))
		strcpy(path, SHARED_IMAGE);
	else
		snprintf(path, 32, "/sim/%c/image", h->name);
}

static void make_hosts(void)
{
	for (unsigned i = 0; i < HOSTS; i++)
		hosts[i] = (struct host){
			.index = i, .name = (char)('A' + i), .ip = 0x0a000001 + i, .up = true};
	kernel_make();
	file_make("/sim/A/image", IMAGE_BYTES);
	file_make("/sim/B/image", IMAGE_BYTES);
	file_make(SHARED_IMAGE, IMAGE_BYTES);
	file_make(MOVER_IMAGE, IMAGE_BYTES);
}

static bool spoke_since(void *arg)
{
	const uint64_t *lines = arg;

	return truth_lines() > *lines + 20;
}

static void must_say(const char *what)
{
	uint64_t lines = truth_lines();

	world_run(world_now() + 10 * SEC, spoke_since, &lines);
	if (!spoke_since(&lines))
		violated("liveness: %s, but the guest says nothing for 10 s", what);
}

static void must_become(bool (*is)(void *arg), const char *what)
{
	world_run(world_now() + SETTLE_NS, is, NULL);
	if (!is(NULL))
		violated("liveness: not %s after %llu s; A is %s (%s), B is %s (%s)", what,
			 SETTLE_NS / SEC, proc_word(hosts[0].proc), proc_note(hosts[0].proc),
			 proc_word(hosts[1].proc), proc_note(hosts[1].proc));
}

/* The last fault is over. */
static void must_settle(void)
{
	trouble_heal();
	outcome->healed = true;
	if (!swarm.moves) {
		uint64_t starts = operator_starts();
		bool has_vm = operator_has_vm();

		operator_settle();
		must_become(operator_content, "protected");
		if (has_vm && operator_starts() > starts)
			violated("a VM was lost, and booted anew, though nothing went wrong then");
		must_say("protected");
		return;
	}
	mover_settle();
	must_become(mover_content, "ready to move");
	must_say("ready to move");
	mover_last_move();
	must_become(mover_has_arrived, "moved");
	must_say("moved");
}

void world_live(void)
{
	char list[400];
	uint64_t began;

	rnd_seed(plan.seed);
	swarm_draw(plan.theme, plan.kind);
	plan_apply();
	outcome->faults = swarm.on;
	outcome->moves = swarm.moves;
	swarm_list(swarm.on, list, sizeof(list));
	trace("seed %llu: %s, %s; epoch %s; theme %s, at %s one time in %u",
	      (unsigned long long)plan.seed, swarm.moves ? "a VM that moves" : "a pair", list,
	      swarm.epoch, swarm_theme_name(swarm.theme), step_name(swarm.hot_step), swarm.hot_in);
	make_hosts();
	truth_begin();
	trouble_begin();
	began = world_now();
	if (swarm.moves)
		mover_begin();
	else
		operator_begin();
	world_run(began + swarm.lasts_ns, NULL, NULL);
	must_settle();
	trace("the end: %llu lines", (unsigned long long)truth_lines());
}
