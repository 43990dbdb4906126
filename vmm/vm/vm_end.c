#include "vmm/vm/vm_end.h"

#include <stdio.h>

#include "vmm/vm/vm_internal.h"

static const struct field ending_fields[] = {
	F_U8(struct vm_ending, end, 1, "how the guest ended, if it did", .max = VM_END_MAX - 1),
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

static void stopped(struct vm *vm, enum vm_end end, uint8_t code, const char *why)
{
	struct vm_ending *ending = &vm->ending;

	pthread_mutex_lock(&vm->lock);
	if (ending->end == VM_END_NONE) {
		ending->end = end;
		ending->code = code;
		snprintf(ending->why, sizeof(ending->why), "%s", why);
		/*
		 * Neither the vCPU that did this nor any other goes further. In teardown they are
		 * told already, and some are joined.
		 */
		if (!vm->quit)
			vm_kick_vcpus(vm);
	}
	pthread_mutex_unlock(&vm->lock);
	device_signal(vm->end_fd);
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

const char *vm_end_why(const struct vm *vm)
{
	static const char *const names[VM_END_MAX] = {
		[VM_END_NONE] = "runs",	       [VM_END_EXIT] = "exit port",
		[VM_END_RESET] = "reset",      [VM_END_WATCHDOG] = "watchdog",
		[VM_END_OFF] = "switched off", [VM_END_CRASH] = "crash",
	};

	return vm->ending.why[0] ? vm->ending.why : names[vm->ending.end];
}

bool vm_end_is_reset(const struct vm *vm)
{
	return vm->ending.end == VM_END_RESET || vm->ending.end == VM_END_WATCHDOG;
}
