/* A vCPU of a real KVM that begins in 32 bits, flat, without paging. */
#ifndef TESTS_LIBFLAT_H
#define TESTS_LIBFLAT_H

#include "vmm/vm/kvm.h"

struct flat {
	int fd;
	struct kvm_run *run;
	size_t run_size;
};

void flat_open(struct flat *f, struct kvm *k, unsigned index);
void flat_close(struct flat *f);
/* Where it begins, and with which registers. */
void flat_set(struct flat *f, const struct kvm_regs *regs);
/* Until it halts. 0, or what KVM_RUN said. */
int flat_run(struct flat *f);

#endif
