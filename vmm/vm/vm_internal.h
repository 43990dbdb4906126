/* Shared by the vm*.c files only. */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include "vmm/vm/vm.h"

/* vm_run.c */
int vm_ask_vcpus(struct vm *vm, enum vcpu_task task, struct err *e);
void vm_quit_vcpus(struct vm *vm);
/*
 * Have all vCPUs park, without waiting for it. Any thread, under vm->lock: nobody can clear
 * immediate_exit between here and the signal.
 */
void vm_kick_vcpus(struct vm *vm);
/* vm_reset.c; vCPUs parked, fresh */
int vm_reset_init(struct vm *vm, struct err *e);
/* vm_chips.c */
int vm_chips_save(struct vm *vm);
int vm_chips_load(struct vm *vm, struct err *e);
/* As firmware leaves it: a guest that ignores the PIC must not get its interrupts. */
int vm_chips_mask_pic(struct vm *vm, struct err *e);
/* Does the guest take interrupts of this I/O APIC pin? */
bool vm_chips_irq_open(struct vm *vm, unsigned pin);

/* vm_clock.c */
#define MSR_TSC 0x10
/* vCPU 0 learns the machine's TSC frequency if it is not known, others get it. Loop thread. */
int vcpu_set_tsc_khz(struct vcpu *v, struct err *e);
/* By the vCPU's own thread, in vcpu_save() and vcpu_load(). */
int vcpu_tsc_save(struct vcpu *v);
int vcpu_tsc_load(struct vcpu *v);
/* With all vCPUs parked, after their save; before their load. Loop thread. */
int vm_clock_save(struct vm *vm);
int vm_clock_load(struct vm *vm, uint64_t advance_ns, struct err *e);
/* The guest was stopped for a while and is about to go on. */
void vm_clock_resume(struct vm *vm);

#endif
