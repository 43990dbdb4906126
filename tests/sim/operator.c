#include "tests/sim/operator.h"

#include <stdio.h>
#include <string.h>

#include "tests/sim/file.h"
#include "tests/sim/kernel.h"
#include "tests/sim/plan.h"
#include "tests/sim/swarm.h"
#include "tests/sim/trouble.h"
#include "tests/sim/truth.h"
#include "tests/sim/world.h"

#define LOOK_NS	    (50 * MS)
#define PATIENCE_NS (1500 * MS) /* before he thinks that nothing comes by itself */

static struct {
	bool settles;
	uint64_t starts;     /* of a primary */
	uint64_t none_since; /* no side runs the VM; 0: one does */
	bool refused[HOSTS]; /* the last start as primary, by the arbiter */
	uint64_t start_at[HOSTS];
	struct host *at; /* of the last strike */
} op;

/* --- what he sees ----------------------------------------------------------------------------- */

static bool says(const struct host *h, const char *word)
{
	return h->proc && !strcmp(proc_word(h->proc), word);
}

static bool runs(const struct host *h)
{
	const struct proc *p = h->proc;

	return p && p->run && p->run->role == ROLE_PRIMARY && p->run->has_vm && !p->run->over;
}

/* An end that was asked for before is not the program's fault. */
bool operator_has_vm(void)
{
	bool has = false;

	if (swarm_has(SWARM_STOP) || swarm_has(SWARM_TERM) || swarm_has(SWARM_EXIT) ||
	    swarm_has(SWARM_BAD_DISK))
		return false;
	for (unsigned i = 0; i < HOSTS; i++) {
		const struct proc *p = hosts[i].proc;
		enum secondary_state s = p && p->run ? p->run->secondary.fsm.state : SEC_OVER;

		if (p && p->run && !claims_is_rivalled(p))
			has |= runs(&hosts[i]) || (s >= SEC_STANDBY && s <= SEC_TWIN_CLAIM) ||
			       (s >= SEC_CLAIM && s <= SEC_CONFIRM);
	}
	return has;
}

/* It may come to run it. */
static bool is_idle(const struct host *h)
{
	return !h->proc || (!h->proc->as_primary && says(h, "STARTING"));
}

bool operator_content(void *arg)
{
	return says(&hosts[0], "PROTECTED") && says(&hosts[1], "PROTECTED");
}

static bool image_has_all(const struct host *h)
{
	char path[32];
	const uint8_t *data;
	size_t size;

	world_image(path, h);
	data = file_data(path, &size);
	return size == IMAGE_BYTES && truth_is_in(data);
}

/* --- what he does ----------------------------------------------------------------------------- */

static const char *mode(void)
{
	if (swarm_has(SWARM_COLO))
		return "colo";
	return swarm_has(SWARM_KEMARI) ? "kemari" : swarm_has(SWARM_AUTO) ? "auto" : "mc";
}

static void start(struct host *h, bool primary, bool claim)
{
	char image[32], disk[64], peer[32], listen[32], timeout[24], heartbeat[24];
	const char *args[ARGS_MAX] = {"--name", "vm",	"-k",	     KERNEL_PATH,
				      "--ft",	mode(), "--arbiter", "file:/sim/shared/vm",
				      "-d",	disk,	"--peer",    peer};
	unsigned n = 12;

	world_image(image, h);
	snprintf(disk, sizeof(disk), "id=d0,path=%s,ft=%s", image,
		 swarm_has(SWARM_SHARED) ? "shared" : "mirror");
	snprintf(peer, sizeof(peer), "tcp:10.0.0.%u:7000", 2 - h->index);
	snprintf(listen, sizeof(listen), "tcp:10.0.0.%u:7000", 1 + h->index);
	snprintf(timeout, sizeof(timeout), "%llums", (unsigned long long)(swarm.timeout_ns / MS));
	snprintf(heartbeat, sizeof(heartbeat), "%llums",
		 (unsigned long long)(swarm.timeout_ns / 4 / MS));
	args[n++] = "--peer-timeout";
	args[n++] = timeout;
	args[n++] = "--heartbeat";
	args[n++] = heartbeat;
	args[n++] = primary ? "--primary" : "--secondary";
	args[n++] = primary ? "-m" : "--listen";
	args[n++] = primary ? "2M" : listen;
	args[n++] = "--epoch";
	args[n++] = swarm.epoch;
	if (claim)
		args[n++] = "--claim";
	if (primary && swarm_has(SWARM_CPUS)) {
		args[n++] = "--cpus";
		args[n++] = "3";
	}
	if (primary && swarm_has(SWARM_VERIFY))
		args[n++] = "--verify";
	args[n++] = "--staging"; /* of all that a history does, making room for 64M would take
				    longest */
	args[n++] = swarm_has(SWARM_TIGHT) ? "1M" : "4M";
	if (swarm_has(SWARM_TIGHT)) {
		args[n++] = "--output-limit";
		args[n++] = "128K";
	}
	trace("%c: ftvmm run %s%s", h->name, primary ? "--primary" : "--secondary",
	      claim ? " --claim" : "");
	proc_start(h, args);
}

