/*
 * From the PVH entry (32-bit protected mode, paging off, %ebx = start info) or a start-up IPI
 * (real mode) to C at CPL3. All tables are laid out by the assembler, because some hypervisors
 * emulate everything before CPL3: each instruction here costs 0.25 us there.
 */
#include "guests/lib/cpu.h"

/* Xen ELF note 18 (PHYS32_ENTRY): the entry point of a PVH kernel. */
.section .note.pvh, "a", @note
	.balign 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad start32

.section .text.boot, "ax"
.code32
.globl start32
start32:
	cli
	cld
	mov	%ebx, boot_info
	mov	$percpu_blocks, %esp
	lgdtl	gdt_ptr
	jmp	enter_long

/* Copied to AP_PAGE; entered in real mode with CS = AP_PAGE >> 4. */
.code16
.globl ap_code, ap_code_end
ap_code:
	cli
	cld
	lgdtl	%cs:(ap_gdt_ptr - ap_code)
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$SEL_KCODE32, $ap32
	.balign 8
ap_gdt_ptr:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_code_end:

.code32
ap32:
	mov	$SEL_KDATA, %eax
	mov	%eax, %ds
	mov	%eax, %ss
	mov	ap_percpu, %esp

/* %esp = this CPU's percpu block */
enter_long:
	mov	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER: SCE, LME */
	rdmsr
	or	$0x101, %eax
	wrmsr
	mov	$0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	mov	%eax, %cr0
	ljmp	$SEL_KCODE, $start64

.code64
start64:
	mov	%esp, %ebp		/* percpu; zero-extends */
	add	$PC_KSTACK, %rsp
	mov	$SEL_UDATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$SEL_KDATA, %eax
	mov	%eax, %ss
	lidt	idt_ptr

	/* TSS: RSP0, and an I/O bitmap of zeroes, for hosts on which IOPL does not survive native execution */
	mov	%rsp, PC_TSS + 4(%rbp)
	movw	$TSS_IOMAP, PC_TSS + 0x66(%rbp)
	movb	$0xff, PC_TSS + TSS_LIMIT(%rbp)
	mov	PC_INDEX(%rbp), %ecx
	shl	$4, %ecx
	lea	PC_TSS(%rbp), %eax
	movw	%ax, gdt + SEL_TSS + 2(%rcx)
	shr	$16, %eax
	movb	%al, gdt + SEL_TSS + 4(%rcx)
	movb	%ah, gdt + SEL_TSS + 7(%rcx)
	add	$SEL_TSS, %ecx
	ltr	%cx

	mov	$0xff, %al		/* no legacy PIC */
	outb	%al, $0x21
	outb	%al, $0xa1
	mov	$APIC_BASE, %ebx
	movl	$0x100 | VEC_SPURIOUS, 0xf0(%rbx)
	movl	$0, 0x80(%rbx)		/* accept all priorities */
	movl	$0xb, 0x3e0(%rbx)	/* timer: divide by 1 */
	movl	$0x10000 | VEC_FIRST, 0x320(%rbx)

	/* kvmclock, if this is KVM and offers MSR 0x4b564d01 */
	mov	$0x40000000, %eax
	cpuid
	cmp	$0x4b4d564b, %ebx	/* "KVMK" */
	jne	1f
	cmp	$0x564b4d56, %ecx	/* "VMKV" */
	jne	1f
	mov	$0x40000001, %eax
	cpuid
	bt	$3, %eax
	jnc	1f
	movl	$1, PC_HASCLOCK(%rbp)
	lea	PC_CLOCK + 1(%rbp), %eax
	xor	%edx, %edx
	mov	$0x4b564d01, %ecx
	wrmsr
1:
	/* vector registers beyond SSE (vector.c); some hypervisors have them on from the start */
	mov	$1, %eax
	cpuid
	and	$0x0c000000, %ecx	/* OSXSAVE, XSAVE */
	cmp	$0x04000000, %ecx
	jne	1f
	mov	%cr4, %rax
	or	$0x40000, %eax		/* OSXSAVE */
	mov	%rax, %cr4
	mov	$0xd, %eax
	xor	%ecx, %ecx
	cpuid
	and	$0xe7, %eax		/* x87, SSE, AVX, AVX-512 */
	xor	%edx, %edx
	xor	%ecx, %ecx
	xsetbv
1:
	fninit
	pushq	$SEL_UDATA
	lea	PC_USTACK(%rbp), %rax
	sub	$8, %rax		/* as after a call: the ABI's alignment */
	push	%rax
	pushq	$0x3202			/* IOPL 3, for hosts that do not look into a busy TSS: QEMU's after a restore */
	pushq	$SEL_UCODE
	pushq	$start_cpu
	iretq

.section .data
.balign 16
.globl gdt
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 0x08 kernel code, 32-bit: start-up only */
	.quad	0x00af9b000000ffff	/* 0x10 kernel code */
	.quad	0x00cf93000000ffff	/* 0x18 kernel data */
	.quad	0x00cffb000000ffff	/* 0x20 user code, 32-bit: never used */
	.quad	0x00cff3000000ffff	/* 0x28 user data */
	.quad	0x00affb000000ffff	/* 0x30 user code */
	.quad	0
	.rept	8
	.quad	0x0000890000000000 + TSS_LIMIT, 0	/* 0x40: one TSS a CPU, base set above */
	.endr
gdt_end:
gdt_ptr:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.balign 8
idt_ptr:
	.word	4095
	.quad	idt
	.balign 8
.globl boot_info, ap_percpu
boot_info:
	.quad	0
ap_percpu:
	.quad	0

/*
 * Identity map of 8 GiB in 2 MiB pages: present, writable, user, and accessed and dirty from the
 * start, so that no CPU ever writes to these pages.
 */
	.balign 4096
pml4:
	.quad	pdpt + 0x27
	.fill	511, 8, 0
pdpt:
	.set	i, 0
	.rept	8
	.quad	pds + i * 4096 + 0x27
	.set	i, i + 1
	.endr
	.fill	504, 8, 0
pds:
	.set	i, 0
	.rept	8 * 512
	.quad	(i << 21) + 0xe7
	.set	i, i + 1
	.endr

.section .bss
	.balign 4096
.globl idt
idt:
	.skip	4096
	.balign PC_SIZE
.globl percpu_blocks
percpu_blocks:
	.skip	8 * PC_SIZE

.section .note.GNU-stack, "", @progbits
