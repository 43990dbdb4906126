/* The guest's time: TSC and kvmclock. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vm.h"
#include "vmm/vm_internal.h"

/* A guest measures its TSC once: on a host where it counts at another rate its time would drift. */
#define TSC_TOLERANCE_PERCENT 1

int vcpu_set_tsc_khz(struct vcpu *v, struct err *e)
{
	struct vm *vm = v->vm;
	uint32_t want = vm->machine.tsc_khz, diff;
	int have = kvm_ioctl(v->fd, KVM_GET_TSC_KHZ, NULL), r;

	if (have <= 0)
		return err_set(e, have ? have : -EIO, "vCPU %u: KVM_GET_TSC_KHZ: %s", v->index,
			       strerror(-have));
	if (!want)
		want = vm->machine.tsc_khz = (uint32_t)have;
	if (want == (uint32_t)have)
		return 0;
	/* Without the capability KVM says yes to a faster TSC and emulates it by catching up. */
	if (ioctl(vm->kvm.sys_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0) {
		r = kvm_ioctl(v->fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)want);
		if (r >= 0)
			return 0;
	}
	diff = want > (uint32_t)have ? want - (uint32_t)have : (uint32_t)have - want;
	if ((uint64_t)diff * 100 <= (uint64_t)have * TSC_TOLERANCE_PERCENT)
		return 0;
	return err_set(
		e, -ENOTSUP,
		"the guest's TSC counts at %u kHz, this host's at %d kHz, and it cannot scale "
		"it; pair hosts that differ by at most %d %%",
		want, have, TSC_TOLERANCE_PERCENT);
}
