#include "vmm/cli/run_lazy.h"

#include "vmm/base/log.h"
#include "vmm/cli/run.h"

static void whole(void *arg);
static void lost(void *arg);

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		LAZY_##state, LAZY_EV_##event, LAZY_##next, action, does                           \
	}

static const struct fsm_row rows[] = {
	ROW(NONE, BEGUN, FILLING, NULL, ""),
	ROW(FILLING, WHOLE, NONE, whole, "ordinary memory again"),
	ROW(FILLING, LOST, LOST, lost, "INCOMPLETE for good"),
};

#define X(name, what) what,
static const char *const states[] = {RUN_LAZY_STATES(X)};
static const char *const events[] = {RUN_LAZY_EVENTS(X)};
#undef X

static const struct fsm_desc desc = {.name = "lazy restore",
				     .rows = rows,
				     .nrows = sizeof(rows) / sizeof(rows[0]),
				     .nstates = LAZY_STATE_MAX,
				     .nevents = LAZY_EV_MAX,
				     .states = states,
				     .events = events,
				     .first_message = LAZY_EV_MAX,
				     .end = LAZY_STATE_MAX};

static void whole(void *arg)
{
	struct run *r = arg;
	struct lazy_stats s;

	lazy_stats(r->lazy.lazy, &s);
	log_info("lazy restore: all memory is here after %llu ms; %llu faults, p50 %llu us, max "
		 "%llu us",
		 (unsigned long long)((loop_now_ns() - r->lazy.begun_ns) / 1000000),
		 (unsigned long long)s.faults, (unsigned long long)(s.fault_p50_ns / 1000),
		 (unsigned long long)(s.fault_max_ns / 1000));
	lazy_free(r->lazy.lazy);
	r->lazy.lazy = NULL;
	vm_tell_end(&r->vm); /* a reset that waited for this */
}

static void lost(void *arg)
{
	struct run *r = arg;
	char why[sizeof(r->lazy.err.msg) + 80];

	snprintf(why, sizeof(why), "lazy restore: memory is missing, and will not come: %s",
		 r->lazy.err.msg);
	log_error("%s; the VM stands, stop it and restore again", why);
	/* One that waits for what is missing may not come out; the others are not to go on. */
	if (ft_stand(&r->ft, &r->vm, FT_STAND_LOST, why, NULL))
		vm_halt(&r->vm);
}

static void told(void *arg, const struct err *e)
{
	struct run *r = arg;

	if (e)
		r->lazy.err = *e;
	fsm_post(&r->lazy.fsm, e ? LAZY_EV_LOST : LAZY_EV_WHOLE);
}

int run_lazy_restore(struct run *r, const struct backends *b, struct err *e)
{
	struct snapshot_pages pages;
	int code = lazy_new(&r->lazy.lazy, e);

	if (code)
		return err_wrap(e, "--lazy");
	pages = lazy_pages(r->lazy.lazy);
	fsm_init(&r->lazy.fsm, &desc, r, LAZY_NONE);
	r->lazy.begun_ns = loop_now_ns();
	code = snapshot_restore(&r->vm, &r->loop, b, r->cfg.restore, &pages, e);
	if (!code) {
		fsm_post(&r->lazy.fsm, LAZY_EV_BEGUN);
		code = lazy_watch(r->lazy.lazy, told, r, e);
		if (!code)
			return 0;
		run_lazy_stop(r);
		vm_destroy(&r->vm);
		return code;
	}
	lazy_free(r->lazy.lazy);
	r->lazy.lazy = NULL;
	return code;
}

int run_lazy_go(struct run *r, struct err *e)
{
	int code = r->lazy.lazy ? lazy_go(r->lazy.lazy, e) : 0;

	return code ? err_wrap(e, "snapshot '%.200s'", r->cfg.restore) : 0;
}

bool run_lazy_missing(const struct run *r)
{
	return r->lazy.fsm.state != LAZY_NONE;
}

json_t *run_lazy_status(const struct run *r)
{
	struct lazy_stats s;

	if (!r->lazy.lazy)
		return NULL;
	lazy_stats(r->lazy.lazy, &s);
	return json_pack("{s:s, s:I, s:I, s:{s:I, s:I}}", "state", states[r->lazy.fsm.state],
			 "left_bytes", (json_int_t)(s.left * MEM_PAGE_SIZE), "faults",
			 (json_int_t)s.faults, "fault_us", "p50",
			 (json_int_t)(s.fault_p50_ns / 1000), "max",
			 (json_int_t)(s.fault_max_ns / 1000));
}

void run_lazy_stop(struct run *r)
{
	if (!r->lazy.lazy)
		return;
	vm_halt(&r->vm);
	lazy_free(r->lazy.lazy);
	r->lazy.lazy = NULL;
}
