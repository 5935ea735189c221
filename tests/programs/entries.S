/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Functions long f(long a, long b, long c, long d) with odd entries, for entry.c; each returns 1.
 * The names say what is odd.
 */
    .intel_syntax noprefix

    .macro function name
    .globl \name
    .type \name, @function
\name:
    .endm
    .macro end name
    .size \name, . - \name
    .endm

    .text

/* ---- Where the entry lies: so many bytes before the end of a page ---- */

    .irp before, 1, 2, 3, 4, 5, 6
    .balign 4096, 0xcc
    .skip 4096 - \before, 0xcc
    function page_end_\before
    mov eax, 1
    ret
    end page_end_\before
    .endr

/* ---- Shorter than a jump ---- */

    .balign 16
    function short_padded
    push 1
    pop rax
    ret
    end short_padded
    .balign 16          /* NOPs */

    function short_padded_with_int3
    push 1
    pop rax
    ret
    end short_padded_with_int3
    .balign 16, 0xcc

    function short_unpadded
    push 1
    pop rax
    ret
    end short_unpadded
    function short_neighbour        /* its entry is the byte behind */
    push 1
    pop rax
    ret
    end short_neighbour

/* ---- First instructions that depend on where they are ---- */

    .balign 16
    function jmp_first
    jmp .Lone
    .balign 16
    end jmp_first

    function jmp_short_first
    jmp 1f
    .balign 16
1:  mov eax, 1
    ret
    end jmp_short_first

    .balign 16
    function jmp_indirect_first     /* as in a procedure linkage table */
    jmp [rip + one_pointer]
    end jmp_indirect_first

    .balign 16
    function jrcxz_first            /* d is 0; there is no long form of jrcxz */
    jrcxz 1f
    mov eax, 98
    ret
1:  mov eax, 1
    ret
    end jrcxz_first

    .balign 16
    function jcc_second
    test rdi, rdi
    jz 1f
    mov eax, 97
    ret
    .skip 200, 0x90
1:  mov eax, 1
    ret
    end jcc_second

    .balign 16
    function call_first             /* .Lreturn_address wants the real return address */
    call .Lreturn_address
1:  lea rdx, [rip + 1b]
    cmp rax, rdx
    sete al
    movzx eax, al
    ret
    end call_first

    .balign 16
    function call_next_first        /* "call next; pop", as in old position-independent code */
    call 1f
1:  pop rax
    lea rdx, [rip + 1b]
    cmp rax, rdx
    sete al
    movzx eax, al
    ret
    end call_next_first

    .balign 16
    function call_indirect_first
    call [rip + one_pointer]
    ret
    end call_indirect_first

    .balign 16
    function rip_relative_first
    mov eax, [rip + one_value]
    ret
    end rip_relative_first

    .balign 16
    function rip_relative_with_immediate
    cmp dword ptr [rip + one_value], 1
    sete al
    movzx eax, al
    ret
    end rip_relative_with_immediate

    .balign 16
    function rip_relative_lea
    lea rax, [rip + one_value]
    mov eax, [rax]
    ret
    end rip_relative_lea

/* ---- Branches back ---- */

    .balign 16
    function branch_to_entry        /* a loop whose head is the entry: what a tail call to itself becomes */
    sub rdi, 1
    jns branch_to_entry
    mov eax, 1
    ret
    end branch_to_entry

    .balign 16
    function branch_to_entry_late
    sub rdi, 1
    mov rax, rdi
    test rax, rax
    jns branch_to_entry_late
    mov eax, 1
    ret
    end branch_to_entry_late

    .balign 16
    function branch_into_entry      /* a loop whose head is within the first five bytes */
    xor eax, eax
1:  add rdi, 1
    jle 1b
    mov eax, 1
    ret
    end branch_into_entry

    .balign 16
    function recursive              /* a levels below this one */
    test rdi, rdi
    jz 1f
    sub rdi, 1
    call recursive
    ret
1:  mov eax, 1
    ret
    end recursive

/* ---- What compilers put first ---- */

    .balign 16
    function endbr_first
    endbr64
    mov eax, 1
    ret
    end endbr_first

    .balign 16
    function endbr_short            /* endbr64, and four bytes */
    endbr64
    push 1
    pop rax
    ret
    end endbr_short

    .balign 16
    function nops_first             /* -fpatchable-function-entry=5 */
    .rept 5
    .byte 0x90
    .endr
    mov eax, 1
    ret
    end nops_first

    .balign 16
    function long_first             /* one instruction of ten bytes */
    movabs rax, 1
    ret
    end long_first

    .balign 16
    function frame_first
    push rbp
    mov rbp, rsp
    sub rsp, 32
    mov qword ptr [rbp - 8], 1
    mov rax, [rbp - 8]
    leave
    ret
    end frame_first

    .balign 16
    function red_zone_first
    mov qword ptr [rsp - 128], 1
    mov qword ptr [rsp - 8], 0
    mov rax, [rsp - 128]
    ret
    end red_zone_first

    .balign 16
    function stack_argument_first   /* rsp is as the caller left it: the return address is on top */
    mov rax, [rsp]
    test rax, rax
    setne al
    movzx eax, al
    ret
    end stack_argument_first

/* ---- What they use ---- */

    .balign 16
.Lone:
    mov eax, 1
    ret
.Lreturn_address:
    mov rax, [rsp]
    ret

    .data
    .balign 8
one_pointer:
    .quad .Lone
one_value:
    .long 1

    .section .note.GNU-stack, "", @progbits
