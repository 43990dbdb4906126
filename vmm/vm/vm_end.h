/*
 * The end of the guest: it wrote to the exit port, was switched off, asked for a reset, hung or
 * crashed. Part of the VM's state: an epoch, or a snapshot, may be taken between the guest's last
 * instruction and what the host does about it, and then the side that runs it next must do that.
 *
 * Beside these a failure of the host: its KVM does not run the guest any more. That never is part
 * of the state, as no state is taken from such a host: another one may go on from the last.
 */
#ifndef VMM_VM_END_H
#define VMM_VM_END_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/machine/state.h"

enum vm_end {
	VM_END_NONE,
	VM_END_EXIT,	 /* the guest wrote `code` to the exit port */
	VM_END_RESET,	 /* the guest asked for a reset */
	VM_END_WATCHDOG, /* it hangs: a reset, too */
	VM_END_OFF,
	VM_END_CRASH, /* triple fault, or an exit that nobody here knows */
	VM_END_HOST,  /* KVM_RUN failed, could not enter the guest, or gave up on it */
	VM_END_MAX,
};

/* Written under run.lock; read with all vCPUs parked, or by the loop once it heard of the end. */
struct vm_ending {
	uint8_t end; /* enum vm_end; only the first counts */
	uint8_t code;
	char why[160]; /* "": it ended at another side */
};

extern const struct state_desc vm_ending_desc;

/* Tells whoever runs the VM, on the loop. */
struct vm_watch {
	int fd; /* an end, or a panic, is to be looked at */
	struct loop_op op;
	struct loop_work work;
	void (*on_end)(void *arg);
	void (*on_panic)(void *arg); /* the guest's kernel said that it panicked; may be NULL */
	void *arg;
	uint8_t panics;	     /* atomic: pvpanic events not reported yet */
	uint64_t panic_told; /* log_may() */
};

struct vm;
/* Have on_end called, if the guest is over. Any thread. */
void vm_tell_end(struct vm *vm);
/* For a log line. */
const char *vm_end_why(const struct vm *vm);
/* Is it an end after which a machine boots again? */
bool vm_end_is_reset(const struct vm *vm);

#endif
