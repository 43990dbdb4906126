/*
 * Everything that runs at CPL0 after boot. Stubs are STUB_SIZE apart, exceptions 0..31 first, then
 * the interrupts from VEC_FIRST, then the spurious one: trap.c points the IDT at them.
 * They are short because a hypervisor may emulate them at 0.25 us an instruction.
 */
#include "guests/lib/cpu.h"

.text
.code64
.balign STUB_SIZE
.globl trap_stubs
trap_stubs:

#define HAS_ERROR_CODE 0x60227d00 /* vectors 8, 10-14, 17, 21, 29, 30 */

/* An exception ends the guest: resume at CPL3 in trap_fatal(vector, error, rip, cr2). */
.macro EXCEPTION
	.balign STUB_SIZE
	.if (HAS_ERROR_CODE >> nr) & 1
	.else
	pushq	$0
	.endif
	pushq	$nr
	jmp	fatal
.endm

/*
 * hlt at CPL3: halt unless an interrupt came since the caller read its counter (in %rdi). QEMU's SVM
 * forgets at an exit that sti holds interrupts off for one more instruction.
 */
.macro HALT
	.balign STUB_SIZE
	push	%rax
	mov	16(%rsp), %rax
	cmpb	$0xf4, (%rax)
	jne	fatal_gp
	mov	%rsp, %rax
	and	$-PC_SIZE, %rax
	cmp	%rdi, PC_EVENTS(%rax)
	jne	1f
	sti
	.globl halt_now
halt_now:
	hlt
	cli
1:	incq	16(%rsp)
	pop	%rax
	add	$8, %rsp
	iretq
.endm

.set nr, 0
.rept 32
	.if nr == 13
	HALT
	.elseif nr == 2
	.balign STUB_SIZE
	iretq				/* NMI */
	.else
	EXCEPTION
	.endif
	.set nr, nr + 1
.endr

.set nr, 0
.rept VEC_COUNT
	.balign STUB_SIZE
	push	%rax
	mov	%rsp, %rax
	and	$-PC_SIZE, %rax
	incq	PC_VECTORS + 8 * nr(%rax)
	incq	PC_EVENTS(%rax)
	mov	$APIC_BASE, %eax
	movl	$0, 0xb0(%rax)		/* end of interrupt */
	pop	%rax
	cmpl	$halt_now, (%rsp)	/* between sti and hlt: no processor, but QEMU's SVM */
	jne	1f
	incq	(%rsp)			/* what HALT waits for has come */
1:	iretq
	.set nr, nr + 1
.endr

	.balign STUB_SIZE
	iretq				/* spurious: no end of interrupt */

fatal_gp:
	pop	%rax
	pushq	$13
fatal:
	cmpl	$SEL_UCODE, 24(%rsp)
	jne	fatal_kernel
	pop	%rdi
	pop	%rsi
	mov	(%rsp), %rdx
	mov	%cr2, %rcx
	movq	$trap_fatal, (%rsp)
	andq	$-16, 24(%rsp)
	subq	$8, 24(%rsp)
	iretq

/* A fault of the stubs themselves: '!' and the vector as a letter, then exit. */
fatal_kernel:
	mov	$0x3f8, %edx
	mov	$'!', %al
	outb	%al, %dx
	pop	%rax
	add	$'A', %al
	outb	%al, %dx
	mov	$0x7f, %al
	outb	%al, $0xf4
1:	hlt
	jmp	1b

.section .note.GNU-stack, "", @progbits
