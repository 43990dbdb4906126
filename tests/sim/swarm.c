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

#define BIT(f) (1ull << SWARM_##f)
#define AT(s)  (1ull << STEP_##s)

/* Chances of their own, which those in `seeds` do not draw. */
#define SHARED_KEY 100
#define COLO_KEY   101
#define TWIN_KEY   102
#define OFF_KEY	   103

struct swarm swarm;

/* Some histories have nearly all of it, most a few. */
static uint64_t draw_faults(void)
{
	uint64_t one_in = rnd_in(2, 6);
	uint64_t on = 0;

	for (unsigned f = 0; f < SWARM_SHARED; f++)
		on |= (uint64_t)rnd_one_in(one_in) << f;
	/* What it finds is looked for anyway, and it takes half of the time. */
	return rnd_one_in(8) ? on : on & ~(1ull << SWARM_VERIFY);
}

/*
 * What goes wrong in one matter, and where. Else each of these would have to be drawn by itself,
 * and that they meet is rare.
 */
static const struct {
	const char *name;
	uint64_t on, steps;
} themes[] = {
	{"stop", BIT(STOP) | BIT(TERM) | BIT(WRONG_SIDE) | BIT(SLOW_DISK) | BIT(FREEZE_STEP),
	 AT(GOODBYE) | AT(BYE_SAID) | AT(DONE_HEARD) | AT(DRAINED) | AT(DONE_SAID)},
	{"stop-death", BIT(STOP) | BIT(WRONG_SIDE) | BIT(SLOW_DISK) | BIT(STEP),
	 AT(GOODBYE) | AT(BYE_SAID)},
	{"stop-claim", BIT(STOP) | BIT(TERM) | BIT(BREAK) | BIT(SLOW_ARBITER) | BIT(FREEZE_STEP),
	 AT(GOODBYE) | AT(BYE_SAID)},
	{"late-images", BIT(STOP) | BIT(WRONG_SIDE) | BIT(SLOW_DISK) | BIT(KILL), AT(TAKEOVER_RUN)},
	{"late-disks", BIT(SLOW_DISK) | BIT(KILL) | BIT(STEP) | BIT(BREAK),
	 AT(ACK_SENT) | AT(COMMIT_END) | AT(TAKEOVER_LOAD)},
	{"hand-over", BIT(FAILOVER) | BIT(STEP) | BIT(CUT) | BIT(FREEZE_STEP),
	 AT(HANDED) | AT(RUNS_HEARD) | AT(GONE_SAID) | AT(TAKEOVER_CLAIM) | AT(TAKEOVER_LOAD) |
		 AT(TAKEOVER_RUN) | AT(RUNS_SAID) | AT(GONE_HEARD)},
	{"claim", BIT(BREAK) | BIT(LOST_ARBITER) | BIT(SLOW_ARBITER) | BIT(STEP),
	 AT(PEER_LOST) | AT(TAKEOVER_CLAIM) | AT(TAKEOVER_RUN)},
	{"lease", BIT(HOLE) | BIT(CUT) | BIT(SLOW_NET) | BIT(FREEZE_STEP) | BIT(FREEZE),
	 AT(SEND_END) | AT(ACK_RECEIVED) | AT(ACK_BEFORE) | AT(ACK_SENT)},
	{"sync", BIT(BREAK) | BIT(SLOW_NET) | BIT(SLOW_DISK) | BIT(STEP),
	 AT(SYNC_DISK) | AT(SYNC_RAM) | AT(SYNC_END) | AT(STAGE_STATE) | AT(ACK_SENT)},
};

#define THEMES (sizeof(themes) / sizeof(themes[0]))

static void draw_theme(struct swarm *s, unsigned at)
{
	uint64_t left = themes[at].steps, on = themes[at].on;
	uint64_t n = rnd_below((uint64_t)__builtin_popcountll(left));
	bool others = rnd_one_in(2);

	s->moves = false;
	s->on = (others ? s->on : 0) | (on & (rnd() | rnd() | rnd()));
	while (n--)
		left &= left - 1;
	s->hot_step = (unsigned)__builtin_ctzll(left);
	s->hot_in = s->hot_in > 5 ? 5 : s->hot_in;
	s->mean_ns = rnd_in(100 * MS, 800 * MS);
}

