#include "vmm/machine/cpuid.h"

#include <errno.h>
#include <string.h>

#include "vmm/machine/mem.h"

#define BIT(n)	    (1u << (n))
#define ROWS(a)	    (sizeof(a) / sizeof((a)[0]))
#define INDEXED	    KVM_CPUID_FLAG_SIGNIFCANT_INDEX
#define ECX_XSAVE   BIT(26) /* in leaf 1 */
#define XCR0_CARRY  0x2e7u  /* x87, SSE, AVX, AVX-512, PKRU: what fits into struct kvm_xsave */
#define XCR0_AVX512 0xe0u
#define XCR0_V3	    7u

/* All other leaves are left out, so that nothing of a host is shown which nobody here checks. */
static const struct {
	uint32_t function, max_index;
	bool level; /* also in a table of a level */
} leaves[] = {
	{0, 0, true},	       {1, 0, true},	       {2, 0, true},
	{4, 7, true},	       {6, 0, true},	       {7, 2, true},
	{0xd, 9, true},	       {0x40000000, 0, true},  {0x40000001, 0, true},
	{0x80000000, 0, true}, {0x80000001, 0, true},  {0x80000006, 0, true},
	{0x80000008, 0, true}, {0x8000001d, 7, false}, {0x80000021, 0, false},
};

static const char *const policy_names[] = {
	[CPU_HOST] = "host",
	[CPU_V1] = "x86-64-v1",
	[CPU_V2] = "x86-64-v2",
	[CPU_V3] = "x86-64-v3",
};

const char *cpuid_policy_name(unsigned policy)
{
	return policy < ROWS(policy_names) ? policy_names[policy] : NULL;
}

struct machine_cpuid *cpuid_find(struct machine *m, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < m->ncpuid; i++)
		if (m->cpuid[i].function == function && m->cpuid[i].index == index)
			return &m->cpuid[i];
	return NULL;
}

uint32_t *cpuid_reg(struct machine_cpuid *en, enum cpuid_reg reg)
{
	uint32_t *const regs[] = {&en->eax, &en->ebx, &en->ecx, &en->edx};

	return regs[reg];
}

/* --- making a table --------------------------------------------------------------------------- */

static const char *copy_leaves(const struct kvm_cpuid2 *offer, struct machine *m)
{
	for (uint32_t i = 0; i < offer->nent; i++) {
		const struct kvm_cpuid_entry2 *o = &offer->entries[i];
		unsigned l = 0;

		while (l < ROWS(leaves) && leaves[l].function != o->function)
			l++;
		if (l == ROWS(leaves) || o->index > leaves[l].max_index ||
		    (m->cpu != CPU_HOST && !leaves[l].level) ||
		    cpuid_find(m, o->function, o->index))
			continue;
		if (m->ncpuid == MACHINE_MAX_CPUID)
			return "more leaves than a machine can have";
		m->cpuid[m->ncpuid++] = (struct machine_cpuid){
			o->function, o->index, o->flags & INDEXED, o->eax, o->ebx, o->ecx, o->edx};
	}
	return NULL;
}

static struct machine_cpuid *add_leaf(struct machine *m, uint32_t function, uint32_t index,
				      uint32_t flags)
{
	struct machine_cpuid *en = &m->cpuid[m->ncpuid];

	/* copy_leaves() takes at most 45: there is always room. */
	if (m->ncpuid == MACHINE_MAX_CPUID)
		return &m->cpuid[m->ncpuid - 1];
	m->ncpuid++;
	*en = (struct machine_cpuid){.function = function, .index = index, .flags = flags};
	return en;
}

/* What a level needs: what it adds, and those below it add. */
static unsigned needed(enum cpu_policy policy)
{
	unsigned rules = 0;

	for (unsigned v = 0; v < (unsigned)policy; v++)
		rules |= CPUID_V1 << v;
	return rules;
}

static uint32_t word_mask(const struct cpuid_word *w, enum cpu_policy policy, bool xsave)
{
	uint32_t mask = policy == CPU_HOST ? ~0u : cpuid_mask(w, needed(policy) | CPUID_MAY);

	return mask & ~cpuid_mask(w, CPUID_HIDE | (xsave ? 0 : CPUID_XSAVE));
}

/* Feature registers are masked, others of the same leaves are what is known to be no feature. */
static void mask_features(struct machine *m, bool xsave)
{
	for (uint32_t i = 0; i < m->ncpuid; i++) {
		struct machine_cpuid was = m->cpuid[i], *en = &m->cpuid[i];

		if (en->function == 6 || en->function == 7 || en->function == 0x40000001)
			en->eax = en->ebx = en->ecx = en->edx = 0;
		if (en->function == 0x80000021 || en->function == 0x80000008)
			en->ebx = en->ecx = en->edx = 0;
		for (unsigned w = 0; w < cpuid_nwords; w++)
			if (cpuid_words[w].function == en->function &&
			    cpuid_words[w].index == en->index)
				*cpuid_reg(en, cpuid_words[w].reg) =
					*cpuid_reg(&was, cpuid_words[w].reg) &
					word_mask(&cpuid_words[w], m->cpu, xsave);
	}
}