/* Nobody runs it, nobody is about to. */
static void start_somewhere(void)
{
	struct host *right = image_has_all(&hosts[0]) ? &hosts[0] : &hosts[1];
	struct host *h = rnd_one_in(2) && image_has_all(&hosts[1]) ? &hosts[1] : right;

	if (!image_has_all(right))
		violated("P3: no side runs, and no image has all that was said to be on it");
	if (!op.settles && swarm_has(SWARM_WRONG_SIDE) && rnd_one_in(2))
		h = &hosts[rnd_below(HOSTS)];
	if (!h->up)
		return;
	if (h->proc) {
		trace("%c: told to end, it is to be the primary", h->name);
		h->proc->terms++;
		return;
	}
	start(h, true, op.refused[h->index] && image_has_all(h));
	op.refused[h->index] = false;
	op.starts++;
}

uint64_t operator_starts(void)
{
	return op.starts;
}

static void look_at(struct host *h)
{
	struct host *other = &hosts[!h->index];

	if (h->proc || !h->up || world_now() < op.start_at[h->index])
		return;
	if (runs(other))
		start(h, false, false);
}

void operator_hears_end(const struct proc *p)
{
	unsigned i = p->host->index;

	op.refused[i] = p->ended && p->as_primary && p->code == 5 && !p->ran_at;
	op.start_at[i] = world_now() + rnd_below(op.settles ? 100 * MS : 800 * MS);
}

static void look(void *arg)
{
	bool none = is_idle(&hosts[0]) && is_idle(&hosts[1]);

	if (!none)
		op.none_since = 0;
	else if (!op.none_since)
		op.none_since = world_now();
	else if (world_now() - op.none_since > rnd_below(PATIENCE_NS))
		start_somewhere();
	look_at(&hosts[0]);
	look_at(&hosts[1]);
	world_at(world_now() + LOOK_NS, look, NULL);
}

/* --- his whims -------------------------------------------------------------------------------- */

/* Where something happens, mostly. */
static struct host *some_host(void)
{
	bool any = rnd_one_in(3);
	struct host *h = &hosts[rnd_below(HOSTS)];

	return any || !op.at ? h : op.at;
}

static void command(const char *json)
{
	struct proc *p = some_host()->proc;

	if (p && p->run && !p->wanted[0] && !p->frozen) {
		trace("%c: asked: %s", p->host->name, json);
		proc_command(p, json);
		for (unsigned i = 0; i < 4; i++)
			trouble_soon();
	}
}

static const char *const settings[] = {
	"{\"cmd\":\"set\",\"ft\":\"mc\"}",
	"{\"cmd\":\"set\",\"ft\":\"kemari\"}",
	"{\"cmd\":\"set\",\"ft\":\"auto\"}",
	"{\"cmd\":\"set\",\"epoch_ns\":2000000}",
	"{\"cmd\":\"set\",\"ft\":\"kemari\",\"epoch_ns\":100000000}",
	"{\"cmd\":\"set\",\"output_limit_bytes\":65536}",
	"{\"cmd\":\"set\",\"limit\":[{\"id\":\"d0\",\"ops\":20}]}",
	"{\"cmd\":\"set\",\"limit\":[{\"id\":\"d0\",\"ops\":0,\"rate\":65536}]}",
};

