/*
 * KVM's dirty log without KVM, for programs that are linked with its calls wrapped (Makefile): a
 * guest that writes sets the bit of the page, which stays until it is cleared (manual protect).
 */
#ifndef TESTS_LIBKVM_MODEL_H
#define TESTS_LIBKVM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/mem.h"
#include "vmm/vm/kvm.h"

struct kvm_model {
	struct kvm kvm;
	uint64_t *bits;
	uint64_t npages;
	unsigned gets, clears;
	uint64_t busy; /* so many pages are written again as soon as they are protected */
	int fail;      /* what the next calls return, if not 0 */
};

extern struct kvm_model kvm_model;

void kvm_model_start(const struct mem *m);
void kvm_model_end(void);
/* One word of a page, by the guest. */
void guest_writes(struct mem *m, uint64_t page, unsigned word, uint64_t value);

#endif