static bool is_amd(struct machine *m)
{
	const struct machine_cpuid *en = cpuid_find(m, 0, 0);

	/* "AuthenticAMD", "HygonGenuine" */
	return en && (en->ebx == 0x68747541 || en->ebx == 0x6f677948);
}

/*
 * XCR0 and the parts of the XSAVE area. A host that does not offer XSAVE but has the leaf all the
 * same (its guests see more than KVM says) keeps it: KVM saves by it.
 */
static void set_xsave(struct machine *m, bool xsave)
{
	struct machine_cpuid *head = cpuid_find(m, 0xd, 0);
	uint32_t xcr0 = head ? head->eax & XCR0_CARRY : 0, size = 576;

	if (m->cpu != CPU_HOST)
		xcr0 = xsave ? xcr0 & XCR0_V3 : 0;
	if ((xcr0 & XCR0_AVX512) != XCR0_AVX512)
		xcr0 &= ~XCR0_AVX512;
	for (uint32_t i = 0; i < m->ncpuid; i++) {
		struct machine_cpuid *en = &m->cpuid[i];

		if (en->function != 0xd)
			continue;
		if (en->index == 1)
			en->ebx = en->ecx = en->edx = 0; /* no supervisor states */
		else if (en->index && !(xcr0 & BIT(en->index)))
			en->eax = en->ebx = en->ecx = en->edx = 0;
		else if (en->index && en->eax + en->ebx > size)
			size = en->eax + en->ebx;
	}
	if (!head)
		return;
	head->eax = xcr0;
	head->ebx = head->ecx = xcr0 ? size : 0; /* KVM makes EBX what XCR0 needs just now */
	head->edx = 0;
}

static uint32_t bits_for(uint32_t n)
{
	uint32_t bits = 0;

	while (BIT(bits) < n)
		bits++;
	return bits;
}

/* Deterministic cache parameters, leaf 4 of Intel, 0x8000001d of AMD: L3 is shared by all. */
static void set_cache(struct machine_cpuid *en, uint32_t max_id)
{
	bool shared = (en->eax >> 5 & 7) >= 3;

	if (!(en->eax & 0x1f)) {
		en->eax = en->ebx = en->ecx = en->edx = 0;
		return;
	}
	en->eax = (en->eax & 0x3fff) | (shared ? max_id << 14 : 0) |
		  (en->function == 4 ? max_id << 26 : 0);
}

/* One package of single-thread cores, whose APIC ids are 0, 1, 2 ... */
static void set_topology(struct machine *m)
{
	uint32_t bits = bits_for(m->vcpus), max_id = BIT(bits) - 1;
	bool amd = is_amd(m), topoext = false;
	struct machine_cpuid *en;

	for (uint32_t i = 0; i < m->ncpuid; i++) {
		en = &m->cpuid[i];
		switch (en->function) {
		case 1:
			en->ebx = (en->ebx & 0xff00) | m->vcpus << 16;
			en->ecx |= BIT(31); /* a hypervisor: guests then look for kvmclock */
			en->edx |= m->vcpus > 1 ? BIT(28) : 0;
			break;
		case 4:
		case 0x8000001d:
			set_cache(en, max_id);
			break;
		case 0x80000001:
			en->ecx |= amd && m->vcpus > 1 ? BIT(1) : 0;
			topoext = en->ecx & BIT(22);
			break;
		case 0x80000008:
			en->ecx = amd ? (m->vcpus - 1) | bits << 12 : 0;
			break;
		}
	}
	en = add_leaf(m, 0xb, 0, INDEXED); /* threads of a core */
	en->ebx = 1;
	en->ecx = 0x100;
	en = add_leaf(m, 0xb, 1, INDEXED); /* cores of the package */
	en->eax = bits;
	en->ebx = m->vcpus;
	en->ecx = 0x201;
	if (topoext)
		add_leaf(m, 0x8000001e, 0, 0)->ebx = 0;
}

/* What /proc/cpuinfo calls it; KVM leaves that to us. */
static void set_brand(struct machine *m)
{
	char text[48] = "ftvmm virtual CPU, ";

	strcat(text, policy_names[m->cpu]);
	for (unsigned i = 0; i < 3; i++) {
		struct machine_cpuid *en = add_leaf(m, 0x80000002 + i, 0, 0);

		memcpy(&en->eax, text + i * 16, 4);
		memcpy(&en->ebx, text + i * 16 + 4, 4);
		memcpy(&en->ecx, text + i * 16 + 8, 4);
		memcpy(&en->edx, text + i * 16 + 12, 4);
	}
}

