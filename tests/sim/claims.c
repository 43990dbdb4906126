#include "tests/sim/claims.h"

#include <string.h>

#include "tests/sim/proc.h"
#include "tests/sim/real.h"
#include "tests/sim/truth.h"

#define GENERATIONS 4096

int __real_arbiter_ask_claim(struct arbiter *a, uint64_t from, enum arbiter_why why,
			     arbiter_done *fn, void *arg);
int __real_arbiter_ask_end(struct arbiter *a, uint64_t generation, enum arbiter_end end,
			   arbiter_done *fn, void *arg);
int __real_arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret,
			 struct err *e);
void __real_arbiter_set_token(struct arbiter *a, uint64_t token);

static struct {
	const struct proc *won, *ended; /* what follows it, by going on or not; itself */
	bool goes_on;
} answers[GENERATIONS];

/* --- losses ----------------------------------------------------------------------------------- */

bool claims_is_rivalled(const struct proc *p)
{
	uint64_t from = p->run->ft.generation;
	bool handed = p->claims.handed_from >= from;

	for (const struct proc *q = proc_youngest; q; q = q->older)
		if (q != p && (handed ? q->claims.asked_good : q->claims.asked) >= from)
			return true;
	return false;
}

static bool is_succeeded(const struct proc *p)
{
	for (const struct proc *q = proc_youngest; q; q = q->older)
		if (q != p && q->claims.ran_at >= p->claims.left_at)
			return true;
	return false;
}

void claims_look(const struct proc *p, const char *word, const char *note)
{
	const struct fsm *f = &p->run->primary.fsm;
	bool over = !strcmp(word, "FENCED") || !strcmp(word, "STOPPED");
	unsigned last = f->steps ? f->trace[(f->steps - 1) % FSM_TRACE].event : PRI_EV_MAX;
	bool lost =
		over && /* and not stopped before there was an answer */
		(last == PRI_EV_CLAIM_LOST || (last == PRI_EV_RECORDED && !strcmp(word, "FENCED")));

	if ((lost || !strcmp(note, "the other side goes on")) && !claims_is_rivalled(p))
		violated("%c lost the VM after generation %llu, and nobody else asked for it",
			 p->host->name, (unsigned long long)p->run->ft.generation);
}

void claims_step(struct proc *p, enum step s)
{
	struct claims *c = &p->claims;

	if (s == STEP_GOODBYE)
		c->left_at = world_now();
	else if (s == STEP_HANDED)
		c->handed_from = p->run->ft.generation;
	else if (s == STEP_TAKEOVER_RUN)
		c->ran_at = world_now();
	else if (s == STEP_RUNS_HEARD && !is_succeeded(p))
		violated("%c leaves, and nobody ran what it handed over", p->host->name);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void note_won(const struct proc *p, uint64_t from, bool goes_on)
{
	if (from >= GENERATIONS)
		return;
	if (answers[from].won && answers[from].won != p)
		violated("%c won what follows generation %llu, as %c did", p->host->name,
			 (unsigned long long)from, answers[from].won->host->name);
	if (goes_on && answers[from].ended)
		violated("%c goes on after generation %llu, which %c has ended", p->host->name,
			 (unsigned long long)from, answers[from].ended->host->name);
	answers[from].won = p;
	answers[from].goes_on = goes_on;
}

static void note_ended(const struct proc *p, uint64_t generation)
{
	if (generation >= GENERATIONS)
		return;
	if (answers[generation].won && answers[generation].goes_on)
		violated("%c has ended generation %llu, after which %c goes on", p->host->name,
			 (unsigned long long)generation, answers[generation].won->host->name);
	answers[generation].ended = p;
}

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct proc *p = arg;
	const struct claims c = p->claims;

	if (!a->code && c.ends)
		note_ended(p, c.generation);
	else if (!a->code)
		note_won(p, c.generation, c.goes_on);
	c.done(c.arg, a);
}

static void note_asked(uint64_t from)
{
	struct claims *c = &proc_now()->claims;

	c->asked = from > c->asked ? from : c->asked;
	if (!c->token && from > c->asked_good)
		c->asked_good = from;
}

/* --- the program's calls ---------------------------------------------------------------------- */

void __wrap_arbiter_set_token(struct arbiter *a, uint64_t token)
{
	proc_now()->claims.token = token;
	REAL(arbiter_set_token)(a, token);
}

int __wrap_arbiter_ask_claim(struct arbiter *a, uint64_t from, enum arbiter_why why,
			     arbiter_done *fn, void *arg)
{
	struct claims *c = &proc_now()->claims;
	int r;

	note_asked(from);
	r = REAL(arbiter_ask_claim)(a, from, why, answered, proc_now());
	if (r)
		return r;
	c->done = fn;
	c->arg = arg;
	c->generation = from;
	c->ends = false;
	c->goes_on = why == ARBITER_GO_ON;
	return 0;
}

int __wrap_arbiter_ask_end(struct arbiter *a, uint64_t generation, enum arbiter_end end,
			   arbiter_done *fn, void *arg)
{
	struct claims *c = &proc_now()->claims;
	int r = REAL(arbiter_ask_end)(a, generation, end, answered, proc_now());

	if (r)
		return r;
	c->done = fn;
	c->arg = arg;
	c->generation = generation;
	c->ends = true;
	return 0;
}

int __wrap_arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret,
			 struct err *e)
{
	int r;

	note_asked(from);
	r = REAL(arbiter_claim)(a, from, why, ret, e);
	if (!r)
		note_won(proc_now(), from, why == ARBITER_GO_ON);
	return r;
}
