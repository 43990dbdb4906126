/*
 * The state of a VM as a whole, but for guest memory and disks: chips, the guest's end, vCPUs and
 * devices, each by its field table. Saved, decoded and committed with all vCPUs parked, on the loop
 * thread.
 */
#ifndef VMM_VM_STATE_H
#define VMM_VM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/state.h"
#include "vmm/vm/vm_devices.h"

#define VM_MAX_ITEMS (2 + MACHINE_MAX_VCPUS + VM_MAX_DEVICES)

struct vm_state {
	struct state_item items[VM_MAX_ITEMS];	 /* pods are the live copies */
	struct state_item scratch[VM_MAX_ITEMS]; /* pods of their own, for decoding */
	unsigned nitems;
	uint8_t *power_on; /* all items as they were when the VM was built: vm_reset.c */
	size_t power_on_len;
};

/*
 * What a VM of that machine has, in the order of its state, without pods; into VM_MAX_ITEMS of
 * them. Returns how many. No VM is needed.
 */
unsigned vm_state_list(const struct machine *m, struct state_item *ret);
/* Pods for them, zeroed, to be freed one by one: also after -ENOMEM. */
int vm_state_pods(struct state_item *items, unsigned n);
/* Decode and check into pods of no VM. -EBADMSG: e says what, of which device. */
int vm_state_decode(const struct state_item *items, unsigned n, struct machine *m, const void *buf,
		    size_t len, struct err *e);

struct vm;

/* Paused: bring every item's pod up to date and encode them all. Bytes, or a negative errno. */
int64_t vm_save(struct vm *vm, void *buf, size_t cap);
size_t vm_state_bound(const struct vm *vm);
/* Decode and check into the scratch pods; the VM is unchanged. */
int vm_decode(struct vm *vm, const void *buf, size_t len, struct err *e);
/* Scratch becomes what vm_load() will load. Plain copies: cannot fail. VM paused or never run. */
void vm_commit(struct vm *vm);
/*
 * How it is here, against what was decoded last: each field of a device that differs, by its path
 * below that (state_compare()). Not of vCPUs and interrupt chips, of which a state is only half of
 * what they are about to do. VM paused.
 */
typedef void vm_differ_fn(void *arg, const struct state_item *it, const char *path);
void vm_compare(struct vm *vm, vm_differ_fn *fn, void *arg);
/*
 * Put the committed state into KVM and devices, to run it: KVM writes its clock into memory.
 * advance_ns: how long ago the guest was what is loaded, if its time went on meanwhile.
 */
int vm_load(struct vm *vm, uint64_t advance_ns, struct err *e);
/*
 * Has all come that vm_load() has KVM write to? Else it is asked for (mem_ready()). Loop thread.
 */
bool vm_load_ready(struct vm *vm);
/* The same, but guest memory stays as it is: will this host take the state? */
int vm_try_load(struct vm *vm, struct err *e);

#endif
