#include "vmm/vm/vm_end.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/pvpanic.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

static const struct field ending_fields[] = {
	F_U8(struct vm_ending, end, 1, "how the guest ended, if it did", .max = VM_END_CRASH),
	F_U8(struct vm_ending, code, 2, "its exit code"),
};

const struct state_desc vm_ending_desc = {
	.name = "ending",
	.id = 3,
	.version = 1,
	.size = sizeof(struct vm_ending),
	.fields = ending_fields,
	.nfields = sizeof(ending_fields) / sizeof(ending_fields[0]),
};

/* --- from vCPU threads and devices ------------------------------------------------------------ */

static void stopped(struct vm *vm, enum vm_end end, uint8_t code, const char *why)
{
	struct vm_ending *ending = &vm->ending;

	pthread_mutex_lock(&vm->run.lock);
	if (ending->end == VM_END_NONE) {
		ending->end = end;
		ending->code = code;
		snprintf(ending->why, sizeof(ending->why), "%s", why);
		/*
		 * Neither the vCPU that did this nor any other goes further. In teardown they are
		 * told already, and some are joined.
		 */
		if (!vm->run.quit)
			vm_kick_vcpus(vm);
		vm_tell_end(vm);
	}
	pthread_mutex_unlock(&vm->run.lock);
}

void vm_guest_stopped(struct vm *vm, enum vm_end end, const char *why)
{
	stopped(vm, end, 0, why);
}

void vm_guest_exited(struct vm *vm, uint8_t code)
{
	char why[32];

	snprintf(why, sizeof(why), "exit port, code %u", code);
	stopped(vm, VM_END_EXIT, code, why);
}

void vm_guest_panicked(struct vm *vm, uint8_t events)
{
	__atomic_fetch_or(&vm->watch.panics, events, __ATOMIC_RELEASE);
	vm_tell_end(vm);
}

void vm_tell_end(struct vm *vm)
{
	device_signal(vm->watch.fd);
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void report_panic(struct vm_watch *w)
{
	uint8_t events;

	/* Of a guest that runs beside the one that counts: said here, if this one is to count. */
	if (!w->on_panic)
		return;
	events = __atomic_exchange_n(&w->panics, 0, __ATOMIC_ACQUIRE);
	if (!events || !log_may(&w->panic_told))
		return;
	log_error("guest: its kernel panicked%s; see its console",
		  events & PVPANIC_PANICKED ? "" : " and runs a crash kernel");
	w->on_panic(w->arg);
}

static void told(struct loop_op *op, int res)
{
	struct vm *vm = op->arg;
	struct vm_watch *w = &vm->watch;
	uint64_t n;

	/* Behind the devices whose queues were kicked before: what the guest said last counts. */
	if (read(w->fd, &n, sizeof(n)) == sizeof(n))
		loop_work_add(vm->loop, &w->work);
}

static bool tell(struct loop_work *work)
{
	struct vm *vm = work->arg;
	struct vm_watch *w = &vm->watch;

	report_panic(w);
	if (vm->ending.end != VM_END_NONE && w->on_end)
		w->on_end(w->arg);
	return false;
}

int vm_watch_init(struct vm *vm, struct err *e)
{
	struct vm_watch *w = &vm->watch;

	w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->op = (struct loop_op){.fn = told, .arg = vm};
	w->work = (struct loop_work){.fn = tell, .arg = vm};
	if (w->fd < 0 || loop_poll_add(vm->loop, &w->op, w->fd, POLLIN) < 0)
		return err_sys(e, "eventfd");
	return 0;
}

void vm_watch_done(struct vm *vm)
{
	loop_poll_del(vm->loop, &vm->watch.op);
	loop_work_del(vm->loop, &vm->watch.work);
	if (vm->watch.fd >= 0)
		close(vm->watch.fd);
	vm->watch.fd = -1;
}

const char *vm_end_why(const struct vm *vm)
{
	static const char *const names[VM_END_MAX] = {
		[VM_END_NONE] = "runs",	       [VM_END_EXIT] = "exit port",
		[VM_END_RESET] = "reset",      [VM_END_WATCHDOG] = "watchdog",
		[VM_END_OFF] = "switched off", [VM_END_CRASH] = "crash",
		[VM_END_HOST] = "KVM failed",
	};

	return vm->ending.why[0] ? vm->ending.why : names[vm->ending.end];
}

bool vm_end_is_reset(const struct vm *vm)
{
	return vm->ending.end == VM_END_RESET || vm->ending.end == VM_END_WATCHDOG;
}
