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

/* What becomes of a feature bit; without any of these a guest of policy "host" has the host's. */
enum {
	CPUID_HIDE = 1,	 /* no guest has it: see vmm/machine/cpuid_words.c */
	CPUID_XSAVE = 2, /* useless without XSAVE */
	CPUID_V1 = 4,	 /* a level adds it, */
	CPUID_V2 = 8,
	CPUID_V3 = 16,
	CPUID_MAY = 32, /* or has it if the host does */
};

/* A register of feature bits. */
struct cpuid_word {
	uint32_t function, index;
	enum cpuid_reg reg;
	uint8_t rest; /* rules of the bits that have neither name nor rules */
	struct {
		const char *name; /* as in /proc/cpuinfo where it is there; NULL: none */
		uint8_t rules;
	} bits[32];
};

extern const struct cpuid_word cpuid_words[];
extern const unsigned cpuid_nwords;
/* The bits to which any of these rules applies. */
uint32_t cpuid_mask(const struct cpuid_word *w, unsigned rules);
/* The first of these bits by its name, or by its place. */
void cpuid_feature_name(const struct cpuid_word *w, uint32_t bits, char *ret, size_t cap);

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

/* The entry of a table, or NULL. */
struct machine_cpuid *cpuid_find(struct machine *m, uint32_t function, uint32_t index);
uint32_t *cpuid_reg(struct machine_cpuid *en, enum cpuid_reg reg);

#endif
