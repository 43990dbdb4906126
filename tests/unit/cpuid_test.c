/*
 * CPUID tables: what a policy makes of what hosts offer, and what another host says to it. The
 * offers are what KVM said on real machines, shortened.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cpuid_rows.h"
#include "vmm/machine/cpuid.h"

#define MAX 64

static struct kvm_cpuid2 *offer(const struct row *rows, unsigned n)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX * sizeof(c->entries[0]));

	assert_true(c && n <= MAX);
	c->nent = n;
	for (unsigned i = 0; i < n; i++) {
		bool sub = rows[i].function == 4 || rows[i].function == 7 ||
			   rows[i].function == 0xb || rows[i].function == 0xd ||
			   rows[i].function == 0x8000001d;

		c->entries[i] = (struct kvm_cpuid_entry2){.function = rows[i].function,
							  .index = rows[i].index,
							  .flags = sub,
							  .eax = rows[i].eax,
							  .ebx = rows[i].ebx,
							  .ecx = rows[i].ecx,
							  .edx = rows[i].edx};
	}
	return c;
}

#define OFFER(rows) offer(rows, sizeof(rows) / sizeof((rows)[0]))

static struct kvm_cpuid_entry2 *at(struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	fail_msg("no leaf %x.%x", function, index);
	return NULL;
}

static void build(const struct kvm_cpuid2 *o, enum cpu_policy p, unsigned vcpus, struct machine *m)
{
	struct err e = {0};

	memset(m, 0, sizeof(*m));
	m->vcpus = vcpus;
	m->mem_bytes = 1ull << 30;
	if (cpuid_build(o, p, m, &e))
		fail_msg("%s: %s", cpuid_policy_name(p), e.msg);
}

static uint32_t reg(struct machine *m, uint32_t function, uint32_t index, enum cpuid_reg r)
{
	struct machine_cpuid *en = cpuid_find(m, function, index);

	return en ? *cpuid_reg(en, r) : 0;
}

/* What would be lost or be wrong at the other side never reaches a guest, whatever is offered. */
static void host_hides(void **state)
{
	struct kvm_cpuid2 *all = OFFER(intel);
	struct machine m;

	for (unsigned i = 0; i < all->nent; i++)
		if (all->entries[i].function != 0 && all->entries[i].function != 0x80000000 &&
		    all->entries[i].function != 4 && all->entries[i].function != 0xd)
			all->entries[i].eax = all->entries[i].ebx = all->entries[i].ecx =
				all->entries[i].edx = ~0u;
	build(all, CPU_HOST, 2, &m);
	for (unsigned i = 0; i < cpuid_nwords; i++) {
		const struct cpuid_word *w = &cpuid_words[i];
		uint32_t topology = w->function == 1 && w->reg == CPUID_EDX ? 1u << 28 : 0;

		assert_int_equal(reg(&m, w->function, w->index, w->reg) &
					 cpuid_mask(w, CPUID_HIDE) & ~topology,
				 0);
	}
	/* By hand, so that the table's own mistakes show. */
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & (1u << 5 | 1u << 3 | 1u << 15), 0);
	assert_int_equal(reg(&m, 7, 0, CPUID_EBX) & (1u << 2 | 1u << 4 | 1u << 11 | 1u << 25), 0);
	assert_int_equal(reg(&m, 7, 0, CPUID_EDX) & (1u << 22 | 1u << 24 | 1u << 25), 0);
	assert_int_equal(reg(&m, 0x80000001, 0, CPUID_ECX) & 1u << 2, 0);
	assert_int_equal(reg(&m, 0x40000001, 0, CPUID_EAX) & (1u << 4 | 1u << 10 | 1u << 14), 0);
	assert_null(cpuid_find(&m, 0x80000007, 0)); /* invariant TSC */
	assert_null(cpuid_find(&m, 5, 0));
	assert_null(cpuid_find(&m, 0xa, 0));
	assert_null(cpuid_find(&m, 0x14, 0));
	assert_null(cpuid_find(&m, 0x1d, 1));
	assert_null(cpuid_find(&m, 0x1f, 0));
	assert_int_equal(reg(&m, 0x40000001, 0, CPUID_EDX), 0);
	free(all);
}

