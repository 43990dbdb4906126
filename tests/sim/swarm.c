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
static uint64_t draw_faults(void)
{
	uint64_t one_in = rnd_in(2, 6);
	uint64_t on = 0;

	for (unsigned f = 0; f < SWARM_MAX; f++)
		on |= (uint64_t)rnd_one_in(one_in) << f;
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

const char *swarm_name(enum swarm_fault f)
{
	return names[f];
}

enum swarm_fault swarm_find(const char *name, size_t len)
{
	unsigned f = 0;

	while (f < SWARM_MAX && (strlen(names[f]) != len || strncmp(names[f], name, len)))
		f++;
	return f;
}

size_t swarm_list(uint64_t on, char *text, size_t cap)
{
	size_t n = 0;

	text[0] = 0;
	for (unsigned f = 0; f < SWARM_MAX && n < cap; f++)
		if (on >> f & 1)
			n += (size_t)snprintf(text + n, cap - n, "%s%s", n ? "," : "", names[f]);
	return n;
}

bool swarm_parse(const char *list, uint64_t *on)
{
	*on = 0;
	if (!strcmp(list, "none"))
		return true;
	while (*list) {
		size_t n = strcspn(list, ",");
		enum swarm_fault f = swarm_find(list, n);

		if (f == SWARM_MAX)
			return false;
		*on |= 1ull << f;
		list += n + (list[n] == ',');
	}
	return true;
}
