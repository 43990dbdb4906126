/* Shared by the vm*.c files only. */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include "vmm/vm.h"

/* vm_run.c */
int vm_load_vcpus(struct vm *vm, bool trial, struct err *e);
void vm_quit_vcpus(struct vm *vm);
/* vm_chips.c */
int vm_chips_save(struct vm *vm);
int vm_chips_load(struct vm *vm, struct err *e);

#endif