static void host_keeps(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel);
	struct machine m;

	build(o, CPU_HOST, 1, &m);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & 0x91200000, 0x91200000); /* AVX x2APIC kvm */
	assert_int_equal(reg(&m, 7, 0, CPUID_EBX) & 0xd0030020, 0xd0030020);
	assert_int_equal(reg(&m, 0x40000001, 0, CPUID_EAX), 0x01003aeb);
	/* AMX is not carried over: nor is its part of the XSAVE area. */
	assert_int_equal(reg(&m, 0xd, 0, CPUID_EAX), 0x2e7);
	assert_int_equal(reg(&m, 0xd, 0, CPUID_ECX), 0xa88);
	assert_int_equal(reg(&m, 0xd, 1, CPUID_EAX), 0xf);
	assert_int_equal(reg(&m, 0xd, 1, CPUID_ECX), 0);
	assert_null(cpuid_find(&m, 0xd, 17));
	assert_int_equal(reg(&m, 0, 0, CPUID_EAX), 0xd);
	assert_int_equal(reg(&m, 7, 0, CPUID_EAX), 2);
	assert_int_equal(reg(&m, 0x80000000, 0, CPUID_EAX), 0x80000008);
	free(o);
}

static void levels(void **state)
{
	struct kvm_cpuid2 *a = OFFER(intel), *b = OFFER(amd);
	struct machine m;

	build(a, CPU_V1, 1, &m);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX), 1u << 31 | 1u << 24 | 1u << 21);
	assert_int_equal(reg(&m, 1, 0, CPUID_EDX) & 0x07808101, 0x07808101);
	assert_null(cpuid_find(&m, 0xd, 0));
	assert_int_equal(reg(&m, 0x80000001, 0, CPUID_ECX), 0);
	build(a, CPU_V2, 1, &m);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & 0x00982201, 0x00982201);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & 0x3c401000, 0); /* XSAVE AVX F16C FMA MOVBE */
	assert_null(cpuid_find(&m, 0xd, 0));
	build(b, CPU_V2, 1, &m);
	build(a, CPU_V3, 1, &m);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & 0x34401000, 0x34401000);
	assert_int_equal(reg(&m, 7, 0, CPUID_EBX) & 0xffcbfe57, 0); /* AVX2 BMI SMEP SMAP alone */
	assert_int_equal(reg(&m, 7, 0, CPUID_EBX), 0x001001a8);
	assert_int_equal(reg(&m, 0xd, 0, CPUID_EAX), 7);
	assert_int_equal(reg(&m, 0xd, 0, CPUID_ECX), 0x340);
	assert_null(cpuid_find(&m, 0xd, 5));
	assert_int_equal(reg(&m, 0x80000008, 0, CPUID_EAX), 0x3027);
	m.mem_bytes = 1ull << 41;
	assert_int_equal(cpuid_build(a, CPU_V3, &m, NULL), 0);
	assert_int_equal(reg(&m, 0x80000008, 0, CPUID_EAX), 0x302a);
	free(a);
	free(b);
}

/* Two unlike hosts of a vendor show a level alike but for the protections. */
static void level_lacks(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel);
	struct machine m = {.vcpus = 1};
	struct err e = {0};

	at(o, 7, 0)->ebx &= ~(1u << 5);
	assert_int_equal(cpuid_build(o, CPU_V3, &m, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "avx2"));
	assert_non_null(strstr(e.msg, "x86-64-v3"));
	assert_int_equal(cpuid_build(o, CPU_V2, &m, NULL), 0);
	assert_int_equal(cpuid_build(o, CPU_HOST, &m, NULL), 0);
	free(o);
	o = OFFER(intel);
	o->nent = 1; /* no leaf 1 */
	assert_int_equal(cpuid_build(o, CPU_HOST, &m, NULL), -ENOTSUP);
	free(o);
}

