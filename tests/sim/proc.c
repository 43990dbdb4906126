/* Processes, and what the program has of its host besides the kernel: log, control socket. */
#define _GNU_SOURCE
#include "tests/sim/proc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "ft/common/steps.h"
#include "tests/sim/claims.h"
#include "tests/sim/cover.h"
#include "tests/sim/fd.h"
#include "tests/sim/mover.h"
#include "tests/sim/net.h"
#include "tests/sim/operator.h"
#include "tests/sim/real.h"
#include "tests/sim/truth.h"
#include "tests/sim/world.h"
#include "vmm/base/log.h"
#include "vmm/cli/cmd_run.h"

struct host hosts[HOSTS];
static unsigned ids = 100;
struct proc *proc_youngest;

struct proc *proc_now(void)
{
	return fiber_now ? fiber_now->proc : NULL;
}

bool proc_stands(const struct proc *p)
{
	return p->frozen;
}

uint64_t proc_clock(const struct proc *p)
{
	int64_t t = (int64_t)world_now();

	/* Some hours at some hundred ppm: far from 64 bits. */
	return (uint64_t)(t + p->host->clock_ahead + t * p->host->ppm / 1000000);
}

/* By steps of a millisecond or so: who waits looks again. */
uint64_t proc_world_time(const struct proc *p, uint64_t clock_ns)
{
	uint64_t now = proc_clock(p);

	return clock_ns > now ? world_now() + (clock_ns - now) + 1 : world_now();
}

static void *main_of(void *arg)
{
	struct proc *p = arg;

	p->code = cmd_run(p->argc, p->argv);
	trace("%c: process %u ends with %d", p->host->name, p->id, p->code);
	p->ended = true;
	proc_kill(p);
	return NULL;
}

struct proc *proc_start(struct host *h, const char *const *args)
{
	struct proc *p = calloc(1, sizeof(*p));

	*p = (struct proc){.host = h, .id = ids++, .alive = true, .command_fd = -1};
	/* The world is a process like any other to the kernel. */
	p->argv[p->argc++] = strdup("run");
	p->argv[p->argc++] = strdup("--insecure");
	p->argv[p->argc++] = strdup("--sandbox");
	for (p->argv[p->argc++] = strdup("off"); *args && p->argc < ARGS_MAX - 1; args++) {
		p->as_primary |= !strcmp(*args, "--primary");
		p->argv[p->argc++] = strdup(*args);
	}
	h->proc = p;
	p->older = proc_youngest;
	proc_youngest = p;
	fiber_start(p, main_of, p);
	return p;
}

void proc_kill(struct proc *p)
{
	if (!p->alive)
		return;
	cover_look(p);
	p->alive = false;
	p->frozen = false;
	fiber_look_again();
	if (p->host->proc == p)
		p->host->proc = NULL;
	operator_hears_end(p);
	mover_hears_end(p);
	if (!p->host->up)
		net_silence(p);
	fd_close_all(p);
	fiber_kill(p);
}

void proc_freeze(struct proc *p, bool on)
{
	p->frozen = on;
	fiber_look_again();
	p->thawed_at = on ? p->thawed_at : world_now();
}

const char *proc_word(const struct proc *p)
{
	return p && p->alive && p->run ? ft_word(&p->run->ft) : "-";
}

const char *proc_note(const struct proc *p)
{
	return p && p->alive && p->run ? p->run->ft.note : "no process";
}

/* --- the control socket ----------------------------------------------------------------------- */

static void take_request(struct loop_op *op, int res)
{
	struct proc *p = op->arg;
	json_t *request = json_loads(p->wanted, 0, NULL), *ok;
	struct err e = {0};
	eventfd_t n;

	eventfd_read(p->command_fd, &n);
	if (!request)
		return;
	ok = p->command(p->run, json_string_value(json_object_get(request, "cmd")), request, &e);
	trace("%c: %s: %s", p->host->name, p->wanted, ok ? "done" : e.msg[0] ? e.msg : "later");
	json_decref(ok);
	json_decref(request);
	p->wanted[0] = 0;
}

