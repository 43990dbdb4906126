#include "ft/common/ft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"

static const char *const cover_word[] = {
	[FT_NONE] = "RUNNING",	    [FT_UNPROTECTED] = "UNPROTECTED",
	[FT_SYNCING] = "SYNCING",   [FT_PROTECTED] = "PROTECTED",
	[FT_DEGRADED] = "DEGRADED", [FT_TAKING_OVER] = "TAKING-OVER",
	[FT_FENCED] = "FENCED",	    [FT_MIGRATING] = "MIGRATING",
	[FT_MIGRATED] = "MIGRATED",
};

const char *ft_cover_name(enum ft_cover c)
{
	return c == FT_NONE ? "NONE" : cover_word[c];
}

const char *ft_word(const struct ft *ft)
{
	if (ft->life == FT_ELSEWHERE && ft->cover == FT_NONE)
		return "STARTING";
	if (ft->cover == FT_MIGRATING)
		return cover_word[ft->cover];
	if (ft->life == FT_OVER && ft->cover != FT_FENCED && ft->cover != FT_MIGRATED)
		return "STOPPED";
	if (ft->life == FT_HERE && ft->stands & FT_STAND_LOST)
		return "INCOMPLETE";
	if (ft->life == FT_HERE &&
	    (ft->stands & (FT_STAND_USER | FT_STAND_SILENT | FT_STAND_SWITCH)))
		return "PAUSED";
	return cover_word[ft->cover];
}

const char *ft_word_at(unsigned i)
{
	static const char *const all[] = {
		"STARTING", "RUNNING",	"UNPROTECTED", "SYNCING",     "PROTECTED",
		"DEGRADED", "PAUSED",	"INCOMPLETE",  "TAKING-OVER", "MIGRATING",
		"FENCED",   "MIGRATED", "STOPPED",
	};

	return i < sizeof(all) / sizeof(all[0]) ? all[i] : NULL;
}

static void trace_word(struct ft *ft, const char *to)
{
	uint64_t now = loop_now_ns();
	struct trace_span s = {now, now, .what = TRACE_WORD};

	while (ft_word_at((unsigned)s.n) && strcmp(ft_word_at((unsigned)s.n), to) != 0)
		s.n++;
	trace_span(&ft->trace, &s);
}

static void changed(struct ft *ft, const char *from, const char *why)
{
	const char *to = ft_word(ft);

	if (from == to)
		return;
	log_info("%s -> %s%s%s (generation %llu)", from, to, why ? ": " : "", why ? why : "",
		 (unsigned long long)ft->generation);
	trace_word(ft, to);
	if (ft->on_state)
		ft->on_state(ft->arg, from, to);
}

void ft_set(struct ft *ft, enum ft_life life, enum ft_cover cover, const char *why)
{
	const char *from = ft_word(ft);

	snprintf(ft->note, sizeof(ft->note), "%s", why ? why : "");
	ft->life = life;
	ft->cover = cover;
	changed(ft, from, why);
}

int ft_stand(struct ft *ft, struct vm *vm, enum ft_stand reason, const char *why, struct err *e)
{
	const char *from = ft_word(ft);
	int r = vm_pause(vm, e);

	/*
	 * vCPUs that do not all come out are let go again: it runs, and that is what is shown. But
	 * what waits for memory that will not come never runs again, and a VM that is to end does
	 * not go on once the seal of its last epoch has stopped it.
	 */
	if (!vm->running || reason == FT_STAND_LOST || reason == FT_STAND_END)
		ft->stands |= reason;
	if (why && !(r && reason == FT_STAND_USER))
		snprintf(ft->note, sizeof(ft->note), "%s", why);
	changed(ft, from, why);
	return r;
}

void ft_lack(struct ft *ft, struct vm *vm, uint32_t waiting, const char *why)
{
	const char *from = ft_word(ft);

	vm_rest(vm, waiting);
	ft->stands |= FT_STAND_LOST;
	snprintf(ft->note, sizeof(ft->note), "%s", why);
	changed(ft, from, why);
}

void ft_go(struct ft *ft, struct vm *vm, enum ft_stand reason)
{
	const char *from = ft_word(ft);

	ft->stands &= ~(unsigned)reason;
	if (!ft->stands && vm->running)
		vm_go_on(vm);
	else if (!ft->stands)
		vm_resume(vm);
	changed(ft, from, NULL);
}

uint32_t ft_pause_class_us(unsigned i)
{
	static const uint32_t us[FT_PAUSES - 1] = {100,	   250,	   500,	   1000,  2500,
						   5000,   10000,  25000,  50000, 100000,
						   250000, 500000, 1000000};

	return us[i];
}

static unsigned pause_class(uint64_t us)
{
	unsigned i = 0;

	while (i < FT_PAUSES - 1 && us > ft_pause_class_us(i))
		i++;
	return i;
}

const char *ft_seal_name(enum ft_seal why)
{
	static const char *const names[FT_SEALS] = {
		[FT_SEAL_INTERVAL] = "interval", [FT_SEAL_NET] = "net",
		[FT_SEAL_DISK] = "disk",	 [FT_SEAL_CONSOLE] = "console",
		[FT_SEAL_VSOCK] = "vsock",	 [FT_SEAL_EVENT] = "event",
		[FT_SEAL_DIFFER] = "differ",	 [FT_SEAL_OVERDUE] = "overdue",
		[FT_SEAL_LOG] = "log",		 [FT_SEAL_TWIN] = "twin",
		[FT_SEAL_FIRST] = "first",	 [FT_SEAL_USER] = "user",
		[FT_SEAL_MOVE] = "move",	 [FT_SEAL_LAST] = "last",
	};

	return names[why];
}

void ft_note_epoch(struct ft *ft, enum ft_seal why, uint64_t pause_ns, uint64_t pages)
{
	struct ft_stats *s = &ft->stats;

	s->pause_us[s->nsamples % FT_SAMPLES] = pause_ns / 1000;
	s->pauses[pause_class(pause_ns / 1000)]++;
	s->npages[s->nsamples % FT_SAMPLES] = pages;
	s->ack_us[s->nsamples % FT_SAMPLES] = 0;
	s->nsamples++;
	s->epochs++;
	s->seals[why]++;
	s->pages += pages;
	s->last_pages = pages;
}

uint64_t ft_last_pause_ns(const struct ft *ft)
{
	const struct ft_stats *s = &ft->stats;

	return s->nsamples ? s->pause_us[(s->nsamples - 1) % FT_SAMPLES] * 1000ull : 0;
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
