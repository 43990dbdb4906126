#include "vmm/cli/run.h"

#include <errno.h>
#include <string.h>

#include "postcopy/pager.h"
#include "vmm/base/log.h"
#include "vmm/cli/advice.h"
#include "vmm/cli/record.h"

static void warn(void *arg, const char *what, const char *text)
{
	log_warn("%s", text);
}

static int run_incoming(struct run *r, struct err *e)
{
	struct err probe = {0};
	int code = marks_allow(&r->cfg, NULL, e);

	if (code)
		return code;
	if (pager_probe(&probe))
		advise_precopy(&probe, warn, NULL);
	ft_set(&r->ft, FT_ELSEWHERE, FT_NONE, "waiting for a migration");
	return run_migrate_listen(r, e);
}

static int run_plain(struct run *r, struct err *e)
{
	int code = marks_allow(&r->cfg, NULL, e);

	if (!code)
		code = run_vm_prepare(r, e);
	if (!code && r->cfg.claim) /* from here on it is nobody's half */
		code = marks_take_off(&r->vm, e);
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
	if (!code)
		marks_ask(&r->ft.marks, &r->vm, MARK_RUN, r->ft.generation);
	if (code)
		put_back(r, was);
	return code;
}

static int run_primary(struct run *r, struct err *e)
{
	struct arbiter_record was;
	int code = record_allows(&r->cfg, r->ft.arbiter, &was, e);

	if (!code)
		code = run_vm_prepare(r, e);
	if (!code)
		code = primary_start(&r->primary, &r->ft, &r->vm, e);
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
		advise_priority(code, warn, NULL);
}

/* A side that could not run the VM is of no use to a primary: better known now than at a takeover.
 */
static int try_kvm(struct err *e)
{
	struct kvm k;
	int r = kvm_open(&k, e);

	if (!r)
		kvm_close(&k);
	return r;
}

/* It may come back, and is asked again when it matters. e: the note, in any case. */
static void try_arbiter(const struct run *r, struct err *e)
{
	static const char waits[] = "waiting for a primary";
	struct arbiter_record last;

	if (!arbiter_is_shared(r->ft.arbiter) || !arbiter_read(r->ft.arbiter, &last, e)) {
		snprintf(e->msg, sizeof(e->msg), "%s", waits);
		return;
	}
	log_warn("no primary is taken, and nobody takes over, until this is mended: %s", e->msg);
	err_wrap(e, "%s; as it is none can come", waits);
}

static int run_secondary(struct run *r, struct err *e)
{
	struct err note = {0};
	int code = marks_allow(&r->cfg, NULL, e);

	if (!code)
		code = try_kvm(e);
	if (code)
		return code;
	try_arbiter(r, &note);
	ft_set(&r->ft, FT_ELSEWHERE, FT_NONE, note.msg);
	return secondary_start(&r->secondary, &r->ft, &r->vm, taken_over, r, e);
}

int run_role_start(struct run *r, struct err *e)
{
	r->role = r->cfg.role;
	advise(&r->cfg, warn, NULL);
	if (r->role == ROLE_PLAIN)
		return r->cfg.incoming[0] ? run_incoming(r, e) : run_plain(r, e);
	raise_priority();
	return r->role == ROLE_PRIMARY ? run_primary(r, e) : run_secondary(r, e);
}
