#include "vmm/cli/run.h"

#include "vmm/base/log.h"

#define REBOOT_READ_NS 30000000000ull

void run_end_finish(void *arg, int code)
{
	struct run *r = arg;

	if (!r->over) {
		r->over = true;
		r->exit_code = code;
	}
	loop_stop(&r->loop);
}

static int end_code(const struct vm *vm)
{
	switch (vm->ending.end) {
	case VM_END_EXIT:
		return vm->ending.code;
	case VM_END_HOST:
	case VM_END_CRASH:
	case VM_END_WATCHDOG:
		return 2;
	default:
		return 0;
	}
}

/* End the VM in the way its role asks for. */
static void end_vm(struct run *r, int code)
{
	/* A guest that has ended, or was stopped, is not waited for. */
	loop_timer_del(&r->loop, &r->stop_op);
	if (r->role == ROLE_PRIMARY && !r->over)
		primary_end(&r->primary, code);
	else
		run_end_finish(r, code);
}

static void reboot_failed(struct run *r, const struct err *e)
{
	log_error("reboot: %s", e->msg);
	end_vm(r, 2);
}

static void reboot_read(void *arg, int code, struct boot_files *files, const struct err *read_err)
{
	struct run *r = arg;
	struct err e = *read_err;
	/* One that does not run now asks again when it may, whatever was read. */
	bool wanted = !r->over && primary_goes_on(&r->primary) && r->vm.running;

	if (code != -ETIMEDOUT)
		r->reader = NULL;
	if (wanted && !code)
		code = vm_reset(&r->vm, files, &e);
	boot_files_free(files);
	if (wanted && code)
		reboot_failed(r, &e);
	else if (wanted)
		run_event(r, RUN_EVENT_RESET);
}

/* False: it is not to boot again. */
static bool may_reboot(const struct run *r)
{
	if (!vm_end_is_reset(&r->vm) || r->cfg.no_reboot || r->stopping ||
	    !primary_goes_on(&r->primary))
		return false;
	if (!r->cfg.kernel[0])
		log_warn("guest: %s, but no kernel was given here to boot again (-k)",
			 vm_end_why(&r->vm));
	return r->cfg.kernel[0];
}

/* The guest stays in its last instruction, and epochs go on, until its kernel is read. */
static void reboot(struct run *r)
{
	struct boot_read what = {.kernel = r->cfg.kernel,
				 .initrd = r->cfg.initrd,
				 .deadline_ns = REBOOT_READ_NS,
				 .fn = reboot_read,
				 .arg = r};
	struct err e = {0};

	if (!r->vm.running)
		return;
	if (!r->reader && log_may(&r->reset_told))
		log_info("guest: %s; booting again", vm_end_why(&r->vm));
	if (boot_reader_start(&r->reader, &r->loop, &what, &e))
		reboot_failed(r, &e);
}

/* What failed at both sides one after the other is the guest's fault. */
static void log_end(const struct run *r)
{
	enum vm_end end = r->vm.ending.end;
	bool taken_over = r->cfg.role == ROLE_SECONDARY && !r->primary.engine.sealed_ns;

	if (end == VM_END_CRASH || (end == VM_END_HOST && taken_over))
		log_error("guest crashed: %s", vm_end_why(&r->vm));
	else if (end == VM_END_HOST)
		log_error("this host cannot run the guest: %s", vm_end_why(&r->vm));
	else
		log_info("guest ended: %s", vm_end_why(&r->vm));
}

static void guest_ended(void *arg)
{
	struct run *r = arg;

	if (!r->over && r->vm.ending.end == VM_END_HOST && primary_host_failed(&r->primary))
		return;
	/*
	 * Told again when this side may go on; else the guest_ended() of whoever runs it next is
	 * told.
	 */
	if (r->over || !primary_may_end(&r->primary) || source_stands(&r->source))
		return;
	if (may_reboot(r)) {
		if (!dest_fills(&r->dest) && !run_lazy_missing(r))
			reboot(r);
		else if (log_may(&r->reset_told)) /* and told again */
			log_info("guest: %s; it boots again when all of its memory is here",
				 vm_end_why(&r->vm));
		return;
	}
	log_end(r);
	source_may_end(&r->source, "the guest has ended");
	end_vm(r, end_code(&r->vm));
}

static void force(struct run *r, const char *why)
{
	log_warn("%s: stopping it", why);
	ctl_event(r->ctl, json_pack("{ss, ss}", "event", "stop-forced", "why", why));
	end_vm(r, 0);
}

static void stop_late(struct loop_op *op, int res)
{
	force(op->arg, "the guest did not switch itself off in time");
}

/* A guest that has set no button up is a bare one, or hung early. */
static const char *press(struct run *r, uint64_t timeout_ns)
{
	static const char deaf[] = "the guest does not listen to its power button";

	if (!vm_power_button(&r->vm)) {
		force(r, deaf);
		return deaf;
	}
	r->stopping = true;
	log_info("power button pressed; waiting %llu s for the guest",
		 (unsigned long long)(timeout_ns / 1000000000));
	r->stop_op = (struct loop_op){.fn = stop_late, .arg = r};
	loop_timer_set(&r->loop, &r->stop_op, timeout_ns);
	return NULL;
}

const char *run_end_stop(struct run *r, uint64_t timeout_ns)
{
	/* A VM that stands while an epoch is captured goes on, and hears the button then. */
	static const unsigned goes_on = FT_STAND_SEAL | FT_STAND_MOVE | FT_STAND_SWITCH;
	bool runs = r->vm.running ? !(r->ft.stands & FT_STAND_LOST)
				  : r->ft.stands && !(r->ft.stands & ~goes_on);

	if (!source_may_end(&r->source, "the VM is being stopped"))
		return NULL;
	/* Nobody else has the VM any more. */
	if (secondary_waits_for_locks(&r->secondary) && !r->stops_later) {
		log_info("the VM is stopped as soon as its images are locked here");
		r->stops_later = true;
		r->stop_timeout_ns = timeout_ns;
		return NULL;
	}
	/* A hand-over that has not begun does not: the stop wins. */
	if (r->stopping || !timeout_ns || !r->has_vm || !runs || r->reader ||
	    primary_is_asked(&r->primary)) {
		end_vm(r, 0);
		return NULL;
	}
	return press(r, timeout_ns);
}

static void guest_panicked(void *arg)
{
	run_event(arg, RUN_EVENT_PANIC);
}

void run_end_watch(struct run *r)
{
	run_events_init(r);
	r->vm.devices.console.tee = console_sock_put;
	r->vm.devices.console.tee_arg = r->console;
	r->vm.watch.on_end = guest_ended;
	r->vm.watch.on_panic = guest_panicked;
	r->vm.watch.arg = r;
}
