/*
 * Every bit of CPUID that is known here: its name, and what becomes of it.
 *
 * Hidden is what a takeover or snapshot would lose, or what the next host answers otherwise:
 *  - virtualization (VMX, SVM): state of nested guests is not part of ours;
 *  - what has no state in KVM's classic ioctls or needs permission first: AMX, CET, FRED, user
 *    interrupts, LBR, MPX, protection keys of the kernel, SGX, processor trace;
 *  - the PMU (leaf 0xa, PDCM, AMD's counters; kvm.c switches it off): counts of one host;
 *  - TSX: a microcode update takes it away;
 *  - hints and knobs of the host: MONITOR, power, topology, RDT, RDPRU, OSVW; OSXSAVE is KVM's
 *    to show;
 *  - the invariant TSC (all of 0x80000007): Linux would use the TSC itself as its clock, and what
 *    we can carry over exactly, on every host, is kvmclock;
 *  - async page faults (KVM leaf): the guest would wait for ever for pages the old host promised.
 * Other paravirtual features stay: steal time and PV EOI are written by KVM into pages that it
 * marks dirty, before the vCPU counts as stopped; a pending unhalt is in MP_STATE; the rest are
 * calls that are over when they return.
 */
#include <stdio.h>

#include "vmm/machine/cpuid.h"

#define ROWS(a) (sizeof(a) / sizeof((a)[0]))
#define SHOW	0
#define HIDE	CPUID_HIDE
#define XSAVE	CPUID_XSAVE
#define V1	CPUID_V1
#define V2	CPUID_V2
#define V3	CPUID_V3
#define MAY	CPUID_MAY

