/* SPDX-License-Identifier: GPL-2.0-or-later

   Lays the header of a region: a private mapping of a new memfd, so that /proc/PID/maps
   shows whose the region is. Run by a borrowed thread, once, before the region is in use.
   In one piece, as the descriptor must be closed again even if the patcher dies in between.

   On entry   rdi   name of the memfd, a NUL-terminated string
              rsi   flags of memfd_create(2)
              r12   address of the header
              r13   size of the header in bytes, whole pages
              rsp   16 bytes into a signal frame: 8 behind its return address
   On exit    rt_sigreturn, with rbx = result of the first call that failed, or of mmap
   Clobbers   everything; the signal frame restores it. Does not use the stack. */

lay_header:
        mov     eax, 319                /* memfd_create(name, flags) */
        syscall
        test    eax, eax
        js      laid
        mov     ebp, eax
        mov     edi, eax                /* ftruncate(fd, size) */
        mov     rsi, r13
        mov     eax, 77
        syscall
        test    eax, eax
        js      close_it
        mov     rdi, r12                /* mmap(header, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) */
        mov     rsi, r13
        mov     edx, 1
        mov     r10d, 0x12
        mov     r8d, ebp
        xor     r9d, r9d
        mov     eax, 9
        syscall
close_it:
        mov     r14, rax
        mov     edi, ebp                /* close(fd) */
        mov     eax, 3
        syscall
        mov     rax, r14
laid:
        mov     rbx, rax
        mov     eax, 15                 /* rt_sigreturn() */
        syscall