/* A host whose KVM cannot keep XCR0 (vmm/vm/kvm.c takes these away): no AVX of any kind. */
static void without_xsave(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel);
	struct machine m = {.vcpus = 1};

	at(o, 1, 0)->ecx &= ~(1u << 26);
	at(o, 0xd, 0)->eax = at(o, 0xd, 0)->ebx = at(o, 0xd, 0)->ecx = 0;
	build(o, CPU_HOST, 1, &m);
	for (unsigned i = 0; i < cpuid_nwords; i++)
		assert_int_equal(
			reg(&m, cpuid_words[i].function, cpuid_words[i].index, cpuid_words[i].reg) &
				cpuid_mask(&cpuid_words[i], CPUID_XSAVE),
			0);
	assert_int_equal(reg(&m, 1, 0, CPUID_ECX) & 0x30001000, 0);
	for (unsigned i = 0; i < m.ncpuid; i++)
		assert_int_not_equal(m.cpuid[i].function, 0xd);
	assert_int_equal(cpuid_build(o, CPU_V3, &m, NULL), -ENOTSUP);
	free(o);
}

static void topology_intel(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel), *c = calloc(1, sizeof(*c) + 128 * 40);
	struct machine m;

	for (unsigned n = 1; n <= MACHINE_MAX_VCPUS; n++) {
		uint32_t bits = n > 4 ? 3 : n > 2 ? 2 : n > 1;

		build(o, CPU_HOST, n, &m);
		assert_int_equal(reg(&m, 4, 0, CPUID_EAX) >> 26, (1u << bits) - 1);
		assert_int_equal(reg(&m, 4, 0, CPUID_EAX) >> 14 & 0xfff, 0);
		assert_int_equal(reg(&m, 4, 3, CPUID_EAX) >> 14 & 0xfff, (1u << bits) - 1);
		for (unsigned i = 0; i < n; i++) {
			cpuid_for_vcpu(&m, i, c);
			assert_int_equal(c->nent, m.ncpuid);
			assert_int_equal(at(c, 1, 0)->ebx, i << 24 | n << 16 | 0x800);
			assert_int_equal(at(c, 1, 0)->edx >> 28 & 1, n > 1);
			assert_int_equal(at(c, 0xb, 0)->ebx, 1);
			assert_int_equal(at(c, 0xb, 0)->eax, 0);
			assert_int_equal(at(c, 0xb, 1)->eax, bits);
			assert_int_equal(at(c, 0xb, 1)->ebx, n);
			assert_int_equal(at(c, 0xb, 1)->edx, i);
			assert_int_equal(at(c, 0xb, 1)->flags, 1);
			assert_int_equal(at(c, 0x80000008, 0)->ecx, 0);
		}
	}
	free(c);
	free(o);
}

static void topology_amd(void **state)
{
	struct kvm_cpuid2 *o = OFFER(amd), *c = calloc(1, sizeof(*c) + 128 * 40);
	struct machine m;

	build(o, CPU_HOST, 3, &m);
	cpuid_for_vcpu(&m, 2, c);
	assert_int_equal(at(c, 0x80000008, 0)->ecx, 0x2002);
	assert_int_equal(at(c, 0x80000001, 0)->ecx & 2, 2);
	assert_int_equal(at(c, 0x8000001e, 0)->eax, 2);
	assert_int_equal(at(c, 0x8000001e, 0)->ebx, 2);
	assert_int_equal(at(c, 0x8000001d, 0)->eax, 0x121);
	assert_int_equal(at(c, 0x8000001d, 3)->eax, 0xc163);
	build(o, CPU_V2, 1, &m);
	assert_null(cpuid_find(&m, 0x8000001e, 0));
	assert_null(cpuid_find(&m, 0x8000001d, 0));
	assert_int_equal(reg(&m, 0x80000001, 0, CPUID_ECX), 1);
	free(c);
	free(o);
}

/* --- another host ------------------------------------------------------------------------------
 */

static void refuses(const struct kvm_cpuid2 *o, const struct machine *m, const char *words)
{
	struct err e = {0};

	assert_int_equal(cpuid_check(o, m, &e), -ENOTSUP);
	if (!strstr(e.msg, words))
		fail_msg("'%s' without '%s'", e.msg, words);
}

