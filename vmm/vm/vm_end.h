/*
 * The end of the guest: it wrote to the exit port, was switched off, asked for a reset, hung or
 * crashed. Part of the VM's state: an epoch, or a snapshot, may be taken between the guest's last
 * instruction and what the host does about it, and then the side that runs it next must do that.
 */
#ifndef VMM_VM_END_H
#define VMM_VM_END_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/state.h"

enum vm_end {
	VM_END_NONE,
	VM_END_EXIT,	 /* the guest wrote `code` to the exit port */
	VM_END_RESET,	 /* the guest asked for a reset */
	VM_END_WATCHDOG, /* it hangs: a reset, too */
	VM_END_OFF,
	VM_END_CRASH, /* triple fault or an exit that KVM could not handle */
	VM_END_MAX,
};

/* Written under vm->lock; read with all vCPUs parked, or by the loop once it heard of the end. */
struct vm_ending {
	uint8_t end; /* enum vm_end; only the first counts */
	uint8_t code;
	char why[160]; /* "": it ended at another side */
};

extern const struct state_desc vm_ending_desc;

struct vm;
/* From vCPU threads and devices: the guest is over. The first reason counts. */
void vm_guest_stopped(struct vm *vm, enum vm_end end, const char *why);
void vm_guest_exited(struct vm *vm, uint8_t code);
/* For a log line. */
const char *vm_end_why(const struct vm *vm);
/* Is it an end after which a machine boots again? */
bool vm_end_is_reset(const struct vm *vm);

#endif
