/* SPDX-License-Identifier: GPL-2.0-or-later

   Furnishes a freshly mapped region: its header becomes a private mapping of a memfd, so that
   /proc/PID/maps shows whose the region is, and its pages get their protections. Run by a
   borrowed thread, once, before anything else is in the region. In one piece, as the descriptor
   must be closed again even if the patcher dies in between.

   On entry   rdi   name of the memfd, a NUL-terminated string
              rsi   flags of memfd_create(2)
              r12   address of the header
              r13   8 bytes into a signal frame, behind its return address
              r14   size of the header in bytes, whole pages
              r15   table of { address, size, protection }, 24 bytes an entry, up to an address of 0
   On exit    to home.S, with rbx = 0 or the (negative) result of the call that failed
   Clobbers   everything; the signal frame restores it. Does not use the stack. */

furnish:
        mov     eax, 319                /* memfd_create(name, flags) */
        syscall
        mov     rbx, rax
        test    eax, eax
        js      cue
        mov     ebp, eax
        mov     edi, eax                /* ftruncate(fd, size) */
        mov     rsi, r14
        mov     eax, 77
        syscall
        mov     rbx, rax
        test    eax, eax
        js      close_it
        mov     rdi, r12                /* mmap(header, size, PROT_READ, */
        mov     rsi, r14
        mov     edx, 1
        mov     r10d, 0x12              /*      MAP_PRIVATE | MAP_FIXED, fd, 0) */
        mov     r8d, ebp
        xor     r9d, r9d
        mov     eax, 9
        syscall
        sub     rax, r12
        mov     rbx, rax
close_it:
        mov     edi, ebp                /* close(fd) */
        mov     eax, 3
        syscall
        test    rbx, rbx
        jne     cue
protect:
        mov     rdi, qword ptr [r15]
        test    rdi, rdi
        je      cue
        mov     rsi, qword ptr [r15 + 8]
        mov     rdx, qword ptr [r15 + 16]
        mov     eax, 10                 /* mprotect(address, size, protection) */
        syscall
        add     r15, 24
        mov     rbx, rax
        test    eax, eax
        je      protect
