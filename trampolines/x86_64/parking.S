/* SPDX-License-Identifier: GPL-2.0-or-later

   Where every thread is sent before transfer.S is run. As long as the patcher lives, no thread gets
   here: each is held, and has its own registers again before it goes on. If it dies, they wait here
   until the program has come to its end, and then go on where they were.

   On entry   rsp   152 bytes and the red zone below the thread's own: its signal mask, its registers
                    as they are popped here, its flags and its rip; all signals are blocked
   On exit    to that rip; with the mask, all registers, flags and the stack as they were
   Symbols    job   1 in its first word: wait; within 2 GB */

parked:
        lea     rdi, [rip + job]
        cmp     dword ptr [rdi], 1
        jne     go
        mov     esi, 128                /* futex(job, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, NULL) */
        mov     edx, 1
        xor     r10d, r10d
        mov     eax, 202
        syscall
        jmp     parked
go:
        mov     edi, 2                  /* rt_sigprocmask(SIG_SETMASK, mask, NULL, 8) */
        mov     rsi, rsp
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 14
        syscall
        pop     rax
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        pop     r11
        pop     r10
        pop     r9
        pop     r8
        pop     rax
        pop     rcx
        pop     rdx
        pop     rsi
        pop     rdi
        popfq
        ret     128
