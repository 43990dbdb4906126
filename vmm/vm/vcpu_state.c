/* The field tables of a vCPU: KVM's structs by name (linux/kvm.h, Documentation/virt/kvm/api.rst).
 */
#include "vmm/vm/vcpu.h"

#include <errno.h>
#include <string.h>

#include "vmm/machine/cpuid.h"

#define X87	  0x1u
#define SSE	  0x2u
#define PKRU	  0x200u
#define XSTATE_BV 512 /* in the XSAVE area: Intel SDM volume 1, 13.4.2 */

#define R(f, i) F_U64(struct kvm_regs, f, i, "general register")
static const struct field regs_fields[] = {
	R(rax, 1),  R(rbx, 2),	R(rcx, 3),  R(rdx, 4),	R(rsi, 5),  R(rdi, 6),
	R(rsp, 7),  R(rbp, 8),	R(r8, 9),   R(r9, 10),	R(r10, 11), R(r11, 12),
	R(r12, 13), R(r13, 14), R(r14, 15), R(r15, 16), R(rip, 17), R(rflags, 18),
};

static const struct field segment_fields[] = {
	F_U64(struct kvm_segment, base, 1, "base"),
	F_U32(struct kvm_segment, limit, 2, "limit"),
	F_U16(struct kvm_segment, selector, 3, "selector"),
	F_U8(struct kvm_segment, type, 4, "type", .max = 15),
	F_U8(struct kvm_segment, present, 5, "P", .max = 1),
	F_U8(struct kvm_segment, dpl, 6, "DPL", .max = 3),
	F_U8(struct kvm_segment, db, 7, "D/B", .max = 1),
	F_U8(struct kvm_segment, s, 8, "S", .max = 1),
	F_U8(struct kvm_segment, l, 9, "L", .max = 1),
	F_U8(struct kvm_segment, g, 10, "G", .max = 1),
	F_U8(struct kvm_segment, avl, 11, "AVL", .max = 1),
	F_U8(struct kvm_segment, unusable, 12, "unusable", .max = 1),
};

static const struct field dtable_fields[] = {
	F_U64(struct kvm_dtable, base, 1, "base"),
	F_U16(struct kvm_dtable, limit, 2, "limit"),
};

#define SEG(f, i) F_STRUCT(struct kvm_sregs, f, i, segment_fields, "segment")
static const struct field sregs_fields[] = {
	SEG(cs, 1),
	SEG(ds, 2),
	SEG(es, 3),
	SEG(fs, 4),
	SEG(gs, 5),
	SEG(ss, 6),
	SEG(tr, 7),
	SEG(ldt, 8),
	F_STRUCT(struct kvm_sregs, gdt, 9, dtable_fields, "GDTR"),
	F_STRUCT(struct kvm_sregs, idt, 10, dtable_fields, "IDTR"),
	F_U64(struct kvm_sregs, cr0, 11, "CR0"),
	F_U64(struct kvm_sregs, cr2, 12, "CR2"),
	F_U64(struct kvm_sregs, cr3, 13, "CR3"),
	F_U64(struct kvm_sregs, cr4, 14, "CR4"),
	F_U64(struct kvm_sregs, cr8, 15, "CR8", .max = 15),
	F_U64(struct kvm_sregs, efer, 16, "EFER"),
	F_U64(struct kvm_sregs, apic_base, 17, "IA32_APIC_BASE"),
	F_BYTES(struct kvm_sregs, interrupt_bitmap, 18, "interrupt waiting for injection"),
};

static const struct field msr_fields[] = {
	F_U32(struct kvm_msr_entry, index, 1, "MSR"),
	F_U64(struct kvm_msr_entry, data, 2, "value"),
};

static const struct field debug_fields[] = {
	F_BYTES(struct kvm_debugregs, db, 1, "DR0-DR3"),
	F_U64(struct kvm_debugregs, dr6, 2, "DR6"),
	F_U64(struct kvm_debugregs, dr7, 3, "DR7"),
};

static const struct field vcpu_fields[] = {
	F_STRUCT(struct vcpu_state, regs, 1, regs_fields, "general registers"),
	F_STRUCT(struct vcpu_state, sregs, 2, sregs_fields, "segments, control registers"),
	F_BYTES(struct vcpu_state, events, 3, "exceptions and interrupts under way"),
	F_STRUCT(struct vcpu_state, debugregs, 4, debug_fields, "debug registers"),
	F_U32(struct vcpu_state, mp.mp_state, 5, "running, halted, waiting for SIPI", .max = 16),
	F_BYTES(struct vcpu_state, lapic, 6, "local APIC registers", .flags = FIELD_UNSTABLE),
	F_BYTES(struct vcpu_state, xsave, 7, "FPU, SSE, AVX"),
	F_U64(struct vcpu_state, xcr0, 8, "XCR0"),
	F_ARRAY(struct vcpu_state, msrs, nmsrs, 9, msr_fields, "model specific registers",
		.flags = FIELD_UNSTABLE),
};

static int check(const void *pod, struct err *e)
{
	const struct vcpu_state *s = pod;

	if (!(s->xcr0 & 1))
		return err_set(e, -EBADMSG, "vcpu: XCR0 %#llx without x87",
			       (unsigned long long)s->xcr0);
	return 0;
}

int vcpu_state_fits(const struct vcpu_state *s, struct machine *m, struct err *e)
{
	const struct machine_cpuid *en = cpuid_find(m, 0xd, 0);
	uint64_t offered = en ? en->eax : 0, present;

	memcpy(&present, (const char *)&s->xsave + XSTATE_BV, sizeof(present));
	/* All guests have FXSAVE; Linux before 5.17 says PKRU of all. */
	if (!(s->xcr0 & ~(offered | X87)) && !(present & ~(offered | X87 | SSE | PKRU)))
		return 0;
	return err_set(e, -EBADMSG,
		       "vcpu: XCR0 %#llx and XSAVE state of %#llx, but the guest's CPUID offers "
		       "%#llx; where KVM shows guests more than that, use --cpu host",
		       (unsigned long long)s->xcr0, (unsigned long long)present,
		       (unsigned long long)offered);
}

const struct state_desc vcpu_state_desc = {
	.name = "vcpu",
	.id = 1,
	.version = 1,
	.size = sizeof(struct vcpu_state),
	.fields = vcpu_fields,
	.nfields = sizeof(vcpu_fields) / sizeof(vcpu_fields[0]),
	.check = check,
};
