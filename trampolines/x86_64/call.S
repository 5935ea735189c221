/* SPDX-License-Identifier: GPL-2.0-or-later

   Calls functions of the patch: IFUNC resolvers, constructors, destructors. Run by a borrowed
   thread at the commit, on a stack of its own and with all signals blocked.

   On entry   rbx   table of { function, result }, 16 bytes an entry, in writable memory
              r12   number of entries, at least one
              r13   8 bytes into a signal frame, behind its return address
              rsp   top of the stack, 16-byte aligned
   On exit    to home.S, the results in the table
   Clobbers   everything, FPU and vector registers included; the signal frame restores it. */

call_each:
        fninit                          /* the state that the psABI (3.2.3) promises a function: */
        push    0x1f80                  /* empty x87 stack, default control words */
        ldmxcsr dword ptr [rsp]
        pop     rax
        cld
next:
        xor     edi, edi
        xor     esi, esi
        xor     edx, edx
        call    qword ptr [rbx]
        mov     qword ptr [rbx + 8], rax
        add     rbx, 16
        dec     r12
        jnz     next
