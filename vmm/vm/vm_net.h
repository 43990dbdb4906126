/* A VM's links to the outside: plugged in where it runs, and announced there. Owner: the loop. */
#ifndef VMM_VM_NET_H
#define VMM_VM_NET_H

#include <stdbool.h>

#include "vmm/vm/vm.h"

/* Set the links of all its networks. An error is that of the first one that fails. */
int vm_link(struct vm *vm, bool up, struct err *e);
/* Network and vsock, of a VM that came from elsewhere; what fails is logged. */
void vm_plug(struct vm *vm);

/* Switches lose frames: they are told several times, ever later. */
struct vm_announce {
	struct vm *vm;
	struct loop *loop;
	struct loop_op op;
	unsigned said;
};

/* Where the guest's addresses are now; the guest is asked to say so, too. */
void vm_announce(struct vm_announce *a, struct vm *vm);
void vm_announce_stop(struct vm_announce *a); /* safe on a zeroed one */

#endif
