/*
 * A VM that needs no KVM: linked instead of what vmm/vm/vm.c, vm_run.c and vm_state.c do with
 * it (--wrap, see the Makefile). Memory, devices, disks and state are the real ones; CPUs never
 * run. Networks lead nowhere, and are refused unless has_network is set.
 */
#ifndef TESTS_FUZZ_VM_H
#define TESTS_FUZZ_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/conf/config.h"
#include "vmm/vm/vm.h"

#define FAKE_MEM_MAX (16ull << 20)

/* What the fake is to do, and did since fake_vm_reset(). */
struct fake_vm {
	bool refuses;		     /* this host does not take the CPUs' state */
	int pause_error, save_error; /* negative errno: what the CPUs do not do */
	bool has_network, unpluggable;
	void (*while_loading)(void); /* may be NULL */
	unsigned created, destroyed, loaded, started;
	unsigned generations;	  /* told to the guest */
	unsigned plugged, frames; /* networks; what they were given */
	uint8_t frame[256];	  /* the last one, so much of it */
	uint64_t advance_ns;	  /* of the last load */
	uint64_t printed;	  /* bytes that left the output buffer */
	int sink;		  /* of the output buffer, for what a guest prints */
};

extern struct fake_vm fake_vm;
void fake_vm_reset(void);
/* A small machine with a disk, a console, random numbers and a balloon, and its configuration. */
void fake_machine(struct machine *m, struct config *cfg, const char *image);
/* vm_create() on the back ends of cfg; must succeed. */
void fake_vm_create(struct vm *vm, struct loop *l, const struct machine *m,
		    const struct config *cfg);

#endif
