#include "tests/sim/swarm.h"

#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "tests/sim/fiber.h"

static const char *const names[SWARM_MAX] = {
#define X(name, text) text,
	SWARM_FAULTS(X)
#undef X
};

struct swarm swarm;

/* Some histories have nearly all of it, most a few. */
static uint32_t draw_faults(void)
{
	uint64_t one_in = rnd_in(2, 6);
	uint32_t on = 0;

	for (unsigned f = 0; f < SWARM_MAX; f++)
		on |= (uint32_t)rnd_one_in(one_in) << f;
	return on;
}

void swarm_draw(void)
{
	static const char *const epochs[] = {"2ms", "10ms", "25ms", "25ms", "25ms", "100ms"};
	struct swarm s = {.on = draw_faults(),
			  .moves = rnd_one_in(3),
			  .lasts_ns = rnd_in(SEC, 5 * SEC),
			  .mean_ns = rnd_in(300 * MS, 2 * SEC)};

	strcpy(s.epoch, epochs[rnd_below(sizeof(epochs) / sizeof(epochs[0]))]);
	/* Steps of a migration are far rarer than those of epochs: they have their own draw. */
	s.hot_step = (unsigned)(s.moves ? rnd_in(STEP_MIG_OFFERED, STEP_MAX - 1)
					: rnd_below(STEP_MIG_OFFERED));
	s.hot_in = (unsigned[]){1, 2, 5, 40}[rnd_below(4)];
	swarm = s;
}

bool swarm_has(enum swarm_fault f)
{
	return swarm.on >> f & 1;
}

void swarm_list(char *text, size_t cap)
{
	size_t n = 0;

	text[0] = 0;
	for (unsigned f = 0; f < SWARM_MAX && n < cap; f++)
		if (swarm_has(f))
			n += (size_t)snprintf(text + n, cap - n, "%s%s", n ? "," : "", names[f]);
}

bool swarm_only(const char *list)
{
	uint32_t on = 0;

	while (*list) {
		size_t n = strcspn(list, ",");
		unsigned f = 0;

		while (f < SWARM_MAX && (strlen(names[f]) != n || strncmp(names[f], list, n)))
			f++;
		if (f == SWARM_MAX)
			return false;
		on |= 1u << f;
		list += n + (list[n] == ',');
	}
	swarm.on = on;
	return true;
}
