/*
 * The devices of a VM and what they stand on: those that every machine has, then those of
 * machine.devs, each made by the constructor of its kind (vmm/vm/vm_devices.c). Owner: the loop.
 */
#ifndef VMM_VM_DEVICES_H
#define VMM_VM_DEVICES_H

#include "devices/backends.h"
#include "devices/device.h"
#include "devices/disk.h"
#include "devices/disk_output.h"
#include "devices/inputs.h"
#include "net/netdev.h"
#include "net/seqmap.h"
#include "net/vsock_host.h"
#include "vmm/vm/console.h"

#define VM_FIXED_DEVICES 7
#define VM_MAX_DEVICES	 (VM_FIXED_DEVICES + MACHINE_MAX_DEVS)

struct vm_devices {
	struct dev_env env;
	struct device *devs[VM_MAX_DEVICES]; /* fixed ones first, then machine.devs in order */
	unsigned ndevs;
	struct device *ged, *serial;
	struct device *mdevs[MACHINE_MAX_DEVS]; /* the device of machine.devs[i] */
	struct disk disks[MACHINE_MAX_DEVS]; /* by index of machine.devs; fd -1 when not a disk */
	struct disk_output disk_outputs[MACHINE_MAX_DEVS]; /* of those that are shared */
	struct netdev nets[MACHINE_MAX_DEVS];		   /* likewise */
	struct seqmap seqs;				   /* of all of them */
	struct inputs inputs;				   /* likewise */
	struct console console;
	struct vsock_host vsock; /* unused without a device of that kind; last: see struct vm */
};

struct vm;

/* The first device of that kind, or NULL. */
struct device *vm_find_device(struct vm *vm, enum mdev_kind kind);
/* How fast this disk or network is from now on; nothing when there is none. Loop thread. */
void vm_limit(struct vm *vm, const char *id, const struct limit_rates *r);
/* How long the guest was held by that so far. */
uint64_t vm_held_ns(const struct vm *vm, const char *id);
/* The table of the i-th device of a machine, built or not; NULL behind the last. */
const struct state_desc *vm_device_state(const struct machine *m, unsigned i);

#endif
