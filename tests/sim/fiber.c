#define _GNU_SOURCE
#include "tests/sim/fiber.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/heap.h"
#include "tests/sim/proc.h"
#include "tests/sim/real.h"

#define STACK_BYTES (1u << 20)
#define FIBERS_MAX  128
#define SLICE_NS    2000 /* of the processor, at most */

struct event {
	uint64_t when, order;
	void (*fn)(void *arg);
	void *arg;
};

struct fiber *fiber_now;
uint64_t world_changes = 1;
static struct fiber *fibers;
static void *world_sp;
static uint64_t now = 1000 * SEC, orders;
static uint32_t ids;
static unsigned deaths; /* that are not buried */
/* Those that are not dead, of processes that do not stand still; 0: to be looked for. */
static struct fiber *able[FIBERS_MAX];
static unsigned nable;
static struct event *events;
static unsigned nevents, cap_events;

/* --- chance and trace ------------------------------------------------------------------------- */

#define GOLDEN 0x9e3779b97f4a7c15ull

static uint64_t origin, common, own, *chance = &common, hash;
static bool shown;

/* splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators". */
static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

void rnd_seed(uint64_t seed)
{
	origin = common =
		mix((seed + 1) * GOLDEN); /* else the next seed's draws are these, but the first */
	hash = 0xcbf29ce484222325ull;
}

uint64_t rnd(void)
{
	return mix(*chance += GOLDEN);
}

uint64_t rnd_at(uint64_t key)
{
	return mix(origin ^ mix((key + 1) * GOLDEN));
}

void rnd_own(uint64_t key)
{
	own = rnd_at(key);
	chance = &own;
}

void rnd_common(void)
{
	chance = &common;
}

uint64_t rnd_below(uint64_t n)
{
	if (n & (n - 1))
		return rnd() % n;
	return n ? rnd() & (n - 1) : 0;
}

uint64_t rnd_in(uint64_t from, uint64_t to)
{
	return from + rnd_below(to - from + 1);
}

bool rnd_one_in(uint64_t n)
{
	return n && rnd_below(n) == 0;
}

void trace_mix(uint64_t x)
{
	hash = (hash ^ x) * 0x100000001b3ull;
	hash ^= hash >> 29;
}

void trace_show(bool on)
{
	shown = on;
}

uint64_t trace_hash(void)
{
	return hash;
}

void trace(const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (const char *p = line; *p; p++)
		trace_mix((uint8_t)*p);
	trace_mix(now);
	if (shown)
		printf("%9.3f ms %s\n", (double)(now - 1000 * SEC) / MS, line);
}

/* --- switching -------------------------------------------------------------------------------- */

void fiber_switch(void **save, void *load);
void fiber_main(void);

/* The registers that a callee must keep: System V ABI, AMD64, 3.2.1. */
__asm__(".text\n"
	".globl fiber_switch\n"
	"fiber_switch:\n"
	"	push %rbp\n	push %rbx\n	push %r12\n	push %r13\n	push %r14\n	"
	"push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	mov %rsi, %rsp\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbx\n	"
	"pop %rbp\n"
	"	ret\n");

static void to_world(void)
{
	rnd_common();
	fiber_switch(&fiber_now->sp, world_sp);
}

void fiber_main(void)
{
	struct fiber *f = fiber_now;

	f->result = f->fn(f->arg);
	f->dead = true;
	deaths++;
	to_world();
	__builtin_unreachable();
}

/* Marks of the address sanitizer, where there is one, are not for who has these addresses next. */
void __asan_unpoison_memory_region(const void *p, size_t n) __attribute__((weak));

/* Most of a history's threads live for a moment, and a new mapping costs more than what they do. */
static void *free_stacks; /* each begins with the next */

