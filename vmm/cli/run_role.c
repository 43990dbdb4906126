#include "vmm/cli/run.h"

#include <errno.h>
#include <string.h>

#include "ft/common/side.h"
#include "postcopy/pager.h"
#include "vmm/base/log.h"

static int run_incoming(struct run *r, struct err *e)
{
	struct err probe = {0};

	if (!r->cfg.kernel[0] && !r->cfg.no_reboot)
		log_warn("no kernel (-k): the guest's first reboot here ends the VM; give the "
			 "source's -k and -i here, too");
	if (pager_probe(&probe))
		log_warn("only precopy can come in here: %s", probe.msg);
	ft_set(&r->ft, FT_ELSEWHERE, FT_NONE, "waiting for a migration");
	return run_migrate_listen(r, e);
}

static int run_plain(struct run *r, struct err *e)
{
	int code = run_vm_prepare(r, e);

	run_migrate_init(r);
	r->waiting = r->cfg.paused;
	if (r->waiting)
		r->ft.stands = FT_STAND_USER;
	else if (!code)
		code = run_vm_go(r, e);
	if (!code)
		ft_set(&r->ft, FT_HERE, FT_NONE, NULL);
	return code;
}

/* A VM that may be running elsewhere, or an image that may be the older one, needs force. */
static int check_record(struct run *r, const struct arbiter_record *rec, struct err *e)
{
	uint64_t side = arbiter_side(r->ft.arbiter);

	if (!rec->generation || r->cfg.claim)
		return 0;
	/* Of old versions: who the secondary was is not said. */
	if (rec->end == ARBITER_RELEASED && (!rec->peer || side == rec->side || side == rec->peer))
		return 0;
	if (rec->end == ARBITER_HELD)
		return err_set(e, -ESTALE,
			       "arbiter: generation %llu of '%s' is held by '%s' and was not given "
			       "back: it may be running. Start this side with --secondary, or, if "
			       "you are sure that it is dead and this image is the latest, add "
			       "--claim",
			       (unsigned long long)rec->generation, r->cfg.name, rec->holder);
	if (rec->end == ARBITER_RELEASED)
		return err_set(e, -ESTALE,
			       "arbiter: '%s' was stopped last by '%s', and this side was not its "
			       "secondary then: the image here is older than theirs. Start one of "
			       "those with --primary, and this one with --secondary; if these are "
			       "its images, moved or copied, or both are lost, --claim starts from "
			       "what is here",
			       r->cfg.name, rec->holder);
	if (rec->side && rec->side == side)
		return 0;
	return err_set(e, -ESTALE,
		       "arbiter: '%s' was stopped last by '%s', the other side, without "
		       "a secondary in step: the image there is newer than this one. Start that "
		       "side with --primary, and this one with --secondary; if these are its "
		       "images, moved "
		       "or copied, or it is lost, --claim starts from what is here",
		       r->cfg.name, rec->holder);
}

static int look_at_record(struct run *r, struct arbiter_record *rec, struct err *e)
{
	uint64_t side;
	int code = side_identity(&r->cfg, &side, e);

	if (code)
		return code;
	arbiter_set_side(r->ft.arbiter, side);
	code = arbiter_read(r->ft.arbiter, rec, e);
	return code ? code : check_record(r, rec, e);
}

/* A start that came to nothing leaves the record as it was: the next one needs no force. */
static void put_back(struct run *r, const struct arbiter_record *was)
{
	struct err e = {0};
	int code = arbiter_put_back(r->ft.arbiter, was->generation + 1, was, &e);

	if (code && code != -ESTALE)
		log_warn("the next start needs --claim: %s", e.msg);
}

/* From the claim on this side may run the VM: it is the last step but the first instruction. */
static int claim_and_go(struct run *r, const struct arbiter_record *was, struct err *e)
{
	int code =
		arbiter_claim(r->ft.arbiter, was->generation, ARBITER_START, &r->ft.generation, e);

	if (code == -ESTALE)
		return err_set(
			e, -ESTALE,
			"arbiter: another side claimed '%s' at this moment; start as --secondary",
			r->cfg.name);
	if (!code) {
		ft_set(&r->ft, FT_HERE, FT_UNPROTECTED, "no peer yet");
		code = run_vm_go(r, e);
	}
	if (code)
		put_back(r, was);
	return code;
}

static int run_primary(struct run *r, struct err *e)
{
	struct arbiter_record was;
	int code = look_at_record(r, &was, e);

	if (!code)
		code = run_vm_prepare(r, e);
	if (!code)
		code = primary_start(&r->primary, &r->ft, &r->vm, e);
	if (!code)
		run_disk_watch(r);
	return code ? code : claim_and_go(r, &was, e);
}

/* The secondary has become the one that runs the VM: from here on it is a primary. */
static void taken_over(void *arg)
{
	struct run *r = arg;
	struct err e = {0};

	r->has_vm = true;
	run_end_watch(r);
	r->role = ROLE_PRIMARY;
	run_disk_watch(r);
	if (primary_start(&r->primary, &r->ft, &r->vm, &e))
		log_error("%s", e.msg);
	if (r->stops_later)
		run_end_stop(r, r->stop_timeout_ns);
}

static void raise_priority(void)
{
	int code = loop_raise_priority(1);

	if (code)
		log_warn(
			"no real-time priority (%s): on a busy host heartbeats may be late; run as "
			"root or with CAP_SYS_NICE, in a cgroup that allows it, or give a longer "
			"--peer-timeout",
			strerror(-code));
}

static int run_secondary(struct run *r, struct err *e)
{
	if (!r->cfg.kernel[0] && !r->cfg.no_reboot)
		log_warn("no kernel (-k): after a takeover the guest's first reboot ends the VM; "
			 "give the primary's -k and -i here, too");
	if (!r->cfg.npeers)
		log_warn("no --peer: after a takeover this side finds nobody who protects the VM; "
			 "give the addresses of the hosts that may stand by then, or then: ftvmm "
			 "set %s peer=URI",
			 r->cfg.name);
	ft_set(&r->ft, FT_ELSEWHERE, FT_NONE, "waiting for a primary");
	return secondary_start(&r->secondary, &r->ft, &r->vm, taken_over, r, e);
}

int run_role_start(struct run *r, struct err *e)
{
	r->role = r->cfg.role;
	if (r->role == ROLE_PLAIN)
		return r->cfg.incoming[0] ? run_incoming(r, e) : run_plain(r, e);
	raise_priority();
	return r->role == ROLE_PRIMARY ? run_primary(r, e) : run_secondary(r, e);
}
