/*
 * The guest's time: kvmclock and TSC, which go on together.
 *
 * Two counters are carried over: kvmclock (ns) and each vCPU's TSC. They are saved as of one moment
 * where KVM says what its host's TSC was at that of its clock (KVM_CLOCK_HOST_TSC), and loaded so
 * that they meet again: else Linux, which compares them, would call its TSC unstable, and vCPUs
 * would not agree on it.
 *
 * After a takeover both are put forward by how long the guest did not exist, by the clock of this
 * side alone: since the last epoch began to arrive. That is never more than the true time, and the
 * guest's clock never goes back behind what it was when it last said anything to anyone. A snapshot
 * goes on where it was: how long it lay is not the guest's to know, its RTC says what time it is.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "vmm/vm/vm_internal.h"

#define NS_PER_S 1000000000ull

/* Where the TSC is in the state of a vCPU; NULL when a peer has left it out. */
static uint64_t *tsc_of(struct vcpu *v)
{
	for (uint32_t i = 0; i < v->state.nmsrs; i++)
		if (v->state.msrs[i].index == MSR_TSC)
			return (uint64_t *)&v->state.msrs[i].data;
	return NULL;
}

int vm_clock_save(struct vm *vm)
{
	struct kvm_clock_data clock;
	int r;

	memset(&clock, 0, sizeof(clock));
	r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_CLOCK, &clock);
	if (r < 0)
		return r;
	vm->chips.clock_ns = clock.clock;
	vm->chips.tsc_exact = vm->vcpu_env.tsc_offsets && clock.flags & KVM_CLOCK_HOST_TSC;
	for (unsigned i = 0; i < vm->machine.vcpus && vm->chips.tsc_exact; i++) {
		uint64_t *tsc = tsc_of(&vm->vcpus[i]);

		if (tsc)
			*tsc = clock.host_tsc + vm->vcpus[i].tsc_offset;
	}
	return 0;
}

/*
 * TSCs that were read one after the other differ by the time between. What is within a second of
 * the highest was the same, as KVM sees it, too; none goes back.
 */
static void level_tscs(struct vm *vm)
{
	uint64_t second = vm->machine.tsc_khz * 1000ull, max = 0, *tsc;

	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		tsc = tsc_of(&vm->vcpus[i]);
		max = tsc && *tsc > max ? *tsc : max;
	}
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		tsc = tsc_of(&vm->vcpus[i]);
		if (tsc && max - *tsc < second)
			*tsc = max;
	}
}

int vm_clock_load(struct vm *vm, uint64_t advance_ns, struct err *e)
{
	struct kvm_clock_data set = {.clock = vm->chips.clock_ns + advance_ns}, now;
	uint64_t ticks;
	bool exact;
	int r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_CLOCK, &set);

	if (r < 0)
		return err_set(e, r, "kvmclock: this host refuses the state: %s", strerror(-r));
	memset(&now, 0, sizeof(now));
	exact = vm->vcpu_env.tsc_offsets && kvm_ioctl(vm->kvm.vm_fd, KVM_GET_CLOCK, &now) >= 0 &&
		now.flags & KVM_CLOCK_HOST_TSC;
	if (exact)
		advance_ns += now.clock - set.clock;
	ticks = (unsigned __int128)advance_ns * vm->machine.tsc_khz / 1000000;
	if (!vm->chips.tsc_exact)
		level_tscs(vm);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		uint64_t *tsc = tsc_of(v);

		v->has_tsc_offset = tsc && exact;
		if (!tsc)
			continue;
		*tsc += ticks;
		v->tsc_offset = *tsc - now.host_tsc;
	}
	return 0;
}

/* So that its watchdogs do not bark; a guest without kvmclock refuses, and has none. */
void vm_clock_resume(struct vm *vm)
{
	if (!vm->run.paused_ns || loop_now_ns() - vm->run.paused_ns < NS_PER_S)
		return;
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		kvm_ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, NULL);
}