static void alike(void **state)
{
	struct kvm_cpuid2 *all[] = {OFFER(intel), OFFER(amd)};
	struct machine m;

	for (unsigned h = 0; h < 2; h++) {
		for (unsigned n = 1; n <= MACHINE_MAX_VCPUS; n++)
			for (unsigned p = CPU_HOST; p <= CPU_V3; p++) {
				struct err e = {0};

				build(all[h], p, n, &m);
				if (cpuid_check(all[h], &m, &e))
					fail_msg("%u %u %u: %s", h, n, p, e.msg);
			}
		free(all[h]);
	}
}

/* Whatever single feature the other host lacks, it is found and named, and nothing else is. */
static void each_feature(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel);
	struct machine m;
	unsigned found = 0;
	char name[32];

	build(o, CPU_HOST, 2, &m);
	for (unsigned i = 0; i < cpuid_nwords; i++)
		for (unsigned bit = 0; bit < 32; bit++) {
			const struct cpuid_word *w = &cpuid_words[i];
			struct kvm_cpuid2 *less = OFFER(intel);
			struct kvm_cpuid_entry2 *en;
			uint32_t *r, ours = reg(&m, w->function, w->index, w->reg);

			if (w->function == 0x80000021 || !(ours >> bit & 1) ||
			    (w->function == 1 && bit >= 28 && w->reg == CPUID_EDX) ||
			    (w->function == 1 && bit == 31)) {
				free(less);
				continue;
			}
			en = at(less, w->function, w->index);
			r = w->reg == CPUID_EAX	  ? &en->eax
			    : w->reg == CPUID_EBX ? &en->ebx
			    : w->reg == CPUID_ECX ? &en->ecx
						  : &en->edx;
			*r &= ~(1u << bit);
			cpuid_feature_name(w, 1u << bit, name, sizeof(name));
			/* Without XSAVE others go, too, and one before it in the list is named. */
			refuses(less, &m,
				w->function == 1 && bit == 26 && w->reg == CPUID_ECX ? "fma"
										     : name);
			found++;
			free(less);
		}
	assert_true(found > 120);
	free(o);
}

static void gives_advice(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel), *less = OFFER(intel);
	struct machine m;

	at(less, 7, 0)->ebx &= ~(1u << 16);
	build(o, CPU_HOST, 1, &m);
	refuses(less, &m,
		"CPU feature avx512f, which this host does not have; start the primary with --cpu "
		"x86-64-v3");
	at(less, 7, 0)->ebx &= ~(1u << 5);
	refuses(less, &m,
		"avx2, which this host does not have; start the primary with --cpu "
		"x86-64-v2");
	build(o, CPU_V3, 1, &m);
	refuses(less, &m, "avx2, which this host does not have; start the guest on this host");
	free(o);
	free(less);
}

static void other_differences(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel), *b = OFFER(amd), *x = OFFER(intel);
	struct machine m, w;

	build(o, CPU_HOST, 1, &m);
	build(o, CPU_V1, 1, &w);
	refuses(b, &w, "another vendor");
	at(x, 0x80000008, 0)->eax = 0x392e;
	refuses(x, &m, "physical addresses");
	at(x, 0x80000008, 0)->eax = 0x3034;
	refuses(x, &m, "la57");
	at(x, 0x80000008, 0)->eax = 0x3934;
	at(x, 0xd, 9)->ebx = 0x980;
	refuses(x, &m, "layout of the XSAVE area");
	at(x, 0xd, 9)->ebx = 0xa80;
	at(x, 0xd, 0)->eax &= ~0x200u;
	refuses(x, &m, "XSAVE area");
	/* A host with more, of another model and topology, is fine. */
	free(x);
	x = OFFER(intel);
	at(x, 1, 0)->eax = 0x000c06f2;
	at(x, 2, 0)->eax++;
	at(x, 4, 3)->eax = 0xfc3fc163;
	assert_int_equal(cpuid_check(x, &w, NULL), 0);
	assert_int_equal(cpuid_check(x, &m, NULL), 0);
	free(o);
	free(b);
	free(x);
}

