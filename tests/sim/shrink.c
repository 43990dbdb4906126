/*
 * A smaller history that fails in the same way. Each change is tried and kept if the failure stays:
 * greedy, and without chance of its own, so that the result is always the same.
 */
#include <ctype.h>
#include <string.h>

#include "tests/sim/fiber.h"
#include "tests/sim/history.h"
#include "tests/sim/outcome.h"

#define TRIES_MAX 400

struct shrinking {
	struct plan *best;
	struct outcome is; /* of the best */
	unsigned tries;
};

/* Hosts and numbers may differ. */
static bool is_same_failure(const char *a, const char *b)
{
	for (;; a++, b++) {
		while (isdigit(*a))
			a++;
		while (isdigit(*b))
			b++;
		if (*a != *b && !((*a == 'A' || *a == 'B') && (*b == 'A' || *b == 'B')))
			return false;
		if (!*a)
			return true;
	}
}

static bool keeps(struct shrinking *s, const struct plan *p)
{
	if (s->tries++ >= TRIES_MAX || history_try(p) ||
	    !is_same_failure(outcome->violated, s->is.violated))
		return false;
	*s->best = *p;
	s->is = *outcome;
	return true;
}

/* What comes after the failure does not matter; before it less may do. */
static bool end_earlier(struct shrinking *s)
{
	struct plan p = *s->best;
	uint64_t ms = s->is.lasted_ns / MS + 1;

	if (s->is.healed)
		ms = p.lasts_ms / 2;
	if (!ms || (p.lasts_ms && ms >= p.lasts_ms))
		return false;
	p.lasts_ms = ms;
	return keeps(s, &p);
}

static bool drop_kinds(struct shrinking *s)
{
	bool less = false;

	for (unsigned f = 0; f < SWARM_MAX; f++) {
		struct plan p = *s->best;

		p.faults &= ~(1ull << f);
		less |= p.faults != s->best->faults && keeps(s, &p);
	}
	return less;
}

/* Halves of them, quarters, and so on, from the last ones on. */
static bool drop_events(struct shrinking *s, enum swarm_fault f)
{
	bool less = false;

	for (unsigned n = PLAN_EVENTS; n; n /= 2)
		for (unsigned at = PLAN_EVENTS; at >= n; at -= n) {
			struct plan p = *s->best;

			if (at - n >= s->is.events[f])
				continue;
			plan_leave_out(&p, f, at - n, n, true);
			less |= memcmp(p.without[f], s->best->without[f], sizeof(p.without[f])) &&
				keeps(s, &p);
		}
	return less;
}

/* Those that do not come up any more. */
static void tidy(struct shrinking *s)
{
	for (unsigned f = 0; f < SWARM_MAX; f++)
		if (s->is.events[f] < PLAN_EVENTS)
			plan_leave_out(s->best, f, s->is.events[f], PLAN_EVENTS - s->is.events[f],
				       false);
}

void shrink(struct plan *best)
{
	struct shrinking s = {.best = best};
	bool less = true;

	if (history_try(best))
		return;
	s.is = *outcome;
	best->chosen = true;
	best->faults = s.is.faults;
	best->lasts_ms = s.is.lasted_ns / MS + 1;
	while (less && s.tries < TRIES_MAX) {
		less = drop_kinds(&s);
		for (unsigned f = 0; f < SWARM_MAX; f++)
			less |= drop_events(&s, f);
		while (end_earlier(&s))
			less = true;
	}
	tidy(&s);
}
