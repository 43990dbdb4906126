/* The control commands: see README.md. */
#include "tests/wire/proxy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND_WORDS 6

struct command {
	struct proxy *p;
	char *word[COMMAND_WORDS];
	unsigned n;
	const char *rest; /* of the line, from the fourth word on */
};

static bool command_number(const struct command *c, unsigned i, double max, double *out)
{
	char *end;

	if (i >= c->n)
		return false;
	*out = strtod(c->word[i], &end);
	return end != c->word[i] && !*end && *out >= 0 && *out <= max;
}

/* Word i, or a2b if there is none. */
static bool command_dir(const struct command *c, unsigned i, enum proxy_side *dir)
{
	*dir = PROXY_A;
	if (i >= c->n || strcmp(c->word[i], "a2b") == 0)
		return true;
	*dir = PROXY_B;
	return strcmp(c->word[i], "b2a") == 0;
}

static bool command_delay(struct command *c)
{
	double ms, jitter = 0;

	if (!command_number(c, 1, 1e6, &ms))
		return false;
	if (c->n > 2 && (strcmp(c->word[2], "jitter") != 0 || !command_number(c, 3, 1e6, &jitter)))
		return false;
	c->p->delay = (uint64_t)(ms * 1e6);
	c->p->jitter = (uint64_t)(jitter * 1e6);
	return true;
}

static bool command_rate(struct command *c)
{
	double rate;

	if (!command_number(c, 1, 1e12, &rate))
		return false;
	c->p->rate = (uint64_t)rate;
	c->p->dir[PROXY_A].free_at = 0;
	c->p->dir[PROXY_B].free_at = 0;
	return true;
}

static bool command_blackhole(struct command *c)
{
	enum proxy_side dir;

	if (c->n == 1 || strcmp(c->word[1], "both") == 0) {
		c->p->dir[PROXY_A].hole = true;
		c->p->dir[PROXY_B].hole = true;
		return true;
	}
	if (!command_dir(c, 1, &dir))
		return false;
	c->p->dir[dir].hole = true;
	return true;
}

static bool command_heal(struct command *c)
{
	c->p->dir[PROXY_A].hole = false;
	c->p->dir[PROXY_B].hole = false;
	return true;
}

static bool command_cut(struct command *c)
{
	proxy_reset_all(c->p);
	return true;
}

static bool command_refuse(struct command *c)
{
	c->p->refuse = true;
	return true;
}

static bool command_accept(struct command *c)
{
	c->p->refuse = false;
	return true;
}

static bool command_flip(struct command *c)
{
	enum proxy_side dir;
	double n;

	if (!command_number(c, 1, 1e12, &n) || n < 1 || !command_dir(c, 2, &dir))
		return false;
	c->p->dir[dir].flip_at =
		c->p->dir[dir].read + ((uint64_t)n - 1) * 1024 + proxy_random(c->p, 1024);
	return true;
}

static bool command_truncate(struct command *c)
{
	enum proxy_side dir;

	if (!command_dir(c, 1, &dir))
		return false;
	c->p->dir[dir].truncate = true;
	return true;
}

/* after BYTES DIR COMMAND...: when so many more bytes have gone out, and not one more. */
static bool command_after(struct command *c)
{
	enum proxy_side dir;
	double n;

	if (!command_number(c, 1, 1e15, &n) || n < 1 || !command_dir(c, 2, &dir) || c->n < 4 ||
	    strcmp(c->word[3], "after") == 0)
		return false;
	for (unsigned i = 0; i < PROXY_AFTER; i++) {
		struct proxy_after *a = &c->p->after[i];

		if (a->used)
			continue;
		*a = (struct proxy_after){.used = true, .dir = dir};
		a->at = c->p->dir[dir].bytes + (uint64_t)n;
		snprintf(a->command, sizeof(a->command), "%s", c->rest);
		return true;
	}
	return false;
}

static void command_stats(const struct proxy *p, char *reply, size_t len)
{
	uint64_t held = 0;

	for (const struct link *l = p->links; l; l = l->next)
		held += l->flow[PROXY_A].queued + l->flow[PROXY_B].queued;
	snprintf(reply, len,
		 "{\"connections\":%u,\"accepted\":%" PRIu64 ",\"refused\":%" PRIu64
		 ",\"a2b_bytes\":%" PRIu64 ",\"b2a_bytes\":%" PRIu64 ",\"held_bytes\":%" PRIu64
		 ",\"resets\":%" PRIu64 ",\"flips\":%" PRIu64 ",\"truncated\":%" PRIu64
		 ",\"blackhole_a2b\":%s,\"blackhole_b2a\":%s,\"refusing\":%s}",
		 p->nlinks, p->accepted, p->refused, p->dir[PROXY_A].bytes, p->dir[PROXY_B].bytes,
		 held, p->resets, p->flips, p->truncated, p->dir[PROXY_A].hole ? "true" : "false",
		 p->dir[PROXY_B].hole ? "true" : "false", p->refuse ? "true" : "false");
}

void proxy_command(struct proxy *p, const char *line, char *reply, size_t len)
{
	static const struct {
		const char *name;
		bool (*run)(struct command *c);
	} table[] = {
		{"delay", command_delay},	{"rate", command_rate},
		{"cut", command_cut},		{"blackhole", command_blackhole},
		{"heal", command_heal},		{"refuse", command_refuse},
		{"accept", command_accept},	{"flip", command_flip},
		{"truncate", command_truncate}, {"after", command_after},
	};
	struct command c = {.p = p};
	char copy[PROXY_CTL_LINE], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *w = strtok_r(copy, " \t\r", &save); w && c.n < COMMAND_WORDS;
	     w = strtok_r(NULL, " \t\r", &save)) {
		if (c.n == 3)
			c.rest = line + (w - copy);
		c.word[c.n++] = w;
	}
	snprintf(reply, len, "error: unknown command");
	if (c.n && strcmp(c.word[0], "stats") == 0)
		command_stats(p, reply, len);
	for (unsigned i = 0; c.n && i < sizeof(table) / sizeof(table[0]); i++)
		if (strcmp(c.word[0], table[i].name) == 0)
			snprintf(reply, len, "%s", table[i].run(&c) ? "ok" : "error: bad argument");
}
