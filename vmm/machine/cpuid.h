/*
 * What the guest's CPUs are: a policy makes the CPUID table of a machine from what a host offers;
 * the table travels with the machine, and another host checks that it can offer the same. Pure
 * functions over the tables.
 *
 *   host         all that the host offers and ftvmm can carry over to another side
 *   x86-64-v1..3 the psABI level, what every guest needs, and protections that the host has
 */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <linux/kvm.h>
#include <stddef.h>

#include "vmm/base/err.h"
#include "vmm/machine/machine.h"

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* A register of feature bits. */
struct cpuid_word {
	uint32_t function, index;
	enum cpuid_reg reg;
	uint32_t hidden;  /* no guest has these: see vmm/machine/cpuid.c */
	uint32_t xsave;	  /* useless without XSAVE */
	uint32_t need[3]; /* what level v1, v2, v3 adds */
	uint32_t may;	  /* in every level if the host has it */
};

extern const struct cpuid_word cpuid_words[];
extern const unsigned cpuid_nwords;

/* The names of --cpu; NULL beyond the last. */
const char *cpuid_policy_name(unsigned policy);

/*
 * Fill m->cpu and m->cpuid for m->vcpus from what KVM offers (KVM_GET_SUPPORTED_CPUID as
 * vmm/vm/kvm.c completes it). -ENOTSUP: names the feature that the level needs and the host lacks.
 */
int cpuid_build(const struct kvm_cpuid2 *offer, enum cpu_policy policy, struct machine *m,
		struct err *e);
/* Has this host all that the machine's guest was told of? -ENOTSUP: names what it lacks. */
int cpuid_check(const struct kvm_cpuid2 *offer, const struct machine *want, struct err *e);
/* The table as vCPU `index` has it; ret has room for MACHINE_MAX_CPUID entries. */
void cpuid_for_vcpu(const struct machine *m, unsigned index, struct kvm_cpuid2 *ret);

/* The first of these bits, as /proc/cpuinfo calls it where it has a name. */
void cpuid_feature_name(const struct cpuid_word *w, uint32_t bits, char *ret, size_t cap);
/* The entry of a table, or NULL. */
struct machine_cpuid *cpuid_find(struct machine *m, uint32_t function, uint32_t index);
uint32_t *cpuid_reg(struct machine_cpuid *en, enum cpuid_reg reg);

#endif
