#include "vmm/vm/kvm_probe.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/machine/mem.h"

#define CR4_OSXSAVE  (1u << 18)
#define XCR0_X87_SSE 3

/* Real mode, at address 0: xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv; hlt */
static const unsigned char code[] = {0x66, 0x31, 0xc9, 0x66, 0x31, 0xd2, 0x66, 0xb8,
				     3,	   0,	 0,    0,    0x0f, 0x01, 0xd1, 0xf4};

static int set_registers(int vcpu)
{
	struct kvm_regs regs = {.rflags = 2};
	struct kvm_sregs s;
	int r = kvm_ioctl(vcpu, KVM_GET_SREGS, &s);

	s.cs.base = s.cs.selector = 0;
	s.cr4 |= CR4_OSXSAVE;
	if (r >= 0)
		r = kvm_ioctl(vcpu, KVM_SET_SREGS, &s);
	return r < 0 ? r : kvm_ioctl(vcpu, KVM_SET_REGS, &regs);
}

/* The code ran to its end, and XCR0 is still what it was at first. */
static bool run(const struct kvm *k, int vcpu)
{
	struct kvm_run *run;
	struct kvm_xcrs x;
	bool lost = false;

	if (kvm_ioctl(vcpu, KVM_SET_CPUID2, k->cpuid) < 0 || set_registers(vcpu) < 0)
		return false;
	run = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return false;
	/* Without interrupt chips HLT comes back at once: nothing here can wait. */
	if (ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_HLT &&
	    kvm_ioctl(vcpu, KVM_GET_XCRS, &x) >= 0 && x.nr_xcrs)
		lost = x.xcrs[0].value != XCR0_X87_SSE;
	munmap(run, k->run_size);
	return lost;
}

bool kvm_probe_loses_xcr0(const struct kvm *k)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEM_PAGE_SIZE};
	int vm = kvm_ioctl(k->sys_fd, KVM_CREATE_VM, NULL), vcpu = -1;
	bool lost = false;
	void *page = mmap(NULL, MEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	if (page != MAP_FAILED && vm >= 0) {
		memcpy(page, code, sizeof(code));
		slot.userspace_addr = (uintptr_t)page;
		if (kvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) >= 0)
			vcpu = kvm_ioctl(vm, KVM_CREATE_VCPU, NULL);
	}
	if (vcpu >= 0) {
		lost = run(k, vcpu);
		close(vcpu);
	}
	if (vm >= 0)
		close(vm);
	if (page != MAP_FAILED)
		munmap(page, MEM_PAGE_SIZE);
	return lost;
}
