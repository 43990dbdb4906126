/*
 * Hosts and the processes on them. A process is the real `ftvmm run`, its main() and threads being
 * fibers; what it has of the kernel dies with it.
 */
#ifndef TESTS_SIM_PROC_H
#define TESTS_SIM_PROC_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/cli/run.h"

#include "tests/sim/claims.h"
#include "tests/sim/fiber.h"

#define HOSTS	 2
#define ARGS_MAX 48

struct host {
	unsigned index;
	char name; /* 'A', 'B' */
	uint32_t ip;
	bool up;
	int64_t clock_ahead; /* of the world's time, ns */
	int ppm;	     /* how much faster its clock goes */
	struct proc *proc;   /* that runs, or NULL */
};

struct uffd;

struct proc {
	struct host *host;
	unsigned id;
	bool alive, frozen, ended;
	int code; /* of its end */
	int argc;
	char *argv[ARGS_MAX];
	struct run *run; /* since it has a control socket */
	ctl_fn *command;
	struct loop_op command_op;
	int command_fd;
	char wanted[256]; /* a request that the loop is to take */
	char line[64];	  /* of its console, so far */
	unsigned line_len;
	struct uffd *uffd;	     /* over its guest's memory, or NULL */
	uint64_t woke_at, thawed_at; /* its loop last waited until; it was frozen until */
	uint64_t table_steps[4];     /* cover.c */
	uint64_t ran_at;	     /* the guest last ran here; 0: never */
	int memory[8];		     /* real descriptors, closed at its end */
	unsigned nmemory;
	unsigned terms; /* signals that wait */
	struct claims claims;
	struct proc *older; /* of all that ever were */
	bool as_primary;    /* was started so */
};

extern struct host hosts[HOSTS];
extern struct proc *proc_youngest;
struct proc *proc_now(void);
bool proc_stands(const struct proc *p);

/* Start `ftvmm run` with these arguments, NULL at the end. */
struct proc *proc_start(struct host *h, const char *const *args);
void proc_kill(struct proc *p);
void proc_freeze(struct proc *p, bool on);
/* A request to its control socket, as JSON. */
void proc_command(struct proc *p, const char *json);
/* The process's own clock, and when the world has that. */
uint64_t proc_clock(const struct proc *p);
uint64_t proc_world_time(const struct proc *p, uint64_t clock_ns);
/* Its ft_word(), or "-". */
const char *proc_word(const struct proc *p);
const char *proc_note(const struct proc *p);

#endif
