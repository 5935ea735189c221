/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Where callers of a function wait while the calls that are in it run out
 * (a drain). It lies in the gate, and is part of each.
 *
 * A caller sleeps as long as the gate's door is shut, but not beyond the
 * deadline, which is one for all. The first that wakes by that opens
 * the door for all that come later: a patcher that died leaves nobody
 * waiting for it, and nothing but a few instructions to each call. The switch,
 * not the door, then says where to go.
 *
 * On entry   as at the function's entry, or behind its first instructions
 * On exit    at `new` if bit 0 of the switch is set, else at `old`; in the
 *            same state
 * Registers  none changed: those that the system call changes are saved
 * Flags      changed: they are dead at a function's entry (psABI 3.2.1)
 * Stack      64 bytes below rsp, dead at a function's entry; a function that
 *            leads back to its own entry has no such code in its gate
 * Until `open` nothing is decided: a thread in here is in no function.
 * Symbols    door      shut if it is 1; within 2 GB, writable
 *            deadline  a struct timespec of CLOCK_MONOTONIC; within 2 GB
 *            switch    the word that commits the patch; anywhere
 *            new, old  within 2 GB
 */
wait:
        push    rax
        push    rcx
        push    rdx
        push    rsi
        push    rdi
        push    r9
        push    r10
        push    r11
again:
        cmp     dword ptr [rip + door], 0
        je      open
        mov     eax, 202                /* futex(door, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, */
        lea     rdi, [rip + door]       /*       1, deadline, NULL, FUTEX_BITSET_MATCH_ANY) */
        mov     esi, 137
        mov     edx, 1
        lea     r10, [rip + deadline]
        mov     r9d, -1
        syscall
        test    eax, eax
        je      again
        cmp     eax, -4                 /* EINTR: a signal was handled */
        je      again
        cmp     eax, -11                /* EAGAIN: the door was opened */
        je      again
        mov     dword ptr [rip + door], 0
open:
        movabs  eax, dword ptr [switch]
        test    al, 1
        pop     r11
        pop     r10
        pop     r9
        pop     rdi
        pop     rsi
        pop     rdx
        pop     rcx
        pop     rax
        jne     new
        jmp     old