unsigned swarm_theme(const char *name)
{
	unsigned i = 0;

	while (i < THEMES && strcmp(themes[i].name, name))
		i++;
	return i < THEMES ? i + 1 : 0;
}

const char *swarm_theme_name(unsigned theme)
{
	return theme ? themes[theme - 1].name : "none";
}

/*
 * How fast it all goes. What comes out is when faults meet steps of the protocol, so most guests do
 * a few things an epoch, and those that do little live longer.
 */
static const struct {
	const char *epoch;
	unsigned pace_us, timeout_ms, lasts_s;
} tempos[] = {
	{"2ms", 1000, 100, 1},	   {"10ms", 2500, 100, 3},    {"25ms", 2500, 100, 4},
	{"25ms", 8000, 100, 8},	   {"25ms", 8000, 300, 8},    {"100ms", 8000, 200, 8},
	{"100ms", 30000, 100, 30}, {"100ms", 30000, 500, 30},
};

static void draw_tempo(struct swarm *s)
{
	unsigned t = (unsigned)rnd_below(sizeof(tempos) / sizeof(tempos[0]));

	strcpy(s->epoch, tempos[t].epoch);
	s->pace_ns = tempos[t].pace_us * US;
	s->timeout_ns = tempos[t].timeout_ms * MS;
	s->lasts_ns = rnd_in(SEC, tempos[t].lasts_s * SEC);
}

/* Where a twin comes, goes or is taken over is of more interest then than what the theme says. */
static void draw_twins(struct swarm *s)
{
	static const uint8_t steps[] = {
		STEP_TWIN_DIFFERS,  STEP_TWIN_LET,	   STEP_TWIN_SUSPENDED, STEP_TWIN_LOADED,
		STEP_TWIN_RUNS,	    STEP_TWIN_ROLLED_BACK, STEP_PEER_LOST,	STEP_TAKEOVER_CLAIM,
		STEP_TAKEOVER_LOAD, STEP_TAKEOVER_LINK};
	uint64_t own = rnd_at(TWIN_KEY);

	s->on = (s->on & ~BIT(SHARED)) | BIT(COLO);
	if (own & 1)
		return;
	s->hot_step = steps[(own >> 8) % sizeof(steps)];
	s->on |= own & 2 ? BIT(STEP) : BIT(FREEZE_STEP);
}

void swarm_draw(unsigned theme, char kind)
{
	struct swarm s = {.on = draw_faults()};
	bool any = !kind || kind == 'o';

	/* One after the other: a compiler may evaluate initializers in any order. */
	s.moves = rnd_one_in(4);
	draw_tempo(&s);
	s.mean_ns = rnd_in(300 * MS, 2 * SEC);
	/* Steps of a migration are far rarer than those of epochs: they have their own draw. */
	s.hot_step = (unsigned)(s.moves ? rnd_in(STEP_MIG_OFFERED, STEP_MAX - 1)
					: rnd_below(STEP_MIG_OFFERED));
	s.hot_in = (unsigned[]){1, 2, 5, 40}[rnd_below(4)];
	s.theme = (unsigned)rnd_below(THEMES * 3 / 2) + 1; /* two of three pairs have one */
	s.theme = s.moves || s.theme > THEMES ? 0 : s.theme;
	if (theme)
		s.theme = theme;
	if (s.theme)
		draw_theme(&s, s.theme - 1);
	if (!s.moves && rnd_at(SHARED_KEY) % 4 == 0)
		s.on |= BIT(SHARED);
	if (kind)
		s.moves = kind == 'm';
	if (any ? !s.moves && !(s.on & BIT(SHARED)) && rnd_at(COLO_KEY) % 4 == 0 : kind == 'c')
		draw_twins(&s);
	if (any && !s.moves && (kind || rnd_at(OFF_KEY) % 4 == 0))
		s.on |= BIT(OFF);
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
