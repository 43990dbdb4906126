/*
 * Threads of all simulated processes as fibers of one real thread, under one virtual clock. A fiber
 * runs until it waits or yields; which one runs next, and how much time that took, is drawn from
 * the seed. Time goes on by itself only when nobody can run.
 */
#ifndef TESTS_SIM_FIBER_H
#define TESTS_SIM_FIBER_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#define NEVER UINT64_MAX
#define US    1000ull
#define MS    1000000ull
#define SEC   1000000000ull

struct proc;

typedef bool fiber_ready(void *arg);

struct fiber {
	void *sp;
	char *stack;
	struct proc *proc;
	void *(*fn)(void *arg);
	void *arg, *result;
	fiber_ready *ready; /* NULL: it can run */
	void *ready_arg;
	uint64_t until; /* or at this time */
	int saved_errno;
	uint32_t id;
	bool dead, signalled;
	jmp_buf *out; /* of a vCPU's instruction that is not to end */
	char name[16];
	struct fiber *next;
};

/* --- chance and trace --- */
void rnd_seed(uint64_t seed);
uint64_t rnd(void);
uint64_t rnd_below(uint64_t n);
uint64_t rnd_in(uint64_t from, uint64_t to); /* inclusive */
bool rnd_one_in(uint64_t n);		     /* 0: never */
/* What the seed and the key alone say, whatever was drawn before. */
uint64_t rnd_at(uint64_t key);
/* All that is drawn comes from there, until rnd_common() or the end of this turn. */
void rnd_own(uint64_t key);
void rnd_common(void);
/* Into the hash of this history; shown when it is to be. */
void trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void trace_show(bool on);
void trace_mix(uint64_t x);
uint64_t trace_hash(void);

/* --- fibers --- */
extern struct fiber *fiber_now; /* NULL: the world itself */
struct fiber *fiber_start(struct proc *p, void *(*fn)(void *arg), void *arg);
/* May another one run now? Drawn: one call in n gives up its turn. */
void fiber_maybe(unsigned n);
void fiber_yield(void);
/* Until ready(arg) or the time; true: ready. */
bool fiber_wait(fiber_ready *ready, void *arg, uint64_t until);
void fiber_sleep(uint64_t ns);
/* A process stands still, or no longer. */
void fiber_look_again(void);
/* None of them runs again; the calling one may be among them. */
void fiber_kill(const struct proc *p);

/* --- the world's time --- */
/* Counts what can make a descriptor ready; has nothing, since it was that? */
extern uint64_t world_changes;
bool world_is_still(uint64_t changes);
uint64_t world_now(void);
void world_spend(uint64_t ns);
/* fn(arg) is called then, outside of all fibers; fn may be NULL: somebody looks at the time. */
void world_at(uint64_t when, void (*fn)(void *arg), void *arg);
/* Until that time, or stop(arg). */
void world_run(uint64_t until, bool (*stop)(void *arg), void *arg);

#endif