static const char *setting(void)
{
	const char *s = settings[rnd_below(sizeof(settings) / sizeof(settings[0]))];

	return swarm_has(SWARM_COLO) && rnd_one_in(2) ? "{\"cmd\":\"set\",\"ft\":\"colo\"}" : s;
}

/* Protection is switched off, and on again. */
static const char *off_or_on(char *text, size_t cap)
{
	snprintf(text, cap, "{\"cmd\":\"set\",\"ft\":\"%s\"}", rnd_one_in(2) ? "off" : mode());
	return text;
}

static void act(enum swarm_fault f)
{
	char text[64];
	struct proc *p = some_host()->proc;

	switch (f) {
	case SWARM_STOP:
		command("{\"cmd\":\"stop\",\"timeout_ns\":0}");
		break;
	case SWARM_FAILOVER:
		command("{\"cmd\":\"failover\"}");
		break;
	case SWARM_SET:
		command(setting());
		break;
	case SWARM_OFF:
		command(off_or_on(text, sizeof(text)));
		break;
	case SWARM_PAUSE:
		command(rnd_one_in(2) ? "{\"cmd\":\"pause\"}" : "{\"cmd\":\"resume\"}");
		break;
	default:
		if (p && p->run) {
			trace("%c: SIGTERM", p->host->name);
			p->terms++;
		}
	}
}

static void have_whim(void *arg)
{
	enum swarm_fault f = (enum swarm_fault)(uintptr_t)arg;

	if (!op.settles && event_begins(f))
		act(f);
}

static void whim(void *arg)
{
	enum swarm_fault f = (enum swarm_fault)(uintptr_t)arg;
	bool does;
	uint64_t rests;

	if (op.settles)
		return;
	does = event_begins(f);
	rests = rnd_one_in(4) ? rnd_below(10 * MS) : rnd_in(MS, 2 * swarm.mean_ns);
	if (does)
		act(f);
	world_at(world_now() + rests, whim, arg);
}

static const enum swarm_fault whims[] = {SWARM_STOP, SWARM_FAILOVER, SWARM_PAUSE, SWARM_TERM,
					 SWARM_SET};

#define WHIMS (sizeof(whims) / sizeof(whims[0]))

void operator_strike(const struct proc *p)
{
	uint64_t in = rnd_below(rnd_one_in(2) ? MS : 20 * MS);
	unsigned from = (unsigned)rnd_below(WHIMS);

	op.at = p->host;
	if (swarm_has(SWARM_OFF) && rnd_one_in(2)) {
		world_at(world_now() + in, have_whim, (void *)(uintptr_t)SWARM_OFF);
		return;
	}
	for (unsigned i = 0; i < WHIMS; i++) {
		enum swarm_fault f = whims[(from + i) % WHIMS];

		if (!swarm_has(f))
			continue;
		world_at(world_now() + in, have_whim, (void *)(uintptr_t)f);
		return;
	}
}

void operator_begin(void)
{
	start(&hosts[0], true, false);
	start(&hosts[1], false, false);
	world_at(world_now() + LOOK_NS, look, NULL);
	for (unsigned i = 0; i < WHIMS; i++) {
		uint64_t in = rnd_in(100 * MS, 2 * swarm.mean_ns);

		if (swarm_has(whims[i]))
			world_at(world_now() + in, whim, (void *)(uintptr_t)whims[i]);
	}
	if (swarm_has(SWARM_OFF))
		world_at(world_now() + rnd_in(100 * MS, 2 * swarm.mean_ns), whim,
			 (void *)(uintptr_t)SWARM_OFF);
}

static void resume(void *arg)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		struct proc *p = hosts[i].proc;

		if (!p || !p->run || p->wanted[0])
			continue;
		if (p->run->ft.stands & FT_STAND_USER)
			proc_command(p, "{\"cmd\":\"resume\"}");
		else if (runs(&hosts[i]) && p->run->primary.fsm.state == PRI_OFF)
			proc_command(p, "{\"cmd\":\"set\",\"ft\":\"mc\"}");
	}
	world_at(world_now() + 100 * MS, resume, NULL);
}

void operator_settle(void)
{
	op.settles = true;
	resume(NULL);
}
