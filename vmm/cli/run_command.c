#include "vmm/cli/run_command.h"

#include <errno.h>

#include "vmm/cli/command.h"
#include "vmm/cli/ctl_schema.h"
#include "vmm/cli/run.h"
#include "vmm/base/log.h"

json_t *serve_status(struct run *r, json_t *request, struct err *e)
{
	return run_status(r);
}

json_t *serve_events(struct run *r, json_t *request, struct err *e)
{
	json_t *now = run_state_event(r, NULL);

	ctl_stamp(now);
	ctl_follow(r->ctl);
	return now;
}

static int pause_vm(struct run *r, bool pause, struct err *e)
{
	int code;

	if (r->role == ROLE_PRIMARY)
		return primary_pause(&r->primary, pause, e);
	if (pause)
		return ft_stand(&r->ft, &r->vm, FT_STAND_USER, NULL, e);
	code = r->waiting ? run_vm_go(r, e) : 0;
	if (!code)
		ft_go(&r->ft, &r->vm, FT_STAND_USER);
	return code;
}

static json_t *set_paused(struct run *r, bool pause, struct err *e)
{
	if (!r->has_vm) {
		err_set(e, -EBUSY, "this side does not run the VM (state %s)", ft_word(&r->ft));
		return NULL;
	}
	if (source_stands(&r->source)) {
		err_set(e, -EBUSY, "%s: the VM stands for its migration: %s",
			pause ? "pause" : "resume",
			*r->ft.note ? r->ft.note : "it is about to run at the destination");
		return NULL;
	}
	if (!pause && (r->ft.stands & (FT_STAND_USER | FT_STAND_SILENT)) == FT_STAND_SILENT) {
		err_set(e, -EBUSY, "resume: only the arbiter's answer lets this VM go on: %s",
			r->ft.note);
		return NULL;
	}
	if (r->ft.stands & FT_STAND_LOST) {
		err_set(e, -EBUSY, "%s: %s", pause ? "pause" : "resume", r->ft.note);
		return NULL;
	}
	if (pause && !r->waiting && (dest_fills(&r->dest) || run_lazy_missing(r))) {
		err_set(e, -EBUSY,
			"pause: not while the VM's memory still comes in: a vCPU may wait for a "
			"page; again when ftvmm status says that it is complete");
		return NULL;
	}
	/* Loading it would touch what is missing, and here nobody may wait for that. */
	if (!pause && r->waiting && run_lazy_missing(r)) {
		err_set(e, -EBUSY,
			"resume: not before all memory of the lazy restore is here (`ftvmm status "
			"%s`); without --paused it would run already",
			r->cfg.name);
		return NULL;
	}
	if (pause_vm(r, pause, e))
		return NULL;
	r->waiting = r->waiting && pause;
	return json_object();
}

json_t *serve_pause(struct run *r, json_t *request, struct err *e)
{
	return set_paused(r, true, e);
}

json_t *serve_resume(struct run *r, json_t *request, struct err *e)
{
	return set_paused(r, false, e);
}

json_t *serve_stop(struct run *r, json_t *request, struct err *e)
{
	json_t *timeout = json_object_get(request, "timeout_ns");
	const char *forced, *ended = NULL;
	json_int_t ns = timeout ? json_integer_value(timeout) : (json_int_t)CONFIG_STOP_NS;

	if ((timeout && !json_is_integer(timeout)) || ns < 0 ||
	    ns > (json_int_t)CONFIG_STOP_MAX_NS) {
		err_set(e, -EINVAL, "stop: timeout must be between 0 and 8 minutes");
		return NULL;
	}
	if (source_is_cut(&r->source)) {
		err_set(e, -EBUSY,
			"stop: the VM runs at %s, and needs what is here. If it does not any more: "
			"ftvmm migrate %s --cancel --force",
			r->source.conf.uri, r->cfg.name);
		return NULL;
	}
	log_info("stop command: stopping in order");
	forced = run_end_stop(r, ns);
	ctl_follow(r->ctl); /* until its end */
	if (r->ft.life == FT_OVER)
		ended = ft_word(&r->ft);
	return json_pack("{s:s*,s:s*,s:s*}", "forced", forced, "ended", ended, "note",
			 ended ? r->ft.note : NULL);
}

static void handing(void *arg, int code, const struct err *e)
{
	struct run *r = arg;

	ctl_answer(&r->failover, code ? NULL : json_object(), e);
}

json_t *serve_failover(struct run *r, json_t *request, struct err *e)
{
	if (r->stopping) {
		err_set(e, -EBUSY, "failover: the VM is being stopped");
		return NULL;
	}
	if (r->role == ROLE_PRIMARY) {
		if (!primary_hand_over(&r->primary, handing, r, e))
			ctl_later(r->ctl, &r->failover);
		return NULL;
	}
	err_set(e, -EBUSY, "failover: only the side that runs a protected VM can hand it over; %s",
		r->role == ROLE_PLAIN ? "this VM has no fault tolerance"
				      : "a secondary takes over by itself");
	return NULL;
}

json_t *run_command(void *arg, const char *cmd, json_t *request, struct err *e)
{
	const struct command *c = command_find(cmd);
	struct run *r = arg;
	char served[256];

	if (r->over && !(c && c->after_end)) {
		err_set(e, -EBUSY, "the VM has ended; this process is about to");
		return NULL;
	}
	if (c && c->serve)
		return ctl_schema_check(cmd, request, e) ? NULL : c->serve(r, request, e);
	command_list_served(served, sizeof(served));
	err_set(e, -EINVAL, "no command '%s'; there are %s", cmd, served);
	return NULL;
}
