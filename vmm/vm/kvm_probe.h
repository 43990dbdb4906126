/* What a host's KVM gets wrong and does not say: found out by running a few instructions. */
#ifndef VMM_KVM_PROBE_H
#define VMM_KVM_PROBE_H

#include <stdbool.h>

#include "vmm/vm/kvm.h"

/*
 * Does KVM miss that a guest sets XCR0? Seen where KVM itself runs under an emulator that lets
 * XSETBV through: after the next exit the guest's AVX state is gone. Needs k->sys_fd and k->cpuid.
 */
bool kvm_probe_loses_xcr0(const struct kvm *k);

#endif
