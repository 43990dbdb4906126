/*
 * CPUID: what a table makes of what a host offers, and whether another host can be what a guest was
 * told. Two hosts, each a real one with edits, and the table of a machine, made at the first and
 * edited too (as a peer may send it), offered to the second. What a host makes, the same host
 * takes; what is taken, the host has.
 *
 * Input: a byte for hosts and policy, then edits {what, row, place, value...} (see edit()).
 */
#include <errno.h>

#include "tests/fuzz/fuzz.h"
#include "tests/unit/cpuid_rows.h"

#include "vmm/machine/cpuid.h"

#define MAX 80

struct host {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 room[MAX];
};

static void fill(struct host *h, const struct row *rows, unsigned n)
{
	memset(h, 0, sizeof(*h));
	h->head.nent = n;
	for (unsigned i = 0; i < n; i++)
		h->head.entries[i] = (struct kvm_cpuid_entry2){.function = rows[i].function,
							       .index = rows[i].index,
							       .eax = rows[i].eax,
							       .ebx = rows[i].ebx,
							       .ecx = rows[i].ecx,
							       .edx = rows[i].edx};
}

static void fill_either(struct host *h, bool second)
{
	if (second)
		fill(h, amd, sizeof(amd) / sizeof(amd[0]));
	else
		fill(h, intel, sizeof(intel) / sizeof(intel[0]));
}

static uint32_t changed(struct input *in, unsigned how, uint32_t was)
{
	switch (how & 3) {
	case 0:
		return was ^ 1u << (take(in, 1) & 31);
	case 1:
		return (uint32_t)take(in, 4);
	case 2:
		return how & 4 ? ~0u : 0;
	default:
		return (was & ~0xffu) | (uint32_t)take(in, 1);
	}
}

static void edit_host(struct host *h, struct input *in, unsigned how)
{
	unsigned at = (unsigned)take(in, 1) % (h->head.nent ? h->head.nent : 1);
	struct kvm_cpuid_entry2 *en = &h->head.entries[at];
	uint32_t *const part[] = {&en->eax, &en->ebx,	   &en->ecx,
				  &en->edx, &en->function, &en->index};

	if ((how & 0xf0) == 0xf0 && h->head.nent)
		*en = h->head.entries[--h->head.nent];
	else if ((how & 0xf0) == 0xe0 && h->head.nent < MAX)
		h->head.entries[h->head.nent++] = *en;
	else
		*part[(how >> 4) % 6] = changed(in, how, *part[(how >> 4) % 6]);
}

/* Every x86-64 has 48 bits of linear address, and the levels count on them. */
static void settle_host(struct host *h)
{
	for (unsigned i = 0; i < h->head.nent; i++)
		if (h->head.entries[i].function == 0x80000008)
			h->head.entries[i].eax |= 48 << 8;
}

static void edit_machine(struct machine *m, struct input *in, unsigned how)
{
	unsigned at = (unsigned)take(in, 1) % (m->ncpuid ? m->ncpuid : 1);
	struct machine_cpuid *en = &m->cpuid[at];
	uint32_t *const part[] = {&en->eax, &en->ebx,	   &en->ecx,
				  &en->edx, &en->function, &en->index};

	if ((how & 0xf0) == 0xf0 && m->ncpuid)
		*en = m->cpuid[--m->ncpuid];
	else if ((how & 0xf0) == 0xe0 && m->ncpuid < MACHINE_MAX_CPUID)
		m->cpuid[m->ncpuid++] = *en;
	else if ((how & 0xf0) == 0xd0)
		m->cpu = how & 3;
	else
		*part[(how >> 4) % 6] = changed(in, how, *part[(how >> 4) % 6]);
}

/* Every bit that the guest was told of, in a word where bits are features, is one that h has. */
static void check_taken(const struct host *h, struct machine *want)
{
	struct machine have = {.vcpus = want->vcpus, .mem_bytes = want->mem_bytes};

	require(!cpuid_build(&h->head, CPU_HOST, &have, NULL));
	for (unsigned i = 0; i < cpuid_nwords; i++) {
		const struct cpuid_word *w = &cpuid_words[i];
		struct machine_cpuid *a = cpuid_find(&have, w->function, w->index);
		struct machine_cpuid *b = cpuid_find(want, w->function, w->index);
		uint32_t bits = b ? *cpuid_reg(b, w->reg) : 0;

		require(!(bits & ~(a ? *cpuid_reg(a, w->reg) : 0)));
	}
}

static void check_vcpus(const struct machine *m)
{
	struct kvm_cpuid2 *c =
		malloc(sizeof(*c) + MACHINE_MAX_CPUID * sizeof(struct kvm_cpuid_entry2));

	require(c != NULL);
	for (unsigned i = 0; i < m->vcpus; i++) {
		cpuid_for_vcpu(m, i, c);
		require(c->nent <= MACHINE_MAX_CPUID);
	}
	free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned how = (unsigned)take(&in, 1), what = 0;
	struct host first, second;
	struct machine m = {.vcpus = 1 + (how >> 5), .mem_bytes = 1ull << (20 + (how & 7) * 4)};
	struct err e = {0};
	int r;

	fill_either(&first, how & 8);
	fill_either(&second, how & 16);
	while (in.left && (what = (unsigned)take(&in, 1)) != 255)
		edit_host(what & 8 ? &first : &second, &in, what);
	settle_host(&first);
	r = cpuid_build(&first.head, (enum cpu_policy)(take(&in, 1) & 3), &m, &e);
	require(!r || (r < 0 && e.msg[0]));
	if (!r) {
		require(m.ncpuid <= MACHINE_MAX_CPUID);
		e = (struct err){0};
		require(!cpuid_check(&first.head, &m, &e));
	}
	while (in.left)
		edit_machine(&m, &in, (unsigned)take(&in, 1));
	r = cpuid_check(&second.head, &m, &e);
	require(!r || (r < 0 && e.msg[0]));
	if (!r) {
		check_taken(&second, &m);
		check_vcpus(&m);
	}
	return 0;
}
