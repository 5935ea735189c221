/* SPDX-License-Identifier: GPL-2.0-or-later

   The end of every program that a borrowed thread runs; assembled behind it.

   On entry   r13   8 bytes into a signal frame, behind its return address
   At asleep  the thread sleeps, in a way that no signal ends and that leaves its restart block
              alone: the patcher sees it there and brings it home
   On exit    rt_sigreturn: without a patcher, the thread goes home by itself after 100 ms
   Clobbers   everything but rbx; the signal frame restores it. */

cue:
        lea     rdi, [rip + no_signals] /* rt_sigtimedwait(set, NULL, timeout, 8) */
        xor     esi, esi
        lea     rdx, [rip + timeout]
        mov     r10d, 8
        mov     eax, 128
        syscall
asleep:
        mov     rsp, r13
        mov     eax, 15                 /* rt_sigreturn() */
        syscall

        .balign 8
no_signals:
        .quad   0
timeout:
        .quad   0, 100000000
