#include "tests/sim/truth.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/file.h"
#include "tests/sim/guest.h"
#include "tests/sim/outcome.h"
#include "tests/sim/swarm.h"
#include "tests/sim/world.h"
#include "vmm/base/hash.h"

#define FEW	 1024u	  /* nodes and values: then twice as many, and so on */
#define SLACK_NS (5 * MS) /* a look at the clock, and what is done then */

struct node {
	uint32_t parent, depth, block;
	uint32_t asked; /* the last value that was asked for here */
	uint64_t value;
	uint64_t twins; /* the line that a twin put out when it had come here, or 0 */
};

struct value {
	uint32_t block, node; /* that it was asked for at */
	uint32_t acked;	      /* the node that it made, or 0 */
	uint32_t older;	      /* value that was asked for there */
	uint64_t mark;
};

static struct node *nodes; /* node 0: the new image */
static struct value *values_asked;
static uint32_t nnodes, nvalues;
static uint32_t said; /* last */
static uint64_t said_boot, said_clock, said_at, lines;
static const struct proc *said_by;
#define FOUND (IMAGE_BYTES / 512)
static uint32_t found[FOUND], nfound; /* in the sectors of the image that a guest looks at */
static uint64_t lease_ends;	      /* of whoever was lost last */

/* Epochs as they were sealed. */
#define SEALED 64u
#define LOOKS  4u /* at memory, one time in so many: that takes longer than all else */
static struct sealed {
	uint64_t epoch, memory, registers;
	uint32_t node;
} sealed[SEALED];
static uint32_t acked; /* the node of the last epoch that a secondary acknowledged */

void violated(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(outcome->violated, sizeof(outcome->violated), fmt, ap);
	va_end(ap);
	printf("VIOLATED at %.3f ms: %s\n", (double)(world_now() - 1000 * SEC) / MS,
	       outcome->violated);
	outcome->lasted_ns = world_now() - 1000 * SEC;
	fflush(stdout);
	_Exit(3);
}

/* Room for one more, if there are n. */
static void *more(void *of, uint32_t n, size_t size)
{
	return n >= FEW && !(n & (n - 1)) ? realloc(of, 2 * n * size) : of;
}

void truth_begin(void)
{
	nodes = malloc(FEW * sizeof(*nodes));
	values_asked = malloc(FEW * sizeof(*values_asked));
	nodes[nnodes++] = (struct node){0};
	values_asked[nvalues++] = (struct value){0};
}

static bool is_ancestor(uint32_t old, uint32_t young)
{
	while (nodes[young].depth > nodes[old].depth)
		young = nodes[young].parent;
	return young == old;
}

uint64_t truth_value(unsigned block, uint32_t node, uint64_t mark)
{
	uint32_t same = mark ? nodes[node].asked : 0;

	while (same && (values_asked[same].mark != mark || values_asked[same].block != block))
		same = values_asked[same].older;
	if (same)
		return same;
	values_asked = more(values_asked, nvalues, sizeof(*values_asked));
	values_asked[nvalues] = (struct value){
		.block = block, .node = node, .older = nodes[node].asked, .mark = mark};
	nodes[node].asked = nvalues;
	return nvalues++;
}

uint32_t truth_acked(uint32_t node, unsigned block, uint64_t value)
{
	struct value *v = &values_asked[value];

	/* The guest may see the end of the same write at both sides: that is no branch. */
	if (v->acked && nodes[v->acked].parent == node)
		return v->acked;
	nodes = more(nodes, nnodes, sizeof(*nodes));
	v->acked = nnodes;
	nodes[nnodes] = (struct node){
		.parent = node, .depth = nodes[node].depth + 1, .block = block, .value = value};
	return nnodes++;
}

/* The last write of a block that node knows of; 0: none. */
static uint32_t newest(uint32_t node, unsigned block)
{
	while (node && nodes[node].block != block)
		node = nodes[node].parent;
	return node;
}

