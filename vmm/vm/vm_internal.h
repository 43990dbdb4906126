/* Shared by the vm*.c files only. */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include "vmm/vm/vm.h"

/* vm_devices.c; loop thread */
/* Nothing is open yet. */
void vm_devices_init(struct vm *vm);
/* All of them, bound to KVM. On failure vm_devices_done() is still to be called. */
int vm_devices_make(struct vm *vm, const struct backends *b, struct err *e);
/* Waits up to 5 s for requests at the kernel. vCPUs have ended, held output is dropped. */
void vm_devices_done(struct vm *vm);

/* device_ops of them all, in order. */
void vm_devices_save(struct vm *vm);
void vm_devices_load(struct vm *vm);
void vm_devices_resume(struct vm *vm);
/* A device that is quiet leaves guest memory and its own state alone, though the loop runs. */
void vm_devices_quiet(struct vm *vm, bool on);

/* vm_state.c */
/* Lists what there is, once all devices are made. On failure vm_state_done() is still to be called.
 */
int vm_state_init(struct vm *vm, struct err *e);
void vm_state_done(struct vm *vm);

/* vm_end.c */
/* watch.fd is -1 before and after. Loop thread. */
int vm_watch_init(struct vm *vm, struct err *e);
void vm_watch_done(struct vm *vm);
/* From vCPU threads and devices: the guest is over. The first reason counts. */
void vm_guest_stopped(struct vm *vm, enum vm_end end, const char *why);
void vm_guest_exited(struct vm *vm, uint8_t code);
void vm_guest_panicked(struct vm *vm, uint8_t events);

/* vm_run.c */
void vm_run_init(struct vm *vm);
void vm_run_done(struct vm *vm);
/* Of all vCPUs, parked. */
int vm_run_threads(struct vm *vm, enum sandbox how, struct err *e);
int vm_ask_vcpus(struct vm *vm, enum vcpu_task task, struct err *e);
void vm_quit_vcpus(struct vm *vm);
/*
 * Have all vCPUs park, without waiting for it. Any thread, under run.lock: nobody can clear
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
/* With all vCPUs parked, after their save; before their load. Loop thread. */
int vm_clock_save(struct vm *vm);
int vm_clock_load(struct vm *vm, uint64_t advance_ns, struct err *e);
/* The guest was stopped for a while and is about to go on. */
void vm_clock_resume(struct vm *vm);

#endif
