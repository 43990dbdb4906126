#include "ft/common/trace.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "vmm/base/probe.h"

const struct trace_row *trace_row_at(unsigned what)
{
	static const struct trace_row rows[] = {
#define X(id, name, track, n, help) [TRACE_##id] = {name, track, n, help},
		TRACE_SPANS(X)
#undef X
	};

	return what < TRACE_WHATS ? &rows[what] : NULL;
}

int trace_start(struct trace *t, struct err *e)
{
	*t = (struct trace){.ring = malloc(TRACE_RING * sizeof(*t->ring))};
	return t->ring ? 0 : err_set(e, -ENOMEM, "trace: out of memory");
}

void trace_stop(struct trace *t)
{
	free(t->ring);
	t->ring = NULL;
}

/* What is new is lost, not what is old: so what is told has no hole but at its end. */
void trace_span(struct trace *t, const struct trace_span *s)
{
	if (!s->begin_ns || s->end_ns < s->begin_ns || s->what >= TRACE_WHATS)
		return;
	PROBE4(span, trace_row_at(s->what)->name, s->end_ns - s->begin_ns, s->epoch, s->n);
	if (!t->ring)
		return;
	if (t->len == TRACE_RING) {
		t->lost++;
		return;
	}
	t->ring[(t->at + t->len++) % TRACE_RING] = *s;
}

bool trace_take(struct trace *t, struct trace_span *ret)
{
	if (!t->ring || !t->len)
		return false;
	*ret = t->ring[t->at];
	t->at = (t->at + 1) % TRACE_RING;
	t->len--;
	return true;
}
