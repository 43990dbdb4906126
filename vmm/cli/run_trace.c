#include "vmm/cli/run_trace.h"

#include <errno.h>

#include "vmm/cli/run.h"

#define EMPTY_NS  50000000ull	/* until an answer that says nothing */
#define GATHER_NS 10000000ull	/* for one that says something: spans come many at a time */
#define AWAY_NS	  5000000000ull /* nobody asks any more */

static void off(struct run *r)
{
	loop_timer_del(&r->loop, &r->trace.timer);
	trace_stop(&r->ft.trace);
	r->trace.state = RUN_TRACE_OFF;
}

/* [name, begin, end, epoch, n, why]; a state changed: [name, begin, end, epoch, word]. */
static json_t *one_span(const struct trace_span *s)
{
	const char *name = trace_row_at(s->what)->name;

	if (s->what == TRACE_WORD)
		return json_pack("[s, I, I, I, s]", name, (json_int_t)s->begin_ns,
				 (json_int_t)s->end_ns, (json_int_t)s->epoch,
				 ft_word_at((unsigned)s->n));
	return json_pack("[s, I, I, I, I, s*]", name, (json_int_t)s->begin_ns,
			 (json_int_t)s->end_ns, (json_int_t)s->epoch, (json_int_t)s->n,
			 s->why ? ft_seal_name(s->why) : NULL);
}

static json_t *take(struct run *r)
{
	struct trace *t = &r->ft.trace;
	json_t *spans = json_array();
	struct trace_span s;
	uint64_t lost = t->lost;

	for (unsigned i = 0; i < RUN_TRACE_SPANS && trace_take(t, &s); i++)
		json_array_append_new(spans, one_span(&s));
	t->lost = 0;
	return json_pack("{s:o, s:b, s:I, s:I, s:I}", "spans", spans, "more", t->len != 0, "lost",
			 (json_int_t)lost, "epochs_begun", (json_int_t)r->trace.begun_epochs,
			 "epochs_total", (json_int_t)r->ft.stats.epochs);
}

static uint64_t answer_in(const struct trace *t)
{
	if (t->len >= TRACE_RING / 4)
		return 0;
	return t->len ? GATHER_NS : EMPTY_NS;
}

static void answered(struct run *r)
{
	r->trace.state = RUN_TRACE_ANSWERED;
	loop_timer_set(&r->loop, &r->trace.timer, AWAY_NS);
}

static void timed_out(struct loop_op *op, int res)
{
	struct run *r = op->arg;

	if (r->trace.state != RUN_TRACE_ASKED) {
		off(r);
		return;
	}
	answered(r);
	ctl_answer(&r->trace.later, take(r), NULL);
}

static void left(void *arg)
{
	off(arg);
}

static int begin(struct run *r, uint64_t session, struct err *e)
{
	struct run_trace *t = &r->trace;
	int code = trace_start(&r->ft.trace, e);

	if (code)
		return code;
	*t = (struct run_trace){.session = session, .begun_epochs = r->ft.stats.epochs};
	t->timer = (struct loop_op){.fn = timed_out, .arg = r};
	t->later = (struct ctl_later){.left = left, .arg = r};
	return 0;
}

json_t *serve_trace(struct run *r, json_t *request, struct err *e)
{
	json_t *session = json_object_get(request, "session");
	struct run_trace *t = &r->trace;
	json_t *last;

	if (!json_is_integer(session)) {
		err_set(e, -EINVAL, "trace: 'session' must be a whole number of the client's");
		return NULL;
	}
	if (t->state == RUN_TRACE_ASKED || (t->state == RUN_TRACE_ANSWERED &&
					    t->session != (uint64_t)json_integer_value(session))) {
		err_set(e, -EBUSY, "trace: another one is under way; again when it has ended");
		return NULL;
	}
	if (t->state == RUN_TRACE_OFF && begin(r, (uint64_t)json_integer_value(session), e))
		return NULL;
	if (json_is_true(json_object_get(request, "end"))) {
		last = take(r);
		if (!r->ft.trace.len)
			off(r);
		else
			answered(r);
		return last;
	}
	t->state = RUN_TRACE_ASKED;
	loop_timer_set(&r->loop, &t->timer, answer_in(&r->ft.trace));
	ctl_later(r->ctl, &t->later);
	return NULL;
}

void run_trace_stop(struct run *r)
{
	if (r->trace.state == RUN_TRACE_ASKED)
		ctl_answer(&r->trace.later, take(r), NULL);
	if (r->trace.state != RUN_TRACE_OFF)
		off(r);
}