static bool says_nothing(const struct machine_cpuid *en)
{
	/* To these the vCPU adds its number, or the limit follows. */
	if (en->function == 0xb || en->function == 0x8000001e || !(en->function & 0x0fffffff))
		return false;
	return !(en->eax | en->ebx | en->ecx | en->edx);
}

/* Leaves of zeros are answered with zeros anyway; the limits are those of what is left. */
static void tidy(struct machine *m)
{
	struct machine_cpuid *head;
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->ncpuid; i++)
		if (!says_nothing(&m->cpuid[i]))
			m->cpuid[n++] = m->cpuid[i];
	memset(&m->cpuid[n], 0, (m->ncpuid - n) * sizeof(m->cpuid[0]));
	m->ncpuid = n;
	for (uint32_t i = 0; i < n; i++)
		if (!(m->cpuid[i].function & 0x0fffffff))
			m->cpuid[i].eax = m->cpuid[i].function;
	for (uint32_t i = 0; i < n; i++) {
		const struct machine_cpuid *en = &m->cpuid[i];

		head = cpuid_find(m, en->function & 0xf0000000, 0);
		if (head && head->eax < en->function)
			head->eax = en->function;
		head = cpuid_find(m, 7, 0);
		if (en->function == 7 && head && head->eax < en->index)
			head->eax = en->index;
	}
}

/* Enough for the machine's RAM, and no more than the smallest hosts have. */
static void set_address_bits(struct machine *m)
{
	struct machine_cpuid *en = cpuid_find(m, 0x80000008, 0);
	uint32_t bits = 39;

	if (!en || m->cpu == CPU_HOST)
		return;
	while ((m->mem_bytes + MEM_HIGH_BASE) >> bits)
		bits++;
	en->eax = 48 << 8 | (bits < (en->eax & 0xff) ? bits : en->eax & 0xff);
}

static int check_level(struct machine *m, struct err *e)
{
	char name[32];

	for (unsigned i = 0; i < cpuid_nwords; i++) {
		const struct cpuid_word *w = &cpuid_words[i];
		struct machine_cpuid *en = cpuid_find(m, w->function, w->index);
		uint32_t lacks = cpuid_mask(w, needed(m->cpu));

		lacks &= en ? ~*cpuid_reg(en, w->reg) : ~0u;
		if (!lacks)
			continue;
		cpuid_feature_name(w, lacks, name, sizeof(name));
		return err_set(e, -ENOTSUP,
			       "--cpu %s: KVM on this host does not offer CPU feature %s; choose a "
			       "lower level",
			       policy_names[m->cpu], name);
	}
	return 0;
}

int cpuid_build(const struct kvm_cpuid2 *offer, enum cpu_policy policy, struct machine *m,
		struct err *e)
{
	const struct machine_cpuid *one;
	const char *why;
	bool xsave;

	memset(m->cpuid, 0, sizeof(m->cpuid));
	m->ncpuid = 0;
	m->cpu = policy;
	why = copy_leaves(offer, m);
	one = cpuid_find(m, 1, 0);
	if (why || !one || !cpuid_find(m, 0, 0))
		return err_set(e, -ENOTSUP, "CPUID: KVM offers %s", why ? why : "no leaf 1");
	xsave = one->ecx & ECX_XSAVE && (policy == CPU_HOST || policy >= CPU_V3);
	mask_features(m, xsave);
	set_xsave(m, xsave);
	set_address_bits(m);
	set_topology(m);
	set_brand(m);
	tidy(m);
	return check_level(m, e);
}

void cpuid_for_vcpu(const struct machine *m, unsigned index, struct kvm_cpuid2 *ret)
{
	memset(ret, 0, sizeof(*ret) + m->ncpuid * sizeof(ret->entries[0]));
	ret->nent = m->ncpuid;
	for (uint32_t i = 0; i < m->ncpuid; i++) {
		const struct machine_cpuid *c = &m->cpuid[i];
		struct kvm_cpuid_entry2 *en = &ret->entries[i];

		*en = (struct kvm_cpuid_entry2){.function = c->function,
						.index = c->index,
						.flags = c->flags,
						.eax = c->eax,
						.ebx = c->ebx,
						.ecx = c->ecx,
						.edx = c->edx};
		if (c->function == 1)
			en->ebx |= index << 24;
		else if (c->function == 0xb)
			en->edx = index;
		else if (c->function == 0x8000001e)
			en->eax = en->ebx = index;
	}
}
