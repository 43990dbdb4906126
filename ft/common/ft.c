#include "ft/common/ft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"

static const char *const state_name[] = {
	[FT_STARTING] = "STARTING",	  [FT_RUNNING] = "RUNNING",
	[FT_UNPROTECTED] = "UNPROTECTED", [FT_SYNCING] = "SYNCING",
	[FT_PROTECTED] = "PROTECTED",	  [FT_DEGRADED] = "DEGRADED",
	[FT_TAKING_OVER] = "TAKING-OVER", [FT_FENCED] = "FENCED",
	[FT_PAUSED] = "PAUSED",		  [FT_STOPPED] = "STOPPED",
};
_Static_assert(sizeof(state_name) / sizeof(state_name[0]) == FT_STATE_MAX,
	       "a name for every state");

const char *ft_state_name(enum ft_state s)
{
	return s < FT_STATE_MAX ? state_name[s] : "?";
}

void ft_set_state(struct ft *ft, enum ft_state s, const char *why)
{
	enum ft_state from = ft->state;

	snprintf(ft->note, sizeof(ft->note), "%s", why ? why : "");
	if (from == s)
		return;
	ft->state = s;
	log_info("%s -> %s%s%s (generation %llu)", ft_state_name(from), ft_state_name(s),
		 why ? ": " : "", why ? why : "", (unsigned long long)ft->generation);
	if (ft->on_state)
		ft->on_state(ft->arg, from, s);
}

void ft_note_epoch(struct ft *ft, uint64_t pause_ns, uint64_t pages)
{
	struct ft_stats *s = &ft->stats;

	s->pause_us[s->nsamples % FT_SAMPLES] = pause_ns / 1000;
	s->npages[s->nsamples % FT_SAMPLES] = pages;
	s->ack_us[s->nsamples % FT_SAMPLES] = 0;
	s->nsamples++;
	s->epochs++;
	s->pages += pages;
	s->last_pages = pages;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

uint32_t ft_percentile(const uint32_t *samples, uint64_t n, unsigned pct)
{
	uint32_t *sorted, result;
	uint64_t have = n < FT_SAMPLES ? n : FT_SAMPLES;

	if (!have)
		return 0;
	sorted = malloc(have * sizeof(*sorted));
	if (!sorted)
		return 0;
	memcpy(sorted, samples, have * sizeof(*sorted));
	qsort(sorted, have, sizeof(*sorted), compare);
	result = sorted[(have - 1) * pct / 100];
	free(sorted);
	return result;
}
