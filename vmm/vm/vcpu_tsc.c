/* A vCPU's TSC: how fast it counts, and by how much it is ahead of the host's. */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vm/vcpu.h"

/* A guest measures its TSC once: on a host where it counts at another rate its time would drift. */
#define TSC_TOLERANCE_PERCENT 1

static int offset_attr(const struct vcpu *v, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};

	return kvm_ioctl(v->fd, request, &attr);
}

/* Some hosts say yes and leave the TSC as it is. */
static bool can_set_offset(const struct vcpu *v)
{
	uint64_t old = 0, probe, now = 0;

	if (offset_attr(v, KVM_GET_DEVICE_ATTR, &old) < 0)
		return false;
	probe = old + (1 << 20);
	return offset_attr(v, KVM_SET_DEVICE_ATTR, &probe) >= 0 &&
	       offset_attr(v, KVM_GET_DEVICE_ATTR, &now) >= 0 && now == probe &&
	       offset_attr(v, KVM_SET_DEVICE_ATTR, &old) >= 0;
}

int vcpu_set_tsc_khz(struct vcpu *v, struct err *e)
{
	struct vcpu_env *env = v->env;
	uint32_t want = env->machine->tsc_khz, diff;
	int have = kvm_ioctl(v->fd, KVM_GET_TSC_KHZ, NULL), r;

	if (have <= 0)
		return err_set(e, have ? have : -EIO, "vCPU %u: KVM_GET_TSC_KHZ: %s", v->index,
			       strerror(-have));
	if (!want)
		want = env->machine->tsc_khz = (uint32_t)have;
	if (want == (uint32_t)have) {
		/* Not with a scaled TSC: its exact ratio is KVM's secret. */
		if (v->index == 0)
			env->tsc_offsets = can_set_offset(v);
		return 0;
	}
	/* Without the capability KVM says yes to a faster TSC and emulates it by catching up. */
	if (ioctl(env->kvm->sys_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0) {
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

int vcpu_tsc_save(struct vcpu *v)
{
	v->has_tsc_offset = v->env->tsc_offsets;
	return v->has_tsc_offset ? offset_attr(v, KVM_GET_DEVICE_ATTR, &v->tsc_offset) : 0;
}

int vcpu_tsc_load(struct vcpu *v)
{
	return v->has_tsc_offset ? offset_attr(v, KVM_SET_DEVICE_ATTR, &v->tsc_offset) : 0;
}
