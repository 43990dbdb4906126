#include "tests/sim/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/fiber.h"
#include "tests/sim/outcome.h"

struct plan plan;

/* --- what is left out ------------------------------------------------------------------------- */

static bool is_out(const struct plan *p, unsigned f, unsigned n)
{
	return n < PLAN_EVENTS && p->without[f][n / 8] >> n % 8 & 1;
}

void plan_leave_out(struct plan *p, enum swarm_fault f, unsigned first, unsigned n, bool out)
{
	for (unsigned i = first; i < first + n && i < PLAN_EVENTS; i++)
		if (out)
			p->without[f][i / 8] |= (uint8_t)(1u << i % 8);
		else
			p->without[f][i / 8] &= (uint8_t) ~(1u << i % 8);
}

/* KIND.NUMBER or KIND.FIRST-LAST, with commas between. */
static bool take_without(struct plan *p, const char *list)
{
	while (*list) {
		char *end;
		const char *dot = strchr(list, '.');
		unsigned f = dot ? swarm_find(list, (size_t)(dot - list)) : SWARM_MAX;
		unsigned long first, last;

		if (f == SWARM_MAX)
			return false;
		first = last = strtoul(dot + 1, &end, 10);
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		if (first > last || last >= PLAN_EVENTS || (*end && *end != ','))
			return false;
		plan_leave_out(p, f, (unsigned)first, (unsigned)(last - first + 1), true);
		list = end + (*end == ',');
	}
	return true;
}

static size_t print_without(const struct plan *p, unsigned f, char *text, size_t cap, bool begun)
{
	size_t n = 0;

	for (unsigned i = 0, end; i < PLAN_EVENTS && n < cap; i = end + 1) {
		for (end = i; is_out(p, f, end); end++)
			;
		if (end == i)
			continue;
		n += (size_t)snprintf(text + n, cap - n, "%s%s.%u", begun ? "," : " --without ",
				      swarm_name(f), i);
		begun = true;
		if (end - i > 1 && n < cap)
			n += (size_t)snprintf(text + n, cap - n, "-%u", end - 1);
	}
	return n;
}

/* --- options ---------------------------------------------------------------------------------- */

bool plan_take(struct plan *p, const char *name, const char *value)
{
	if (!strcmp(name, "--seed"))
		p->seed = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--kind"))
		p->kind = *value;
	else if (!strcmp(name, "--lasts"))
		p->lasts_ms = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--theme"))
		return (p->theme = swarm_theme(value));
	else if (!strcmp(name, "--without"))
		return take_without(p, value);
	else if (!strcmp(name, "--faults"))
		return p->chosen = swarm_parse(value, &p->faults);
	else
		return false;
	return true;
}

void plan_print(const struct plan *p, char *text, size_t cap)
{
	size_t n = (size_t)snprintf(text, cap, "--seed %llu", (unsigned long long)p->seed);
	size_t begin;

	if (p->kind)
		n += (size_t)snprintf(text + n, cap - n, " --kind %s",
				      p->kind == 'm'   ? "move"
				      : p->kind == 'c' ? "colo"
				      : p->kind == 'o' ? "off"
						       : "pair");
	if (p->theme)
		n += (size_t)snprintf(text + n, cap - n, " --theme %s", swarm_theme_name(p->theme));
	if (p->lasts_ms)
		n += (size_t)snprintf(text + n, cap - n, " --lasts %llu",
				      (unsigned long long)p->lasts_ms);
	if (p->chosen) {
		n += (size_t)snprintf(text + n, cap - n, " --faults ");
		begin = n;
		n += swarm_list(p->faults, text + n, cap - n);
		if (n == begin)
			n += (size_t)snprintf(text + n, cap - n, "none");
	}
	begin = n;
	for (unsigned f = 0; f < SWARM_MAX && n < cap; f++)
		n += print_without(p, f, text + n, cap - n, n > begin);
}

/* --- in a history ----------------------------------------------------------------------------- */

void plan_apply(void)
{
	if (plan.chosen)
		swarm.on = plan.faults;
	if (plan.lasts_ms)
		swarm.lasts_ns = plan.lasts_ms * MS;
}

bool event_begins(enum swarm_fault f)
{
	unsigned n = outcome->events[f]++;

	rnd_own((uint64_t)f << 32 | n);
	if (is_out(&plan, f, n))
		return false;
	trace("%s.%u", swarm_name(f), n);
	return true;
}

void event_ends(void)
{
	rnd_common();
}