static bool may_hold(unsigned block, uint64_t value)
{
	uint32_t old = newest(said, block), at;

	if (value == (old ? nodes[old].value : 0))
		return true;
	if (!value || value >= nvalues || values_asked[value].block != block)
		return false;
	at = values_asked[value].node;
	return is_ancestor(old, at) && (is_ancestor(at, said) || is_ancestor(said, at));
}

void truth_holds(unsigned block, uint64_t value)
{
	uint32_t old = newest(said, block);

	if (!may_hold(block, value))
		violated("P8: a guest starts from an image whose block %u has write %llu; "
			 "%llu was said to be on it",
			 block, (unsigned long long)value,
			 (unsigned long long)(old ? nodes[old].value : 0));
	found[nfound++ % FOUND] = (uint32_t)value;
}

bool truth_is_in(const uint8_t *image)
{
	for (unsigned i = 0; i < IMAGE_BYTES / 512; i++) {
		uint64_t value;

		memcpy(&value, image + i * 512, sizeof(value));
		if (!may_hold(i * 512 / GUEST_BLOCK, value))
			return false;
	}
	return true;
}

uint32_t truth_booted(const uint64_t values[BLOCKS], const uint8_t torn[BLOCKS])
{
	uint32_t node = said;

	for (unsigned b = 0; b < BLOCKS; b++) {
		uint32_t old = newest(said, b);

		if (!torn[b] && values[b] != (old ? nodes[old].value : 0))
			node = truth_acked(node, b, values[b]);
	}
	/* Whatever branch a write came from, it is part of this one now: a torn one may stay. */
	while (nfound)
		values_asked[found[--nfound % FOUND]].node = node;
	return node;
}

/* In step, or lost from there without an answer of the arbiter. */
static bool needs_acks(const struct proc *p)
{
	enum primary_state s = p->run->primary.fsm.state;

	return p->run->role == ROLE_PRIMARY &&
	       ((s >= PRI_STEADY && s <= PRI_STOP) || (s >= PRI_HAND_DUE && s <= PRI_CLAIM_STOP));
}

/*
 * What was acknowledged may leave late: by a side that stood still between its look at the
 * heartbeats and the release, or whose peer took over when a connection broke that it still has,
 * and so before the lease was over that the last heartbeat gave.
 * The other side has all of it: to the outside it is like a frame that was long on its way.
 */
static bool is_late(const struct proc *p, uint32_t node)
{
	if (is_ancestor(said, node) || !is_ancestor(node, said))
		return false;
	return p->thawed_at >= p->woke_at || world_now() < lease_ends;
}

static uint64_t line_of(uint32_t node, uint64_t boot, uint64_t clock)
{
	const uint64_t line[] = {node, boot, clock};

	return XXH3_64bits(line, sizeof(line)) | 1;
}

void truth_twin_says(const struct proc *p, uint32_t node, uint64_t boot, uint64_t clock)
{
	if (world_verbose())
		trace("%c's twin puts out node %u", p->host->name, node);
	if (node < nnodes)
		nodes[node].twins = line_of(node, boot, clock);
}

void truth_said(struct proc *p, uint32_t node, uint64_t boot, uint64_t clock)
{
	trace_mix(node);
	if (world_verbose())
		trace("%c says node %u", p->host->name, node);
	if (!node || node >= nnodes)
		violated("%c says a node that is none: %u", p->host->name, node);
	if (is_late(p, node))
		return;
	if (!is_ancestor(said, node))
		violated("P1: %c says node %u, and does not have %u, which was said before",
			 p->host->name, node, said);
	if (needs_acks(p) && !is_ancestor(node, acked) &&
	    nodes[node].twins != line_of(node, boot, clock))
		violated("P1: %c in %s says node %u; %u was acknowledged", p->host->name,
			 primary_desc.states[p->run->primary.fsm.state], node, acked);
	if (boot == said_boot && clock && clock < said_clock)
		violated("%c: the guest's clock went back by %llu ns", p->host->name,
			 (unsigned long long)(said_clock - clock));
	said = node;
	if (boot != said_boot || clock)
		said_clock = clock;
	said_boot = boot;
	said_at = world_now();
	said_by = p;
	lines++;
}

