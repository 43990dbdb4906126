#include "vmm/cli/run_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/conf/config.h"

/* --- the table -------------------------------------------------------------------------------- */

static void pass(void *arg);
static void take(void *arg);
static void write_rest(void *arg);
static void done(void *arg);
static void failed(void *arg);
static void late(void *arg);
static void left(void *arg);
static void over(void *arg);

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		SNAP_##state, SNAP_EV_##event, SNAP_##next, action, does                           \
	}

static const struct fsm_row rows[] = {
	ROW(NONE, ASKED, PASSES, pass, "a thread begins"),
	ROW(PASSES, REST, STANDING, take, "the VM stands: copy, and let it go"),
	ROW(STANDING, TAKEN, WRITING, write_rest, "the thread writes the copy"),
	ROW(STANDING, MORE, PASSES, pass, "another pass"),
	ROW(WRITING, WRITTEN, NONE, done, "answer: done"),

	ROW(PASSES, FAILED, NONE, failed, "answer: why"),
	ROW(STANDING, FAILED, WRITING, write_rest, "the thread removes the file"),
	ROW(WRITING, FAILED, NONE, failed, "answer: why"),
	ROW(PASSES, LATE, GIVEN_UP, late, "answer: storage is away"),
	ROW(WRITING, LATE, GIVEN_UP, late, "answer: storage is away"),
	ROW(PASSES, LEFT, GIVEN_UP, left, ""),
	ROW(WRITING, LEFT, GIVEN_UP, left, ""),

	ROW(GIVEN_UP, REST, NONE, over, ""),
	ROW(GIVEN_UP, WRITTEN, NONE, over, ""),
	ROW(GIVEN_UP, FAILED, NONE, over, ""),
	ROW(GIVEN_UP, LATE, GIVEN_UP, NULL, ""),
};

#define X(name, what) what,
static const char *const states[] = {RUN_SNAPSHOT_STATES(X)};
static const char *const events[] = {RUN_SNAPSHOT_EVENTS(X)};
#undef X

static const struct fsm_desc desc = {.name = "snapshot",
				     .rows = rows,
				     .nrows = sizeof(rows) / sizeof(rows[0]),
				     .nstates = SNAP_STATE_MAX,
				     .nevents = SNAP_EV_MAX,
				     .states = states,
				     .events = events,
				     .first_message = SNAP_EV_MAX,
				     .end = SNAP_STATE_MAX};

static void post(struct run *r, enum run_snapshot_event ev)
{
	fsm_post(&r->snapshot.fsm, ev);
}

/* --- actions ---------------------------------------------------------------------------------- */

static void pass(void *arg)
{
	struct run *r = arg;

	if (live_snapshot_pass(r->snapshot.live, &r->snapshot.err))
		post(r, SNAP_EV_FAILED);
}

static void take(void *arg)
{
	struct run *r = arg;
	int code = live_snapshot_take(r->snapshot.live, &r->snapshot.err);

	post(r, code == -EAGAIN ? SNAP_EV_MORE : code ? SNAP_EV_FAILED : SNAP_EV_TAKEN);
}

static void write_rest(void *arg)
{
	struct run *r = arg;

	if (live_snapshot_write(r->snapshot.live, &r->snapshot.err))
		post(r, SNAP_EV_FAILED);
}

static void over(void *arg)
{
	struct run *r = arg;

	live_snapshot_free(r->snapshot.live);
	r->snapshot.live = NULL;
}

static void done(void *arg)
{
	struct run *r = arg;
	struct live_snapshot_stats s;

	live_snapshot_stats(r->snapshot.live, &s);
	log_info(
		"snapshot '%s': %llu bytes, %u passes, then %llu pages while the VM stood: %llu us",
		r->snapshot.path, (unsigned long long)s.written, s.passes,
		(unsigned long long)s.copied, (unsigned long long)(s.pause_ns / 1000));
	over(r);
	ctl_answer(&r->snapshot.client,
		   json_pack("{s:I, s:I, s:i, s:I}", "pause_us", (json_int_t)(s.pause_ns / 1000),
			     "bytes", (json_int_t)s.written, "passes", (int)s.passes,
			     "copied_pages", (json_int_t)s.copied),
		   NULL);
}

static void answer_why(struct run *r)
{
	struct run_snapshot *s = &r->snapshot;

	err_wrap(&s->err, "snapshot '%s'", s->path);
	log_warn("%s", s->err.msg);
	ctl_answer(&s->client, NULL, &s->err);
}

static void failed(void *arg)
{
	over(arg);
	answer_why(arg);
}

static void late(void *arg)
{
	struct run *r = arg;

	live_snapshot_give_up(r->snapshot.live);
	err_set(&r->snapshot.err, -ETIMEDOUT,
		"nothing was written for %llu s: is its storage away? Given up; a file that "
		"was complete but for its last sync may still appear there",
		(unsigned long long)(LIVE_SNAPSHOT_IDLE_NS / 1000000000));
	answer_why(r);
}

static void left(void *arg)
{
	struct run *r = arg;

	live_snapshot_give_up(r->snapshot.live);
	log_info("snapshot '%s': who asked for it has left; given up", r->snapshot.path);
}

/* --- what is told ----------------------------------------------------------------------------- */

