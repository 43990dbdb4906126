/* KVM as far as the program uses it, and the guest that a simulated vCPU runs. */
#ifndef TESTS_SIM_GUEST_H
#define TESTS_SIM_GUEST_H

#include <linux/kvm.h>

#include "tests/sim/fd.h"

#define SIM_MSRS     3
#define SIM_DOORS    16
#define SIM_TSC_KHZ  2000000
#define SIM_RUN_SIZE 12288

struct sim_slot {
	struct kvm_userspace_memory_region r;
	uint64_t *dirty;
};

struct sim_vm {
	struct sim_slot slot[2];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	int64_t clock_ahead; /* of the host's */
	struct kvm_ioeventfd door[SIM_DOORS];
	unsigned ndoors;
};

enum guest_exit { GUEST_RUNS, GUEST_EXITS };

struct sim_vcpu {
	struct sim_vm *vm;
	unsigned index;
	struct kvm_run *run;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct kvm_xsave xsave;
	uint64_t xcr0, tsc_offset;
	struct kvm_msr_entry msrs[SIM_MSRS];
	bool unanswered; /* an exit that the next KVM_RUN completes */
};

/* One step; GUEST_EXITS: kvm_run says what it asks for. */
enum guest_exit guest_step(struct sim_vcpu *v);
/* What it asked for has been done. */
void guest_answered(struct sim_vcpu *v);
/* A vCPU leaves it between two steps. */
void guest_stopped(struct sim_vcpu *v);

/* Where what it uses of its memory begins; of all of that. */
#define GUEST_GPA 0x110000ull
uint64_t guest_hash(const uint8_t *memory);
/* The node that it knows, by what is there. */
uint32_t guest_node(const void *memory);

/* For the guest: its memory, where a write leaves a mark; its clock; the device's doorbell. */
const void *guest_read(struct sim_vm *vm, uint64_t gpa, size_t len);
void *guest_write(struct sim_vm *vm, uint64_t gpa, size_t len);
uint64_t guest_clock(const struct sim_vm *vm);
bool guest_rings(struct sim_vm *vm, uint64_t gpa, uint32_t value);

/* tests/sim/kvm.c: is this a vCPU's; its kvm_run is there. */
bool vcpu_is(int number);
void vcpu_mapped(int number, void *run);

/* tests/sim/uffd.c: a vCPU touches that; its ioctls, false: none of them. */
void uffd_touch(const void *p, size_t len);
bool uffd_ioctl(struct fd *f, unsigned long request, void *arg, long *ret);

#endif
