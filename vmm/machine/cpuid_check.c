/* Can this host be what the guest was told its CPUs are? */
#include <errno.h>

#include "vmm/machine/cpuid.h"

#define FIRST_STATE 2 /* subleaves of 0xd from here on describe parts of the XSAVE area */

/* The highest level that this host has, as the end of a message. */
static const char *advice(const struct kvm_cpuid2 *offer, const struct machine *want)
{
	static const char *const text[] = {
		[CPU_V1] = "; start the primary with --cpu x86-64-v1",
		[CPU_V2] = "; start the primary with --cpu x86-64-v2",
		[CPU_V3] = "; start the primary with --cpu x86-64-v3",
	};
	struct machine m = {.vcpus = want->vcpus, .mem_bytes = want->mem_bytes};

	for (unsigned v = CPU_V3; v >= CPU_V1; v--)
		if (want->cpu == CPU_HOST && !cpuid_build(offer, v, &m, NULL))
			return text[v];
	return "; start the guest on this host and protect it from the other one";
}

static int lacks(const struct kvm_cpuid2 *offer, const struct machine *want, const char *what,
		 struct err *e)
{
	return err_set(e, -ENOTSUP,
		       "the guest uses CPU feature %s, which this host does not have%s", what,
		       advice(offer, want));
}

/* A leaf that no rule here judges could tell the guest anything. */
static bool known(const struct machine_cpuid *en)
{
	switch (en->function) {
	case 0:
	case 1:
	case 2:
	case 6:
	case 0x40000000:
	case 0x40000001:
	case 0x80000000 ... 0x80000004:
	case 0x80000006:
	case 0x80000008:
	case 0x8000001e:
	case 0x80000021:
		return en->index == 0;
	case 4:
	case 7:
	case 0xb:
	case 0xd:
	case 0x8000001d:
		return true;
	}
	return false;
}

static int check_words(const struct kvm_cpuid2 *offer, struct machine *have, struct machine *want,
		       struct err *e)
{
	char name[32];

	for (unsigned i = 0; i < cpuid_nwords; i++) {
		const struct cpuid_word *w = &cpuid_words[i];
		struct machine_cpuid *a = cpuid_find(have, w->function, w->index);
		struct machine_cpuid *b = cpuid_find(want, w->function, w->index);
		uint32_t missing = b ? *cpuid_reg(b, w->reg) : 0;

		missing &= a ? ~*cpuid_reg(a, w->reg) : ~0u;
		if (!missing)
			continue;
		cpuid_feature_name(w, missing, name, sizeof(name));
		return lacks(offer, want, name, e);
	}
	return 0;
}

static bool is_feature_leaf(const struct machine_cpuid *en)
{
	return en->function == 6 || en->function == 7 || en->function == 0x40000001 ||
	       en->function == 0x80000021;
}

/* The registers of such leaves that are no words, too. EAX of 7.0 is the number of its subleaves.
 */
static bool has_more(const struct machine_cpuid *a, const struct machine_cpuid *en)
{
	static const struct machine_cpuid none;
	uint32_t eax = en->function == 7 && en->index == 0 ? 0 : en->eax;

	a = a ? a : &none;
	return eax & ~a->eax || en->ebx & ~a->ebx || en->ecx & ~a->ecx || en->edx & ~a->edx;
}

/* What else must agree, leaf by leaf. NULL, or what this host does not have. */
static const char *check_leaf(struct machine *have, const struct machine_cpuid *en)
{
	const struct machine_cpuid *a = cpuid_find(have, en->function, en->index);

	if (!known(en))
		return "of a CPUID leaf that this version does not know";
	if (is_feature_leaf(en) && has_more(a, en))
		return "of a CPUID leaf that this version does not know";
	if (en->function == 0x80000008 && (!a || (a->eax & 0xff) < (en->eax & 0xff)))
		return "of longer physical addresses";
	if (en->function == 0x80000008 && (a->eax >> 8 & 0xff) < (en->eax >> 8 & 0xff))
		return "la57";
	if (en->function != 0xd)
		return NULL;
	if (en->index == 0 && (en->edx || en->eax & ~(a ? a->eax : 0)))
		return "of a larger XSAVE area";
	if (en->index >= FIRST_STATE &&
	    (!a || a->eax != en->eax || a->ebx != en->ebx || a->ecx != en->ecx))
		return "of another layout of the XSAVE area";
	return NULL;
}

static bool same_vendor(struct machine *a, struct machine *b)
{
	const struct machine_cpuid *x = cpuid_find(a, 0, 0), *y = cpuid_find(b, 0, 0);

	return x && y && x->ebx == y->ebx && x->ecx == y->ecx && x->edx == y->edx;
}

int cpuid_check(const struct kvm_cpuid2 *offer, const struct machine *want, struct err *e)
{
	struct machine have = {.vcpus = want->vcpus, .mem_bytes = want->mem_bytes}, w = *want;
	int r = cpuid_build(offer, CPU_HOST, &have, e);

	if (!r && !same_vendor(&have, &w))
		return err_set(
			e, -ENOTSUP,
			"the guest's CPU is of another vendor than this host's: pair hosts of "
			"one vendor");
	if (!r)
		r = check_words(offer, &have, &w, e);
	for (uint32_t i = 0; i < w.ncpuid && !r; i++) {
		const char *what = check_leaf(&have, &w.cpuid[i]);

		if (what)
			r = lacks(offer, want, what, e);
	}
	return r;
}