/* clang-format off */
const struct cpuid_word cpuid_words[] = {
	{1, 0, CPUID_ECX, .bits = {
		[0] = {"pni", V2}, [1] = {"pclmulqdq", SHOW}, [2] = {"dtes64", HIDE},
		[3] = {"monitor", HIDE}, [4] = {"ds_cpl", HIDE}, [5] = {"vmx", HIDE},
		[6] = {"smx", HIDE}, [7] = {"est", HIDE}, [8] = {"tm2", HIDE}, [9] = {"ssse3", V2},
		[10] = {"cid", SHOW}, [11] = {"sdbg", HIDE}, [12] = {"fma", XSAVE | V3},
		[13] = {"cx16", V2}, [14] = {"xtpr", HIDE}, [15] = {"pdcm", HIDE},
		[17] = {"pcid", SHOW}, [18] = {"dca", HIDE}, [19] = {"sse4_1", V2},
		[20] = {"sse4_2", V2}, [21] = {"x2apic", MAY}, [22] = {"movbe", V3},
		[23] = {"popcnt", V2}, [24] = {"tsc_deadline_timer", MAY}, [25] = {"aes", SHOW},
		[26] = {"xsave", XSAVE | V3}, [27] = {"osxsave", HIDE}, [28] = {"avx", XSAVE | V3},
		[29] = {"f16c", XSAVE | V3}, [30] = {"rdrand", SHOW}, [31] = {"hypervisor", MAY}}},
	{1, 0, CPUID_EDX, .bits = {
		[0] = {"fpu", V1}, [1] = {"vme", MAY}, [2] = {"de", V1}, [3] = {"pse", V1},
		[4] = {"tsc", V1}, [5] = {"msr", V1}, [6] = {"pae", V1}, [7] = {"mce", V1},
		[8] = {"cx8", V1}, [9] = {"apic", V1}, [11] = {"sep", V1}, [12] = {"mtrr", V1},
		[13] = {"pge", V1}, [14] = {"mca", V1}, [15] = {"cmov", V1}, [16] = {"pat", V1},
		[17] = {"pse36", MAY}, [18] = {"pn", SHOW}, [19] = {"clflush", V1},
		[21] = {"dts", HIDE}, [22] = {"acpi", HIDE}, [23] = {"mmx", V1},
		[24] = {"fxsr", V1}, [25] = {"sse", V1}, [26] = {"sse2", V1}, [27] = {"ss", SHOW},
		[28] = {"ht", HIDE}, [29] = {"tm", HIDE}, [30] = {"ia64", SHOW},
		[31] = {"pbe", HIDE}}},
	{6, 0, CPUID_EAX, .rest = HIDE, .bits = {
		[2] = {"arat", MAY}}},
	{7, 0, CPUID_EBX, .bits = {
		[0] = {"fsgsbase", SHOW}, [1] = {"tsc_adjust", SHOW}, [2] = {"sgx", HIDE},
		[3] = {"bmi1", V3}, [4] = {"hle", HIDE}, [5] = {"avx2", XSAVE | V3},
		[6] = {"fdp_excptn_only", SHOW}, [7] = {"smep", MAY}, [8] = {"bmi2", V3},
		[9] = {"erms", SHOW}, [10] = {"invpcid", SHOW}, [11] = {"rtm", HIDE},
		[12] = {"cqm", HIDE}, [13] = {"zero_fcs_fds", SHOW}, [14] = {"mpx", HIDE},
		[15] = {"rdt_a", HIDE}, [16] = {"avx512f", XSAVE}, [17] = {"avx512dq", XSAVE},
		[18] = {"rdseed", SHOW}, [19] = {"adx", SHOW}, [20] = {"smap", MAY},
		[21] = {"avx512ifma", XSAVE}, [23] = {"clflushopt", SHOW}, [24] = {"clwb", SHOW},
		[25] = {"intel_pt", HIDE}, [26] = {"avx512pf", XSAVE}, [27] = {"avx512er", XSAVE},
		[28] = {"avx512cd", XSAVE}, [29] = {"sha_ni", SHOW}, [30] = {"avx512bw", XSAVE},
		[31] = {"avx512vl", XSAVE}}},
	{7, 0, CPUID_ECX, .bits = {
		[1] = {"avx512vbmi", XSAVE}, [2] = {"umip", MAY}, [3] = {"pku", XSAVE},
		[4] = {"ospke", HIDE}, [5] = {"waitpkg", SHOW}, [6] = {"avx512_vbmi2", XSAVE},
		[7] = {"shstk", HIDE}, [8] = {"gfni", SHOW}, [9] = {"vaes", XSAVE},
		[10] = {"vpclmulqdq", XSAVE}, [11] = {"avx512_vnni", XSAVE},
		[12] = {"avx512_bitalg", XSAVE}, [13] = {"tme", SHOW},
		[14] = {"avx512_vpopcntdq", XSAVE}, [16] = {"la57", SHOW}, [22] = {"rdpid", SHOW},
		[23] = {"kl", HIDE}, [24] = {"bus_lock_detect", SHOW}, [25] = {"cldemote", SHOW},
		[27] = {"movdiri", SHOW}, [28] = {"movdir64b", SHOW}, [29] = {"enqcmd", HIDE},
		[30] = {"sgx_lc", HIDE}, [31] = {"pks", HIDE}}},
	{7, 0, CPUID_EDX, .bits = {
		[2] = {"avx512_4vnniw", XSAVE}, [3] = {"avx512_4fmaps", XSAVE},
		[4] = {"fsrm", SHOW}, [5] = {"uintr", HIDE}, [8] = {"avx512_vp2intersect", XSAVE},
		[9] = {"srbds_ctrl", SHOW}, [10] = {"md_clear", MAY},
		[11] = {"rtm_always_abort", HIDE}, [13] = {"tsx_force_abort", HIDE},
		[14] = {"serialize", SHOW}, [15] = {"hybrid_cpu", HIDE}, [16] = {"tsxldtrk", HIDE},
		[18] = {"pconfig", HIDE}, [19] = {"arch_lbr", HIDE}, [20] = {"ibt", HIDE},
		[22] = {"amx_bf16", HIDE}, [23] = {"avx512_fp16", XSAVE},
		[24] = {"amx_tile", HIDE}, [25] = {"amx_int8", HIDE}, [26] = {"spec_ctrl", MAY},
		[27] = {"intel_stibp", MAY}, [28] = {"flush_l1d", MAY},
		[29] = {"arch_capabilities", SHOW}, [30] = {"core_capabilities", HIDE},
		[31] = {"spec_ctrl_ssbd", MAY}}},
	{7, 1, CPUID_EAX, .bits = {
		[0] = {"sha512", XSAVE}, [1] = {"sm3", XSAVE}, [2] = {"sm4", XSAVE},
		[4] = {"avx_vnni", XSAVE}, [5] = {"avx512_bf16", XSAVE}, [7] = {"cmpccxadd", SHOW},
		[10] = {"fzrm", SHOW}, [11] = {"fsrs", SHOW}, [12] = {"fsrc", SHOW},
		[17] = {"fred", HIDE}, [18] = {"lkgs", HIDE}, [21] = {"amx_fp16", HIDE},
		[22] = {"hreset", HIDE}, [23] = {"avx_ifma", XSAVE}, [27] = {"msrlist", HIDE}}},
	{7, 1, CPUID_EDX, .bits = {
		[4] = {"avx_vnni_int8", XSAVE}, [5] = {"avx_ne_convert", XSAVE},
		[8] = {"amx_complex", HIDE}, [10] = {"avx_vnni_int16", XSAVE},
		[15] = {"user_msr", HIDE}, [18] = {"cet_sss", HIDE}, [19] = {"avx10", HIDE},
		[21] = {"apx", HIDE}}},
	{7, 2, CPUID_EDX, .rest = SHOW},
	{0xd, 1, CPUID_EAX, .rest = HIDE, .bits = {
		[0] = {"xsaveopt", XSAVE}, [1] = {"xsavec", XSAVE}, [2] = {"xgetbv1", XSAVE},
		[3] = {"xsaves", XSAVE}, [4] = {"xfd", HIDE}}},
	{0x80000001, 0, CPUID_ECX, .bits = {
		[0] = {"lahf_lm", V2}, [1] = {"cmp_legacy", HIDE}, [2] = {"svm", HIDE},
		[3] = {"extapic", HIDE}, [4] = {"cr8_legacy", SHOW}, [5] = {"abm", V3},
		[6] = {"sse4a", SHOW}, [7] = {"misalignsse", SHOW}, [8] = {"3dnowprefetch", SHOW},
		[9] = {"osvw", HIDE}, [10] = {"ibs", HIDE}, [11] = {"xop", XSAVE},
		[12] = {"skinit", HIDE}, [13] = {"wdt", HIDE}, [15] = {"lwp", HIDE},
		[16] = {"fma4", XSAVE}, [17] = {"tce", SHOW}, [19] = {"nodeid_msr", HIDE},
		[21] = {"tbm", SHOW}, [22] = {"topoext", SHOW}, [23] = {"perfctr_core", HIDE},
		[24] = {"perfctr_nb", HIDE}, [26] = {"bpext", HIDE}, [27] = {"ptsc", HIDE},
		[28] = {"perfctr_llc", HIDE}, [29] = {"mwaitx", HIDE}}},
	{0x80000001, 0, CPUID_EDX, .bits = {
		[0] = {"fpu", SHOW}, [1] = {"vme", SHOW}, [2] = {"de", SHOW}, [3] = {"pse", SHOW},
		[4] = {"tsc", SHOW}, [5] = {"msr", SHOW}, [6] = {"pae", SHOW}, [7] = {"mce", SHOW},
		[8] = {"cx8", SHOW}, [9] = {"apic", SHOW}, [11] = {"syscall", V1},
		[12] = {"mtrr", SHOW}, [13] = {"pge", SHOW}, [14] = {"mca", SHOW},
		[15] = {"cmov", SHOW}, [16] = {"pat", SHOW}, [17] = {"pse36", SHOW},
		[19] = {"mp", SHOW}, [20] = {"nx", V1}, [22] = {"mmxext", SHOW},
		[23] = {"mmx", SHOW}, [24] = {"fxsr", SHOW}, [25] = {"fxsr_opt", SHOW},
		[26] = {"pdpe1gb", SHOW}, [27] = {"rdtscp", SHOW}, [29] = {"lm", V1},
		[30] = {"3dnowext", SHOW}, [31] = {"3dnow", SHOW}}},
	{0x80000008, 0, CPUID_EBX, .bits = {
		[0] = {"clzero", SHOW}, [1] = {"irperf", SHOW}, [2] = {"xsaveerptr", SHOW},
		[3] = {"invlpgb", HIDE}, [4] = {"rdpru", HIDE}, [9] = {"wbnoinvd", SHOW},
		[12] = {"ibpb", MAY}, [14] = {"ibrs", MAY}, [15] = {"amd_stibp", MAY},
		[17] = {"stibp_always_on", SHOW}, [23] = {"amd_ppin", HIDE},
		[24] = {"amd_ssbd", MAY}, [25] = {"virt_ssbd", MAY}, [26] = {"amd_ssb_no", SHOW},
		[27] = {"cppc", HIDE}}},
	{0x80000021, 0, CPUID_EAX, .rest = SHOW},
	{0x40000001, 0, CPUID_EAX, .bits = {
		[0] = {"kvmclock_old", MAY}, [1] = {"kvm_nopiodelay", MAY},
		[2] = {"kvm_mmu_op", MAY}, [3] = {"kvmclock", MAY}, [4] = {"kvm_asyncpf", HIDE},
		[5] = {"kvm_steal_time", MAY}, [6] = {"kvm_pv_eoi", MAY},
		[7] = {"kvm_pv_unhalt", MAY}, [8] = {NULL, MAY}, [9] = {"kvm_pv_tlb_flush", MAY},
		[10] = {"kvm_asyncpf_vmexit", HIDE}, [11] = {"kvm_pv_ipi", MAY},
		[12] = {"kvm_poll_control", MAY}, [13] = {"kvm_pv_sched_yield", MAY},
		[14] = {"kvm_asyncpf_int", HIDE}, [15] = {"kvm_msi_ext_dest_id", MAY},
		[17] = {"kvm_migration_control", HIDE}, [24] = {"kvmclock_stable", MAY}}},
};
/* clang-format on */
const unsigned cpuid_nwords = ROWS(cpuid_words);

static unsigned rules_of(const struct cpuid_word *w, unsigned bit)
{
	return w->bits[bit].name || w->bits[bit].rules ? w->bits[bit].rules : w->rest;
}

uint32_t cpuid_mask(const struct cpuid_word *w, unsigned rules)
{
	uint32_t mask = 0;

	for (unsigned bit = 0; bit < ROWS(w->bits); bit++)
		if (rules_of(w, bit) & rules)
			mask |= 1u << bit;
	return mask;
}

void cpuid_feature_name(const struct cpuid_word *w, uint32_t bits, char *ret, size_t cap)
{
	static const char *const regs[] = {"EAX", "EBX", "ECX", "EDX"};
	unsigned bit = bits ? (unsigned)__builtin_ctz(bits) : 0;

	if (w->bits[bit].name)
		snprintf(ret, cap, "%s", w->bits[bit].name);
	else
		snprintf(ret, cap, "CPUID %x.%x:%s[%u]", w->function, w->index, regs[w->reg], bit);
}
