#include "ft/common/fsm.h"

#include <string.h>

#include "vmm/base/log.h"

void fsm_init(struct fsm *f, const struct fsm_desc *desc, void *arg, unsigned state)
{
	*f = (struct fsm){.desc = desc, .arg = arg, .state = state};
}

const struct fsm_row *fsm_find(const struct fsm_desc *desc, unsigned state, unsigned event)
{
	for (unsigned i = 0; i < desc->nrows; i++)
		if (desc->rows[i].state == state && desc->rows[i].event == event)
			return &desc->rows[i];
	return NULL;
}

bool fsm_expects(const struct fsm *f, unsigned event)
{
	return fsm_find(f->desc, f->state, event) != NULL;
}

static void dump(const struct fsm *f, unsigned event)
{
	const struct fsm_desc *d = f->desc;
	uint64_t from = f->steps > FSM_TRACE ? f->steps - FSM_TRACE : 0;

	for (uint64_t i = from; i < f->steps; i++)
		log_error("%s: step %llu: %s, %s", d->name, (unsigned long long)i,
			  d->states[f->trace[i % FSM_TRACE].state],
			  d->events[f->trace[i % FSM_TRACE].event]);
	log_error("%s: in %s came '%s', which has no row", d->name, d->states[f->state],
		  d->events[event]);
}

static void step(struct fsm *f, unsigned event)
{
	const struct fsm_desc *d = f->desc;
	const struct fsm_row *row = fsm_find(d, f->state, event);

	if (f->state == d->end)
		return;
	if (!row && event >= d->first_message) {
		d->stray(f->arg);
		return;
	}
	if (!row)
		dump(f, event);
	VMM_BUG_ON(!row);
	f->trace[f->steps % FSM_TRACE].state = f->state;
	f->trace[f->steps++ % FSM_TRACE].event = event;
	f->state = row->next;
	if (row->action)
		row->action(f->arg);
}

void fsm_post(struct fsm *f, unsigned event)
{
	VMM_BUG_ON(event >= f->desc->nevents || f->nqueued == FSM_QUEUE);
	f->queue[f->nqueued++] = event;
	if (f->depth)
		return;
	f->depth = 1;
	while (f->nqueued) {
		event = f->queue[0];
		memmove(f->queue, f->queue + 1, --f->nqueued);
		step(f, event);
	}
	f->depth = 0;
}

void fsm_forget(struct fsm *f, unsigned first, unsigned last)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < f->nqueued; i++)
		if (f->queue[i] < first || f->queue[i] > last)
			f->queue[kept++] = f->queue[i];
	f->nqueued = kept;
}