/* From a peer that makes tables up. */
static void hostile(void **state)
{
	struct kvm_cpuid2 *o = OFFER(intel);
	struct machine m, w;

	build(o, CPU_HOST, 1, &m);
#define BAD(words, ...)                                                                            \
	do {                                                                                       \
		w = m;                                                                             \
		__VA_ARGS__;                                                                       \
		refuses(o, &w, words);                                                             \
	} while (0)
	BAD("vmx", cpuid_find(&w, 1, 0)->ecx |= 1u << 5);
	BAD("svm", cpuid_find(&w, 0x80000001, 0)->ecx |= 1u << 2);
	BAD("kvm_asyncpf", cpuid_find(&w, 0x40000001, 0)->eax |= 1u << 4);
	BAD("amx_tile", cpuid_find(&w, 7, 0)->edx |= 1u << 24);
	BAD("not know", w.cpuid[w.ncpuid++] = (struct machine_cpuid){.function = 0xa, .eax = 8});
	BAD("not know", w.cpuid[w.ncpuid++] = (struct machine_cpuid){.function = 0x80000007});
	BAD("not know",
	    w.cpuid[w.ncpuid++] = (struct machine_cpuid){.function = 7, .index = 3, .eax = 1});
	BAD("not know",
	    w.cpuid[w.ncpuid++] = (struct machine_cpuid){.function = 1, .index = 1, .flags = 1});
	BAD("not know", cpuid_find(&w, 7, 1)->ebx = 1);
	BAD("not know", cpuid_find(&w, 6, 0)->ecx = 1);
	BAD("XSAVE area", cpuid_find(&w, 0xd, 0)->eax |= 1u << 18);
	BAD("XSAVE area", cpuid_find(&w, 0xd, 0)->edx = 1);
	BAD("XSAVE area", w.cpuid[w.ncpuid++] = (struct machine_cpuid){
				  .function = 0xd, .index = 18, .eax = 0x2000, .flags = 1});
	BAD("vendor", cpuid_find(&w, 0, 0)->ebx = 0);
#undef BAD
	free(o);
}

/* Any offer at all: no more leaves than fit, and itself is content with it. */
static void any_offer(void **state)
{
	struct kvm_cpuid2 *o = calloc(1, sizeof(*o) + 256 * sizeof(o->entries[0]));
	struct machine m = {.vcpus = 8};

	srand(1);
	for (unsigned round = 0; round < 2000; round++) {
		o->nent = 256;
		for (unsigned i = 0; i < o->nent; i++) {
			uint32_t bases[] = {0, 0x80000000, 0x40000000};

			o->entries[i] = (struct kvm_cpuid_entry2){
				.function = bases[rand() % 3] + (uint32_t)(rand() % 0x24),
				.index = (uint32_t)(rand() % 12),
				.eax = (uint32_t)rand() * 3u,
				.ebx = (uint32_t)rand() * 3u,
				.ecx = (uint32_t)rand() * 3u,
				.edx = (uint32_t)rand() * 3u};
		}
		for (unsigned i = 0; i < 2; i++)
			o->entries[i].function = i, o->entries[i].index = 0;
		if (!cpuid_build(o, CPU_HOST, &m, NULL))
			assert_int_equal(cpuid_check(o, &m, NULL), 0);
		assert_true(m.ncpuid <= MACHINE_MAX_CPUID);
	}
	free(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_hides),
		cmocka_unit_test(host_keeps),
		cmocka_unit_test(levels),
		cmocka_unit_test(level_lacks),
		cmocka_unit_test(without_xsave),
		cmocka_unit_test(topology_intel),
		cmocka_unit_test(topology_amd),
		cmocka_unit_test(alike),
		cmocka_unit_test(each_feature),
		cmocka_unit_test(gives_advice),
		cmocka_unit_test(other_differences),
		cmocka_unit_test(hostile),
		cmocka_unit_test(any_offer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
