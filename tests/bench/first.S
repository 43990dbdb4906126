/* A PVH guest that says with its first instructions that it runs. For startup.c. */
.section .note.pvh, "a", @note
	.balign 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad start32

.section .text.boot, "ax"
.code32
.globl start32
start32:
	mov	$0x3f8, %edx
	mov	$'R', %al
	outb	%al, %dx
	mov	$'\n', %al
	outb	%al, %dx
halt:
	hlt
	jmp	halt

.section .note.GNU-stack, "", @progbits
