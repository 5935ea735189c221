/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loops that keep distinctive values live in registers, for registers.c.
 *
 * All general registers are taken, so the state is reached through fs: the thread-local
 * `struct spin spin` (local-exec model), whose offsets are repeated here.
 */
    .intel_syntax noprefix
    .set PATTERN, 0    /* uint64_t pattern[15] */
    .set SEEN, 120    /* uint64_t seen[15] */
    .set STACK, 240    /* uint64_t stack */
    .set REMAINING, 248  /* uint64_t remaining */
    .set NR_nanosleep, 35

/* The order is that of register_names[] in registers.c. */
    .macro kept_in_calls do  /* what a system call leaves alone, besides rax, rcx, r11 and its arguments */
    \do rbx, 1
    \do rdx, 3
    \do rbp, 6
    \do r8, 7
    \do r9, 8
    \do r10, 9
    \do r12, 11
    \do r13, 12
    \do r14, 13
    \do r15, 14
    .endm
    .macro each_register do
    \do rax, 0
    \do rcx, 2
    \do rsi, 4
    \do rdi, 5
    \do r11, 10
    kept_in_calls \do
    .endm

    .macro load register, index
    mov \register, fs:spin@tpoff+PATTERN+8*\index
    .endm
    .macro fill_red_zone register, index
    mov [rsp-8*(\index+1)], \register
    .endm
    .macro verify register, index
    cmp \register, fs:spin@tpoff+PATTERN+8*\index
    jne spin_mismatch
    cmp \register, [rsp-8*(\index+1)]
    jne spin_mismatch
    .endm
    .macro save_seen register, index
    mov fs:spin@tpoff+SEEN+8*\index, \register
    .endm

    .macro enter
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov fs:spin@tpoff+STACK, rsp
    each_register load
    each_register fill_red_zone
    .endm

    .text

/*
 * int spin_general(void): `remaining` rounds of comparing all general registers and the red zone
 * with the pattern.  0: all as they were; 1: not so, `seen` has the registers at that moment.
 */
    .globl spin_general
    .type spin_general, @function
spin_general:
    enter
1:  each_register verify
    cmp rsp, fs:spin@tpoff+STACK
    jne spin_mismatch
    sub qword ptr fs:spin@tpoff+REMAINING, 1
    jnz 1b
    xor eax, eax
    jmp spin_leave
    .size spin_general, . - spin_general

/*
 * int spin_asleep(const struct timespec *interval): the same around one nanosleep.  As a system call returns
 * its result in rax, rip in rcx and the flags in r11, and keeps the rest.
 */
    .globl spin_asleep
    .type spin_asleep, @function
spin_asleep:
    mov fs:spin@tpoff+REMAINING, rdi
    enter
    mov rdi, fs:spin@tpoff+REMAINING
    xor esi, esi
    mov eax, NR_nanosleep
    syscall
2:  test rax, rax
    jnz spin_mismatch
    test rsi, rsi
    jnz spin_mismatch
    cmp rdi, fs:spin@tpoff+REMAINING
    jne spin_mismatch
    kept_in_calls verify
    cmp rsp, fs:spin@tpoff+STACK
    jne spin_mismatch
    lea r11, [rip+2b]
    cmp rcx, r11
    jne spin_mismatch
    xor eax, eax
    jmp spin_leave
    .size spin_asleep, . - spin_asleep

spin_mismatch:
    each_register save_seen
    mov rsp, fs:spin@tpoff+STACK
    mov eax, 1
spin_leave:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

/* uint64_t spin_flags(uint64_t flags, uint64_t rounds): the flags after that many rounds of `loop`. */
    .globl spin_flags
    .type spin_flags, @function
spin_flags:
    mov rcx, rsi
    push rdi
    popfq
1:  loop 1b      /* changes no flag */
    pushfq
    pop rax
    push 0x202
    popfq
    ret
    .size spin_flags, . - spin_flags

/*
 * void spin_xsave(const void *image, void *seen, const void *clean, uint64_t mask,
 *                 uint64_t rounds, const struct timespec *interval)
 * Loads the image, keeps it live for that many rounds of `loop` (0: for one nanosleep), stores
 * what is in the registers then to `seen`, and puts the clean state back.
 */
    .globl spin_xsave
    .type spin_xsave, @function
spin_xsave:
    push rbx
    push r12
    mov rbx, rdx
    mov r12, rdi
    mov r10, rcx
    mov eax, ecx
    mov rdx, rcx
    shr rdx, 32
    xrstor64 [r12]
    mov rcx, r8
    jrcxz 2f
1:  loop 1b
    jmp 3f
2:  push rsi
    push rdx
    push rax
    mov rdi, r9
    xor esi, esi
    mov eax, NR_nanosleep
    syscall
    pop rax
    pop rdx
    pop rsi
3:  xsave64 [rsi]
    xrstor64 [rbx]
    pop r12
    pop rbx
    ret
    .size spin_xsave, . - spin_xsave

    .section .note.GNU-stack, "", @progbits
