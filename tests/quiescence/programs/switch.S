/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ways from one stack to another, in a program that never goes one. */
	.text
	.globl hop
	.type hop, @function
hop:	push %rbx
	push %rbp
#if WAY == 1
	mov %rsp, (%rdi)
	mov %rsi, %rsp
#elif WAY == 2
	mov %rsp, 8(%rdi)
	mov 8(%rsi), %rsp
#else
	xchg %rsp, (%rdi)
#endif
	pop %rbp
	pop %rbx
	ret
	.size hop, . - hop
	.section .note.GNU-stack,"",@progbits
