#include "tests/unit/libflat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>
#include <unistd.h>

void flat_open(struct flat *f, struct kvm *k, unsigned index)
{
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = 0x10,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};
	struct kvm_segment exec = data;
	struct kvm_sregs s;

	exec.selector = 8;
	exec.type = 11;
	f->run_size = k->run_size;
	f->fd = kvm_ioctl(k->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
	assert_true(f->fd >= 0);
	f->run = mmap(NULL, f->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	assert_ptr_not_equal(f->run, MAP_FAILED);
	assert_int_equal(kvm_ioctl(f->fd, KVM_SET_CPUID2, k->cpuid), 0);
	assert_int_equal(kvm_ioctl(f->fd, KVM_GET_SREGS, &s), 0);
	s.cs = exec;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 |= 1;
	assert_int_equal(kvm_ioctl(f->fd, KVM_SET_SREGS, &s), 0);
}

void flat_close(struct flat *f)
{
	munmap(f->run, f->run_size);
	close(f->fd);
}

void flat_set(struct flat *f, const struct kvm_regs *regs)
{
	assert_int_equal(kvm_ioctl(f->fd, KVM_SET_REGS, (void *)regs), 0);
}

int flat_run(struct flat *f)
{
	return kvm_ioctl(f->fd, KVM_RUN, NULL);
}
