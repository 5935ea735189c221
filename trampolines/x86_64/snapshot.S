/* SPDX-License-Identifier: GPL-2.0-or-later

   Makes a snapshot of the target's memory: a child that is traced like the thread, and so stopped
   as soon as it is born, and that can do nothing but end. Run by a borrowed thread while all
   others are stopped.

   The child's pid is put into the header of a patch by the kernel itself, before the child can
   run: should the patcher die, the next one knows whom to reap. The handlers of signals are noted
   besides; they are pointers that only the kernel has.

   On entry   r12   address of the patch's header
              r13   8 bytes into a signal frame, behind its return address
              r14   room for 64 actions of signals, 32 bytes each (struct kernel_sigaction)
              r15   size of the header, whole pages
   On exit    to home.S, with rbx = the child's pid or the (negative) result of what failed
   Clobbers   everything; the signal frame restores it. Does not use the stack. */

        mov     ebx, 1
note_action:
        mov     edi, ebx                /* rt_sigaction(signal, NULL, action, 8) */
        xor     esi, esi
        mov     rdx, r14
        mov     r10d, 8
        mov     eax, 13
        syscall
        add     r14, 32
        inc     ebx
        cmp     ebx, 64
        jbe     note_action

        mov     rdi, r12                /* mprotect(header, size, PROT_READ | PROT_WRITE) */
        mov     rsi, r15
        mov     edx, 3
        mov     eax, 10
        syscall
        mov     rbx, rax
        test    eax, eax
        js      cue
        mov     edi, 0x102400           /* clone(CLONE_PARENT_SETTID | CLONE_PTRACE | CLONE_FILES, */
        xor     esi, esi                /*       NULL, &pid, NULL, 0), with no signal at its end */
        lea     rdx, [r12 + 40]
        xor     r10d, r10d
        xor     r8d, r8d
        mov     eax, 56
        syscall
        test    rax, rax
        je      end
        mov     rbx, rax
        mov     rdi, r12                /* mprotect(header, size, PROT_READ) */
        mov     rsi, r15
        mov     edx, 1
        mov     eax, 10
        syscall
        jmp     cue

end:                                    /* the child; it shares the files, so that one which the */
        xor     edi, edi                /* target closes is closed, and not kept open by it */
        mov     eax, 231                /* exit_group(0) */
        syscall
        hlt
