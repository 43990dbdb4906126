/*
 * One virtual machine: KVM objects, memory, devices, vCPU threads, and the few verbs that all run
 * modes use: create, boot, pause, resume, save, load, end.
 *
 * Owner: the loop thread. vCPU threads touch only what is marked so.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "net/obuf.h"
#include "vmm/base/loop.h"
#include "vmm/boot/boot_file.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/mem.h"
#include "vmm/vm/kvm.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm_devices.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vm/vm_run.h"
#include "vmm/vm/vm_state.h"

/* Interrupt chips and clock of the VM (KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK). */
struct vm_chips {
	struct kvm_irqchip pic[2];
	struct kvm_irqchip ioapic;
	struct kvm_pit_state2 pit;
	uint64_t clock_ns; /* kvmclock */
	uint8_t tsc_exact; /* the TSC in each vCPU's state is that of the moment of clock_ns */
};

extern const struct state_desc vm_chips_desc;

struct vm {
	struct loop *loop;

	struct machine machine;
	struct kvm kvm;
	struct mem mem;
	struct bus bus;
	struct vm_chips chips;

	struct obuf obuf;
	struct loop_work output_work; /* obuf_continue(), */
	struct loop_op output_op;     /* asked for again */
	bool (*doubts)(void *arg); /* may another side run the VM? Then output waits; may be NULL */
	void *doubts_arg;

	bool running; /* between vm_resume() and vm_pause() */
	struct vm_run run;
	struct vm_ending ending;
	struct vm_watch watch;
	struct vm_state state;
	uint64_t resets;

	struct vcpu_env vcpu_env;
	/* Last, since most of it stays untouched: connections of a vsock, vCPUs. */
	struct vm_devices devices;
	struct vcpu vcpus[MACHINE_MAX_VCPUS];
};

/*
 * Build the whole machine on the back ends b, vCPU threads parked. The error says which device and
 * what to do. On failure nothing is left behind.
 */
int vm_create(struct vm *vm, struct loop *l, const struct machine *m, const struct backends *b,
	      struct err *e);
void vm_destroy(struct vm *vm); /* safe on a zeroed or half-built vm */
/* Load kernel and boot data into RAM and set vCPU 0 to its entry. */
int vm_boot(struct vm *vm, const struct boot_files *files, struct err *e);
/*
 * After VM_END_RESET: power-on state, boot, run; 1 ms for each 10 MiB of files. On failure the VM
 * is paused and of no use.
 */
int vm_reset(struct vm *vm, const struct boot_files *files, struct err *e);
/*
 * Press the power button. False when the guest does not listen to it (no ACPI, or not yet).
 * Loop thread.
 */
bool vm_power_button(struct vm *vm);
/* Memory that devices asked mem_ready() for has come, at least a part. Loop thread. */
void vm_arrived(struct vm *vm);
/*
 * This VM may have a twin: it was restored, or its other side is lost with random numbers drawn
 * from the same state. Tells the guest (VM generation ID). VM paused, loaded, about to start.
 */
void vm_new_generation(struct vm *vm);

#endif