static char *new_stack(void)
{
	char *p = free_stacks;

	if (p) {
		free_stacks = *(void **)p;
		return p;
	}
	if (heap_is_ours())
		return aligned_alloc(4096, STACK_BYTES);
	return REAL(mmap)(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void free_stack(char *p)
{
	if (__asan_unpoison_memory_region)
		__asan_unpoison_memory_region(p, STACK_BYTES);
	*(void **)p = free_stacks;
	free_stacks = p;
}

struct fiber *fiber_start(struct proc *p, void *(*fn)(void *arg), void *arg)
{
	struct fiber *f = calloc(1, sizeof(*f)), **at = &fibers;
	void **top;

	f->stack = new_stack();
	f->proc = p;
	f->id = ++ids;
	f->fn = fn;
	f->arg = arg;
	f->until = NEVER;
	top = (void **)(f->stack + STACK_BYTES - 64);
	*--top = NULL; /* fiber_main's return address: never used */
	*--top = (void *)fiber_main;
	f->sp = top - 6;
	while (*at)
		at = &(*at)->next;
	*at = f;
	fiber_look_again();
	return f;
}

void fiber_yield(void)
{
	if (fiber_now)
		to_world();
}

void fiber_maybe(unsigned n)
{
	if (rnd_one_in(n))
		fiber_yield();
}

bool fiber_wait(fiber_ready *ready, void *arg, uint64_t until)
{
	struct fiber *f = fiber_now;

	if (ready && ready(arg))
		return true;
	f->ready = ready;
	f->ready_arg = arg;
	f->until = until;
	to_world();
	return ready && ready(arg);
}

static bool never(void *arg)
{
	return false;
}

void fiber_sleep(uint64_t ns)
{
	if (fiber_now)
		fiber_wait(never, NULL, now + ns);
}

void fiber_kill(const struct proc *p)
{
	bool self = fiber_now && fiber_now->proc == p;

	for (struct fiber *f = fibers; f; f = f->next)
		if (f->proc == p)
			f->dead = true;
	deaths++;
	if (self)
		to_world();
}

/* A dead one's struct stays: somebody may join it. */
static void bury(void)
{
	if (!deaths)
		return;
	deaths = 0;
	fiber_look_again();
	for (struct fiber **at = &fibers; *at;) {
		struct fiber *f = *at;

		if (!f->dead) {
			at = &f->next;
			continue;
		}
		*at = f->next;
		free_stack(f->stack);
	}
}

/* --- the world's time ------------------------------------------------------------------------- */

uint64_t world_now(void)
{
	return now;
}

void world_spend(uint64_t ns)
{
	now += ns;
}

static bool before(const struct event *a, const struct event *b)
{
	return a->when < b->when || (a->when == b->when && a->order < b->order);
}

void world_at(uint64_t when, void (*fn)(void *arg), void *arg)
{
	struct event e = {when, orders++, fn, arg};
	unsigned i = nevents++;

	if (nevents > cap_events) {
		cap_events = cap_events ? 2 * cap_events : 256;
		events = realloc(events, cap_events * sizeof(*events));
	}
	for (; i && before(&e, &events[(i - 1) / 2]); i = (i - 1) / 2)
		events[i] = events[(i - 1) / 2];
	events[i] = e;
}

static struct event take_event(void)
{
	struct event first = events[0], last = events[--nevents];
	unsigned i = 0, c;

	while ((c = 2 * i + 1) < nevents) {
		if (c + 1 < nevents && before(&events[c + 1], &events[c]))
			c++;
		if (!before(&events[c], &last))
			break;
		events[i] = events[c];
		i = c;
	}
	events[i] = last;
	return first;
}

bool world_is_still(uint64_t changes)
{
	return changes == world_changes && !(nevents && events[0].when <= now);
}

static bool can_run(const struct fiber *f)
{
	return !f->ready || f->until <= now || f->ready(f->ready_arg);
}

void fiber_look_again(void)
{
	nable = 0;
}

static void look_for_able(void)
{
	for (struct fiber *f = fibers; f && nable < FIBERS_MAX; f = f->next)
		if (!f->dead && !proc_stands(f->proc))
			able[nable++] = f;
}

/* From a random one on; NULL: none can before `when`, if nothing else happens. */
static struct fiber *choose(uint64_t *when)
{
	unsigned at;

	if (!nable)
		look_for_able();
	at = (unsigned)rnd_below(nable);
	*when = NEVER;
	for (unsigned i = 0; i < nable; i++, at++) {
		struct fiber *f = able[at < nable ? at : at - nable];

		if (can_run(f))
			return f;
		*when = f->until < *when ? f->until : *when;
	}
	return NULL;
}

static void run(struct fiber *f)
{
	now += 100 + rnd_below(SLICE_NS);
	f->ready = NULL;
	f->until = NEVER;
	fiber_now = f;
	errno = f->saved_errno;
	fiber_switch(&world_sp, f->sp);
	f->saved_errno = errno;
	fiber_now = NULL;
	trace_mix(now);
}

void world_run(uint64_t until, bool (*stop)(void *arg), void *arg)
{
	while (now < until && !(stop && stop(arg))) {
		struct fiber *f;
		uint64_t next;

		while (nevents && events[0].when <= now) {
			struct event e = take_event();

			world_changes++;
			if (e.fn)
				e.fn(e.arg);
			rnd_common();
		}
		bury();
		f = choose(&next);
		if (nevents && events[0].when < next)
			next = events[0].when;
		if (f)
			run(f);
		else
			now = next < until ? next : until;
	}
}