static void told(void *arg, enum live_snapshot_event ev, const struct err *e)
{
	static const enum run_snapshot_event event[] = {[LIVE_REST] = SNAP_EV_REST,
							[LIVE_WRITTEN] = SNAP_EV_WRITTEN,
							[LIVE_FAILED] = SNAP_EV_FAILED,
							[LIVE_LATE] = SNAP_EV_LATE};
	struct run *r = arg;

	if (ev == LIVE_FAILED)
		r->snapshot.err = *e;
	post(r, event[ev]);
}

static void client_left(void *arg)
{
	post(arg, SNAP_EV_LEFT);
}

/* --- asked from outside ----------------------------------------------------------------------- */

static int check_path(json_t *request, struct err *e)
{
	const char *path = json_string_value(json_object_get(request, "file"));

	return path && path[0] == '/'
		       ? 0
		       : err_set(e, -EINVAL, "snapshot: 'file' must be an absolute path");
}

/* *ret_staging: how much may be copied while the VM stands. */
static int check_request(struct run *r, json_t *request, uint64_t *ret_staging, struct err *e)
{
	json_t *staging = json_object_get(request, "staging_bytes");
	json_int_t bytes =
		staging ? json_integer_value(staging) : (json_int_t)CONFIG_SNAPSHOT_BYTES;

	if (check_path(request, e))
		return e->code;
	if ((staging && !json_is_integer(staging)) || bytes < (json_int_t)CONFIG_SNAPSHOT_MIN)
		return err_set(e, -EINVAL, "snapshot: staging must be 1M at least");
	if (!r->has_vm || r->ft.cover == FT_SYNCING || r->ft.cover == FT_PROTECTED)
		return err_set(e, -EBUSY,
			       "snapshot: not while this VM is %s: its changes are followed for "
			       "its peer, or it is not here",
			       ft_word(&r->ft));
	if (r->ft.images_behind)
		return err_set(e, -EBUSY,
			       "snapshot: not while acknowledged disk writes are on their way to "
			       "the images, after a takeover: a copy of these would lack them; "
			       "again in a moment");
	if (primary_may_snapshot(&r->primary, e))
		return e->code;
	if (dest_fills(&r->dest))
		return err_set(
			e, -EBUSY,
			"snapshot: not while the VM's memory still comes in; again when "
			"ftvmm status says that it is complete. If its source is dead: ftvmm "
			"snapshot %s FILE arrived",
			r->cfg.name);
	if (source_busy(&r->source))
		return err_set(e, -EBUSY,
			       "snapshot: not while this VM migrates: its changes are followed for "
			       "that; when it has ended, or after ftvmm migrate %s --cancel",
			       r->cfg.name);
	if (run_lazy_missing(r))
		return err_set(
			e, -EBUSY,
			"snapshot: not before all memory of the lazy restore is here (`ftvmm "
			"status`)");
	if (r->snapshot.fsm.state == SNAP_GIVEN_UP)
		return err_set(e, -EBUSY,
			       "snapshot: '%s' was given up, but its storage has not let it go yet",
			       r->snapshot.path);
	if (r->snapshot.fsm.state != SNAP_NONE)
		return err_set(e, -EBUSY, "snapshot: '%s' is being written; wait for that",
			       r->snapshot.path);
	*ret_staging = (uint64_t)bytes;
	return 0;
}

json_t *serve_snapshot(struct run *r, json_t *request, struct err *e)
{
	struct run_snapshot *s = &r->snapshot;
	struct live_snapshot_plan plan = {.told = told, .arg = r};

	if (json_is_true(json_object_get(request, "arrived"))) {
		if (!check_path(request, e))
			run_write_arrived(r, json_string_value(json_object_get(request, "file")),
					  e);
		return NULL;
	}
	if (check_request(r, request, &plan.copy_bytes, e))
		return NULL;
	plan.path = json_string_value(json_object_get(request, "file"));
	if (live_snapshot_new(&s->live, &r->vm, &plan, e)) {
		err_wrap(e, "snapshot '%.200s'", plan.path);
		return NULL;
	}
	snprintf(s->path, sizeof(s->path), "%s", plan.path);
	s->err = (struct err){0};
	s->client.left = client_left;
	s->client.arg = r;
	if (!s->fsm.desc)
		fsm_init(&s->fsm, &desc, r, SNAP_NONE);
	ctl_later(r->ctl, &s->client);
	post(r, SNAP_EV_ASKED);
	return NULL;
}

json_t *run_snapshot_status(const struct run *r)
{
	const struct run_snapshot *s = &r->snapshot;
	struct live_snapshot_stats stats;

	if (!s->live) /* none, or the VM is going */
		return NULL;
	live_snapshot_stats(s->live, &stats);
	return json_pack("{s:s, s:s, s:I, s:i}", "file", s->path, "state", states[s->fsm.state],
			 "bytes", (json_int_t)stats.written, "passes", (int)stats.passes);
}

bool run_snapshot_busy(const struct run *r)
{
	return r->snapshot.fsm.state != SNAP_NONE && r->snapshot.fsm.state != SNAP_GIVEN_UP;
}

void run_snapshot_stop(struct run *r)
{
	struct run_snapshot *s = &r->snapshot;

	live_snapshot_abandon(s->live);
	s->live = NULL;
	if (!run_snapshot_busy(r))
		return;
	err_set(&s->err, -ECANCELED, "the VM has ended before it was written");
	answer_why(r);
}