/* --- epochs ----------------------------------------------------------------------------------- */

static struct sealed look(const struct vm *vm, uint64_t epoch)
{
	const uint8_t *memory = vm->mem.kept + GUEST_GPA;
	uint64_t registers = 0;

	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		registers = registers * 31 +
			    XXH3_64bits(&vm->vcpus[i].state.regs, sizeof(vm->vcpus[i].state.regs));
	return (struct sealed){.epoch = epoch,
			       .memory = epoch % LOOKS ? 0 : guest_hash(memory),
			       .registers = registers,
			       .node = guest_node(memory)};
}

static void check_commit(const struct proc *p, uint64_t epoch)
{
	const struct sealed *was = &sealed[epoch % SEALED], is = look(&p->run->vm, epoch);

	if (was->epoch != epoch)
		violated("%c commits epoch %llu, which nobody sealed", p->host->name,
			 (unsigned long long)epoch);
	if (was->memory != is.memory || was->registers != is.registers)
		violated("%c commits epoch %llu with other %s than were sealed", p->host->name,
			 (unsigned long long)epoch,
			 was->memory != is.memory ? "memory" : "registers");
}

/* A stop is over: either side may be started, even after a power cut. */
static void check_images(void)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		char path[32];
		const uint8_t *data;
		size_t size;

		world_image(path, &hosts[i]);
		data = file_synced(path, &size);
		if (size != IMAGE_BYTES || !truth_is_in(data))
			violated("P8: a stop is over, and the image of %c lacks what was said to "
				 "be on it",
				 hosts[i].name);
	}
}

/* The last heartbeat that p heard was sent before it heard it. */
static void note_lease(const struct proc *p)
{
	uint64_t now = proc_clock(p), heard = p->run->secondary.heart.heard_ns;

	lease_ends = world_now() - (heard && now > heard ? now - heard : 0) + swarm.timeout_ns +
		     SLACK_NS;
}

void truth_step(struct proc *p, enum step s)
{
	uint64_t epoch;

	switch (s) {
	case STEP_SEAL_CAPTURED:
		epoch = p->run->primary.engine.in_flight;
		sealed[epoch % SEALED] = look(&p->run->vm, epoch);
		break;
	case STEP_ACK_BEFORE:
		epoch = p->run->secondary.stage.epoch;
		acked = sealed[epoch % SEALED].node;
		break;
	case STEP_TAKEOVER_CLAIM:
		note_lease(p);
		break;
	case STEP_DONE_HEARD:
		check_images();
		break;
	case STEP_COMMIT_END:
		check_commit(p, p->run->secondary.stage.committed);
		break;
	default:
		break;
	}
}

/* --- who runs --------------------------------------------------------------------------------- */

static bool passes(const struct proc *p)
{
	return p && p->run && p->run->has_vm && p->run->vm.loop && p->run->vm.running &&
	       !p->run->vm.obuf.holding && !p->run->vm.obuf.closed && !p->run->vm.obuf.divert;
}

void truth_runs(struct proc *p)
{
	p->ran_at = world_now();
	if (passes(p) && passes(hosts[!p->host->index].proc))
		violated("P2: both sides run the guest, and let its output pass");
}

bool truth_is_over(const struct proc *p, uint64_t since)
{
	if (passes(p))
		return false;
	if (passes(hosts[!p->host->index].proc))
		return true;
	/* It stood still while it booted, and who took over has ended since. */
	return said_by && said_by != p && said_at > since && !p->run->vm.obuf.divert;
}

uint64_t truth_lines(void)
{
	return lines;
}