int __wrap_ctl_open(struct ctl **ret, struct loop *l, const char *name, ctl_fn *fn, void *arg,
		    struct err *e)
{
	struct proc *p = proc_now();

	*ret = (struct ctl *)p;
	p->run = arg;
	p->command = fn;
	p->command_fd = eventfd(0, 0);
	p->command_op = (struct loop_op){.fn = take_request, .arg = p};
	return loop_poll_add(l, &p->command_op, p->command_fd, POLLIN);
}

void __wrap_ctl_close(struct ctl *c)
{
	struct proc *p = (struct proc *)c;

	if (!p)
		return;
	cover_look(p);
	loop_poll_del(&p->run->loop, &p->command_op);
	p->run = NULL;
}

void proc_command(struct proc *p, const char *json)
{
	snprintf(p->wanted, sizeof(p->wanted), "%s", json);
	eventfd_add(p->command_fd, 1);
}

void __wrap_ctl_event(struct ctl *c, json_t *event)
{
	struct proc *p = (struct proc *)c;
	const char *to = json_string_value(json_object_get(event, "new"));

	if (to)
		claims_look(p, to, json_string_value(json_object_get(event, "note")));
	if (to)
		trace("%c: %s (%s)", p->host->name, to,
		      json_string_value(json_object_get(event, "note")));
	json_decref(event);
}

void __wrap_ctl_follow(struct ctl *c)
{
}

void __wrap_ctl_later(struct ctl *c, struct ctl_later *l)
{
}

void __wrap_ctl_answer(struct ctl_later *l, json_t *ok, const struct err *e)
{
	trace("%c: later answer: %s", proc_now()->host->name, ok ? "done" : e->msg);
	json_decref(ok);
}

int __wrap_console_sock_open(struct console_sock **ret, struct loop *l, const char *name,
			     console_input_fn *input, void *arg, struct err *e)
{
	*ret = NULL;
	return 0;
}

void __wrap_console_sock_close(struct console_sock *s)
{
}

/* What a process gives back the next one asks for: the kernel need not know. */
void __wrap_giveback_start(void)
{
}

/* --- the console ------------------------------------------------------------------------------ */

static void take_line(struct proc *p)
{
	unsigned long long node, boot, clock, sum;

	p->line[p->line_len] = 0;
	p->line_len = 0;
	/* One that lost bytes is as a packet that was lost. */
	if (sscanf(p->line, "=%llx %llx %llx %llx", &node, &boot, &clock, &sum) == 4 &&
	    sum == (node ^ boot ^ clock) % 97)
		truth_said(p, (uint32_t)node, boot, clock);
}

/* What leaves the output buffer is outside: who reads the console, and how late, is his business.
 */
void __wrap_console_sock_put(void *arg, const void *data, uint32_t len)
{
	struct proc *p = proc_now();
	const char *c = data;

	for (size_t i = 0; i < len; i++)
		if (c[i] == '\n')
			take_line(p);
		else if (p->line_len < sizeof(p->line) - 1)
			p->line[p->line_len++] = c[i];
}

/* --- the log ---------------------------------------------------------------------------------- */

void __wrap_log_init(enum log_level level, const char *name)
{
}

int __wrap_log_start(void)
{
	return 0;
}

void __wrap_log_flush(void)
{
}

static void log_line(const char *fmt, va_list ap)
{
	struct proc *p = proc_now();
	char text[600];

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = 0;
	trace("%c: %s", p ? p->host->name : '-', text);
}

void __wrap_log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > LOG_INFO && !world_verbose())
		return;
	va_start(ap, fmt);
	log_line(fmt, ap);
	va_end(ap);
}

void __wrap_log_bug(const char *file, int line, const char *what)
{
	violated("bug in ftvmm at %s:%d: %s", file, line, what);
}

int __wrap_fprintf(FILE *to, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(fmt, ap);
	va_end(ap);
	return 0;
}

int __wrap___fprintf_chk(FILE *to, int flag, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(fmt, ap);
	va_end(ap);
	return 0;
}

/* --- steps ------------------------------------------------------------------------------------ */

void __wrap_step_reached(enum step s)
{
	trace_mix(s);
	world_step(proc_now(), s);
	fiber_maybe(4);
}
