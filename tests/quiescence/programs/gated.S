/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Functions long f(long) whose first instructions change the stack in every way, to be patched:
 * gates run them elsewhere. A thread calls one after the other for ever.
 */
        .intel_syntax noprefix

        .macro function name
        .globl \name
        .type \name, @function
\name:
        .cfi_startproc
        .endm
        .macro end name
        .cfi_endproc
        .size \name, . - \name
        .endm

        .text
        .balign 16
        function plain
        mov     eax, 1
        add     rax, rdi
        ret
        end plain

        .balign 16
        function pushes
        push    rbx
        .cfi_def_cfa_offset 16
        .cfi_offset rbx, -16
        push    r12
        .cfi_def_cfa_offset 24
        .cfi_offset r12, -24
        push    r13
        .cfi_def_cfa_offset 32
        .cfi_offset r13, -32
        mov     rbx, rdi
        pop     r13
        .cfi_def_cfa_offset 24
        pop     r12
        .cfi_def_cfa_offset 16
        pop     rbx
        .cfi_def_cfa_offset 8
        mov     eax, 1
        ret
        end pushes

        .balign 16
        function frame
        push    rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov     rbp, rsp
        .cfi_def_cfa_register rbp
        sub     rsp, 64
        mov     eax, 1
        leave
        .cfi_def_cfa rsp, 8
        ret
        end frame

        .balign 16
        function makes_room
        sub     rsp, 24
        .cfi_def_cfa_offset 32
        mov     [rsp], rdi
        add     rsp, 24
        .cfi_def_cfa_offset 8
        mov     eax, 1
        ret
        end makes_room

        .balign 16
        function calls_first
        call    plain
        add     rax, 1
        ret
        end calls_first

        .balign 16
        function calls_second
        push    rax
        .cfi_def_cfa_offset 16
        call    plain
        pop     rdx
        .cfi_def_cfa_offset 8
        ret
        end calls_second

        .balign 16
        function loops_first
        xor     ecx, ecx
        jrcxz   1f
        mov     ecx, 1
1:      mov     eax, 1
        ret
        end loops_first

        .balign 16
        function branches_first
        test    edi, edi
        jns     1f
        neg     rdi
1:      mov     eax, 1
        ret
        end branches_first

/* The jump does not fit in front of the end of a page, so it goes by way of the padding. */

        .balign 4096, 0xcc
        .skip   4096 - 4, 0xcc
        function by_padding
        push    rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov     rbp, rsp
        .cfi_def_cfa_register rbp
        mov     eax, 1
        pop     rbp
        .cfi_def_cfa rsp, 8
        ret
        end by_padding

/* There is no padding either, so the jump goes behind some instructions. */

        .balign 4096, 0x50
        .skip   4096 - 4, 0x50
        function kept_frame
        push    rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov     rbp, rsp
        .cfi_def_cfa_register rbp
        sub     rsp, 0x100
        mov     eax, 1
        leave
        .cfi_def_cfa rsp, 8
        ret
        end kept_frame

        .balign 4096, 0x50
        .skip   4096 - 3, 0x50
        function kept_pushes
        push    rbx
        .cfi_def_cfa_offset 16
        .cfi_offset rbx, -16
        push    r12
        .cfi_def_cfa_offset 24
        .cfi_offset r12, -24
        push    r13
        .cfi_def_cfa_offset 32
        .cfi_offset r13, -32
        mov     ebx, 5
        pop     r13
        .cfi_def_cfa_offset 24
        pop     r12
        .cfi_def_cfa_offset 16
        pop     rbx
        .cfi_def_cfa_offset 8
        mov     eax, 1
        ret
        end kept_pushes
        .skip   128, 0x50

        .section .note.GNU-stack,"",@progbits
