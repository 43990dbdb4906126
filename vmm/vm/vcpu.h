/*
 * One vCPU and its thread. The thread does nothing but KVM_RUN, register accesses of devices (under
 * their lock, no I/O) and saving or loading its own state, so that all vCPUs do that in parallel.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/boot/boot.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/state.h"
#include "vmm/vm/kvm.h"
#include "vmm/vm/vm_end.h"

/* All that a vCPU is, as KVM's own structs. Filled while stopped, by the vCPU's thread. */
struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct kvm_xsave xsave;
	uint64_t xcr0;
	uint32_t nmsrs;
	struct kvm_msr_entry msrs[KVM_MAX_MSRS];
};

extern const struct state_desc vcpu_state_desc;
/*
 * Are its extended registers such as the machine's CPUID offers? Not every KVM asks. 0, or
 * -EBADMSG. Pure.
 */
int vcpu_state_fits(const struct vcpu_state *s, struct machine *m, struct err *e);

/* What a parked vCPU can be asked to do. */
enum vcpu_task { VCPU_TRY_LOAD, VCPU_LOAD, VCPU_SAVE };

/* What all vCPUs of a VM share. */
struct vcpu_env {
	struct kvm *kvm;
	struct machine *machine; /* vCPU 0 learns its tsc_khz */
	struct bus *bus;
	/* The guest is over: this vCPU is going to be parked. Its thread. */
	void (*ended)(void *arg, enum vm_end end, const char *why);
	void *arg;
	bool tsc_offsets; /* this host lets us set TSCs exactly */
};

struct vcpu {
	struct vcpu_env *env;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	pid_t tid; /* atomic: its own word; 0 before it has run */
	bool has_thread;
	bool unfinished; /* kvm_run does not hold the registers yet: one more KVM_RUN before a save
			  */
	bool fresh;	 /* has not run since it was built or booted: what it has is in KVM only */
	bool may_boost;	 /* its thread may have real-time priority while it stops and saves */
	bool boosted;	 /* and has it; under run.lock */
	uint64_t tsc_offset; /* guest TSC minus host TSC: as saved, or to be loaded */
	bool has_tsc_offset;
	uint32_t answered; /* the run.request that this vCPU has answered */
	struct vcpu_state
		state; /* owner: the vCPU thread while it runs, the loop while it is parked */
};

/* Create the vCPU in its reset state (index > 0: waits for INIT/SIPI). Loop thread. */
int vcpu_init(struct vcpu *v, struct vcpu_env *env, unsigned index, struct err *e);
void vcpu_done(struct vcpu *v); /* the thread has ended */
/* Start values for the first vCPU; boot_load() has put what they refer to into memory. */
int vcpu_set_boot(struct vcpu *v, const struct boot_entry *b, struct err *e);
/* The signal that takes a vCPU out of KVM_RUN; its handler does nothing. Once per process. */
#define VCPU_SIGNAL SIGUSR1
void vcpu_setup_signal(void);
/* One KVM_RUN, and what its exit asks for. Its thread, not parked. */
void vcpu_run(struct vcpu *v);
/* KVM -> v->state, and back. 0 or a negative errno; *ret_what names the part that failed. */
int vcpu_save(struct vcpu *v, const char **ret_what);
/* trial: only to see whether this host takes the state; guest memory stays untouched. */
int vcpu_load(struct vcpu *v, bool trial, const char **ret_what);

/* vcpu_tsc.c */
#define MSR_TSC 0x10
/* vCPU 0 learns the machine's TSC frequency if it is not known, others get it. Loop thread. */
int vcpu_set_tsc_khz(struct vcpu *v, struct err *e);
/* By the vCPU's own thread, in vcpu_save() and vcpu_load(). */
int vcpu_tsc_save(struct vcpu *v);
int vcpu_tsc_load(struct vcpu *v);

#endif
