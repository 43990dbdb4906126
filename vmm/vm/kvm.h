/*
 * Thin layer over /dev/kvm: what the host offers, one VM with its in-kernel interrupt chips, and
 * the ioctls whose arguments are more than a struct. No policy.
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define KVM_MAX_MSRS  160
#define KVM_MAX_CPUID 256
#define KVM_MAX_SLOTS 2

struct kvm {
	int sys_fd, vm_fd;
	size_t run_size;	  /* bytes of a vCPU's kvm_run mapping */
	struct kvm_cpuid2 *cpuid; /* what the host can offer, for vmm/machine/cpuid.h */
	uint32_t nmsrs;
	uint32_t msrs[KVM_MAX_MSRS]; /* the MSRs that make up a vCPU's state */
	bool manual_protect;	     /* KVM_CLEAR_DIRTY_LOG is there */
	bool tracked;		     /* from dirty_start() to dirty_stop() */
	struct kvm_userspace_memory_region slots[KVM_MAX_SLOTS];
	unsigned nslots;
};

/* Open /dev/kvm, create an empty VM. The message says what is missing. */
int kvm_open(struct kvm *k, struct err *e);
/* PIC, IOAPIC, LAPICs, PIT: before the first vCPU, but after memory, which then costs 3 ms less. */
int kvm_create_chips(struct kvm *k, struct err *e);
void kvm_close(struct kvm *k);
int kvm_add_slot(struct kvm *k, uint64_t gpa, uint64_t bytes, void *host, struct err *e);
/* Dirty logging of all slots on or off. */
int kvm_log_dirty(struct kvm *k, bool on);
/* Signal fd when the guest writes `value` (4 bytes) to gpa. */
int kvm_ioeventfd(struct kvm *k, uint64_t gpa, uint32_t value, int fd);
/* A signal on fd raises the edge-triggered interrupt gsi. */
int kvm_irqfd(struct kvm *k, uint32_t gsi, int fd);
/* ioctl that retries on EINTR; 0 or the positive result, or a negative errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

#endif
